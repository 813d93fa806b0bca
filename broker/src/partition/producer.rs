//! What a partition knows of its idempotent producers (KIP-98): the dedupe window.
//!
//! Pure. Keeps, per producer id, its epoch and its last five batches, matched on exact first and last sequence.
//! Knows offsets only as values it is told; the caller decides when an original is durable (R6).

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tidemark_proto::id::{Millis, Offset, ProducerEpoch, ProducerId};
use tidemark_proto::kafka::error::ErrorCode;

/// Batches remembered per producer; Java's producer keeps at most five in flight.
pub const WINDOW: usize = 5;

/// Producers one partition remembers at most; the one idle longest is forgotten first.
pub const PRODUCERS_MAX: usize = 100_000;

/// The producer fields of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Producer id; negative means the batch is not idempotent.
    pub id: ProducerId,
    /// Epoch of that id.
    pub epoch: ProducerEpoch,
    /// Sequence of the first record.
    pub first: i32,
    /// Sequence of the last record (wraps from 2³¹−1 to 0).
    pub last: i32,
}

/// One remembered batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Sequence of the first record.
    pub first: i32,
    /// Sequence of the last record.
    pub last: i32,
    /// Offset of the first record.
    pub base: Offset,
    /// Offset of the last record.
    pub end: Offset,
    /// Largest timestamp of the batch.
    pub timestamp: Millis,
}

/// What is known of one producer id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Producer {
    /// Newest epoch seen.
    pub epoch: ProducerEpoch,
    /// Last batches of that epoch, oldest first, at most [`WINDOW`].
    pub marks: VecDeque<Mark>,
    /// Epoch of the transaction coordinator that last wrote a marker; -1 means none.
    pub coordinator_epoch: i32,
    /// First offset of the open transaction.
    pub open_txn: Option<Offset>,
    /// Broker time of the last batch.
    pub touched: Millis,
}

/// What to do with a batch of an idempotent producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Next in sequence: append it.
    Append,
    /// Already appended: answer with the original, once that is durable (R6).
    Duplicate(Mark),
}

/// A transaction that was aborted: readers of committed data pass over its batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted {
    /// Whose.
    pub producer: ProducerId,
    /// Offset of its first record.
    pub first: Offset,
    /// Offset of the marker that ended it.
    pub marker: Offset,
}

/// A transaction marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Whether what it ends counts.
    pub commit: bool,
    /// Epoch of the coordinator that wrote it.
    pub coordinator_epoch: i32,
}

/// All producers of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Producers {
    known: BTreeMap<ProducerId, Producer>,
    /// In the order of their markers.
    aborted: Vec<Aborted>,
}

/// The sequence after `sequence`: 2³¹−1 is followed by 0.
pub fn next_sequence(sequence: i32) -> i32 {
    sequence.checked_add(1).unwrap_or(0)
}

impl Producers {
    /// Judges a batch.
    ///
    /// # Errors
    /// `InvalidProducerEpoch` for an epoch older than the newest seen; `OutOfOrderSequenceNumber` for a gap, or
    /// for a new epoch that does not start at 0; `DuplicateSequenceNumber` for a sequence that was certainly
    /// appended before but has left the window.
    pub fn check(&self, origin: Origin) -> Result<Verdict, ErrorCode> {
        let Some(known) = self.known.get(&origin.id) else { return Ok(Verdict::Append) };
        if origin.epoch < known.epoch {
            return Err(ErrorCode::InvalidProducerEpoch);
        }
        if origin.epoch > known.epoch {
            let fresh = origin.first == 0;
            return if fresh { Ok(Verdict::Append) } else { Err(ErrorCode::OutOfOrderSequenceNumber) };
        }
        let same = |m: &&Mark| m.first == origin.first && m.last == origin.last;
        if let Some(mark) = known.marks.iter().find(same) {
            return Ok(Verdict::Duplicate(*mark));
        }
        match (known.marks.front(), known.marks.back()) {
            (_, Some(newest)) if origin.first == next_sequence(newest.last) => Ok(Verdict::Append),
            (Some(oldest), _) if origin.last < oldest.first => Err(ErrorCode::DuplicateSequenceNumber),
            // Only a marker is remembered: its epoch has not begun.
            (None, _) if origin.first == 0 => Ok(Verdict::Append),
            _ => Err(ErrorCode::OutOfOrderSequenceNumber),
        }
    }

