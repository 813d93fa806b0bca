//! Opening partitions: bases out of runs and checkpoints, then the parcels of their chains (R13, R16).
//!
//! A lane that several partitions had in common is read once. Reads exactly the recorded bounds; a hole, a
//! mismatch or a bad CRC takes the partition offline and truncates nothing. Decides nothing about ownership.

mod ahead;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use futures::{Stream, TryStreamExt};
use tidemark_proto::id::{ClusterId, LaneId, LeaderEpoch, Offset, Seq, TopicPartition};
use tidemark_tiering::bucket::Bucket;
use tidemark_tiering::error::Error;
use tidemark_tiering::keys;
use tidemark_tiering::lane::recover;
use tidemark_tiering::planted::{self, Bug};
use tidemark_tiering::witness::{Sight, saw};

use super::base::{Base, Gap};
use super::index::{Extent, Index, Parcel};
use super::task::Lead;
use crate::archive::Archive;
use crate::cluster::image::{ChainEntry, Image};
pub use ahead::Ahead;

/// What recovery of one partition gave.
#[derive(Debug)]
pub struct Opened {
    /// Which.
    pub tp: TopicPartition,
    /// The order it belongs to.
    pub leader_epoch: LeaderEpoch,
    /// The partition as the bucket holds it, or why it cannot be had.
    pub result: Result<(Base, Index), OpenError>,
}

/// Why a partition stays offline.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    /// The bucket's objects are damaged or missing.
    #[error("{0}")]
    Bucket(Arc<Error>),
    /// Offsets do not follow each other.
    #[error("{key}: {gap}")]
    Gap {
        /// The object in which the log breaks.
        key: String,
        /// Where.
        gap: Gap,
    },
}

impl Opened {
    /// Whether a parcel was missing.
    pub fn is_gone(&self) -> bool {
        matches!(&self.result, Err(OpenError::Bucket(error)) if matches!(**error, Error::Gone { .. }))
    }
}

/// Parcels of a lane, by partition.
struct LaneLog {
    parcels: BTreeMap<Seq, Arc<Parcel>>,
    of: BTreeMap<TopicPartition, Vec<(Seq, usize)>>,
}

/// Recovers `leads` as `image` knows their chains, each on its own; what their open entries hold is the owner's to know.
///
/// A result of [`Error::Gone`] means that a parcel within the recorded bounds is missing: the caller looks at newer
/// metadata and tries again, or, where metadata has not moved, takes it for lost (R15).
pub async fn recover(
    bucket: &Bucket,
    archive: &Archive,
    ahead: &Ahead,
    image: &Image,
    leads: &[Lead],
) -> Vec<Opened> {
    let partitions: Vec<TopicPartition> = leads.iter().map(|l| l.tp).collect();
    let mut bases = archive.bases(image, &partitions).await;
    let mut lanes = BTreeMap::new();
    for (lane, (from, to)) in lanes_of(image, leads) {
        lanes.insert(lane, read_lane((bucket, ahead), image, lane, from, to, &partitions).await);
    }
    let mut opened = Vec::with_capacity(leads.len());
    for lead in leads {
        let base = bases.remove(&lead.tp).unwrap_or_else(|| Ok(Base::default()));
        let result = base.map_err(|e| OpenError::Bucket(Arc::new(e)));
        let result = result.and_then(|base| open(image, lead, base, &lanes));
        opened.push(Opened { tp: lead.tp, leader_epoch: lead.leader_epoch, result });
    }
    opened
}

/// What of `entry` is still in parcels.
fn bounds(image: &Image, entry: &ChainEntry) -> Option<(Seq, Seq)> {
    let to = entry.to?;
    let low = image.lane(entry.lane).map_or(Seq(0), |l| l.low);
    let from = entry.from.max(low);
    let to = if planted::is(Bug::RecoveryStopsShort) { Seq(to.0.saturating_sub(1)) } else { to };
    (from < to).then_some((from, to))
}

