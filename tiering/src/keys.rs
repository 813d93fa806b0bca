//! Every object name in the bucket, formatted and parsed here only (design.md §6).
//!
//! Names are relative to the bucket's prefix. `parse(format(name)) == name` for every name, and `parse` accepts
//! nothing that `format` would write differently, so an unknown or sloppy key is never mistaken for ours.
//! Numbers are 20 digits wide, so that listings come in numeric order.

use std::fmt;

use tidemark_proto::id::{
    BrokerEpoch, Generation, LaneId, Life, Offset, PartitionIndex, Position, Seq, TopicId,
};
use uuid::Uuid;

use crate::bucket::Kind;
use crate::seam::Entropy;

/// Folder of all lanes.
pub const LANES: &str = "wal/";
/// Folder of the metadata log, snapshots included.
pub const META: &str = "meta/";
/// Folder of the metadata snapshots.
pub const SNAPSHOTS: &str = "meta/snapshot/";
/// Folder of runs and checkpoints.
pub const RUNS: &str = "run/";
/// Folder of segments.
pub const SEGMENTS: &str = "segment/";
/// Folder of partition manifests.
pub const MANIFESTS: &str = "manifest/";
/// Folder of what start-up probes wrote.
pub const PROBES: &str = "probe/";

/// What of a lane's identity stands in its folder's name. The header of each object holds the whole of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneTag {
    /// The broker epoch.
    pub epoch: BrokerEpoch,
    /// Number within the epoch.
    pub lane: u32,
    /// The first 32 bits of the life.
    pub life8: u32,
}

impl From<&LaneId> for LaneTag {
    fn from(id: &LaneId) -> LaneTag {
        LaneTag { epoch: id.epoch, lane: id.lane, life8: (id.life.0 >> 96) as u32 }
    }
}

impl LaneTag {
    /// `wal/<hash4>-<epoch20>-<lane>-<life8>/`.
    pub fn folder(&self) -> String {
        let rest = format!("{:020}-{}-{:08x}", self.epoch.0, self.lane, self.life8);
        format!("wal/{}-{rest}/", hash4(&rest))
    }

    fn parse(folder: &str) -> Option<LaneTag> {
        let (hash, rest) = folder.split_once('-')?;
        let mut parts = rest.split('-');
        let tag = LaneTag {
            epoch: BrokerEpoch(number20(parts.next()?)?),
            lane: u32::try_from(number(parts.next()?)?).ok()?,
            life8: u32::try_from(hex(parts.next()?, 8)?).ok()?,
        };
        (parts.next().is_none() && hash == hash4(rest)).then_some(tag)
    }
}

/// The objects of a segment (KIP-405), in the order in which they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SegmentPart {
    /// The record batches.
    Log,
    /// All indexes.
    Indexes,
    /// The manifest; a segment without one does not exist.
    Manifest,
}

impl SegmentPart {
    /// All of them.
    pub const ALL: [SegmentPart; 3] = [SegmentPart::Log, SegmentPart::Indexes, SegmentPart::Manifest];

    /// The key's ending.
    pub fn suffix(self) -> &'static str {
        match self {
            SegmentPart::Log => "log",
            SegmentPart::Indexes => "indexes",
            SegmentPart::Manifest => "rsm-manifest",
        }
    }
}

/// The name of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    /// A parcel, or the seal, of a lane.
    Parcel {
        /// The lane.
        lane: LaneTag,
        /// Its place in the lane.
        seq: Seq,
    },
    /// A record, or the seal, of the metadata log.
    Meta(Position),
    /// A metadata snapshot: the fold of everything below the position.
    Snapshot(Position),
    /// One object of a run.
    Run {
        /// 0 for a cut, +1 with every merge.
        level: u32,
        /// Its id.
        id: Uuid,
    },
    /// A checkpoint.
    Checkpoint {
        /// Its id.
        id: Uuid,
    },
    /// One object of a segment.
    Segment {
        /// Whose segment.
        segment: SegmentName,
        /// Which object of it.
        part: SegmentPart,
    },
    /// Older segment entries of a partition.
    Manifest {
        /// The topic.
        topic_id: TopicId,
        /// The partition.
        partition: PartitionIndex,
        /// Its place among the partition's manifests.
        seq: Seq,
        /// Its id.
        id: Uuid,
    },
    /// Something a start-up probe wrote.
    Probe {
        /// The life that probed.
        life: Life,
        /// The rest of the name; no `/`.
        what: String,
    },
}

/// The common part of the names of a segment's objects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// The topic's name when the segment was written.
    pub topic: String,
    /// The topic's id.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: PartitionIndex,
    /// First offset.
    pub base: Offset,
    /// The segment's id.
    pub id: Uuid,
}

