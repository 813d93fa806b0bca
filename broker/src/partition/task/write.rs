//! Writes: admitted, stamped, put into the lane, and parked until the lane has committed them.

use tidemark_proto::id::Seq;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::record::control::{EndMarker, Outcome};
use tidemark_proto::record::stamp::Stamped;
use tidemark_proto::record::view::Batch;
use tidemark_tiering::parcel::{BatchEntry, Entry};
use tidemark_tiering::planted::{self, Bug};
use tidemark_tiering::witness::{Sight, saw};

use super::super::base::appended;
use super::super::producer::{End, Origin};
use super::super::state::{Admission, Appended, Arrival, Ending};
use super::super::{Produce, Write, Written};
use super::{Slot, Task};

/// How long after its opening a partition takes an unknown producer only from its first sequence on.
const SETTLING: std::time::Duration = std::time::Duration::from_secs(5);

impl Task {
    pub(super) fn on_produce(&mut self, request: Produce) {
        let Produce { writes, early, flush, reply } = request;
        if writes.is_empty() {
            reply.send(Vec::new()).ok();
            return;
        }
        let number = self.tickets.open(writes.len(), reply, early);
        for (slot, write) in writes.into_iter().enumerate() {
            self.on_write(number, slot, write);
        }
        if flush {
            self.lane.flush();
        }
    }

    pub(super) fn on_write(&mut self, number: u64, slot: usize, write: Write) {
        let (result, durable_with) = match self.partitions.get_mut(&write.tp) {
            Some(Slot::Opening { deferred, .. }) => {
                deferred.push((number, slot, write));
                return;
            }
            Some(Slot::Open(open)) => match open.hold(number, slot, write) {
                Ok(()) => return,
                Err(_) if open.is_stalled() => (Err(ErrorCode::NotLeaderOrFollower), None),
                Err(write) => self.append(write),
            },
            Some(Slot::Offline) => (Err(ErrorCode::KafkaStorageError), None),
            None => (Err(ErrorCode::NotLeaderOrFollower), None),
        };
        if let Some((ticket, durable_with)) = self.tickets.decide(number, slot, result, durable_with) {
            match durable_with {
                Some(seq) if seq >= self.handled && !planted::is(Bug::AckBeforeDurable) => {
                    self.parked.park(seq, ticket)
                }
                _ => ticket.answer(ErrorCode::UnknownServerError),
            }
        }
    }

    /// Admits, stamps and applies one batch; the result holds once the sequence beside it is committed.
    fn append(&mut self, write: Write) -> (Result<Written, ErrorCode>, Option<Seq>) {
        let Some(Slot::Open(open)) = self.partitions.get_mut(&write.tp) else {
            return (Err(ErrorCode::NotLeaderOrFollower), None);
        };
        if write.leader_epoch.is_some_and(|e| e != open.state.leader_epoch()) {
            return (Err(ErrorCode::NotLeaderOrFollower), None);
        }
        let batch = &write.batch;
        let origin = batch.has_producer_id().then(|| Origin {
            id: batch.producer_id(),
            epoch: batch.producer_epoch(),
            first: batch.base_sequence(),
            last: batch.last_sequence(),
        });
        // A coordinator's marker and its own records carry no sequence.
        let origin = origin.filter(|o| o.first >= 0 || batch.is_control());
        let arrival = Arrival {
            origin: origin.filter(|_| !batch.is_control()),
            span: i64::from(batch.last_offset_delta()) + 1,
            transactional: batch.is_transactional(),
            settling: open.opened.elapsed() < SETTLING,
        };
        let log_start = open.state.log_start();
        let admission = match ending(batch) {
            Some(ending) => open.state.admit_end(&ending),
            None => open.state.admit(&arrival),
        };
        let (base, leader_epoch) = match admission {
            Err(code) => {
                if code == ErrorCode::OutOfOrderSequenceNumber {
                    saw(Sight::OutOfOrder);
                }
                return (Err(code), open.state.settled_with());
            }
            Ok(Admission::Duplicate { mark, durable_with }) => {
                saw(if durable_with.is_some() { Sight::DuplicateParked } else { Sight::Duplicate });
                let durable_with = durable_with.filter(|_| !planted::is(Bug::DuplicateAckedEarly));
                return (Ok(Written { base: mark.base, log_start }), durable_with);
            }
            Ok(Admission::Append { base, leader_epoch }) => (base, leader_epoch),
        };
        let Ok(meta) = BatchEntry::of(batch, base, leader_epoch) else {
            return (Err(ErrorCode::CorruptMessage), None);
        };
        let stamped = Stamped::new(batch, base, leader_epoch);
        let facts = Appended { at: self.clock.wall(), ..appended(&meta) };
        let (max_timestamp, last) = (meta.max_timestamp, meta.last_offset);
        let length = stamped.len();
        open.index.push_recent(base, last, max_timestamp, stamped.clone());
        let seq = self.lane.add(Entry {
            topic: write.tp.topic,
            partition: write.tp.partition,
            internal: open.internal,
            batch: stamped,
            meta,
        });
        open.state.apply(&facts, seq);
        #[cfg(any(test, debug_assertions))]
        open.state.check();
        self.recent.push_back((write.tp, last, length));
        self.recent_bytes += length;
        (Ok(Written { base, log_start }), Some(seq))
    }

    pub(super) fn forget_recent(&mut self) {
        while self.recent_bytes > self.options.recent_bytes_max
            && let Some(&(tp, last, length)) = self.recent.front()
        {
            if let Some(Slot::Open(open)) = self.partitions.get_mut(&tp) {
                if last >= open.state.hw() {
                    break;
                }
                open.index.forget_recent(last);
            }
            self.recent_bytes -= length;
            self.recent.pop_front();
        }
    }
}

/// What a batch ends, if it is a transaction marker.
fn ending(batch: &Batch) -> Option<Ending> {
    let EndMarker { outcome, producer, epoch, coordinator_epoch } = EndMarker::read(batch).ok()??;
    let end = End { commit: outcome == Outcome::Commit, coordinator_epoch };
    Some(Ending { producer, epoch, end })
}
