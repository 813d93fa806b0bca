//! ListOffsets inside one batch, exact to the record.

use super::compress::TRUSTED_LIMIT;
use super::view::Batch;
use super::walk::{Entry, Step, walk};
use super::{BatchError, TimestampType};
use crate::id::{Millis, Offset};

/// The first record at or above `from` whose timestamp is `target` or later. Under the broker's clock all of a batch's
/// records have one time.
pub fn find_by_timestamp(
    batch: &Batch,
    target: Millis,
    from: Offset,
) -> Result<Option<(Offset, Millis)>, BatchError> {
    if batch.max_timestamp() < target || batch.count() <= 0 {
        return Ok(None);
    }
    let mut found = None;
    walk_times(batch, from, |offset, timestamp| {
        if timestamp < target {
            return Step::Next;
        }
        found = Some((offset, timestamp));
        Step::Enough
    })?;
    Ok(found)
}

/// The first of the records at or above `from` that has the largest timestamp of them (ListOffsets −3). Under the broker's
/// clock all have the same, so it is the first (KAFKA-16342).
pub fn max_timestamp(batch: &Batch, from: Offset) -> Result<Option<(Offset, Millis)>, BatchError> {
    if batch.count() <= 0 {
        return Ok(None);
    }
    let mut found: Option<(Offset, Millis)> = None;
    walk_times(batch, from, |offset, timestamp| {
        if found.is_none_or(|(_, best)| timestamp > best) {
            found = Some((offset, timestamp));
        }
        if timestamp == batch.max_timestamp() { Step::Enough } else { Step::Next }
    })?;
    Ok(found)
}

fn walk_times(
    batch: &Batch,
    from: Offset,
    mut each: impl FnMut(Offset, Millis) -> Step,
) -> Result<(), BatchError> {
    let append_time = batch.timestamp_type() == TimestampType::LogAppendTime;
    walk(batch, TRUSTED_LIMIT, &mut |entry: Entry| {
        let offset = Offset(batch.base_offset().0.wrapping_add(i64::from(entry.offset_delta)));
        if offset < from {
            return Step::Next;
        }
        each(offset, if append_time { batch.max_timestamp() } else { timestamp_of(batch, &entry) })
    })
    .map(|_expanded| ())
}

/// The producer's timestamp of a record.
pub(crate) fn timestamp_of(batch: &Batch, entry: &Entry) -> Millis {
    Millis(batch.base_timestamp().0.wrapping_add(entry.timestamp_delta))
}
