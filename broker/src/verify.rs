//! Whether the bucket holds what its metadata says, found out without any broker: `tidemark verify`, `scrub`, `tier report`.
//!
//! Takes an image and looks at every object that it names for the chosen topics: footers, directories and indexes, and
//! with [`Depth::Bytes`] every batch. What it finds is told by object and by offsets; nothing is ever written. Brokers may
//! go on meanwhile: what is missing by one image counts only where a newer one names it too.
//! Not known here: what a living leader has acked beyond the last parcel in sight, which no bucket can tell.

mod coverage;
mod lanes;
mod runs;
mod segments;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use serde::Serialize;
use tidemark_proto::id::{Offset, TopicId, TopicPartition};
use tidemark_tiering::bucket::Bucket;
use tidemark_tiering::error::Error;
use tidemark_tiering::run::checkpoint;
use tidemark_tiering::seam::Seams;

use crate::cluster::bystander;
use crate::cluster::image::{Image, Topic};
use coverage::Piece;
pub use coverage::{Coverage, Tier};

/// Objects looked into at a time.
const AT_A_TIME: usize = 16;
/// Bytes of one read of batches.
const SPAN: u64 = 8 << 20;
/// How often newer metadata may make a finding void before what is left of them is told.
const LOOKS: usize = 4;

/// How a look is done.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// How far it goes.
    pub depth: Depth,
    /// PUTs of a lane that may be in flight (`tidemark.wal.window`): parcels beyond a hole that are not committed yet.
    pub window: usize,
}

/// How far a look goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Every object is there, and what is in it follows one upon the other.
    Names,
    /// Every batch is read too, and its CRC is true.
    Bytes,
}

/// Something that is not as the metadata says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The topic, where one alone is concerned.
    pub topic: Option<String>,
    /// Its partition.
    pub partition: Option<i32>,
    /// First and last offset concerned.
    pub offsets: Option<(i64, i64)>,
    /// The object.
    pub key: Option<String>,
    /// What is wrong.
    pub why: String,
}

/// One partition as the bucket holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// First offset that may be read.
    pub log_start: Offset,
    /// Offset after the last that is held.
    pub end: Offset,
    /// Its bytes by tier, in the order of [`Tier::ALL`].
    pub bytes: [u64; 3],
}

/// What a look showed.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The partitions looked at.
    pub partitions: BTreeMap<TopicPartition, Held>,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
}

/// How far a look has come. Read by whoever shows it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Objects looked into.
    pub objects: AtomicU64,
    /// Bytes of batches read.
    pub bytes: AtomicU64,
}

/// One look by one image.
struct Look<'a> {
    bucket: &'a Bucket,
    image: &'a Image,
    how: How,
    progress: &'a Progress,
    topics: BTreeSet<TopicId>,
    coverage: BTreeMap<TopicPartition, Coverage>,
    findings: Vec<Finding>,
}

/// What one object gave.
#[derive(Default)]
struct Seen {
    pieces: Vec<(TopicPartition, Piece)>,
    ends: Vec<(TopicPartition, Offset)>,
    findings: Vec<Finding>,
}

/// Looks at the topics that `chosen` names, as of `image` and of newer ones where something is not as that says.
///
/// # Errors
/// Where newer metadata cannot be read.
pub async fn verify(
    (bucket, seams): (&Bucket, &Seams),
    mut image: Arc<Image>,
    how: How,
    progress: &Progress,
    chosen: impl Fn(&Topic) -> bool,
) -> Result<(Arc<Image>, Report), Error> {
    let mut looks = 1;
    loop {
        let report = look(bucket, &image, how, progress, &chosen).await;
        if report.findings.is_empty() || looks == LOOKS {
            return Ok((image, report));
        }
        let newer = bystander::read(bucket, seams).await?;
        if newer.position() == image.position() {
            return Ok((image, report));
        }
        image = Arc::new(newer);
        looks += 1;
    }
}

/// One look, by an image that stands still.
pub async fn look(
    bucket: &Bucket,
    image: &Image,
    how: How,
    progress: &Progress,
    chosen: impl Fn(&Topic) -> bool,
) -> Report {
    let topics = image.topics().filter(|topic| chosen(topic)).map(|topic| topic.id).collect();
    let (coverage, findings) = (BTreeMap::new(), Vec::new());
    let mut look = Look { bucket, image, how, progress, topics, coverage, findings };
    look.checkpoints().await;
    look.segments().await;
    look.runs().await;
    look.lanes().await;
    look.report()
}

