//! What clients did and saw: the only evidence that the checker judges.

use std::collections::{BTreeMap, BTreeSet};

/// A record's value: which producer sent it, and its number among that producer's records of the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value {
    /// Producer (one per client incarnation).
    pub producer: u32,
    /// Number within the producer and partition, from 0.
    pub number: u32,
}

/// Keys of the compacted topic.
const KEYS: u32 = 7;

impl Value {
    /// Its key in a compacted topic; producers share them.
    pub fn key(self) -> u32 {
        self.number % KEYS
    }

    /// Whether it deletes that key.
    pub fn deletes(self) -> bool {
        (self.producer + self.number).is_multiple_of(5)
    }
}

/// A record as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its offset.
    pub offset: i64,
    /// Its value.
    pub value: Value,
    /// Leader epoch in its batch.
    pub epoch: i32,
}

/// Something a client did or saw; `at` and `asked` are virtual milliseconds.
#[derive(Clone, Debug)]
pub enum Event {
    /// A batch was handed to the client library.
    Sent { at: u64, partition: i32, values: Vec<Value> },
    /// It was acknowledged at this base offset.
    Acked { at: u64, partition: i32, values: Vec<Value>, base: i64 },
    /// A fetch at `asked` answered: records, and the high watermark it came with.
    Read { client: u32, partition: i32, asked: i64, records: Vec<Record>, hw: i64 },
    /// A fetch at this offset was out of range.
    OutOfRange { client: u32, partition: i32, offset: i64 },
    /// ListOffsets latest was asked at `asked` and answered.
    End { client: u32, asked: u64, partition: i32, end: i64 },
    /// A group's offset was committed (acknowledged).
    Committed { at: u64, partition: i32, offset: i64 },
    /// A group's offset was fetched; -1 for none.
    Fetched { asked: u64, partition: i32, offset: i64 },
    /// A topic's creation was acknowledged.
    Created { topic: String },
    /// A producer id was given out.
    ProducerId { id: i64 },
}

/// A partition, read from its start to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// Where it starts.
    pub start: i64,
    /// Where it ends.
    pub end: i64,
    /// What is in it.
    pub records: Vec<Record>,
}

/// What a quiet client saw when all was over.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// Every partition from its start.
    pub records: BTreeMap<i32, Log>,
    /// The same after all brokers had died and started with empty disks.
    pub again: BTreeMap<i32, Log>,
    /// Where partitions started by the metadata when all was over.
    pub starts: BTreeMap<i32, i64>,
    /// How long data is kept, and when the first of these reads was over, in virtual milliseconds; `None`: for ever.
    pub kept: Option<(u64, u64)>,
    /// The topics there are.
    pub topics: BTreeSet<String>,
}
