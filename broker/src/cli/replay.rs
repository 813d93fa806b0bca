//! `tidemark replay`: a range of a topic is read again, at a rate and for a price that are known before.
//!
//! Speaks the Kafka protocol to any broker. What it does to those who produce is bounded by `--rate`, not by itself.

mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tidemark_tiering::bucket::Prices;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::client::{self, Cluster, EARLIEST, EARLIEST_LOCAL, LATEST, Place, Reader, Taken, To};
use super::consume::within;
use super::output::{note, show_text, size};
use super::position::{Position, known};
use super::printer::{Look, Printer};
use super::{Failure, offsets};
use plan::{Known, Plan};

const WAIT: Duration = Duration::from_millis(250);
const MIB: f64 = (1u64 << 20) as f64;

/// Read a range of a topic again: planned, priced, at a rate.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  tidemark replay orders --from 2026-01-01 --to 2026-02-01 --plan     what it would read and cost; reads nothing
  tidemark replay orders --from 30d --prewarm --rate 50               into the brokers' caches, at 50 MiB/s
  tidemark replay orders --from 7d --max-dollars 2 --format '%k=%v\\n'
  tidemark replay orders --from 100 --to 200 -p 3 --json | jq .value

Bytes are estimated from partitions' sizes. GETs and dollars are upper bounds, as if nothing were cached.")]
pub struct Replay {
    #[command(flatten)]
    to: To,
    /// The topic's name.
    topic: String,
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
    /// At most so many MiB a second.
    #[arg(long, value_name = "MIB", value_parser = positive)]
    rate: Option<f64>,
    /// Do not begin where requests may cost more than this.
    #[arg(long, value_name = "DOLLARS", value_parser = positive)]
    max_dollars: Option<f64>,
    /// Whose prices: s3, s3-express, gcs, azure or free.
    #[arg(long, default_value_t = Prices::S3)]
    price: Prices,
    /// Only tell what would be read and what it may cost.
    #[arg(long, conflicts_with = "prewarm")]
    plan: bool,
    /// Print no records: only bring them into the brokers' caches.
    #[arg(long)]
    prewarm: bool,
    #[command(flatten)]
    look: Look,
    /// Leave out what transactions have not committed.
    #[arg(long)]
    read_committed: bool,
}

/// What was read.
#[derive(Debug, Default, Serialize)]
struct Done {
    topic: String,
    offsets: u64,
    bytes: u64,
    seconds: f64,
}

/// Where each partition is read, and what is known of it.
type Ranges = (BTreeMap<Place, (i64, i64)>, BTreeMap<Place, Known>);

impl Replay {
    /// Plans, and unless told otherwise reads.
    pub fn run(self) -> Result<(), Failure> {
        let printer = self.look.printer(&self.topic, self.to.json, None)?;
        client::stay(&self.to, async |cluster, stop| {
            let (ranges, known) = self.ranges(&cluster).await?;
            let plan = Plan::new(&self.topic, &ranges, &known, self.price, self.rate.map(|rate| rate * MIB));
            if self.plan {
                return show_text(self.to.json, &plan, || plan.text());
            }
            if let Some(most) = self.max_dollars.filter(|most| plan.dollars() > *most) {
                let cost = plan.dollars();
                return Err(Failure::Failed(format!(
                    "reading this may cost ${cost:.4}, more than --max-dollars {most}; see --plan"
                )));
            }
            let mut reader = Reader::new(cluster, &self.topic, self.read_committed);
            reader.keep_batches(self.prewarm);
            for (place, (from, to)) in &ranges {
                reader.add(place.1, *from, Some(*to));
            }
            self.read(reader, plan.offsets(), (!self.prewarm).then_some(printer), stop).await
        })
    }

