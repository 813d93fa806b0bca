//! The history checker: what clients saw, judged after the run (reliability.md §A).
//!
//! Knows only what crossed the wire. Every offset holds a record here, but in the compacted topic; there is no transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::history::{Ending, Event, Log, Record, Value};
use crate::workload::COMPACTED;

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

/// Broken promises of one kind of thing that are worth printing.
const TOLD: usize = 20;

#[derive(Default)]
struct Partition {
    acked: BTreeMap<Value, i64>,
    acked_at: Vec<(u64, i64)>,
    at: BTreeMap<i64, Value>,
    offsets: BTreeMap<Value, i64>,
    epochs: BTreeMap<i64, i32>,
    /// Highest watermark and end that each client was shown.
    hws: BTreeMap<u32, i64>,
    ends: BTreeMap<u32, i64>,
    commits: Vec<(u64, i64)>,
    /// When each value was first sent.
    sent: BTreeMap<Value, u64>,
    /// Where readers were told that nothing is, though their high watermark was at or above.
    below: Vec<(u32, i64, i64)>,
    found: Vec<Violation>,
}

impl Partition {
    fn note(&mut self, kind: &'static str, what: String) {
        if self.found.len() < TOLD {
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

    /// An offset keeps its leader epoch, and epochs only rise with offsets.
    fn epoch(&mut self, offset: i64, epoch: i32) {
        let below = self.epochs.range(..offset).next_back().map_or(epoch, |(_, e)| *e);
        let above = self.epochs.range(offset + 1..).next().map_or(epoch, |(_, e)| *e);
        let before = self.epochs.insert(offset, epoch).unwrap_or(epoch);
        if before != epoch || below > epoch || above < epoch {
            let what =
                format!("offset {offset} has epoch {epoch}, had {before}; {below} below, {above} above");
            self.note("leader-epoch-regress", what);
        }
    }

    fn acked(&mut self, at: u64, values: &[Value], base: i64) {
        for (offset, value) in (base..).zip(values) {
            if base < 0 {
                self.note("zero-offset", format!("{value:?} was acknowledged at {base}"));
            }
            self.stands(offset, *value, "ack");
            self.acked.insert(*value, offset);
            self.acked_at.push((at, offset));
        }
    }

    fn read(&mut self, client: u32, asked: i64, records: &[Record], hw: i64, compacted: bool) {
        for (expected, record) in (asked..).zip(records) {
            if record.offset < expected || (record.offset > expected && !compacted) {
                let what =
                    format!("client {client} asked for {asked} and got {} after {expected}", record.offset);
                self.note("int-poll-skip", what);
                break;
            }
        }
        for record in records {
            self.stands(record.offset, record.value, "read");
            self.epoch(record.offset, record.epoch);
            if record.offset >= hw {
                self.note(
                    "above-hw",
                    format!("offset {} was served with high watermark {hw}", record.offset),
                );
            }
        }
        let before = self.hws.insert(client, hw).unwrap_or(0);
        if before > hw {
            self.note("hw-regress", format!("client {client}: {before}, then {hw}"));
        }
    }

    fn end(&mut self, client: u32, asked: u64, end: i64) {
        let known = self.acked_at.iter().filter(|(at, _)| *at < asked).map(|(_, o)| *o).max();
        if let Some(acked) = known.filter(|acked| *acked >= end) {
            let what = format!("client {client} got end {end} after {acked} was acked");
            self.note("end-offset-stale", what);
        }
        let before = self.ends.insert(client, end).unwrap_or(0);
        if before > end {
            self.note("end-regress", format!("client {client}: {before}, then {end}"));
        }
    }

    fn fetched(&mut self, asked: u64, offset: i64) {
        let known = self.commits.iter().filter(|(at, _)| *at < asked).map(|(_, o)| *o).max();
        let newest = known.unwrap_or(-1);
        if newest > offset {
            let kind = if offset < 0 { "group-offset-lost" } else { "group-offset-regress" };
            self.note(kind, format!("committed {newest}, then fetched {offset}"));
        }
    }

    /// Nothing below where the log had ended was refused that was still there when all was over, at `start`.
    fn refused(&mut self, start: i64) {
        if let Some((client, offset, hw)) = self.below.iter().find(|(_, offset, _)| *offset >= start).copied()
        {
            let what = format!("client {client} at {offset}, having seen high watermark {hw}");
            self.note("spurious-out-of-range", what);
        }
    }

    /// The quiet read at the end: everything acknowledged that is not deleted is there once, dense, and in each
    /// producer's order; what is deleted was old.
    fn finish(&mut self, log: &Log, kept: Option<(u64, u64)>) {
        let mut newest: BTreeMap<u32, u32> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        if log.start > 0 && kept.is_none() {
            self.note("poll-skip", format!("the log starts at {}, and nothing is ever deleted", log.start));
        }
        for (expected, record) in (log.start..).zip(&log.records) {
            let Record { offset, value, epoch } = *record;
            if offset != expected {
                self.note("poll-skip", format!("offset {offset} stands where {expected} should"));
            }
            self.stands(offset, value, "last read");
            self.epoch(offset, epoch);
            if !seen.insert(value) {
                self.note("duplicate", format!("{value:?} twice in the last read"));
            }
            if let Some(before) = newest.insert(value.producer, value.number)
                && before.wrapping_add(1) != value.number
            {
                let what =
                    format!("producer {}: {before}, then {} at {offset}", value.producer, value.number);
                self.note("reorder", what);
            }
        }
        self.finish_lost(log, &seen, kept);
    }

    /// The quiet read of a compacted log: of each key the newest record that anybody ever had word of, and none at all
    /// only where that one deletes it. Others may be there too, each at its offset, in each producer's order.
    fn finish_compacted(&mut self, log: &Log) {
        if log.start > 0 {
            self.note("poll-skip", format!("the log starts at {}, and nothing is ever deleted", log.start));
        }
        let (mut newest, mut left): (BTreeMap<u32, u32>, BTreeMap<u32, i64>) = Default::default();
        let mut before = -1;
        for Record { offset, value, epoch } in log.records.iter().copied() {
            self.stands(offset, value, "last read");
            self.epoch(offset, epoch);
            let number = newest.insert(value.producer, value.number);
            if offset <= before || number.is_some_and(|number| number >= value.number) {
                let what = format!("{value:?} at {offset} after {number:?} and offset {before}");
                self.note("reorder", what);
            }
            before = offset;
            left.insert(value.key(), offset);
        }
        let known: BTreeMap<u32, (i64, Value)> =
            self.at.iter().map(|(offset, value)| (value.key(), (*offset, *value))).collect();
        for (key, (offset, value)) in known {
            let found = left.get(&key).copied();
            if found != Some(offset) && !(found.is_none() && value.deletes()) {
                let what = format!("key {key}: {value:?} at {offset} is its newest, {found:?} is there");
                self.note("compaction-loss", what);
            }
        }
        let last = self.acked.values().max().filter(|last| **last >= log.end).copied();
        if let Some(last) = last {
            self.note("lost-write", format!("the log ends at {}, and {last} was acknowledged", log.end));
        }
    }

    fn finish_lost(&mut self, log: &Log, seen: &BTreeSet<Value>, kept: Option<(u64, u64)>) {
        let lost = self.acked.iter().filter(|(v, _)| !seen.contains(v)).map(|(v, o)| (*v, *o));
        let young = |value: &Value| {
            let sent = self.sent.get(value).copied().unwrap_or(0);
            kept.is_none_or(|(ms, now)| sent + ms >= now)
        };
        let lost = lost.filter(|(value, offset)| *offset >= log.start || young(value));
        for (value, offset) in lost.take(5).collect::<Vec<_>>() {
            self.note("lost-write", format!("{value:?}, acknowledged at {offset}, is not in the log"));
        }
        let last = self.acked.values().max().filter(|last| **last >= log.end).copied();
        if let Some(last) = last {
            self.note("lost-write", format!("the log ends at {}, and {last} was acknowledged", log.end));
        }
    }
}

/// Whether a log is what it was before; where nothing is kept for ever, it may start later.
fn is_same(before: &Log, after: &Log, may_expire: bool) -> bool {
    let still = before.records.iter().filter(|record| record.offset >= after.start);
    let starts = before.start == after.start || (may_expire && after.start > before.start);
    starts && before.end == after.end && still.eq(&after.records)
}

/// Judges a run.
pub fn check(history: &[Event], ending: &Ending) -> Vec<Violation> {
    let mut partitions: BTreeMap<i32, Partition> = BTreeMap::new();
    let mut sent: BTreeSet<(i32, Value)> = BTreeSet::new();
    let mut producers = BTreeSet::new();
    let mut found = Vec::new();
    for event in history {
        match event {
            Event::Sent { at, partition, values } => {
                sent.extend(values.iter().map(|v| (*partition, *v)));
                let p = partitions.entry(*partition).or_default();
                p.sent.extend(values.iter().map(|v| (*v, *at)));
            }
            Event::Acked { at, partition, values, base } => {
                partitions.entry(*partition).or_default().acked(*at, values, *base);
            }
            Event::Read { client, partition, asked, records, hw } => {
                let p = partitions.entry(*partition).or_default();
                p.read(*client, *asked, records, *hw, *partition == COMPACTED);
                for record in records.iter().filter(|r| !sent.contains(&(*partition, r.value))) {
                    p.note("phantom", format!("{:?} was read and never sent", record.value));
                }
            }
            Event::OutOfRange { client, partition, offset } => {
                let p = partitions.entry(*partition).or_default();
                let hw = p.hws.get(client).copied().unwrap_or(0);
                if *offset <= hw {
                    p.below.push((*client, *offset, hw));
                }
            }
            Event::End { client, asked, partition, end } => {
                partitions.entry(*partition).or_default().end(*client, *asked, *end);
            }
            Event::Committed { at, partition, offset } => {
                partitions.entry(*partition).or_default().commits.push((*at, *offset));
            }
            Event::Fetched { asked, partition, offset } => {
                partitions.entry(*partition).or_default().fetched(*asked, *offset);
            }
            Event::Created { topic } if !ending.topics.contains(topic) => {
                let what = format!("topic {topic}, whose creation was acknowledged, is not there");
                found.push(Violation { kind: "metadata-lost", what });
            }
            Event::Created { .. } => {}
            Event::ProducerId { id } if !producers.insert(*id) => {
                found
                    .push(Violation { kind: "producer-id-twice", what: format!("{id} was given out twice") });
            }
            Event::ProducerId { .. } => {}
        }
    }
    for (partition, log) in &ending.records {
        let p = partitions.entry(*partition).or_default();
        if *partition == COMPACTED {
            p.finish_compacted(log);
            ending.again.get(partition).into_iter().for_each(|again| p.finish_compacted(again));
            continue;
        }
        p.finish(log, ending.kept);
        p.refused(ending.starts.get(partition).copied().unwrap_or(log.start));
        let again = ending.again.get(partition);
        if again.is_some_and(|again| !is_same(log, again, ending.kept.is_some())) {
            p.note(
                "cold-start-equal",
                "what was read before a cold start is not what was read after".to_owned(),
            );
        }
    }
    for (number, p) in partitions {
        if !ending.records.contains_key(&number) && !p.acked.is_empty() {
            let what = format!("partition {number} could not be read at the end");
            found.push(Violation { kind: "unseen", what });
        }
        let located = |v: Violation| Violation { what: format!("partition {number}: {}", v.what), ..v };
        found.extend(p.found.into_iter().map(located));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const V: fn(u32) -> Value = |number| Value { producer: 1, number };

    fn acked(number: u32, base: i64) -> Event {
        Event::Acked { at: 1, partition: 0, values: vec![V(number)], base }
    }

    fn rows(of: &[(i64, Value)]) -> Vec<Record> {
        of.iter().map(|(offset, value)| Record { offset: *offset, value: *value, epoch: 0 }).collect()
    }

    fn log(start: i64, of: &[(i64, Value)]) -> Log {
        Log { start, end: of.last().map_or(start, |(offset, _)| offset + 1), records: rows(of) }
    }

    fn kinds(history: &[Event], last: &[(i64, Value)]) -> Vec<&'static str> {
        let records = BTreeMap::from([(0, log(0, last))]);
        check(history, &Ending { records, ..Ending::default() }).into_iter().map(|v| v.kind).collect()
    }

    fn read(asked: i64, records: Vec<Record>, hw: i64) -> Event {
        Event::Read { client: 1, partition: 0, asked, records, hw }
    }

    #[test]
    fn a_compacted_log_has_the_newest_of_each_key_unless_that_deletes_it() {
        // Of producer 1 the numbers 4 and 9 delete their keys, 4 and 2.
        let acked = |number: u32| Event::Acked {
            at: 1,
            partition: COMPACTED,
            values: vec![V(number)],
            base: i64::from(number),
        };
        let history: Vec<Event> = (0..11).map(acked).collect();
        let found = |offsets: &[i64]| -> Vec<&'static str> {
            let rows: Vec<_> = offsets.iter().map(|at| (*at, V(*at as u32))).collect();
            let log = Log { end: 11, ..log(0, &rows) };
            let records = BTreeMap::from([(COMPACTED, log)]);
            check(&history, &Ending { records, ..Ending::default() }).into_iter().map(|v| v.kind).collect()
        };
        assert!(found(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]).is_empty());
        assert!(found(&[4, 5, 6, 7, 8, 9, 10]).is_empty());
        assert!(found(&[5, 6, 7, 8, 10]).is_empty(), "what deletes has gone too");
        assert_eq!(found(&[5, 6, 8, 9, 10]), ["compaction-loss"], "a newest one is gone");
        assert_eq!(found(&[0, 5, 6, 8, 9, 10]), ["compaction-loss"]);
        assert_eq!(found(&[2, 5, 6, 7, 8, 10]), ["compaction-loss"], "what was deleted is back");
        assert!(found(&[6, 5, 7, 8, 10]).contains(&"reorder"));
    }

