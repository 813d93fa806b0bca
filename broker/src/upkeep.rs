//! Cuts: of this broker's own lane when enough has gathered, and of the dead lanes it was named recoverer of.
//!
//! Plans what to cut and which batches count, has `tiering` write it, commits, and only then lets go: extents move
//! to runs, the low mark rises, and after a grace the parcels below it are deleted, never a seal (R19-R21). The own
//! lane's objects are written as soon as there is a stretch, from memory while it holds the batches; they are
//! committed together. One cut at a time. Knows no format.

pub mod compact;
mod dead;
pub mod dirty;
pub mod draft;
pub mod merge;
pub mod needed;
pub mod offload;
pub mod replace;
pub mod retain;
pub mod sweep;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidemark_proto::id::{LaneId, Seq, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::record::stamp::Stamped;
use tidemark_tiering::bucket::{Kind, Patience};
use tidemark_tiering::parcel::Part;
use tidemark_tiering::planted::{self, Bug};
use tidemark_tiering::upkeep::cut::{self, Source};
use tidemark_tiering::upkeep::reclaim;
use tidemark_tiering::watch;
use tidemark_tiering::witness::{Sight, saw_many};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

use crate::cluster::command::{Command, Reply};
use crate::cluster::image::Image;
use crate::node::Node;
use crate::partition::task::{Committed, CutAsk, CutInput, Order};
use draft::{Draft, Trouble, state_bytes};

/// Wait before a cut that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// A checkpoint is not written for less than a takeover would read without it.
const OWED: usize = 1 << 20;

/// Runs a takeover may have to look through before a new lane's first cut is hurried.
const FAR: usize = 64;

/// A commit that was sent, and what follows from it.
struct Sent {
    draft: Draft,
    low: Seq,
    command: Command,
    checkpoint_bytes: Option<usize>,
}

/// See the module.
pub struct Cutter {
    node: Arc<Node>,
    lane: LaneId,
    orders: mpsc::Sender<Order>,
    commits: watch::Receiver<Committed>,
    /// As of the last cut that was committed.
    low: Committed,
    /// As of the end of the draft.
    written: Committed,
    draft: Draft,
    /// A commit whose outcome is not known: it is sent again before anything else.
    unsettled: Option<Box<Sent>>,
    oldest: Option<Instant>,
    not_before: Option<Instant>,
    recovering: bool,
    /// What a takeover would read beyond the checkpoint.
    state_bytes: usize,
    checkpoint_bytes: Option<usize>,
    /// Own checkpoints that were committed and not yet superseded: keys by id.
    checkpoints: BTreeMap<Uuid, String>,
    /// Whether a takeover would have to look through many runs: the first cut comes early and brings a checkpoint.
    hurried: Option<bool>,
}

/// How one piece of work went.
enum Went {
    Well,
    /// Try again later.
    Badly,
}

impl Cutter {
    /// The cutter of `lane`, which was just opened.
    pub fn new(
        node: Arc<Node>,
        lane: LaneId,
        orders: mpsc::Sender<Order>,
        commits: watch::Receiver<Committed>,
    ) -> Cutter {
        Cutter {
            node,
            lane,
            orders,
            commits,
            low: Committed::default(),
            written: Committed::default(),
            draft: Draft::new(lane, Seq(0)),
            unsettled: None,
            oldest: None,
            not_before: None,
            recovering: true,
            state_bytes: 0,
            checkpoint_bytes: None,
            checkpoints: BTreeMap::new(),
            hurried: None,
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
                    if commit.upto > self.low.upto {
                        self.oldest.get_or_insert_with(Instant::now);
                        self.hurried.get_or_insert_with(|| is_far_from_home(&self.node.cluster.image(), self.lane));
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
                    let went = Box::pin(self.work()).await;
                    self.not_before = matches!(went, Went::Badly).then(|| Instant::now() + RETRY);
                }
            }
        }
    }

    /// When there is work; `None` while there is none.
    fn due(&self) -> Option<Instant> {
        let now = Instant::now();
        let at_once = self.unsettled.is_some() || self.recovering || self.has_stretch();
        let due = if at_once { Some(now) } else { self.cut_due(now) };
        due.map(|due| self.not_before.map_or(due, |not_before| due.max(not_before)))
    }

    /// When the own lane has to be cut.
    fn cut_due(&self, now: Instant) -> Option<Instant> {
        let (config, commit) = (&self.node.config.cut, *self.commits.borrow());
        let oldest = self.oldest?;
        let gathered = commit.upto.0.saturating_sub(self.low.upto.0) >= config.parcels
            || commit.bytes.saturating_sub(self.low.bytes) >= config.bytes
            || self.hurried == Some(true);
        Some(if gathered { now } else { oldest + config.interval })
    }

    /// Whether an object's worth of the own lane is not written yet.
    fn has_stretch(&self) -> bool {
        self.commits.borrow().bytes.saturating_sub(self.written.bytes) >= cut::OBJECT_BYTES
    }

