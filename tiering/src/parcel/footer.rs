//! A parcel's footer: which batches lie where, and facts that are no batches.
//!
//! Invariants of every footer that was parsed: parts are unique and in order (user topics by topic id and
//! partition, then internal ones), their positions tile the body from the header on, their batches tile the
//! part, offsets rise within a part. Knows no object name and no lane.

use tidemark_proto::id::{LeaderEpoch, Millis, Offset, ProducerEpoch, ProducerId, TopicPartition};
use tidemark_proto::record::control::{EndMarker, Outcome};
use tidemark_proto::record::view::{Batch, sequence_plus};

use crate::format::scan::{Scan, put_partition, put_string};
use crate::format::{Damage, HEADER_LEN};

/// Bytes of a batch's entry.
pub const BATCH_LEN: usize = 68;
/// Bytes of a part's entry, without its batches.
pub const PART_LEN: usize = 44;

/// Kafka's smallest batch: its header alone.
const SMALLEST: u32 = 61;

const BY_REFERENCE: u16 = 1;
const MARKER: u16 = 2;
const COMMIT: u16 = 4;
const INTERNAL: u32 = 1;

/// What a parcel holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footer {
    /// One per partition with a batch in the parcel.
    pub parts: Vec<Part>,
    /// What rides in the lane besides batches.
    pub facts: Vec<Fact>,
}

/// One partition's share of a parcel: one extent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Whose batches.
    pub of: TopicPartition,
    /// Whether it belongs to an internal topic.
    pub internal: bool,
    /// Where in the object.
    pub position: u64,
    /// How many bytes.
    pub length: u64,
    /// In offset order.
    pub batches: Vec<BatchEntry>,
}

/// What recovery and reads need to know of a batch without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchEntry {
    /// First offset.
    pub base_offset: Offset,
    /// Last offset.
    pub last_offset: Offset,
    /// Bytes, head included.
    pub length: u32,
    /// The batch's own CRC32C; covers all from the attributes on.
    pub crc: u32,
    /// Records.
    pub count: u32,
    /// Kafka's attributes: codec, timestamp type, transactional, control.
    pub attributes: i16,
    /// First record's timestamp.
    pub base_timestamp: Millis,
    /// Greatest timestamp.
    pub max_timestamp: Millis,
    /// Producer, or -1.
    pub producer_id: ProducerId,
    /// Its epoch, or -1.
    pub producer_epoch: ProducerEpoch,
    /// First sequence number, or -1.
    pub base_sequence: i32,
    /// The leader epoch stamped on it.
    pub leader_epoch: LeaderEpoch,
    /// What it ends, if it is a transaction marker.
    pub marker: Option<Marker>,
    /// Its bytes lie in another lane's object. No writer of version 1 sets it.
    pub by_reference: bool,
}

/// A transaction marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    /// Committed, or aborted.
    pub commit: bool,
    /// Epoch of the coordinator that wrote it.
    pub coordinator_epoch: i32,
}

/// What rides in a lane besides batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A partition's log start moved.
    LogStart {
        /// The partition.
        of: TopicPartition,
        /// The epoch of the leader that moved it.
        leader_epoch: LeaderEpoch,
        /// The new log start.
        offset: Offset,
    },
    /// A partition's state up to an offset lies in another object.
    SnapshotRef {
        /// The partition.
        of: TopicPartition,
        /// The epoch of the leader that took it.
        leader_epoch: LeaderEpoch,
        /// The state is that before this offset.
        offset: Offset,
        /// The object.
        key: String,
    },
}

/// An offset range and where its bytes lie in one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First offset.
    pub base_offset: Offset,
    /// Last offset.
    pub last_offset: Offset,
    /// Where in the object.
    pub position: u64,
    /// How many bytes.
    pub length: u64,
}

impl BatchEntry {
    /// The entry of `batch` once it is stamped with `base` and `leader_epoch`.
    pub fn of(batch: &Batch, base: Offset, leader_epoch: LeaderEpoch) -> Result<BatchEntry, Damage> {
        let end = EndMarker::read(batch).map_err(|error| Damage::new(error.to_string()))?;
        let marker = end.map(|end| Marker {
            commit: end.outcome == Outcome::Commit,
            coordinator_epoch: end.coordinator_epoch,
        });
        Ok(BatchEntry {
            base_offset: base,
            last_offset: base.plus(i64::from(batch.last_offset_delta())),
            length: batch.size() as u32, // Kafka's own length field is an i32
            crc: batch.crc(),
            count: batch.count().max(0) as u32,
            attributes: batch.attributes(),
            base_timestamp: batch.base_timestamp(),
            max_timestamp: batch.max_timestamp(),
            producer_id: batch.producer_id(),
            producer_epoch: batch.producer_epoch(),
            base_sequence: batch.base_sequence(),
            leader_epoch,
            marker,
            by_reference: false,
        })
    }

