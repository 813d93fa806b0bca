//! OffsetFetch (key 9, v0-10): a group's positions, as far as they are in the bucket.
//!
//! A position that was never committed is -1, no error. v2: null topics mean all. v7: `require_stable`; no
//! transactional offsets are pending yet, so all are stable. v8: many groups. v9: KIP-848's member epoch, not
//! looked at for classic groups. v10: topics by id. Topics that may not be described are refused if named (29),
//! left out otherwise.

use std::sync::Arc;

use tidemark_proto::id::TopicId;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::offset_fetch_request::OffsetFetchRequestGroup;
use tidemark_proto::kafka::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use tidemark_proto::kafka::messages::{OffsetFetchRequest, OffsetFetchResponse};
use tidemark_proto::kafka::text::Text;
use uuid::Uuid;

use super::coordinator::{self, Pending};
use super::{Ctx, Operation, Resource};
use crate::cluster::Image;
use crate::group::command::{Command, Committed, Reply};
use crate::node::Node;

/// One topic asked for: as the request names it, its name or why it is refused, its partitions.
struct Wanted {
    name: Text,
    id: Uuid,
    found: Result<Text, ErrorCode>,
    partitions: Vec<i32>,
}

/// One group asked for; no topics mean all.
struct Asked {
    group: Text,
    topics: Option<Vec<Wanted>>,
    pending: Pending,
}

/// Takes the request in; the future gives the answer.
pub async fn start(
    node: Arc<Node>,
    ctx: Arc<Ctx>,
    request: OffsetFetchRequest,
) -> impl Future<Output = OffsetFetchResponse> + Send + use<> {
    let image = node.cluster.image();
    let mut asked = Vec::new();
    for (group, topics) in groups(ctx.version, request) {
        let topics = topics.map(|topics| {
            let each = topics.into_iter().map(|(name, id, partitions)| {
                let found = find(&node, &ctx, &image, &name, id);
                Wanted { name, id, found, partitions }
            });
            each.collect::<Vec<_>>()
        });
        let pending = if node.allows(&ctx, Operation::Describe, Resource::Group(&group)) {
            let known = |w: &Wanted| Some((w.found.clone().ok()?, w.partitions.clone()));
            let wanted = topics.as_ref().map(|topics| topics.iter().filter_map(known).collect());
            coordinator::submit(&node, &group, Command::FetchOffsets(wanted)).await
        } else {
            Pending::Refused(ErrorCode::GroupAuthorizationFailed)
        };
        asked.push(Asked { group, topics, pending });
    }
    async move {
        let mut answered = Vec::with_capacity(asked.len());
        for one in asked {
            let answer = one.pending.answer().await;
            let visible = |topic: &str| node.allows(&ctx, Operation::Describe, Resource::Topic(topic));
            answered.push(answer_of(ctx.version, &image, one.group, one.topics, answer, &visible));
        }
        respond(ctx.version, answered)
    }
}

type Named = (Text, Uuid, Vec<i32>);

/// The groups of a request of any version.
fn groups(version: i16, request: OffsetFetchRequest) -> Vec<(Text, Option<Vec<Named>>)> {
    if version < 8 {
        let each = |topics: Vec<_>| {
            let topics = topics.into_iter();
            topics
                .map(|t: tidemark_proto::kafka::messages::offset_fetch_request::OffsetFetchRequestTopic| {
                    (t.name, Uuid::nil(), t.partition_indexes)
                })
                .collect()
        };
        return vec![(request.group_id, request.topics.map(each))];
    }
    let one = |group: OffsetFetchRequestGroup| {
        let topics = group
            .topics
            .map(|topics| topics.into_iter().map(|t| (t.name, t.topic_id, t.partition_indexes)).collect());
        (group.group_id, topics)
    };
    request.groups.into_iter().map(one).collect()
}

