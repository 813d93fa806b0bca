//! One partition's share of a run's object, and the state that goes with it.

use bytes::Bytes;
use tidemark_proto::id::{LeaderEpoch, Millis, Offset, TopicPartition};

use crate::format::Damage;
use crate::format::scan::{Scan, put_partition};
use crate::parcel::Extent;

/// A slice is closed by the batch that makes it this long.
pub const SLICE: u64 = 64 << 10;

const SMALLEST: usize = 20 + 4 + 8 * 5 + 4 + 4 + 1 + 4;
const INTERNAL: u32 = 1;

/// What a takeover needs to know of a partition as of some end offset (R16).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// First offset that can be read.
    pub log_start: Offset,
    /// Offset after the last record.
    pub end: Offset,
    /// Leader epochs and the offset each began at, rising.
    pub epochs: Vec<(LeaderEpoch, Offset)>,
    /// The broker's snapshot of producers (and open transactions), opaque here.
    pub snapshot: Bytes,
}

/// A stretch of whole batches, where a look-up lands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// First offset.
    pub base_offset: Offset,
    /// Where it begins, from the partition's position on.
    pub at: u32,
    /// Greatest timestamp in it.
    pub max_timestamp: Millis,
}

/// A partition's entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Whose.
    pub of: TopicPartition,
    /// Whether it belongs to an internal topic.
    pub internal: bool,
    /// First offset.
    pub base_offset: Offset,
    /// Last offset.
    pub last_offset: Offset,
    /// Greatest timestamp.
    pub max_timestamp: Millis,
    /// Where in the object.
    pub position: u64,
    /// How many bytes.
    pub length: u64,
    /// CRC32C of these bytes.
    pub crc: u32,
    /// Batches.
    pub batches: u32,
    /// The state at the cut, if the cutter had it.
    pub state: Option<State>,
    /// Where look-ups land; the first begins at 0.
    pub slices: Vec<Slice>,
}

/// The order of a run, and of its pages' fences.
pub type Place = (bool, TopicPartition);

impl State {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.log_start.0.to_be_bytes());
        out.extend_from_slice(&self.end.0.to_be_bytes());
        out.extend_from_slice(&(self.epochs.len() as u32).to_be_bytes());
        for (epoch, start) in &self.epochs {
            out.extend_from_slice(&epoch.0.to_be_bytes());
            out.extend_from_slice(&start.0.to_be_bytes());
        }
        out.extend_from_slice(&(self.snapshot.len() as u32).to_be_bytes());
        out.extend_from_slice(&self.snapshot);
    }

    pub(super) fn parse(scan: &mut Scan) -> Result<State, Damage> {
        let (log_start, end) = (Offset(scan.i64()?), Offset(scan.i64()?));
        if log_start.0 < 0 || end < log_start {
            return Err(Damage::new("a log that ends before it starts"));
        }
        let count = scan.count(12)?;
        let mut epochs: Vec<(LeaderEpoch, Offset)> = Vec::with_capacity(count);
        for _ in 0..count {
            let next = (LeaderEpoch(scan.i32()?), Offset(scan.i64()?));
            if epochs.last().is_some_and(|last| last.0 >= next.0 || last.1 > next.1) {
                return Err(Damage::new("leader epochs do not rise"));
            }
            epochs.push(next);
        }
        let length = scan.count(1)?;
        let snapshot = Bytes::copy_from_slice(scan.take(length)?);
        Ok(State { log_start, end, epochs, snapshot })
    }
}

impl Partition {
    /// Its place in the order of a run.
    pub fn place(&self) -> Place {
        (self.internal, self.of)
    }

    /// The slices that hold `from` and what follows, each of whole batches.
    pub fn extents(&self, from: Offset) -> impl Iterator<Item = Extent> {
        let first = self.slices.partition_point(|slice| slice.base_offset <= from).saturating_sub(1);
        let first = if from > self.last_offset { self.slices.len() } else { first };
        (first..self.slices.len()).filter_map(|at| self.extent(at))
    }

    /// The first slice that holds a record of `time` or later at `from` or above; look on in the next ones if
    /// it turns out to hold none at or above `from`.
    pub fn extents_since(&self, time: Millis, from: Offset) -> impl Iterator<Item = Extent> {
        let first = self.slices.partition_point(|slice| slice.base_offset <= from).saturating_sub(1);
        let later = self.slices.iter().enumerate().skip(first);
        later.filter(move |(_, slice)| slice.max_timestamp >= time).filter_map(|(at, _)| self.extent(at))
    }

