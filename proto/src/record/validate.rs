//! What a produced batch must satisfy before it gets an offset: Kafka's `LogValidator` for format v2.
//!
//! Shallow first (structure, size, checksum, header), then every record is walked, compressed or not, as
//! Kafka's broker does; the walk allocates nothing per record and expands at most the caps of [`Rules`].
//! A batch is taken whole or refused whole. Knows no offsets, producer window or transaction state.

use bytes::Bytes;

use super::attributes::DELETE_HORIZON;
use super::lookup::timestamp_of;
use super::stamp::{with_append_time, with_max_timestamp};
use super::view::{Batch, MAGIC_AT, size_of_first};
use super::walk::{Entry, Step, walk};
use super::{BatchError, Compression, TimestampType};
use crate::id::Millis;
use crate::kafka::error::ErrorCode;

/// First Produce version that may carry zstd (KIP-110).
pub const ZSTD_SINCE: i16 = 7;
/// Most records that a refusal names one by one; the rest are counted in its message.
pub const RECORD_ERRORS_MAX: usize = 100;
/// Most records that the message itself quotes, as in Kafka.
const QUOTED_MAX: usize = 3;

/// What holds for the partition, the request and this moment.
#[derive(Clone, Debug)]
pub struct Rules {
    /// `max.message.bytes`, on the batch as it came.
    pub max_message_bytes: usize,
    /// Cap on what the batch may expand to; a caller may pass what its request has left.
    pub max_decompressed_bytes: usize,
    /// Version of the Produce request.
    pub produce_version: i16,
    /// Whether `cleanup.policy` has `compact`: every record needs a key.
    pub compacted: bool,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`.
    pub before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub after_max_ms: i64,
    /// The broker's wall clock.
    pub now: Millis,
}

impl Rules {
    /// A topic with Kafka's defaults.
    pub fn defaults(now: Millis) -> Rules {
        Rules {
            max_message_bytes: 1_048_588,
            max_decompressed_bytes: 64 << 20,
            produce_version: 12,
            compacted: false,
            timestamp_type: TimestampType::CreateTime,
            before_max_ms: i64::MAX,
            after_max_ms: 3_600_000,
            now,
        }
    }
}

/// A batch that may be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validated {
    /// The batch: the very slice that came in, unless its times had to be rewritten.
    pub batch: Batch,
    /// Bytes its records expand to.
    pub expanded: usize,
}

/// A refusal: code, message and the records at fault, as Produce v8 and later answer it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Invalid {
    /// Kafka's code for it.
    pub code: ErrorCode,
    /// For the client's log.
    pub message: String,
    /// Records at fault, at most [`RECORD_ERRORS_MAX`]; empty when the batch itself is.
    pub records: Vec<RecordError>,
}

/// One record at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordError {
    /// Its position in the batch.
    pub index: i32,
    /// What is wrong with it.
    pub message: String,
}

/// Takes the `records` of one partition of a Produce request: exactly one batch, valid by `rules`.
pub fn validate_entry(records: Bytes, rules: &Rules) -> Result<Validated, Invalid> {
    if records.is_empty() {
        return Err(invalid("a partition of a produce request has no record batch"));
    }
    // Old formats are named as such whatever else is wrong with them.
    match records.get(MAGIC_AT) {
        Some(0 | 1) => return Err(from_error(BatchError::Magic(records[MAGIC_AT] as i8))),
        Some(2) | None => {}
        Some(&magic) => return Err(from_error(BatchError::Magic(magic as i8))),
    }
    let size = size_of_first(&records).map_err(from_error)?;
    if size < records.len() {
        return Err(after_first(&records[size..]));
    }
    validate(&Batch::parse(records).map_err(from_error)?, rules)
}

/// Whole batches after the first are one fault, stray bytes another.
fn after_first(rest: &[u8]) -> Invalid {
    match size_of_first(rest) {
        Ok(_) => invalid("a partition of a produce request has more than one record batch"),
        Err(_) => from_error(BatchError::Trailing(rest.len())),
    }
}

/// Checks one batch against `rules`.
pub fn validate(batch: &Batch, rules: &Rules) -> Result<Validated, Invalid> {
    if batch.size() > rules.max_message_bytes {
        return Err(refuse(
            ErrorCode::MessageTooLarge,
            format!("the batch has {} bytes, the topic takes {}", batch.size(), rules.max_message_bytes),
        ));
    }
    batch.verify_crc().map_err(from_error)?;
    check_codec(batch, rules)?;
    check_header(batch)?;
    let (expanded, max_timestamp) = check_records(batch, rules)?;
    let batch = match rules.timestamp_type {
        TimestampType::LogAppendTime => with_append_time(batch, rules.now),
        // Lookups trust the header's maximum, so a wrong one is put right, as Kafka does.
        TimestampType::CreateTime => with_max_timestamp(batch, max_timestamp),
    };
    Ok(Validated { batch, expanded })
}

fn check_codec(batch: &Batch, rules: &Rules) -> Result<(), Invalid> {
    let codec = batch.compression().map_err(from_error)?;
    if codec == Compression::Zstd && rules.produce_version < ZSTD_SINCE {
        let version = rules.produce_version;
        return Err(refuse(
            ErrorCode::UnsupportedCompressionType,
            format!("produce version {version} may not carry zstd"),
        ));
    }
    Ok(())
}

fn check_header(batch: &Batch) -> Result<(), Invalid> {
    let (delta, count) = (batch.last_offset_delta(), batch.count());
    if batch.base_offset().0 != 0 {
        return Err(invalid(format!("base offset is {}, a producer sends 0", batch.base_offset())));
    }
    if count <= 0 || i64::from(delta) + 1 != i64::from(count) {
        return Err(invalid(format!("{count} records do not go with a last offset delta of {delta}")));
    }
    if batch.is_control() {
        return Err(invalid("clients may not write control records"));
    }
    if batch.attributes() & DELETE_HORIZON != 0 {
        return Err(invalid("clients may not set a delete horizon"));
    }
    if batch.timestamp_type() == TimestampType::LogAppendTime {
        return Err(refuse(
            ErrorCode::InvalidTimestamp,
            "producers may not set the timestamp type to LogAppendTime",
        ));
    }
    check_producer(batch)
}

fn check_producer(batch: &Batch) -> Result<(), Invalid> {
    let (id, epoch, sequence) = (batch.producer_id(), batch.producer_epoch(), batch.base_sequence());
    if id.0 < -1 {
        return Err(invalid(format!("producer id {id} is negative")));
    }
    if id.0 == -1 {
        return match batch.is_transactional() {
            true => Err(invalid("a transactional batch has no producer id")),
            false => Ok(()),
        };
    }
    if epoch.0 < 0 || sequence < 0 {
        return Err(invalid(format!("producer id {id} comes with epoch {epoch} and sequence {sequence}")));
    }
    Ok(())
}

/// Walks every record. Answers the expanded size and the largest timestamp.
fn check_records(batch: &Batch, rules: &Rules) -> Result<(usize, Millis), Invalid> {
    let mut faults = Faults::default();
    let mut max = Millis(-1);
    let walked = walk(batch, rules.max_decompressed_bytes, &mut |entry: Entry| {
        if entry.offset_delta != entry.index {
            faults.deltas = Some((entry.index, entry.offset_delta));
            return Step::Enough;
        }
        let timestamp = timestamp_of(batch, &entry);
        max = max.max(timestamp);
        if rules.compacted && !entry.has_key {
            faults.add(entry.index, || "a compacted topic takes no record without a key".to_owned());
        } else if rules.timestamp_type == TimestampType::CreateTime && !in_bounds(timestamp, rules) {
            faults.timestamp = true;
            faults.add(entry.index, || out_of_bounds(timestamp, rules));
        }
        Step::Next
    });
    if let Some((index, delta)) = faults.deltas {
        return Err(invalid(format!("record {index} has offset delta {delta}: they must run from 0 by 1")));
    }
    let expanded = walked.map_err(from_error)?;
    match faults.count {
        0 => Ok((expanded, max)),
        _ => Err(faults.into_invalid()),
    }
}

/// -1 is "no timestamp" and always fine; no other negative is.
fn in_bounds(timestamp: Millis, rules: &Rules) -> bool {
    if timestamp.0 == -1 {
        return true;
    }
    let age = i128::from(rules.now.0) - i128::from(timestamp.0);
    timestamp.0 >= 0 && age <= i128::from(rules.before_max_ms) && -age <= i128::from(rules.after_max_ms)
}

fn out_of_bounds(timestamp: Millis, rules: &Rules) -> String {
    let earliest = rules.now.0.saturating_sub(rules.before_max_ms).max(0);
    let latest = rules.now.0.saturating_add(rules.after_max_ms);
    format!("timestamp {timestamp} is out of range: the topic takes {earliest} to {latest}")
}

#[derive(Default)]
struct Faults {
    records: Vec<RecordError>,
    count: usize,
    timestamp: bool,
    deltas: Option<(i32, i32)>,
}

impl Faults {
    fn add(&mut self, index: i32, message: impl FnOnce() -> String) {
        self.count += 1;
        if self.records.len() < RECORD_ERRORS_MAX {
            self.records.push(RecordError { index, message: message() });
        }
    }

    fn into_invalid(self) -> Invalid {
        // As in Kafka, one bad timestamp decides the code for the batch.
        let code = if self.timestamp { ErrorCode::InvalidTimestamp } else { ErrorCode::InvalidRecord };
        let quoted: Vec<String> = self
            .records
            .iter()
            .take(QUOTED_MAX)
            .map(|record| format!("record {}: {}", record.index, record.message))
            .collect();
        let message = format!("{} of the batch's records are refused; {}", self.count, quoted.join("; "));
        Invalid { code, message, records: self.records }
    }
}

fn from_error(error: BatchError) -> Invalid {
    let code = match &error {
        BatchError::Truncated { .. }
        | BatchError::Length(_)
        | BatchError::Trailing(_)
        | BatchError::Checksum { .. }
        | BatchError::Stream { .. } => ErrorCode::CorruptMessage,
        BatchError::Magic(0 | 1) => ErrorCode::UnsupportedForMessageFormat,
        BatchError::Magic(_) | BatchError::Record { .. } => ErrorCode::InvalidRecord,
        BatchError::Codec(_) => ErrorCode::UnsupportedCompressionType,
        BatchError::Expands { .. } => ErrorCode::MessageTooLarge,
    };
    refuse(code, error.to_string())
}

fn invalid(message: impl Into<String>) -> Invalid {
    refuse(ErrorCode::InvalidRecord, message)
}

fn refuse(code: ErrorCode, message: impl Into<String>) -> Invalid {
    Invalid { code, message: message.into(), records: Vec::new() }
}
