//! Compaction: passes over the partitions that are dirty enough, dirtiest first, and their commits.
//!
//! A pass surveys partitions until its memory is full, then rewrites the runs that hold them, some at a time and a
//! partition's oldest first, as a merge whose judge looks at batches; each commit replaces these runs and says how far
//! each partition is clean (R18, R20). It follows from the bucket alone: what is stable and what was aborted is in the
//! states of runs. So it need not be the leader's work; it is that of the broker that merges cuts, which then never works
//! on the same runs as another. A pass that loses its runs ends there, and what it has committed holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tidemark_proto::id::{BrokerId, Millis, Offset, TopicPartition};
use tidemark_proto::record::BatchError;
use tidemark_proto::record::view::{Batch, Batches};
use tidemark_tiering::compact::{Aborted, Kept, Pass, Terms};
use tidemark_tiering::error::Error;
use tidemark_tiering::parcel::Extent;
use tidemark_tiering::upkeep::merge::{Job, Judge};
use tokio::time::Instant;
use uuid::Uuid;

use super::dirty::Dirt;
use super::merge::{ByImage, rewrite};
use super::needed::{Policies, span};
use super::replace::{Carriers, Went};
use crate::archive::Share;
use crate::cluster::image::{Image, RunRow};
use crate::config;
use crate::node::{Node, is_internal};
use crate::ownership::Owned;
use crate::partition::base::Base;

/// Runs rewritten by one commit.
const RUNS: usize = 16;
/// Bytes of them, where it is more than one.
const BYTES: u64 = 1 << 30;
/// Partitions of one pass.
const PARTITIONS: usize = 1_000;
/// Bytes of one read of the survey.
const READ: u64 = 4 << 20;

/// A partition that is dirty enough.
struct Found {
    tp: TopicPartition,
    topic: config::Topic,
    shares: Arc<Vec<Share>>,
    dirt: Dirt,
}

/// A partition that was surveyed.
struct Plan {
    tp: TopicPartition,
    pass: Option<Pass>,
    upto: Offset,
    /// Those to be rewritten, in order.
    shares: Vec<Share>,
    /// How many of them are.
    done: usize,
    /// The order of runs is not its own: it waits for another pass.
    stopped: bool,
}

/// Looks for work now and then.
pub struct Compactor {
    node: Arc<Node>,
    looked: Option<Instant>,
    seen: Option<u64>,
}

impl Compactor {
    /// Has looked for nothing yet.
    pub fn new(node: Arc<Node>) -> Compactor {
        Compactor { node, looked: None, seen: None }
    }

    /// One pass, where there is something to do and it is this broker's.
    ///
    /// # Errors
    /// Where runs cannot be read or written; what is committed by then holds.
    pub async fn look(&mut self, image: &Image, owned: Owned, carriers: &mut Carriers) -> Result<(), Error> {
        let config = self.node.live.now();
        if !config.cleaner.enable || !is_its(image, owned.node) {
            return Ok(());
        }
        if self.looked.is_some_and(|at| at.elapsed() < config.cleaner.backoff) {
            return Ok(());
        }
        self.looked = Some(Instant::now());
        if self.seen == Some(image.version()) {
            return Ok(());
        }
        let (found, waits) = self.find(image, &config).await;
        let plans = self.survey(image, found, config.cleaner.memory_bytes).await;
        if plans.is_empty() {
            // Without news nothing is found next time either, unless something only has to grow older.
            self.seen = Some(image.version()).filter(|_| !waits);
            return Ok(());
        }
        self.rewrite(image, owned, plans, carriers).await
    }

