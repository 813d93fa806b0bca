//! Quantiles of durations over the last minute or two: fixed memory, no lock.
//!
//! Buckets are logarithmic with eight steps to a doubling, so a quantile is right to within 1/8.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

const STEPS: usize = 8;
const DOUBLINGS: usize = 36;
const BUCKETS: usize = STEPS * DOUBLINGS;
/// A window ends at the first look after this time.
const WINDOW: Duration = Duration::from_secs(60);

/// Durations seen.
#[derive(Debug)]
pub struct Latency {
    now: Box<[AtomicU64; BUCKETS]>,
    before: Mutex<(Instant, Vec<u64>)>,
    count: AtomicU64,
}

impl Default for Latency {
    fn default() -> Latency {
        let now = Box::new([const { AtomicU64::new(0) }; BUCKETS]);
        Latency { now, before: Mutex::new((Instant::now(), Vec::new())), count: AtomicU64::new(0) }
    }
}

impl Latency {
    /// Adds one.
    pub fn add(&self, took: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.now[bucket(took)].fetch_add(1, Ordering::Relaxed);
    }

    /// How many were added since start.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The durations below which the given shares of the recent ones lie, in milliseconds; `None` without any.
    pub fn quantiles(&self, shares: &[f64]) -> Option<Vec<f64>> {
        let mut before = self.before.lock();
        let mut counts: Vec<u64> = self.now.iter().map(|n| n.load(Ordering::Relaxed)).collect();
        let (since, old) = &mut *before;
        let recent = counts.clone();
        counts.iter_mut().zip(old.iter()).for_each(|(n, o)| *n += o);
        if since.elapsed() >= WINDOW {
            self.now.iter().zip(&recent).for_each(|(n, seen)| {
                n.fetch_sub(*seen, Ordering::Relaxed);
            });
            *old = recent;
            *since = Instant::now();
        }
        let total: u64 = counts.iter().sum();
        if total == 0 {
            return None;
        }
        let at = |share: f64| {
            let rank = ((share * total as f64).ceil() as u64).clamp(1, total);
            let mut seen = 0;
            let found = counts.iter().position(|n| {
                seen += n;
                seen >= rank
            });
            upper_ms(found.unwrap_or(BUCKETS - 1))
        };
        Some(shares.iter().map(|share| at(*share)).collect())
    }
}

fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
    let doubling = 63 - micros.leading_zeros() as usize;
    let step = match doubling {
        0..3 => (micros << (3 - doubling)) as usize % STEPS,
        _ => (micros >> (doubling - 3)) as usize % STEPS,
    };
    (doubling * STEPS + step).min(BUCKETS - 1)
}

/// Upper bound of a bucket in milliseconds.
fn upper_ms(bucket: usize) -> f64 {
    let (doubling, step) = (bucket / STEPS, bucket % STEPS);
    (1u64 << doubling) as f64 * (STEPS + step + 1) as f64 / STEPS as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn quantiles_are_right_to_an_eighth() {
        let latency = Latency::default();
        (1..=1000).for_each(|ms| latency.add(Duration::from_millis(ms)));
        let found = latency.quantiles(&[0.5, 0.99]).unwrap();
        for (found, exact) in found.iter().zip([500.0, 990.0]) {
            assert!(*found >= exact && *found <= exact * 1.126, "{found} for {exact}");
        }
        assert_eq!(latency.count(), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_long_ago_no_longer_counts() {
        let latency = Latency::default();
        assert_eq!(latency.quantiles(&[0.5]), None);
        latency.add(Duration::from_secs(10));
        for _ in 0..2 {
            tokio::time::advance(Duration::from_secs(61)).await;
            assert!(latency.quantiles(&[0.5]).is_some());
        }
        latency.add(Duration::from_millis(1));
        assert!(latency.quantiles(&[1.0]).unwrap()[0] < 1.2);
        assert_eq!(latency.count(), 2);
    }

    #[test]
    fn every_duration_has_a_bucket_whose_bound_is_above_it() {
        for micros in [1, 2, 3, 7, 8, 9, 100, 12_345, 1 << 30, (1 << 35) - 1] {
            let upper = upper_ms(bucket(Duration::from_micros(micros)));
            assert!(upper * 1000.0 >= micros as f64 && upper * 1000.0 <= micros as f64 * 2.0, "{micros}");
        }
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }
}
