//! OffsetForLeaderEpoch (key 23, v2-4): where a leader epoch ends, for truncation detection (KIP-320).
//!
//! Answers the largest epoch at or below the asked one and the offset at which the next begins, or the high
//! watermark. Replicas are refused: none exist.

use std::sync::Arc;

use tidemark_proto::id::{LeaderEpoch, Offset, PartitionIndex, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use tidemark_proto::kafka::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use tidemark_proto::kafka::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};

use crate::api::{Ctx, Operation, Resource};
use crate::node::Node;
use crate::partition::Query;

/// Answers.
pub async fn handle(
    node: Arc<Node>,
    ctx: Arc<Ctx>,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let mut response = OffsetForLeaderEpochResponse::default();
    let fresh = node.may_serve_reads().await;
    let image = node.cluster.image();
    for topic in request.topics {
        let allowed = node.allows(&ctx, Operation::Describe, Resource::Topic(&topic.topic));
        let found = image.topic_named(&topic.topic);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for ask in topic.partitions {
            let index = PartitionIndex(ask.partition);
            let answer = match found.filter(|t| t.partition(index).is_some()) {
                _ if request.replica_id >= 0 => Err(ErrorCode::ClusterAuthorizationFailed),
                _ if !allowed => Err(ErrorCode::TopicAuthorizationFailed),
                None => Err(ErrorCode::UnknownTopicOrPartition),
                Some(_) if !fresh => Err(ErrorCode::NotLeaderOrFollower),
                Some(topic) => end(&node, TopicPartition { topic: topic.id, partition: index }, &ask).await,
            };
            partitions.push(row(ask.partition, answer));
        }
        response.topics.push(OffsetForLeaderTopicResult {
            topic: topic.topic,
            partitions,
            ..Default::default()
        });
    }
    response
}

async fn end(
    node: &Node,
    tp: TopicPartition,
    ask: &OffsetForLeaderPartition,
) -> Result<Option<(LeaderEpoch, Offset)>, ErrorCode> {
    let current = (ask.current_leader_epoch >= 0).then_some(LeaderEpoch(ask.current_leader_epoch));
    let asked = LeaderEpoch(ask.leader_epoch);
    node.partitions.ask(|reply| Query::EpochEnd { tp, current, asked, reply }).await?
}

fn row(partition: i32, answer: Result<Option<(LeaderEpoch, Offset)>, ErrorCode>) -> EpochEndOffset {
    let mut row = EpochEndOffset { partition, leader_epoch: -1, end_offset: -1, ..Default::default() };
    match answer {
        Ok(Some((epoch, end))) => (row.leader_epoch, row.end_offset) = (epoch.0, end.0),
        Ok(None) => {}
        Err(code) => row.error_code = code.code(),
    }
    row
}
