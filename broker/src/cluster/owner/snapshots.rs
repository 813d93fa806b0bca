//! Snapshots and deletes (E9-E11): when one is due, and what may go once it is durable.
//!
//! Deleted are data objects below a snapshot *known durable*, and lesser snapshots. Never a seal: a key goes
//! only if this process read or wrote data there, if it is longer than any seal, or after reading it.

use std::collections::BTreeSet;

use tidemark_proto::id::Position;
use tidemark_tiering::bucket::{Body, Bucket, Kind, Patience, Placed, Span};
use tidemark_tiering::error::Error;
use tidemark_tiering::format::seal::SEAL_MAX;
use tidemark_tiering::format::{self, HEADER_LEN, Header};
use tidemark_tiering::keys::{self, Name};
use tidemark_tiering::witness::{Sight, saw, saw_many};

use super::super::log;
use super::{Inner, Owner};

/// What a member knows of the log's objects.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Kept {
    /// Keys read or written as data.
    pub data: BTreeSet<Position>,
    /// What a reader has to take in since the newest snapshot: bytes, and the weight of its requests.
    pub since: u64,
    /// Bytes of that snapshot.
    pub snapshot: u64,
}

#[derive(Debug)]
pub(super) struct Snapshots {
    kept: Kept,
    writing: bool,
}

/// A snapshot is durable.
#[derive(Debug)]
pub(super) struct Written {
    at: Position,
    bytes: u64,
    /// How much of `since` it covers.
    covers: u64,
}

impl Snapshots {
    pub fn new(kept: Kept) -> Snapshots {
        Snapshots { kept, writing: false }
    }

    pub fn take(&mut self) -> Kept {
        std::mem::take(&mut self.kept)
    }

    /// An own object is committed.
    pub fn wrote(&mut self, at: Position, weight: u64) {
        self.kept.data.insert(at);
        self.kept.since += weight;
    }
}

impl Owner {
    /// E9: due when the log since the last outgrows half of it.
    pub(super) fn snapshot_if_due(&mut self) {
        let Kept { since, snapshot, .. } = self.snapshots.kept;
        if self.snapshots.writing || since < (snapshot / 2).max(self.shared.timings.snapshot_min) {
            return;
        }
        self.snapshots.writing = true;
        let (at, swept) = (self.durable.position(), self.durable.swept());
        let pieces = log::snapshot(&self.durable, self.shared.life, self.shared.seams.entropy.nonce());
        let body = Body::from(pieces);
        let (bucket, inner) = (self.shared.bucket.clone(), self.inner.clone());
        let (data, grace) = (self.snapshots.kept.data.clone(), self.shared.timings.delete_grace);
        let tasks = self.shared.seams.tasks.clone();
        let task = tasks.clone().spawn(async move {
            let key = keys::snapshot(at);
            let placed = bucket.place(Kind::Snapshot, &key, &body, HEADER_LEN).await;
            if let Placed::Other(_) = placed {
                // Another's fold of the same prefix; what it says is checked by whoever loads it. Nothing
                // is deleted on its word.
                tracing::warn!(%at, "a metadata snapshot of this position was there already");
                return;
            }
            saw(Sight::Snapshot);
            let written = Written { at, bytes: body.len() as u64, covers: since };
            let _ = inner.send(Inner::Snapshot(written)).await;
            // Outlives the ownership: what it deletes is below a durable snapshot for ever.
            tasks.spawn(async move {
                tokio::time::sleep(grace).await;
                match sweep(&bucket, swept, at, &data).await {
                    Ok(()) => drop(inner.send(Inner::Swept(at)).await),
                    Err(error) => tracing::warn!(%error, "collected metadata objects were not all deleted"),
                }
            });
        });
        self.tasks.push(task.abort_handle());
    }

    pub(super) fn snapshot_written(&mut self, written: &Written) {
        self.snapshots.writing = false;
        let kept = &mut self.snapshots.kept;
        kept.since = kept.since.saturating_sub(written.covers);
        kept.snapshot = written.bytes;
        kept.data = kept.data.split_off(&written.at);
    }
}

/// Deletes what lies below the durable snapshot at `at` (E10). `data` are keys known to hold data; below `swept` it was
/// done before.
pub(in super::super) async fn sweep(
    bucket: &Bucket,
    swept: Position,
    at: Position,
    data: &BTreeSet<Position>,
) -> Result<(), Error> {
    let snapshots = bucket.list(Kind::Snapshot, keys::SNAPSHOTS, None, Patience::Tries(3)).await?;
    let old = snapshots.into_iter().map(|object| object.key);
    let old =
        old.filter(|key| matches!(Name::parse(key), Some(Name::Snapshot(other)) if other < at)).collect();
    let after = keys::generation(swept.generation);
    let listed = bucket.list(Kind::Meta, keys::META, Some(&after), Patience::Tries(3)).await?;
    let mut gone = Vec::new();
    for object in listed {
        let Some(Name::Meta(below)) = Name::parse(&object.key) else { continue };
        if below < at {
            // A seal is never longer than SEAL_MAX (E11).
            let is_data =
                data.contains(&below) || object.size > SEAL_MAX || reads_as_data(bucket, &object.key).await?;
            if is_data {
                gone.push(object.key);
            }
        }
    }
    let count = gone.len();
    bucket.delete(Kind::Meta, gone, Patience::Tries(3)).await?;
    saw_many(Sight::MetaDeleted, count);
    bucket.delete(Kind::Snapshot, old, Patience::Tries(3)).await
}

async fn reads_as_data(bucket: &Bucket, key: &str) -> Result<bool, Error> {
    let span = Span::Range(0..HEADER_LEN as u64);
    let found = bucket.get(Kind::Meta, key, span, Patience::Tries(3)).await?;
    let header = found.and_then(|found| Header::parse(&found.bytes).ok());
    Ok(header.is_some_and(|header| header.kind == format::Kind::Meta))
}
