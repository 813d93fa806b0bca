//! Runs and checkpoints as partitions see them: what recovery starts from, and offsets older than any parcel.
//!
//! Finds, reads and verifies; writes nothing. The runs of one partition are ordered by their offsets, whoever cut
//! them. Recovery looks at a partition's home checkpoint and the runs named after it, however many there are
//! before; where older offsets lie is looked up once and remembered.

mod memo;
pub mod tier;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use tidemark_proto::id::{ClusterId, Millis, Offset, TopicPartition};
use tidemark_proto::kafka::pieces::Pieces;
use tidemark_proto::record::build::Builder;
use tidemark_proto::record::view::{Batch, Batches};
use tidemark_tiering::bucket::{Bucket, Kind};
use tidemark_tiering::error::Error;
use tidemark_tiering::read::{Handle, Leg};
use tidemark_tiering::run::{self, Object, Partition, Reader, Want, checkpoint};
use tidemark_tiering::watch;
use tidemark_tiering::witness::{Sight, saw};
use uuid::Uuid;

use crate::cluster::image::{Image, RunRow};
use crate::partition::Instant;
use crate::partition::base::Base;
use crate::partition::index::Appetite;
use memo::Memo;
pub use memo::Share;
use tier::Tier;

/// Objects looked into at a time.
const AT_A_TIME: usize = 16;

/// One partition's share of one run object.
struct Found {
    key: String,
    entry: Arc<Partition>,
}

/// Shares that a reader is told of ahead: of small ones more would cost more than reading ahead saves.
const LEGS: usize = 64;

/// How long a reader whose run is gone waits for the metadata that says what stands for it.
const EXPLAINED: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub struct Archive {
    bucket: Bucket,
    cluster: ClusterId,
    runs: Arc<Reader>,
    tier: Tier,
    memo: Mutex<Memo>,
    /// The metadata as it goes on; without it, a run that is gone stays gone.
    images: Option<watch::Receiver<Arc<Image>>>,
}

impl Archive {
    /// Reads runs of `bucket`.
    pub fn new(bucket: Bucket, cluster: ClusterId) -> Archive {
        let runs = Arc::new(Reader::new(bucket.clone(), cluster));
        let tier = Tier::new(bucket.clone());
        Archive { runs, tier, bucket, cluster, memo: Mutex::default(), images: None }
    }

    /// The same, for readers whose runs may be replaced while they read.
    pub fn following(self, images: watch::Receiver<Arc<Image>>) -> Archive {
        Archive { images: Some(images), ..self }
    }

    /// What looks into runs.
    pub fn runs(&self) -> &Arc<Reader> {
        &self.runs
    }

    /// The metadata after `image`: where a run is gone by that one, others may stand for it by now, or nothing needs to.
    pub async fn after(&self, image: &Image) -> Option<Arc<Image>> {
        let version = image.version();
        let mut images = self.images.clone()?;
        let newer = images.wait_for(|image| image.version() > version);
        tokio::time::timeout(EXPLAINED, newer).await.ok()?.ok()?;
        let newer = images.borrow_and_update().clone();
        Some(newer)
    }

    /// Segments.
    pub fn tier(&self) -> &Tier {
        &self.tier
    }

    /// Where recovery of `partitions` starts: the newest of checkpoint and runs. One without an entry starts empty.
    pub async fn bases(
        &self,
        image: &Image,
        partitions: &[TopicPartition],
    ) -> BTreeMap<TopicPartition, Result<Base, Error>> {
        self.bases_since(image, partitions, Image::untold).await
    }

    /// The same of all that the bucket knows, also of partitions that nobody has had to recover yet.
    pub async fn states(
        &self,
        image: &Image,
        partitions: &[TopicPartition],
    ) -> BTreeMap<TopicPartition, Result<Base, Error>> {
        self.bases_since(image, partitions, Image::uncovered).await
    }

