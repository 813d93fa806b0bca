//! `tidemark groups reset-offsets`: what a group's offsets would become, and the commit that makes them so.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;

use super::Failure;
use super::client::{Cluster, EARLIEST, Place};
use super::groups::ends;
use super::output::{Table, note, number, show};
use super::position::Position;

/// Which offsets, and where to.
#[derive(Args, Debug)]
pub struct Reset {
    /// The group's name.
    group: String,
    /// A topic, or some partitions of it as orders:0,1; may be given more than once.
    #[arg(long = "topic", value_name = "TOPIC[:PARTITION,…]", required_unless_present = "all_topics")]
    topics: Vec<String>,
    /// Every partition that the group has committed.
    #[arg(long, conflicts_with = "topics")]
    all_topics: bool,
    #[command(flatten)]
    target: Target,
    /// Commit it.
    #[arg(long)]
    execute: bool,
}

/// Where to.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Target {
    /// To the first record there is.
    #[arg(long)]
    to_earliest: bool,
    /// Behind the last record.
    #[arg(long)]
    to_latest: bool,
    /// To the first record at or after a time, as 2026-11-23T12:00:00Z or 15m (ago).
    #[arg(long, value_name = "TIME")]
    to_datetime: Option<String>,
    /// To an offset.
    #[arg(long, value_name = "OFFSET")]
    to_offset: Option<i64>,
    /// So many records on; back where negative.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    shift_by: Option<i64>,
}

#[derive(Serialize)]
struct Row {
    topic: String,
    partition: i32,
    committed: Option<i64>,
    new: i64,
}

/// Shows the new offsets, and commits them where that is asked for.
pub async fn run(cluster: &Cluster, reset: &Reset, json: bool) -> Result<(), Failure> {
    let committed = cluster.committed(&reset.group).await?;
    let places = wanted(cluster, reset, &committed).await?;
    if places.is_empty() {
        return Err(Failure::Failed(format!(
            "group {} has committed nothing; name topics with --topic",
            reset.group
        )));
    }
    let targets = targets(cluster, &reset.target, &places, &committed).await?;
    let row = |(place, new): (&Place, &i64)| Row {
        topic: place.0.clone(),
        partition: place.1,
        committed: committed.get(place).copied(),
        new: *new,
    };
    let rows: Vec<Row> = targets.iter().map(row).collect();
    if reset.execute {
        cluster.commit(&reset.group, None, &targets).await?;
    }
    show(json, &rows, || {
        let mut table = Table::new(&["TOPIC", ">PARTITION", ">COMMITTED", ">NEW"]);
        for row in &rows {
            table.row([
                row.topic.clone(),
                row.partition.to_string(),
                number(row.committed),
                row.new.to_string(),
            ]);
        }
        table
    })?;
    if !reset.execute {
        note("nothing was changed: --execute commits it");
    }
    Ok(())
}

async fn wanted(
    cluster: &Cluster,
    reset: &Reset,
    committed: &BTreeMap<Place, i64>,
) -> Result<Vec<Place>, Failure> {
    if reset.all_topics {
        return Ok(committed.keys().cloned().collect());
    }
    let mut places = Vec::new();
    for text in &reset.topics {
        let (topic, partitions) = topic(text)?;
        places.extend(super::offsets::places(cluster, &topic, &partitions).await?);
    }
    places.sort();
    places.dedup();
    Ok(places)
}

/// `orders`, or `orders:0,1`.
fn topic(text: &str) -> Result<(String, Vec<i32>), Failure> {
    let Some((topic, list)) = text.split_once(':') else { return Ok((text.to_owned(), Vec::new())) };
    let partitions =
        list.split(',').map(|number| number.trim().parse::<i32>()).collect::<Result<Vec<_>, _>>();
    let partitions =
        partitions.map_err(|_| Failure::Wrong(format!("--topic {text}: write partitions as {topic}:0,1")))?;
    Ok((topic.to_owned(), partitions))
}

async fn targets(
    cluster: &Cluster,
    target: &Target,
    places: &[Place],
    committed: &BTreeMap<Place, i64>,
) -> Result<BTreeMap<Place, i64>, Failure> {
    let now = cluster.seams.clock.wall();
    let position = match target {
        Target { to_latest: true, .. } => Position::End,
        Target { to_datetime: Some(text), .. } => Position::Time(
            super::when::parse(text, now).map_err(|why| Failure::Wrong(format!("--to-datetime: {why}")))?,
        ),
        Target { to_offset: Some(offset), .. } => Position::Offset(*offset),
        _ => Position::Beginning,
    };
    let mut targets = position.resolve(cluster, places, false).await?;
    if let Some(by) = target.shift_by {
        for (place, new) in &mut targets {
            let from = committed.get(place).ok_or_else(|| {
                let (topic, partition) = place;
                Failure::Failed(format!("nothing is committed for {topic}-{partition}: it cannot be shifted"))
            })?;
            *new = from.saturating_add(by);
        }
    }
    let starts = cluster.offsets(places, EARLIEST, false).await?;
    let ends = ends(cluster, places).await?;
    for (place, new) in &mut targets {
        let start = starts.get(place).and_then(|spot| spot.ok()).map_or(0, |spot| spot.offset);
        *new = nearest(*new, start, ends.get(place).copied().unwrap_or(i64::MAX));
    }
    Ok(targets)
}

/// The nearest offset that the partition has.
fn nearest(offset: i64, start: i64, end: i64) -> i64 {
    offset.min(end).max(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_may_be_named_with_the_topic() {
        assert_eq!(topic("t").unwrap(), ("t".to_owned(), vec![]));
        assert_eq!(topic("t:0,2").unwrap(), ("t".to_owned(), vec![0, 2]));
        assert!(topic("t:x").is_err());
    }

    #[test]
    fn an_offset_stays_within_what_there_is() {
        assert_eq!(
            [nearest(5, 0, 10), nearest(-3, 2, 10), nearest(99, 0, 10), nearest(1, 7, 7)],
            [5, 2, 10, 7]
        );
    }
}
