//! What a replay will read and what that may cost, told before it begins.
//!
//! Bytes are estimates: a partition's size times the share of its offsets. Requests and dollars are bounds, as if nothing were
//! cached anywhere.

use std::collections::BTreeMap;

use serde::Serialize;
use tidemark_tiering::bucket::{Prices, Verb};

use crate::cli::client::Place;
use crate::cli::output::{Table, number, size};

/// A broker fetches cold records with no more than a GET for so many bytes.
const GET: u64 = 4 << 20;

/// What is known of one partition.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// First offset there is.
    pub start: i64,
    /// Behind the last.
    pub end: i64,
    /// First offset that is not only in the remote tier, where the broker tells.
    pub local: Option<i64>,
    /// Bytes of all of it.
    pub bytes: u64,
}

/// One partition's part, or the sum of all.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Row {
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<i64>,
    offsets: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_offsets: Option<u64>,
    requests_max: u64,
    dollars_max: f64,
}

/// See the module.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    topic: String,
    partitions: Vec<Row>,
    sum: Row,
    /// At the rate that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
}

impl Plan {
    /// Plans to read `ranges` of `topic`, at `rate` bytes a second.
    pub fn new(
        topic: &str,
        ranges: &BTreeMap<Place, (i64, i64)>,
        known: &BTreeMap<Place, Known>,
        prices: Prices,
        rate: Option<f64>,
    ) -> Plan {
        let row = |(place, range): (&Place, &(i64, i64))| {
            row(place.1, *range, known.get(place).copied().unwrap_or_default(), prices)
        };
        let partitions: Vec<Row> = ranges.iter().map(row).collect();
        let sum = partitions.iter().fold(Row::default(), |sum, row| Row {
            offsets: sum.offsets + row.offsets,
            bytes: sum.bytes + row.bytes,
            remote_offsets: row
                .remote_offsets
                .map_or(sum.remote_offsets, |more| Some(sum.remote_offsets.unwrap_or(0) + more)),
            requests_max: sum.requests_max + row.requests_max,
            dollars_max: sum.dollars_max + row.dollars_max,
            ..sum
        });
        let seconds = rate.map(|rate| sum.bytes as f64 / rate);
        Plan { topic: topic.to_owned(), partitions, sum, seconds }
    }

    /// Offsets of all partitions.
    pub fn offsets(&self) -> u64 {
        self.sum.offsets
    }

    /// The most that its requests cost, in dollars.
    pub fn dollars(&self) -> f64 {
        self.sum.dollars_max
    }

    /// For people.
    pub fn text(&self) -> String {
        let heads =
            [">PARTITION", ">FROM", ">TO", ">OFFSETS", ">REMOTE", ">ABOUT", ">GETS UP TO", ">$ UP TO"];
        let mut table = Table::new(&heads);
        for row in self.partitions.iter().chain([&self.sum]) {
            table.row([
                row.partition.map_or_else(|| "(all)".to_owned(), |partition| partition.to_string()),
                number(row.from),
                number(row.to),
                row.offsets.to_string(),
                number(row.remote_offsets.and_then(|offsets| i64::try_from(offsets).ok())),
                size(row.bytes),
                row.requests_max.to_string(),
                format!("{:.4}", row.dollars_max),
            ]);
        }
        let mut text = table.text();
        if let Some(seconds) = self.seconds {
            text.push_str(&format!("At the rate of --rate it takes {seconds:.0} s.\n"));
        }
        text
    }
}

fn row(partition: i32, (from, to): (i64, i64), known: Known, prices: Prices) -> Row {
    let count = |from: i64, to: i64| u64::try_from(to.saturating_sub(from)).unwrap_or(0);
    let (offsets, all) = (count(from, to), count(known.start, known.end).max(1));
    let bytes = (known.bytes as f64 * (offsets as f64 / all as f64)) as u64;
    let requests_max = bytes.div_ceil(GET);
    Row {
        partition: Some(partition),
        from: Some(from),
        to: Some(to),
        offsets,
        bytes,
        remote_offsets: known.local.map(|local| count(from, to.min(local))),
        requests_max,
        dollars_max: requests_max as f64 * prices.dollars(Verb::Get, GET),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(partition: i32) -> Place {
        ("t".to_owned(), partition)
    }

    #[test]
    fn a_part_of_the_offsets_is_taken_for_that_part_of_the_bytes() {
        let known = Known { start: 100, end: 300, local: Some(250), bytes: 80 << 20 };
        let ranges = BTreeMap::from([(place(0), (200, 300)), (place(1), (0, 0))]);
        let known = BTreeMap::from([(place(0), known), (place(1), Known::default())]);
        let plan = Plan::new("t", &ranges, &known, Prices::S3, Some((10 << 20) as f64));
        let first = &plan.partitions[0];
        assert_eq!((first.offsets, first.bytes, first.remote_offsets), (100, 40 << 20, Some(50)));
        assert_eq!((first.requests_max, plan.partitions[1].requests_max), (10, 0));
        assert!((plan.dollars() - 10.0 * 0.0004 / 1000.0).abs() < 1e-12);
        assert_eq!((plan.offsets(), plan.seconds), (100, Some(4.0)));
        assert_eq!(plan.sum.remote_offsets, Some(50), "of the other it is not known");
        assert!(plan.text().contains("(all)") && plan.text().ends_with("it takes 4 s.\n"), "{}", plan.text());
    }

    #[test]
    fn a_range_that_ends_before_it_begins_is_none() {
        let row = row(0, (9, 5), Known { start: 0, end: 10, local: None, bytes: 100 }, Prices::S3);
        assert_eq!((row.offsets, row.bytes, row.requests_max, row.remote_offsets), (0, 0, 0, None));
    }
}