    #[test]
    fn a_clean_history_is_clean() {
        assert!(kinds(&[acked(0, 0), acked(1, 1)], &[(0, V(0)), (1, V(1))]).is_empty());
    }

    #[test]
    fn each_broken_promise_of_the_log_is_named() {
        assert_eq!(kinds(&[acked(0, 0), acked(1, 1)], &[(0, V(0))]), ["lost-write", "lost-write"]);
        assert!(kinds(&[acked(0, 0)], &[(0, V(0)), (1, V(0))]).contains(&"duplicate"));
        assert!(kinds(&[], &[(0, V(1)), (1, V(0))]).contains(&"reorder"));
        assert!(kinds(&[], &[(0, V(0)), (1, V(2))]).contains(&"reorder"), "a record was left out");
        assert!(kinds(&[], &[(0, V(0)), (2, V(1))]).contains(&"poll-skip"));
        assert!(kinds(&[], &[(1, V(0))]).contains(&"poll-skip"), "the log starts at 0");
        assert!(kinds(&[acked(0, 0)], &[(0, V(1))]).contains(&"inconsistent-offsets"));
        let records = BTreeMap::from([(0, log(0, &[(0, V(0))]))]);
        let again = BTreeMap::from([(0, Log::default())]);
        let found = check(&[], &Ending { records, again, ..Ending::default() });
        assert_eq!(found[0].kind, "cold-start-equal");
        assert_eq!(check(&[acked(0, 0)], &Ending::default())[0].kind, "unseen");
    }

