//! Timers of all groups, in one order: by time, then by when they were set. Deterministic, no task per timer.

use std::collections::BTreeMap;

use tidemark_proto::id::PartitionIndex;
use tidemark_proto::kafka::text::Text;
use tokio::time::Instant;

use crate::group::command::Timer;

type Key = (PartitionIndex, Text, Timer);

/// See the module. A key has at most one deadline.
#[derive(Debug, Default)]
pub struct Timers {
    due: BTreeMap<(Instant, u64), Key>,
    set: BTreeMap<Key, (Instant, u64)>,
    count: u64,
}

impl Timers {
    /// Sets a timer, or sets it anew.
    pub fn set(&mut self, at: PartitionIndex, group: &Text, timer: Timer, deadline: Instant) {
        let key = (at, group.clone(), timer);
        self.count += 1;
        let place = (deadline, self.count);
        if let Some(before) = self.set.insert(key.clone(), place) {
            self.due.remove(&before);
        }
        self.due.insert(place, key);
    }

    /// The timer does not fire any more.
    pub fn cancel(&mut self, at: PartitionIndex, group: &Text, timer: Timer) {
        if let Some(place) = self.set.remove(&(at, group.clone(), timer)) {
            self.due.remove(&place);
        }
    }

    /// No timer of this partition fires any more.
    pub fn forget(&mut self, at: PartitionIndex) {
        let first = (at, Text::new(), Timer::Session(Text::new()));
        let keys: Vec<Key> =
            self.set.range(first..).map(|(k, _)| k.clone()).take_while(|k| k.0 == at).collect();
        for (at, group, timer) in keys {
            self.cancel(at, &group, timer);
        }
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Instant> {
        self.due.keys().next().map(|(deadline, _)| *deadline)
    }

    /// Takes the next one that is due by now.
    pub fn take_due(&mut self, now: Instant) -> Option<Key> {
        let entry = self.due.first_entry().filter(|e| e.key().0 <= now)?;
        let key = entry.remove();
        self.set.remove(&key);
        Some(key)
    }

    /// How many are set.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        assert_eq!(self.due.len(), self.set.len());
        self.set.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn timers_fire_by_time_then_in_the_order_they_were_set() {
        let (mut timers, start) = (Timers::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        let group = Text::from("g");
        timers.set(PartitionIndex(1), &group, Timer::Rebalance, at(5));
        timers.set(PartitionIndex(0), &group, Timer::Rebalance, at(5));
        timers.set(PartitionIndex(0), &group, Timer::Sync, at(9));
        timers.set(PartitionIndex(0), &group, Timer::Sync, at(3));
        timers.set(PartitionIndex(2), &group, Timer::Sync, at(1));
        timers.cancel(PartitionIndex(2), &group, Timer::Sync);
        assert_eq!(timers.next(), Some(at(3)));
        assert_eq!(timers.take_due(at(2)), None);
        let fired: Vec<_> = std::iter::from_fn(|| timers.take_due(at(9))).map(|(p, _, t)| (p.0, t)).collect();
        assert_eq!(fired, [(0, Timer::Sync), (1, Timer::Rebalance), (0, Timer::Rebalance)]);
        assert_eq!(timers.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn timers_of_a_partition_that_is_given_up_are_forgotten() {
        let (mut timers, now) = (Timers::default(), Instant::now());
        for p in 0..3 {
            for group in ["", "g", "h"] {
                timers.set(PartitionIndex(p), &Text::from(group), Timer::Session(Text::new()), now);
                timers.set(PartitionIndex(p), &Text::from(group), Timer::Sync, now);
            }
        }
        timers.forget(PartitionIndex(1));
        assert_eq!(timers.len(), 12);
        assert!(std::iter::from_fn(|| timers.take_due(now)).all(|(p, ..)| p.0 != 1));
    }
}
