//! Running quantiles of latencies, by size class, that forget slowly.
//!
//! A hedge waits for the p99 of its own class: mixing 16 KiB and 4 MiB objects made it useless in simulation
//! (`experiments/`, finding 3). Counts fade by half when enough have been seen, so a changed store is learned.

use std::time::Duration;

/// Buckets per doubling: quantiles are right within 9 %.
const PER_DOUBLING: f64 = 8.0;
/// From 64 µs up, to about 19 hours.
const BUCKETS: usize = 240;
const FLOOR_US: f64 = 64.0;

/// A fading histogram of durations.
#[derive(Clone, Debug)]
pub struct Latencies {
    counts: Vec<f64>,
    total: f64,
    fade_at: f64,
}

impl Latencies {
    /// One that halves all counts whenever `fade_at` durations are in it.
    pub fn new(fade_at: u32) -> Latencies {
        Latencies { counts: vec![0.0; BUCKETS], total: 0.0, fade_at: f64::from(fade_at.max(2)) }
    }

    /// Adds one duration.
    pub fn add(&mut self, duration: Duration) {
        let doublings = (duration.as_micros() as f64 / FLOOR_US).max(1.0).log2();
        let at = ((doublings * PER_DOUBLING) as usize).min(BUCKETS - 1);
        self.counts[at] += 1.0;
        self.total += 1.0;
        if self.total >= self.fade_at {
            self.counts.iter_mut().for_each(|count| *count /= 2.0);
            self.total /= 2.0;
        }
    }

    /// How many durations it stands for, faded ones by their share.
    pub fn count(&self) -> f64 {
        self.total
    }

    /// The quantile `q` of 0 to 1, rounded up to its bucket's end; `None` while empty.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        if self.total <= 0.0 {
            return None;
        }
        let want = self.total * q;
        let mut seen = 0.0;
        let at = self.counts.iter().position(|count| {
            seen += count;
            *count > 0.0 && seen + 1e-9 >= want
        });
        let at = at.unwrap_or(BUCKETS - 1);
        let end = FLOOR_US * ((at + 1) as f64 / PER_DOUBLING).exp2();
        Some(Duration::from_micros(end as u64))
    }
}

/// The p99 of first copies by size class (log2 of 16 KiB).
#[derive(Clone, Debug)]
pub struct Classes {
    of: Vec<Class>,
}

#[derive(Clone, Debug)]
struct Class {
    seen: Latencies,
    since: u32,
    p99: Option<Duration>,
}

/// Size classes: up to 16 KiB, 32 KiB … and all above 16 MiB.
const CLASSES: usize = 12;
/// Durations before a class has a p99 of its own, and between two looks at it.
const LEARN: f64 = 60.0;
const REFRESH: u32 = 50;
/// What a hedge waits while nothing is known.
const UNKNOWN: Duration = Duration::from_secs(1);

impl Default for Classes {
    fn default() -> Classes {
        let class = Class { seen: Latencies::new(4_000), since: 0, p99: None };
        Classes { of: vec![class; CLASSES] }
    }
}

impl Classes {
    /// A first copy of `size` bytes took `duration`, whether or not a hedge was faster.
    pub fn add(&mut self, size: u64, duration: Duration) {
        let class = &mut self.of[class_of(size)];
        class.seen.add(duration);
        class.since += 1;
        if class.seen.count() >= LEARN && (class.since >= REFRESH || class.p99.is_none()) {
            class.since = 0;
            class.p99 = class.seen.quantile(0.99);
        }
    }

    /// How long a copy of `size` bytes may take before it is hedged: its class's p99, else the nearest
    /// class's, doubled for each size that one is smaller, else a second.
    pub fn patience(&self, size: u64) -> Duration {
        let mine = class_of(size);
        let known = self.of.iter().enumerate().filter_map(|(at, class)| Some((at, class.p99?)));
        match known.min_by_key(|(at, _)| at.abs_diff(mine)) {
            None => UNKNOWN,
            Some((at, p99)) => p99 * (1 << mine.saturating_sub(at).min(3)),
        }
    }
}

fn class_of(size: u64) -> usize {
    let units = (size / (16 << 10)).max(1);
    (units.ilog2() as usize).min(CLASSES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_within_a_bucket() {
        let mut seen = Latencies::new(10_000);
        (1..=1000u64).for_each(|ms| seen.add(Duration::from_millis(ms)));
        for (q, ms) in [(0.5, 500.0), (0.99, 990.0)] {
            let found = seen.quantile(q).unwrap().as_secs_f64() * 1000.0;
            assert!(found >= ms * 0.99 && found <= ms * 1.1, "{q}: {found}");
        }
    }

    #[test]
    fn a_changed_store_is_learned() {
        let mut seen = Latencies::new(1_000);
        (0..1000).for_each(|_| seen.add(Duration::from_millis(10)));
        (0..6000).for_each(|_| seen.add(Duration::from_millis(100)));
        assert!(seen.quantile(0.5).unwrap() > Duration::from_millis(90));
    }

    #[test]
    fn a_class_that_is_not_learned_borrows_its_neighbours_p99() {
        let mut classes = Classes::default();
        assert_eq!(classes.patience(1 << 20), UNKNOWN);
        (0..60).for_each(|_| classes.add(1 << 20, Duration::from_millis(20)));
        let near = classes.patience(1 << 20);
        assert!(near < Duration::from_millis(25));
        assert_eq!(classes.patience(2 << 20), near * 2);
        assert_eq!(classes.patience(1 << 10), near);
    }
}