fn find(node: &Node, ctx: &Ctx, image: &Image, name: &Text, id: Uuid) -> Result<Text, ErrorCode> {
    let name = match ctx.version {
        10.. => match image.topic(TopicId(id)) {
            Some(topic) => Text::from(&*topic.name),
            None => return Err(ErrorCode::UnknownTopicId),
        },
        _ => name.detached(),
    };
    match node.allows(ctx, Operation::Describe, Resource::Topic(&name)) {
        true => Ok(name),
        false if ctx.version >= 10 => Err(ErrorCode::UnknownTopicId),
        false => Err(ErrorCode::TopicAuthorizationFailed),
    }
}

/// One group's rows, in the newest version's form.
fn answer_of(
    version: i16,
    image: &Image,
    group_id: Text,
    wanted: Option<Vec<Wanted>>,
    answer: Result<Reply, ErrorCode>,
    visible: &dyn Fn(&str) -> bool,
) -> OffsetFetchResponseGroup {
    let offsets = match answer {
        Ok(Reply::Offsets(offsets)) => offsets,
        Ok(_) => return refused(version, group_id, wanted, ErrorCode::UnknownServerError),
        Err(code) => return refused(version, group_id, wanted, code),
    };
    let topics = match wanted {
        None => all(version, image, offsets, visible),
        Some(wanted) => {
            let mut offsets = offsets.into_iter();
            let topic = |w: Wanted| {
                let row = |partition| match &w.found {
                    Ok(_) => row(partition, offsets.next().and_then(|(.., committed)| committed)),
                    Err(code) => failed(partition, *code),
                };
                let partitions = w.partitions.into_iter().map(row).collect();
                OffsetFetchResponseTopics { name: w.name, topic_id: w.id, partitions }
            };
            wanted.into_iter().map(topic).collect()
        }
    };
    OffsetFetchResponseGroup { group_id, topics, error_code: 0 }
}

/// Every position of the group, by topic.
fn all(
    version: i16,
    image: &Image,
    offsets: Vec<(Text, i32, Option<Committed>)>,
    visible: &dyn Fn(&str) -> bool,
) -> Vec<OffsetFetchResponseTopics> {
    let mut topics: Vec<OffsetFetchResponseTopics> = Vec::new();
    for (name, partition, committed) in offsets {
        if topics.last().is_none_or(|last| last.name != name) {
            let topic_id = image.topic_named(&name).map_or(Uuid::nil(), |t| t.id.0);
            topics.push(OffsetFetchResponseTopics { name, topic_id, partitions: Vec::new() });
        }
        if let Some(last) = topics.last_mut() {
            last.partitions.push(row(partition, committed));
        }
    }
    topics.retain(|t| visible(&t.name) && (version < 10 || !t.topic_id.is_nil()));
    topics
}

fn row(partition_index: i32, committed: Option<Committed>) -> OffsetFetchResponsePartitions {
    let (offset, epoch, metadata) =
        committed.map_or((-1, -1, Text::new()), |c| (c.offset, c.leader_epoch, c.metadata));
    OffsetFetchResponsePartitions {
        partition_index,
        committed_offset: offset,
        committed_leader_epoch: epoch,
        metadata: Some(metadata),
        error_code: 0,
    }
}

fn failed(partition: i32, code: ErrorCode) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions { error_code: code.code(), ..row(partition, None) }
}

/// A group's refusal. Version 1 has nowhere to say it but at each partition.
fn refused(
    version: i16,
    group_id: Text,
    wanted: Option<Vec<Wanted>>,
    code: ErrorCode,
) -> OffsetFetchResponseGroup {
    let topic = |w: Wanted| OffsetFetchResponseTopics {
        name: w.name,
        topic_id: w.id,
        partitions: w.partitions.into_iter().map(|p| failed(p, code)).collect(),
    };
    let topics = if version < 2 { wanted.unwrap_or_default() } else { Vec::new() };
    let topics = topics.into_iter().map(topic).collect();
    OffsetFetchResponseGroup { group_id, topics, error_code: code.code() }
}

