//! Cuts: of this broker's own lane when enough has gathered, and of the dead lanes it was named recoverer of.
//!
//! Plans what to cut and which batches count, has `tiering` write it, commits, and only then lets go: extents move
//! to runs, the low mark rises, and after a grace the parcels below it are deleted, never a seal (R19-R21). One cut
//! at a time. Knows no format.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tidemark_proto::id::{LaneId, Seq, TopicPartition};
use tidemark_tiering::bucket::{Kind, Patience};
use tidemark_tiering::lane::recover;
use tidemark_tiering::parcel::{BatchEntry, Footer};
use tidemark_tiering::planted::{self, Bug};
use tidemark_tiering::upkeep::{cut, reclaim};
use tidemark_tiering::watch;
use tidemark_tiering::witness::{Sight, saw_many};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::cluster::command::{Command, Reply};
use crate::cluster::image::{self, Image};
use crate::node::Node;
use crate::partition::base::Base;
use crate::partition::task::{CutInput, Order};

/// Wait before a cut that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// See the module.
pub struct Cutter {
    node: Arc<Node>,
    lane: LaneId,
    orders: mpsc::Sender<Order>,
    commits: watch::Receiver<Seq>,
    low: Seq,
    oldest: Option<Instant>,
    not_before: Option<Instant>,
    recovering: bool,
    state_bytes: usize,
    checkpoint_bytes: Option<usize>,
}

impl Cutter {
    /// The cutter of `lane`, which was just opened.
    pub fn new(
        node: Arc<Node>,
        lane: LaneId,
        orders: mpsc::Sender<Order>,
        commits: watch::Receiver<Seq>,
    ) -> Cutter {
        Cutter {
            node,
            lane,
            orders,
            commits,
            low: Seq(0),
            oldest: None,
            not_before: None,
            recovering: true,
            state_bytes: 0,
            checkpoint_bytes: None,
        }
    }

    /// The metadata changed: a dead lane may have become ours to recover.
    pub fn follow(&mut self, image: &Image) {
        self.recovering = image.to_recover(self.node.id()).next().is_some();
    }

