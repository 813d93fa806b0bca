//! Latencies in microseconds, from the *intended* start of an operation: a generator that is held up by the
//! system it measures must not forgive it the wait (coordinated omission).

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::report::Cell;

/// The longest that is told apart, at three digits.
const MAX_MICROS: u64 = 900_000_000;

/// A histogram of latencies.
#[derive(Clone, Debug)]
pub struct Latency(Histogram<u64>);

impl Default for Latency {
    fn default() -> Latency {
        Latency(Histogram::new_with_bounds(1, MAX_MICROS, 3).expect("the bounds are valid"))
    }
}

impl Latency {
    /// Columns of [`Latency::cells`].
    pub const COLUMNS: [&'static str; 5] = ["p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms"];

    /// Adds one.
    pub fn record(&mut self, took: Duration) {
        self.0.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    /// Adds another histogram's.
    pub fn merge(&mut self, other: &Latency) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    /// How many were recorded.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// A quantile in milliseconds.
    pub fn quantile_ms(&self, q: f64) -> f64 {
        self.0.value_at_quantile(q) as f64 / 1000.0
    }

    /// The usual quantiles.
    pub fn cells(&self) -> Vec<Cell> {
        [0.5, 0.9, 0.99, 0.999, 1.0].map(|q| self.quantile_ms(q).into()).into()
    }
}