    async fn ranges(&self, cluster: &Arc<Cluster>) -> Result<Ranges, Failure> {
        let now = cluster.seams.clock.wall();
        let place = |what: &str, text: &str| {
            Position::parse(text, now).map_err(|why| Failure::Wrong(format!("--{what}: {why}")))
        };
        let (from, until) = (place("from", &self.from)?, place("to", &self.until)?);
        let places = offsets::places(cluster, &self.topic, &self.partitions).await?;
        let starts = cluster.offsets(&places, EARLIEST, false).await?;
        let ends = cluster.offsets(&places, LATEST, self.read_committed).await?;
        let locals = cluster.offsets(&places, EARLIEST_LOCAL, false).await.unwrap_or_default();
        let sizes = offsets::sizes(cluster).await?;
        let mut facts = BTreeMap::new();
        for (place, spot) in ends {
            let start = starts.get(&place).and_then(|spot| spot.ok()).map_or(0, |spot| spot.offset);
            let local = locals.get(&place).and_then(|spot| spot.ok()).map(|spot| spot.offset);
            let local = local.filter(|local| *local >= 0);
            let bytes = sizes.get(&place).copied().unwrap_or(0);
            let end = known(&place, spot)?;
            facts.insert(place, Known { start, end, local, bytes });
        }
        let ends = facts.iter().map(|(place, fact)| (place.clone(), fact.end)).collect();
        let mut first = from.resolve(cluster, &places, self.read_committed).await?;
        let mut last = until.resolve(cluster, &places, self.read_committed).await?;
        within(&mut first, cluster, &ends).await?;
        within(&mut last, cluster, &ends).await?;
        let range = |place: &Place| Some((*first.get(place)?, *last.get(place)?));
        let ranges = places.iter().filter_map(|place| Some((place.clone(), range(place)?))).collect();
        Ok((ranges, facts))
    }

    async fn read(
        &self,
        mut reader: Reader,
        total: u64,
        mut printer: Option<Printer>,
        stop: CancellationToken,
    ) -> Result<(), Failure> {
        let began = Instant::now();
        let bar = progress(total, printer.is_some());
        let mut done = Done { topic: self.topic.clone(), ..Done::default() };
        while !reader.is_done() {
            let taken = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Failure::Interrupted),
                taken = reader.poll(WAIT) => taken?,
            };
            reader.notes.drain(..).for_each(|text| note(&text));
            let batches: usize = reader.batches.drain(..).map(|(_, batch)| batch.size()).sum();
            done.bytes += batches as u64 + taken.iter().map(payload).sum::<u64>();
            if let Some(printer) = printer.as_mut().filter(|_| !taken.is_empty())
                && !printer.print(&taken)?.1
            {
                break;
            }
            bar.set_position(total.saturating_sub(reader.left()));
            let seconds = began.elapsed().as_secs_f64();
            bar.set_message(format!(
                "{}, {}/s",
                size(done.bytes),
                size((done.bytes as f64 / seconds) as u64)
            ));
            // Nobody is asked for more before what was had is due.
            let due = self.rate.map(|rate| began + Duration::from_secs_f64(done.bytes as f64 / (rate * MIB)));
            if let Some(due) = due {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Err(Failure::Interrupted),
                    () = tokio::time::sleep_until(due) => {}
                }
            }
        }
        bar.finish_and_clear();
        done.offsets = total.saturating_sub(reader.left());
        done.seconds = began.elapsed().as_secs_f64();
        let Done { topic, offsets, bytes, seconds } = &done;
        let told = format!("{topic}: {offsets} offsets, {} in {seconds:.1} s", size(*bytes));
        match printer {
            Some(_) => note(&told),
            None => show_text(self.to.json, &done, || format!("{told}\n"))?,
        }
        Ok(())
    }
}

/// Bytes of a record's key and value.
fn payload(taken: &Taken) -> u64 {
    let len = |bytes: Option<usize>| bytes.unwrap_or(0) as u64;
    len(taken.record.key.as_ref().map(|key| key.len()))
        + len(taken.record.value.as_ref().map(|value| value.len()))
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| format!("'{text}' is no number above 0"))
}

/// Shown on stderr, unless records go to the same terminal.
fn progress(total: u64, prints: bool) -> ProgressBar {
    if prints && std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {percent}% {msg} {eta}");
    ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_or_a_budget_is_above_0() {
        assert_eq!(positive("0.5"), Ok(0.5));
        for text in ["0", "-1", "NaN", "inf", "x", ""] {
            assert!(positive(text).is_err_and(|why| why.contains("above 0")), "{text}");
        }
    }
}