impl Name {
    /// The inverse of `to_string`; `None` for anything that no version of ours wrote.
    pub fn parse(key: &str) -> Option<Name> {
        if key.len() > 1024 {
            return None;
        }
        let (top, rest) = key.split_once('/')?;
        match top {
            "wal" => {
                let (folder, seq) = rest.split_once('/')?;
                Some(Name::Parcel { lane: LaneTag::parse(folder)?, seq: Seq(number20(seq)?) })
            }
            "meta" => parse_meta(rest),
            "run" => parse_run(rest),
            "segment" => parse_segment(rest),
            "manifest" => parse_manifest(rest),
            "probe" => {
                let (life, what) = rest.split_once('/')?;
                let life = Life(hex(life, 32)?);
                let plain = !what.is_empty() && what.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
                plain.then(|| Name::Probe { life, what: what.to_owned() })
            }
            _ => None,
        }
    }

    /// What the object is, as far as its name tells: a seal looks like the parcel or record it stands for.
    pub fn kind(&self) -> Kind {
        match self {
            Name::Parcel { .. } => Kind::Parcel,
            Name::Meta(_) => Kind::Meta,
            Name::Snapshot(_) => Kind::Snapshot,
            Name::Run { .. } => Kind::Run,
            Name::Checkpoint { .. } => Kind::Checkpoint,
            Name::Segment { .. } => Kind::Segment,
            Name::Manifest { .. } => Kind::Manifest,
            Name::Probe { .. } => Kind::Probe,
        }
    }

    /// The broker epoch that made the object, where its name tells: garbage is recognised by name.
    pub fn creator(&self) -> Option<BrokerEpoch> {
        match self {
            Name::Parcel { lane, .. } => Some(lane.epoch),
            Name::Run { id, .. } | Name::Checkpoint { id } | Name::Manifest { id, .. } => creator(*id),
            Name::Segment { segment, .. } => creator(segment.id),
            Name::Meta(_) | Name::Snapshot(_) | Name::Probe { .. } => None,
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Parcel { lane, seq } => write!(f, "{}{:020}", lane.folder(), seq.0),
            Name::Meta(at) => write!(f, "meta/{:020}/{:020}", at.generation.0, at.seq.0),
            Name::Snapshot(at) => write!(f, "meta/snapshot/{:020}-{:020}", at.generation.0, at.seq.0),
            Name::Run { level, id } => {
                let rest = format!("{level}-{id}");
                write!(f, "run/{}/{rest}", hash4(&rest))
            }
            Name::Checkpoint { id } => {
                let rest = format!("check-{id}");
                write!(f, "run/{}/{rest}", hash4(&rest))
            }
            Name::Segment { segment, part } => write!(
                f,
                "segment/{}-{}/{}/{:020}-{}.{}",
                segment.topic,
                kafka_id(segment.topic_id.0),
                segment.partition.0,
                segment.base.0,
                kafka_id(segment.id),
                part.suffix()
            ),
            Name::Manifest { topic_id, partition, seq, id } => {
                write!(f, "manifest/{}/{}/{:020}-{id}", kafka_id(topic_id.0), partition.0, seq.0)
            }
            Name::Probe { life, what } => write!(f, "probe/{life}/{what}"),
        }
    }
}

/// The folder of a lane: `wal/<hash4>-<epoch20>-<lane>-<life8>/`.
pub fn lane(id: &LaneId) -> String {
    LaneTag::from(id).folder()
}

/// The key of a parcel or of the seal of a lane.
pub fn parcel(id: &LaneId, seq: Seq) -> String {
    Name::Parcel { lane: LaneTag::from(id), seq }.to_string()
}

/// The key of a record of the metadata log, or of a generation's seal.
pub fn meta(at: Position) -> String {
    Name::Meta(at).to_string()
}

/// What a generation's keys begin with: a listing after it begins with its first object.
pub fn generation(generation: Generation) -> String {
    format!("{META}{:020}", generation.0)
}

/// The key of the metadata snapshot at a position.
pub fn snapshot(at: Position) -> String {
    Name::Snapshot(at).to_string()
}

/// The key of an object of a run.
pub fn run(level: u32, id: Uuid) -> String {
    Name::Run { level, id }.to_string()
}

/// The key of a checkpoint.
pub fn checkpoint(id: Uuid) -> String {
    Name::Checkpoint { id }.to_string()
}

/// The folder of a topic's segments.
pub fn segments_of(topic: &str, id: TopicId) -> String {
    format!("{SEGMENTS}{topic}-{}/", kafka_id(id.0))
}

/// The key of one object of a segment.
pub fn segment(segment: &SegmentName, part: SegmentPart) -> String {
    Name::Segment { segment: segment.clone(), part }.to_string()
}

/// The key of a partition manifest.
pub fn manifest(topic_id: TopicId, partition: PartitionIndex, seq: Seq, id: Uuid) -> String {
    Name::Manifest { topic_id, partition, seq, id }.to_string()
}

