use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use tidemark_proto::id::{LeaderEpoch, Millis, Offset, ProducerEpoch, ProducerId, TopicPartition};
use tidemark_proto::record::Compression;
use tidemark_proto::record::build::Builder;
use tidemark_proto::record::control::{EndMarker, Outcome};
use tidemark_proto::record::records::{Record, Records};
use tidemark_proto::record::stamp::{Stamped, with_append_time};
use tidemark_proto::record::view::{Batch, Batches};

use super::*;
use crate::run::{Partition, Slice, State, verify_slice};

/// A log in the making, and what a broker would know of it.
#[derive(Clone, Default)]
struct Log {
    batches: Vec<Batch>,
    end: i64,
    aborted: Vec<Aborted>,
    open: BTreeMap<i64, Offset>,
    last_of: BTreeMap<ProducerId, Offset>,
    sequences: BTreeMap<i64, i32>,
    codec: Compression,
}

/// A key, and a value or none.
type Pair<'a> = (&'a str, Option<&'a str>);

impl Log {
    fn push(&mut self, batch: &Batch) -> Offset {
        let base = Offset(self.end);
        let batch = Stamped::new(batch, base, LeaderEpoch(4)).to_batch();
        self.end = batch.next_offset().0;
        self.batches.push(batch);
        base
    }

