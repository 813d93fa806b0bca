//! Retention: log starts rise past what topics keep no longer, and runs that nobody needs are named no more.
//!
//! Driven by runs' rows: one is looked into when the oldest share in it may be over, or something in it was deleted;
//! nothing is done for each partition. By time the lowest broker alive does it for all, since it follows from runs
//! and configs alone; by size, and for segments by time, each broker for the partitions it leads. The un-cut end of a log
//! stays until it is cut, as Kafka's active segment stays. Of a deleted topic the segments go here, too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidemark_proto::id::{LeaderEpoch, Millis, Offset, TopicId, TopicPartition};
use tidemark_tiering::bucket::{Kind, Patience};
use tidemark_tiering::error::Error;
use tidemark_tiering::keys;
use tidemark_tiering::run::{Partition, range_of};
use tokio::time::Instant;
use uuid::Uuid;

use super::needed::{
    Policies, Policy, is_in_log, is_needed, risen, risen_by_size, risen_past, runs_needed_from,
};
use super::replace::{Carriers, Replacement, Went, replace};
use super::{discard, sweep};
use crate::cluster::command::Command;
use crate::cluster::image::{Image, RunRow};
use crate::node::Node;
use crate::ownership::Owned;
use crate::partition::{Query, Row};

/// How often deletions are looked for; without one, that sends no request.
const HINTS: Duration = Duration::from_secs(10);
/// Runs looked into for one commit.
const ROWS: usize = 16;
/// Checks after which a share is looked at again whose time is over and which is not at the front of its log.
const BLOCKED: i64 = 8;

/// Of the runs this broker looked into, how many of their bytes nobody needs.
pub type Sparse = Arc<Mutex<BTreeMap<Uuid, u64>>>;

/// Keeps retention for as long as the process lives.
pub async fn run(node: Arc<Node>) {
    node.registered().await;
    let mut keeper = Keeper::new(node.clone());
    loop {
        tokio::time::sleep(node.config.retention_check.min(HINTS)).await;
        if let Err(error) = keeper.look().await {
            tracing::warn!(%error, "retention could not be looked at");
        }
    }
}

struct Keeper {
    node: Arc<Node>,
    policies: Policies,
    /// When something in a run may be over next.
    due: BTreeMap<Uuid, Millis>,
    /// Runs that hold shares of deleted topics.
    holds: BTreeMap<TopicId, BTreeSet<Uuid>>,
    /// Deleted topics whose segments are being deleted, and since when.
    clearing: BTreeMap<TopicId, Instant>,
    /// The metadata as of the last look.
    before: Option<Arc<Image>>,
    /// Checkpoints that were named at the last look.
    checkpoints: BTreeMap<Uuid, String>,
    /// Log starts that rose by this.
    raised: BTreeMap<TopicPartition, Offset>,
    checked: Option<Instant>,
    carriers: Carriers,
}

/// What one run comes to.
struct Verdict {
    /// Whether nothing in it is needed.
    over: bool,
    due: Millis,
    sparse: u64,
    /// Deleted topics it holds shares of.
    deleted: BTreeSet<TopicId>,
    /// The partitions it holds that are there.
    lives: BTreeSet<TopicPartition>,
}

impl Keeper {
    fn new(node: Arc<Node>) -> Keeper {
        Keeper {
            node,
            policies: Policies::default(),
            due: BTreeMap::new(),
            holds: BTreeMap::new(),
            clearing: BTreeMap::new(),
            before: None,
            checkpoints: BTreeMap::new(),
            raised: BTreeMap::new(),
            checked: None,
            carriers: Carriers::default(),
        }
    }

