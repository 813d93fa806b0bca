//! `tidemark offsets`: where the partitions of topics begin and end, and where a time falls.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;
use tidemark_proto::kafka::messages::DescribeLogDirsRequest;
use tidemark_proto::kafka::messages::metadata_response::MetadataResponseTopic;

use super::client::{self, Cluster, EARLIEST, LATEST, Place, Purpose, To};
use super::output::{Table, number, show, size};
use super::position::Position;
use super::topics::{chosen, name_of};
use super::{Failure, when};

/// Offsets of topics: earliest, latest, at a time; records, bytes, and a group's lag.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  tidemark offsets orders                    where each partition begins and ends
  tidemark offsets orders --at 2026-11-23    and the first offset of that day
  tidemark offsets 'orders*' --group billing and how far a group has come")]
pub struct Offsets {
    #[command(flatten)]
    to: To,
    /// Names, or patterns with * and ?; all topics without any.
    patterns: Vec<String>,
    /// Also the first offset at or after a time, as 2026-11-23T12:00:00Z, or 15m for fifteen minutes ago.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Also what a group has committed, and its lag.
    #[arg(short, long)]
    group: Option<String>,
    /// Also how many bytes the brokers say each partition has.
    #[arg(long)]
    bytes: bool,
    /// One line a topic.
    #[arg(short, long)]
    sum: bool,
}

/// Where a partition begins and ends; `None` where its leader does not say.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bounds {
    /// First offset.
    pub start: Option<i64>,
    /// Next offset to be written.
    pub end: Option<i64>,
}

/// The bounds of every partition of `topics`.
pub async fn bounds(
    cluster: &Cluster,
    topics: &[MetadataResponseTopic],
) -> Result<BTreeMap<Place, Bounds>, Failure> {
    let places: Vec<Place> = topics.iter().flat_map(all_places).collect();
    let (starts, ends) = futures::future::try_join(
        cluster.offsets(&places, EARLIEST, false),
        cluster.offsets(&places, LATEST, false),
    )
    .await?;
    let offset = |of: &BTreeMap<Place, Result<client::Spot, _>>, place: &Place| {
        of.get(place).and_then(|spot| spot.ok()).map(|spot| spot.offset)
    };
    Ok(places
        .into_iter()
        .map(|place| {
            let bounds = Bounds { start: offset(&starts, &place), end: offset(&ends, &place) };
            (place, bounds)
        })
        .collect())
}

fn all_places(topic: &MetadataResponseTopic) -> Vec<Place> {
    let name = name_of(topic);
    topic.partitions.iter().map(|p| (name.clone(), p.partition_index)).collect()
}

/// Partitions of one topic: those asked for, which must exist, or all.
pub async fn places(cluster: &Cluster, topic: &str, partitions: &[i32]) -> Result<Vec<Place>, Failure> {
    let mut places = all_places(&cluster.topic(topic).await?);
    places.sort();
    if let Some(lost) = partitions.iter().find(|p| !places.iter().any(|place| place.1 == **p)) {
        return Err(Failure::Failed(format!(
            "{topic} has no partition {lost}; it has 0 to {}",
            places.len().saturating_sub(1)
        )));
    }
    places.retain(|place| partitions.is_empty() || partitions.contains(&place.1));
    Ok(places)
}

#[derive(Clone, Debug, Default, Serialize)]
struct Row {
    topic: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<i32>,
    start: Option<i64>,
    end: Option<i64>,
    records: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    committed: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lag: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
}

impl Offsets {
    /// Prints them.
    pub fn run(self) -> Result<(), Failure> {
        client::ask(&self.to, async |cluster| {
            let rows = self.rows(&cluster).await?;
            let rows = if self.sum { sums(rows) } else { rows };
            show(self.to.json, &rows, || self.table(&rows))
        })
    }