    /// What is dirty enough, dirtiest first; and whether something may be by its age alone.
    async fn find(&self, image: &Image, config: &config::Broker) -> (Vec<Found>, bool) {
        let (mut found, mut waits) = (Vec::new(), false);
        let now = self.node.seams.clock.wall();
        for row in image.topics() {
            let topic = config.topic(&row.configs);
            if !topic.compacted && !is_internal(&row.name) {
                continue;
            }
            // What segments hold is not seen here: a deletion dropped above them would bring back what it deleted there.
            for (tp, partition) in row.partitions().filter(|(_, partition)| partition.tiered().is_none()) {
                let shares = match self.node.archive.shares(image, tp).await {
                    Ok(shares) => shares,
                    Err(error) => {
                        tracing::warn!(partition = %tp, %error, "what is dirty cannot be told");
                        continue;
                    }
                };
                let bounds = (partition.cleaned, Offset(i64::MAX));
                let dirt = Dirt::of(&shares, partition.log_start, bounds, now, &topic);
                match dirt.filter(|dirt| dirt.is_enough(&topic)) {
                    Some(dirt) => found.push(Found { tp, topic, shares, dirt }),
                    None => waits |= has_deadline(&topic) && !shares.is_empty(),
                }
            }
        }
        found.sort_by(|a, b| b.dirt.ratio.total_cmp(&a.dirt.ratio).then(a.tp.cmp(&b.tp)));
        found.truncate(PARTITIONS);
        (found, waits)
    }

    /// Surveys them until the memory is full. One that cannot be read waits; the others do not wait for it.
    async fn survey(&self, image: &Image, found: Vec<Found>, bytes: usize) -> Vec<Plan> {
        let partitions: Vec<TopicPartition> = found.iter().map(|found| found.tp).collect();
        let mut states = self.node.archive.states(image, &partitions).await;
        let now = self.node.seams.clock.wall();
        let (mut plans, mut left) = (Vec::new(), bytes);
        for Found { tp, topic, shares, .. } in found {
            let (Some(Ok(base)), Some(partition)) = (states.remove(&tp), image.partition(tp)) else {
                continue;
            };
            let stable = base.producers.first_open().unwrap_or(base.end).min(base.end);
            let bounds = (partition.cleaned, stable);
            let dirt = Dirt::of(&shares, partition.log_start, bounds, now, &topic);
            let Some(dirt) = dirt.filter(|dirt| dirt.is_enough(&topic)) else { continue };
            let terms = terms(&base, partition.log_start, &dirt, now, topic.delete_retention_ms);
            let mut pass = Pass::new(terms, dirt.from, left);
            let whole = match self.survey_one(image, tp, &shares, dirt, &mut pass).await {
                Ok(whole) => whole,
                Err(error) => {
                    tracing::warn!(partition = %tp, %error, "what is dirty cannot be read");
                    continue;
                }
            };
            left = left.saturating_sub(pass.bytes());
            let upto = pass.upto();
            if upto > dirt.from {
                let reached = |share: &&Share| share.last >= partition.log_start && share.base < upto;
                let shares = shares.iter().filter(reached).copied().collect();
                plans.push(Plan { tp, pass: Some(pass), upto, shares, done: 0, stopped: false });
            }
            if !whole || left < bytes / 8 {
                break;
            }
        }
        plans
    }

    /// Whether all that is dirty was taken in.
    async fn survey_one(
        &self,
        image: &Image,
        tp: TopicPartition,
        shares: &[Share],
        dirt: Dirt,
        pass: &mut Pass,
    ) -> Result<bool, Error> {
        let Dirt { from, until, .. } = dirt;
        let runs = self.node.archive.runs();
        for share in shares.iter().filter(|share| share.last >= from && share.base < until) {
            let gone = || Error::Gone { key: share.run.to_string() };
            let key = &image.run(share.run).ok_or_else(gone)?.key;
            let entries = runs.find(key, tp).await?;
            let entry = entries.iter().find(|entry| entry.base_offset == share.base).ok_or_else(gone)?;
            for extent in joined(entry.extents(from)) {
                for batch in Batches::new(runs.bytes(key, extent).await?) {
                    let batch = batch.map_err(|error| damaged(key, &error))?;
                    if batch.last_offset() < from {
                        continue;
                    }
                    if batch.base_offset() >= until {
                        return Ok(true);
                    }
                    if !pass.survey(&batch).map_err(|error| damaged(key, &error))? {
                        return Ok(false);
                    }
                }
                tokio::task::yield_now().await;
            }
        }
        Ok(true)
    }

