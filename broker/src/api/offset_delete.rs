//! OffsetDelete (key 47, v0): positions of topics that a group no longer reads.
//!
//! GROUP_SUBSCRIBED_TO_TOPIC for topics its members read; any other protocol than the consumer's wants an empty
//! group. A topic that does not exist is refused (3), a position that was never committed is not.

use std::sync::Arc;

use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use tidemark_proto::kafka::messages::{OffsetDeleteRequest, OffsetDeleteResponse};
use tidemark_proto::kafka::text::Text;

use super::{Ctx, Operation, Resource, coordinator};
use crate::group::command::{Command, Reply};
use crate::node::Node;

/// Answers.
pub async fn handle(node: Arc<Node>, ctx: Arc<Ctx>, request: OffsetDeleteRequest) -> OffsetDeleteResponse {
    let refused = |code: ErrorCode| OffsetDeleteResponse { error_code: code.code(), ..Default::default() };
    if !node.allows(&ctx, Operation::Delete, Resource::Group(&request.group_id)) {
        return refused(ErrorCode::GroupAuthorizationFailed);
    }
    if request.group_id.is_empty() {
        return refused(ErrorCode::InvalidGroupId);
    }
    let image = node.cluster.image();
    let verdict = |topic: &Text, partition: i32| {
        if !node.allows(&ctx, Operation::Read, Resource::Topic(topic)) {
            return Some(ErrorCode::TopicAuthorizationFailed);
        }
        let known = image.topic_named(topic).is_some_and(|found| {
            usize::try_from(partition).is_ok_and(|index| index < found.partitions.len())
        });
        (!known).then_some(ErrorCode::UnknownTopicOrPartition)
    };
    let asked = || request.topics.iter().flat_map(|t| t.partitions.iter().map(move |p| (t, p)));
    let verdicts: Vec<Option<ErrorCode>> =
        asked().map(|(t, p)| verdict(&t.name, p.partition_index)).collect();
    let wanted = asked().zip(&verdicts).filter(|(_, verdict)| verdict.is_none());
    let wanted = wanted.map(|((t, p), _)| (t.name.detached(), p.partition_index));
    let command = Command::DeleteOffsets(wanted.collect());
    match coordinator::ask(&node, &request.group_id, command).await {
        Ok(Reply::OffsetsDeleted(codes)) => respond(request, &verdicts, codes),
        Ok(_) => refused(ErrorCode::UnknownServerError),
        Err(code) => refused(code),
    }
}

fn respond(
    request: OffsetDeleteRequest,
    verdicts: &[Option<ErrorCode>],
    codes: Vec<ErrorCode>,
) -> OffsetDeleteResponse {
    let (mut codes, mut verdicts) = (codes.into_iter(), verdicts.iter().copied());
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|p| {
            let code =
                verdicts.next().flatten().or_else(|| codes.next()).unwrap_or(ErrorCode::UnknownServerError);
            OffsetDeleteResponsePartition { partition_index: p.partition_index, error_code: code.code() }
        });
        OffsetDeleteResponseTopic { name: topic.name, partitions: partitions.collect() }
    });
    OffsetDeleteResponse { topics: topics.collect(), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use tidemark_proto::kafka::messages::offset_delete_request::{
        OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
    };

    use super::*;

    #[test]
    fn rows_keep_the_order_of_the_request() {
        let topic = |name: &str| OffsetDeleteRequestTopic {
            name: Text::from(name),
            partitions: [0, 1]
                .map(|partition_index| OffsetDeleteRequestPartition { partition_index })
                .to_vec(),
        };
        let topics = vec![topic("a"), topic("gone"), topic("b")];
        let request = OffsetDeleteRequest { topics, ..Default::default() };
        let gone = Some(ErrorCode::UnknownTopicOrPartition);
        let codes = [ErrorCode::None, ErrorCode::None, ErrorCode::GroupSubscribedToTopic, ErrorCode::None];
        let response = respond(request, &[None, None, gone, gone, None, None], codes.to_vec());
        let rows = response.topics.iter().flat_map(|t| &t.partitions).map(|p| p.error_code);
        assert!(rows.eq([0, 0, 3, 3, 86, 0]));
    }
}
