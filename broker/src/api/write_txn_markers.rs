//! WriteTxnMarkers (key 27, v1-2): ends transactions in the partitions they wrote to.
//!
//! Sent by `kafka-transactions.sh abort`. A marker is a control batch of its own and is durable before it is answered; the
//! markers of a request are appended in its order. One row per partition. Groups' pending offsets are not touched: there
//! are none without a transaction coordinator.

use std::sync::Arc;

use tidemark_proto::id::{PartitionIndex, ProducerEpoch, ProducerId, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::write_txn_markers_request::WritableTxnMarker;
use tidemark_proto::kafka::messages::write_txn_markers_response::{
    WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
};
use tidemark_proto::kafka::messages::{WriteTxnMarkersRequest, WriteTxnMarkersResponse};
use tidemark_proto::record::control::{EndMarker, Outcome};
use tokio::sync::oneshot;

use super::{Ctx, Operation, Resource};
use crate::cluster::Image;
use crate::node::Node;
use crate::partition::{Write, WriteResults};

type Sent = Result<oneshot::Receiver<WriteResults>, ErrorCode>;

/// Answers.
pub async fn handle(
    node: Arc<Node>,
    ctx: Arc<Ctx>,
    request: WriteTxnMarkersRequest,
) -> WriteTxnMarkersResponse {
    let allowed = node.allows(&ctx, Operation::Alter, Resource::Cluster)
        || node.allows(&ctx, Operation::ClusterAction, Resource::Cluster);
    let image = node.cluster.image();
    let mut sent = Vec::with_capacity(request.markers.len());
    for marker in &request.markers {
        let writes = if allowed { writes(&node, &image, marker) } else { Vec::new() };
        sent.push(match writes.is_empty() {
            true => None,
            false => Some(node.partitions.produce(writes, false, true).await),
        });
    }
    let mut markers = Vec::with_capacity(request.markers.len());
    for (marker, sent) in request.markers.into_iter().zip(sent) {
        markers.push(result(&image, marker, allowed, sent).await);
    }
    WriteTxnMarkersResponse { markers, ..Default::default() }
}

/// The partitions that exist, in the order of the request.
fn existing(image: &Image, marker: &WritableTxnMarker) -> Vec<Option<TopicPartition>> {
    let of_topic =
        |topic: &tidemark_proto::kafka::messages::write_txn_markers_request::WritableTxnMarkerTopic| {
            let found = image.topic_named(&topic.name).cloned();
            let at = topic.partition_indexes.iter().map(move |index| {
                let partition = PartitionIndex(*index);
                let topic = found.as_ref().filter(|t| t.partition(partition).is_some())?;
                Some(TopicPartition { topic: topic.id, partition })
            });
            at.collect::<Vec<_>>()
        };
    marker.topics.iter().flat_map(of_topic).collect()
}

fn writes(node: &Node, image: &Image, marker: &WritableTxnMarker) -> Vec<Write> {
    let end = EndMarker {
        outcome: if marker.transaction_result { Outcome::Commit } else { Outcome::Abort },
        producer: ProducerId(marker.producer_id),
        epoch: ProducerEpoch(marker.producer_epoch),
        coordinator_epoch: marker.coordinator_epoch,
    };
    let now = node.seams.clock.wall();
    let write = |tp| Write { tp, batch: end.to_batch(now), leader_epoch: None };
    existing(image, marker).into_iter().flatten().map(write).collect()
}

async fn result(
    image: &Image,
    marker: WritableTxnMarker,
    allowed: bool,
    sent: Option<Sent>,
) -> WritableTxnMarkerResult {
    let results = match sent {
        None => Ok(Vec::new()),
        Some(Err(code)) => Err(code),
        Some(Ok(answer)) => answer.await.map_err(|_| ErrorCode::NotLeaderOrFollower),
    };
    let mut codes =
        results.map(|rows| rows.into_iter().map(|row| row.map_or_else(|code| code, |_| ErrorCode::None)));
    let mut found = existing(image, &marker).into_iter();
    let mut code = || match (allowed, found.next().flatten(), &mut codes) {
        (false, ..) => ErrorCode::ClusterAuthorizationFailed,
        (true, None, _) => ErrorCode::UnknownTopicOrPartition,
        (true, Some(_), Err(code)) => *code,
        (true, Some(_), Ok(codes)) => codes.next().unwrap_or(ErrorCode::UnknownServerError),
    };
    let mut topics = Vec::with_capacity(marker.topics.len());
    for topic in marker.topics {
        let rows = topic.partition_indexes.into_iter().map(|partition_index| {
            let error_code = code().code();
            WritableTxnMarkerPartitionResult { partition_index, error_code, ..Default::default() }
        });
        let partitions = rows.collect();
        topics.push(WritableTxnMarkerTopicResult { name: topic.name, partitions, ..Default::default() });
    }
    WritableTxnMarkerResult { producer_id: marker.producer_id, topics, ..Default::default() }
}
