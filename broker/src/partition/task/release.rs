//! Handing single partitions over (R17): appends stop, what is in flight drains, and only then a bound is named.
//!
//! What is written meanwhile is held, so that a producer waits for the move and not for its own back-off; what is read
//! is refused from the bound on (R24: somebody else may append from then on). Whoever asked for the release says how
//! it ended: the partition is resigned, or kept. A partition that left is remembered until the lane's cut has passed
//! its last batch here: the cut needs to know it.

use tidemark_proto::id::{LeaderEpoch, Seq, TopicPartition};
use tidemark_tiering::planted::{self, Bug};
use tokio::sync::oneshot;

use super::super::base::Base;
use super::{Open, Slot, Task, Write};

/// What a release came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// All that was ever appended to these partitions is durable below it.
    pub bound: Seq,
    /// The partitions that were open.
    pub partitions: Vec<TopicPartition>,
}

/// How far a partition's leaving has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Waiting for what is in flight.
    Draining,
    /// The bound is named; somebody else may lead it any moment.
    Named,
    /// The same, and nobody is held any more.
    Stalled,
}

/// A partition on its way to another broker.
#[derive(Debug)]
pub(super) struct Leaving {
    phase: Phase,
    pub(super) held: Vec<(u64, usize, Write)>,
}

/// A release that waits for what is in flight.
#[derive(Debug)]
pub(super) struct Release {
    partitions: Vec<TopicPartition>,
    settled: oneshot::Sender<Settled>,
}

/// A partition that left, as the cut needs it.
#[derive(Debug)]
pub(super) struct Departed {
    pub(super) leader_epoch: LeaderEpoch,
    pub(super) base: Base,
    /// The lane holds nothing of it at or above.
    pub(super) until: Seq,
}

impl Departed {
    /// A cut brought it to `base`.
    pub(super) fn cut(&mut self, base: &Base) {
        if base.end > self.base.end {
            self.base = base.clone();
        }
    }
}

impl Open {
    /// Whether it may not be read here any more.
    pub(super) fn is_released(&self) -> bool {
        self.leaving.as_ref().is_some_and(|leaving| leaving.phase != Phase::Draining)
    }

    /// Takes a write that has to wait for the end of the move, or gives it back.
    pub(super) fn hold(&mut self, number: u64, at: usize, write: Write) -> Result<(), Write> {
        match &mut self.leaving {
            Some(leaving) if leaving.phase != Phase::Stalled => {
                leaving.held.push((number, at, write));
                Ok(())
            }
            _ => Err(write),
        }
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.leaving.as_ref().is_some_and(|leaving| leaving.phase == Phase::Stalled)
    }
}

impl Task {
    fn open_mut(&mut self, tp: TopicPartition) -> Option<&mut Open> {
        match self.partitions.get_mut(&tp) {
            Some(Slot::Open(open)) => Some(open),
            _ => None,
        }
    }

    pub(super) fn on_release(&mut self, partitions: Vec<TopicPartition>, settled: oneshot::Sender<Settled>) {
        let mut open = Vec::with_capacity(partitions.len());
        for tp in partitions {
            let Some(here) = self.open_mut(tp) else { continue };
            here.leaving.get_or_insert(Leaving { phase: Phase::Draining, held: Vec::new() });
            open.push(tp);
        }
        self.releases.push(Release { partitions: open, settled });
        self.settle_releases();
        if !self.releases.is_empty() {
            self.lane.flush();
        }
    }

    /// Names the bounds of those releases of which nothing is in flight any more.
    pub(super) fn settle_releases(&mut self) {
        for release in std::mem::take(&mut self.releases) {
            let in_flight = |tp: &TopicPartition| match self.partitions.get(tp) {
                Some(Slot::Open(open)) => open.state.settled_with().is_some(),
                _ => false,
            };
            if release.partitions.iter().any(in_flight) && !planted::is(Bug::ReleaseWithoutDrain) {
                self.releases.push(release);
                continue;
            }
            for tp in &release.partitions {
                if let Some(leaving) = self.open_mut(*tp).and_then(|open| open.leaving.as_mut()) {
                    leaving.phase = leaving.phase.max(Phase::Named);
                }
            }
            let Release { partitions, settled } = release;
            settled.send(Settled { bound: self.handled, partitions }).ok();
        }
    }

    pub(super) fn on_stall(&mut self, partitions: &[TopicPartition]) {
        for tp in partitions {
            let Some(leaving) = self.open_mut(*tp).and_then(|open| open.leaving.as_mut()) else { continue };
            leaving.phase = Phase::Stalled;
            let held = std::mem::take(&mut leaving.held);
            self.refuse_writes(held);
        }
    }

    pub(super) fn on_keep(&mut self, partitions: &[TopicPartition]) {
        for tp in partitions {
            let Some(open) = self.open_mut(*tp) else { continue };
            let Some(leaving) = open.leaving.take() else { continue };
            if leaving.phase == Phase::Stalled {
                open.opened = tokio::time::Instant::now(); // what was refused may be on its way back
            }
            for (number, at, write) in leaving.held {
                self.on_write(number, at, write);
            }
        }
    }

    /// Remembers a partition that is about to be dropped.
    pub(super) fn depart(&mut self, tp: TopicPartition) {
        let until = self.handled;
        let Some(open) = self.open_mut(tp) else { return };
        let (leader_epoch, base) = (open.state.leader_epoch(), open.base.clone());
        self.departed.insert(tp, Departed { leader_epoch, base, until });
    }
}
