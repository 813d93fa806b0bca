//! The consuming half of a load: one task a connection, which asks for all its partitions at once, as a
//! consumer does, and hands on every batch.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::{FetchRequest, FetchResponse, fetch_request};
use tidemark_proto::record::view::{Batch, Batches};
use tokio::time::Instant;

use super::cluster::Cluster;
use crate::latency::Latency;

/// The last version that names topics by name.
const VERSION_MAX: i16 = 12;
const RETRY_PAUSE: Duration = Duration::from_millis(100);
const WAIT_MAX_MS: i32 = 500;
/// How long errors may go on.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a reader asks for.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Most bytes of one answer.
    pub answer: i32,
    /// Most bytes of a partition in it.
    pub partition: i32,
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes { answer: 50 << 20, partition: 1 << 20 }
    }
}

/// A partition and the range to be read.
#[derive(Clone, Copy, Debug)]
pub struct Want {
    /// Partition.
    pub partition: usize,
    /// Next offset.
    pub next: i64,
    /// Done at this offset; `i64::MAX` = until stopped.
    pub end: i64,
}

/// What a reader did.
#[derive(Debug, Default)]
pub struct Read {
    /// Bytes of whole batches.
    pub bytes: u64,
    /// Their records.
    pub records: u64,
    /// From request to answer, of answers with records.
    pub latency: Latency,
}

/// Reads until every range is done or `until` has passed. `batch` sees every batch with its partition.
pub async fn read(
    cluster: Arc<Cluster>,
    mut wants: Vec<Want>,
    slot: usize,
    sizes: Sizes,
    until: Instant,
    mut batch: impl FnMut(usize, Batch) -> Result<()>,
) -> Result<Read> {
    let mut done = Read::default();
    let mut well = Instant::now();
    loop {
        wants.retain(|want| want.next < want.end);
        if wants.is_empty() || Instant::now() >= until {
            return Ok(done);
        }
        let began = Instant::now();
        match round(&cluster, &mut wants, slot, sizes, &mut done, &mut batch).await {
            Ok(records) => {
                well = Instant::now();
                if records {
                    done.latency.record(began.elapsed());
                }
            }
            Err(Trouble::Fatal(error)) => return Err(error),
            Err(Trouble::Passing(error)) if well.elapsed() > PATIENCE => return Err(error),
            Err(Trouble::Passing(_)) => {
                tokio::time::sleep(RETRY_PAUSE).await;
                cluster.refresh().await?;
            }
        }
    }
}

enum Trouble {
    Passing(anyhow::Error),
    Fatal(anyhow::Error),
}

/// One request to the leader of the first partition, for all it leads.
async fn round(
    cluster: &Cluster,
    wants: &mut [Want],
    slot: usize,
    sizes: Sizes,
    done: &mut Read,
    batch: &mut impl FnMut(usize, Batch) -> Result<()>,
) -> Result<bool, Trouble> {
    // Each leader in turn: the one asked last goes to the end.
    wants.rotate_left(1);
    let leader = cluster.leader(wants[0].partition);
    let theirs: Vec<&mut Want> = wants.iter_mut().filter(|w| cluster.leader(w.partition) == leader).collect();
    let answer = ask(cluster, &leader, &theirs, slot, sizes).await.map_err(Trouble::Passing)?;
    let mut any = false;
    for want in theirs {
        let index = want.partition as i32;
        let found = answer.responses.iter().flat_map(|t| &t.partitions).find(|p| p.partition_index == index);
        let Some(found) = found else { continue };
        match ErrorCode::from_code(found.error_code) {
            ErrorCode::None => {}
            code if code.is_retriable() => {
                return Err(Trouble::Passing(anyhow::anyhow!("partition {index}: {code}")));
            }
            code => return Err(Trouble::Fatal(anyhow::anyhow!("partition {index}: {code}"))),
        }
        let Some(records) = found.records.clone() else { continue };
        let bytes = records.into_bytes().map_err(|e| Trouble::Fatal(e.into()))?;
        any |= take(bytes, want, done, batch).map_err(Trouble::Fatal)?;
    }
    Ok(any)
}

fn take(
    bytes: bytes::Bytes,
    want: &mut Want,
    done: &mut Read,
    batch: &mut impl FnMut(usize, Batch) -> Result<()>,
) -> Result<bool> {
    let mut any = false;
    for next in Batches::new(bytes) {
        // An answer may end within a batch; one that begins so is broken.
        let Ok(next) = next else {
            ensure!(any, "partition {}: no whole batch at offset {}", want.partition, want.next);
            break;
        };
        if next.next_offset().0 <= want.next {
            continue;
        }
        let base = next.base_offset().0;
        if base > want.next && any {
            bail!("partition {}: offset {base} follows {}", want.partition, want.next - 1);
        }
        want.next = next.next_offset().0;
        done.bytes += next.size() as u64;
        done.records += u64::from(next.count().unsigned_abs());
        any = true;
        batch(want.partition, next)?;
    }
    Ok(any)
}

async fn ask(
    cluster: &Cluster,
    leader: &str,
    wants: &[&mut Want],
    slot: usize,
    sizes: Sizes,
) -> Result<FetchResponse> {
    let partitions = wants.iter().map(|want| fetch_request::FetchPartition {
        partition: want.partition as i32,
        current_leader_epoch: -1,
        fetch_offset: want.next,
        last_fetched_epoch: -1,
        log_start_offset: -1,
        partition_max_bytes: sizes.partition,
        ..Default::default()
    });
    let topic = fetch_request::FetchTopic {
        topic: cluster.topic.as_str().into(),
        partitions: partitions.collect(),
        ..Default::default()
    };
    let request = FetchRequest {
        replica_id: -1,
        max_wait_ms: WAIT_MAX_MS,
        min_bytes: 1,
        max_bytes: sizes.answer,
        session_id: 0,
        session_epoch: -1,
        topics: vec![topic],
        ..Default::default()
    };
    let answer = cluster.link(leader, slot).await?.call(VERSION_MAX, &request).await?;
    let code = ErrorCode::from_code(answer.error_code);
    ensure!(code == ErrorCode::None, "Fetch: {code}");
    Ok(answer)
}
