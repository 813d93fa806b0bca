//! Runs and checkpoints as partitions see them: what recovery starts from, and offsets older than any parcel.
//!
//! Finds, reads and verifies; writes nothing. The runs of one partition are ordered by their offsets, whoever cut
//! them. Recovery looks at a partition's home checkpoint and the runs named after it, however many there are
//! before; where older offsets lie is looked up once and remembered.

mod memo;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use tidemark_proto::id::{ClusterId, Millis, Offset, TopicPartition};
use tidemark_proto::kafka::pieces::Pieces;
use tidemark_proto::record::view::Batches;
use tidemark_tiering::bucket::Bucket;
use tidemark_tiering::error::Error;
use tidemark_tiering::read::Handle;
use tidemark_tiering::run::{self, Object, Partition, Reader, Want, checkpoint};
use uuid::Uuid;

use crate::cluster::image::{Image, RunRow};
use crate::partition::Instant;
use crate::partition::base::Base;
use crate::partition::index::Appetite;
use memo::{Memo, Share};

/// Objects looked into at a time.
const AT_A_TIME: usize = 16;

/// One partition's share of one run object.
struct Found {
    key: String,
    entry: Arc<Partition>,
}

/// See the module.
#[derive(Debug)]
pub struct Archive {
    bucket: Bucket,
    cluster: ClusterId,
    runs: Arc<Reader>,
    memo: Mutex<Memo>,
}

impl Archive {
    /// Reads runs of `bucket`.
    pub fn new(bucket: Bucket, cluster: ClusterId) -> Archive {
        let runs = Arc::new(Reader::new(bucket.clone(), cluster));
        Archive { runs, bucket, cluster, memo: Mutex::default() }
    }

    /// Where recovery of `partitions` starts: the newest of checkpoint and runs. One without an entry starts empty.
    pub async fn bases(
        &self,
        image: &Image,
        partitions: &[TopicPartition],
    ) -> BTreeMap<TopicPartition, Result<Base, Error>> {
        let mut bases = self.checkpointed(image, partitions).await;
        let mut looks: BTreeMap<Uuid, (String, Vec<TopicPartition>)> = BTreeMap::new();
        for tp in partitions {
            let Some(since) = image.untold(*tp) else { continue };
            for run in image.runs_of(*tp, since) {
                looks.entry(run.id).or_insert_with(|| (run.key.clone(), Vec::new())).1.push(*tp);
            }
        }
        let looks: Vec<_> = looks.into_values().map(|(key, of)| newest(self.runs.clone(), key, of)).collect();
        let mut looks = futures::stream::iter(looks).buffered(AT_A_TIME);
        while let Some(found) = looks.next().await {
            for (tp, found) in found {
                match found {
                    Ok(found) => {
                        let known =
                            bases.get(&tp).map(|base| base.as_ref().map_or(Offset(i64::MAX), |b| b.end));
                        if found.entry.last_offset >= known.unwrap_or(Offset(0)) {
                            bases.insert(tp, base_of(&found));
                        }
                    }
                    Err(error) => drop(bases.insert(tp, Err(error))),
                }
            }
        }
        bases
    }

    async fn checkpointed(
        &self,
        image: &Image,
        partitions: &[TopicPartition],
    ) -> BTreeMap<TopicPartition, Result<Base, Error>> {
        let mut homes: BTreeMap<_, Vec<TopicPartition>> = BTreeMap::new();
        for tp in partitions {
            if let Some(home) = image.partition(*tp).and_then(|p| p.home) {
                homes.entry(home).or_default().push(*tp);
            }
        }
        let mut bases = BTreeMap::new();
        for (home, of) in homes {
            let key = image.checkpoint(home).map_or_else(String::new, |row| row.key.clone());
            let read = checkpoint::read(&self.bucket, self.cluster, &key).await;
            for tp in of {
                let base = match &read {
                    Err(error) => Err(error.clone()),
                    // Who is named at home in a checkpoint is in it: its absence is damage, not an empty partition.
                    Ok(states) => {
                        states.states.get(&tp).and_then(Base::from_state).ok_or_else(|| Error::Corrupt {
                            key: key.clone(),
                            why: format!("has no usable state of partition {tp}"),
                        })
                    }
                };
                bases.insert(tp, base);
            }
        }
        bases
    }