    /// Bytes it takes in this object.
    pub fn stored(&self) -> u64 {
        if self.by_reference { 0 } else { u64::from(self.length) }
    }

    /// Compression codec id.
    pub fn codec(&self) -> i16 {
        self.attributes & 7
    }

    /// Whether it belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & 0x10 != 0
    }

    /// Whether it is a control batch.
    pub fn is_control(&self) -> bool {
        self.attributes & 0x20 != 0
    }

    /// Sequence number of its last record, or -1 (wraps as Kafka's does).
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return -1;
        }
        sequence_plus(self.base_sequence, (self.last_offset.0 - self.base_offset.0) as i32)
    }

    fn put(&self, out: &mut Vec<u8>) {
        let delta = (self.last_offset.0 - self.base_offset.0) as u32;
        let flags = if self.by_reference { BY_REFERENCE } else { 0 }
            | match self.marker {
                None => 0,
                Some(marker) => MARKER | if marker.commit { COMMIT } else { 0 },
            };
        out.extend_from_slice(&self.base_offset.0.to_be_bytes());
        out.extend_from_slice(&delta.to_be_bytes());
        out.extend_from_slice(&self.length.to_be_bytes());
        out.extend_from_slice(&self.crc.to_be_bytes());
        out.extend_from_slice(&self.count.to_be_bytes());
        out.extend_from_slice(&self.attributes.to_be_bytes());
        out.extend_from_slice(&flags.to_be_bytes());
        out.extend_from_slice(&self.base_timestamp.0.to_be_bytes());
        out.extend_from_slice(&self.max_timestamp.0.to_be_bytes());
        out.extend_from_slice(&self.producer_id.0.to_be_bytes());
        out.extend_from_slice(&self.producer_epoch.0.to_be_bytes());
        out.extend_from_slice(&0u16.to_be_bytes());
        out.extend_from_slice(&self.base_sequence.to_be_bytes());
        out.extend_from_slice(&self.leader_epoch.0.to_be_bytes());
        out.extend_from_slice(&self.marker.map_or(0, |m| m.coordinator_epoch).to_be_bytes());
    }

    fn parse(scan: &mut Scan) -> Result<BatchEntry, Damage> {
        let base_offset = scan.i64()?;
        let delta = scan.u32()?;
        let length = scan.u32()?;
        let crc = scan.u32()?;
        let count = scan.u32()?;
        let attributes = scan.i16()?;
        let flags = scan.u16()?;
        let base_timestamp = Millis(scan.i64()?);
        let max_timestamp = Millis(scan.i64()?);
        let producer_id = ProducerId(scan.i64()?);
        let producer_epoch = ProducerEpoch(scan.i16()?);
        let reserved = scan.u16()?;
        let base_sequence = scan.i32()?;
        let leader_epoch = LeaderEpoch(scan.i32()?);
        let coordinator_epoch = scan.i32()?;
        let last = base_offset.checked_add(i64::from(delta)).filter(|_| base_offset >= 0);
        let last = last.filter(|&last| last < i64::MAX).ok_or_else(|| Damage::new("offsets out of range"))?;
        if flags & !(BY_REFERENCE | MARKER | COMMIT) != 0 || reserved != 0 {
            return Err(Damage::new("unknown batch flags"));
        }
        if length < SMALLEST {
            return Err(Damage::new(format!("a batch of {length} bytes")));
        }
        let commit = flags & COMMIT != 0;
        let marker = (flags & MARKER != 0).then_some(Marker { commit, coordinator_epoch });
        if marker.is_none() && (commit || coordinator_epoch != 0) {
            return Err(Damage::new("marker fields without a marker"));
        }
        Ok(BatchEntry {
            base_offset: Offset(base_offset),
            last_offset: Offset(last),
            length,
            crc,
            count,
            attributes,
            base_timestamp,
            max_timestamp,
            producer_id,
            producer_epoch,
            base_sequence,
            leader_epoch,
            marker,
            by_reference: flags & BY_REFERENCE != 0,
        })
    }
}

impl Part {
    /// First offset.
    pub fn base_offset(&self) -> Offset {
        self.batches.first().map_or(Offset(0), |batch| batch.base_offset)
    }

    /// Last offset.
    pub fn last_offset(&self) -> Offset {
        self.batches.last().map_or(Offset(-1), |batch| batch.last_offset)
    }

    /// Each batch with its place in the object.
    pub fn extents(&self) -> impl Iterator<Item = (Extent, &BatchEntry)> {
        let mut position = self.position;
        self.batches.iter().map(move |batch| {
            let extent = Extent {
                base_offset: batch.base_offset,
                last_offset: batch.last_offset,
                position,
                length: batch.stored(),
            };
            position += batch.stored();
            (extent, batch)
        })
    }
}

impl Footer {
    /// A partition's share.
    pub fn part(&self, of: TopicPartition) -> Option<&Part> {
        let internal = self.parts.partition_point(|part| !part.internal);
        let (user, system) = self.parts.split_at(internal);
        [user, system].into_iter().find_map(|parts| {
            let at = parts.binary_search_by_key(&of, |part| part.of).ok()?;
            parts.get(at)
        })
    }