/// What all `looks` gave, so many at a time, in their order.
async fn gather(looks: Vec<impl Future<Output = Seen>>, progress: &Progress) -> Vec<Seen> {
    let mut looks = futures::stream::iter(looks).buffered(AT_A_TIME);
    let mut found = Vec::new();
    while let Some(seen) = looks.next().await {
        progress.objects.fetch_add(1, Ordering::Relaxed);
        found.push(seen);
    }
    found
}

/// Whether offsets of the topic may be missing by right: what compaction took, or may have.
fn is_compacted(topic: &Topic) -> bool {
    topic.name.starts_with("__")
        || topic.configs.get("cleanup.policy").is_some_and(|policy| policy.contains("compact"))
}

impl Look<'_> {
    fn is_chosen(&self, tp: TopicPartition) -> bool {
        self.topics.contains(&tp.topic)
    }

    /// States that take-overs start from: each is there, and how far it says the log goes.
    async fn checkpoints(&mut self) {
        let mut homes: BTreeMap<_, Vec<TopicPartition>> = BTreeMap::new();
        for (tp, partition) in self.image.partitions().filter(|(tp, _)| self.is_chosen(*tp)) {
            if let Some(home) = partition.home {
                homes.entry(home).or_default().push(tp);
            }
        }
        for (home, of) in homes {
            let key = self.image.checkpoint(home).map_or_else(String::new, |row| row.key.clone());
            self.progress.objects.fetch_add(1, Ordering::Relaxed);
            match checkpoint::read(self.bucket, self.image.cluster(), &key).await {
                Err(error) => self.findings.push(Finding::object(&key, &error)),
                Ok(found) => {
                    for tp in of {
                        match found.states.get(&tp) {
                            Some(state) => self.coverage.entry(tp).or_default().told(state.end),
                            None => {
                                let why = "it is named as this partition's state, and has none".to_owned();
                                let finding = Finding { key: Some(key.clone()), ..Finding::plain(why) };
                                self.findings.push(finding.of(self.image, tp));
                            }
                        }
                    }
                }
            }
        }
    }

    fn take_in(&mut self, found: Vec<Seen>) {
        for seen in found {
            self.findings.extend(seen.findings);
            for (tp, piece) in seen.pieces {
                self.coverage.entry(tp).or_default().add(piece);
            }
            for (tp, end) in seen.ends {
                self.coverage.entry(tp).or_default().told(end);
            }
        }
    }

    fn report(mut self) -> Report {
        let mut partitions = BTreeMap::new();
        for topic in self.image.topics().filter(|topic| self.topics.contains(&topic.id)) {
            for (tp, row) in topic.partitions() {
                let mut coverage = self.coverage.remove(&tp).unwrap_or_default();
                let log_start = row.log_start;
                let holes = if is_compacted(topic) { Vec::new() } else { coverage.holes(log_start) };
                for (from, to) in holes {
                    let why = "no object in sight holds these offsets".to_owned();
                    let finding = Finding { offsets: Some((from.0, to.0)), ..Finding::plain(why) };
                    self.findings.push(finding.of(self.image, tp));
                }
                let bytes = Tier::ALL.map(|tier| coverage.bytes(tier, log_start));
                partitions.insert(tp, Held { log_start, end: coverage.end(log_start), bytes });
            }
        }
        Report { partitions, findings: self.findings }
    }
}

impl Finding {
    fn plain(why: String) -> Finding {
        Finding { topic: None, partition: None, offsets: None, key: None, why }
    }

    /// An object that cannot be read.
    fn object(key: &str, error: &Error) -> Finding {
        let why = match error {
            Error::Gone { .. } => "the metadata names it, and it is not there".to_owned(),
            Error::Corrupt { why, .. } => format!("damaged: {why}"),
            error => error.to_string(),
        };
        Finding { key: Some(key.to_owned()), ..Finding::plain(why) }
    }

    fn of(self, image: &Image, tp: TopicPartition) -> Finding {
        let topic = image.topic(tp.topic).map(|topic| topic.name.to_string());
        Finding { topic, partition: Some(tp.partition.0), ..self }
    }

    fn at(self, from: Offset, to: Offset) -> Finding {
        Finding { offsets: Some((from.0, to.0)), ..self }
    }
}
