//! Walking the records of a batch without building them: lengths, deltas and whether a key is there.
//!
//! One pass, no allocation, compressed or not. This is the deep half of validation, and what ListOffsets
//! uses to be exact to the record. It runs for *every* produced batch, as Kafka's broker does: a batch
//! that only claims to be sound would break each consumer of its partition for ever.

use super::compress::{Inflate, with_scratch};
use super::cursor::{Cursor, Pieces, Stop};
use super::view::{Batch, HEADER_BYTES};
use super::{BatchError, Compression};

/// What a walk tells of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Position in the batch, from 0.
    pub(crate) index: i32,
    /// Offset − the batch's base offset.
    pub(crate) offset_delta: i32,
    /// Timestamp − the batch's base timestamp.
    pub(crate) timestamp_delta: i64,
    /// Whether it has a key.
    pub(crate) has_key: bool,
}

/// Shows every record to `see` in order, until it says stop. Checks the grammar up to there and, when
/// nobody stops it, that the records end where the batch does. Answers the bytes walked, expanded.
pub(crate) fn walk(
    batch: &Batch,
    limit: usize,
    see: &mut dyn FnMut(Entry) -> Step,
) -> Result<usize, BatchError> {
    let payload = &batch.bytes()[HEADER_BYTES..];
    match batch.compression()? {
        Compression::None => walk_pieces(Cursor::new(payload), batch.count(), see),
        codec => with_scratch(|scratch| {
            walk_pieces(Cursor::new(Inflate::new(codec, payload, limit, scratch)), batch.count(), see)
        }),
    }
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Show the next record.
    Next,
    /// Enough.
    Enough,
}

fn walk_pieces<P: Pieces>(
    mut cursor: Cursor<P>,
    count: i32,
    see: &mut dyn FnMut(Entry) -> Step,
) -> Result<usize, BatchError> {
    for index in 0..count {
        let entry = record(&mut cursor, index).map_err(|stop| match stop {
            Fault::Stop(Stop::End) => BatchError::Record { index, why: "the records end before it does" },
            Fault::Stop(Stop::Varint) => BatchError::Record { index, why: "a varint is too long" },
            Fault::Stop(Stop::Source(error)) => error,
            Fault::Why(why) => BatchError::Record { index, why },
        })?;
        if see(entry) == Step::Enough {
            return Ok(cursor.passed as usize);
        }
    }
    if !cursor.at_end()? {
        return Err(BatchError::Record { index: count, why: "more records than the batch counts" });
    }
    Ok(cursor.passed as usize)
}

enum Fault {
    Stop(Stop),
    Why(&'static str),
}

impl From<Stop> for Fault {
    fn from(stop: Stop) -> Self {
        Fault::Stop(stop)
    }
}

fn record<P: Pieces>(cursor: &mut Cursor<P>, index: i32) -> Result<Entry, Fault> {
    let length = cursor.varint()?;
    let length = u64::try_from(length).map_err(|_| Fault::Why("negative size"))?;
    let end = cursor.passed + length;
    cursor.byte()?; // attributes: none are defined
    let timestamp_delta = cursor.varlong()?;
    let offset_delta = cursor.varint()?;
    let has_key = nullable(cursor, end)?;
    nullable(cursor, end)?;
    let headers = cursor.varint()?;
    if headers < 0 || i64::from(headers) > end.saturating_sub(cursor.passed) as i64 {
        return Err(Fault::Why("impossible header count"));
    }
    for _ in 0..headers {
        if !nullable(cursor, end)? {
            return Err(Fault::Why("a header without a name"));
        }
        nullable(cursor, end)?;
    }
    if cursor.passed != end {
        return Err(Fault::Why("its fields do not fill its size"));
    }
    Ok(Entry { index, offset_delta, timestamp_delta, has_key })
}

/// Skips a field behind its length; false for null. Never past the record, whatever the length says.
fn nullable<P: Pieces>(cursor: &mut Cursor<P>, end: u64) -> Result<bool, Fault> {
    let length = cursor.varint()?;
    if length < -1 {
        return Err(Fault::Why("negative field length"));
    }
    let Ok(length) = u64::try_from(length) else { return Ok(false) };
    if cursor.passed + length > end {
        return Err(Fault::Why("a field runs past its record"));
    }
    cursor.skip(length)?;
    Ok(true)
}
