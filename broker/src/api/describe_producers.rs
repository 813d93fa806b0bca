//! DescribeProducers (key 61, v0): who has lately written to a partition, and since when a transaction is open.
//!
//! The partition's leader answers, from its dedupe window.

use std::sync::Arc;

use tidemark_proto::id::{PartitionIndex, ProducerId, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use tidemark_proto::kafka::messages::{DescribeProducersRequest, DescribeProducersResponse};

use super::{Ctx, Operation, Resource};
use crate::node::Node;
use crate::partition::Query;
use crate::partition::producer::Producer;

/// Answers.
pub async fn handle(
    node: Arc<Node>,
    ctx: Arc<Ctx>,
    request: DescribeProducersRequest,
) -> DescribeProducersResponse {
    let image = node.cluster.image();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let allowed = node.allows(&ctx, Operation::Read, Resource::Topic(&topic.name));
        let found = image.topic_named(&topic.name);
        let mut partitions = Vec::with_capacity(topic.partition_indexes.len());
        for index in topic.partition_indexes {
            let partition = PartitionIndex(index);
            let known = match found.filter(|t| t.partition(partition).is_some()) {
                _ if !allowed => Err(ErrorCode::TopicAuthorizationFailed),
                None => Err(ErrorCode::UnknownTopicOrPartition),
                Some(topic) => producers(&node, TopicPartition { topic: topic.id, partition }).await,
            };
            let (code, known) =
                known.map_or_else(|code| (code, Vec::new()), |known| (ErrorCode::None, known));
            partitions.push(PartitionResponse {
                partition_index: index,
                error_code: code.code(),
                active_producers: known.iter().map(|(id, producer)| state(*id, producer)).collect(),
                ..Default::default()
            });
        }
        topics.push(TopicResponse { name: topic.name, partitions, ..Default::default() });
    }
    DescribeProducersResponse { topics, ..Default::default() }
}

async fn producers(node: &Node, tp: TopicPartition) -> Result<Vec<(ProducerId, Producer)>, ErrorCode> {
    node.partitions.ask(|reply| Query::Producers { tp, reply }).await?
}

fn state(id: ProducerId, producer: &Producer) -> ProducerState {
    ProducerState {
        producer_id: id.0,
        producer_epoch: i32::from(producer.epoch.0),
        last_sequence: producer.marks.back().map_or(-1, |mark| mark.last),
        last_timestamp: producer.marks.back().map_or(producer.touched, |mark| mark.timestamp).0,
        coordinator_epoch: producer.coordinator_epoch,
        current_txn_start_offset: producer.open_txn.map_or(-1, |at| at.0),
        ..Default::default()
    }
}
