//! The cut: a lane's recent parcels become run objects, so that its low mark can rise and takeover stays short.
//!
//! R18: everything goes up under fresh names, and counts only once a metadata commit names it. R19: only what is
//! committed in the lane is cut, to the last batch of every partition, and the commit is the caller's. The plain
//! form: one level, every byte copied. Memory is bounded by one object (64 MiB unless told otherwise).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use tidemark_proto::id::{BrokerEpoch, ClusterId, LaneId, Offset, Seq, TopicPartition};
use tokio::time::Instant;

use crate::bucket::{Body, Bucket, Kind, Patience, Placed, Span};
use crate::error::Error;
use crate::format::{self, Damage, HEADER_LEN, Header};
use crate::keys;
use crate::parcel::{BatchEntry, Footer, Part, verify_batches};
use crate::run::checkpoint;
use crate::run::{CheckpointRow, Piece, RunRow, State, build};
use crate::seam::Seams;

/// When a cut is due.
#[derive(Clone, Copy, Debug)]
pub struct Thresholds {
    /// Parcels.
    pub parcels: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Age of the oldest.
    pub age: Duration,
}

impl Default for Thresholds {
    fn default() -> Thresholds {
        Thresholds { parcels: 256, bytes: 1 << 30, age: Duration::from_secs(600) }
    }
}

/// How far to cut now, if a cut is due: the end of `committed`, the committed parcels from the low mark on, each
/// with its object's size and when it was sent.
pub fn plan(
    now: Instant,
    committed: impl IntoIterator<Item = (Seq, u64, Instant)>,
    due: Thresholds,
) -> Option<Seq> {
    let (mut parcels, mut bytes, mut oldest, mut end) = (0, 0u64, now, None);
    for (seq, size, sent) in committed {
        parcels += 1;
        bytes = bytes.saturating_add(size);
        oldest = oldest.min(sent);
        end = Some(seq.next());
    }
    let aged = now.saturating_duration_since(oldest) >= due.age;
    end.filter(|_| parcels >= due.parcels || bytes >= due.bytes || aged)
}

/// Where a cut takes its bytes from.
#[async_trait]
pub trait Source: Send + Sync {
    /// These bytes of a parcel.
    async fn read(&self, seq: Seq, range: Range<u64>) -> Result<Bytes, Error>;
}

/// The parcels as the bucket has them.
#[derive(Clone, Debug)]
pub struct Parcels {
    /// The bucket.
    pub bucket: Bucket,
    /// The lane.
    pub lane: LaneId,
}

#[async_trait]
impl Source for Parcels {
    async fn read(&self, seq: Seq, range: Range<u64>) -> Result<Bytes, Error> {
        let key = keys::parcel(&self.lane, seq);
        let fetched = self.bucket.get(Kind::Parcel, &key, Span::Range(range), Patience::Forever).await?;
        fetched.map(|fetched| fetched.bytes).ok_or(Error::Gone { key })
    }
}

/// Which batches a cut takes over: void ones, deleted topics' and those below the log start stay behind.
pub type Wanted<'a> = &'a (dyn Fn(Seq, TopicPartition, &BatchEntry) -> bool + Sync);

/// What to cut.
#[derive(Clone, Debug)]
pub struct Job {
    /// The cluster.
    pub cluster: ClusterId,
    /// The lane that is cut.
    pub lane: LaneId,
    /// The epoch of who cuts it: the lane's own, or its recoverer's.
    pub creator: BrokerEpoch,
    /// The parcels from the low mark on, without a gap.
    pub parcels: Vec<(Seq, Arc<Footer>)>,
    /// Partitions as of the end of these parcels. One without a batch in them goes into the checkpoint only.
    pub states: BTreeMap<TopicPartition, State>,
    /// Whether to write a checkpoint.
    pub checkpoint: bool,
    /// Bytes of batches at which an object is full.
    pub object_bytes: u64,
}

/// Bytes of batches at which an object is full, unless told otherwise. Below the format's 256 MiB, because an
/// object is in memory while it is sent.
pub const OBJECT_BYTES: u64 = 64 << 20;

