//! One partition as its owner knows it: offsets, epochs, producers, and what is not yet durable.
//!
//! Pure. `admit` decides, `apply` is the only way a batch enters (live and at replay), `on_durable` moves the high
//! watermark and the last stable offset, which are only ever what the bucket holds (R5). There is no undo: a
//! sealed lane drops the state whole. Knows no lane, no bytes and no request.

use std::collections::VecDeque;

use tidemark_proto::id::{LeaderEpoch, Millis, Offset, ProducerEpoch, ProducerId, Seq};
use tidemark_proto::kafka::error::ErrorCode;

use super::base::Base;
use super::producer::{Aborted, End, Mark, Origin, Producer, Producers, Verdict};

/// A validated batch that asks to be appended.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Producer fields; `None` for a batch without a producer id.
    pub origin: Option<Origin>,
    /// Number of offsets it takes (last offset delta + 1), at least 1.
    pub span: i64,
    /// Whether it belongs to a transaction.
    pub transactional: bool,
    /// Whether the partition was opened so lately that a client's earlier batches may still be on their way back.
    pub settling: bool,
}

/// A transaction marker that asks to be appended.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    /// Whose transaction.
    pub producer: ProducerId,
    /// Under which epoch.
    pub epoch: ProducerEpoch,
    /// How it ends.
    pub end: End,
}

/// What to do with an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Append it at this offset, stamped with this leader epoch.
    Append {
        /// Offset of its first record.
        base: Offset,
        /// Epoch to stamp.
        leader_epoch: LeaderEpoch,
    },
    /// It was appended before; answer with the original once `durable_with` is committed (R6).
    Duplicate {
        /// The original.
        mark: Mark,
        /// Sequence whose commit makes the original durable; `None` when it already is.
        durable_with: Option<Seq>,
    },
}

/// A batch that entered the log.
#[derive(Clone, Copy, Debug)]
pub struct Appended {
    /// Offset of its first record.
    pub base: Offset,
    /// Offset of its last record.
    pub last: Offset,
    /// Leader epoch it is stamped with.
    pub leader_epoch: LeaderEpoch,
    /// Producer fields.
    pub origin: Option<Origin>,
    /// Largest timestamp.
    pub max_timestamp: Millis,
    /// When it came, by the broker's clock; at replay the former.
    pub at: Millis,
    /// Bit 4 of the attributes, on a data batch.
    pub transactional: bool,
    /// What it ends, where it is a transaction marker.
    pub marker: Option<End>,
}

/// What one parcel adds to this partition: where the log ends once it is durable.
#[derive(Clone, Copy, Debug)]
struct Pending {
    seq: Seq,
    end: Offset,
    first_open: Option<Offset>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct State {
    leader_epoch: LeaderEpoch,
    log_start: Offset,
    end: Offset,
    hw: Offset,
    durable_open: Option<Offset>,
    epochs: Vec<(LeaderEpoch, Offset)>,
    producers: Producers,
    pending: VecDeque<Pending>,
}

impl State {
    /// Opens a partition on what recovery found; everything in `base` is durable.
    pub fn open(base: Base, leader_epoch: LeaderEpoch) -> State {
        let durable_open = base.producers.first_open();
        let state = State {
            leader_epoch,
            log_start: base.log_start,
            end: base.end,
            hw: base.end,
            durable_open,
            epochs: base.epochs,
            producers: base.producers,
            pending: VecDeque::new(),
        };
        state.check();
        state
    }

