//! OffsetCommit (key 8, v0-10): a group's positions are kept.
//!
//! Answered when they are in the bucket. v0: nobody's, for a group without members. v1: timestamps, not looked at.
//! v2–v4: a retention of the commit's own. v6: leader epochs. v7: static members. v9: KIP-848's member epoch, which
//! for a classic group is its generation. v10: topics by id. A topic that does not exist is refused (3, v10: 100),
//! the others are kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemark_proto::id::TopicId;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::offset_commit_request::OffsetCommitRequestTopic;
use tidemark_proto::kafka::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use tidemark_proto::kafka::messages::{OffsetCommitRequest, OffsetCommitResponse};
use tidemark_proto::kafka::text::Text;

use super::coordinator::{self, Pending};
use super::{Ctx, Operation, Resource};
use crate::cluster::Image;
use crate::group::command::{Command, Commit, CommitOne, Reply};
use crate::node::Node;

/// Takes the request in; the future gives the answer.
pub async fn start(
    node: Arc<Node>,
    ctx: Arc<Ctx>,
    request: OffsetCommitRequest,
) -> impl Future<Output = OffsetCommitResponse> + Send + use<> {
    let image = node.cluster.image();
    let mut names = BTreeMap::new();
    for topic in &request.topics {
        let found = find(&image, ctx.version, topic);
        let verdict =
            found.and_then(|name| match node.allows(&ctx, Operation::Read, Resource::Topic(&name.0)) {
                true => Ok(name),
                false => Err(ErrorCode::TopicAuthorizationFailed),
            });
        names.insert(key(topic), verdict);
    }
    let (offsets, refused) = split(&request, &names);
    let pending = if !node.allows(&ctx, Operation::Read, Resource::Group(&request.group_id)) {
        Pending::Refused(ErrorCode::GroupAuthorizationFailed)
    } else if offsets.is_empty() {
        Pending::Refused(ErrorCode::None)
    } else {
        let instance = request.group_instance_id.as_ref();
        let caller = coordinator::caller(&request.member_id, instance, request.generation_id_or_member_epoch);
        let retention_ms = Some(request.retention_time_ms).filter(|ms| *ms >= 0);
        let commit = Command::Commit(Commit { caller, retention_ms, offsets });
        coordinator::submit(&node, &request.group_id, commit).await
    };
    let version = ctx.version;
    async move {
        let answer = pending.answer().await.map_err(|code| match code {
            ErrorCode::GroupIdNotFound if version < 9 => ErrorCode::IllegalGeneration,
            code => code,
        });
        respond(&request, &refused, answer)
    }
}

/// A topic as this request names it.
type Key = (Text, uuid::Uuid);
/// Its name and partition count, or why it is refused.
type Found = Result<(Text, usize), ErrorCode>;

fn key(topic: &OffsetCommitRequestTopic) -> Key {
    (topic.name.clone(), topic.topic_id)
}

fn find(image: &Image, version: i16, topic: &OffsetCommitRequestTopic) -> Found {
    let found = match version {
        10.. => image.topic(TopicId(topic.topic_id)).ok_or(ErrorCode::UnknownTopicId),
        _ => image.topic_named(&topic.name).ok_or(ErrorCode::UnknownTopicOrPartition),
    };
    found.map(|topic| (Text::from(&*topic.name), topic.partitions.len()))
}