    async fn rows(&self, cluster: &Cluster) -> Result<Vec<Row>, Failure> {
        let at = match &self.at {
            Some(text) => {
                let at = when::parse(text, cluster.seams.clock.wall());
                Some(at.map_err(|why| Failure::Wrong(format!("--at: {why}")))?)
            }
            None => None,
        };
        let topics = chosen(cluster, &self.patterns, false).await?;
        let bounds = bounds(cluster, &topics).await?;
        let places: Vec<Place> =
            bounds.iter().filter(|(_, b)| b.end.is_some()).map(|(place, _)| place.clone()).collect();
        let at = match at {
            Some(at) => Position::Time(at).resolve(cluster, &places, false).await?,
            None => BTreeMap::new(),
        };
        let committed = match &self.group {
            Some(group) => cluster.committed(group).await?,
            None => BTreeMap::new(),
        };
        let bytes = if self.bytes { sizes(cluster).await? } else { BTreeMap::new() };
        let row = |(place, bounds): (&Place, &Bounds)| {
            let committed = committed.get(place).copied();
            Row {
                topic: place.0.clone(),
                partition: Some(place.1),
                start: bounds.start,
                end: bounds.end,
                records: bounds.end.zip(bounds.start).map(|(end, start)| end - start),
                at: at.get(place).copied(),
                committed,
                lag: bounds.end.zip(committed).map(|(end, committed)| (end - committed).max(0)),
                bytes: bytes.get(place).copied(),
            }
        };
        Ok(bounds.iter().map(row).collect())
    }

    fn table(&self, rows: &[Row]) -> Table {
        let mut heads = vec!["TOPIC"];
        if !self.sum {
            heads.extend([">PARTITION", ">START", ">END"]);
        }
        heads.push(">RECORDS");
        let more = [
            (self.at.is_some() && !self.sum, ">AT"),
            (self.group.is_some() && !self.sum, ">COMMITTED"),
            (self.group.is_some(), ">LAG"),
            (self.bytes, ">BYTES"),
        ];
        heads.extend(more.iter().filter(|(wanted, _)| *wanted).map(|(_, head)| *head));
        let mut table = Table::new(&heads);
        for row in rows {
            let mut cells = vec![row.topic.clone()];
            if !self.sum {
                cells.extend([number(row.partition.map(i64::from)), number(row.start), number(row.end)]);
            }
            cells.push(number(row.records));
            let bytes = row.bytes.map_or_else(|| "-".to_owned(), size);
            let values = [number(row.at), number(row.committed), number(row.lag), bytes];
            cells.extend(more.iter().zip(values).filter(|((wanted, _), _)| *wanted).map(|(_, value)| value));
            table.row(cells);
        }
        table
    }
}

/// A row for each topic.
fn sums(rows: Vec<Row>) -> Vec<Row> {
    let plus = |sum: &mut Option<i64>, value: Option<i64>| {
        if let Some(value) = value {
            *sum = Some(sum.unwrap_or(0) + value);
        }
    };
    let mut sums: Vec<Row> = Vec::new();
    for row in rows {
        if sums.last().is_none_or(|last| last.topic != row.topic) {
            sums.push(Row { topic: row.topic.clone(), ..Row::default() });
        }
        if let Some(sum) = sums.last_mut() {
            plus(&mut sum.records, row.records);
            plus(&mut sum.lag, row.lag);
            sum.bytes = row.bytes.map_or(sum.bytes, |bytes| Some(sum.bytes.unwrap_or(0) + bytes));
        }
    }
    sums
}

/// The largest copy of each partition, in bytes.
pub async fn sizes(cluster: &Cluster) -> Result<BTreeMap<Place, u64>, Failure> {
    let brokers = cluster.metadata(Some(&[])).await?.brokers;
    let mut sizes: BTreeMap<Place, u64> = BTreeMap::new();
    for broker in brokers {
        let request = DescribeLogDirsRequest { topics: None };
        let answer = cluster.node(broker.node_id, Purpose::Ask).await?.call(i16::MAX, &request).await?;
        for topic in answer.results.into_iter().flat_map(|dir| dir.topics) {
            for partition in topic.partitions {
                let bytes = sizes.entry((topic.name.to_string(), partition.partition_index)).or_default();
                *bytes = (*bytes).max(u64::try_from(partition.partition_size).unwrap_or(0));
            }
        }
    }
    Ok(sizes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_leave_out_what_is_not_known() {
        let row = |topic: &str, records, lag| Row { topic: topic.into(), records, lag, ..Row::default() };
        let sums = sums(vec![
            row("a", Some(1), Some(1)),
            row("a", None, None),
            row("a", Some(2), Some(4)),
            row("b", None, None),
        ]);
        assert_eq!(sums.len(), 2);
        assert_eq!((sums[0].records, sums[0].lag), (Some(3), Some(5)));
        assert_eq!((sums[1].records, sums[1].lag), (None, None));
    }
}
