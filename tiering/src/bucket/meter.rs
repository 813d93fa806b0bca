//! Counts every request that leaves for the store, by kind, verb and outcome, with time and price.
//!
//! An attempt is one request on the wire: retries and hedges count again, as they do on the bill.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Kind;
use super::price::Prices;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Create an object.
    Put,
    /// Read bytes of an object.
    Get,
    /// Read an object's size.
    Head,
    /// One page of a listing.
    List,
    /// Delete objects.
    Delete,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Done.
    Done,
    /// The key already holds an object.
    Exists,
    /// The key holds no object.
    Absent,
    /// No answer within the time allowed.
    Timeout,
    /// Any other answer that tells nothing: 5xx, reset, cut short.
    Unknown,
    /// Refused in a way that only an operator can mend.
    Refused,
}

/// Seconds, in buckets of doubling width.
#[derive(Clone, Debug, PartialEq)]
pub struct Seconds {
    /// Attempts by time: `counts[i]` took at most [`Seconds::BOUNDS`]`[i]`, the last one longer.
    pub counts: [u64; 16],
    /// Sum.
    pub sum: f64,
}

impl Seconds {
    /// Upper bounds of all buckets but the last.
    pub const BOUNDS: [f64; 15] = [
        0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192,
        16.384,
    ];

    fn add(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let i = Self::BOUNDS.iter().position(|b| seconds <= *b).unwrap_or(Self::BOUNDS.len());
        self.counts[i] += 1;
        self.sum += seconds;
    }
}

/// One row of the count.
#[derive(Clone, Debug, PartialEq)]
pub struct MeterRow {
    /// What kind of object.
    pub kind: Kind,
    /// What was asked.
    pub verb: Verb,
    /// How it ended.
    pub outcome: Outcome,
    /// Requests.
    pub attempts: u64,
    /// Bytes of bodies sent or received.
    pub bytes: u64,
    /// Time to the end of each attempt.
    pub seconds: Seconds,
    /// Price of the requests.
    pub dollars: f64,
}

/// The count of one bucket.
#[derive(Debug, Default)]
pub(super) struct Meter(BTreeMap<(Kind, Verb, Outcome), MeterRow>);

impl Meter {
    pub(super) fn add(
        &mut self,
        prices: Prices,
        (kind, verb, outcome): (Kind, Verb, Outcome),
        requests: u64,
        bytes: u64,
        took: Duration,
    ) {
        let row = self.0.entry((kind, verb, outcome)).or_insert_with(|| MeterRow {
            kind,
            verb,
            outcome,
            attempts: 0,
            bytes: 0,
            seconds: Seconds { counts: [0; 16], sum: 0.0 },
            dollars: 0.0,
        });
        row.attempts += requests;
        row.bytes += bytes;
        row.seconds.add(took);
        row.dollars +=
            prices.dollars(verb, bytes) + prices.dollars(verb, 0) * requests.saturating_sub(1) as f64;
    }

    pub(super) fn rows(&self) -> Vec<MeterRow> {
        self.0.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_add_up() {
        let mut meter = Meter::default();
        let row = (Kind::Parcel, Verb::Put, Outcome::Done);
        meter.add(Prices::S3, row, 1, 100, Duration::from_millis(3));
        meter.add(Prices::S3, row, 1, 50, Duration::from_secs(100));
        meter.add(Prices::S3, (Kind::Run, Verb::List, Outcome::Done), 3, 0, Duration::ZERO);
        let rows = meter.rows();
        assert_eq!((rows[0].attempts, rows[0].bytes), (2, 150));
        assert_eq!((rows[0].seconds.counts[2], rows[0].seconds.counts[15]), (1, 1));
        assert!((rows[0].dollars - 0.00001).abs() < 1e-12);
        assert!((rows[1].dollars - 0.000015).abs() < 1e-12);
    }
}
