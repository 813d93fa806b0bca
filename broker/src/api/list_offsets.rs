//! ListOffsets (key 2, v0-11): earliest, latest, by time and by largest timestamp, exact to the record.
//!
//! v0 has a list of offsets and no times: it gets one, however many it would take. Latest is the high watermark, for
//! read_committed the last stable offset. Nothing found is offset -1 without an error. Earliest-local (-4, KIP-405) is
//! where local retention lets the log start, which is the log start of a topic that is not tiered; latest-tiered (-5) is
//! the last offset in segments, -1 without one; earliest-pending-upload (-6) is the one after it, or the log start, and
//! -1 for a topic that is not tiered. Serves only while this broker's session with the controller is fresh (R24).

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use tidemark_proto::id::{LeaderEpoch, Millis, Offset, PartitionIndex, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::list_offsets_request::ListOffsetsPartition;
use tidemark_proto::kafka::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use tidemark_proto::kafka::messages::{ListOffsetsRequest, ListOffsetsResponse};
use tidemark_proto::record::view::{Batch, Batches};
use tidemark_proto::record::{find_by_timestamp, max_timestamp};

use crate::api::{Ctx, Operation, Resource};
use crate::node::Node;
use crate::partition::fetching::Asker;
use crate::partition::index::Source;
use crate::partition::{Instant, Query};

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;
const EARLIEST_PENDING_UPLOAD: i64 = -6;

/// Where a record is.
#[derive(Clone, Copy, Debug)]
struct Found {
    offset: Offset,
    timestamp: Millis,
    leader_epoch: Option<LeaderEpoch>,
}

/// Answers.
pub async fn handle(node: Arc<Node>, ctx: Arc<Ctx>, request: ListOffsetsRequest) -> ListOffsetsResponse {
    let mut response = ListOffsetsResponse::default();
    let committed = request.isolation_level == 1;
    let fresh = node.may_serve_reads().await;
    let image = node.cluster.image();
    for topic in request.topics {
        let allowed = node.allows(&ctx, Operation::Describe, Resource::Topic(&topic.name));
        let found = image.topic_named(&topic.name);
        let mut rows = Vec::with_capacity(topic.partitions.len());
        let (mut once, mut twice) = (BTreeSet::new(), BTreeSet::new());
        twice.extend(topic.partitions.iter().map(|p| p.partition_index).filter(|p| !once.insert(*p)));
        for ask in topic.partitions {
            let index = PartitionIndex(ask.partition_index);
            let answer = match found.filter(|t| t.partition(index).is_some()) {
                _ if !allowed => Err(ErrorCode::TopicAuthorizationFailed),
                _ if ctx.version < since(ask.timestamp) => Err(ErrorCode::UnsupportedVersion),
                _ if twice.contains(&ask.partition_index) => Err(ErrorCode::InvalidRequest),
                None => Err(ErrorCode::UnknownTopicOrPartition),
                Some(_) if !fresh => Err(ErrorCode::NotLeaderOrFollower),
                Some(topic) => {
                    let tp = TopicPartition { topic: topic.id, partition: index };
                    find(&node, tp, &ask, committed).await
                }
            };
            rows.push(row(ask.partition_index, answer));
        }
        response.topics.push(ListOffsetsTopicResponse {
            name: topic.name,
            partitions: rows,
            ..Default::default()
        });
    }
    response
}

/// The version that brought a special time; asked for in an older one it is refused, as in Kafka.
fn since(timestamp: i64) -> i16 {
    match timestamp {
        MAX_TIMESTAMP => 7,
        EARLIEST_LOCAL => 8,
        LATEST_TIERED => 9,
        EARLIEST_PENDING_UPLOAD => 11,
        _ => 0,
    }
}

fn row(partition_index: i32, answer: Result<Option<Found>, ErrorCode>) -> ListOffsetsPartitionResponse {
    let mut row = ListOffsetsPartitionResponse {
        partition_index,
        timestamp: -1,
        offset: -1,
        leader_epoch: -1,
        ..Default::default()
    };
    match answer {
        Ok(Some(found)) => {
            row.offset = found.offset.0;
            row.old_style_offsets = vec![found.offset.0];
            row.timestamp = found.timestamp.0;
            row.leader_epoch = found.leader_epoch.map_or(-1, |e| e.0);
        }
        Ok(None) => {}
        Err(code) => row.error_code = code.code(),
    }
    row
}

async fn find(
    node: &Node,
    tp: TopicPartition,
    ask: &ListOffsetsPartition,
    committed: bool,
) -> Result<Option<Found>, ErrorCode> {
    let current = (ask.current_leader_epoch >= 0).then_some(LeaderEpoch(ask.current_leader_epoch));
    let mut bounds = node.partitions.bounds(vec![(tp, current)]).await?;
    let bounds = bounds.pop().unwrap_or(Err(ErrorCode::NotLeaderOrFollower))?;
    let until = if committed { bounds.lso } else { bounds.hw };
    let found = match ask.timestamp {
        LATEST => Some((until, Millis(-1))),
        EARLIEST => Some((bounds.log_start, Millis(-1))),
        EARLIEST_LOCAL => Some((local(node, tp, bounds.log_start), Millis(-1))),
        LATEST_TIERED => tiered(node, tp, bounds.log_start).map(|end| (end.plus(-1), Millis(-1))),
        EARLIEST_PENDING_UPLOAD => pending(node, tp, bounds.log_start).map(|offset| (offset, Millis(-1))),
        MAX_TIMESTAMP => search(node, tp, Instant::Largest, bounds.log_start, until).await?,
        target if target >= 0 => {
            search(node, tp, Instant::AtOrAfter(Millis(target)), bounds.log_start, until).await?
        }
        _ => return Err(ErrorCode::UnsupportedVersion),
    };
    let Some((offset, timestamp)) = found else { return Ok(None) };
    let leader_epoch = node.partitions.ask(|reply| Query::EpochAt { tp, offset, reply }).await?.ok();
    Ok(Some(Found { offset, timestamp, leader_epoch }))
}

/// The offset after the last one in segments, as far as any of them can be read.
fn tiered(node: &Node, tp: TopicPartition, log_start: Offset) -> Option<Offset> {
    node.cluster.image().partition(tp)?.tiered().filter(|end| *end > log_start)
}

/// From where on `local.retention.*` keeps the log on this broker's disk; of a topic that is not tiered, all of it.
fn local(node: &Node, tp: TopicPartition, log_start: Offset) -> Offset {
    node.tiers.lock().local.get(&tp).map_or(log_start, |local| log_start.max(*local))
}

/// The first offset of a tiered topic that is in no segment.
fn pending(node: &Node, tp: TopicPartition, log_start: Offset) -> Option<Offset> {
    let image = node.cluster.image();
    let is_tiered = node.live.now().topic(&image.topic(tp.topic)?.configs).remote_storage;
    let end = image.partition(tp)?.tiered().unwrap_or_default();
    is_tiered.then(|| end.max(log_start))
}

/// Batches are found by their largest time; a batch that the log start or `until` cuts in two may hold the time in the part
/// that does not count, and then the search goes on behind it.
async fn search(
    node: &Node,
    tp: TopicPartition,
    instant: Instant,
    from: Offset,
    until: Offset,
) -> Result<Option<(Offset, Millis)>, ErrorCode> {
    let (mut next, mut best) = (from, None);
    while let Some(batch) = candidate(node, tp, instant, next, until).await? {
        let found = match instant {
            Instant::AtOrAfter(target) => find_by_timestamp(&batch, target, from),
            Instant::Largest => max_timestamp(&batch, from),
        };
        let found = found.map_err(|_| ErrorCode::KafkaStorageError)?.filter(|(offset, _)| *offset < until);
        best = match (best, found) {
            (Some((_, before)), Some((_, now))) if now <= before => best,
            (best, found) => found.or(best),
        };
        let whole = batch.base_offset() >= from && batch.last_offset() < until;
        if whole || (best.is_some() && instant != Instant::Largest) {
            break;
        }
        next = batch.next_offset();
    }
    Ok(best)
}

/// The batch in which the answer is: segments and runs first, then what lies in parcels and memory. While a cut lets go of parcels a
/// batch may be in both.
async fn candidate(
    node: &Node,
    tp: TopicPartition,
    instant: Instant,
    from: Offset,
    until: Offset,
) -> Result<Option<Batch>, ErrorCode> {
    let image = node.cluster.image();
    let archived = node.archive.find_time(&image, tp, instant, from, until).await;
    let archived = archived.map_err(|e| crate::api::error::code_of(&e))?;
    let source = node.partitions.ask(|reply| Query::Time { tp, instant, from, until, reply }).await??;
    let recent = match source {
        None | Some(Source::Archived { .. }) => None,
        Some(source) => {
            let pieces = node.fetching.pieces(Asker(0), tp, &image, vec![source]).await?;
            let bytes = node.seams.tasks.blocking(move || pieces.into_bytes()).await;
            Some(bytes.map_err(|_| ErrorCode::KafkaStorageError)?)
        }
    };
    let first =
        |bytes: Bytes| Batches::new(bytes).next().transpose().map_err(|_| ErrorCode::KafkaStorageError);
    let archived = archived.map(first).transpose()?.flatten();
    let recent = recent.map(first).transpose()?.flatten();
    // By time the earlier batch counts, by largest time the later one only if its time is larger.
    Ok(match (archived, recent) {
        (Some(a), Some(r)) => Some(match instant {
            Instant::AtOrAfter(_) if r.base_offset() < a.base_offset() => r,
            Instant::Largest if r.max_timestamp() > a.max_timestamp() => r,
            _ => a,
        }),
        (a, r) => a.or(r),
    })
}