    async fn bases_since(
        &self,
        image: &Image,
        partitions: &[TopicPartition],
        since: fn(&Image, TopicPartition) -> Option<u64>,
    ) -> BTreeMap<TopicPartition, Result<Base, Error>> {
        let mut bases = self.checkpointed(image, partitions).await;
        let mut looks: BTreeMap<Uuid, (String, Vec<TopicPartition>)> = BTreeMap::new();
        for tp in partitions {
            let Some(since) = since(image, *tp) else { continue };
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

    /// Whether by now the partition's log starts above `offset`, or there is no such partition.
    pub fn is_below_start(&self, tp: TopicPartition, offset: Offset) -> bool {
        let image = self.images.as_ref().map(|images| images.borrow().clone());
        image.is_some_and(|image| image.partition(tp).is_none_or(|p| offset < p.log_start))
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

    /// Whole batches from the one that holds `from` up to `until`, as far as `appetite` goes, read by way of `handle`. Where
    /// compaction has left none there, one without records.
    ///
    /// # Errors
    /// [`Error::Gone`] where neither segment nor run holds the offset, by newer metadata either.
    pub async fn read(
        &self,
        handle: &Handle,
        image: &Image,
        tp: TopicPartition,
        bounds: (Offset, Offset),
        appetite: Appetite,
    ) -> Result<Pieces, Error> {
        let mut newer: Option<Arc<Image>> = None;
        loop {
            let image = newer.as_deref().unwrap_or(image);
            match self.read_by(handle, image, tp, bounds, appetite).await {
                Err(gone @ Error::Gone { .. }) if !self.is_below_start(tp, bounds.0) => {
                    saw(Sight::RunGone);
                    newer = Some(self.after(image).await.ok_or(gone)?);
                }
                read => return read,
            }
        }
    }

    async fn read_by(
        &self,
        handle: &Handle,
        image: &Image,
        tp: TopicPartition,
        (from, until): (Offset, Offset),
        appetite: Appetite,
    ) -> Result<Pieces, Error> {
        let Appetite { bytes_max, at_least_one } = appetite;
        let tiered = self.tier.read(handle, image, tp, Want { from, until, bytes_max, at_least_one }).await?;
        let (mut out, mut next) = (tiered.pieces, tiered.next);
        let mut held = false;
        if tiered.full || next >= until {
            return Ok(out);
        }
        let shares = self.shares(image, tp).await?;
        let route = route(image, shares.iter().filter(|share| share.last >= next), handle.window());
        for share in shares.iter() {
            if share.last < next || share.base >= until {
                continue;
            }
            // Where retention took this from the middle of what was planned, what follows must not pass for it.
            if share.base > next {
                break;
            }
            held = true;
            let found = self.found(image, tp, share).await?;
            let size = image.run(share.run).map(|run| run.bytes);
            while next <= share.last && next < until {
                let bytes_max = appetite.bytes_max.saturating_sub(out.len());
                let at_least_one = appetite.at_least_one && out.is_empty();
                let want = Want { from: next, until, bytes_max, at_least_one };
                let object = Object { handle, key: &found.key, size, route: &route };
                let taken =
                    run::take(&object, found.entry.extents(next), found.entry.last_offset, want).await?;
                out.extend(taken.pieces);
                next = taken.next;
                // A slice may hold the offset and, since compaction, nothing from there on: that does not fill anybody.
                if taken.full && (!out.is_empty() || !appetite.at_least_one) {
                    return Ok(out);
                }
            }
        }
        match (held, out.is_empty() && from < until) {
            (false, true) => {
                Err(Error::Gone { key: format!("a run that holds offset {from} of partition {tp}") })
            }
            (true, true) => Ok(Pieces::from(passed_over(from, until.min(next)).bytes().clone())),
            _ => Ok(out),
        }
    }

    /// The batches among which the answer to a time look-up is, as far as segments and runs go.
    ///
    /// # Errors
    /// Where a segment or a run cannot be read, nor what stands for it by newer metadata.
    pub async fn find_time(
        &self,
        image: &Image,
        tp: TopicPartition,
        instant: Instant,
        from: Offset,
        until: Offset,
    ) -> Result<Option<Bytes>, Error> {
        let mut newer: Option<Arc<Image>> = None;
        loop {
            let image = newer.as_deref().unwrap_or(image);
            match self.find_time_by(image, tp, instant, from, until).await {
                Err(gone @ Error::Gone { .. }) => {
                    saw(Sight::RunGone);
                    newer = Some(self.after(image).await.ok_or(gone)?);
                }
                found => return found,
            }
        }
    }

    async fn find_time_by(
        &self,
        image: &Image,
        tp: TopicPartition,
        instant: Instant,
        from: Offset,
        until: Offset,
    ) -> Result<Option<Bytes>, Error> {
        let old = self.tier.find_time(image, tp, instant, from, until).await?;
        if old.is_some() && instant != Instant::Largest {
            return Ok(old);
        }
        let rest = from.max(tier::tiered(image, tp));
        let new = self.find_in_runs(image, tp, instant, rest, until).await?;
        let time =
            |bytes: &Bytes| Batches::new(bytes.clone()).next()?.ok().map(|batch| batch.max_timestamp());
        let is_larger = match (&old, &new) {
            (Some(old), Some(new)) => time(new) > time(old),
            _ => false,
        };
        Ok(if is_larger { new } else { old.or(new) })
    }

    async fn find_in_runs(
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

    /// Bytes that segments and runs hold of the partition from `log_start` on, whole segments and shares of objects. The
    /// first time this reads as many directories of runs as may hold the partition.
    ///
    /// # Errors
    /// Where a run cannot be read.
    pub async fn size(&self, image: &Image, tp: TopicPartition, log_start: Offset) -> Result<u64, Error> {
        Ok(self.layers(image, tp, log_start).await?.iter().map(|(_, _, bytes)| bytes).sum())
    }

    /// First and last offset and bytes of what holds the partition's log from `log_start` on, each offset once: segments,
    /// then shares of objects as far as they lie above.
    ///
    /// # Errors
    /// Where a run cannot be read.
    pub async fn layers(
        &self,
        image: &Image,
        tp: TopicPartition,
        log_start: Offset,
    ) -> Result<Vec<(Offset, Offset, u64)>, Error> {
        let tiered = tier::tiered(image, tp);
        let segments = image.segments(tp).iter().filter(|row| row.last >= log_start);
        let mut layers: Vec<_> = segments.map(|row| (row.base, row.last, row.bytes)).collect();
        let above = |share: &Share| (share.base.max(tiered), share.last, part_above(share, tiered));
        let shares = self.shares(image, tp).await?;
        layers.extend(shares.iter().filter(|share| share.last >= log_start.max(tiered)).map(above));
        Ok(layers)
    }

    /// About how many bytes runs hold of the partition from `from` on: of a share that begins below, the part above.
    ///
    /// # Errors
    /// Where a run cannot be read.
    pub async fn pending(&self, image: &Image, tp: TopicPartition, from: Offset) -> Result<u64, Error> {
        let shares = self.shares(image, tp).await?;
        Ok(shares.iter().filter(|share| share.last >= from).map(|share| part_above(share, from)).sum())
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

    /// The partition's shares in all runs, by offset. Only runs named since the last look are looked into; all of them
    /// again where one that is known was replaced, since what stands for it comes where that one was.
    ///
    /// # Errors
    /// Where a run cannot be read.
    pub async fn shares(&self, image: &Image, tp: TopicPartition) -> Result<Arc<Vec<Share>>, Error> {
        let created = image.topic(tp.topic).map_or(0, |topic| topic.created);
        let known = self.memo.lock().get(tp);
        // What was looked up by newer metadata may lack what this image names yet.
        let is_newer = known.as_ref().is_some_and(|(since, _)| *since > image.version() + 1);
        let named = |(_, known): &(_, Arc<Vec<Share>>)| {
            !is_newer && known.iter().all(|share: &Share| image.run(share.run).is_some())
        };
        let (since, known) = known.filter(named).unwrap_or_else(|| (created, Arc::default()));
        let fresh: Vec<&Arc<RunRow>> = image.runs_of(tp, since).collect();
        if fresh.is_empty() {
            return Ok(known);
        }
        let mut shares: Vec<Share> = known.to_vec();
        let looks: Vec<_> =
            fresh.into_iter().map(|run| shares_in(self.runs.clone(), run.clone(), tp)).collect();
        let mut looks = futures::stream::iter(looks).buffered(AT_A_TIME);
        while let Some(found) = looks.next().await {
            shares.extend(found?);
        }
        shares.sort_by_key(|share| (share.base, share.run));
        let shares = Arc::new(shares);
        if !is_newer {
            self.memo.lock().keep(tp, image.version() + 1, shares.clone());
        }
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

/// Shares one after the other as they are read: the first, and what `window` bytes beyond it reach, at most [`LEGS`].
fn route<'a>(image: &Image, shares: impl Iterator<Item = &'a Share>, window: u64) -> Vec<Leg> {
    let (mut legs, mut beyond) = (Vec::new(), 0);
    for share in shares.take(LEGS) {
        let Some(run) = image.run(share.run).filter(|_| beyond < window) else { break };
        if !legs.is_empty() {
            beyond += share.bytes;
        }
        let range = share.position..share.position + share.bytes;
        legs.push(Leg { kind: Kind::Run, key: run.key.clone(), range, size: run.bytes });
    }
    legs
}

/// A batch without records in place of those that compaction took from `from` to `until`, where a reader has to stop before
/// the next one there is: it goes on behind it.
fn passed_over(from: Offset, until: Offset) -> Batch {
    let mut builder = Builder::new().base_offset(from);
    builder.span_to(Offset((until.0 - 1).clamp(from.0, from.0 + i64::from(i32::MAX))));
    builder.build()
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
        position: entry.position,
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

/// As much of a share's bytes as lies at or above `from`, about.
fn part_above(share: &Share, from: Offset) -> u64 {
    if share.base >= from {
        return share.bytes;
    }
    let (above, all) = ((share.last.0 - from.0 + 1).max(0), share.last.0 - share.base.0 + 1);
    (share.bytes as f64 * (above as f64 / all as f64)) as u64
}

fn damaged(key: &str, why: &impl ToString) -> Error {
    Error::Corrupt { key: key.to_owned(), why: why.to_string() }
}

#[cfg(test)]
pub(crate) mod tests;