    /// Rewrites the runs, some at a time.
    async fn rewrite(
        &self,
        image: &Image,
        owned: Owned,
        mut plans: Vec<Plan>,
        carriers: &mut Carriers,
    ) -> Result<(), Error> {
        for group in groups(image, &plans) {
            let ids: BTreeSet<Uuid> = group.iter().map(|run| run.id).collect();
            let now = self.node.cluster.image();
            let policies = Policies::of(&now, &self.node.live.now());
            let active = plans.iter_mut().filter_map(|plan| plan.enter(&ids)).collect();
            let cleaned = plans.iter().filter_map(|plan| plan.cleaned(&ids)).collect();
            let judge = Cleaning { by: ByImage { image: &now, policies }, passes: Mutex::new(active) };
            let level = group.iter().map(|run| run.level).max().unwrap_or(0).max(1);
            let job = Job { inputs: group, level };
            let (read, rewritten) = (job.inputs.iter().map(|run| run.bytes).sum(), job.inputs.len());
            let (went, written) = rewrite(&self.node, owned, &job, &judge, cleaned, carriers).await?;
            if went == Went::Lost {
                return Ok(());
            }
            tracing::debug!(runs = rewritten, read, written, "compacted");
            self.node.metrics.upkeep.compacted(read, written);
            let mut passes = judge.passes.into_inner();
            plans.iter_mut().for_each(|plan| plan.pass = passes.remove(&plan.tp).or(plan.pass.take()));
        }
        Ok(())
    }
}

impl Plan {
    /// Takes part in rewriting `runs`, if all of its shares before those in them are rewritten by then.
    fn enter(&mut self, runs: &BTreeSet<Uuid>) -> Option<(TopicPartition, Pass)> {
        let rest = self.shares.get(self.done..).unwrap_or_default();
        let next = rest.iter().take_while(|share| runs.contains(&share.run)).count();
        self.stopped |= rest[next..].iter().any(|share| runs.contains(&share.run));
        if self.stopped || next == 0 {
            return None;
        }
        self.done += next;
        Some((self.tp, self.pass.take()?))
    }

    /// How far it is clean once `runs` are rewritten.
    fn cleaned(&self, runs: &BTreeSet<Uuid>) -> Option<(TopicPartition, Offset)> {
        let last = self.shares.get(self.done.checked_sub(1)?)?;
        let next = self.shares.get(self.done).map_or(self.upto, |share| share.base);
        (!self.stopped && runs.contains(&last.run)).then_some((self.tp, next.min(self.upto)))
    }
}

/// The judge of a merge that compacts.
struct Cleaning<'a> {
    by: ByImage<'a>,
    passes: Mutex<BTreeMap<TopicPartition, Pass>>,
}

impl Judge for Cleaning<'_> {
    fn is_needed(&self, of: TopicPartition, last: Offset) -> bool {
        self.by.is_needed(of, last)
    }

    fn class(&self, of: TopicPartition) -> u32 {
        self.by.class(of)
    }

    fn span(&self, of: TopicPartition) -> Option<i64> {
        span(self.by.class(of))
    }

    fn rewrites(&self, of: TopicPartition) -> bool {
        self.passes.lock().contains_key(&of)
    }

    fn judge(&self, of: TopicPartition, batch: &Batch, edge: bool) -> Result<Kept, BatchError> {
        self.passes.lock().get_mut(&of).map_or(Ok(Kept::Whole), |pass| pass.judge(batch, edge))
    }
}

/// Whether compaction is this broker's work: the one that merges cuts.
fn is_its(image: &Image, me: BrokerId) -> bool {
    image.live().find(|broker| !broker.draining).map(|broker| broker.node) == Some(me)
}

/// Whether its records become due, or old enough, by time alone.
fn has_deadline(topic: &config::Topic) -> bool {
    topic.min_compaction_lag_ms > 0 || topic.max_compaction_lag_ms < i64::MAX
}

fn terms(base: &Base, start: Offset, dirt: &Dirt, now: Millis, delete_retention_ms: i64) -> Terms {
    let aborted = base.producers.aborted(start, dirt.until);
    let aborted =
        aborted.iter().map(|txn| Aborted { producer: txn.producer, first: txn.first, marker: txn.marker });
    let last = base.producers.iter().filter_map(|(id, producer)| Some((id, producer.marks.back()?.end)));
    Terms { now, delete_retention_ms, aborted: aborted.collect(), last_of: last.collect() }
}