/// What a cut wrote; nothing of it counts before a metadata commit names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The new low mark.
    pub upto: Seq,
    /// The objects.
    pub runs: Vec<RunRow>,
    /// The checkpoint, if one was asked for.
    pub checkpoint: Option<CheckpointRow>,
}

/// Slices of parcels read at a time.
const READS: usize = 8;

/// Writes the objects of a cut; `None` where there is nothing to cut.
pub async fn run(
    bucket: &Bucket,
    seams: &Seams,
    source: &dyn Source,
    job: &Job,
    wanted: Wanted<'_>,
) -> Result<Option<Cut>, Error> {
    let (Some((from, _)), Some((last, _))) = (job.parcels.first(), job.parcels.last()) else {
        return Ok(None);
    };
    let (from, upto) = (*from, last.next());
    if upto.0 - from.0 != job.parcels.len() as u64 {
        return Err(Damage::new("a cut over parcels with a gap").at(&keys::lane(&job.lane)));
    }
    let mut runs = Vec::new();
    for object in objects(job, wanted) {
        let pieces = pieces(source, job, &object, wanted).await?;
        if pieces.is_empty() {
            continue;
        }
        let id = keys::fresh_id(job.creator, &seams.entropy);
        let header = header(format::Kind::Run, job, upto, seams);
        let (body, row) = build(header, id, vec![(job.lane, from, upto)], pieces);
        put(bucket, Kind::Run, &row.key, &body).await?;
        runs.push(row);
    }
    let mut checkpoint = None;
    if job.checkpoint {
        let id = keys::fresh_id(job.creator, &seams.entropy);
        let body = checkpoint::encode(header(format::Kind::Checkpoint, job, upto, seams), &job.states);
        let row =
            CheckpointRow { id, key: keys::checkpoint(id), lane: job.lane, upto, bytes: body.len() as u64 };
        put(bucket, Kind::Checkpoint, &row.key, &body).await?;
        checkpoint = Some(row);
    }
    Ok(Some(Cut { upto, runs, checkpoint }))
}

fn header(kind: format::Kind, job: &Job, upto: Seq, seams: &Seams) -> Header {
    Header::of_lane(kind, job.cluster, job.lane, upto, seams.entropy.nonce())
}

async fn put(bucket: &Bucket, kind: Kind, key: &str, body: &Body) -> Result<(), Error> {
    match bucket.place(kind, key, body, HEADER_LEN).await {
        Placed::Ours => Ok(()),
        Placed::Other(_) => Err(Damage::new("another object has this fresh name").at(key)),
    }
}

/// A partition's parts that go into one object: indexes of parcels, and of the part in each.
#[derive(Clone, Debug)]
struct Share {
    of: TopicPartition,
    internal: bool,
    parts: Vec<(usize, usize)>,
    last: bool,
}

/// Deals all partitions out to objects, in the parcels' order. A partition that does not fit goes on in the next
/// object; only its last share carries the state.
fn objects(job: &Job, wanted: Wanted<'_>) -> Vec<Vec<Share>> {
    let mut all: BTreeMap<(bool, TopicPartition), Vec<(usize, usize)>> = BTreeMap::new();
    for (parcel, (_, footer)) in job.parcels.iter().enumerate() {
        for (at, part) in footer.parts.iter().enumerate() {
            all.entry((part.internal, part.of)).or_default().push((parcel, at));
        }
    }
    let bytes_of = |&(parcel, at): &(usize, usize)| -> u64 {
        let (seq, footer) = &job.parcels[parcel];
        let part = &footer.parts[at];
        part.batches.iter().filter(|batch| wanted(*seq, part.of, batch)).map(BatchEntry::stored).sum()
    };
    let mut objects: Vec<Vec<Share>> = Vec::new();
    let mut room = 0u64;
    for ((internal, of), parts) in all {
        let sized: Vec<_> = parts.into_iter().map(|part| (part, bytes_of(&part))).collect();
        let total: u64 = sized.iter().map(|(_, bytes)| bytes).sum();
        if total == 0 {
            continue;
        }
        if objects.is_empty() || (total > room && room < job.object_bytes) {
            objects.push(Vec::new());
            room = job.object_bytes;
        }
        let mut share = Share { of, internal, parts: Vec::new(), last: false };
        for (part, bytes) in sized {
            if bytes > room && !share.parts.is_empty() {
                let rest = Share { parts: Vec::new(), ..share.clone() };
                push(&mut objects, std::mem::replace(&mut share, rest));
                objects.push(Vec::new());
                room = job.object_bytes;
            }
            room = room.saturating_sub(bytes);
            share.parts.push(part);
        }
        share.last = true;
        push(&mut objects, share);
    }
    objects
}

