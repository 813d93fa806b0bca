//! ListOffsets inside one batch, exact to the record.

use super::compress::TRUSTED_LIMIT;
use super::view::Batch;
use super::walk::{Entry, Step, walk};
use super::{BatchError, TimestampType};
use crate::id::{Millis, Offset};

/// The first record whose timestamp is `target` or later. Under the broker's clock that is the batch's
/// first record, or none.
pub fn find_by_timestamp(batch: &Batch, target: Millis) -> Result<Option<(Offset, Millis)>, BatchError> {
    if batch.max_timestamp() < target || batch.count() <= 0 {
        return Ok(None);
    }
    first(batch, |timestamp| timestamp >= target)
}

/// The first record that has the batch's largest timestamp (ListOffsets −3). Under the broker's clock all
/// have it, so it is the first (KAFKA-16342).
pub fn max_timestamp(batch: &Batch) -> Result<Option<(Offset, Millis)>, BatchError> {
    if batch.count() <= 0 {
        return Ok(None);
    }
    let max = batch.max_timestamp();
    first(batch, |timestamp| timestamp == max)
}

fn first(batch: &Batch, wanted: impl Fn(Millis) -> bool) -> Result<Option<(Offset, Millis)>, BatchError> {
    let mut found = None;
    let append_time = batch.timestamp_type() == TimestampType::LogAppendTime;
    walk(batch, TRUSTED_LIMIT, &mut |entry: Entry| {
        let timestamp = if append_time { batch.max_timestamp() } else { timestamp_of(batch, &entry) };
        if !wanted(timestamp) {
            return Step::Next;
        }
        let offset = batch.base_offset().0.wrapping_add(i64::from(entry.offset_delta));
        found = Some((Offset(offset), timestamp));
        Step::Enough
    })?;
    Ok(found)
}

/// The producer's timestamp of a record.
pub(crate) fn timestamp_of(batch: &Batch, entry: &Entry) -> Millis {
    Millis(batch.base_timestamp().0.wrapping_add(entry.timestamp_delta))
}