fn respond(version: i16, mut groups: Vec<OffsetFetchResponseGroup>) -> OffsetFetchResponse {
    if version >= 8 {
        return OffsetFetchResponse { groups, ..Default::default() };
    }
    let Some(group) = groups.pop() else { return OffsetFetchResponse::default() };
    let partition = |p: OffsetFetchResponsePartitions| OffsetFetchResponsePartition {
        partition_index: p.partition_index,
        committed_offset: p.committed_offset,
        committed_leader_epoch: p.committed_leader_epoch,
        metadata: p.metadata,
        error_code: p.error_code,
    };
    let topics = group.topics.into_iter().map(|t| OffsetFetchResponseTopic {
        name: t.name,
        partitions: t.partitions.into_iter().map(partition).collect(),
    });
    OffsetFetchResponse { topics: topics.collect(), error_code: group.error_code, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use tidemark_proto::id::Millis;

    use super::*;

    fn wanted() -> Option<Vec<Wanted>> {
        let topic = |name: &str, found, partitions: &[i32]| Wanted {
            name: Text::from(name),
            id: Uuid::nil(),
            found,
            partitions: partitions.to_vec(),
        };
        let denied = Err(ErrorCode::TopicAuthorizationFailed);
        Some(vec![topic("denied", denied, &[0]), topic("here", Ok(Text::from("here")), &[0, 1])])
    }

    fn committed(offset: i64) -> Option<Committed> {
        let metadata = Text::from("note");
        Some(Committed { offset, leader_epoch: 3, metadata, at: Millis(1), expires: None })
    }

    fn rows(group: &OffsetFetchResponseGroup) -> Vec<(i32, i64, i16)> {
        let rows = group.topics.iter().flat_map(|t| &t.partitions);
        rows.map(|p| (p.partition_index, p.committed_offset, p.error_code)).collect()
    }

    #[test]
    fn rows_come_in_request_order_and_missing_positions_are_no_error() {
        let here = Text::from("here");
        let offsets = Ok(Reply::Offsets(vec![(here.clone(), 0, committed(5)), (here, 1, None)]));
        let group = answer_of(9, &Image::default(), Text::from("g"), wanted(), offsets, &|_| true);
        assert_eq!(rows(&group), [(0, -1, 29), (0, 5, 0), (1, -1, 0)]);
        let old = respond(7, vec![group]);
        assert_eq!(old.topics[1].partitions[0].metadata, Some(Text::from("note")));
        assert_eq!(old.topics[1].partitions[1].metadata, Some(Text::new()));
    }

    #[test]
    fn a_refusal_stands_where_the_version_can_say_it() {
        let refusal = |version| {
            let away = Err(ErrorCode::NotCoordinator);
            answer_of(version, &Image::default(), Text::from("g"), wanted(), away, &|_| true)
        };
        assert_eq!(rows(&refusal(1)), [(0, -1, 16), (0, -1, 16), (1, -1, 16)]);
        for version in 2..=10 {
            assert_eq!((refusal(version).error_code, rows(&refusal(version))), (16, Vec::new()));
        }
    }

    #[test]
    fn all_positions_are_shown_but_of_topics_one_may_not_see() {
        let offsets = [("a", 0, 1), ("a", 1, 2), ("b", 0, 3), ("secret", 0, 4)];
        let offsets = offsets.map(|(t, p, o)| (Text::from(t), p, committed(o))).to_vec();
        let answer = || Ok(Reply::Offsets(offsets.clone()));
        let see = |topic: &str| topic != "secret";
        let group = answer_of(9, &Image::default(), Text::from("g"), None, answer(), &see);
        assert_eq!(rows(&group), [(0, 1, 0), (1, 2, 0), (0, 3, 0)]);
        let by_id = answer_of(10, &Image::default(), Text::from("g"), None, answer(), &see);
        assert!(by_id.topics.is_empty(), "a topic without an id cannot be named");
    }
}