fn push(objects: &mut [Vec<Share>], share: Share) {
    if let Some(object) = objects.last_mut() {
        object.push(share);
    }
}

/// Reads what goes into one object: of each parcel one slice, as parcels have the same order.
async fn pieces(
    source: &dyn Source,
    job: &Job,
    object: &[Share],
    wanted: Wanted<'_>,
) -> Result<Vec<Piece>, Error> {
    let mut slices: BTreeMap<usize, Range<u64>> = BTreeMap::new();
    for (parcel, at) in object.iter().flat_map(|share| share.parts.iter().copied()) {
        let part = &job.parcels[parcel].1.parts[at];
        let end = part.position + part.length;
        let slice = slices.entry(parcel).or_insert(part.position..end);
        *slice = slice.start.min(part.position)..slice.end.max(end);
    }
    let reads = slices.into_iter().map(|(parcel, range)| async move {
        let (start, seq) = (range.start, job.parcels[parcel].0);
        Ok::<_, Error>((parcel, (start, source.read(seq, range).await?)))
    });
    let slices: BTreeMap<usize, (u64, Bytes)> = stream::iter(reads).buffered(READS).try_collect().await?;
    let mut pieces = Vec::with_capacity(object.len());
    for share in object {
        let mut batches: Vec<(BatchEntry, Bytes)> = Vec::new();
        for &(parcel, at) in &share.parts {
            let (seq, footer) = &job.parcels[parcel];
            let part = &footer.parts[at];
            let (start, slice) = &slices[&parcel];
            let bytes = part_of(slice, *start, part).map_err(|d| d.at(&keys::parcel(&job.lane, *seq)))?;
            take(&mut batches, &bytes, part, |batch| wanted(*seq, part.of, batch))
                .map_err(|damage| damage.at(&keys::parcel(&job.lane, *seq)))?;
        }
        if batches.is_empty() {
            continue;
        }
        let state = job.states.get(&share.of).filter(|_| share.last).cloned();
        pieces.push(Piece { of: share.of, internal: share.internal, batches, state });
    }
    Ok(pieces)
}

/// A part's bytes, verified (R27).
fn part_of(slice: &Bytes, start: u64, part: &Part) -> Result<Bytes, Damage> {
    let from = (part.position - start) as usize;
    let end = from + part.length as usize;
    if end > slice.len() {
        return Err(Damage::new(format!("partition {} is cut short", part.of)));
    }
    let bytes = slice.slice(from..end);
    verify_batches(&bytes, &part.batches)?;
    Ok(bytes)
}

/// Adds a part's wanted batches behind those of earlier parcels. Offsets may have gaps, where another lane held
/// the partition in between, but never overlap (R13).
fn take(
    batches: &mut Vec<(BatchEntry, Bytes)>,
    bytes: &Bytes,
    part: &Part,
    wanted: impl Fn(&BatchEntry) -> bool,
) -> Result<(), Damage> {
    for (extent, batch) in part.extents() {
        if batch.by_reference || !wanted(batch) {
            continue;
        }
        let end = batches.last().map_or(Offset(0), |(last, _)| last.last_offset.plus(1));
        if batch.base_offset < end {
            let why = format!("partition {}: offset {} comes after {end}", part.of, batch.base_offset);
            return Err(Damage::new(why));
        }
        let from = (extent.position - part.position) as usize;
        batches.push((*batch, bytes.slice(from..from + extent.length as usize)));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
