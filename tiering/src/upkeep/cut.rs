//! The cut: a lane's recent parcels become run objects, so that its low mark can rise and takeover stays short.
//!
//! R18: everything goes up under fresh names, and counts only once a metadata commit names it. R19: only what is
//! committed in the lane is cut, and the commit is the caller's. The plain form: one level, every byte copied. An
//! object holds a *stretch*: parcels that lie side by side in the lane, sorted by partition. So each parcel is read
//! once at most, by one request, and not at all where its batches are at hand; and the bytes held are one stretch's.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use tidemark_proto::id::{BrokerEpoch, ClusterId, LaneId, Seq, TopicPartition};
use tidemark_proto::record::stamp::Stamped;

use crate::bucket::{Body, Bucket, Kind, Patience, Placed, Span};
use crate::error::Error;
use crate::format::{self, Damage, HEADER_LEN, Header};
use crate::keys;
use crate::parcel::{BatchEntry, Footer, Part, verify_batches};
use crate::run::checkpoint;
use crate::run::{CheckpointRow, Piece, RunRow, State, build};
use crate::seam::Seams;

/// Bytes of parcels that fill an object. Far below the format's 256 MiB: a stretch is in memory while it is sorted
/// and sent.
pub const OBJECT_BYTES: u64 = 32 << 20;

/// Parcels read at a time.
const READS: usize = 4;

/// Batches smaller than this are copied side by side: they neither pin what they came in nor swell a PUT's list.
const SMALL: usize = 4 << 10;

/// What a cut need not read from the bucket.
pub trait Source: Send + Sync {
    /// The batches of a part of the parcel `seq`, in its order, where all of them are at hand.
    fn at_hand(&self, seq: Seq, part: &Part) -> Option<Vec<Stamped>>;
}

/// Nothing is at hand.
#[derive(Clone, Copy, Debug)]
pub struct BucketOnly;

impl Source for BucketOnly {
    fn at_hand(&self, _: Seq, _: &Part) -> Option<Vec<Stamped>> {
        None
    }
}

/// Which batches a cut takes over: void ones, deleted topics' and those below the log start stay behind.
pub type Wanted<'a> = &'a (dyn Fn(Seq, TopicPartition, &BatchEntry) -> bool + Sync);

/// One stretch to cut.
#[derive(Clone, Debug)]
pub struct Job {
    /// The cluster.
    pub cluster: ClusterId,
    /// The lane that is cut.
    pub lane: LaneId,
    /// The epoch of who cuts it: the lane's own, or its recoverer's.
    pub creator: BrokerEpoch,
    /// The stretch: parcels without a gap between them, in order.
    pub parcels: Vec<(Seq, Arc<Footer>)>,
    /// Their partitions as of the end of the stretch.
    pub states: BTreeMap<TopicPartition, State>,
}

/// How many of the parcels, given by the bytes of their batches, go into one object: at least one.
pub fn stretch(sizes: impl IntoIterator<Item = u64>, object_bytes: u64) -> usize {
    let mut held = 0u64;
    let fits = |size: &u64| {
        let first = held == 0;
        held = held.saturating_add((*size).max(1));
        first || held <= object_bytes
    };
    sizes.into_iter().take_while(fits).count()
}

/// Writes the object of a stretch; `None` where nothing in it is wanted. Nothing counts before a metadata commit
/// names it.
pub async fn object(
    bucket: &Bucket,
    seams: &Seams,
    source: &dyn Source,
    job: &Job,
    wanted: Wanted<'_>,
) -> Result<Option<RunRow>, Error> {
    let (Some((from, _)), Some((last, _))) = (job.parcels.first(), job.parcels.last()) else {
        return Ok(None);
    };
    let (from, upto) = (*from, last.next());
    if upto.0 - from.0 != job.parcels.len() as u64 {
        return Err(Damage::new("a cut over parcels with a gap").at(&keys::lane(&job.lane)));
    }
    let pieces = pieces(bucket, source, job, wanted).await?;
    if pieces.is_empty() {
        return Ok(None);
    }
    let id = keys::fresh_id(job.creator, &seams.entropy);
    let header = Header::of_lane(format::Kind::Run, job.cluster, job.lane, upto, seams.entropy.nonce());
    let (body, row) = build(header, id, vec![(job.lane, from, upto)], pieces);
    put(bucket, Kind::Run, &row.key, &body).await?;
    Ok(Some(row))
}

