//! Owning a lane: from registration to the seal, and again.
//!
//! Follows the image: what it assigns to this broker's lane is recovered and led, what it takes away is resigned.
//! A lane that ends is never resumed (R1): the broker registers anew, unless its node id has another life by now
//! (R14). Drives the partition task and tells the coordinators; decides nothing itself.

mod moves;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidemark_proto::id::{BrokerId, LaneId, LeaderEpoch, Seq, TopicId, TopicPartition};
use tidemark_tiering::lane::{Options as LaneOptions, Sealer, Writer};
use tidemark_tiering::watch;
use tidemark_tiering::witness::{Sight, saw};
use tokio::sync::{mpsc, oneshot};

use crate::cluster::command::Sealed;
use crate::cluster::image::{Image, Topic};
use crate::node::{Node, OFFSETS_TOPIC};
use crate::partition::opening::{Opened, recover};
use crate::partition::task::{self, Committed, Ended, Lead, Order, Task};
use crate::upkeep::Cutter;
use moves::{Asked, Moves};

pub use moves::drain;

/// How long recovery waits for metadata to explain a missing parcel before it counts as lost (R15).
const GONE_PATIENCE: Duration = Duration::from_secs(10);

/// How long an ended lane's owner waits for the metadata to say why.
const EXPLAINED: Duration = Duration::from_secs(10);

/// Why a broker stops owning for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It was asked to; the lane is sealed and handed over.
    Closed,
    /// Another process has registered under this node id.
    Replaced {
        /// The node id.
        node: BrokerId,
    },
}

/// What is owned now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owned {
    /// This broker's id.
    pub node: BrokerId,
    /// Its lane.
    pub lane: LaneId,
}

/// Runs ownership until `close` resolves or the node id is taken by another life.
pub async fn run(node: Arc<Node>, mut close: oneshot::Receiver<()>) -> Exit {
    let cluster = node.cluster.clone();
    node.groups.catalogue(Arc::new(move |topic: &str| cluster.image().topic_named(topic).is_some())).await;
    let mut last: Option<LaneId> = None;
    loop {
        if let Some(lane) = last
            && replaced(&node, lane).await
        {
            saw(Sight::Replaced);
            return Exit::Replaced { node: node.id() };
        }
        let registered = tokio::select! {
            biased;
            _ = &mut close => return Exit::Closed,
            registered = node.cluster.register() => registered,
        };
        let registration = match registered {
            Ok(registration) => registration,
            Err(error) => {
                tracing::warn!(%error, "cannot register; trying again");
                tokio::time::sleep(Duration::from_millis(100 + node.seams.entropy.below(200))).await;
                continue;
            }
        };
        let lane = registration.lane;
        last = Some(lane);
        node.owned.send_replace(Some(Owned { node: registration.node, lane }));
        tracing::info!(node = %registration.node, epoch = %registration.epoch, "registered");
        let (ended, closing) = Ownership::begin(node.clone(), lane).run(&mut close).await;
        match ended {
            Ended::Sealed(seq) => {
                saw(Sight::OwnSeal);
                tracing::info!(%lane, %seq, "lane sealed by its owner");
                if let Err(error) = node.cluster.leave(vec![Sealed { lane, at: seq }]).await {
                    tracing::warn!(%error, "could not hand over; the others will notice by themselves");
                }
                return Exit::Closed;
            }
            Ended::Fenced => {
                saw(Sight::SelfFenced);
                tracing::warn!(%lane, "fenced: somebody has sealed this broker's lane; registering anew")
            }
            Ended::Stuck(seq) => {
                saw(Sight::Stuck);
                tracing::error!(%lane, %seq, "a parcel has been in doubt too long; starting a new lane")
            }
        }
        if closing {
            return Exit::Closed; // the lane ended before it could be sealed: there is nothing to hand over
        }
    }
}

/// R14: whether our node id belongs to another life by now. Waits for the metadata to say who sealed our lane.
async fn replaced(node: &Node, lane: LaneId) -> bool {
    let mut images = node.cluster.watch();
    let explained = images.wait_for(|image| over(image, lane));
    let explained = tokio::time::timeout(EXPLAINED, explained).await;
    if !matches!(explained, Ok(Ok(_))) {
        return false; // nobody has: a stuck parcel, or a seal whose author is still at it
    }
    let image = node.cluster.image();
    image.broker(node.id()).is_some_and(|row| row.life != node.life && row.epoch > lane.epoch)
}

/// Whether the metadata knows the lane's end; a lane that it has forgotten was dead long before.
fn over(image: &Image, lane: LaneId) -> bool {
    image.lane(lane).is_none_or(|row| row.sealed.is_some())
}

struct Ownership {
    node: Arc<Node>,
    lane: LaneId,
    orders: mpsc::Sender<Order>,
    task: tokio::task::JoinHandle<Option<Ended>>,
    commits: watch::Receiver<Committed>,
    seen: BTreeMap<TopicId, (Arc<Topic>, BTreeMap<TopicPartition, LeaderEpoch>)>,
    lows: BTreeMap<LaneId, Seq>,
    moves: Moves,
}