    async fn look(&mut self) -> Result<(), Error> {
        let Some(owned) = self.node.owned() else { return Ok(()) };
        let image = self.node.cluster.image();
        self.carriers.let_go(&self.node, &image);
        let check = self.node.config.retention_check;
        let whole = self.checked.is_none_or(|at| at.elapsed() >= check);
        if whole {
            self.checked = Some(Instant::now());
            let policies = Policies::of(&image, &self.node.live.now());
            if self.policies.differ(&policies) {
                self.due.clear();
            }
            self.policies = policies;
            if self.policies.bound_bytes() || image.partitions().any(|(_, p)| p.segments.is_some()) {
                self.of_led(&image, owned).await?;
            }
        }
        if image.live().map(|broker| broker.node).min() != Some(owned.node) {
            (self.before, self.due, self.holds) = (None, BTreeMap::new(), BTreeMap::new());
            self.checkpoints.clear();
            self.node.sparse.lock().clear();
            return Ok(());
        }
        if whole || self.before.as_ref().is_none_or(|before| before.version() != image.version()) {
            self.inherit(&image);
            let runs = self.runs_due(&image, whole).await?;
            for some in runs.chunks(ROWS) {
                self.settle(some, owned).await?;
            }
            if whole {
                self.forget_topics(&image).await?;
            }
            self.before = Some(image);
        }
        Ok(())
    }

    /// Deletes the checkpoints of the dead that nobody recovers from any more: the living delete their own.
    fn inherit(&mut self, image: &Image) {
        let named = image.checkpoints().map(|row| (row.id, row.key.clone())).collect();
        let before = std::mem::replace(&mut self.checkpoints, named);
        let over = before.into_values().filter(|key| sweep::is_garbage(image, key)).collect();
        discard(&self.node, Kind::Checkpoint, over, self.node.live.now().delete_grace());
    }

    /// The runs that something may be over in, oldest first.
    async fn runs_due(&mut self, image: &Image, whole: bool) -> Result<Vec<Uuid>, Error> {
        self.due.retain(|id, _| image.run(*id).is_some());
        self.node.sparse.lock().retain(|id, _| image.run(*id).is_some());
        let now = self.node.seams.clock.wall();
        let deleted = |since: u64| ranges(image.deleted().filter(|(_, d)| d.at > since).map(|(id, _)| id));
        let since = self.before.as_ref().map_or(0, |before| before.version());
        let (gone, fresh) = (deleted(0), deleted(since));
        let started = match &self.before {
            None => ranges(image.topics().filter(|t| t.partitions.iter().any(is_started)).map(|t| t.id)),
            Some(_) => Vec::new(),
        };
        let mut found = BTreeSet::new();
        for run in image.runs() {
            let known = self.due.get(&run.id).copied();
            let due = known.unwrap_or_else(|| self.first_due(run));
            let news = match known {
                None => meets(run, &gone) || meets(run, &started),
                Some(_) => meets(run, &fresh),
            };
            if news || (whole && due <= now) {
                found.insert((run.committed, run.id));
            }
            self.due.insert(run.id, due);
        }
        for (tp, start) in self.moved(image) {
            let shares = self.node.archive.shares(image, tp).await?;
            let over = shares.iter().filter(|share| share.last < start);
            found.extend(over.filter_map(|share| Some((image.run(share.run)?.committed, share.run))));
        }
        Ok(found.into_iter().map(|(_, id)| id).collect())
    }

    fn first_due(&self, run: &RunRow) -> Millis {
        let kept = self.policies.shortest();
        kept.map_or(Millis(i64::MAX), |ms| Millis(run.oldest.0.saturating_add(ms)))
    }

    /// Log starts that others have raised since the last look, and ends of segments that were committed.
    fn moved(&mut self, image: &Image) -> Vec<(TopicPartition, Offset)> {
        let Some(before) = &self.before else { return Vec::new() };
        let mut moved = Vec::new();
        for topic in image.topics() {
            let was = before.topic(topic.id);
            if was.is_some_and(|was| Arc::ptr_eq(was, topic)) {
                continue;
            }
            for (tp, partition) in topic.partitions() {
                let start = runs_needed_from(partition);
                let was = was.and_then(|was| was.partition(tp.partition)).map_or(Offset(0), runs_needed_from);
                if start > was && self.raised.get(&tp) != Some(&start) {
                    moved.push((tp, start));
                }
            }
        }
        self.raised.clear();
        moved
    }