/// The runs that hold what is to be rewritten, in the order of the first partition's shares, then of the next one's.
fn groups(image: &Image, plans: &[Plan]) -> Vec<Vec<Arc<RunRow>>> {
    let mut seen = BTreeSet::new();
    let mut groups: Vec<Vec<Arc<RunRow>>> = Vec::new();
    let shares = plans.iter().flat_map(|plan| &plan.shares).filter(|share| seen.insert(share.run));
    for run in shares.filter_map(|share| image.run(share.run)) {
        let fits = |group: &&mut Vec<Arc<RunRow>>| {
            group.len() < RUNS && group.iter().map(|run| run.bytes).sum::<u64>() + run.bytes <= BYTES
        };
        match groups.last_mut().filter(fits) {
            Some(group) => group.push(run.clone()),
            None => groups.push(vec![run.clone()]),
        }
    }
    groups
}

/// Extents side by side as few larger ones.
fn joined(extents: impl Iterator<Item = Extent>) -> Vec<Extent> {
    let mut out: Vec<Extent> = Vec::new();
    for extent in extents {
        match out.last_mut().filter(|last| last.length + extent.length <= READ) {
            Some(last) => (last.last_offset, last.length) = (extent.last_offset, last.length + extent.length),
            None => out.push(extent),
        }
    }
    out
}

fn damaged(key: &str, why: &BatchError) -> Error {
    Error::Corrupt { key: key.to_owned(), why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shares of ten offsets each, in these runs.
    fn plan(runs: &[u128], upto: i64) -> Plan {
        let share = |(base, run): (i64, &u128)| Share {
            run: Uuid::from_u128(*run),
            base: Offset(base),
            last: Offset(base + 9),
            max_timestamp: Millis(0),
            position: 0,
            bytes: 1,
        };
        Plan {
            tp: TopicPartition::default(),
            pass: Some(Pass::new(Terms::default(), Offset(0), 0)),
            upto: Offset(upto),
            shares: (0..).step_by(10).zip(runs).map(share).collect(),
            done: 0,
            stopped: false,
        }
    }

    /// How far it is clean once these runs are rewritten together; `None` where it takes no part.
    fn enter(plan: &mut Plan, runs: &[u128]) -> Option<i64> {
        let ids = runs.iter().map(|run| Uuid::from_u128(*run)).collect();
        let pass = plan.enter(&ids);
        let cleaned = plan.cleaned(&ids).map(|(_, upto)| upto.0);
        assert_eq!(pass.is_some(), cleaned.is_some());
        plan.pass = pass.map(|(_, pass)| pass).or(plan.pass.take());
        cleaned
    }

    #[test]
    fn a_partition_is_clean_up_to_its_first_share_that_is_not_rewritten() {
        let mut plan = plan(&[1, 1, 2, 3], 35);
        assert_eq!(enter(&mut plan, &[7]), None);
        assert_eq!(enter(&mut plan, &[1]), Some(20));
        assert_eq!(enter(&mut plan, &[8, 9]), None, "it is not told again");
        assert_eq!(enter(&mut plan, &[2, 3]), Some(35), "the survey ended within the last one");
    }

    #[test]
    fn a_partition_whose_newer_runs_come_first_waits_for_a_pass_of_its_own() {
        let mut other = plan(&[1, 2, 3], 30);
        assert_eq!(enter(&mut other, &[1, 3]), None, "2 would come after 3");
        assert_eq!(enter(&mut other, &[2]), None);
        let mut other = plan(&[1, 2, 3], 30);
        assert_eq!(enter(&mut other, &[1]), Some(10));
        assert_eq!(enter(&mut other, &[3]), None);
        assert_eq!(enter(&mut other, &[2]), None);
    }

    #[test]
    fn small_extents_are_read_together_up_to_a_bound() {
        let extent = |base: i64, length: u64| Extent {
            base_offset: Offset(base),
            last_offset: Offset(base + 9),
            position: 100 + base as u64,
            length,
        };
        let of =
            [extent(0, READ / 2), extent(10, READ / 2), extent(20, 1), extent(30, READ + 5), extent(40, 1)];
        let found: Vec<_> =
            joined(of.into_iter()).iter().map(|e| (e.base_offset.0, e.last_offset.0, e.length)).collect();
        assert_eq!(found, [(0, 19, READ), (20, 29, 1), (30, 39, READ + 5), (40, 49, 1)]);
    }
}