    /// Runs for as long as the lane lives.
    pub async fn run(mut self) {
        let mut images = self.node.cluster.watch();
        loop {
            let due = self.due();
            tokio::select! {
                biased;
                changed = self.commits.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let commit = *self.commits.borrow_and_update();
                    if commit > self.low {
                        self.oldest.get_or_insert_with(Instant::now);
                    }
                }
                changed = images.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let image = images.borrow_and_update().clone();
                    self.follow(&image);
                }
                () = sleep_until(due) => {
                    let done = self.work().await;
                    self.not_before = (!done).then(|| Instant::now() + RETRY);
                }
            }
        }
    }

    /// When there is work; `None` while there is nothing to cut.
    fn due(&self) -> Option<Instant> {
        let now = Instant::now();
        let config = &self.node.config.cut;
        let gathered = self.commits.borrow().0.saturating_sub(self.low.0) >= config.parcels;
        let own = match self.oldest {
            Some(_) if gathered => Some(now),
            Some(oldest) => Some(oldest + config.interval),
            None => None,
        };
        let due = if self.recovering { Some(now) } else { own };
        due.map(|due| self.not_before.map_or(due, |not_before| due.max(not_before)))
    }

    /// One cut; whether it went well.
    async fn work(&mut self) -> bool {
        let image = self.node.cluster.image();
        let dead = image.to_recover(self.node.id()).map(|(lane, row)| (lane, row.clone())).next();
        match dead {
            Some((lane, row)) => self.recover(&image, lane, &row).await,
            None => {
                self.recovering = false;
                self.cut_own(&image).await
            }
        }
    }

    async fn cut_own(&mut self, image: &Arc<Image>) -> bool {
        let (reply, input) = oneshot::channel();
        if self.orders.send(Order::CutInput { reply }).await.is_err() {
            return true;
        }
        let Ok(CutInput { upto, parcels, bases }) = input.await else { return true };
        if parcels.is_empty() {
            self.oldest = None;
            return true;
        }
        let mut known: BTreeMap<TopicPartition, Base> =
            bases.into_iter().map(|(tp, (_, base))| (tp, base)).collect();
        let Some(touched) = replay(&mut known, image, self.lane, &parcels) else {
            tracing::warn!(lane = %self.lane, "a cut waits: a partition of its parcels is not open");
            return false;
        };
        // A checkpoint is home to every partition the lane leads: without one of them it is not written.
        let whole = image.led_by(self.lane).all(|tp| known.contains_key(&tp));
        let checkpoint = whole && self.checkpoint_bytes.is_none_or(|bytes| self.state_bytes >= bytes);
        let states = known.iter().filter(|(tp, _)| checkpoint || touched.contains(tp));
        let states: BTreeMap<_, _> = states.map(|(tp, base)| (*tp, base.to_state())).collect();
        let state_bytes = states.values().map(|s| s.snapshot.len() + 64).sum::<usize>();
        if planted::is(Bug::LowMarkBeforeCommit) {
            let keys = reclaim::parcels_below(self.lane, self.low, upto, None);
            self.node.bucket.delete(Kind::Parcel, keys, Patience::Forever).await.ok();
            return false;
        }
        if !self.cut(image, self.lane, parcels, states, checkpoint).await {
            return false;
        }
        match checkpoint {
            true => (self.checkpoint_bytes, self.state_bytes) = (Some(state_bytes), 0),
            false => self.state_bytes += state_bytes,
        }
        let bases = known.into_iter().filter(|(tp, _)| touched.contains(tp)).collect();
        self.orders.send(Order::Cut { upto, bases }).await.ok();
        let from = std::mem::replace(&mut self.low, upto);
        self.oldest = (*self.commits.borrow() > upto).then(Instant::now);
        self.delete_later(reclaim::parcels_below(self.lane, from, upto, None));
        true
    }

    /// A dead lane's remainder: what its partitions' chains recorded of it goes into runs.
    async fn recover(&mut self, image: &Arc<Image>, lane: LaneId, row: &image::Lane) -> bool {
        let Some(sealed) = row.sealed else { return false };
        let mut parcels = Vec::new();
        let footers = recover::footers(&self.node.bucket, image.cluster(), lane, row.low..sealed);
        let mut footers = std::pin::pin!(footers);
        while let Some(found) = futures::StreamExt::next(&mut footers).await {
            match found {
                Ok((seq, footer, size)) => parcels.push((seq, footer, size)),
                Err(error) => {
                    tracing::warn!(%lane, %error, "a dead lane cannot be read yet");
                    return false;
                }
            }
        }
        let partitions: BTreeSet<TopicPartition> =
            parcels.iter().flat_map(|(_, footer, _)| footer.parts.iter().map(|p| p.of)).collect();
        let partitions: Vec<TopicPartition> =
            partitions.into_iter().filter(|tp| image.partition(*tp).is_some()).collect();
        let mut known = BTreeMap::new();
        for (tp, base) in self.node.archive.bases(image, &partitions).await {
            match base {
                Ok(base) => known.insert(tp, base),
                Err(error) => {
                    tracing::warn!(%lane, %error, "a dead lane's partition cannot be read yet");
                    return false;
                }
            };
        }
        for tp in &partitions {
            known.entry(*tp).or_default();
        }
        let Some(touched) = replay(&mut known, image, lane, &parcels) else {
            return false; // an older lane of the same partition has to be cut first
        };
        let states = known.iter().filter(|(tp, _)| touched.contains(tp));
        let states = states.map(|(tp, base)| (*tp, base.to_state())).collect();
        if !self.cut(image, lane, parcels, states, false).await {
            return false;
        }
        tracing::info!(%lane, "recovered: all that the dead lane held is in runs");
        self.delete_later(reclaim::parcels_below(lane, row.low, sealed, Some(sealed)));
        true
    }

    /// Writes the objects and commits them; an empty lane only raises its low mark.
    async fn cut(
        &self,
        image: &Arc<Image>,
        lane: LaneId,
        parcels: Vec<(Seq, Arc<Footer>, u64)>,
        states: BTreeMap<TopicPartition, tidemark_tiering::run::State>,
        checkpoint: bool,
    ) -> bool {
        let Some(owned) = self.node.owned() else { return false };
        let low = parcels.last().map(|(seq, ..)| seq.next());
        let job = cut::Job {
            cluster: image.cluster(),
            lane,
            creator: owned.lane.epoch,
            parcels: parcels.into_iter().map(|(seq, footer, _)| (seq, footer)).collect(),
            states,
            checkpoint,
            object_bytes: cut::OBJECT_BYTES,
        };
        let source = cut::Parcels { bucket: self.node.bucket.clone(), lane };
        let wanted = |seq: Seq, tp: TopicPartition, batch: &BatchEntry| counts(image, lane, seq, tp, batch);
        let written = match cut::run(&self.node.bucket, &self.node.seams, &source, &job, &wanted).await {
            Ok(written) => written,
            Err(error) => {
                tracing::error!(%lane, %error, "a cut failed");
                return false;
            }
        };
        let (low, runs, checkpoint) = match written {
            Some(cut) => (cut.upto, cut.runs, cut.checkpoint),
            None => (low.or(image.lane(lane).and_then(|l| l.sealed)).unwrap_or_default(), Vec::new(), None),
        };
        let command = Command::CommitCut {
            by: owned.lane.epoch,
            lane,
            low,
            runs: runs.into_iter().map(row_of_run).collect(),
            checkpoint: checkpoint.map(row_of_checkpoint),
            version: image.version(),
        };
        match self.node.cluster.submit(command).await {
            Ok(Reply::Done) => true,
            Ok(other) => {
                tracing::warn!(%lane, ?other, "a cut was not accepted");
                false
            }
            Err(error) => {
                tracing::warn!(%lane, %error, "a cut was not committed");
                false
            }
        }
    }

    /// R20: after a grace no fetch and no recovery outlives.
    fn delete_later(&self, keys: Vec<String>) {
        if keys.is_empty() {
            return;
        }
        let (node, grace) = (self.node.clone(), self.node.live.now().delete_grace());
        let deleting = async move {
            tokio::time::sleep(grace).await;
            let count = keys.len();
            match node.bucket.delete(Kind::Parcel, keys, Patience::Forever).await {
                Ok(()) => saw_many(Sight::Deleted, count),
                Err(error) => tracing::warn!(%error, "parcels below a low mark could not be deleted"),
            }
        };
        self.node.seams.tasks.spawn(deleting);
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Whether a batch belongs to its partition's log: its topic is there and a chain entry covers it (R13).
fn counts(image: &Image, lane: LaneId, seq: Seq, tp: TopicPartition, batch: &BatchEntry) -> bool {
    let chain = image.partition(tp).map(|p| p.chain.as_slice()).unwrap_or_default();
    chain.iter().any(|entry| {
        entry.lane == lane
            && entry.leader_epoch == batch.leader_epoch
            && seq >= entry.from
            && entry.to.is_none_or(|to| seq < to)
    })
}

/// Brings `known` up to the end of `parcels` and names the partitions that moved; `None` where one is missing or
/// does not follow on.
fn replay(
    known: &mut BTreeMap<TopicPartition, Base>,
    image: &Image,
    lane: LaneId,
    parcels: &[(Seq, Arc<Footer>, u64)],
) -> Option<BTreeSet<TopicPartition>> {
    let mut touched = BTreeSet::new();
    for (seq, footer, _) in parcels {
        for part in &footer.parts {
            for batch in part.batches.iter().filter(|b| counts(image, lane, *seq, part.of, b)) {
                known.get_mut(&part.of)?.replay(batch).ok()?;
                touched.insert(part.of);
            }
        }
    }
    Some(touched)
}

fn row_of_run(row: tidemark_tiering::run::RunRow) -> image::Run {
    image::Run {
        id: row.id,
        key: row.key,
        level: row.level,
        bytes: row.bytes,
        ranges: row.ranges,
        max_timestamp: row.max_timestamp,
        lanes: row.lanes,
    }
}

fn row_of_checkpoint(row: tidemark_tiering::run::CheckpointRow) -> image::Checkpoint {
    image::Checkpoint { id: row.id, key: row.key, lane: row.lane, upto: row.upto }
}
