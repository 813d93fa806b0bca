//! DeleteRecords (key 21, v0-2): raises log starts; what lies below is deleted.
//!
//! The partition's leader takes it. -1 is the high watermark, beyond it OFFSET_OUT_OF_RANGE; a start in the middle of a
//! batch is allowed, one below the present start changes nothing. Only for topics that delete at all (POLICY_VIOLATION).
//! The new start is in the metadata before it is in force, so that no takeover brings back what was deleted.

use std::sync::Arc;
use std::time::Duration;

use tidemark_proto::id::{LeaderEpoch, Offset, PartitionIndex, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use tidemark_proto::kafka::messages::{DeleteRecordsRequest, DeleteRecordsResponse};

use super::{Ctx, Operation, Resource};
use crate::cluster::image::Topic;
use crate::cluster::{Command, Reply};
use crate::node::{Node, is_internal};
use crate::partition::{Bounds, Query};

/// What is answered where there is no low watermark.
const NO_OFFSET: i64 = -1;
/// The offset that stands for the high watermark.
const HIGH_WATERMARK: i64 = -1;

type Verdict = Result<(TopicPartition, Offset), ErrorCode>;

/// Answers.
pub async fn handle(node: Arc<Node>, ctx: Arc<Ctx>, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
    let wait = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0).max(1));
    let image = node.cluster.image();
    let mut topics = Vec::with_capacity(request.topics.len());
    let (mut rows, mut moves) = (Vec::new(), Vec::new());
    for topic in &request.topics {
        let judged = may_delete(&node, &ctx, &topic.name, image.topic_named(&topic.name).map(|t| &**t));
        for asked in &topic.partitions {
            let verdict = match &judged {
                Ok(found) => place(&node, found, asked.partition_index, asked.offset).await,
                Err(code) => Err(*code),
            };
            if let Ok((tp, epoch, to)) = verdict {
                moves.push((tp, epoch, to));
            }
            rows.push(verdict.map(|(tp, _, to)| (tp, to)));
        }
    }
    let moved = tokio::time::timeout(wait, raise(&node, moves)).await;
    let moved = moved.unwrap_or(Err(ErrorCode::RequestTimedOut));
    let mut rows = merge(rows, &moved).into_iter();
    for topic in request.topics {
        let partitions = topic.partitions.iter().zip(rows.by_ref());
        let partitions = partitions.map(|(asked, row)| {
            let partition_index = asked.partition_index;
            let (code, low_watermark) =
                row.map_or_else(|code| (code, NO_OFFSET), |at| (ErrorCode::None, at.0));
            let error_code = code.code();
            DeleteRecordsPartitionResult { partition_index, low_watermark, error_code, ..Default::default() }
        });
        let partitions = partitions.collect();
        topics.push(DeleteRecordsTopicResult { name: topic.name, partitions, ..Default::default() });
    }
    DeleteRecordsResponse { topics, ..Default::default() }
}

fn may_delete<'a>(
    node: &Node,
    ctx: &Ctx,
    name: &str,
    found: Option<&'a Topic>,
) -> Result<&'a Topic, ErrorCode> {
    if !node.allows(ctx, Operation::Delete, Resource::Topic(name)) {
        return Err(ErrorCode::TopicAuthorizationFailed);
    }
    let topic = found.ok_or(ErrorCode::UnknownTopicOrPartition)?;
    if is_internal(name) {
        return Err(ErrorCode::InvalidTopicException);
    }
    if !node.live.now().topic(&topic.configs).deleted {
        return Err(ErrorCode::PolicyViolation);
    }
    Ok(topic)
}

/// Where the log is to start, judged by its leader; an offset at or below the present start is that start.
async fn place(
    node: &Node,
    topic: &Topic,
    index: i32,
    offset: i64,
) -> Result<(TopicPartition, LeaderEpoch, Offset), ErrorCode> {
    let tp = TopicPartition { topic: topic.id, partition: PartitionIndex(index) };
    if topic.partition(tp.partition).is_none() {
        return Err(ErrorCode::UnknownTopicOrPartition);
    }
    let mut bounds = node.partitions.bounds(vec![(tp, None)]).await?;
    let Bounds { log_start, hw, leader_epoch, .. } =
        bounds.pop().unwrap_or(Err(ErrorCode::NotLeaderOrFollower))?;
    let to = if offset == HIGH_WATERMARK { hw } else { Offset(offset) };
    if to < Offset(0) || to > hw {
        return Err(ErrorCode::OffsetOutOfRange);
    }
    Ok((tp, leader_epoch, to.max(log_start)))
}

/// Commits the starts and puts them in force; one row each.
async fn raise(
    node: &Node,
    starts: Vec<(TopicPartition, LeaderEpoch, Offset)>,
) -> Result<Vec<bool>, ErrorCode> {
    if starts.is_empty() {
        return Ok(Vec::new());
    }
    let by = node.owned().ok_or(ErrorCode::NotLeaderOrFollower)?.lane.epoch;
    let to: Vec<(TopicPartition, Offset)> = starts.iter().map(|(tp, _, to)| (*tp, *to)).collect();
    let led = match node.cluster.submit(Command::MoveLogStarts { by, starts }).await {
        Ok(Reply::Moved(led)) => led,
        Ok(_) => return Err(ErrorCode::UnknownServerError),
        Err(ErrorCode::StaleBrokerEpoch) => return Err(ErrorCode::NotLeaderOrFollower),
        Err(code) => return Err(code),
    };
    let to = to.into_iter().zip(&led).filter(|(_, led)| **led).map(|(start, _)| start).collect();
    node.partitions.ask(|reply| Query::LogStarts { to, reply }).await?;
    Ok(led)
}

/// What each row of the request comes to.
fn merge(rows: Vec<Verdict>, moved: &Result<Vec<bool>, ErrorCode>) -> Vec<Result<Offset, ErrorCode>> {
    let mut led = moved.as_ref().map(|led| led.iter());
    let outcome = |row: Verdict| {
        let (_, to) = row?;
        match &mut led {
            Err(code) => Err(**code),
            Ok(led) => match led.next() {
                Some(true) => Ok(to),
                _ => Err(ErrorCode::NotLeaderOrFollower),
            },
        }
    };
    rows.into_iter().map(outcome).collect()
}
