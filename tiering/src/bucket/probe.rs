//! The probe: may this store be trusted with a log? Asked at every start, and by `tidemark probe` in full.
//!
//! R3, D4: a store that fails is refused with one plain sentence.

use std::time::Duration;

use futures::future::try_join_all;
use tidemark_proto::id::Life;
use tokio::time::Instant;

use super::Bucket;
use super::conformance::{Check, FAST, FULL, Fault, Ground};

/// How much to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// What guards every start: some twenty requests.
    Fast,
    /// Everything, deletes included.
    Full,
}

/// What a probe found good.
#[derive(Clone, Debug)]
pub struct Report {
    /// The checks, with the time each took.
    pub checks: Vec<(&'static str, Duration)>,
    /// Why what the probe wrote was left behind, if it was; reclaim deletes it.
    pub left: Option<String>,
}

/// Why the store is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct ProbeFailure {
    /// The check that failed.
    pub check: &'static str,
    /// What the store did wrong and how to mend it.
    pub sentence: String,
}

/// Probes the store under the bucket, writing to `probe/<life>/` only.
pub async fn run(bucket: &Bucket, life: Life, level: Level) -> Result<Report, ProbeFailure> {
    let ground = Ground::new(bucket, life);
    // Before anything is written: some stores make a bucket of a wrong name at its first write.
    let there = ground.is_there().await;
    there.map_err(|Fault(sentence)| ProbeFailure { check: "the_bucket_is_there", sentence })?;
    let checks = match level {
        Level::Fast => &FAST[..],
        Level::Full => &FULL[..],
    };
    let ran = |check: &Check| {
        let (name, run) = (check.name, check.run);
        let ground = &ground;
        async move {
            let start = Instant::now();
            let sound = run(ground).await;
            sound.map_err(|Fault(sentence)| ProbeFailure { check: name, sentence })?;
            Ok((name, start.elapsed()))
        }
    };
    let done: Vec<_> = match level {
        // Side by side: a start waits for the longest of them only. Each has keys of its own.
        Level::Fast => try_join_all(checks.iter().map(ran)).await?,
        Level::Full => {
            let mut done = Vec::with_capacity(checks.len());
            for check in checks {
                done.push(ran(check).await?);
            }
            done
        }
    };
    // At a start a broker's own credentials need not allow deletes, and a refusal would sound the alarm.
    let left = match level {
        Level::Fast if !bucket.is_free() => Some("not asked to delete".to_owned()),
        _ => ground.clean().await.err().map(|e| e.to_string()),
    };
    Ok(Report { checks: done, left })
}