    /// Records one millisecond apart; producer -1 is none.
    fn data(&mut self, producer: i64, transactional: bool, pairs: &[Pair<'_>]) -> Offset {
        let mut builder = Builder::new().compression(self.codec);
        if producer >= 0 {
            let sequence = self.sequences.entry(producer).or_default();
            builder = builder.producer(ProducerId(producer), ProducerEpoch(0), *sequence);
            *sequence += pairs.len() as i32;
        }
        if transactional {
            builder = builder.transactional();
        }
        for (at, (key, value)) in (self.end..).zip(pairs) {
            builder.append(Millis(1_000 + at), Some(key.as_bytes()), value.map(str::as_bytes));
        }
        let base = self.push(&builder.build());
        if producer >= 0 {
            self.last_of.insert(ProducerId(producer), Offset(self.end - 1));
        }
        if transactional {
            self.open.entry(producer).or_insert(base);
        }
        base
    }

    fn marker(&mut self, producer: i64, outcome: Outcome) -> Offset {
        let (id, epoch) = (ProducerId(producer), ProducerEpoch(0));
        let marker = EndMarker { outcome, producer: id, epoch, coordinator_epoch: 0 };
        let at = self.push(&marker.to_batch(Millis(1_000 + self.end)));
        if let Some(first) = self.open.remove(&producer).filter(|_| outcome == Outcome::Abort) {
            self.aborted.push(Aborted { producer: id, first, marker: at });
        }
        at
    }

    fn stable(&self) -> Offset {
        self.open.values().copied().min().unwrap_or(Offset(self.end))
    }

    /// A pass that surveys from `from` on, over shares of so many batches; where it came to.
    fn pass(&mut self, from: Offset, now: i64, retention: i64, shares: &[usize], bytes: usize) -> Offset {
        let terms = Terms {
            now: Millis(now),
            delete_retention_ms: retention,
            aborted: self.aborted.clone(),
            last_of: self.last_of.clone(),
        };
        let (mut pass, stable) = (Pass::new(terms, from, bytes), self.stable());
        for batch in self.batches.iter().filter(|b| b.last_offset() >= from && b.base_offset() < stable) {
            if !pass.survey(batch).unwrap() {
                break;
            }
        }
        let (mut rest, mut lengths) = (self.batches.as_slice(), shares.iter().cycle());
        let mut out: Vec<Batch> = Vec::new();
        let mut joins = false;
        while !rest.is_empty() {
            let (share, more) = rest.split_at((*lengths.next().unwrap()).clamp(1, rest.len()));
            rest = more;
            let (first, last) = (share[0].base_offset(), share[share.len() - 1].last_offset());
            let entry = entry(first, last);
            let mut rewrite = Rewrite::new(&entry, joined(share), joins);
            while rewrite.step(|batch, edge| pass.judge(batch, edge)).unwrap().is_some() {}
            let (entry, parts) = rewrite.done();
            let bytes = Bytes::from(parts.concat());
            assert_eq!(
                (entry.base_offset, entry.last_offset, entry.length),
                (first, last, bytes.len() as u64)
            );
            assert_eq!(entry.crc, crc32c::crc32c(&bytes));
            let kept: Vec<Batch> = Batches::new(bytes.clone()).map(Result::unwrap).collect();
            assert_eq!(entry.batches as usize, kept.len());
            if !joins {
                assert_eq!(kept[0].base_offset(), first, "the front of what lies side by side stays");
                entry.extents(first).for_each(|extent| {
                    let at = extent.position as usize..(extent.position + extent.length) as usize;
                    verify_slice(&bytes.slice(at), extent).unwrap();
                });
            }
            out.extend(kept);
            joins = true;
        }
        self.batches = out;
        pass.upto()
    }

    fn clean(&mut self, now: i64, retention: i64) -> Offset {
        self.pass(Offset(0), now, retention, &[usize::MAX], 1 << 20)
    }

    fn records(&self) -> Vec<(Record, bool)> {
        let batches = self.batches.iter().filter(|batch| !batch.is_control());
        let all = |batch: &Batch| {
            let hidden = batch.is_transactional()
                && self.aborted.iter().any(|t| {
                    t.producer == batch.producer_id() && (t.first..=t.marker).contains(&batch.base_offset())
                });
            let open =
                self.open.get(&batch.producer_id().0).is_some_and(|first| batch.base_offset() >= *first);
            let hidden = hidden || (open && batch.is_transactional());
            Records::new(batch).unwrap().map(move |record| (record.unwrap(), hidden)).collect::<Vec<_>>()
        };
        batches.flat_map(all).collect()
    }

    /// What a reader of committed records has in the end who began at `from`.
    fn table(&self, from: i64) -> BTreeMap<Bytes, Bytes> {
        let mut table = BTreeMap::new();
        for (record, _) in self.records().into_iter().filter(|(r, hidden)| !hidden && r.offset.0 >= from) {
            match (record.key, record.value) {
                (Some(key), Some(value)) => drop(table.insert(key, value)),
                (Some(key), None) => drop(table.remove(&key)),
                (None, _) => {}
            }
        }
        table
    }

    fn offsets(&self) -> Vec<i64> {
        self.records().iter().map(|(record, _)| record.offset.0).collect()
    }

    fn spans(&self) -> Vec<(i64, i64, i32)> {
        self.batches.iter().map(|b| (b.base_offset().0, b.last_offset().0, b.count())).collect()
    }
}

fn entry(base_offset: Offset, last_offset: Offset) -> Partition {
    Partition {
        of: TopicPartition::default(),
        internal: false,
        base_offset,
        last_offset,
        max_timestamp: Millis(9),
        position: 0,
        length: 7,
        crc: 5,
        batches: 3,
        state: Some(State::default()),
        slices: vec![Slice { base_offset, at: 0, max_timestamp: Millis(9) }],
    }
}

fn joined(batches: &[Batch]) -> Bytes {
    let parts: Vec<&[u8]> = batches.iter().map(|batch| &batch.bytes()[..]).collect();
    parts.concat().into()
}

const A: Pair<'static> = ("a", Some("1"));
const B: Pair<'static> = ("b", Some("2"));
const NO_A: Pair<'static> = ("a", None);

#[test]
fn of_each_key_the_newest_record_stays_where_it_was() {
    for codec in Compression::ALL {
        let mut log = Log { codec, ..Log::default() };
        log.data(-1, false, &[A, B, A]);
        log.data(-1, false, &[B, ("c", Some(""))]);
        log.data(-1, false, &[A]);
        assert_eq!(log.clean(0, 0), Offset(6));
        assert_eq!(log.offsets(), [3, 4, 5]);
        assert_eq!(log.spans()[0], (0, 2, 0), "the front stays, empty");
        let before = log.batches.clone();
        log.clean(0, 0);
        assert_eq!(log.batches, before, "nothing is left to do");
        assert_eq!(log.batches[1].compression().unwrap(), codec);
    }
}

#[test]
fn what_is_not_rewritten_keeps_its_bytes_and_what_is_keeps_its_place_and_producer() {
    let mut log = Log { codec: Compression::Lz4, ..Log::default() };
    log.data(7, false, &[A, B, A, ("c", Some("3"))]);
    log.data(7, false, &[A]);
    let before = log.batches.clone();
    log.clean(0, 0);
    assert_eq!(log.batches[1], before[1]);
    let (old, new) = (&before[0], &log.batches[0]);
    assert_eq!((new.base_offset(), new.last_offset(), new.count()), (Offset(0), Offset(3), 2));
    assert_eq!((new.base_sequence(), new.last_sequence()), (old.base_sequence(), old.last_sequence()));
    assert_eq!(new.partition_leader_epoch(), old.partition_leader_epoch());
    assert_eq!((new.compression().unwrap(), new.base_timestamp()), (Compression::Lz4, old.base_timestamp()));
    assert_eq!(new.max_timestamp(), Millis(1_003), "that of what is left");
    new.verify_crc().unwrap();
}

#[test]
fn the_brokers_time_of_a_batch_stays() {
    let mut log = Log::default();
    let mut builder = Builder::new();
    builder.append(Millis(5), Some(b"a"), Some(b"1")).append(Millis(6), Some(b"b"), Some(b"2"));
    log.push(&with_append_time(&builder.build(), Millis(777)));
    log.data(-1, false, &[A]);
    log.clean(0, 0);
    assert_eq!((log.batches[0].count(), log.batches[0].max_timestamp()), (1, Millis(777)));
    assert_eq!(log.records()[0].0.timestamp, Millis(777));
}

#[test]
fn a_record_without_a_key_goes() {
    let mut log = Log::default();
    let mut builder = Builder::new();
    builder.append(Millis(5), None, Some(b"1")).append(Millis(6), Some(b"b"), Some(b"2"));
    log.push(&builder.build());
    log.clean(0, 0);
    assert_eq!(log.offsets(), [1]);
}

#[test]
fn a_deletion_is_stamped_by_its_first_pass_and_dropped_by_one_after_the_horizon() {
    let mut log = Log::default();
    log.data(-1, false, &[A]);
    log.data(-1, false, &[NO_A, B]);
    log.clean(10_000, 500);
    assert_eq!(log.offsets(), [1, 2], "what it deletes is gone");
    let stamped = log.batches[1].clone();
    assert_eq!(stamped.delete_horizon(), Some(Millis(10_500)));
    assert_eq!(log.records()[0].0.timestamp, Millis(1_001), "records keep their times");
    log.clean(10_499, 500);
    assert_eq!(log.batches[1], stamped, "a later pass does not stamp it anew");
    log.clean(10_500, 500);
    assert_eq!(log.offsets(), [2]);
}

#[test]
fn a_deletion_that_a_newer_record_takes_back_goes_at_once() {
    let mut log = Log::default();
    log.data(-1, false, &[A, NO_A]);
    log.data(-1, false, &[A]);
    log.clean(0, i64::MAX);
    assert_eq!(log.offsets(), [2]);
}

#[test]
fn an_aborted_record_goes_and_shadows_nothing_and_its_marker_stays() {
    let mut log = Log::default();
    log.data(-1, false, &[A]);
    log.data(7, true, &[("a", Some("no")), NO_A]);
    log.data(7, true, &[B]);
    let marker = log.marker(7, Outcome::Abort);
    log.data(7, true, &[B]);
    log.marker(7, Outcome::Commit);
    for now in [0, 10, 20] {
        log.clean(now, 1);
        assert_eq!(log.offsets(), [0, 5], "what the producer committed later is not hidden");
    }
    assert!(log.batches.iter().any(|batch| batch.base_offset() == marker && batch.count() == 1));
}

#[test]
fn a_marker_that_commits_goes_after_the_last_of_its_transaction_and_after_a_horizon() {
    let mut log = Log::default();
    log.data(-1, false, &[("front", Some("0"))]);
    log.data(7, true, &[A]);
    let marker = log.marker(7, Outcome::Commit);
    log.data(7, true, &[B]);
    log.marker(7, Outcome::Commit);
    let has = |log: &Log| log.batches.iter().find(|b| b.base_offset() == marker).cloned();
    log.clean(100, 10);
    assert_eq!(has(&log).unwrap().delete_horizon(), None, "its transaction has a record left");
    log.data(-1, false, &[A]);
    log.clean(200, 10);
    assert_eq!(has(&log).unwrap().delete_horizon(), Some(Millis(210)));
    log.clean(209, 10);
    assert!(has(&log).is_some());
    log.clean(210, 10);
    assert!(has(&log).is_none());
    assert_eq!(log.offsets(), [0, 3, 5]);
}

#[test]
fn nothing_at_or_above_the_last_stable_offset_is_touched_or_counts() {
    let mut log = Log::default();
    log.data(-1, false, &[A, A]);
    log.data(7, true, &[A]);
    log.data(-1, false, &[A, A]);
    let tail = log.batches[1..].to_vec();
    assert_eq!(log.clean(0, 0), Offset(2));
    assert_eq!(log.offsets(), [1, 2, 3, 4]);
    assert_eq!(log.batches[1..], tail);
}

#[test]
fn what_lies_right_below_the_last_stable_offset_stays_if_need_be_empty() {
    let mut log = Log::default();
    log.data(-1, false, &[("front", Some("0"))]);
    log.data(8, true, &[A]);
    let open = log.data(9, true, &[B]);
    log.marker(8, Outcome::Abort);
    log.last_of.clear();
    assert_eq!(log.clean(0, 0), open);
    assert_eq!(log.spans(), [(0, 0, 1), (1, 1, 0), (2, 2, 1), (3, 3, 1)]);
    log.marker(9, Outcome::Commit);
    log.clean(0, 0);
    assert_eq!(log.spans(), [(0, 0, 1), (2, 2, 1), (3, 3, 1), (4, 4, 1)]);
}

#[test]
fn the_last_batch_of_a_producer_stays_if_need_be_empty() {
    let mut log = Log::default();
    log.data(-1, false, &[("front", Some("0"))]);
    log.data(7, false, &[A]);
    log.data(7, false, &[A, B]);
    log.data(-1, false, &[A, B]);
    log.clean(0, 0);
    assert_eq!(log.spans(), [(0, 0, 1), (2, 3, 0), (4, 5, 2)]);
    let empty = &log.batches[1];
    assert_eq!((empty.producer_id(), empty.last_sequence()), (ProducerId(7), 2));
    assert_eq!(empty.max_timestamp(), Millis(-1), "no look-up by time lands there");
    log.data(7, false, &[B]);
    log.clean(0, 0);
    assert_eq!(log.spans(), [(0, 0, 1), (4, 5, 1), (6, 6, 1)]);
}

#[test]
fn a_survey_that_is_full_ends_there_and_the_next_one_goes_on() {
    let mut log = Log::default();
    for n in 0..3_000 {
        let key = format!("key-{}", n % 1_500);
        log.data(-1, false, &[(&key, Some("1"))]);
    }
    let table = log.table(0);
    let mut from = Offset(0);
    for _ in 0..10 {
        let upto = log.pass(from, 0, 0, &[usize::MAX], 0);
        assert!(upto > from || upto == Offset(3_000), "it gets on");
        assert_eq!(log.table(0), table);
        from = upto;
    }
    assert_eq!((from, log.offsets().len()), (Offset(3_000), 1_500));
}

#[test]
fn a_batch_that_has_no_room_in_an_empty_survey_is_taken_all_the_same() {
    let mut log = Log::default();
    let keys: Vec<String> = (0..5_000).map(|n| n.to_string()).collect();
    let pairs: Vec<Pair<'_>> = keys.iter().map(|key| (key.as_str(), Some("1"))).collect();
    log.data(-1, false, &pairs);
    log.data(-1, false, &[A]);
    assert_eq!(log.pass(Offset(0), 0, 0, &[9], 0), Offset(5_000));
}

/// What a client may do.
#[derive(Clone, Debug)]
enum Op {
    Data { producer: i64, pairs: Vec<(u8, Option<u8>)> },
    End { producer: i64, commit: bool },
    Pass { shares: Vec<usize>, hasten: i64 },
}

fn op() -> impl Strategy<Value = Op> {
    let pair = (0u8..6, prop_oneof![3 => (0u8..9).prop_map(Some), 1 => Just(None)]);
    prop_oneof![
        6 => (-1i64..4, prop::collection::vec(pair, 1..5)).prop_map(|(producer, pairs)| Op::Data { producer, pairs }),
        2 => (2i64..4, any::<bool>()).prop_map(|(producer, commit)| Op::End { producer, commit }),
        1 => (prop::collection::vec(1usize..6, 1..4), 0i64..40)
            .prop_map(|(shares, hasten)| Op::Pass { shares, hasten }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Against the plainest model: a log that is never compacted, folded by key. Producers 2 and 3 write in transactions.
    #[test]
    fn readers_end_with_what_they_would_have_without_compaction(ops in prop::collection::vec(op(), 1..60)) {
        let (mut log, mut model) = (Log::default(), Log::default());
        let (mut now, mut from) = (10_000, Offset(0));
        let last = [Op::Pass { shares: vec![2], hasten: 0 }, Op::Pass { shares: vec![3], hasten: 90 }];
        for op in ops.into_iter().chain(last) {
            match op {
                Op::Data { producer, pairs } => {
                    let pairs: Vec<(String, Option<String>)> =
                        pairs.iter().map(|(k, v)| (k.to_string(), v.map(|v| v.to_string()))).collect();
                    let pairs: Vec<Pair<'_>> =
                        pairs.iter().map(|(k, v)| (k.as_str(), v.as_deref())).collect();
                    log.data(producer, producer >= 2, &pairs);
                    model.data(producer, producer >= 2, &pairs);
                }
                Op::End { producer, commit } => {
                    let outcome = if commit { Outcome::Commit } else { Outcome::Abort };
                    log.marker(producer, outcome);
                    model.marker(producer, outcome);
                }
                Op::Pass { shares, hasten } => {
                    now += hasten;
                    let upto = log.pass(from, now, 30, &shares, 1 << 16);
                    prop_assert_eq!(upto, model.stable());
                    from = upto;
                    check(&log, &model, upto);
                }
            }
        }
    }
}

fn check(log: &Log, model: &Log, upto: Offset) {
    assert_eq!(log.table(0), model.table(0));
    let all: BTreeMap<Offset, Record> = model.records().into_iter().map(|(r, _)| (r.offset, r)).collect();
    let left: BTreeMap<Offset, Record> = log.records().into_iter().map(|(r, _)| (r.offset, r)).collect();
    assert!(left.iter().all(|(offset, record)| all[offset] == *record), "nothing is changed");
    assert!(all.range(upto..).all(|(offset, _)| left.contains_key(offset)), "what is beyond stays");
    let mut newest: BTreeMap<Bytes, Record> = BTreeMap::new();
    for (record, _) in model.records().into_iter().filter(|(r, hidden)| !hidden && r.offset < upto) {
        newest.insert(record.key.clone().unwrap(), record);
    }
    for record in newest.values().filter(|record| record.value.is_some()) {
        assert!(left.contains_key(&record.offset), "the newest of its key at {}", record.offset);
    }
    let below: Vec<&Record> = left.range(..upto).map(|(_, record)| record).collect();
    let mut keys: Vec<&Bytes> = below.iter().map(|record| record.key.as_ref().unwrap()).collect();
    keys.sort_unstable();
    assert!(keys.windows(2).all(|two| two[0] != two[1]), "one record of each key below {upto}");
    for (producer, last) in &log.last_of {
        let kept = log.batches.iter().any(|b| b.producer_id() == *producer && b.last_offset() == *last);
        assert!(kept, "the last batch of {producer}");
    }
    for txn in &log.aborted {
        assert!(
            log.batches.iter().any(|b| b.base_offset() == txn.marker && b.count() == 1),
            "the abort's marker"
        );
    }
}