    fn extent(&self, at: usize) -> Option<Extent> {
        let slice = self.slices.get(at)?;
        let next = self.slices.get(at + 1);
        let end = next.map_or(self.length, |next| u64::from(next.at));
        Some(Extent {
            base_offset: slice.base_offset,
            last_offset: next.map_or(self.last_offset, |next| Offset(next.base_offset.0 - 1)),
            position: self.position + u64::from(slice.at),
            length: end - u64::from(slice.at),
        })
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        put_partition(out, self.of);
        out.extend_from_slice(&if self.internal { INTERNAL } else { 0 }.to_be_bytes());
        out.extend_from_slice(&self.base_offset.0.to_be_bytes());
        out.extend_from_slice(&self.last_offset.0.to_be_bytes());
        out.extend_from_slice(&self.max_timestamp.0.to_be_bytes());
        out.extend_from_slice(&self.position.to_be_bytes());
        out.extend_from_slice(&self.length.to_be_bytes());
        out.extend_from_slice(&self.crc.to_be_bytes());
        out.extend_from_slice(&self.batches.to_be_bytes());
        out.push(u8::from(self.state.is_some()));
        if let Some(state) = &self.state {
            state.put(out);
        }
        out.extend_from_slice(&(self.slices.len() as u32).to_be_bytes());
        for slice in &self.slices {
            out.extend_from_slice(&slice.base_offset.0.to_be_bytes());
            out.extend_from_slice(&slice.at.to_be_bytes());
            out.extend_from_slice(&slice.max_timestamp.0.to_be_bytes());
        }
    }

    pub(super) fn parse(scan: &mut Scan) -> Result<Partition, Damage> {
        let of = scan.partition()?;
        let flags = scan.u32()?;
        let (base_offset, last_offset) = (Offset(scan.i64()?), Offset(scan.i64()?));
        let max_timestamp = Millis(scan.i64()?);
        let (position, length) = (scan.u64()?, scan.u64()?);
        let (crc, batches) = (scan.u32()?, scan.u32()?);
        let state = match scan.u8()? {
            0 => None,
            1 => Some(State::parse(scan)?),
            _ => return Err(Damage::new("bad state flag")),
        };
        let bad = |what: &str| Err(Damage::new(format!("partition {of}: {what}")));
        if flags & !INTERNAL != 0 || of.partition.0 < 0 || base_offset.0 < 0 || last_offset < base_offset {
            return bad("bad flags, index or offsets");
        }
        let count = scan.count(20)?;
        let mut slices: Vec<Slice> = Vec::with_capacity(count);
        for _ in 0..count {
            let slice = Slice {
                base_offset: Offset(scan.i64()?),
                at: scan.u32()?,
                max_timestamp: Millis(scan.i64()?),
            };
            let rises = match slices.last() {
                None => slice.at == 0 && slice.base_offset == base_offset,
                Some(last) => last.base_offset < slice.base_offset && last.at < slice.at,
            };
            if !rises || u64::from(slice.at) >= length || slice.base_offset > last_offset {
                return bad("its slices do not rise");
            }
            slices.push(slice);
        }
        if slices.is_empty() || position.checked_add(length).is_none() {
            return bad("no slices, or no end");
        }
        let internal = flags & INTERNAL != 0;
        Ok(Partition {
            of,
            internal,
            base_offset,
            last_offset,
            max_timestamp,
            position,
            length,
            crc,
            batches,
            state,
            slices,
        })
    }
}

/// A page's bytes.
pub(super) fn encode_page(partitions: &[Partition]) -> Vec<u8> {
    let mut out = Vec::with_capacity(partitions.len() * 128);
    out.extend_from_slice(&(partitions.len() as u32).to_be_bytes());
    partitions.iter().for_each(|partition| partition.put(&mut out));
    out
}

/// Reads a page; its entries rise by place, then offset, and lie side by side.
pub(super) fn parse_page(bytes: &[u8]) -> Result<Vec<Partition>, Damage> {
    let mut scan = Scan::new(bytes);
    let count = scan.count(SMALLEST)?;
    let mut partitions: Vec<Partition> = Vec::with_capacity(count);
    for _ in 0..count {
        let next = Partition::parse(&mut scan)?;
        if let Some(last) = partitions.last() {
            let rises = last.place() < next.place()
                || (last.place() == next.place() && last.last_offset < next.base_offset);
            if !rises || last.position + last.length != next.position {
                return Err(Damage::new(format!("partition {} is out of order", next.of)));
            }
        }
        partitions.push(next);
    }
    scan.end()?;
    Ok(partitions)
}