impl Ownership {
    fn begin(node: Arc<Node>, lane: LaneId) -> Ownership {
        let image = node.cluster.image();
        let writer =
            Writer::open(lane, image.cluster(), node.bucket.clone(), &node.seams, lane_options(&node));
        let (orders, orders_in) = mpsc::channel(1024);
        let (commits_out, commits) = watch::channel(Committed::default());
        let prove = {
            let cluster = node.cluster.clone();
            Arc::new(move |lane| {
                let cluster = cluster.clone();
                Box::pin(async move { cluster.prove_unsealed(lane).await })
                    as futures::future::BoxFuture<'static, bool>
            })
        };
        let options = partition_options(&node);
        let task = Task::new(writer, lane, Seq(0), options, node.seams.clock.clone(), prove, commits_out);
        let task = task.with_hot(node.fetching.hot().clone());
        let task = node.seams.tasks.spawn(task.run(node.partitions.clone(), orders_in));
        let moves = Moves::new(node.clone(), lane, orders.clone(), commits.clone());
        Ownership { node, lane, orders, task, commits, seen: BTreeMap::new(), lows: BTreeMap::new(), moves }
    }

    /// How the lane ended, and whether a close was ordered before it did.
    async fn run(mut self, close: &mut oneshot::Receiver<()>) -> (Ended, bool) {
        let mut images = self.node.cluster.watch();
        let cutter = Cutter::new(self.node.clone(), self.lane, self.orders.clone(), self.commits.clone());
        let cutter = self.node.seams.tasks.spawn(cutter.run());
        let image = images.borrow_and_update().clone();
        self.follow(&image).await;
        let mut closing = false;
        loop {
            tokio::select! {
                biased;
                ended = &mut self.task => {
                    cutter.abort();
                    self.resign_groups().await;
                    return (ended.ok().flatten().unwrap_or(Ended::Fenced), closing);
                }
                _ = &mut *close, if !closing => {
                    closing = true;
                    self.orders.send(Order::Close { by: self.sealer() }).await.ok();
                }
                changed = images.changed() => {
                    if changed.is_err() {
                        let ended = (&mut self.task).await.ok().flatten();
                        return (ended.unwrap_or(Ended::Fenced), closing);
                    }
                    let image = images.borrow_and_update().clone();
                    if !closing && over(&image, self.lane) {
                        self.orders.send(Order::Fence).await.ok();
                        continue;
                    }
                    self.follow(&image).await;
                }
            }
        }
    }

    fn sealer(&self) -> Sealer {
        Sealer {
            life: self.node.life,
            nonce: self.node.seams.entropy.nonce(),
            next: self.lane.epoch.0,
            address: String::new(),
        }
    }

    /// Brings what is led, and the configuration, in line with `image`.
    async fn follow(&mut self, image: &Arc<Image>) {
        let own = image.broker_configs(Some(self.node.id()));
        if self.node.live.set(image.broker_configs(None), own) {
            self.orders.send(Order::Tune(partition_options(&self.node))).await.ok();
        }
        let (mut leads, mut resigns) = (Vec::new(), Vec::new());
        let (mut starts, mut cleaned) = (Vec::new(), Vec::new());
        let mut asked = Asked::default();
        let gone: Vec<TopicId> = self.seen.keys().filter(|id| image.topic(**id).is_none()).copied().collect();
        for id in gone {
            if let Some((topic, led)) = self.seen.remove(&id) {
                self.node.groups.topic_deleted(&topic.name).await;
                resigns.extend(led.into_keys());
            }
        }
        for topic in image.topics() {
            if self.seen.get(&topic.id).is_some_and(|(known, _)| Arc::ptr_eq(known, topic)) {
                continue;
            }
            let seen = self.seen.remove(&topic.id);
            let was = |tp: TopicPartition| seen.as_ref()?.0.partition(tp.partition);
            let mut before = seen.as_ref().map(|(_, led)| led.clone()).unwrap_or_default();
            let mut led = BTreeMap::new();
            for (tp, partition) in topic.partitions() {
                let ours = partition.leader == Some(self.node.id())
                    && partition.chain.last().is_some_and(|e| e.lane == self.lane);
                let known = before.remove(&tp);
                asked.note(&self.node, tp, partition, ours);
                if !ours {
                    resigns.extend(known.map(|_| tp));
                    continue;
                }
                led.insert(tp, partition.leader_epoch);
                if known != Some(partition.leader_epoch) {
                    let internal = crate::node::is_internal(&topic.name);
                    leads.push(Lead { tp, leader_epoch: partition.leader_epoch, internal });
                    continue;
                }
                if was(tp).is_some_and(|was| was.log_start < partition.log_start) {
                    starts.push((tp, partition.log_start));
                }
                if was(tp).is_some_and(|was| was.cleaned < partition.cleaned) {
                    cleaned.push((tp, partition.cleaned));
                }
            }
            resigns.extend(before.into_keys());
            self.seen.insert(topic.id, (topic.clone(), led));
        }
        self.resign(resigns, image).await;
        self.lead(leads, image).await;
        self.moves.follow(asked);
        if !starts.is_empty() {
            self.orders.send(Order::LogStarts(starts)).await.ok();
        }
        if !cleaned.is_empty() {
            self.orders.send(Order::Cleaned(cleaned)).await.ok();
        }
        for (lane, row) in image.lanes().filter(|(lane, row)| *lane != self.lane && row.low > Seq(0)) {
            if self.lows.insert(lane, row.low) != Some(row.low) {
                self.orders.send(Order::Low { lane, low: row.low }).await.ok();
            }
        }
    }

