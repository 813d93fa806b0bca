//! Merges of runs, one at a time: which of them are this broker's, and what becomes of them.
//!
//! Every living broker has its share of classes and levels, chosen the same way by all; where two differ for a while,
//! the commit decides. Runs of which half is of no use any more are written anew too, and compacted ones without what newer
//! records supersede. Reads and writes go past the caches.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidemark_proto::id::{BrokerId, Offset, TopicPartition};
use tidemark_tiering::bucket::Kind;
use tidemark_tiering::error::Error;
use tidemark_tiering::upkeep::merge::{self, FAN_IN, Job, Judge, Merger};
use tidemark_tiering::witness::{Sight, saw};

use super::compact::Compactor;
use super::discard;
use super::needed::{Policies, is_compacted, is_needed, span};
use super::replace::{Carriers, Replacement, Went, replace};
use crate::cluster::image::{Image, RunRow};
use crate::node::Node;
use crate::ownership::Owned;

/// How often a broker looks whether there is something to merge; that sends no request.
const LOOK: Duration = Duration::from_secs(10);

/// Merges for as long as the process lives.
pub async fn run(node: Arc<Node>) {
    node.registered().await;
    let (mut carriers, mut seen) = (Carriers::default(), None);
    let mut compactor = Compactor::new(node.clone());
    let pause = LOOK.min(node.config.cut.interval).min(node.config.retention_check);
    loop {
        tokio::time::sleep(pause).await;
        let image = node.cluster.image();
        carriers.let_go(&node, &image);
        let Some(owned) = node.owned() else { continue };
        if let Err(error) = compactor.look(&image, owned, &mut carriers).await {
            tracing::warn!(%error, "runs could not be compacted");
        }
        let image = node.cluster.image();
        if seen == Some(image.version()) {
            continue;
        }
        let Some(job) = next(&node, &image, owned.node) else {
            seen = Some(image.version());
            continue;
        };
        if let Err(error) = merge(&node, &image, owned, &job, &mut carriers).await {
            tracing::warn!(%error, "runs could not be merged");
        }
    }
}

/// What this broker is to merge now.
fn next(node: &Node, image: &Image, me: BrokerId) -> Option<Job> {
    let staying = image.live().filter(|broker| !broker.draining);
    let brokers: Vec<BrokerId> = staying.map(|broker| broker.node).collect();
    let mut runs: Vec<&Arc<RunRow>> = image.runs().collect();
    runs.sort_by_key(|run| (run.committed, run.id));
    let mine = |class: u32, level: u32| {
        // Who merges cuts compacts, and does not get in its own way.
        if is_compacted(class) {
            return brokers.first() == Some(&me);
        }
        let turn = (class as usize * 31 + level as usize).checked_rem(brokers.len());
        turn.and_then(|turn| brokers.get(turn)) == Some(&me)
    };
    merge::plan(runs.iter().copied(), &span, &mine).or_else(|| sparse(node, &runs))
}

/// Runs of one class and level of which half is of no use.
fn sparse(node: &Node, runs: &[&Arc<RunRow>]) -> Option<Job> {
    let sparse = node.sparse.lock();
    let mut of: BTreeMap<(u32, u32), Vec<Arc<RunRow>>> = BTreeMap::new();
    for run in runs.iter().filter(|run| sparse.get(&run.id).is_some_and(|bytes| bytes * 2 >= run.bytes)) {
        of.entry((run.level, run.class)).or_default().push(Arc::clone(run));
    }
    let ((level, _), mut inputs) = of.pop_first()?;
    inputs.truncate(FAN_IN);
    Some(Job { inputs, level: level.max(1) })
}

/// What the metadata says of partitions.
pub(super) struct ByImage<'a> {
    pub(super) image: &'a Image,
    pub(super) policies: Policies,
}

impl Judge for ByImage<'_> {
    fn is_needed(&self, of: TopicPartition, last: Offset) -> bool {
        is_needed(self.image, of, last)
    }

    fn class(&self, of: TopicPartition) -> u32 {
        self.policies.get(of.topic).class()
    }
}

async fn merge(
    node: &Arc<Node>,
    image: &Image,
    owned: Owned,
    job: &Job,
    carriers: &mut Carriers,
) -> Result<(), Error> {
    let policies = Policies::of(image, &node.live.now());
    let judge = ByImage { image, policies };
    let (went, written) = rewrite(node, owned, job, &judge, Vec::new(), carriers).await?;
    if went == Went::Well {
        saw(Sight::Merged);
        let (inputs, read) = (job.inputs.len(), job.inputs.iter().map(|row| row.bytes).sum());
        tracing::debug!(inputs, level = job.level, read, written, "merged runs");
        node.metrics.upkeep.merged(read, written);
    }
    Ok(())
}

/// Writes what `job`'s inputs become by `judge` and commits it, with how far partitions are `cleaned` by it; how that
/// went, and the bytes written.
pub(super) async fn rewrite(
    node: &Arc<Node>,
    owned: Owned,
    job: &Job,
    judge: &dyn Judge,
    cleaned: Vec<(TopicPartition, Offset)>,
    carriers: &mut Carriers,
) -> Result<(Went, u64), Error> {
    let merger = Merger {
        bucket: &node.bucket,
        seams: &node.seams,
        reader: node.archive.runs(),
        cluster: node.cluster.image().cluster(),
        lane: owned.lane,
        creator: owned.lane.epoch,
    };
    let merged = match merge::merge(merger, job, judge).await {
        Ok(merged) => merged,
        Err(failed) => {
            // Nobody was asked to name them.
            let keys = failed.rows.into_iter().map(|row| row.key).collect();
            discard(node, Kind::Run, keys, Duration::ZERO);
            return Err(failed.error);
        }
    };
    let named = job.inputs.iter().map(|run| run.committed).max().unwrap_or(0);
    let written = merged.rows.iter().map(|row| row.bytes).sum();
    let what = Replacement {
        drop: job.inputs.clone(),
        add: merged.rows,
        starts: Vec::new(),
        gone: merged.gone.into_iter().map(|tp| (tp, named)).collect(),
        cleaned,
    };
    // What states are carried as of is what the metadata names now; the inputs are still among it, or the commit fails.
    let now = node.cluster.image();
    Ok((replace(node, &now, owned, what, carriers).await?, written))
}