/// A new object id: a UUIDv8 of the creator's epoch (60 bits) and 62 random bits.
pub fn fresh_id(epoch: BrokerEpoch, entropy: &Entropy) -> Uuid {
    let random = entropy.u64();
    let mut bytes = [0u8; 16];
    let epoch = epoch.0 & EPOCH_MASK;
    bytes[..6].copy_from_slice(&(epoch >> 12).to_be_bytes()[2..]);
    bytes[6..8].copy_from_slice(&((epoch & 0xfff) as u16).to_be_bytes());
    bytes[8..].copy_from_slice(&random.to_be_bytes());
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// The creator's epoch in an id made by [`fresh_id`]; `None` for any other id.
pub fn creator(id: Uuid) -> Option<BrokerEpoch> {
    if id.get_version_num() != 8 {
        return None;
    }
    let high = (id.as_u128() >> 80) as u64;
    let low = (id.as_u128() >> 64) as u64 & 0xfff;
    Some(BrokerEpoch(high << 12 | low))
}

const EPOCH_MASK: u64 = (1 << 60) - 1;

/// Kafka's text form of an id: URL-safe base64 without padding, 22 characters.
pub fn kafka_id(id: Uuid) -> String {
    let mut out = String::with_capacity(22);
    for i in 0..22 {
        let digit = if i == 21 { id.as_u128() << 4 } else { id.as_u128() >> (122 - 6 * i) };
        out.push(BASE64[(digit & 63) as usize] as char);
    }
    out
}

/// The inverse of [`kafka_id`].
pub fn parse_kafka_id(text: &str) -> Option<Uuid> {
    if text.len() != 22 {
        return None;
    }
    let mut value = 0u128;
    for (i, byte) in text.bytes().enumerate() {
        let digit = BASE64.iter().position(|b| *b == byte)? as u128;
        if i == 21 {
            if digit & 15 != 0 {
                return None;
            }
            value = value << 2 | digit >> 4;
        } else {
            value = value << 6 | digit;
        }
    }
    Some(Uuid::from_u128(value))
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn parse_meta(rest: &str) -> Option<Name> {
    let (folder, name) = rest.split_once('/')?;
    let (generation, seq, snapshot) = match folder {
        "snapshot" => {
            let (generation, seq) = name.split_once('-')?;
            (generation, seq, true)
        }
        generation => (generation, name, false),
    };
    let at = Position { generation: Generation(number20(generation)?), seq: Seq(number20(seq)?) };
    Some(if snapshot { Name::Snapshot(at) } else { Name::Meta(at) })
}

fn parse_run(rest: &str) -> Option<Name> {
    let (hash, rest) = rest.split_once('/')?;
    if hash != hash4(rest) {
        return None;
    }
    let (level, id) = rest.split_once('-')?;
    let id = uuid(id)?;
    Some(match level {
        "check" => Name::Checkpoint { id },
        level => Name::Run { level: u32::try_from(number(level)?).ok()?, id },
    })
}

fn parse_segment(rest: &str) -> Option<Name> {
    let mut parts = rest.split('/');
    let (folder, partition, file) = (parts.next()?, parts.next()?, parts.next()?);
    let (topic, topic_id) = folder.split_at_checked(folder.len().checked_sub(23)?)?;
    let (base, file) = file.split_at_checked(20)?;
    let (id, suffix) = file.strip_prefix('-')?.split_at_checked(22)?;
    let suffix = suffix.strip_prefix('.')?;
    let part = SegmentPart::ALL.into_iter().find(|p| p.suffix() == suffix)?;
    if parts.next().is_some() || !topic_name(topic) {
        return None;
    }
    let segment = SegmentName {
        topic: topic.to_owned(),
        topic_id: TopicId(parse_kafka_id(topic_id.strip_prefix('-')?)?),
        partition: PartitionIndex(i32::try_from(number(partition)?).ok()?),
        base: Offset(i64::try_from(number20(base)?).ok()?),
        id: parse_kafka_id(id)?,
    };
    Some(Name::Segment { segment, part })
}

fn parse_manifest(rest: &str) -> Option<Name> {
    let mut parts = rest.split('/');
    let (topic_id, partition, file) = (parts.next()?, parts.next()?, parts.next()?);
    let (seq, id) = file.split_once('-')?;
    let name = Name::Manifest {
        topic_id: TopicId(parse_kafka_id(topic_id)?),
        partition: PartitionIndex(i32::try_from(number(partition)?).ok()?),
        seq: Seq(number20(seq)?),
        id: uuid(id)?,
    };
    parts.next().is_none().then_some(name)
}

/// Kafka's rule for topic names.
fn topic_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 249
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// The first 4 hex digits of a hash of the rest of the name: spreads keys over a store's partitions.
fn hash4(rest: &str) -> String {
    format!("{:04x}", crc32c::crc32c(rest.as_bytes()) >> 16)
}

fn number20(text: &str) -> Option<u64> {
    (text.len() == 20 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// A number without leading zeros.
fn number(text: &str) -> Option<u64> {
    let plain = text == "0" || !text.starts_with('0');
    (plain && !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

fn hex(text: &str, digits: usize) -> Option<u128> {
    let plain = text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    plain.then(|| u128::from_str_radix(text, 16).ok())?
}

/// Only the hyphenated lower-case form.
fn uuid(text: &str) -> Option<Uuid> {
    let id = Uuid::try_parse(text).ok()?;
    (id.to_string() == text).then_some(id)
}

#[cfg(test)]
mod tests;