    /// Remembers an appended batch. Also used at replay, where the order of batches is that of the log.
    pub fn record(
        &mut self,
        origin: Origin,
        base: Offset,
        end: Offset,
        timestamp: Millis,
        transactional: bool,
    ) {
        let known = self.known.entry(origin.id).or_insert_with(|| Producer {
            epoch: origin.epoch,
            marks: VecDeque::new(),
            coordinator_epoch: -1,
            open_txn: None,
            touched: timestamp,
        });
        if origin.epoch != known.epoch {
            known.epoch = origin.epoch;
            known.marks.clear();
        }
        known.marks.push_back(Mark { first: origin.first, last: origin.last, base, end, timestamp });
        if known.marks.len() > WINDOW {
            known.marks.pop_front();
        }
        known.touched = known.touched.max(timestamp);
        if transactional && known.open_txn.is_none() {
            known.open_txn = Some(base);
        }
        self.bound();
    }

    /// Judges a batch of a transaction, or one outside of any.
    ///
    /// # Errors
    /// `InvalidTxnState` for a batch outside of a transaction while the producer's own is open.
    pub fn check_txn(&self, id: ProducerId, transactional: bool) -> Result<(), ErrorCode> {
        let open = self.known.get(&id).is_some_and(|p| p.open_txn.is_some());
        if open && !transactional { Err(ErrorCode::InvalidTxnState) } else { Ok(()) }
    }

    /// Judges a transaction marker.
    ///
    /// # Errors
    /// `InvalidProducerEpoch` for an epoch older than the newest seen, `TransactionCoordinatorFenced` for a coordinator older
    /// than the last one.
    pub fn check_end(&self, id: ProducerId, epoch: ProducerEpoch, end: End) -> Result<(), ErrorCode> {
        match self.known.get(&id) {
            Some(known) if epoch < known.epoch => Err(ErrorCode::InvalidProducerEpoch),
            Some(known) if end.coordinator_epoch < known.coordinator_epoch => {
                Err(ErrorCode::TransactionCoordinatorFenced)
            }
            _ => Ok(()),
        }
    }

    /// Notes a transaction marker at offset `marker`: the producer's open transaction ends.
    pub fn end_txn(&mut self, id: ProducerId, epoch: ProducerEpoch, end: End, marker: Offset, at: Millis) {
        let coordinator_epoch = end.coordinator_epoch;
        let known = self.known.entry(id).or_insert_with(|| Producer {
            epoch,
            marks: VecDeque::new(),
            coordinator_epoch,
            open_txn: None,
            touched: at,
        });
        if epoch > known.epoch {
            known.epoch = epoch;
            known.marks.clear();
        }
        if let Some(first) = known.open_txn.take().filter(|_| !end.commit) {
            self.aborted.push(Aborted { producer: id, first, marker });
        }
        known.coordinator_epoch = coordinator_epoch;
        known.touched = known.touched.max(at);
    }

    /// The aborted transactions that have an offset in `from..until`, in the order of their markers.
    pub fn aborted(&self, from: Offset, until: Offset) -> Vec<Aborted> {
        let since = self.aborted.partition_point(|txn| txn.marker < from);
        self.aborted[since..].iter().filter(|txn| txn.first < until).copied().collect()
    }

    /// Forgets aborted transactions that end below the log start.
    pub fn forget_aborted(&mut self, log_start: Offset) {
        let since = self.aborted.partition_point(|txn| txn.marker < log_start);
        self.aborted.drain(..since);
    }

    /// First offset of the oldest open transaction; the last stable offset may not pass it.
    pub fn first_open(&self) -> Option<Offset> {
        self.known.values().filter_map(|p| p.open_txn).min()
    }

