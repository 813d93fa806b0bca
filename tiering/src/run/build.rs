//! Builds one object of a run from batches that are already in order.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidemark_proto::id::{LaneId, Millis, Seq, TopicPartition};
use uuid::Uuid;

use super::entry::{Partition, SLICE, Slice, State, encode_page};
use super::range_of;
use super::root::{MAGIC, PAGE, Page, Root};
use crate::bucket::Body;
use crate::format::tail::finish;
use crate::format::{HEADER_LEN, Header};
use crate::keys;
use crate::parcel::BatchEntry;

/// Pairs of bounds that a row has at most for user topics, and for internal ones.
pub const RANGES: usize = 8;

/// One partition's share of an object to be.
#[derive(Clone, Debug)]
pub struct Piece<'a> {
    /// Whose.
    pub of: TopicPartition,
    /// Whether it belongs to an internal topic.
    pub internal: bool,
    /// Its batches, in offset order; never empty.
    pub batches: Vec<&'a BatchEntry>,
    /// Their bytes end to end, wherever they are divided.
    pub bytes: Vec<Bytes>,
    /// The state at the cut.
    pub state: Option<State>,
}

/// What the metadata keeps of an object of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunRow {
    /// Its id.
    pub id: Uuid,
    /// Its key.
    pub key: String,
    /// 0 for a cut.
    pub level: u32,
    /// Size.
    pub bytes: u64,
    /// The ranges it holds partitions of: up to [`RANGES`] disjoint pairs, inclusive, of user topics, then as many
    /// of internal ones.
    pub ranges: Vec<(u32, u32)>,
    /// Newest record timestamp.
    pub max_timestamp: Millis,
    /// The parcels it was made from: lane and sequence range, the end exclusive.
    pub lanes: Vec<(LaneId, Seq, Seq)>,
    /// Version of the metadata at which it, or the newest of those it was merged from, was named; 0 before.
    pub committed: u64,
    /// Of its partitions' greatest timestamps the least: before that is old nothing in it is.
    pub oldest: Millis,
    /// What its partitions' topics have in common as to retention; 0: anything.
    pub class: u32,
    /// Partitions' shares in it.
    pub shares: u32,
}

/// Builds the object `id` of level 0. `pieces` are in the run's order and not empty.
pub fn build(
    header: Header,
    id: Uuid,
    lanes: Vec<(LaneId, Seq, Seq)>,
    pieces: Vec<Piece<'_>>,
) -> (Body, RunRow) {
    let mut assembly = Assembly::new();
    for piece in pieces {
        let entry = place(piece, assembly.position, &mut assembly.body);
        assembly.position += entry.length;
        assembly.entries.push(entry);
    }
    let (level, class) = (0, 0);
    assembly.finish(header, Made { id, level, class, lanes, committed: 0 })
}

/// What an object that is assembled is called, and stands for.
#[derive(Clone, Debug)]
pub struct Made {
    /// Its id.
    pub id: Uuid,
    /// 0 for a cut.
    pub level: u32,
    /// See [`RunRow::class`].
    pub class: u32,
    /// See [`RunRow::lanes`].
    pub lanes: Vec<(LaneId, Seq, Seq)>,
    /// See [`RunRow::committed`].
    pub committed: u64,
}

/// An object of a run in the making: entries in the run's order, each with its bytes.
#[derive(Debug)]
pub struct Assembly {
    body: Vec<Bytes>,
    position: u64,
    entries: Vec<Partition>,
}

impl Default for Assembly {
    fn default() -> Assembly {
        Assembly::new()
    }
}

