//! The history checker: what clients saw, judged after the run (reliability.md §A).
//!
//! Knows only what crossed the wire: sends with their answers, reads with their offsets, end offsets, commits.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A record's value: which producer sent it, and its number among that producer's records of the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value {
    /// Producer (one per client incarnation).
    pub producer: u32,
    /// Number within the producer and partition, from 0.
    pub number: u32,
}

/// Something a client did or saw; `at` is virtual milliseconds.
#[derive(Clone, Debug)]
pub enum Event {
    /// A batch was handed to the client library.
    Sent { partition: i32, values: Vec<Value> },
    /// It was acknowledged at this base offset.
    Acked { at: u64, partition: i32, values: Vec<Value>, base: i64 },
    /// A fetch answered: records, and the high watermark it came with.
    Read { client: u32, partition: i32, records: Vec<(i64, Value)>, hw: i64, leader_epoch: i32 },
    /// ListOffsets latest was asked at `asked` and answered.
    End { client: u32, asked: u64, partition: i32, end: i64 },
    /// A group's offset was committed (acknowledged).
    Committed { at: u64, partition: i32, offset: i64 },
    /// A group's offset was fetched; -1 for none.
    Fetched { asked: u64, partition: i32, offset: i64 },
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Kind, as reliability.md §A names it.
    pub kind: &'static str,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.what)
    }
}

#[derive(Default)]
struct Partition {
    acked: BTreeMap<Value, i64>,
    acked_at: Vec<(u64, i64)>,
    at: BTreeMap<i64, Value>,
    offsets: BTreeMap<Value, i64>,
    found: Vec<Violation>,
}

impl Partition {
    fn note(&mut self, kind: &'static str, what: String) {
        if self.found.len() < 20 {
            self.found.push(Violation { kind, what });
        }
    }

    /// One offset holds one value for ever, and one value stands at one offset.
    fn stands(&mut self, offset: i64, value: Value, how: &str) {
        if let Some(before) = self.at.insert(offset, value)
            && before != value
        {
            self.note("inconsistent-offsets", format!("offset {offset}: {before:?}, then {value:?} ({how})"));
        }
        if let Some(before) = self.offsets.insert(value, offset)
            && before != offset
        {
            self.note("duplicate", format!("{value:?} at {before} and at {offset} ({how})"));
        }
    }
}

/// Judges a run. `last` is what a quiet reader saw of each partition at the end, from its start.
pub fn check(history: &[Event], last: &BTreeMap<i32, Vec<(i64, Value)>>) -> Vec<Violation> {
    let mut partitions: BTreeMap<i32, Partition> = BTreeMap::new();
    let mut hws: BTreeMap<(u32, i32), i64> = BTreeMap::new();
    let mut epochs: BTreeMap<(u32, i32), i32> = BTreeMap::new();
    let mut commits: BTreeMap<i32, Vec<(u64, i64)>> = BTreeMap::new();
    let mut sent: BTreeSet<(i32, Value)> = BTreeSet::new();
    for event in history {
        match event {
            Event::Sent { partition, values, .. } => sent.extend(values.iter().map(|v| (*partition, *v))),
            Event::Acked { at, partition, values, base } => {
                let p = partitions.entry(*partition).or_default();
                for (offset, value) in (*base..).zip(values) {
                    if *base < 0 {
                        p.note("zero-offset", format!("{value:?} was acknowledged at {base}"));
                    }
                    p.stands(offset, *value, "ack");
                    p.acked.insert(*value, offset);
                    p.acked_at.push((*at, offset));
                }
            }
            Event::Read { client, partition, records, hw, leader_epoch, .. } => {
                let p = partitions.entry(*partition).or_default();
                for (offset, value) in records {
                    p.stands(*offset, *value, "read");
                    if offset >= hw {
                        p.note("above-hw", format!("offset {offset} was served with high watermark {hw}"));
                    }
                    if !sent.contains(&(*partition, *value)) {
                        p.note("phantom", format!("{value:?} was read and never sent"));
                    }
                }
                let key = (*client, *partition);
                let before = hws.insert(key, *hw).unwrap_or(0);
                if before > *hw {
                    p.note("hw-regress", format!("client {client}: {before}, then {hw}"));
                }
                // An answer without a batch shows no epoch.
                let before = epochs.get(&key).copied().unwrap_or(-1);
                epochs.insert(key, before.max(*leader_epoch));
                if before > *leader_epoch && *leader_epoch >= 0 {
                    p.note("leader-epoch-regress", format!("client {client}: {before}, then {leader_epoch}"));
                }
            }
            Event::End { client, asked, partition, end } => {
                let p = partitions.entry(*partition).or_default();
                let stale = p.acked_at.iter().filter(|(at, _)| at < asked).map(|(_, o)| *o).max();
                if let Some(acked) = stale.filter(|acked| acked >= end) {
                    p.note(
                        "end-offset-stale",
                        format!("client {client} got end {end} after {acked} was acked"),
                    );
                }
            }
            Event::Committed { at, partition, offset } => {
                commits.entry(*partition).or_default().push((*at, *offset));
            }
            Event::Fetched { asked, partition, offset } => {
                let known = commits.get(partition).into_iter().flatten().filter(|(at, _)| at < asked);
                let newest = known.map(|(_, o)| *o).max().unwrap_or(-1);
                if newest > *offset {
                    let kind = if *offset < 0 { "group-offset-lost" } else { "group-offset-regress" };
                    let what = format!("committed {newest}, then fetched {offset}");
                    partitions.entry(*partition).or_default().note(kind, what);
                }
            }
        }
    }
    for (partition, records) in last {
        finish(partitions.entry(*partition).or_default(), records);
    }
    let mut found = Vec::new();
    for (number, p) in partitions {
        if !last.contains_key(&number) && !p.acked.is_empty() {
            found.push(Violation {
                kind: "unseen",
                what: format!("partition {number} could not be read at the end"),
            });
        }
        found.extend(
            p.found.into_iter().map(|v| Violation { what: format!("partition {number}: {}", v.what), ..v }),
        );
    }
    found
}