    /// Whole batches from the one that holds `from` up to `until`, as far as `appetite` goes, read by way of `handle`.
    ///
    /// # Errors
    /// [`Error::Gone`] where no run holds the offset.
    pub async fn read(
        &self,
        handle: &Handle,
        image: &Image,
        tp: TopicPartition,
        (from, until): (Offset, Offset),
        appetite: Appetite,
    ) -> Result<Pieces, Error> {
        let (mut out, mut next) = (Pieces::new(), from);
        for share in self.shares(image, tp).await?.iter() {
            if share.last < next || share.base >= until {
                continue;
            }
            let found = self.found(image, tp, share).await?;
            let size = image.run(share.run).map(|run| run.bytes);
            while next <= share.last && next < until {
                let bytes_max = appetite.bytes_max.saturating_sub(out.len());
                let at_least_one = appetite.at_least_one && out.is_empty();
                let want = Want { from: next, until, bytes_max, at_least_one };
                let object = Object { handle, key: &found.key, size };
                let taken =
                    run::take(&object, found.entry.extents(next), found.entry.last_offset, want).await?;
                out.extend(taken.pieces);
                next = taken.next;
                if taken.full {
                    return Ok(out);
                }
            }
        }
        match out.is_empty() && from < until {
            true => Err(Error::Gone { key: format!("a run that holds offset {from} of partition {tp}") }),
            false => Ok(out),
        }
    }