impl Assembly {
    /// Nothing yet.
    pub fn new() -> Assembly {
        // The first part is the header's place.
        Assembly { body: vec![Bytes::new()], position: HEADER_LEN as u64, entries: Vec::new() }
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of batches so far.
    pub fn held(&self) -> u64 {
        self.position - HEADER_LEN as u64
    }

    /// Adds a share behind all others; where it lies is set here, and `entry.length` is that of `bytes`.
    pub fn add(&mut self, mut entry: Partition, bytes: impl IntoIterator<Item = Bytes>) {
        debug_assert!(
            self.entries
                .last()
                .is_none_or(|last| { (last.place(), last.last_offset) < (entry.place(), entry.base_offset) })
        );
        entry.position = self.position;
        self.position += entry.length;
        self.body.extend(bytes);
        self.entries.push(entry);
    }

    /// The whole object and its row.
    pub fn finish(self, mut header: Header, made: Made) -> (Body, RunRow) {
        let Assembly { mut body, mut position, entries } = self;
        let Made { id, level, class, lanes, committed } = made;
        let times = || entries.iter().map(|entry| entry.max_timestamp);
        let max_timestamp = times().max().unwrap_or(Millis(-1));
        // A share without a time is taken to be as old as the object.
        let oldest = times().filter(|time| time.0 >= 0).min().unwrap_or(Millis(-1));
        let (ranges, shares) = (ranges(&entries), entries.len() as u32);
        let mut root = Root { level, max_timestamp, lanes: lanes.clone(), pages: Vec::new() };
        for group in grouped(&entries) {
            let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
            let bytes = encode_page(group);
            let page = Page {
                first: first.place(),
                last: last.place(),
                position,
                length: bytes.len() as u32,
                crc: crc32c::crc32c(&bytes),
            };
            position += bytes.len() as u64;
            root.pages.push(page);
            body.push(Bytes::from(bytes));
        }
        let mut tail = root.encode();
        let head = finish(&mut tail, &mut header, position - HEADER_LEN as u64, MAGIC);
        body[0] = Bytes::copy_from_slice(&head);
        body.push(Bytes::from(tail));
        let body = Body::from(body);
        let (bytes, key) = (body.len() as u64, keys::run(level, id));
        let row =
            RunRow { id, key, level, bytes, ranges, max_timestamp, lanes, committed, oldest, class, shares };
        (body, row)
    }
}

/// Adds a piece's bytes to the body and gives its entry.
fn place(piece: Piece<'_>, position: u64, body: &mut Vec<Bytes>) -> Partition {
    let Piece { of, internal, batches, bytes, state } = piece;
    let (Some(first), Some(last)) = (batches.first(), batches.last()) else {
        unreachable!("a piece has batches")
    };
    let mut entry = Partition {
        of,
        internal,
        base_offset: first.base_offset,
        last_offset: last.last_offset,
        max_timestamp: Millis(-1),
        position,
        length: 0,
        crc: bytes.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part)),
        batches: batches.len() as u32,
        state,
        slices: Vec::new(),
    };
    for batch in batches {
        match entry.slices.last_mut() {
            Some(slice) if entry.length - u64::from(slice.at) < SLICE => {
                slice.max_timestamp = slice.max_timestamp.max(batch.max_timestamp);
            }
            _ => entry.slices.push(Slice {
                base_offset: batch.base_offset,
                at: entry.length as u32, // an object is at most 256 MiB, and one batch more
                max_timestamp: batch.max_timestamp,
            }),
        }
        entry.max_timestamp = entry.max_timestamp.max(batch.max_timestamp);
        entry.length += batch.stored();
    }
    let held: u64 = bytes.iter().map(|part| part.len() as u64).sum();
    debug_assert_eq!(held, entry.length, "the entries tell of these bytes");
    body.extend(bytes);
    entry
}

/// Entries by page.
fn grouped(entries: &[Partition]) -> Vec<&[Partition]> {
    let mut groups = Vec::new();
    let (mut from, mut bytes) = (0, 0);
    for (at, entry) in entries.iter().enumerate() {
        let state = entry.state.as_ref().map_or(0, |s| 24 + s.epochs.len() * 12 + s.snapshot.len());
        bytes += 77 + state + entry.slices.len() * 20;
        if bytes >= PAGE || at + 1 == entries.len() {
            groups.push(&entries[from..=at]);
            (from, bytes) = (at + 1, 0);
        }
    }
    groups
}

/// What a row may say of ranges: exact where an object holds few topics.
fn ranges(entries: &[Partition]) -> Vec<(u32, u32)> {
    let of = |internal| {
        let mut pairs: Vec<(u32, u32)> = Vec::new();
        for range in entries.iter().filter(|e| e.internal == internal).map(|e| range_of(e.of)) {
            if pairs.last().is_none_or(|last| last.1 != range) {
                pairs.push((range, range));
            }
        }
        merged(pairs)
    };
    [of(false), of(true)].concat()
}

/// The pairs, with the narrowest gaps closed until few are left.
fn merged(pairs: Vec<(u32, u32)>) -> Vec<(u32, u32)> {
    let mut gaps: Vec<u32> = pairs.windows(2).map(|two| two[1].0 - two[0].1).collect();
    gaps.sort_unstable_by(|a, b| b.cmp(a));
    let mut closed: Vec<(u32, u32)> = Vec::new();
    let mut splits = RANGES - 1;
    let widest = gaps.get(RANGES - 1).copied().unwrap_or(0);
    for pair in pairs {
        match closed.last_mut() {
            Some(last) if pair.0 - last.1 <= widest || splits == 0 => last.1 = pair.1,
            Some(_) => {
                splits -= 1;
                closed.push(pair);
            }
            None => closed.push(pair),
        }
    }
    closed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_exact_for_few_topics_and_cover_all_of_many() {
        let points = |n: u32| (0..n).map(|i| i * i).map(|r| (r, r)).collect::<Vec<_>>();
        assert_eq!(merged(points(8)), points(8));
        assert!(merged(vec![]).is_empty());
        for n in [9, 40, 300] {
            let found = merged(points(n));
            assert!(found.len() <= RANGES && found.len() > 1, "{found:?}");
            assert!(found.windows(2).all(|two| two[0].1 < two[1].0), "disjoint and in order");
            assert!(points(n).iter().all(|p| found.iter().any(|r| r.0 <= p.0 && p.1 <= r.1)));
        }
    }
}
