//! What a replay will read and what that may cost, told before it begins.
//!
//! Bytes are estimates: a partition's size times the share of its offsets. Requests and dollars follow from them, as if nothing
//! were cached anywhere and nothing fetched together.

use std::collections::BTreeMap;

use serde::Serialize;
use tidemark_tiering::bucket::{Prices, Verb};
use tidemark_tiering::hot::chunks::CHUNK;

use crate::cli::output::{Table, number, size};

/// Bytes of a GET: a chunk, the least that a broker of ours fetches of a larger object.
const GET: u64 = CHUNK;

/// What is to be read of one partition, and what is known of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// First offset to read.
    pub from: i64,
    /// Behind the last to read.
    pub to: i64,
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
    requests: u64,
    dollars: f64,
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
    /// Plans to read these partitions of `topic`, at `rate` bytes a second.
    pub fn new(topic: &str, parts: &BTreeMap<i32, Known>, prices: Prices, rate: Option<f64>) -> Plan {
        let row = |(partition, known): (&i32, &Known)| row(*partition, *known, prices);
        let partitions: Vec<Row> = parts.iter().map(row).collect();
        let sum = partitions.iter().fold(Row::default(), |sum, row| Row {
            offsets: sum.offsets + row.offsets,
            bytes: sum.bytes + row.bytes,
            remote_offsets: row
                .remote_offsets
                .map_or(sum.remote_offsets, |more| Some(sum.remote_offsets.unwrap_or(0) + more)),
            requests: sum.requests + row.requests,
            dollars: sum.dollars + row.dollars,
            ..sum
        });
        let seconds = rate.map(|rate| sum.bytes as f64 / rate);
        Plan { topic: topic.to_owned(), partitions, sum, seconds }
    }

    /// Offsets of all partitions.
    pub fn offsets(&self) -> u64 {
        self.sum.offsets
    }

    /// What its requests cost, in dollars.
    pub fn dollars(&self) -> f64 {
        self.sum.dollars
    }

    /// For people.
    pub fn text(&self) -> String {
        let heads = [">PARTITION", ">FROM", ">TO", ">OFFSETS", ">REMOTE", ">ABOUT", ">GETS", ">$"];
        let mut table = Table::new(&heads);
        for row in self.partitions.iter().chain([&self.sum]) {
            table.row([
                row.partition.map_or_else(|| "(all)".to_owned(), |partition| partition.to_string()),
                number(row.from),
                number(row.to),
                row.offsets.to_string(),
                number(row.remote_offsets.and_then(|offsets| i64::try_from(offsets).ok())),
                size(row.bytes),
                row.requests.to_string(),
                format!("{:.4}", row.dollars),
            ]);
        }
        let mut text = table.text();
        if let Some(seconds) = self.seconds {
            text.push_str(&format!("At the rate of --rate it takes {seconds:.0} s.\n"));
        }
        text
    }
}

fn row(partition: i32, known: Known, prices: Prices) -> Row {
    let Known { from, to, .. } = known;
    let count = |from: i64, to: i64| u64::try_from(to.saturating_sub(from)).unwrap_or(0);
    let (offsets, all) = (count(from, to), count(known.start, known.end).max(1));
    let bytes = (known.bytes as f64 * (offsets as f64 / all as f64)) as u64;
    let requests = bytes.div_ceil(GET);
    Row {
        partition: Some(partition),
        from: Some(from),
        to: Some(to),
        offsets,
        bytes,
        remote_offsets: known.local.map(|local| count(from, to.min(local))),
        requests,
        dollars: requests as f64 * prices.dollars(Verb::Get, GET),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_offsets_is_taken_for_that_part_of_the_bytes() {
        let known = Known { from: 200, to: 300, start: 100, end: 300, local: Some(250), bytes: 80 << 20 };
        let parts = BTreeMap::from([(0, known), (1, Known::default())]);
        let plan = Plan::new("t", &parts, Prices::S3, Some((10 << 20) as f64));
        let first = &plan.partitions[0];
        assert_eq!((first.offsets, first.bytes, first.remote_offsets), (100, 40 << 20, Some(50)));
        assert_eq!((first.requests, plan.partitions[1].requests), (40, 0));
        assert!((plan.dollars() - 40.0 * 0.0004 / 1000.0).abs() < 1e-12);
        assert_eq!((plan.offsets(), plan.seconds), (100, Some(4.0)));
        assert_eq!(plan.sum.remote_offsets, Some(50), "of the other it is not known");
        assert!(plan.text().contains("(all)") && plan.text().ends_with("it takes 4 s.\n"), "{}", plan.text());
    }

    #[test]
    fn a_range_that_ends_before_it_begins_is_none() {
        let row = row(0, Known { from: 9, to: 5, start: 0, end: 10, local: None, bytes: 100 }, Prices::S3);
        assert_eq!((row.offsets, row.bytes, row.requests, row.remote_offsets), (0, 0, 0, None));
    }
}