    /// Raises log starts past what is over in these runs, and un-names those of which nothing is needed then.
    async fn settle(&mut self, ids: &[Uuid], owned: Owned) -> Result<(), Error> {
        let (image, now) = (self.node.cluster.image(), self.node.seams.clock.wall());
        let runs: Vec<&Arc<RunRow>> = ids.iter().filter_map(|id| image.run(*id)).collect();
        let mut over: BTreeMap<TopicPartition, Vec<(Offset, Offset)>> = BTreeMap::new();
        for run in &runs {
            for share in self.node.archive.runs().entries(&run.key).await? {
                let is_over = self.policies.get(share.of.topic).is_over(newest(run, &share), now);
                if is_over && is_in_log(&image, share.of, share.last_offset) {
                    over.entry(share.of).or_default().push((share.base_offset, share.last_offset));
                }
            }
        }
        let mut starts = BTreeMap::new();
        for (tp, mut shares) in over {
            let Some(partition) = image.partition(tp) else { continue };
            let start = risen(partition.log_start, &mut shares);
            if start > partition.log_start {
                starts.insert(tp, start);
            }
        }
        let mut what = Replacement { starts: starts.clone().into_iter().collect(), ..Replacement::default() };
        let mut bytes = 0;
        for run in runs {
            let verdict = self.judge(&image, run, &starts, now).await?;
            if verdict.over {
                bytes += run.bytes;
                what.drop.push(run.clone());
                for tp in verdict.lives {
                    let named = what.gone.entry(tp).or_default();
                    *named = run.committed.max(*named);
                }
                continue;
            }
            self.due.insert(run.id, verdict.due);
            self.node.sparse.lock().insert(run.id, verdict.sparse);
            for topic in verdict.deleted {
                self.holds.entry(topic).or_default().insert(run.id);
            }
        }
        if what.drop.is_empty() && what.starts.is_empty() {
            return Ok(());
        }
        let count = what.drop.len();
        if replace(&self.node, &image, owned, what, &mut self.carriers).await? == Went::Well {
            tracing::debug!(runs = count, partitions = starts.len(), "let go of what nobody needs");
            self.node.metrics.upkeep.reclaimed(count, bytes);
            self.raised.extend(starts);
        }
        Ok(())
    }

    async fn judge(
        &self,
        image: &Image,
        run: &RunRow,
        starts: &BTreeMap<TopicPartition, Offset>,
        now: Millis,
    ) -> Result<Verdict, Error> {
        let check = i64::try_from(self.node.config.retention_check.as_millis()).unwrap_or(i64::MAX);
        let blocked = Millis(now.0.saturating_add(check.saturating_mul(BLOCKED)));
        let mut verdict = Verdict {
            over: true,
            due: Millis(i64::MAX),
            sparse: 0,
            deleted: BTreeSet::new(),
            lives: BTreeSet::new(),
        };
        for share in self.node.archive.runs().entries(&run.key).await? {
            let tp = share.of;
            match image.partition(tp) {
                None => verdict.deleted.insert(tp.topic),
                Some(_) => verdict.lives.insert(tp),
            };
            let deleted = starts.get(&tp).is_some_and(|start| share.last_offset < *start);
            if deleted || !is_needed(image, tp, share.last_offset) {
                verdict.sparse += share.length;
                continue;
            }
            verdict.over = false;
            let policy: Policy = self.policies.get(tp.topic);
            if let Some(at) = policy.over_at(newest(run, &share)) {
                verdict.due = verdict.due.min(if at <= now { blocked } else { at });
            }
        }
        Ok(verdict)
    }