    async fn work(&mut self) -> Went {
        if let Some(sent) = self.unsettled.take() {
            return self.commit(*sent).await;
        }
        let image = self.node.cluster.image();
        let dead: Vec<_> = image.to_recover(self.node.id()).map(|(lane, row)| (lane, row.clone())).collect();
        self.recovering = !dead.is_empty();
        for (lane, row) in dead {
            match self.recover(&image, lane, &row).await {
                Went::Well => return Went::Well,
                Went::Badly if self.unsettled.is_some() => return Went::Badly,
                Went::Badly => {}
            }
        }
        // A dead lane that has to wait for another does not keep the own one waiting.
        match self.cut_own().await {
            Went::Well if !self.recovering => Went::Well,
            _ => Went::Badly,
        }
    }

    /// Writes what fills objects and, when a cut is due, the rest, and commits.
    async fn cut_own(&mut self) -> Went {
        let now = Instant::now();
        let is_due = self.cut_due(now).is_some_and(|due| due <= now);
        // What comes meanwhile is for the next one: a cut under load has an end.
        let end = self.commits.borrow().upto;
        while self.draft.upto() < end {
            let ask = CutAsk { from: self.draft.upto(), bytes: cut::OBJECT_BYTES, whole: false };
            let Some(input) = self.ask(ask).await else { return Went::Well };
            let bytes = input.parcels.iter().map(|(_, _, size)| size).sum::<u64>();
            let full = input.upto < input.committed || bytes >= cut::OBJECT_BYTES;
            if input.parcels.is_empty() || !(full || is_due) {
                break;
            }
            let written = Committed { upto: input.upto, bytes: self.written.bytes + bytes };
            if !self.add_own(input).await {
                return Went::Badly;
            }
            self.written = written;
        }
        if !is_due {
            return Went::Well;
        }
        if self.draft.upto() == self.draft.from() {
            self.oldest = None;
            return Went::Well;
        }
        if planted::is(Bug::LowMarkBeforeCommit) {
            let keys = reclaim::parcels_below(self.lane, self.low.upto, self.draft.upto(), None);
            self.node.bucket.delete(Kind::Parcel, keys, Patience::Forever).await.ok();
            return Went::Badly;
        }
        self.commit_own().await
    }

    async fn ask(&self, ask: CutAsk) -> Option<CutInput> {
        let (reply, input) = oneshot::channel();
        self.orders.send(Order::CutInput { ask, reply }).await.ok()?;
        input.await.ok()
    }

    /// Writes a stretch of the own lane.
    async fn add_own(&mut self, input: CutInput) -> bool {
        let Some(owned) = self.node.owned() else { return false };
        // After the parcels were named: what this broker leads and wrote is in this image.
        let image = self.node.cluster.image();
        let memory = Memory(input.at_hand);
        self.draft.learn(input.bases);
        let parcels = input.parcels.into_iter().map(|(seq, footer, _)| (seq, footer)).collect();
        let added = self.draft.add(&self.node, &image, owned.lane.epoch, &memory, parcels).await;
        match added {
            Ok(()) if self.draft.upto() == input.upto => true,
            Err(Trouble::NotOpen(tp)) => {
                tracing::warn!(lane = %self.lane, partition = %tp, "a cut waits: the partition is not open");
                false
            }
            failed => {
                // The own lane waits for no other: its task knows where each partition stands.
                tracing::error!(lane = %self.lane, ?failed, "a cut failed");
                let fresh = Draft::new(self.lane, self.low.upto);
                self.written = self.low;
                let draft = std::mem::replace(&mut self.draft, fresh);
                self.abandon(&draft);
                false
            }
        }
    }

    async fn commit_own(&mut self) -> Went {
        let upto = self.draft.upto();
        self.state_bytes += self.draft.owed();
        let mut checkpoint = None;
        let mut checkpoint_bytes = None;
        let mut image = self.node.cluster.image();
        if self.checkpoint_bytes.is_none_or(|bytes| self.state_bytes >= bytes.max(OWED)) {
            let ask = CutAsk { from: upto, bytes: 0, whole: true };
            let Some(input) = self.ask(ask).await else { return Went::Well };
            image = self.node.cluster.image();
            self.draft.learn(input.bases);
            // A checkpoint is home to every partition the lane leads: without one of them it is not written.
            let state = |tp| {
                let epoch = image.partition(tp)?.leader_epoch;
                Some((tp, self.draft.known(tp, epoch)?.to_state()))
            };
            if let Some(states) = image.led_by(self.lane).map(state).collect::<Option<BTreeMap<_, _>>>() {
                checkpoint_bytes = Some(states.values().map(state_bytes).sum());
                let node = &self.node;
                let (creator, at) = (self.lane.epoch, (self.lane, upto));
                let written =
                    cut::checkpoint(&node.bucket, &node.seams, image.cluster(), creator, at, &states).await;
                checkpoint = match written {
                    Ok(row) => Some(row),
                    Err(error) => {
                        tracing::error!(lane = %self.lane, %error, "a checkpoint could not be written");
                        return Went::Badly;
                    }
                };
            }
        }
        let draft = std::mem::replace(&mut self.draft, Draft::new(self.lane, upto));
        let command = Command::CommitCut {
            by: self.lane.epoch,
            lane: self.lane,
            low: upto,
            runs: draft.runs().to_vec(),
            checkpoint,
            version: image.version(),
        };
        self.commit(Sent { draft, low: upto, command, checkpoint_bytes }).await
    }