/// Writes a checkpoint of `states`, which hold below the parcel `upto` of `lane`.
pub async fn checkpoint(
    bucket: &Bucket,
    seams: &Seams,
    cluster: ClusterId,
    creator: BrokerEpoch,
    (lane, upto): (LaneId, Seq),
    states: &BTreeMap<TopicPartition, State>,
) -> Result<CheckpointRow, Error> {
    let id = keys::fresh_id(creator, &seams.entropy);
    let header = Header::of_lane(format::Kind::Checkpoint, cluster, lane, upto, seams.entropy.nonce());
    let body = checkpoint::encode(header, states);
    let (key, bytes) = (keys::checkpoint(id), body.len() as u64);
    let row = CheckpointRow { id, key, lane, upto, bytes, committed: 0 };
    put(bucket, Kind::Checkpoint, &row.key, &body).await?;
    Ok(row)
}

pub(super) async fn put(bucket: &Bucket, kind: Kind, key: &str, body: &Body) -> Result<(), Error> {
    match bucket.place(kind, key, body, HEADER_LEN).await {
        Placed::Ours => Ok(()),
        Placed::Other(_) => Err(Damage::new("another object has this fresh name").at(key)),
    }
}

/// The wanted batches of one part of a parcel.
struct Share<'a> {
    part: &'a Part,
    batches: Vec<&'a BatchEntry>,
    bytes: Vec<Bytes>,
}

/// What goes into the object, in its order.
async fn pieces<'a>(
    bucket: &Bucket,
    source: &dyn Source,
    job: &'a Job,
    wanted: Wanted<'_>,
) -> Result<Vec<Piece<'a>>, Error> {
    let reads =
        job.parcels.iter().map(|(seq, footer)| shares(bucket, source, job.lane, *seq, footer, wanted));
    let mut reads = stream::iter(reads.collect::<Vec<_>>()).buffered(READS);
    let mut pieces: BTreeMap<(bool, TopicPartition), Vec<Piece<'a>>> = BTreeMap::new();
    let mut seq = job.parcels.first().map_or(Seq(0), |(seq, _)| *seq);
    while let Some(shares) = reads.try_next().await? {
        for Share { part, batches, bytes } in shares {
            let (of, internal) = (part.of, part.internal);
            let Some(first) = batches.first() else { continue };
            let pieces = pieces.entry((internal, of)).or_default();
            // Offsets may have gaps, where another lane held the partition in between, but never overlap (R13).
            let end =
                pieces.last().and_then(|piece| piece.batches.last()).map(|last| last.last_offset.plus(1));
            if let Some(end) = end.filter(|end| first.base_offset < *end) {
                let why = format!("partition {of}: offset {} comes after {end}", first.base_offset);
                return Err(Damage::new(why).at(&keys::parcel(&job.lane, seq)));
            }
            match pieces.last_mut().filter(|_| end == Some(first.base_offset)) {
                Some(piece) => {
                    piece.batches.extend(batches);
                    piece.bytes.extend(bytes);
                }
                None => pieces.push(Piece { of, internal, batches, bytes, state: None }),
            }
        }
        seq = seq.next();
    }
    let with_state = |mut of_one: Vec<Piece<'a>>| {
        if let Some(newest) = of_one.last_mut() {
            newest.state = job.states.get(&newest.of).cloned();
        }
        of_one
    };
    Ok(pieces.into_values().flat_map(with_state).collect())
}