    /// Notes that `id` wrote at `now`, by this broker's clock: what its records say of time does not count.
    pub fn touch(&mut self, id: ProducerId, now: Millis) {
        if let Some(known) = self.known.get_mut(&id) {
            known.touched = known.touched.max(now);
        }
    }

    /// Takes all for active at `now`: who opens a log cannot know when its batches came.
    pub fn refresh(&mut self, now: Millis) {
        self.known.values_mut().for_each(|known| known.touched = known.touched.max(now));
    }

    /// Forgets those that `other` does not know.
    pub fn keep_known(&mut self, other: &Producers) {
        self.known.retain(|id, _| other.known.contains_key(id));
    }

    /// Forgets producers idle since before `deadline`; never one with an open transaction.
    pub fn expire(&mut self, deadline: Millis) {
        self.known.retain(|_, p| p.open_txn.is_some() || p.touched >= deadline);
    }

    /// How many producers are known.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// True when none is known.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Every producer known, by id.
    pub fn iter(&self) -> impl Iterator<Item = (ProducerId, &Producer)> {
        self.known.iter().map(|(id, producer)| (*id, producer))
    }

    /// What is known of `id`.
    pub fn get(&self, id: ProducerId) -> Option<&Producer> {
        self.known.get(&id)
    }

    #[cfg(test)]
    fn forget(&mut self, id: ProducerId) {
        self.known.remove(&id);
    }

    fn bound(&mut self) {
        if self.known.len() > PRODUCERS_MAX {
            let idle = self.known.iter().filter(|(_, p)| p.open_txn.is_none()).min_by_key(|(_, p)| p.touched);
            if let Some(id) = idle.map(|(id, _)| *id) {
                self.known.remove(&id);
            }
        }
    }