    #[test]
    fn what_retention_deleted_is_not_lost_unless_it_was_young_or_took_the_end_with_it() {
        let sent = |number, at| Event::Sent { at, partition: 0, values: vec![V(number)] };
        let history = [sent(0, 100), acked(0, 0), sent(1, 500), acked(1, 1)];
        let found = |kept, log: Log, again: Log| -> Vec<&'static str> {
            let (records, again) = (BTreeMap::from([(0, log)]), BTreeMap::from([(0, again)]));
            let ending = Ending { records, again, kept, ..Ending::default() };
            check(&history, &ending).into_iter().map(|v| v.kind).collect()
        };
        let (late, empty) = (log(1, &[(1, V(1))]), log(2, &[]));
        assert!(found(Some((300, 600)), late.clone(), late.clone()).is_empty());
        assert!(found(Some((300, 600)), late.clone(), empty.clone()).is_empty(), "more went since");
        assert_eq!(found(Some((600, 600)), late.clone(), late.clone()), ["lost-write"], "young");
        assert_eq!(found(Some((300, 600)), empty.clone(), empty.clone()), ["lost-write"], "young");
        assert!(found(None, late.clone(), late.clone()).contains(&"poll-skip"));
        assert_eq!(found(Some((300, 600)), late.clone(), log(0, &[])), ["cold-start-equal"]);
        assert!(found(Some((1, 900)), log(0, &[]), log(0, &[])).contains(&"lost-write"), "the end is lost");
        let below = Event::OutOfRange { client: 1, partition: 0, offset: 1 };
        let mut told = history.to_vec();
        told.extend([read(1, rows(&[(1, V(1))]), 2), below]);
        let ending =
            Ending { records: BTreeMap::from([(0, empty)]), kept: Some((1, 900)), ..Ending::default() };
        assert!(check(&told, &ending).is_empty(), "it is below the start by now");
    }

    #[test]
    fn each_broken_promise_to_a_reader_is_named() {
        let end = |end| Event::End { client: 1, asked: 5, partition: 0, end };
        assert_eq!(kinds(&[acked(0, 0), end(0)], &[(0, V(0))]), ["end-offset-stale"]);
        assert_eq!(kinds(&[end(2), end(1)], &[]), ["end-regress"]);
        assert_eq!(kinds(&[read(0, vec![], 5), read(0, vec![], 4)], &[]), ["hw-regress"]);
        assert!(kinds(&[read(0, rows(&[(0, V(0))]), 0)], &[]).contains(&"above-hw"));
        assert!(kinds(&[read(0, rows(&[(1, V(0))]), 5)], &[]).contains(&"int-poll-skip"));
        assert!(kinds(&[read(0, rows(&[(0, V(0))]), 5)], &[]).contains(&"phantom"));
        let out = Event::OutOfRange { client: 1, partition: 0, offset: 3 };
        assert_eq!(kinds(&[read(0, vec![], 5), out], &[]), ["spurious-out-of-range"]);
        let mut newer = rows(&[(0, V(0)), (1, V(1))]);
        newer[0].epoch = 3;
        assert!(kinds(&[read(0, newer, 5)], &[]).contains(&"leader-epoch-regress"));
    }

    #[test]
    fn each_broken_promise_of_groups_and_metadata_is_named() {
        let lost = [
            Event::Committed { at: 1, partition: 0, offset: 7 },
            Event::Fetched { asked: 2, partition: 0, offset: -1 },
        ];
        assert_eq!(kinds(&lost, &[]), ["group-offset-lost"]);
        assert_eq!(kinds(&[Event::Created { topic: "t".to_owned() }], &[]), ["metadata-lost"]);
        let ids = [Event::ProducerId { id: 4 }, Event::ProducerId { id: 4 }];
        assert_eq!(kinds(&ids, &[]), ["producer-id-twice"]);
    }
}