/// What the group is given, and in request order why the others are not, `None` for what is given.
fn split(
    request: &OffsetCommitRequest,
    names: &BTreeMap<Key, Found>,
) -> (Vec<CommitOne>, Vec<Option<ErrorCode>>) {
    let (mut offsets, mut refused) = (Vec::new(), Vec::new());
    for topic in &request.topics {
        let found = names.get(&key(topic)).cloned().unwrap_or(Err(ErrorCode::UnknownTopicOrPartition));
        for partition in &topic.partitions {
            let index = partition.partition_index;
            let exists = |count: &usize| usize::try_from(index).is_ok_and(|index| index < *count);
            let name = match &found {
                Ok((name, count)) if exists(count) => name.clone(),
                Ok(_) => {
                    refused.push(Some(ErrorCode::UnknownTopicOrPartition));
                    continue;
                }
                Err(code) => {
                    refused.push(Some(*code));
                    continue;
                }
            };
            refused.push(None);
            offsets.push(CommitOne {
                topic: name,
                partition: index,
                offset: partition.committed_offset,
                leader_epoch: partition.committed_leader_epoch,
                metadata: partition.committed_metadata.as_ref().map(Text::detached).unwrap_or_default(),
            });
        }
    }
    (offsets, refused)
}

fn respond(
    request: &OffsetCommitRequest,
    refused: &[Option<ErrorCode>],
    answer: Result<Reply, ErrorCode>,
) -> OffsetCommitResponse {
    let (mut codes, all) = match answer {
        Ok(Reply::Committed(codes)) => (codes.into_iter(), ErrorCode::UnknownServerError),
        Ok(_) => (Vec::new().into_iter(), ErrorCode::UnknownServerError),
        Err(code) => (Vec::new().into_iter(), code),
    };
    let denied = all == ErrorCode::GroupAuthorizationFailed;
    let mut refused = refused.iter().copied();
    let topics = request.topics.iter().map(|topic| OffsetCommitResponseTopic {
        name: topic.name.clone(),
        topic_id: topic.topic_id,
        partitions: topic
            .partitions
            .iter()
            .map(|partition| {
                let code = match refused.next().flatten() {
                    Some(code) if !denied => code,
                    _ => codes.next().unwrap_or(all),
                };
                let partition_index = partition.partition_index;
                OffsetCommitResponsePartition { partition_index, error_code: code.code() }
            })
            .collect(),
    });
    OffsetCommitResponse { topics: topics.collect(), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use tidemark_proto::kafka::messages::offset_commit_request::OffsetCommitRequestPartition;

    use super::*;

    fn request() -> OffsetCommitRequest {
        let partition = |partition_index| OffsetCommitRequestPartition {
            partition_index,
            committed_offset: 5,
            ..Default::default()
        };
        let topic = |name: &str, partitions: &[i32]| OffsetCommitRequestTopic {
            name: Text::from(name),
            partitions: partitions.iter().map(|p| partition(*p)).collect(),
            ..Default::default()
        };
        let topics = vec![topic("gone", &[0]), topic("here", &[1, 7, -1, 0])];
        OffsetCommitRequest { topics, ..Default::default() }
    }

    fn codes(response: &OffsetCommitResponse) -> Vec<ErrorCode> {
        let rows = response.topics.iter().flat_map(|t| &t.partitions);
        rows.map(|p| ErrorCode::from_code(p.error_code)).collect()
    }

    #[test]
    fn every_partition_has_its_row_and_its_code() {
        use ErrorCode::{None as Fine, OffsetMetadataTooLarge as Long, UnknownTopicOrPartition as Unknown};
        let request = request();
        let names =
            [(key(&request.topics[0]), Err(Unknown)), (key(&request.topics[1]), Ok((Text::from("here"), 2)))];
        let (offsets, refused) = split(&request, &names.into());
        assert_eq!(offsets.iter().map(|o| o.partition).collect::<Vec<_>>(), [1, 0]);
        let answer = Ok(Reply::Committed(vec![Fine, Long]));
        assert_eq!(codes(&respond(&request, &refused, answer)), [Unknown, Fine, Unknown, Unknown, Long]);
        let away = Err(ErrorCode::NotCoordinator);
        let away = codes(&respond(&request, &refused, away));
        assert_eq!(away[..2], [Unknown, ErrorCode::NotCoordinator]);
        let denied = Err(ErrorCode::GroupAuthorizationFailed);
        let denied = codes(&respond(&request, &refused, denied));
        assert!(denied.iter().all(|c| *c == ErrorCode::GroupAuthorizationFailed));
    }
}
