//! The producing half of a load: one task a partition, batches in flight in order. Open loop: a batch is due
//! at its time whether or not the broker keeps up, and its latency counts from then. At `--rate 0` a batch
//! is due when a place in flight is free.
//!
//! An idempotent run resends what failed in order, one at a time, under the same sequences; any other run
//! counts a failed batch as failed and goes on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use futures::stream::{FuturesOrdered, StreamExt};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::{ProduceRequest, produce_request};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::batches::Batches;
use super::cluster::{Cluster, Link};
use crate::latency::Latency;

/// The last version that names topics by name.
const VERSION_MAX: i16 = 12;
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How long a batch is resent before the run fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// What all partitions share.
pub struct Plan {
    /// Where to.
    pub cluster: Arc<Cluster>,
    /// What.
    pub batches: Batches,
    /// -1 (all) or 1.
    pub acks: i16,
    /// Request timeout.
    pub timeout_ms: i32,
    /// Batches of a partition in flight.
    pub in_flight: usize,
    /// Connections to a leader.
    pub connections: usize,
    /// Time between two batches of a partition; `None` = as fast as they are acked.
    pub interval: Option<Duration>,
    /// First batch.
    pub begin: Instant,
    /// No batch is due after this.
    pub end: Instant,
    /// Most batches of a partition.
    pub batches_max: u64,
    /// Latencies and bytes of batches due before this are not counted.
    pub warm: Instant,
    /// Whether failed batches are resent.
    pub idempotent: bool,
}

/// What became of one partition's batches.
#[derive(Debug, Default)]
pub struct Produced {
    /// Batches sent: numbers `0..sent`.
    pub sent: u64,
    /// Acked: number and base offset (-1 where the broker did not say).
    pub acked: Vec<(u64, i64)>,
    /// Numbers that were given up; whether they are stored is unknown.
    pub failed: BTreeSet<u64>,
    /// Resends.
    pub retries: u64,
    /// From when a batch was due to its ack.
    pub latency: Latency,
    /// Batches counted after the warm-up.
    pub counted: u64,
    /// The errors, first of each kind.
    pub errors: BTreeSet<String>,
}

/// A batch that is on its way: its number and when it was due.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    /// Number within the partition.
    pub number: u64,
    /// When it was due.
    pub at: Instant,
}

enum Answer {
    Acked(Due, i64),
    Failed(Due, String, bool),
}

/// Produces one partition to the plan's end. Every batch is told to `sent` before it goes out, if given.
pub async fn partition(plan: Arc<Plan>, index: usize, sent: Option<mpsc::Sender<Due>>) -> Result<Produced> {
    let mut produced = Produced::default();
    let mut in_flight = FuturesOrdered::new();
    // Partitions share the interval: each begins at its own part of it.
    let share = plan.interval.map(|i| i.mul_f64(index as f64 / plan.cluster.partitions() as f64));
    let mut due_at = plan.begin + share.unwrap_or_default();
    loop {
        let open = due_at < plan.end && produced.sent < plan.batches_max && Instant::now() < plan.end;
        if !open && in_flight.is_empty() {
            return Ok(produced);
        }
        let room = in_flight.len() < plan.in_flight;
        tokio::select! {
            biased;
            Some(answer) = in_flight.next(), if !in_flight.is_empty() => {
                let mut failed = Vec::new();
                settle(&plan, &mut produced, answer, &mut failed);
                if !failed.is_empty() && plan.idempotent {
                    while let Some(answer) = in_flight.next().await {
                        settle(&plan, &mut produced, answer, &mut failed);
                    }
                    resend(&plan, index, &mut produced, failed).await?;
                } else if !failed.is_empty() {
                    produced.failed.extend(failed.iter().map(|due| due.number));
                    plan.cluster.refresh().await?;
                }
            }
            () = tokio::time::sleep_until(due_at), if open && room => {
                let at = if plan.interval.is_some() { due_at } else { Instant::now() };
                let due = Due { number: produced.sent, at };
                if let Some(sent) = &sent {
                    sent.send(due).await.map_err(|_| anyhow!("the reader of the load ended"))?;
                }
                produced.sent += 1;
                in_flight.push_back(send(plan.clone(), index, due));
                due_at = match plan.interval {
                    Some(interval) => due_at + interval,
                    None => Instant::now(),
                };
            }
        }
    }
}

fn settle(plan: &Plan, produced: &mut Produced, answer: Answer, failed: &mut Vec<Due>) {
    match answer {
        Answer::Acked(due, offset) => {
            produced.acked.push((due.number, offset));
            if due.at >= plan.warm {
                produced.counted += 1;
                produced.latency.record(due.at.elapsed());
            }
        }
        Answer::Failed(due, why, _) => {
            produced.errors.insert(why);
            failed.push(due);
        }
    }
}

/// In order and one at a time, until each is acked.
async fn resend(plan: &Arc<Plan>, index: usize, produced: &mut Produced, failed: Vec<Due>) -> Result<()> {
    for due in failed {
        let began = Instant::now();
        loop {
            plan.cluster.refresh().await?;
            produced.retries += 1;
            match send(plan.clone(), index, due).await {
                acked @ Answer::Acked(..) => {
                    settle(plan, produced, acked, &mut Vec::new());
                    break;
                }
                Answer::Failed(_, why, false) => bail!("partition {index}, batch {}: {why}", due.number),
                Answer::Failed(_, why, true) if began.elapsed() > PATIENCE => {
                    bail!("partition {index}, batch {} was resent for {PATIENCE:?}: {why}", due.number)
                }
                Answer::Failed(_, why, true) => {
                    produced.errors.insert(why);
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }
    Ok(())
}

async fn send(plan: Arc<Plan>, index: usize, due: Due) -> Answer {
    let batch = plan.batches.stamped(due.number);
    match to_leader(&plan, index, batch).await {
        Ok((ErrorCode::None | ErrorCode::DuplicateSequenceNumber, offset)) => Answer::Acked(due, offset),
        Ok((code, _)) => Answer::Failed(due, code.to_string(), code.is_retriable()),
        Err(error) => Answer::Failed(due, error.to_string(), true),
    }
}

async fn to_leader(plan: &Plan, index: usize, batch: Bytes) -> Result<(ErrorCode, i64)> {
    let link = plan.cluster.link(&plan.cluster.leader(index), index % plan.connections).await?;
    exchange(&link, &plan.cluster.topic, i32::try_from(index)?, batch, plan.acks, plan.timeout_ms).await
}

/// Produces one batch over a connection; its base offset with the answer's code.
pub async fn exchange(
    link: &Link,
    topic: &str,
    index: i32,
    batch: Bytes,
    acks: i16,
    timeout_ms: i32,
) -> Result<(ErrorCode, i64)> {
    let data = produce_request::PartitionProduceData { index, records: Some(batch.into()) };
    let topic = produce_request::TopicProduceData {
        name: topic.into(),
        partition_data: vec![data],
        ..Default::default()
    };
    let request = ProduceRequest { transactional_id: None, acks, timeout_ms, topic_data: vec![topic] };
    let answer = link.call(VERSION_MAX, &request).await?;
    let partition = answer.responses.first().and_then(|topic| topic.partition_responses.first());
    let partition = partition.context("Produce answers no partition")?;
    Ok((ErrorCode::from_code(partition.error_code), partition.base_offset))
}