    /// The places of a partition's batches.
    pub fn extents(&self, of: TopicPartition) -> impl Iterator<Item = (Extent, &BatchEntry)> {
        self.part(of).into_iter().flat_map(Part::extents)
    }

    /// Bytes of all batches in the object.
    pub fn batch_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.length).sum()
    }

    /// The footer's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let batches: usize = self.parts.iter().map(|part| part.batches.len()).sum();
        let mut out =
            Vec::with_capacity(8 + self.parts.len() * PART_LEN + batches * BATCH_LEN + self.facts.len() * 40);
        out.extend_from_slice(&(self.parts.len() as u32).to_be_bytes());
        for part in &self.parts {
            put_partition(&mut out, part.of);
            out.extend_from_slice(&if part.internal { INTERNAL } else { 0 }.to_be_bytes());
            out.extend_from_slice(&part.position.to_be_bytes());
            out.extend_from_slice(&part.length.to_be_bytes());
            out.extend_from_slice(&(part.batches.len() as u32).to_be_bytes());
            part.batches.iter().for_each(|batch| batch.put(&mut out));
        }
        out.extend_from_slice(&(self.facts.len() as u32).to_be_bytes());
        self.facts.iter().for_each(|fact| fact.put(&mut out));
        out
    }

    /// Reads a footer and checks every invariant of this module.
    pub fn parse(bytes: &[u8]) -> Result<Footer, Damage> {
        let mut scan = Scan::new(bytes);
        let count = scan.count(PART_LEN)?;
        let mut parts = Vec::with_capacity(count);
        let mut position = HEADER_LEN as u64;
        let mut before = None;
        for _ in 0..count {
            let part = parse_part(&mut scan, &mut position)?;
            let place = Some((part.internal, part.of));
            if place <= before {
                return Err(Damage::new(format!("partition {} is out of order", part.of)));
            }
            before = place;
            parts.push(part);
        }
        let count = scan.count(Fact::SMALLEST)?;
        let facts = (0..count).map(|_| Fact::parse(&mut scan)).collect::<Result<_, _>>()?;
        scan.end()?;
        Ok(Footer { parts, facts })
    }

    /// Where the batches end in the object.
    pub fn end(&self) -> u64 {
        self.parts.last().map_or(HEADER_LEN as u64, |part| part.position + part.length)
    }
}

fn parse_part(scan: &mut Scan, position: &mut u64) -> Result<Part, Damage> {
    let of = scan.partition()?;
    let flags = scan.u32()?;
    let (at, length) = (scan.u64()?, scan.u64()?);
    let count = scan.count(BATCH_LEN)?;
    if flags & !INTERNAL != 0 || count == 0 || of.partition.0 < 0 {
        return Err(Damage::new(format!("partition {of}: bad flags, index or count")));
    }
    let mut batches: Vec<BatchEntry> = Vec::with_capacity(count);
    let mut stored = 0u64;
    for _ in 0..count {
        let batch = BatchEntry::parse(scan)?;
        if batches.last().is_some_and(|last| last.last_offset >= batch.base_offset) {
            return Err(Damage::new(format!("partition {of}: offset {} is out of order", batch.base_offset)));
        }
        stored += batch.stored();
        batches.push(batch);
    }
    if at != *position || length != stored {
        return Err(Damage::new(format!("partition {of}: its batches do not tile the object")));
    }
    *position += length;
    Ok(Part { of, internal: flags & INTERNAL != 0, position: at, length, batches })
}

impl Fact {
    const SMALLEST: usize = 1 + 20 + 12;

    fn put(&self, out: &mut Vec<u8>) {
        let (tag, of, leader_epoch, offset) = match self {
            Fact::LogStart { of, leader_epoch, offset } => (1u8, of, leader_epoch, offset),
            Fact::SnapshotRef { of, leader_epoch, offset, .. } => (2, of, leader_epoch, offset),
        };
        out.push(tag);
        put_partition(out, *of);
        out.extend_from_slice(&leader_epoch.0.to_be_bytes());
        out.extend_from_slice(&offset.0.to_be_bytes());
        if let Fact::SnapshotRef { key, .. } = self {
            put_string(out, key);
        }
    }

    fn parse(scan: &mut Scan) -> Result<Fact, Damage> {
        let tag = scan.u8()?;
        let of = scan.partition()?;
        let leader_epoch = LeaderEpoch(scan.i32()?);
        let offset = Offset(scan.i64()?);
        match tag {
            1 => Ok(Fact::LogStart { of, leader_epoch, offset }),
            2 => Ok(Fact::SnapshotRef { of, leader_epoch, offset, key: scan.string()?.to_owned() }),
            _ => Err(Damage::new(format!("unknown fact {tag}"))),
        }
    }
}
