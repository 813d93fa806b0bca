//! A partition as of some point of its log: what recovery starts from and what a cut writes down.
//!
//! Pure. A base is folded out of the bucket alone: a snapshot (of a run or a checkpoint) and the footers after
//! it, so that a cut never writes down what is not durable. Replaying a batch that a base holds changes nothing.

use tidemark_proto::id::{LeaderEpoch, Offset};
use tidemark_tiering::parcel::footer::BatchEntry;
use tidemark_tiering::run;

use super::producer::{End, Origin, Producers};
use super::state::{Appended, enter};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Base {
    /// First offset that can be read.
    pub log_start: Offset,
    /// Offset after the last record.
    pub end: Offset,
    /// Leader epochs and the offset each began at, rising.
    pub epochs: Vec<(LeaderEpoch, Offset)>,
    /// The dedupe window.
    pub producers: Producers,
}

/// A hole or an overlap where recovery needs the log to be dense (R13).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("offset {found} stands where {expected} was expected")]
pub struct Gap {
    /// Offset the log had reached.
    pub expected: Offset,
    /// Offset that came next.
    pub found: Offset,
}

/// The part of a footer's batch entry that state is made of.
pub fn appended(entry: &BatchEntry) -> Appended {
    let origin = (entry.producer_id.0 >= 0).then(|| Origin {
        id: entry.producer_id,
        epoch: entry.producer_epoch,
        first: entry.base_sequence,
        last: entry.last_sequence(),
    });
    Appended {
        base: entry.base_offset,
        last: entry.last_offset,
        leader_epoch: entry.leader_epoch,
        origin,
        max_timestamp: entry.max_timestamp,
        at: entry.max_timestamp,
        transactional: entry.is_transactional() && !entry.is_control(),
        marker: entry
            .marker
            .as_ref()
            .map(|m| End { commit: m.commit, coordinator_epoch: m.coordinator_epoch }),
    }
}

/// Where a log that ends at `end` ends with `entry`; `None` where it holds that batch already.
fn after(end: Offset, entry: &BatchEntry) -> Result<Option<Offset>, Gap> {
    match entry.base_offset {
        _ if entry.last_offset < end => Ok(None),
        base if base == end => Ok(Some(entry.last_offset.plus(1))),
        found => Err(Gap { expected: end, found }),
    }
}

impl Base {
    /// Whether [`Self::replay`] would take all of `batches`.
    ///
    /// # Errors
    /// [`Gap`] where it would not.
    pub fn follows<'a>(&self, batches: impl IntoIterator<Item = &'a BatchEntry>) -> Result<(), Gap> {
        let mut end = self.end;
        for entry in batches {
            end = after(end, entry)?.unwrap_or(end);
        }
        Ok(())
    }

    /// Takes the next batch of the log. One that the base already holds is passed over; returns whether it was new.
    ///
    /// # Errors
    /// [`Gap`] when offsets are missing or overlap: the partition goes offline, nothing is truncated (R13).
    pub fn replay(&mut self, entry: &BatchEntry) -> Result<bool, Gap> {
        let Some(end) = after(self.end, entry)? else { return Ok(false) };
        enter(&mut self.epochs, &mut self.producers, &appended(entry));
        self.end = end;
        Ok(true)
    }

    /// Moves the log start up; never down, never beyond the end. The metadata has the last word on where the log starts,
    /// and never names what was not durable.
    pub fn raise_log_start(&mut self, to: Offset) {
        self.log_start = self.log_start.max(to).min(self.end);
        self.producers.forget_aborted(self.log_start);
    }

    /// As runs and checkpoints carry it.
    pub fn to_state(&self) -> run::State {
        run::State {
            log_start: self.log_start,
            end: self.end,
            epochs: self.epochs.clone(),
            snapshot: self.producers.encode(),
        }
    }

    /// The inverse of [`Self::to_state`]; `None` when the snapshot is damaged.
    pub fn from_state(state: &run::State) -> Option<Base> {
        Some(Base {
            log_start: state.log_start,
            end: state.end,
            epochs: state.epochs.clone(),
            producers: Producers::decode(state.snapshot.clone())?,
        })
    }
}
