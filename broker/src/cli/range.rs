//! A range of a topic, as a command line names it.

use std::collections::BTreeMap;

use clap::Args;

use super::client::{Cluster, Place};
use super::position::Position;
use super::{Failure, offsets};

/// Which records are meant.
#[derive(Args, Debug)]
pub struct Range {
    /// The topic's name.
    pub topic: String,
    /// Where to begin: beginning, end, an offset, -N (so many before the end), or a time, as 2026-11-23T12:00:00Z or
    /// 15m (ago).
    #[arg(long, default_value = "beginning", value_name = "PLACE", allow_hyphen_values = true)]
    from: String,
    /// Where to end, exclusive; like --from.
    #[arg(long = "to", default_value = "end", value_name = "PLACE", allow_hyphen_values = true)]
    until: String,
    /// Only these partitions; may be given more than once.
    #[arg(short, long = "partition")]
    partitions: Vec<i32>,
}

/// The part of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// First offset; one that was named may be below what there is.
    pub from: i64,
    /// Behind the last, not below `from`.
    pub to: i64,
    /// Behind the last of the partition, not below `to`.
    pub end: i64,
}

impl Range {
    /// The part of each partition that is meant.
    pub async fn resolve(
        &self,
        cluster: &Cluster,
        read_committed: bool,
    ) -> Result<BTreeMap<Place, Part>, Failure> {
        let now = cluster.seams.clock.wall();
        let parse = |what: &str, text: &str| {
            Position::parse(text, now).map_err(|why| Failure::Wrong(format!("--{what}: {why}")))
        };
        let (from, until) = (parse("from", &self.from)?, parse("to", &self.until)?);
        let places = offsets::places(cluster, &self.topic, &self.partitions).await?;
        let starts = from.resolve(cluster, &places, read_committed).await?;
        let stops = until.resolve(cluster, &places, read_committed).await?;
        let ends = Position::End.resolve(cluster, &places, read_committed).await?;
        let part = |(place, start): (Place, i64)| {
            let end = ends.get(&place).copied().unwrap_or(0);
            let to = stops.get(&place).copied().unwrap_or(0).min(end);
            (place, Part { from: start.min(to), to, end })
        };
        Ok(starts.into_iter().map(part).collect())
    }
}