    /// Decides on an arrival.
    ///
    /// # Errors
    /// Those of the dedupe window. They rest on state that may not be durable yet: the caller holds the answer
    /// until [`State::settled_with`] is committed. While the partition is settling, a producer that is not known
    /// has to begin at 0: were its second batch taken, its refused first one could never follow. It retries.
    pub fn admit(&self, arrival: &Arrival) -> Result<Admission, ErrorCode> {
        debug_assert!(arrival.span >= 1, "a batch takes at least one offset");
        if let Some(origin) = arrival.origin.filter(|o| arrival.settling && o.first != 0)
            && !self.knows(origin.id)
        {
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        if let Some(origin) = arrival.origin {
            if let Verdict::Duplicate(mark) = self.producers.check(origin)? {
                return Ok(Admission::Duplicate { mark, durable_with: self.durable_with(mark.end) });
            }
            self.producers.check_txn(origin.id, arrival.transactional)?;
        }
        Ok(Admission::Append { base: self.end, leader_epoch: self.leader_epoch })
    }

    /// Decides on a transaction marker.
    ///
    /// # Errors
    /// As of [`Producers::check_end`]; to be held as those of [`State::admit`].
    pub fn admit_end(&self, ending: &Ending) -> Result<Admission, ErrorCode> {
        self.producers.check_end(ending.producer, ending.epoch, ending.end)?;
        Ok(Admission::Append { base: self.end, leader_epoch: self.leader_epoch })
    }

    /// Takes a batch into the log; `seq` is the parcel that will make it durable.
    pub fn apply(&mut self, batch: &Appended, seq: Seq) {
        assert!(batch.base == self.end, "offsets are handed out without a gap");
        enter(&mut self.epochs, &mut self.producers, batch);
        self.end = batch.last.plus(1);
        let first_open = self.producers.first_open();
        match self.pending.back_mut() {
            Some(last) if last.seq == seq => (last.end, last.first_open) = (self.end, first_open),
            last => {
                assert!(last.is_none_or(|l| l.seq < seq), "parcels follow each other");
                self.pending.push_back(Pending { seq, end: self.end, first_open });
            }
        }
    }

    /// Every parcel below `upto` is durable. Returns whether the high watermark moved.
    pub fn on_durable(&mut self, upto: Seq) -> bool {
        let before = self.hw;
        while let Some(next) = self.pending.front()
            && next.seq < upto
        {
            (self.hw, self.durable_open) = (next.end, next.first_open);
            self.pending.pop_front();
        }
        self.hw > before
    }

    /// The parcel whose commit makes all that this state says durable; `None` when it is.
    pub fn settled_with(&self) -> Option<Seq> {
        self.pending.back().map(|p| p.seq)
    }

    fn durable_with(&self, last: Offset) -> Option<Seq> {
        if last < self.hw {
            return None;
        }
        self.pending.iter().find(|p| p.end > last).map(|p| p.seq)
    }

    /// Moves the log start up; never down, never above the high watermark.
    pub fn raise_log_start(&mut self, to: Offset) {
        self.log_start = self.log_start.max(to.min(self.hw));
        self.producers.forget_aborted(self.log_start);
    }

    /// Forgets of `base` the producers that were idle too long here.
    pub fn forget_expired(&self, base: &mut Base) {
        base.producers.keep_known(&self.producers);
    }

    /// Forgets producers idle since before `deadline`.
    pub fn expire_producers(&mut self, deadline: Millis) {
        self.producers.expire(deadline);
    }

    /// First offset that can be read.
    pub fn log_start(&self) -> Offset {
        self.log_start
    }

    /// Offset the next batch will get.
    pub fn end(&self) -> Offset {
        self.end
    }

    /// High watermark: readers see only below it.
    pub fn hw(&self) -> Offset {
        self.hw
    }

    /// Last stable offset: read_committed sees only below it.
    pub fn lso(&self) -> Offset {
        self.durable_open.map_or(self.hw, |open| open.min(self.hw))
    }

    /// The aborted transactions that have an offset in `from..until`. Below the last stable offset the list is complete.
    pub fn aborted(&self, from: Offset, until: Offset) -> Vec<Aborted> {
        self.producers.aborted(from, until)
    }

    /// The epoch under which this broker owns the partition.
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    /// How many producers are remembered.
    pub fn producer_count(&self) -> usize {
        self.producers.len()
    }

    /// What is known of each producer, by id.
    pub fn producers(&self) -> Vec<(ProducerId, Producer)> {
        self.producers.iter().map(|(id, producer)| (id, producer.clone())).collect()
    }

    /// Whether `id` is known.
    pub fn knows(&self, id: ProducerId) -> bool {
        self.producers.get(id).is_some()
    }

    /// KIP-320: the largest epoch at or below `asked` and the offset where it ends (below the high watermark); `asked` itself
    /// where none is that old, `None` for one that is still to come.
    pub fn epoch_end(&self, asked: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        if asked.0 < 0 {
            return None;
        }
        if asked >= self.leader_epoch {
            return (asked == self.leader_epoch).then_some((asked, self.hw));
        }
        let at = self.epochs.partition_point(|(epoch, _)| *epoch <= asked);
        let before = at.checked_sub(1).and_then(|at| self.epochs.get(at));
        let end = self.epochs.get(at).map_or(self.hw, |(_, start)| *start);
        // An epoch in which nobody wrote has no row: it ends where the first one begins. Were it said to be unknown, a
        // reader that waits at the end of an empty partition would take a move of its leader for a loss.
        Some((before.map_or(asked, |(epoch, _)| *epoch), end.min(self.hw)))
    }

    /// Leader epoch of the record at `offset`, as ListOffsets reports it.
    pub fn epoch_at(&self, offset: Offset) -> LeaderEpoch {
        let at = self.epochs.partition_point(|(_, start)| *start <= offset);
        at.checked_sub(1).and_then(|i| self.epochs.get(i)).map_or(self.leader_epoch, |(epoch, _)| *epoch)
    }

    /// Asserts the invariants.
    pub fn check(&self) {
        assert!(self.log_start <= self.hw && self.hw <= self.end, "log start <= high watermark <= end");
        assert!(self.lso() <= self.hw, "the last stable offset is durable");
        assert!(self.pending.is_empty() == (self.hw == self.end), "what is not durable is pending");
        for (a, b) in self.pending.iter().zip(self.pending.iter().skip(1)) {
            assert!(a.seq < b.seq && a.end < b.end, "pending parcels are in order");
        }
        for (a, b) in self.epochs.iter().zip(self.epochs.iter().skip(1)) {
            assert!(a.0 < b.0 && a.1 <= b.1, "leader epochs and their starts only rise");
        }
        self.producers.check_invariants();
    }
}

/// The one way a batch changes epochs and producers: live, at replay, and in a cut's snapshot.
pub(super) fn enter(epochs: &mut Vec<(LeaderEpoch, Offset)>, producers: &mut Producers, batch: &Appended) {
    if epochs.last().is_none_or(|(epoch, _)| *epoch < batch.leader_epoch) {
        epochs.push((batch.leader_epoch, batch.base));
    }
    let Some(origin) = batch.origin else { return };
    match batch.marker {
        Some(end) => producers.end_txn(origin.id, origin.epoch, end, batch.base, batch.max_timestamp),
        None => {
            producers.record(origin, batch.base, batch.last, batch.max_timestamp, batch.transactional);
        }
    }
    producers.touch(origin.id, batch.at);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn open() -> State {
        State::open(Base::default(), LeaderEpoch(0))
    }

    fn append(
        state: &mut State,
        origin: Option<Origin>,
        span: i64,
        seq: u64,
    ) -> Result<Admission, ErrorCode> {
        let admission = state.admit(&Arrival { origin, span, transactional: false, settling: false })?;
        if let Admission::Append { base, leader_epoch } = admission {
            let last = base.plus(span - 1);
            let appended = Appended {
                base,
                last,
                leader_epoch,
                origin,
                max_timestamp: Millis(0),
                at: Millis(0),
                transactional: false,
                marker: None,
            };
            state.apply(&appended, Seq(seq));
        }
        state.check();
        Ok(admission)
    }

    fn origin(first: i32, last: i32) -> Option<Origin> {
        Some(Origin { id: ProducerId(1), epoch: ProducerEpoch(0), first, last })
    }

    #[test]
    fn nothing_is_visible_before_its_parcel_is_durable() {
        let mut state = open();
        append(&mut state, None, 3, 0).expect("appends");
        append(&mut state, None, 2, 1).expect("appends");
        assert_eq!((state.hw(), state.end()), (Offset(0), Offset(5)));
        assert!(state.on_durable(Seq(1)));
        assert_eq!(state.hw(), Offset(3));
        assert!(!state.on_durable(Seq(1)));
        assert!(state.on_durable(Seq(2)));
        assert_eq!(state.hw(), state.end());
    }

    #[test]
    fn a_duplicate_of_a_batch_in_flight_waits_for_the_original() {
        let mut state = open();
        append(&mut state, origin(0, 2), 3, 4).expect("appends");
        append(&mut state, origin(3, 3), 1, 5).expect("appends");
        let again = append(&mut state, origin(0, 2), 3, 6).expect("a duplicate");
        assert!(
            matches!(again, Admission::Duplicate { mark, durable_with: Some(Seq(4)) } if mark.base == Offset(0))
        );
        state.on_durable(Seq(5));
        let again = append(&mut state, origin(0, 2), 3, 6).expect("a duplicate");
        assert!(matches!(again, Admission::Duplicate { durable_with: None, .. }));
    }

    #[test]
    fn a_second_batch_does_not_overtake_a_refused_first_one() {
        let mut state = open();
        let second = Arrival { origin: origin(3, 3), span: 1, transactional: false, settling: true };
        assert_eq!(state.admit(&second), Err(ErrorCode::NotLeaderOrFollower));
        append(&mut state, origin(0, 2), 3, 0).expect("the first one is back");
        assert!(matches!(state.admit(&second), Ok(Admission::Append { base: Offset(3), .. })));
    }

    fn in_txn(state: &mut State, id: i64, first: i32, seq: u64) -> Result<Admission, ErrorCode> {
        let origin = Some(Origin { id: ProducerId(id), epoch: ProducerEpoch(0), first, last: first });
        let admission = state.admit(&Arrival { origin, span: 1, transactional: true, settling: false })?;
        if let Admission::Append { base, leader_epoch } = admission {
            let max_timestamp = Millis(0);
            let (last, transactional, marker) = (base, true, None);
            let at = Millis(0);
            let batch =
                Appended { base, last, leader_epoch, origin, max_timestamp, at, transactional, marker };
            state.apply(&batch, Seq(seq));
        }
        state.check();
        Ok(admission)
    }

    fn end(state: &mut State, id: i64, commit: bool, seq: u64) {
        let (producer, epoch) = (ProducerId(id), ProducerEpoch(0));
        let end = End { commit, coordinator_epoch: 0 };
        let Ok(Admission::Append { base, leader_epoch }) = state.admit_end(&Ending { producer, epoch, end })
        else {
            panic!("a marker is admitted")
        };
        let origin = Some(Origin { id: producer, epoch, first: -1, last: -1 });
        let (last, max_timestamp, transactional, marker) = (base, Millis(0), false, Some(end));
        let at = Millis(0);
        let batch = Appended { base, last, leader_epoch, origin, max_timestamp, at, transactional, marker };
        state.apply(&batch, Seq(seq));
        state.check();
    }

    #[test]
    fn the_last_stable_offset_stays_below_the_first_open_transaction_until_its_marker_is_durable() {
        let mut state = open();
        append(&mut state, None, 2, 0).expect("appends");
        in_txn(&mut state, 8, 0, 1).expect("appends");
        in_txn(&mut state, 9, 0, 2).expect("appends");
        state.on_durable(Seq(3));
        assert_eq!((state.hw(), state.lso()), (Offset(4), Offset(2)));
        end(&mut state, 8, false, 3);
        assert_eq!(state.lso(), Offset(2), "the marker is not durable");
        state.on_durable(Seq(4));
        assert_eq!((state.hw(), state.lso()), (Offset(5), Offset(3)), "the second one is open");
        end(&mut state, 9, true, 4);
        state.on_durable(Seq(5));
        assert_eq!(state.lso(), state.hw());
        let aborted = state.aborted(Offset(0), state.lso());
        assert_eq!(aborted, [Aborted { producer: ProducerId(8), first: Offset(2), marker: Offset(4) }]);
    }

    #[test]
    fn a_batch_outside_of_the_open_transaction_of_its_producer_is_refused() {
        let mut state = open();
        in_txn(&mut state, 1, 0, 0).expect("appends");
        assert_eq!(append(&mut state, origin(1, 1), 1, 0), Err(ErrorCode::InvalidTxnState));
        end(&mut state, 1, true, 0);
        append(&mut state, origin(1, 1), 1, 0).expect("the transaction has ended");
    }

    #[test]
    fn epoch_ends_answer_the_largest_epoch_at_or_below_the_asked_one() {
        let base = Base {
            end: Offset(20),
            epochs: vec![(LeaderEpoch(1), Offset(0)), (LeaderEpoch(3), Offset(10))],
            ..Base::default()
        };
        let state = State::open(base, LeaderEpoch(5));
        assert_eq!(state.epoch_end(LeaderEpoch(0)), Some((LeaderEpoch(0), Offset(0))), "before the first");
        assert_eq!(state.epoch_end(LeaderEpoch(2)), Some((LeaderEpoch(1), Offset(10))));
        assert_eq!(state.epoch_end(LeaderEpoch(4)), Some((LeaderEpoch(3), Offset(20))));
        assert_eq!(state.epoch_end(LeaderEpoch(5)), Some((LeaderEpoch(5), Offset(20))));
        assert_eq!(state.epoch_end(LeaderEpoch(6)), None);
        assert_eq!(state.epoch_at(Offset(12)), LeaderEpoch(3));
        let moved_empty = State::open(Base::default(), LeaderEpoch(2));
        assert_eq!(
            moved_empty.epoch_end(LeaderEpoch(1)),
            Some((LeaderEpoch(1), Offset(0))),
            "nothing is lost"
        );
    }

    proptest! {
        #[test]
        fn offsets_are_dense_and_the_high_watermark_never_falls(steps in prop::collection::vec((0u8..3, 1i64..5), 1..60)) {
            let (mut state, mut seq, mut durable, mut next) = (open(), 0u64, 0u64, 0i32);
            for (what, span) in steps {
                let (hw, end) = (state.hw(), state.end());
                match what {
                    0 => {
                        let last = next + i32::try_from(span).expect("small") - 1;
                        let admission = append(&mut state, origin(next, last), span, seq);
                        prop_assert_eq!(admission, Ok(Admission::Append { base: end, leader_epoch: LeaderEpoch(0) }));
                        next = last + 1;
                    }
                    1 => seq += 1,
                    _ => {
                        durable = (durable + 1).min(seq);
                        state.on_durable(Seq(durable));
                        state.check();
                    }
                }
                prop_assert!(state.hw() >= hw && state.end() >= end);
            }
        }
    }
}
