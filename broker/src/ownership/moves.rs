//! Moves of single partitions, driven: the successor reads ahead and says so, the leader lets go (R17).
//!
//! Both ends follow the image and each does its half by itself, so that nobody has to remember a move but the metadata.
//! A release that was sent and not answered may be in force: the partition stays shut until the answer is known.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidemark_proto::id::{LaneId, LeaderEpoch, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_tiering::watch;
use tidemark_tiering::witness::{Sight, saw, saw_many};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use crate::cluster::command::{Command, Reply};
use crate::cluster::image::{Image, Partition, Successor};
use crate::node::{Node, OFFSETS_TOPIC};
use crate::partition::task::{Committed, Order, Settled};

/// A partition, the leader's epoch that it is to leave, and the plan.
type Led = (TopicPartition, LeaderEpoch, u64);

/// Wait before a half of a move that could not be done is tried again.
const AGAIN: Duration = Duration::from_millis(50);

/// The same where the bucket holds something that cannot be read: each try costs a listing.
const UNREADABLE: Duration = Duration::from_secs(5);

/// See the module. Clones are the same moves.
#[derive(Clone)]
pub(super) struct Moves {
    node: Arc<Node>,
    lane: LaneId,
    orders: mpsc::Sender<Order>,
    commits: watch::Receiver<Committed>,
    /// What is being released, or read ahead, by tasks of its own.
    under_way: Arc<Mutex<BTreeSet<Led>>>,
    /// One release at a time: were a partition kept by the end of one while the next has named a bound for it, what it
    /// appends from then on would be void.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// What an image asks of this broker.
#[derive(Debug, Default)]
pub(super) struct Asked {
    release: Vec<Led>,
    read_ahead: Vec<Led>,
}

impl Asked {
    /// Looks at one partition; `ours` says whether this broker leads it.
    pub(super) fn note(&mut self, node: &Node, tp: TopicPartition, partition: &Partition, ours: bool) {
        let Some(Successor { node: successor, ready, planned, .. }) = partition.successor else { return };
        let led = (tp, partition.leader_epoch, planned);
        if ours && ready {
            self.release.push(led);
        } else if successor == node.id() && !ready {
            self.read_ahead.push(led);
        }
    }
}

impl Moves {
    pub(super) fn new(
        node: Arc<Node>,
        lane: LaneId,
        orders: mpsc::Sender<Order>,
        commits: watch::Receiver<Committed>,
    ) -> Moves {
        Moves { node, lane, orders, commits, under_way: Arc::default(), turn: Arc::default() }
    }

    /// Starts what is asked and not under way.
    pub(super) fn follow(&self, asked: Asked) {
        let fresh = |leds: Vec<Led>| -> Vec<Led> {
            let mut under_way = self.under_way.lock();
            leds.into_iter().filter(|led| under_way.insert(*led)).collect()
        };
        let (release, ahead) = (fresh(asked.release), fresh(asked.read_ahead));
        if !release.is_empty() {
            let (moves, leds) = (self.clone(), release);
            self.node.seams.tasks.spawn(async move {
                moves.release(leds.clone()).await;
                moves.ended(&leds);
            });
        }
        if !ahead.is_empty() {
            let (moves, leds) = (self.clone(), ahead);
            self.node.seams.tasks.spawn(async move {
                moves.read_ahead(leds.clone()).await;
                moves.ended(&leds);
            });
        }
    }

    fn ended(&self, leds: &[Led]) {
        let mut under_way = self.under_way.lock();
        under_way.retain(|led| !leds.contains(led));
    }

    /// The successor's half.
    async fn read_ahead(&self, mut leds: Vec<Led>) {
        let node = self.node.id();
        loop {
            let image = self.node.cluster.image();
            leds.retain(|led| successor(&image, *led).is_some_and(|s| s.node == node && !s.ready));
            if leds.is_empty() {
                return;
            }
            let partitions: Vec<TopicPartition> = leds.iter().map(|(tp, ..)| *tp).collect();
            let Node { ahead, bucket, archive, .. } = &*self.node;
            let read = ahead.read(bucket, archive, &image, &partitions).await;
            if let Err(error) = read {
                tracing::warn!(%error, "a partition on its way here cannot be read yet");
                sleep(UNREADABLE).await;
                continue;
            }
            let from = self.commits.borrow().upto;
            let command = Command::ReadyToLead {
                by: self.lane.epoch,
                from,
                partitions: leds.iter().map(|(tp, led, _)| (*tp, *led)).collect(),
            };
            match self.node.cluster.submit(command).await {
                Ok(_) => {} // what is still awaited was not there when it was decided
                Err(code) if code.is_retriable() => sleep(AGAIN).await,
                Err(_) => return,
            }
        }
    }