fn lanes_of(image: &Image, leads: &[Lead]) -> BTreeMap<LaneId, (Seq, Seq)> {
    let mut lanes: BTreeMap<LaneId, (Seq, Seq)> = BTreeMap::new();
    let chains = leads.iter().filter_map(|l| image.partition(l.tp)).flat_map(|p| &p.chain);
    for entry in chains {
        if let Some((from, to)) = bounds(image, entry) {
            let range = lanes.entry(entry.lane).or_insert((from, to));
            *range = (range.0.min(from), range.1.max(to));
        }
    }
    lanes
}

async fn read_lane(
    (bucket, ahead): (&Bucket, &Ahead),
    image: &Image,
    lane: LaneId,
    from: Seq,
    to: Seq,
    wanted: &[TopicPartition],
) -> Result<LaneLog, Error> {
    let wanted: BTreeSet<_> = wanted.iter().copied().collect();
    let mut log = LaneLog { parcels: BTreeMap::new(), of: BTreeMap::new() };
    let known = ahead.parcels(lane, from, to);
    let rest = Seq(from.0 + known.len() as u64)..to;
    known.into_iter().for_each(|parcel| log.take_in(parcel, &wanted));
    let mut parcels = std::pin::pin!(parcels(bucket, image.cluster(), lane, rest));
    while let Some(parcel) = parcels.try_next().await? {
        log.take_in(parcel, &wanted);
    }
    Ok(log)
}

/// The parcels of a stretch of a lane, in order.
fn parcels(
    bucket: &Bucket,
    cluster: ClusterId,
    lane: LaneId,
    range: Range<Seq>,
) -> impl Stream<Item = Result<Arc<Parcel>, Error>> {
    recover::footers(bucket, cluster, lane, range).map_ok(move |(seq, footer, size)| {
        let key = keys::parcel(&lane, seq);
        Arc::new(Parcel { lane, seq, key, footer, size })
    })
}

impl LaneLog {
    fn take_in(&mut self, parcel: Arc<Parcel>, wanted: &BTreeSet<TopicPartition>) {
        for (at, part) in parcel.footer.parts.iter().enumerate() {
            if wanted.contains(&part.of) {
                self.of.entry(part.of).or_default().push((parcel.seq, at));
            }
        }
        self.parcels.insert(parcel.seq, parcel);
    }
}

fn open(
    image: &Image,
    lead: &Lead,
    mut base: Base,
    lanes: &BTreeMap<LaneId, Result<LaneLog, Error>>,
) -> Result<(Base, Index), OpenError> {
    let mut index = Index::default();
    let mut reached: Option<Offset> = None;
    let row = image.partition(lead.tp);
    let chain = row.map(|p| p.chain.as_slice()).unwrap_or_default();
    for entry in chain {
        let Some((from, to)) = bounds(image, entry) else { continue };
        let log = match lanes.get(&entry.lane) {
            Some(Ok(log)) => log,
            Some(Err(error)) => return Err(OpenError::Bucket(Arc::new(error.clone()))),
            None => continue,
        };
        for &(seq, at) in log.of.get(&lead.tp).into_iter().flatten().filter(|(s, _)| *s >= from && *s < to) {
            let parcel = &log.parcels[&seq];
            let batches = &parcel.footer.parts[at].batches;
            let mut first = None;
            for (i, batch) in batches.iter().enumerate() {
                if batch.leader_epoch != entry.leader_epoch {
                    saw(Sight::VoidBatch);
                    continue; // void: another ownership's, beyond its release bound (R13)
                }
                let gap = |gap| OpenError::Gap { key: parcel.key.clone(), gap };
                // A hole before what runs hold is a part that was cut already; replay finds any other.
                if let Some(expected) = reached.filter(|r| batch.base_offset < *r) {
                    return Err(gap(Gap { expected, found: batch.base_offset }));
                }
                base.replay(batch).map_err(gap)?;
                reached = Some(batch.last_offset.plus(1));
                first.get_or_insert(i);
            }
            if let Some(first) = first {
                let last = batches.iter().rposition(|b| b.leader_epoch == entry.leader_epoch);
                let end = last.expect("there is a first one").saturating_add(1);
                index.push_extent(Extent::new(parcel.clone(), at, first..end));
            }
        }
    }
    base.raise_log_start(row.map_or(Offset(0), |p| p.log_start));
    if index.archived_until().is_some() {
        saw(Sight::Recovered);
    }
    Ok((base, index))
}
