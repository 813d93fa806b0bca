//! Kafka's offset and time index files, as they grow with a log: fixed-width entries, big-endian, relative to the first offset.
//!
//! Shared by hot segments and segments in the bucket. Pure.

use tidemark_proto::id::{Millis, Offset};

/// Bytes of an entry of the offset index: relative last offset of a batch 4, its position 4.
pub const OFFSET_ENTRY: usize = 8;
/// Bytes of an entry of the time index: timestamp 8, relative last offset of the batch that brought it 4.
pub const TIME_ENTRY: usize = 12;

/// Entries that became due.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// Of the offset index.
    pub offsets: Vec<u8>,
    /// Of the time index.
    pub times: Vec<u8>,
}

/// Says which entries a log's batches make due.
#[derive(Clone, Debug)]
pub struct Indexer {
    base: Offset,
    /// An entry is due after so many bytes (Kafka's `index.interval.bytes`).
    interval: u64,
    len: u64,
    since: u64,
    /// Greatest timestamp so far, and the last offset of the batch that brought it.
    newest: (Millis, Offset),
    /// Timestamp of the last entry of the time index.
    noted: Millis,
}

impl Indexer {
    /// Of a log that begins with `base`.
    pub fn new(base: Offset, interval: u64) -> Indexer {
        let none = Millis(-1); // Kafka's sign for no timestamp
        Indexer { base, interval, len: 0, since: 0, newest: (none, base), noted: none }
    }

    /// Bytes of the log.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is nothing yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Greatest timestamp so far; -1 where there is none.
    pub fn newest(&self) -> Millis {
        self.newest.0
    }

    /// The next batch, `size` bytes, which ends with `last`.
    pub fn add(&mut self, last: Offset, max_timestamp: Millis, size: u64, due: &mut Entries) {
        if max_timestamp > self.newest.0 {
            self.newest = (max_timestamp, last);
        }
        if self.since > self.interval {
            due.offsets.extend_from_slice(&self.relative(last).to_be_bytes());
            due.offsets.extend_from_slice(&(self.len as u32).to_be_bytes());
            self.note_time(due);
            self.since = 0;
        }
        self.len += size;
        self.since += size;
    }

    /// The log ends: its greatest timestamp is in the time index of a closed one.
    pub fn close(&mut self, due: &mut Entries) {
        self.note_time(due);
    }

    fn note_time(&mut self, due: &mut Entries) {
        let (time, offset) = self.newest;
        if time > self.noted {
            due.times.extend_from_slice(&time.0.to_be_bytes());
            due.times.extend_from_slice(&self.relative(offset).to_be_bytes());
            self.noted = time;
        }
    }

    fn relative(&self, offset: Offset) -> u32 {
        (offset.0 - self.base.0) as u32
    }
}