    /// Commits, and lets go of what the commit makes superfluous.
    async fn commit(&mut self, sent: Sent) -> Went {
        let lane = sent.draft.lane();
        match self.node.cluster.submit(sent.command.clone()).await {
            Ok(Reply::Done) => {
                self.committed(sent).await;
                Went::Well
            }
            Err(ErrorCode::RequestTimedOut | ErrorCode::NotController | ErrorCode::UnknownServerError) => {
                tracing::warn!(%lane, "a cut's commit got no answer; sending it again");
                self.unsettled = Some(Box::new(sent));
                Went::Badly
            }
            refused => {
                // What it wrote may be named all the same, by an earlier send: it is not ours to delete.
                tracing::warn!(%lane, ?refused, "a cut was not accepted");
                if lane == self.lane {
                    self.draft = Draft::new(lane, self.low.upto);
                    self.written = self.low;
                }
                Went::Badly
            }
        }
    }

    async fn committed(&mut self, sent: Sent) {
        let Sent { draft, low, checkpoint_bytes, command } = sent;
        let (lane, from) = (draft.lane(), draft.from());
        if lane != self.lane {
            match self.node.cluster.image().lane(lane).is_some_and(|row| row.sealed != Some(low)) {
                true => tracing::info!(%lane, %low, "recovering: the dead lane's parcels below are in runs"),
                false => tracing::info!(%lane, "recovered: all that the dead lane held is in runs"),
            }
            self.delete_later(Kind::Parcel, reclaim::parcels_below(lane, from, low, Some(low)));
            return;
        }
        self.hurried = Some(false);
        if let Some(bytes) = checkpoint_bytes {
            (self.checkpoint_bytes, self.state_bytes) = (Some(bytes), 0);
        }
        if let Command::CommitCut { checkpoint: Some(row), .. } = command {
            let image = self.node.cluster.image();
            self.checkpoints.insert(row.id, row.key);
            let superseded = self.checkpoints.extract_if(.., |id, _| image.checkpoint(*id).is_none());
            let superseded = superseded.map(|(_, key)| key).collect();
            self.delete_later(Kind::Checkpoint, superseded);
        }
        self.orders.send(Order::Cut { upto: low, bases: draft.into_bases() }).await.ok();
        self.low = self.written;
        self.oldest = (self.commits.borrow().upto > low).then(Instant::now);
        self.delete_later(Kind::Parcel, reclaim::parcels_below(lane, from, low, None));
    }

    /// Deletes the objects of a draft that nobody was asked to commit.
    fn abandon(&self, draft: &Draft) {
        self.delete(Kind::Run, draft.runs().iter().map(|run| run.key.clone()).collect(), Duration::ZERO);
    }

    /// R20: after a grace no fetch and no recovery outlives.
    fn delete_later(&self, kind: Kind, keys: Vec<String>) {
        self.delete(kind, keys, self.node.live.now().delete_grace());
    }

    fn delete(&self, kind: Kind, keys: Vec<String>, grace: Duration) {
        discard(&self.node, kind, keys, grace);
    }
}

/// Deletes objects after a grace, in the background.
fn discard(node: &Arc<Node>, kind: Kind, keys: Vec<String>, grace: Duration) {
    if keys.is_empty() {
        return;
    }
    let doer = node.clone();
    let deleting = async move {
        tokio::time::sleep(grace).await;
        keys.iter().for_each(|key| doer.fetching.reader().forget(key));
        let count = keys.len();
        match doer.bucket.delete(kind, keys, Patience::Forever).await {
            Ok(()) => saw_many(Sight::Deleted, count),
            Err(error) => tracing::warn!(%error, "superfluous objects could not be deleted"),
        }
    };
    node.seams.tasks.spawn(deleting);
}

/// The own lane's batches that are still in memory.
struct Memory(BTreeMap<(Seq, TopicPartition), Vec<Stamped>>);

impl Source for Memory {
    fn at_hand(&self, seq: Seq, part: &Part) -> Option<Vec<Stamped>> {
        self.0.get(&(seq, part.of)).cloned()
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Whether a partition that `lane` leads has its home many runs ago.
fn is_far_from_home(image: &Image, lane: LaneId) -> bool {
    let oldest = image.led_by(lane).filter_map(|tp| image.untold(tp)).min();
    oldest.is_some_and(|since| image.runs_since(since) > FAR)
}
