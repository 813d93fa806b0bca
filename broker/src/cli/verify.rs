//! `tidemark verify` and `tidemark scrub`: whether every offset is where the metadata says, and whether every byte is true.
//!
//! Both read the bucket alone, write nothing, and may run beside brokers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use indicatif::{HumanBytes, ProgressBar};
use serde::Serialize;
use tidemark_tiering::bucket::Bucket;
use tidemark_tiering::error::Error;
use tidemark_tiering::seam::Seams;

use super::output::show_text;
use super::{Failure, Of, pattern};
use crate::cluster::bystander;
use crate::verify::{Depth, Finding, How, Progress, verify};

/// Prove that every offset of a topic is in the bucket: every object that the metadata names is there and follows the one before.
#[derive(Args, Debug)]
#[command(
    after_help = "Example: tidemark verify 'orders.*' --set tidemark.bucket=file://$PWD/tidemark-data\n\
    It reads footers and directories, not records: see tidemark scrub. Exit code 1: something is missing or damaged."
)]
pub struct Verify {
    /// Names, or patterns with * and ?; all topics without any.
    topics: Vec<String>,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    of: Of,
}

/// Read every byte of a topic in the bucket and check every batch's CRC; what is damaged is told by object and by offsets.
#[derive(Args, Debug)]
#[command(after_help = "Example: tidemark scrub orders --config server.properties\n\
    It reads as many bytes as the topics have. Exit code 1: something is missing or damaged.")]
pub struct Scrub {
    #[command(flatten)]
    verify: Verify,
}

#[derive(Debug, Serialize)]
struct Told {
    topics: usize,
    partitions: usize,
    offsets: u64,
    objects: u64,
    bytes_read: u64,
    findings: Vec<Finding>,
}

impl Verify {
    /// Looks at names and directories.
    pub fn run(self) -> Result<(), Failure> {
        self.look(Depth::Names)
    }

    fn look(self, depth: Depth) -> Result<(), Failure> {
        let config = self.of.load()?;
        let how = How { depth, window: config.wal.window };
        let config = config.bucket;
        let told = super::serve::runtime()?.block_on(async {
            let seams = Seams::system();
            let bucket = Bucket::open(&config, &seams).map_err(|error| Failure::Failed(error.to_string()))?;
            self.verify(&bucket, &seams, how).await
        })?;
        show_text(self.json, &told, || text(&told, depth))?;
        match told.findings.len() {
            0 => Ok(()),
            n => Err(Failure::Failed(format!(
                "{n} findings: records are missing or damaged in {}",
                config.url
            ))),
        }
    }

    async fn verify(&self, bucket: &Bucket, seams: &Seams, how: How) -> Result<Told, Failure> {
        let image = Arc::new(bystander::read(bucket, seams).await.map_err(unreadable)?);
        let names = image.topics().map(|topic| topic.name.to_string()).collect();
        let names = pattern::choose("topic", &self.topics, names)?;
        let progress = Progress::default();
        let bar = ProgressBar::new_spinner();
        let work = verify((bucket, seams), image, how, &progress, |topic| {
            names.iter().any(|name| **name == *topic.name)
        });
        let (_, report) = watched(&bar, &progress, work).await.map_err(unreadable)?;
        bar.finish_and_clear();
        Ok(Told {
            topics: names.len(),
            partitions: report.partitions.len(),
            offsets: report.partitions.values().map(|held| (held.end.0 - held.log_start.0) as u64).sum(),
            objects: progress.objects.load(Ordering::Relaxed),
            bytes_read: progress.bytes.load(Ordering::Relaxed),
            findings: report.findings,
        })
    }
}

impl Scrub {
    /// Looks at every byte.
    pub fn run(self) -> Result<(), Failure> {
        self.verify.look(Depth::Bytes)
    }
}

/// Shows how far `work` has come while it runs.
async fn watched<T>(bar: &ProgressBar, progress: &Progress, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            _ = tick.tick() => {
                let objects = progress.objects.load(Ordering::Relaxed);
                let bytes = HumanBytes(progress.bytes.load(Ordering::Relaxed));
                bar.set_message(format!("{objects} objects looked into, {bytes} of records read"));
                bar.tick();
            }
        }
    }
}

/// The metadata cannot be read.
pub(super) fn unreadable(error: Error) -> Failure {
    Failure::Failed(match error {
        Error::Gone { .. } => {
            "there is no cluster in this bucket: is tidemark.bucket right, its prefix too?".to_owned()
        }
        error => format!("the metadata cannot be read: {error}"),
    })
}

fn text(told: &Told, depth: Depth) -> String {
    let mut text: String = told.findings.iter().map(line).collect();
    let read = match depth {
        Depth::Names => String::new(),
        Depth::Bytes => format!(", {} of records read", HumanBytes(told.bytes_read)),
    };
    let Told { topics, partitions, offsets, objects, .. } = told;
    text.push_str(&format!(
        "{topics} topics, {partitions} partitions, {offsets} offsets; {objects} objects looked into{read}: {}\n",
        match told.findings.len() {
            0 => "all there".to_owned(),
            n => format!("{n} findings"),
        }
    ));
    text
}

fn line(finding: &Finding) -> String {
    let mut parts = Vec::new();
    if let (Some(topic), Some(partition)) = (&finding.topic, finding.partition) {
        parts.push(format!("{topic}-{partition}"));
    }
    if let Some((from, to)) = finding.offsets {
        parts.push(format!("offsets {from} to {to}"));
    }
    parts.extend(finding.key.clone());
    format!("{}: {}\n", parts.join(", "), finding.why)
}