    /// Raises the log starts of partitions that this broker leads, past segments that are over, and where there is more
    /// than their topics allow.
    async fn of_led(&self, image: &Image, owned: Owned) -> Result<(), Error> {
        let now = self.node.seams.clock.wall();
        let Ok(rows) = self.node.partitions.ask(|reply| Query::Survey { reply }).await else { return Ok(()) };
        let mut starts: Vec<(TopicPartition, LeaderEpoch, Offset)> = Vec::new();
        for Row { tp, bounds, stored_bytes, .. } in rows {
            let policy = self.policies.get(tp.topic);
            let mut start = risen_past(bounds.log_start, image.segments(tp), policy, now);
            if let Some(keep) = policy.bytes {
                let layers = self.node.archive.layers(image, tp, bounds.log_start).await?;
                let bytes = stored_bytes + layers.iter().map(|(_, _, bytes)| bytes).sum::<u64>();
                let of_size = risen_by_size(bounds.log_start, bytes, keep, layers.into_iter());
                start = start.max(of_size);
            }
            if start > bounds.log_start {
                starts.push((tp, bounds.leader_epoch, start));
            }
        }
        if starts.is_empty() {
            return Ok(());
        }
        let by = owned.lane.epoch;
        if let Err(error) = self.node.cluster.submit(Command::MoveLogStarts { by, starts }).await {
            tracing::debug!(%error, "log starts did not rise");
        }
        Ok(())
    }

    /// Deleted topics that no run holds a share of, and that have no segments left, are done with.
    async fn forget_topics(&mut self, image: &Image) -> Result<(), Error> {
        let Some(before) = self.before.clone() else { return Ok(()) };
        let now = self.node.cluster.image();
        for (id, topic) in image.deleted().filter(|(id, _)| before.deleted().any(|(was, _)| was == *id)) {
            let held = self.holds.entry(id).or_default();
            held.retain(|run| now.run(*run).is_some());
            if held.is_empty() && self.is_cleared(id, &topic.name).await? {
                self.holds.remove(&id);
                self.clearing.remove(&id);
                self.node.cluster.submit(Command::ForgetTopic { id }).await.ok();
            }
        }
        Ok(())
    }

    /// Whether a deleted topic has no objects of segments. Those that it has go after a grace; an upload that was under way
    /// when it was deleted is found by the sweep.
    async fn is_cleared(&mut self, id: TopicId, name: &str) -> Result<bool, Error> {
        let grace = self.node.live.now().delete_grace();
        if self.clearing.get(&id).is_some_and(|begun| begun.elapsed() <= grace) {
            return Ok(false);
        }
        let folder = keys::segments_of(name, id);
        let listed = self.node.bucket.list(Kind::Segment, &folder, None, Patience::Forever).await?;
        let keys: Vec<String> = listed.into_iter().map(|object| object.key).collect();
        if keys.is_empty() {
            return Ok(true);
        }
        self.clearing.insert(id, Instant::now());
        discard(&self.node, Kind::Segment, keys, grace);
        Ok(false)
    }
}

/// A share's greatest timestamp; where its records have none, its run's.
fn newest(run: &RunRow, share: &Partition) -> Millis {
    if share.max_timestamp.0 >= 0 { share.max_timestamp } else { run.max_timestamp }
}

fn is_started(partition: &crate::cluster::image::Partition) -> bool {
    runs_needed_from(partition) > Offset(0)
}

/// The ranges of topics, in order.
fn ranges(topics: impl Iterator<Item = TopicId>) -> Vec<u32> {
    let range = |topic| range_of(TopicPartition { topic, ..TopicPartition::default() });
    let mut ranges: Vec<u32> = topics.map(range).collect();
    ranges.sort_unstable();
    ranges
}

/// Whether the run may hold a partition of one of `ranges`.
fn meets(run: &RunRow, ranges: &[u32]) -> bool {
    let within = |(first, last): &(u32, u32)| {
        ranges.get(ranges.partition_point(|range| range < first)).is_some_and(|range| range <= last)
    };
    run.ranges.iter().any(within)
}