    /// The leader's half.
    async fn release(&self, mut leds: Vec<Led>) {
        loop {
            let turn = self.turn.lock().await;
            let image = self.node.cluster.image();
            leds.retain(|led| successor(&image, *led).is_some_and(|s| s.ready));
            if leds.is_empty() {
                return;
            }
            let (settled, answer) = oneshot::channel();
            let partitions = leds.iter().map(|(tp, ..)| *tp).collect();
            if self.orders.send(Order::Release { partitions, settled }).await.is_err() {
                return;
            }
            let Ok(settled) = answer.await else { return };
            let (open, rest): (Vec<Led>, Vec<Led>) =
                leds.into_iter().partition(|(tp, ..)| settled.partitions.contains(tp));
            if !open.is_empty() && !self.hand_over(settled, open).await {
                return;
            }
            leds = rest; // being opened: they can be left once they are
            drop(turn);
            sleep(AGAIN).await;
        }
    }

    /// From the bound to the new leader; whether this broker's epoch goes on.
    async fn hand_over(&self, settled: Settled, leds: Vec<Led>) -> bool {
        let Settled { bound, partitions } = settled;
        // No coordinator answers from what it remembers while another may have the log.
        self.coordinate(&leds, false).await;
        let command = Command::Release { by: self.lane.epoch, bound, partitions: leds.clone() };
        let mut submitting = Box::pin(self.submit(command));
        let session = self.node.config.timings.session;
        let rows = match timeout(session, &mut submitting).await {
            Ok(rows) => rows,
            Err(_) => {
                self.orders.send(Order::Stall(partitions)).await.ok();
                submitting.await
            }
        };
        let Some(rows) = rows else { return false };
        let (gone, kept): (Vec<_>, Vec<_>) = leds.iter().zip(rows).partition(|(_, gone)| *gone);
        saw_many(Sight::Released, gone.len());
        let kept: Vec<Led> = kept.into_iter().map(|(led, _)| *led).collect();
        if !kept.is_empty() {
            saw(Sight::ReleaseRefused);
            self.orders.send(Order::Keep(kept.iter().map(|(tp, ..)| *tp).collect())).await.ok();
            self.coordinate(&kept, true).await;
        }
        true
    }

    /// Until there is an answer; `None` when this broker epoch is over.
    async fn submit(&self, command: Command) -> Option<Vec<bool>> {
        loop {
            match self.node.cluster.submit(command.clone()).await {
                Ok(Reply::Released(rows)) => return Some(rows),
                Err(ErrorCode::StaleBrokerEpoch) => return None,
                other => tracing::warn!(?other, "a release got no answer; sending it again"),
            }
            sleep(AGAIN).await;
        }
    }

    /// Tells the coordinators of those partitions that are theirs.
    async fn coordinate(&self, leds: &[Led], lead: bool) {
        let image = self.node.cluster.image();
        let Some(topic) = image.topic_named(OFFSETS_TOPIC) else { return };
        for (tp, led, _) in leds.iter().filter(|(tp, ..)| tp.topic == topic.id) {
            match lead {
                true => self.node.groups.lead(tp.partition, *tp, *led).await,
                false => self.node.groups.resign(tp.partition).await,
            }
        }
    }
}

/// Who is to take it, as long as that leader and that plan stand.
fn successor(image: &Image, (tp, leader_epoch, planned): Led) -> Option<Successor> {
    let partition = image.partition(tp).filter(|p| p.leader_epoch == leader_epoch)?;
    partition.successor.filter(|s| s.planned == planned)
}

/// Gives all that this broker leads to others, where there are any; returns once that is done, or after `patience`.
pub async fn drain(node: &Node, patience: Duration) {
    let Some(owned) = node.owned() else { return };
    let work = async {
        while let Err(error) = node.cluster.submit(Command::Drain { by: owned.lane.epoch }).await {
            if !error.is_retriable() {
                return;
            }
            tracing::warn!(%error, "cannot give the partitions away yet");
            sleep(AGAIN).await;
        }
        let leaving = |image: &Image| {
            let moves = |tp| image.partition(tp).is_some_and(|p| p.successor.is_some());
            image.led_by(owned.lane).any(moves)
        };
        let mut images = node.cluster.watch();
        images.wait_for(|image| !leaving(image)).await.ok();
    };
    match timeout(patience, work).await {
        Ok(()) => tracing::info!("drained"),
        Err(_) => tracing::warn!("partitions are left that nobody took in time; they follow by a takeover"),
    }
}
