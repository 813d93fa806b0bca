//! How much is asked of each partition: counted where it is served, told with heartbeats, weighed by the balancer.
//!
//! A weight is bytes a second, in and out, a request counting as [`REQUEST`] of them, smoothed over [`SMOOTH`]. Told are the
//! heaviest partitions one by one and the rest as a sum, so that a heartbeat stays small however many there are.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use tidemark_proto::id::TopicPartition;
use tokio::time::Instant;

/// What a request weighs beside its bytes.
const REQUEST: u64 = 4 << 10;

/// How long what was asked matters.
pub const SMOOTH: Duration = Duration::from_secs(30);

/// Partitions told one by one.
pub const HEAVIEST: usize = 64;

/// Partitions counted; what comes beyond is not, until others fall silent.
const COUNTED: usize = 100_000;

/// What one broker serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// The heaviest, with their weights.
    pub heaviest: Vec<(TopicPartition, u64)>,
    /// The weight of all others together.
    pub rest: u64,
}

impl Load {
    /// The weight of all.
    pub fn total(&self) -> u64 {
        self.heaviest.iter().fold(self.rest, |sum, (_, weight)| sum.saturating_add(*weight))
    }
}

/// Counts what this broker serves.
#[derive(Debug, Default)]
pub struct Traffic(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    since: Option<Instant>,
    fresh: BTreeMap<TopicPartition, u64>,
    rates: BTreeMap<TopicPartition, u64>,
}

impl Traffic {
    /// A request wrote or read so many bytes of a partition.
    pub fn count(&self, tp: TopicPartition, bytes: usize) {
        let weight = REQUEST.saturating_add(bytes as u64);
        let fresh = &mut self.0.lock().fresh;
        if let Some(sum) = fresh.get_mut(&tp) {
            *sum = sum.saturating_add(weight);
        } else if fresh.len() < COUNTED {
            fresh.insert(tp, weight);
        }
    }

    /// The weights now.
    pub fn told(&self, now: Instant) -> Load {
        let mut counted = self.0.lock();
        let fresh = std::mem::take(&mut counted.fresh);
        let since = counted.since.replace(now).unwrap_or(now);
        let (took, smooth) = (millis(now.saturating_duration_since(since)), millis(SMOOTH));
        if took > 0 {
            let mut rates = std::mem::take(&mut counted.rates);
            for tp in fresh.keys() {
                rates.entry(*tp).or_default();
            }
            for (tp, rate) in &mut rates {
                let bytes = fresh.get(tp).copied().unwrap_or(0);
                let sum = rate.saturating_mul(smooth).saturating_add(bytes.saturating_mul(1_000));
                *rate = sum / (smooth + took);
            }
            rates.retain(|_, rate| *rate > 0);
            counted.rates = rates;
        }
        let mut heaviest: Vec<(TopicPartition, u64)> =
            counted.rates.iter().map(|(tp, rate)| (*tp, *rate)).collect();
        drop(counted);
        heaviest.sort_by_key(|(tp, rate)| (std::cmp::Reverse(*rate), *tp));
        let others = heaviest.split_off(heaviest.len().min(HEAVIEST));
        Load { heaviest, rest: others.iter().fold(0, |sum: u64, (_, rate)| sum.saturating_add(*rate)) }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use tidemark_proto::id::{PartitionIndex, TopicId};

    use super::*;

    fn tp(index: i32) -> TopicPartition {
        TopicPartition { topic: TopicId::default(), partition: PartitionIndex(index) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_weight_follows_what_is_asked_and_is_gone_when_nothing_is() {
        let (traffic, start) = (Traffic::default(), Instant::now());
        traffic.told(start);
        let mut now = start;
        for _ in 0..60 {
            now += Duration::from_secs(5);
            (0..5).for_each(|_| traffic.count(tp(1), (1 << 20) - 4_096));
            traffic.told(now);
        }
        let weight = traffic.told(now).total();
        assert!((1_040_000..=1_048_576).contains(&weight), "1 MiB a second: {weight}");
        now += SMOOTH;
        assert!((500_000..530_000).contains(&traffic.told(now).total()));
        (0..40).for_each(|n| drop(traffic.told(now + SMOOTH * n)));
        assert_eq!(traffic.told(now + SMOOTH * 40), Load::default());
    }

    #[tokio::test(start_paused = true)]
    async fn the_heaviest_are_told_and_the_rest_is_a_sum() {
        let (traffic, start) = (Traffic::default(), Instant::now());
        traffic.told(start);
        (0..100).for_each(|index| traffic.count(tp(index), usize::try_from(index).unwrap() << 20));
        let load = traffic.told(start + SMOOTH);
        assert_eq!((load.heaviest.len(), load.heaviest[0].0, load.heaviest[63].0), (64, tp(99), tp(36)));
        let lightest = load.heaviest[63].1;
        assert!(load.rest > lightest && load.total() > load.rest);
    }
}
