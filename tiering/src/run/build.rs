//! Builds one object of a run from batches that are already in order.

use bytes::Bytes;
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

/// One partition's share of an object to be: batches in offset order, each with its bytes.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Whose.
    pub of: TopicPartition,
    /// Whether it belongs to an internal topic.
    pub internal: bool,
    /// Never empty.
    pub batches: Vec<(BatchEntry, Bytes)>,
    /// The state at the cut.
    pub state: Option<State>,
}

/// What the metadata keeps of an object of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRow {
    /// Its id.
    pub id: Uuid,
    /// Its key.
    pub key: String,
    /// 0 for a cut.
    pub level: u32,
    /// Size.
    pub bytes: u64,
    /// The ranges it holds partitions of, inclusive: user topics', internal topics'.
    pub ranges: Vec<(u32, u32)>,
    /// Newest record timestamp.
    pub max_timestamp: Millis,
    /// The parcels it was made from: lane and sequence range, the end exclusive.
    pub lanes: Vec<(LaneId, Seq, Seq)>,
}

/// Builds the object `id` of level 0. `pieces` are in the run's order and not empty.
pub fn build(
    mut header: Header,
    id: Uuid,
    lanes: Vec<(LaneId, Seq, Seq)>,
    pieces: Vec<Piece>,
) -> (Body, RunRow) {
    let mut body = vec![Bytes::new()]; // the header's place
    let mut position = HEADER_LEN as u64;
    let mut entries = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let entry = place(piece, position, &mut body);
        position += entry.length;
        entries.push(entry);
    }
    let max_timestamp = entries.iter().map(|entry| entry.max_timestamp).max().unwrap_or(Millis(-1));
    let ranges = ranges(&entries);
    let mut root = Root { level: 0, max_timestamp, lanes: lanes.clone(), pages: Vec::new() };
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
    let bytes = body.len() as u64;
    (body, RunRow { id, key: keys::run(0, id), level: 0, bytes, ranges, max_timestamp, lanes })
}

/// Adds a piece's bytes to the body and gives its entry.
fn place(piece: Piece, position: u64, body: &mut Vec<Bytes>) -> Partition {
    let Piece { of, internal, batches, state } = piece;
    let (Some((first, _)), Some((last, _))) = (batches.first(), batches.last()) else {
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
        crc: 0,
        batches: batches.len() as u32,
        state,
        slices: Vec::new(),
    };
    for (batch, bytes) in batches {
        debug_assert_eq!(bytes.len() as u64, batch.stored(), "the entry tells of these bytes");
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
        entry.crc = crc32c::crc32c_append(entry.crc, &bytes);
        entry.length += bytes.len() as u64;
        body.push(bytes);
    }
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

fn ranges(entries: &[Partition]) -> Vec<(u32, u32)> {
    let of = |internal| {
        let mut ranges = entries.iter().filter(|e| e.internal == internal).map(|e| range_of(e.of));
        let first = ranges.next()?;
        Some((first, ranges.next_back().unwrap_or(first)))
    };
    [of(false), of(true)].into_iter().flatten().collect()
}