    /// The batches among which the answer to a time look-up is, as far as runs go.
    ///
    /// # Errors
    /// Where a run cannot be read.
    pub async fn find_time(
        &self,
        image: &Image,
        tp: TopicPartition,
        instant: Instant,
        from: Offset,
        until: Offset,
    ) -> Result<Option<Bytes>, Error> {
        let shares = self.shares(image, tp).await?;
        let within = |share: &&Share| share.last >= from && share.base < until;
        let target = match instant {
            Instant::AtOrAfter(target) => target,
            Instant::Largest => {
                let mut largest = Millis(i64::MIN);
                for share in shares.iter().filter(within) {
                    largest = largest.max(self.largest(image, tp, share, from, largest).await?);
                }
                largest
            }
        };
        for share in shares.iter().filter(within).filter(|share| share.max_timestamp >= target) {
            let found = self.found(image, tp, share).await?;
            for extent in found.entry.extents_since(target, from) {
                let bytes = self.runs.bytes(&found.key, extent).await?;
                for batch in Batches::new(bytes) {
                    let batch = batch.map_err(|e| damaged(&found.key, &e))?;
                    if batch.max_timestamp() >= target && batch.last_offset() >= from {
                        return Ok(Some(batch.bytes().clone()));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Bytes that runs hold of the partition from `log_start` on, whole shares of objects. The first time this reads as
    /// many directories of runs as may hold the partition.
    ///
    /// # Errors
    /// Where a run cannot be read.
    pub async fn size(&self, image: &Image, tp: TopicPartition, log_start: Offset) -> Result<u64, Error> {
        let shares = self.shares(image, tp).await?;
        Ok(shares.iter().filter(|share| share.last >= log_start).map(|share| share.bytes).sum())
    }

    /// The greatest timestamp of a share's batches that reach `from`; anything where none is above `known`.
    async fn largest(
        &self,
        image: &Image,
        tp: TopicPartition,
        share: &Share,
        from: Offset,
        known: Millis,
    ) -> Result<Millis, Error> {
        if share.base >= from || share.max_timestamp <= known {
            return Ok(share.max_timestamp);
        }
        // The log starts within it: what is below may be what the share's own mark stands for.
        let found = self.found(image, tp, share).await?;
        let mut largest = known;
        for extent in found.entry.extents(from) {
            for batch in Batches::new(self.runs.bytes(&found.key, extent).await?) {
                let batch = batch.map_err(|e| damaged(&found.key, &e))?;
                if batch.last_offset() >= from {
                    largest = largest.max(batch.max_timestamp());
                }
            }
        }
        Ok(largest)
    }

    /// The partition's shares in all runs, by offset. Only runs named since the last look are looked into.
    async fn shares(&self, image: &Image, tp: TopicPartition) -> Result<Arc<Vec<Share>>, Error> {
        let created = image.topic(tp.topic).map_or(0, |topic| topic.created);
        let (since, known) = self.memo.lock().get(tp).unwrap_or_else(|| (created, Arc::default()));
        let fresh: Vec<&Arc<RunRow>> = image.runs_of(tp, since).collect();
        let all_named = known.iter().all(|share| image.run(share.run).is_some());
        if fresh.is_empty() && all_named {
            return Ok(known);
        }
        let mut shares: Vec<Share> =
            known.iter().filter(|share| image.run(share.run).is_some()).copied().collect();
        let looks: Vec<_> =
            fresh.into_iter().map(|run| shares_in(self.runs.clone(), run.clone(), tp)).collect();
        let mut looks = futures::stream::iter(looks).buffered(AT_A_TIME);
        while let Some(found) = looks.next().await {
            shares.extend(found?);
        }
        shares.sort_by_key(|share| (share.base, share.run));
        let shares = Arc::new(shares);
        self.memo.lock().keep(tp, image.version() + 1, shares.clone());
        Ok(shares)
    }

    async fn found(&self, image: &Image, tp: TopicPartition, share: &Share) -> Result<Found, Error> {
        let run = image.run(share.run).ok_or_else(|| Error::Gone { key: share.run.to_string() })?;
        let entries = self.runs.find(&run.key, tp).await?;
        let entry = entries.into_iter().find(|entry| entry.base_offset == share.base);
        let entry = entry.ok_or_else(|| damaged(&run.key, &"a share of it is gone"))?;
        Ok(Found { key: run.key.clone(), entry })
    }
}

/// The newest share of each partition in one object.
async fn newest(
    runs: Arc<Reader>,
    key: String,
    of: Vec<TopicPartition>,
) -> Vec<(TopicPartition, Result<Found, Error>)> {
    let mut found = Vec::new();
    for tp in of {
        match runs.find(&key, tp).await {
            Ok(entries) => {
                let newest = entries.into_iter().next_back();
                found.extend(newest.map(|entry| (tp, Ok(Found { key: key.clone(), entry }))));
            }
            Err(error) => found.push((tp, Err(error))),
        }
    }
    found
}

async fn shares_in(runs: Arc<Reader>, run: Arc<RunRow>, tp: TopicPartition) -> Result<Vec<Share>, Error> {
    let share = |entry: Arc<Partition>| Share {
        run: run.id,
        base: entry.base_offset,
        last: entry.last_offset,
        max_timestamp: entry.max_timestamp,
        bytes: entry.length,
    };
    Ok(runs.find(&run.key, tp).await?.into_iter().map(share).collect())
}

fn base_of(found: &Found) -> Result<Base, Error> {
    let state: Option<&run::State> = found.entry.state.as_ref();
    state.and_then(Base::from_state).ok_or_else(|| Error::Corrupt {
        key: found.key.clone(),
        why: format!("has no usable state of partition {}", found.entry.of),
    })
}

fn damaged(key: &str, why: &impl ToString) -> Error {
    Error::Corrupt { key: key.to_owned(), why: why.to_string() }
}

#[cfg(test)]
pub(crate) mod tests;