    /// Bytes for a snapshot (run footers and checkpoints carry them opaquely).
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(2);
        out.put_u32(u32::try_from(self.known.len()).expect("bounded by PRODUCERS_MAX"));
        for (id, p) in &self.known {
            out.put_i64(id.0);
            out.put_i16(p.epoch.0);
            out.put_i32(p.coordinator_epoch);
            out.put_i64(p.open_txn.map_or(-1, |o| o.0));
            out.put_i64(p.touched.0);
            out.put_u8(u8::try_from(p.marks.len()).expect("bounded by WINDOW"));
            for m in &p.marks {
                out.put_i32(m.first);
                out.put_i32(m.last);
                out.put_i64(m.base.0);
                out.put_i64(m.end.0);
                out.put_i64(m.timestamp.0);
            }
        }
        for txn in &self.aborted {
            out.put_i64(txn.producer.0);
            out.put_i64(txn.first.0);
            out.put_i64(txn.marker.0);
        }
        out.freeze()
    }

    /// The inverse of [`Self::encode`]; `None` when the bytes are not a snapshot. Empty bytes are an empty snapshot.
    pub fn decode(mut bytes: Bytes) -> Option<Producers> {
        let mut producers = Producers::default();
        if bytes.is_empty() {
            return Some(producers);
        }
        let version = bytes.try_get_u8().ok()?;
        if !matches!(version, 1 | 2) {
            return None;
        }
        for _ in 0..bytes.try_get_u32().ok()? {
            let id = ProducerId(bytes.try_get_i64().ok()?);
            let epoch = ProducerEpoch(bytes.try_get_i16().ok()?);
            let coordinator_epoch = bytes.try_get_i32().ok()?;
            let open = bytes.try_get_i64().ok()?;
            let touched = Millis(bytes.try_get_i64().ok()?);
            let mut marks = VecDeque::new();
            for _ in 0..bytes.try_get_u8().ok()? {
                marks.push_back(Mark {
                    first: bytes.try_get_i32().ok()?,
                    last: bytes.try_get_i32().ok()?,
                    base: Offset(bytes.try_get_i64().ok()?),
                    end: Offset(bytes.try_get_i64().ok()?),
                    timestamp: Millis(bytes.try_get_i64().ok()?),
                });
            }
            let open_txn = (open >= 0).then_some(Offset(open));
            producers.known.insert(id, Producer { epoch, marks, coordinator_epoch, open_txn, touched });
        }
        // Version 1 knew no aborted transactions.
        while version > 1 && !bytes.is_empty() {
            let producer = ProducerId(bytes.try_get_i64().ok()?);
            let first = Offset(bytes.try_get_i64().ok()?);
            let marker = Offset(bytes.try_get_i64().ok()?);
            if first > marker || producers.aborted.last().is_some_and(|last| last.marker >= marker) {
                return None;
            }
            producers.aborted.push(Aborted { producer, first, marker });
        }
        bytes.is_empty().then_some(producers)
    }

    /// Asserts the invariants.
    pub fn check_invariants(&self) {
        for (id, p) in &self.known {
            assert!(id.0 >= 0, "only idempotent producers are remembered");
            assert!(p.marks.len() <= WINDOW, "the window holds at most five batches");
            for (a, b) in p.marks.iter().zip(p.marks.iter().skip(1)) {
                assert!(a.end < b.base, "marks are in log order");
            }
        }
        for (a, b) in self.aborted.iter().zip(self.aborted.iter().skip(1)) {
            assert!(a.marker < b.marker, "aborted transactions are in the order of their markers");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(epoch: i16, first: i32, last: i32) -> Origin {
        Origin { id: ProducerId(7), epoch: ProducerEpoch(epoch), first, last }
    }

    fn with(batches: &[(i16, i32, i32, i64)]) -> Producers {
        let mut producers = Producers::default();
        for &(epoch, first, last, base) in batches {
            let end = Offset(base + i64::from(last - first));
            producers.record(origin(epoch, first, last), Offset(base), end, Millis(base), false);
            producers.check_invariants();
        }
        producers
    }

    #[test]
    fn an_exact_repeat_is_a_duplicate_with_its_original_offset() {
        let producers = with(&[(0, 0, 4, 100), (0, 5, 9, 105)]);
        let verdict = producers.check(origin(0, 0, 4));
        assert!(
            matches!(verdict, Ok(Verdict::Duplicate(m)) if m.base == Offset(100) && m.end == Offset(104))
        );
        assert_eq!(producers.check(origin(0, 10, 10)), Ok(Verdict::Append));
    }

    #[test]
    fn a_gap_and_an_overlap_are_out_of_order() {
        let producers = with(&[(0, 0, 4, 100)]);
        assert_eq!(producers.check(origin(0, 6, 6)), Err(ErrorCode::OutOfOrderSequenceNumber));
        assert_eq!(producers.check(origin(0, 3, 5)), Err(ErrorCode::OutOfOrderSequenceNumber));
    }

    #[test]
    fn a_sequence_that_left_the_window_is_reported_as_a_duplicate() {
        let batches: Vec<_> = (0..7).map(|i| (0, i, i, i64::from(i))).collect();
        assert_eq!(with(&batches).check(origin(0, 1, 1)), Err(ErrorCode::DuplicateSequenceNumber));
    }

    #[test]
    fn an_older_epoch_is_fenced_and_a_newer_one_starts_at_zero() {
        let producers = with(&[(3, 0, 0, 1)]);
        assert_eq!(producers.check(origin(2, 1, 1)), Err(ErrorCode::InvalidProducerEpoch));
        assert_eq!(producers.check(origin(4, 1, 1)), Err(ErrorCode::OutOfOrderSequenceNumber));
        assert_eq!(producers.check(origin(4, 0, 1)), Ok(Verdict::Append));
    }

    #[test]
    fn an_unknown_producer_may_start_anywhere_and_sequences_wrap_to_zero() {
        let producers = Producers::default();
        assert_eq!(producers.check(origin(0, 17, 17)), Ok(Verdict::Append));
        let producers = with(&[(0, i32::MAX, i32::MAX, 1)]);
        assert_eq!(producers.check(origin(0, 0, 0)), Ok(Verdict::Append));
    }

    #[test]
    fn a_snapshot_round_trips_and_a_damaged_one_is_refused() {
        let mut producers = with(&[(0, 0, 4, 100), (0, 5, 9, 105)]);
        producers.record(
            Origin { id: ProducerId(9), epoch: ProducerEpoch(1), first: 0, last: 0 },
            Offset(110),
            Offset(110),
            Millis(5),
            true,
        );
        let end = End { commit: false, coordinator_epoch: 0 };
        producers.end_txn(ProducerId(9), ProducerEpoch(1), end, Offset(111), Millis(6));
        let bytes = producers.encode();
        assert_eq!(Producers::decode(bytes.clone()), Some(producers));
        // Without its one aborted transaction it is a snapshot too.
        for cut in (1..bytes.len()).filter(|cut| *cut != bytes.len() - 24) {
            assert_eq!(Producers::decode(bytes.slice(..cut)), None, "truncated at {cut}");
        }
    }

    #[test]
    fn an_idle_producer_expires_unless_its_transaction_is_open() {
        let mut producers = with(&[(0, 0, 0, 1)]);
        producers.record(
            Origin { id: ProducerId(9), epoch: ProducerEpoch(0), first: 0, last: 0 },
            Offset(2),
            Offset(2),
            Millis(1),
            true,
        );
        producers.expire(Millis(1_000));
        assert!(producers.get(ProducerId(7)).is_none());
        assert_eq!(producers.first_open(), Some(Offset(2)));
        let end = End { commit: true, coordinator_epoch: 3 };
        producers.end_txn(ProducerId(9), ProducerEpoch(0), end, Offset(3), Millis(2));
        producers.expire(Millis(1_000));
        assert!(producers.is_empty());
    }

    #[test]
    fn aborted_transactions_are_listed_where_they_overlap_and_committed_ones_never() {
        let mut producers = Producers::default();
        let mut txn = |id: i64, first: i64, marker: i64, commit: bool| {
            let origin = Origin { id: ProducerId(id), epoch: ProducerEpoch(0), first: 0, last: 0 };
            producers.forget(ProducerId(id));
            producers.record(origin, Offset(first), Offset(first), Millis(0), true);
            let end = End { commit, coordinator_epoch: 0 };
            producers.end_txn(ProducerId(id), ProducerEpoch(0), end, Offset(marker), Millis(0));
            producers.check_invariants();
        };
        txn(1, 0, 5, false);
        txn(2, 3, 7, true);
        txn(3, 2, 20, false);
        txn(4, 21, 22, false);
        let ids = |from, until| -> Vec<i64> {
            producers.aborted(Offset(from), Offset(until)).iter().map(|t| t.producer.0).collect()
        };
        assert_eq!(ids(0, 100), [1, 3, 4]);
        assert_eq!(ids(0, 2), [1], "the end is exclusive");
        assert_eq!(ids(5, 6), [1, 3], "a marker is part of its transaction");
        assert_eq!(ids(6, 21), [3]);
        assert_eq!(ids(23, 100), [] as [i64; 0]);
        producers.forget_aborted(Offset(6));
        assert_eq!(producers.aborted(Offset(0), Offset(100)).len(), 2);
    }

    #[test]
    fn markers_of_older_epochs_and_coordinators_are_refused() {
        let mut producers = with(&[(3, 0, 0, 1)]);
        let end = |coordinator_epoch| End { commit: true, coordinator_epoch };
        let check = |producers: &Producers, epoch, coordinator| {
            producers.check_end(ProducerId(7), ProducerEpoch(epoch), end(coordinator))
        };
        assert_eq!(check(&producers, 2, 0), Err(ErrorCode::InvalidProducerEpoch));
        assert_eq!(check(&producers, 3, 4), Ok(()));
        producers.end_txn(ProducerId(7), ProducerEpoch(4), end(4), Offset(2), Millis(2));
        assert_eq!(check(&producers, 4, 3), Err(ErrorCode::TransactionCoordinatorFenced));
        assert_eq!(check(&producers, 3, 9), Err(ErrorCode::InvalidProducerEpoch));
        assert_eq!(producers.check(origin(4, 1, 1)), Err(ErrorCode::OutOfOrderSequenceNumber));
        assert_eq!(producers.check(origin(4, 0, 0)), Ok(Verdict::Append), "a marker's epoch begins at 0");
    }
}