/// The quiet read at the end: everything acknowledged is there once, dense, and in each producer's order.
fn finish(p: &mut Partition, records: &[(i64, Value)]) {
    let mut newest: BTreeMap<u32, u32> = BTreeMap::new();
    let mut next = records.first().map_or(0, |(o, _)| *o);
    let mut seen = BTreeSet::new();
    for (offset, value) in records {
        if *offset != next {
            p.note("poll-skip", format!("offset {offset} follows {}", next - 1));
        }
        next = offset + 1;
        p.stands(*offset, *value, "last read");
        if !seen.insert(*value) {
            p.note("duplicate", format!("{value:?} twice in the last read"));
        }
        if let Some(before) = newest.insert(value.producer, value.number)
            && before >= value.number
        {
            p.note(
                "reorder",
                format!("producer {}: {before}, then {} at {offset}", value.producer, value.number),
            );
        }
    }
    let lost: Vec<(Value, i64)> =
        p.acked.iter().filter(|(v, _)| !seen.contains(v)).map(|(v, o)| (*v, *o)).take(5).collect();
    for (value, offset) in lost {
        p.note("lost-write", format!("{value:?}, acknowledged at {offset}, is not in the log"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V: fn(u32) -> Value = |number| Value { producer: 1, number };

    fn acked(number: u32, base: i64) -> Event {
        Event::Acked { at: 1, partition: 0, values: vec![V(number)], base }
    }

    fn kinds(history: &[Event], last: &[(i64, Value)]) -> Vec<&'static str> {
        check(history, &BTreeMap::from([(0, last.to_vec())])).into_iter().map(|v| v.kind).collect()
    }

    #[test]
    fn a_clean_history_is_clean() {
        assert!(kinds(&[acked(0, 0), acked(1, 1)], &[(0, V(0)), (1, V(1))]).is_empty());
    }

    #[test]
    fn each_broken_promise_is_named() {
        assert_eq!(kinds(&[acked(0, 0), acked(1, 1)], &[(0, V(0))]), ["lost-write"]);
        assert!(kinds(&[acked(0, 0)], &[(0, V(0)), (1, V(0))]).contains(&"duplicate"));
        assert!(kinds(&[], &[(0, V(1)), (1, V(0))]).contains(&"reorder"));
        assert!(kinds(&[], &[(0, V(0)), (2, V(1))]).contains(&"poll-skip"));
        assert!(kinds(&[acked(0, 0)], &[(0, V(1)), (1, V(0))]).contains(&"inconsistent-offsets"));
        let end = Event::End { client: 1, asked: 5, partition: 0, end: 0 };
        assert_eq!(kinds(&[acked(0, 0), end], &[(0, V(0))]), ["end-offset-stale"]);
        let lost = [
            Event::Committed { at: 1, partition: 0, offset: 7 },
            Event::Fetched { asked: 2, partition: 0, offset: -1 },
        ];
        assert_eq!(kinds(&lost, &[]), ["group-offset-lost"]);
        let read = |hw| Event::Read { client: 1, partition: 0, records: vec![], hw, leader_epoch: 0 };
        assert_eq!(kinds(&[read(5), read(4)], &[]), ["hw-regress"]);
    }
}
