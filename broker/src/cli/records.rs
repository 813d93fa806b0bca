//! `tidemark topics delete-records`: the oldest records of a topic's partitions.

use clap::Args;
use serde::Serialize;
use tidemark_proto::kafka::messages::DeleteRecordsRequest;
use tidemark_proto::kafka::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};

use super::Failure;
use super::client::{Cluster, EARLIEST, LATEST, Purpose, Trouble, by_leader, refused};
use super::output::{Table, confirm, show};
use super::position::Position;

const TIMEOUT_MS: i32 = 30_000;

/// Which records go.
#[derive(Args, Debug)]
pub struct Cut {
    /// The topic's name.
    topic: String,
    /// Delete what is before this: an offset, a time (as 2026-11-23T12:00:00Z, or 7d for seven days ago), or `end` for
    /// everything.
    #[arg(long, value_name = "OFFSET|TIME|end")]
    before: String,
    /// Only of these partitions; may be given more than once.
    #[arg(short, long = "partition")]
    partitions: Vec<i32>,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

#[derive(Serialize)]
struct Row {
    partition: i32,
    start: i64,
}

/// Deletes them.
pub async fn delete(cluster: &Cluster, cut: &Cut, json: bool) -> Result<(), Failure> {
    let before = Position::parse(&cut.before, cluster.seams.clock.wall()).map_err(Failure::Wrong)?;
    let places = super::offsets::places(cluster, &cut.topic, &cut.partitions).await?;
    let bounds = before.resolve(cluster, &places, false).await?;
    let starts = cluster.offsets(&places, EARLIEST, false).await?;
    let ends = cluster.offsets(&places, LATEST, false).await?;
    let mut count = 0;
    let mut wanted = Vec::new();
    for place in &places {
        let (Some(Ok(start)), Some(Ok(end)), Some(bound)) =
            (starts.get(place), ends.get(place), bounds.get(place))
        else {
            return Err(Failure::Failed(format!(
                "partition {} of {} does not answer; try again",
                place.1, place.0
            )));
        };
        let bound = end.offset.min(*bound);
        if bound > start.offset {
            count += bound - start.offset;
            wanted.push((place.1, bound));
        }
    }
    confirm(
        &cluster.seams.tasks,
        &format!("Delete up to {count} records of {}?", cut.topic),
        cut.yes || wanted.is_empty(),
    )
    .await?;
    let mut rows = Vec::new();
    for (partition, bound) in wanted {
        rows.push(Row { partition, start: one(cluster, &cut.topic, partition, bound).await? });
    }
    show(json, &rows, || {
        let mut table = Table::new(&[">PARTITION", ">NEW START"]);
        rows.iter().for_each(|row| table.row([row.partition.to_string(), row.start.to_string()]));
        table
    })
}

async fn one(cluster: &Cluster, topic: &str, partition: i32, bound: i64) -> Result<i64, Trouble> {
    let names = [topic.to_owned()];
    let what = format!("records of {topic}-{partition} before {bound}");
    cluster
        .retry(async || {
            let metadata = cluster.metadata(Some(&names)).await?;
            let leaders = by_leader(&metadata.topics);
            let led = |id: &i32| leaders[id].iter().any(|(_, led)| led.partition_index == partition);
            let leader = leaders.keys().copied().find(led).unwrap_or(-1);
            let wanted = DeleteRecordsPartition { partition_index: partition, offset: bound };
            let request = DeleteRecordsRequest {
                topics: vec![DeleteRecordsTopic { name: topic.into(), partitions: vec![wanted] }],
                timeout_ms: TIMEOUT_MS,
            };
            let answer = cluster.node(leader, Purpose::Ask).await?.call(i16::MAX, &request).await?;
            let result = answer.topics.first().and_then(|t| t.partitions.first());
            let result = result.ok_or_else(|| Trouble::Unable(format!("{what}: the broker says nothing")))?;
            refused(&what, result.error_code, None)?;
            Ok(result.low_watermark)
        })
        .await
}
