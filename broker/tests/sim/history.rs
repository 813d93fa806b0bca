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
    Sent { partition: i32, values: Vec<Value> },
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

/// What a quiet client saw when all was over.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// Every partition from its start.
    pub records: BTreeMap<i32, Vec<Record>>,
    /// The same after all brokers had died and started with empty disks.
    pub again: BTreeMap<i32, Vec<Record>>,
    /// The topics there are.
    pub topics: BTreeSet<String>,
}
