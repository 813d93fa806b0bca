//! `tidemark replay`: a range of a topic is read again, at a rate and for a price that are known before.
//!
//! Speaks the Kafka protocol to any broker. What it does to those who produce is bounded by `--rate`, not by itself.

mod plan;

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use serde::Serialize;
use tidemark_tiering::bucket::Prices;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::client::{self, Cluster, EARLIEST_LOCAL, Place, Reader, Taken, To};
use super::output::{self, note, show_text, size};
use super::position::Position;
use super::printer::{Look, Printer};
use super::range::{Part, Range};
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

Bytes are estimated from partitions' sizes; GETs and dollars are of them, as if nothing were cached and every MiB took a
GET of its own. A broker that fetches neighbours together needs fewer, one whose newest parcels are small needs more.")]
pub struct Replay {
    #[command(flatten)]
    to: To,
    #[command(flatten)]
    range: Range,
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

impl Replay {
    /// Plans, and unless told otherwise reads.
    pub fn run(self) -> Result<(), Failure> {
        let printer = self.look.printer(&self.range.topic, self.to.json, None)?;
        client::stay(&self.to, async |cluster, stop| {
            let parts = self.parts(&cluster).await?;
            let plan = Plan::new(&self.range.topic, &parts, self.price, self.rate.map(|rate| rate * MIB));
            if self.plan {
                return show_text(self.to.json, &plan, || plan.text());
            }
            if let Some(most) = self.max_dollars.filter(|most| plan.dollars() > *most) {
                let cost = plan.dollars();
                return Err(Failure::Failed(format!(
                    "reading this may cost ${cost:.4}, more than --max-dollars {most}; see --plan"
                )));
            }
            let mut reader = Reader::new(cluster, &self.range.topic, self.read_committed);
            reader.keep_batches(self.prewarm);
            for (partition, part) in &parts {
                reader.add(*partition, part.from, Some(part.to));
            }
            self.read(reader, plan.offsets(), (!self.prewarm).then_some(printer), stop).await
        })
    }

    /// What is to be read of each partition, and what is known of it.
    async fn parts(&self, cluster: &Cluster) -> Result<BTreeMap<i32, Known>, Failure> {
        let ranges = self.range.resolve(cluster, self.read_committed).await?;
        let places: Vec<Place> = ranges.keys().cloned().collect();
        let starts = Position::Beginning.resolve(cluster, &places, false).await?;
        // A broker that knows no remote tier refuses to say where it ends; then nothing is told of it.
        let locals = cluster.offsets(&places, EARLIEST_LOCAL, false).await.unwrap_or_default();
        let sizes = offsets::sizes(cluster).await?;
        let known = |(place, part): (Place, Part)| {
            let start = starts.get(&place).copied().unwrap_or(0);
            let local = locals.get(&place).and_then(|spot| spot.ok()).map(|spot| spot.offset);
            let local = local.filter(|local| *local >= 0);
            let bytes = sizes.get(&place).copied().unwrap_or(0);
            let Part { from, to, end } = part;
            (place.1, Known { from: from.max(start), to: to.max(start), start, end, local, bytes })
        };
        Ok(ranges.into_iter().map(known).collect())
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
        let mut done = Done { topic: self.range.topic.clone(), ..Done::default() };
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
    output::progress(ProgressBar::new(total), "{bar:30} {percent}% {msg} {eta}")
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
