//! `tidemark tier report`: where topics' bytes are, and what keeping them costs.

use clap::{Args, Subcommand};
use indicatif::HumanBytes;
use serde::Serialize;
use tidemark_tiering::bucket::{Bucket, Prices};
use tidemark_tiering::seam::Seams;

use super::output::{Table, show};
use super::verify::unreadable;
use super::{Failure, Of, pattern};
use crate::cluster::bystander;
use crate::cluster::image::Image;
use crate::verify::{Depth, How, Progress, Report, look};

const GIB: f64 = (1u64 << 30) as f64;

/// The tiers: where records are, and what that costs.
#[derive(Args, Debug)]
pub struct TierArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Where each topic's bytes are in the bucket, and what they cost per month.
    #[command(
        after_help = "Example: tidemark tier report --set tidemark.bucket=s3://bucket/prefix --price s3\n\
        PARCELS are not cut yet, RUNS hold many partitions, SEGMENTS one each. Prices are list prices of storage alone; \
        requests are told by the brokers' metrics."
    )]
    Report(ReportArgs),
}

#[derive(Args, Debug)]
struct ReportArgs {
    /// Names, or patterns with * and ?; all topics without any.
    topics: Vec<String>,
    /// Whose prices: s3, s3-express, gcs, azure or free; the configured tidemark.bucket.price unless given.
    #[arg(long)]
    price: Option<Prices>,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    of: Of,
}

#[derive(Debug, Default, Serialize)]
struct Line {
    topic: String,
    partitions: usize,
    offsets: u64,
    parcels: u64,
    runs: u64,
    segments: u64,
    dollars_per_month: f64,
}

impl TierArgs {
    /// Does what was asked for.
    pub fn run(self) -> Result<(), Failure> {
        let Verb::Report(args) = self.verb;
        let config = args.of.load()?;
        let how = How { depth: Depth::Names, window: config.wal.window };
        let config = config.bucket;
        let lines = super::serve::runtime()?.block_on(async {
            let seams = Seams::system();
            let bucket = Bucket::open(&config, &seams).map_err(|error| Failure::Failed(error.to_string()))?;
            let image = bystander::read(&bucket, &seams).await.map_err(unreadable)?;
            let names = image.topics().map(|topic| topic.name.to_string()).collect();
            let names = pattern::choose("topic", &args.topics, names)?;
            let chosen =
                |topic: &crate::cluster::image::Topic| names.iter().any(|name| **name == *topic.name);
            let report = look(&bucket, &image, how, &Progress::default(), chosen).await;
            if let Some(finding) = report.findings.first() {
                let key = finding.key.as_deref().unwrap_or("an object");
                return Err(Failure::Failed(format!("{key}: {}; see tidemark verify", finding.why)));
            }
            Ok(lines(&image, &report, args.price.unwrap_or(bucket.prices())))
        })?;
        show(args.json, &lines, || table(&lines))
    }
}

/// A line per topic by name, and their sum.
fn lines(image: &Image, report: &Report, prices: Prices) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for topic in image.topics() {
        let mut line = Line { topic: topic.name.to_string(), ..Line::default() };
        for (tp, _) in topic.partitions() {
            let Some(held) = report.partitions.get(&tp) else { continue };
            line.partitions += 1;
            line.offsets += (held.end.0 - held.log_start.0) as u64;
            let [parcels, runs, segments] = held.bytes;
            line.parcels += parcels;
            line.runs += runs;
            line.segments += segments;
        }
        if line.partitions > 0 {
            lines.push(line);
        }
    }
    lines.sort_by(|a, b| a.topic.cmp(&b.topic));
    let sum = lines.iter().fold(Line { topic: "(all)".to_owned(), ..Line::default() }, |sum, line| Line {
        partitions: sum.partitions + line.partitions,
        offsets: sum.offsets + line.offsets,
        parcels: sum.parcels + line.parcels,
        runs: sum.runs + line.runs,
        segments: sum.segments + line.segments,
        ..sum
    });
    lines.push(sum);
    for line in &mut lines {
        let bytes = line.parcels + line.runs + line.segments;
        line.dollars_per_month = bytes as f64 / GIB * prices.per_gib_month();
    }
    lines
}

fn table(lines: &[Line]) -> Table {
    let heads = ["TOPIC", ">PARTITIONS", ">OFFSETS", ">PARCELS", ">RUNS", ">SEGMENTS", ">$/MONTH"];
    let mut table = Table::new(&heads);
    for line in lines {
        let bytes = |bytes: u64| HumanBytes(bytes).to_string();
        table.row([
            line.topic.clone(),
            line.partitions.to_string(),
            line.offsets.to_string(),
            bytes(line.parcels),
            bytes(line.runs),
            bytes(line.segments),
            format!("{:.2}", line.dollars_per_month),
        ]);
    }
    table
}