    async fn resign(&self, partitions: Vec<TopicPartition>, image: &Image) {
        if partitions.is_empty() {
            return;
        }
        if let Some(topic) = image.topic_named(OFFSETS_TOPIC) {
            for tp in partitions.iter().filter(|tp| tp.topic == topic.id) {
                self.node.groups.resign(tp.partition).await;
            }
        }
        self.orders.send(Order::Resign(partitions)).await.ok();
    }

    async fn lead(&self, leads: Vec<Lead>, image: &Arc<Image>) {
        if leads.is_empty() {
            return;
        }
        tracing::debug!(partitions = leads.len(), "opening");
        self.orders.send(Order::Lead(leads.clone())).await.ok();
        let opening = open(self.node.clone(), image.clone(), leads, self.orders.clone());
        self.node.seams.tasks.spawn(opening);
    }

    async fn resign_groups(&self) {
        let image = self.node.cluster.image();
        let Some(topic) = image.topic_named(OFFSETS_TOPIC) else { return };
        let Some((_, led)) = self.seen.get(&topic.id) else { return };
        for tp in led.keys() {
            self.node.groups.resign(tp.partition).await;
        }
    }
}

/// Recovers `leads`, hands the result to the task, and then lets the coordinators load.
async fn open(node: Arc<Node>, image: Arc<Image>, leads: Vec<Lead>, orders: mpsc::Sender<Order>) {
    let opened = recover_patiently(&node, image, &leads).await;
    let (reply, done) = oneshot::channel();
    if orders.send(Order::Opened(opened, reply)).await.is_err() {
        return;
    }
    done.await.ok();
    let image = node.cluster.image();
    let Some(topic) = image.topic_named(OFFSETS_TOPIC) else { return };
    for lead in leads.iter().filter(|l| l.tp.topic == topic.id) {
        node.groups.lead(lead.tp.partition, lead.tp, lead.leader_epoch).await;
    }
}

/// R15: a missing parcel means that metadata has moved, or, where it has not, that data is lost.
async fn recover_patiently(node: &Node, mut image: Arc<Image>, leads: &[Lead]) -> Vec<Opened> {
    let mut images = node.cluster.watch();
    let (mut done, mut rest) = (Vec::new(), leads.to_vec());
    loop {
        let (gone, opened): (Vec<_>, Vec<_>) =
            recover(&node.bucket, &node.archive, &node.ahead, &image, &rest)
                .await
                .into_iter()
                .partition(Opened::is_gone);
        done.extend(opened);
        if gone.is_empty() {
            return done;
        }
        saw(Sight::Collected);
        let newer = async {
            loop {
                let now = images.borrow_and_update().clone();
                if now.version() != image.version() {
                    return now;
                }
                if images.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        match tokio::time::timeout(GONE_PATIENCE, newer).await {
            Ok(newer) => image = newer,
            Err(_) => {
                done.extend(gone);
                return done;
            }
        }
        rest.retain(|lead| gone.iter().any(|g| g.tp == lead.tp));
    }
}

fn lane_options(node: &Node) -> LaneOptions {
    let (wal, timings) = (&node.config.wal, &node.config.timings);
    let mut options = LaneOptions::for_bucket(&node.bucket);
    options.dial.size = wal.parcel_bytes as u64;
    options.dial.target = wal.target;
    options.dial.unacked = wal.unacked_bytes as u64;
    if let (Some(rate), false) = (wal.put_rate, node.bucket.is_free()) {
        options.dial.rate = Some(rate);
    }
    options.limits.in_flight = wal.window;
    options.limits.t_ack = timings.ack_doubt;
    options.limits.t_stuck = timings.stuck;
    options
}

fn partition_options(node: &Node) -> task::Options {
    task::Options {
        recent_bytes_max: node.config.cache.hot_memory_bytes,
        producer_expiration_ms: i64::try_from(node.live.now().producer_expiration.as_millis())
            .unwrap_or(i64::MAX),
    }
}