/// What is wanted of one parcel: what is at hand as it is, the rest by one read.
async fn shares<'a>(
    bucket: &Bucket,
    source: &dyn Source,
    lane: LaneId,
    seq: Seq,
    footer: &'a Footer,
    wanted: Wanted<'_>,
) -> Result<Vec<Share<'a>>, Error> {
    let mut shares = Vec::new();
    let mut missing: Option<Range<u64>> = None;
    for part in &footer.parts {
        let take = |batch: &&BatchEntry| !batch.by_reference && wanted(seq, part.of, batch);
        let batches: Vec<&BatchEntry> = part.batches.iter().filter(take).collect();
        if batches.is_empty() {
            continue;
        }
        let bytes = source.at_hand(seq, part).and_then(|found| gather(&found, part, &batches));
        if bytes.is_none() {
            let end = part.position + part.length;
            let range = missing.get_or_insert(part.position..end);
            *range = range.start.min(part.position)..range.end.max(end);
        }
        shares.push(Share { part, batches, bytes: bytes.unwrap_or_default() });
    }
    let Some(range) = missing else { return Ok(shares) };
    let (key, start) = (keys::parcel(&lane, seq), range.start);
    let fetched = bucket.get(Kind::Parcel, &key, Span::Range(range), Patience::Forever).await?;
    let read = fetched.ok_or_else(|| Error::Gone { key: key.clone() })?.bytes;
    for share in shares.iter_mut().filter(|share| share.bytes.is_empty()) {
        share.bytes = slice(&read, start, share.part, &share.batches).map_err(|damage| damage.at(&key))?;
    }
    Ok(shares)
}

/// The wanted batches of a part that lies in `read`, verified (R27).
fn slice(read: &Bytes, start: u64, part: &Part, batches: &[&BatchEntry]) -> Result<Vec<Bytes>, Damage> {
    let from = (part.position - start) as usize;
    let end = from + part.length as usize;
    if end > read.len() {
        return Err(Damage::new(format!("partition {} is cut short", part.of)));
    }
    let bytes = read.slice(from..end);
    verify_batches(&bytes, &part.batches)?;
    if batches.len() == part.batches.len() {
        return Ok(vec![bytes]);
    }
    let mut wanted = batches.iter().map(|batch| batch.base_offset).peekable();
    let mut out = Vec::with_capacity(batches.len());
    for (extent, _) in part.extents() {
        if wanted.next_if_eq(&extent.base_offset).is_some() {
            let at = (extent.position - part.position) as usize;
            out.push(bytes.slice(at..at + extent.length as usize));
        }
    }
    Ok(out)
}

/// The wanted ones of the batches at hand; `None` unless they are what the footer says.
fn gather(found: &[Stamped], part: &Part, wanted: &[&BatchEntry]) -> Option<Vec<Bytes>> {
    let says = |(entry, batch): (&BatchEntry, &Stamped)| {
        let is = (batch.base_offset(), batch.partition_leader_epoch(), batch.crc(), batch.len());
        is == (entry.base_offset, entry.leader_epoch, entry.crc, entry.length as usize)
    };
    if found.len() != part.batches.len() || !part.batches.iter().zip(found).all(says) {
        return None;
    }
    let mut wanted = wanted.iter().map(|batch| batch.base_offset).peekable();
    let (mut out, mut small) = (Vec::new(), BytesMut::new());
    for batch in found {
        if wanted.next_if_eq(&batch.base_offset()).is_none() {
            continue;
        }
        small.extend_from_slice(batch.head());
        if batch.len() < SMALL {
            small.extend_from_slice(batch.tail());
        } else {
            out.push(small.split().freeze());
            out.push(batch.tail().clone());
        }
    }
    if !small.is_empty() {
        out.push(small.freeze());
    }
    Some(out)
}

#[cfg(test)]
mod tests;
