//! The metadata image: what the metadata log, folded up to a position, says.
//!
//! Owns the rows (brokers, lanes, topics with their partitions, runs, checkpoints, configs, features, id
//! blocks) and the only mutation of them, [`Image::apply`], the same live and at replay. Pure: no clock, no
//! randomness, no store. Clones share all rows, so one is cheap to hand to every reader.
//! Invariants are in [`Image::check`].

mod apply;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidemark_proto::id::{
    BrokerEpoch, BrokerId, ClusterId, Generation, LaneId, LeaderEpoch, Life, Nonce, Offset, PartitionIndex,
    Position, ProducerId, Seq, TopicId, TopicPartition,
};
use tidemark_tiering::run::range_of;
use tidemark_tiering::segment;
use uuid::Uuid;

pub use tidemark_tiering::run::{CheckpointRow, RunRow};

use super::quota;
use super::runs::RunIndex;

/// Names one object of the metadata log: its nonce and the CRC of its bytes (E2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The object's nonce.
    pub nonce: Nonce,
    /// The object's CRC32C.
    pub crc: u32,
}

/// Who owns the generation that the image has reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Controller {
    /// The generation it owns.
    pub generation: Generation,
    /// The ownership: the nonce in the seal that elected it (E7).
    pub nonce: Nonce,
    /// Its life.
    pub life: Life,
    /// Its broker, once it has announced itself; a controller needs no broker epoch.
    pub node: Option<BrokerId>,
    /// Where its peers reach it.
    pub address: String,
}

/// Where clients reach a broker by one of its listeners.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The listener's name.
    pub listener: String,
    /// `PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`.
    pub protocol: String,
    /// Advertised host.
    pub host: String,
    /// Advertised port.
    pub port: u16,
}

/// A broker: one row per node id, describing its newest life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Broker {
    /// Kafka's node id.
    pub node: BrokerId,
    /// The epoch of this registration (R1).
    pub epoch: BrokerEpoch,
    /// The life it belongs to.
    pub life: Life,
    /// Client endpoints, one per listener.
    pub endpoints: Vec<Endpoint>,
    /// Where its peers reach it.
    pub peer: String,
    /// `broker.rack`.
    pub rack: Option<String>,
    /// False once it has been taken over or has left.
    pub alive: bool,
    /// Whether this life is giving its partitions away for good; see [`Image::drains`].
    pub draining: bool,
}

/// A lane: one row until it is dead, cut, swept and so forgotten. Its seal stays in the bucket (R21).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lane {
    /// The node it belongs to.
    pub node: BrokerId,
    /// Below it recovery needs no parcel (R19).
    pub low: Seq,
    /// Where it was sealed; `None` while its owner may write.
    pub sealed: Option<Seq>,
    /// Who cuts what a dead lane still holds.
    pub recoverer: Option<BrokerId>,
}

/// One lane's share of a partition's un-tiered log (R13).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChainEntry {
    /// The lane.
    pub lane: LaneId,
    /// The leader epoch its batches carry.
    pub leader_epoch: LeaderEpoch,
    /// First sequence that may hold batches of the partition.
    pub from: Seq,
    /// Batches of this (partition, leader epoch) at or above it are void; `None` for the leader's own lane.
    pub to: Option<Seq>,
}

/// Who is to lead a partition next, while its leader lives (R17).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Successor {
    /// The broker.
    pub node: BrokerId,
    /// Whether it has read what there is, so that the leader may let go.
    pub ready: bool,
    /// Where its lane stood when it said so: it holds nothing of the partition below.
    pub from: Seq,
    /// [`Image::version`] of the plan. A release names it: one that was sent for an older plan moves nothing.
    pub planned: u64,
}

/// A partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partition {
    /// Its leader; none while no broker lives.
    pub leader: Option<BrokerId>,
    /// +1 with every leader.
    pub leader_epoch: LeaderEpoch,
    /// The lanes that hold its un-tiered log, oldest first; the last one is open iff there is a leader.
    pub chain: Vec<ChainEntry>,
    /// [`Image::version`] at which leader and chain last changed.
    pub assigned_at: u64,
    /// The checkpoint that recovery starts from.
    pub home: Option<Uuid>,
    /// First offset that may be read; whatever lies below is deleted, wherever it still is.
    pub log_start: Offset,
    /// Below it compaction has been: of each key at most one record is left there, and copies from before may not be read.
    pub cleaned: Offset,
    /// Who is to lead it next, while a move is under way.
    pub successor: Option<Successor>,
    /// The replicas somebody assigned, the preferred leader first; empty: [`Image::replicas`] chooses.
    pub assigned: Vec<BrokerId>,
    /// What was assigned when the move under way began, if that is other than now: what cancelling it gives back.
    pub assigned_before: Option<Box<[BrokerId]>>,
    /// Its segments in the bucket, by offset; `None`: it never had one.
    pub segments: Option<Arc<Vec<Arc<segment::Row>>>>,
}

/// A topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topic {
    /// Its id, never reused.
    pub id: TopicId,
    /// Its name.
    pub name: Arc<str>,
    /// The replication factor asked for; [`Image::replicas`] says what is reported.
    pub replication: i16,
    /// Dynamic configs set on it.
    pub configs: BTreeMap<String, String>,
    /// Its partitions, by index.
    pub partitions: Vec<Partition>,
    /// [`Image::version`] of its creation.
    pub created: u64,
}

/// A deleted topic whose objects are not all reclaimed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// The name it had.
    pub name: Arc<str>,
    /// [`Image::version`] of the deletion.
    pub at: u64,
}

/// The config of one broker by which it is drained, through restarts and changes of the controller, until it is taken back.
pub const DRAIN: &str = "tidemark.drain";

/// As Kafka reads a boolean.
pub(super) fn is_true(value: &str) -> bool {
    value.trim().eq_ignore_ascii_case("true")
}

/// Configs by the name of what they are set on.
pub(super) type NamedConfigs = BTreeMap<String, BTreeMap<String, String>>;

/// The fold of the metadata log up to [`Image::position`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub(super) cluster: ClusterId,
    pub(super) position: Position,
    pub(super) link: Link,
    pub(super) version: u64,
    pub(super) controller: Option<Arc<Controller>>,
    pub(super) brokers: Arc<BTreeMap<BrokerId, Arc<Broker>>>,
    pub(super) lanes: Arc<BTreeMap<LaneId, Lane>>,
    pub(super) topics: Arc<BTreeMap<TopicId, Arc<Topic>>>,
    pub(super) names: Arc<BTreeMap<Arc<str>, TopicId>>,
    pub(super) deleted: Arc<BTreeMap<TopicId, Deleted>>,
    pub(super) runs: Arc<BTreeMap<Uuid, Arc<RunRow>>>,
    pub(super) checkpoints: Arc<BTreeMap<Uuid, Arc<CheckpointRow>>>,
    pub(super) broker_configs: Arc<BTreeMap<Option<BrokerId>, BTreeMap<String, String>>>,
    pub(super) group_configs: Arc<NamedConfigs>,
    pub(super) client_metrics: Arc<NamedConfigs>,
    pub(super) features: Arc<BTreeMap<String, i16>>,
    pub(super) quotas: Arc<quota::Table>,
    pub(super) next_epoch: BrokerEpoch,
    pub(super) next_producer: ProducerId,
    pub(super) swept: Position,
    /// Partitions led per node; derived, never stored.
    pub(super) led: Arc<BTreeMap<BrokerId, u32>>,
    /// Runs by range; derived, never stored.
    pub(super) ranges: Arc<RunIndex>,
}

impl Default for Image {
    fn default() -> Image {
        Image {
            cluster: ClusterId::default(),
            position: Position::default(),
            link: Link::default(),
            version: 0,
            controller: None,
            brokers: Arc::default(),
            lanes: Arc::default(),
            topics: Arc::default(),
            names: Arc::default(),
            deleted: Arc::default(),
            runs: Arc::default(),
            checkpoints: Arc::default(),
            broker_configs: Arc::default(),
            group_configs: Arc::default(),
            client_metrics: Arc::default(),
            features: Arc::default(),
            quotas: Arc::default(),
            next_epoch: BrokerEpoch(1),
            next_producer: ProducerId(0),
            swept: Position::default(),
            led: Arc::default(),
            ranges: Arc::default(),
        }
    }
}

/// Queries.
impl Image {
    /// The cluster's id; all zero until the seal at (0, 0) is counted.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Everything below this position is folded in.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Names the last object folded in (E2's `prev` of the next one).
    pub fn link(&self) -> Link {
        self.link
    }

    /// Counts the records folded in.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The log's own data below this position is known to be deleted.
    pub fn swept(&self) -> Position {
        self.swept
    }

    /// The owner of the generation reached.
    pub fn controller(&self) -> Option<&Controller> {
        self.controller.as_deref()
    }

    /// A broker's row, alive or not.
    pub fn broker(&self, node: BrokerId) -> Option<&Broker> {
        self.brokers.get(&node).map(Arc::as_ref)
    }

    /// Whether a broker gives its partitions away and gets none: it is being stopped, or somebody set [`DRAIN`] on it.
    pub fn drains(&self, node: BrokerId) -> bool {
        self.told_to_drain(node) || self.broker(node).is_some_and(|b| b.draining)
    }

    /// Whether somebody set [`DRAIN`] on it.
    pub fn told_to_drain(&self, node: BrokerId) -> bool {
        let told = self.broker_configs(Some(node)).and_then(|configs| configs.get(DRAIN));
        told.is_some_and(|value| is_true(value))
    }

    /// The controller's node; one that announced itself before it had a node id is known by its life.
    pub fn controller_node(&self) -> Option<BrokerId> {
        let controller = self.controller()?;
        let by_life = || self.live().find(|broker| broker.life == controller.life).map(|broker| broker.node);
        controller.node.or_else(by_life)
    }

    /// Every broker's row, by node id.
    pub fn brokers(&self) -> impl Iterator<Item = &Broker> {
        self.brokers.values().map(Arc::as_ref)
    }

    /// The living brokers, by node id.
    pub fn live(&self) -> impl Iterator<Item = &Broker> {
        self.brokers().filter(|b| b.alive)
    }

    /// The row of the broker that holds `epoch`, if it is its node's newest.
    pub fn broker_of(&self, epoch: BrokerEpoch) -> Option<&Broker> {
        self.brokers().find(|b| b.epoch == epoch)
    }

    /// A lane's row.
    pub fn lane(&self, lane: LaneId) -> Option<&Lane> {
        self.lanes.get(&lane)
    }

    /// Every lane, oldest epoch first.
    pub fn lanes(&self) -> impl Iterator<Item = (LaneId, &Lane)> {
        self.lanes.iter().map(|(id, lane)| (*id, lane))
    }

    /// The lanes of `node` whose owner may still write.
    pub fn open_lanes(&self, node: BrokerId) -> impl Iterator<Item = (LaneId, &Lane)> {
        self.lanes().filter(move |(_, lane)| lane.node == node && lane.sealed.is_none())
    }

    /// The dead lanes that `node` has to cut: sealed, and not yet low up to the seal.
    pub fn to_recover(&self, node: BrokerId) -> impl Iterator<Item = (LaneId, &Lane)> {
        self.lanes().filter(move |(_, lane)| lane.recoverer == Some(node))
    }

    /// A topic by id.
    pub fn topic(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topics.get(&id)
    }

    /// A topic by name.
    pub fn topic_named(&self, name: &str) -> Option<&Arc<Topic>> {
        self.names.get(name).and_then(|id| self.topics.get(id))
    }

    /// Every topic, by name.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.names.values().filter_map(|id| self.topics.get(id))
    }

    /// Every partition, by topic id.
    pub fn partitions(&self) -> impl Iterator<Item = (TopicPartition, &Partition)> {
        self.topics.values().flat_map(|topic| topic.partitions())
    }

    /// A partition.
    pub fn partition(&self, tp: TopicPartition) -> Option<&Partition> {
        self.topic(tp.topic)?.partition(tp.partition)
    }

    /// The segments of a partition, by offset, those that are being deleted too.
    pub fn segments(&self, tp: TopicPartition) -> &[Arc<segment::Row>] {
        self.partition(tp).map(Partition::segments).unwrap_or_default()
    }

    /// Deleted topics whose objects may still exist.
    pub fn deleted(&self) -> impl Iterator<Item = (TopicId, &Deleted)> {
        self.deleted.iter().map(|(id, row)| (*id, row))
    }

    /// Every object of a run.
    pub fn runs(&self) -> impl Iterator<Item = &Arc<RunRow>> {
        self.runs.values()
    }

    /// An object of a run, if it is named.
    pub fn run(&self, id: Uuid) -> Option<&Arc<RunRow>> {
        self.runs.get(&id)
    }

    /// The runs that may hold batches of `tp` and were named at the version `since` or later, the newest first.
    pub fn runs_of(&self, tp: TopicPartition, since: u64) -> impl Iterator<Item = &Arc<RunRow>> {
        self.ranges.holding(range_of(tp), since)
    }

    /// How many runs were named at the version `since` or later.
    pub fn runs_since(&self, since: u64) -> usize {
        self.ranges.since(since)
    }

    /// The version from which on runs may tell recovery of `tp` more than its home does; `None` where none can.
    pub fn untold(&self, tp: TopicPartition) -> Option<u64> {
        let partition = self.partition(tp)?;
        // Led for the first time: whoever opens it has cut nothing of it.
        let told = partition.home.is_some() || partition.leader_epoch.0 > 0;
        self.uncovered(tp).filter(|_| told)
    }

    /// The version from which on runs hold states of `tp` that its home does not cover, whether or not anybody has
    /// to be told of them by now.
    pub fn uncovered(&self, tp: TopicPartition) -> Option<u64> {
        let topic = self.topic(tp.topic)?;
        let partition = topic.partition(tp.partition)?;
        match partition.home.and_then(|home| self.checkpoint(home)) {
            // A commit's checkpoint covers its runs. Version 0: not known.
            Some(home) => Some(if home.committed == 0 { 0 } else { home.committed + 1 }),
            None => Some(topic.created),
        }
    }

    /// A checkpoint, as named by [`Partition::home`].
    pub fn checkpoint(&self, id: Uuid) -> Option<&CheckpointRow> {
        self.checkpoints.get(&id).map(Arc::as_ref)
    }

    /// Every checkpoint.
    pub fn checkpoints(&self) -> impl Iterator<Item = &CheckpointRow> {
        self.checkpoints.values().map(Arc::as_ref)
    }

    /// Dynamic configs of one broker, or with `None` those of all.
    pub fn broker_configs(&self, node: Option<BrokerId>) -> Option<&BTreeMap<String, String>> {
        self.broker_configs.get(&node)
    }

    /// Dynamic configs of groups, by name; a group without any is not there.
    pub fn group_configs(&self) -> impl Iterator<Item = (&str, &BTreeMap<String, String>)> {
        self.group_configs.iter().map(|(name, configs)| (name.as_str(), configs))
    }

    /// Dynamic configs of one group.
    pub fn configs_of_group(&self, name: &str) -> Option<&BTreeMap<String, String>> {
        self.group_configs.get(name)
    }

    /// Subscriptions to clients' metrics, by name.
    pub fn client_metrics(&self) -> impl Iterator<Item = (&str, &BTreeMap<String, String>)> {
        self.client_metrics.iter().map(|(name, configs)| (name.as_str(), configs))
    }

    /// One subscription to clients' metrics.
    pub fn client_metrics_named(&self, name: &str) -> Option<&BTreeMap<String, String>> {
        self.client_metrics.get(name)
    }

    /// Finalized feature levels.
    pub fn features(&self) -> &BTreeMap<String, i16> {
        &self.features
    }

    /// Client quotas.
    pub fn quotas(&self) -> &quota::Table {
        &self.quotas
    }

    /// How many partitions `node` leads.
    pub fn led(&self, node: BrokerId) -> u32 {
        self.led.get(&node).copied().unwrap_or(0)
    }

    /// The first producer id not handed out.
    pub fn next_producer(&self) -> ProducerId {
        self.next_producer
    }

    /// The broker epoch that the next registration gets.
    pub fn next_epoch(&self) -> BrokerEpoch {
        self.next_epoch
    }

    /// Where clients that came in by `listener` reach a living broker.
    pub fn endpoint(&self, node: BrokerId, listener: &str) -> Option<At<'_>> {
        let broker = self.broker(node).filter(|b| b.alive)?;
        let at = broker.endpoints.iter().find(|e| e.listener == listener)?;
        Some(At { host: &at.host, port: at.port, rack: broker.rack.as_deref() })
    }

    /// The partitions whose log runs in `lane` now.
    pub fn led_by(&self, lane: LaneId) -> impl Iterator<Item = TopicPartition> {
        let open = move |p: &Partition| p.chain.last().is_some_and(|e| e.lane == lane && e.to.is_none());
        self.partitions().filter(move |(_, p)| open(p)).map(|(tp, _)| tp)
    }

    /// The replicas that Metadata reports: those assigned, or else the leader, then others alive, each from the
    /// rack that has fewest so far, min(RF, live) in all. With no leader: any living brokers.
    pub fn replicas(&self, topic: &Topic, partition: PartitionIndex) -> Vec<BrokerId> {
        let Some(row) = topic.partition(partition) else { return Vec::new() };
        if !row.assigned.is_empty() {
            let led_from_without = row.leader.filter(|leader| !row.assigned.contains(leader));
            return led_from_without.into_iter().chain(row.assigned.iter().copied()).collect();
        }
        let live: Vec<&Broker> = self.live().collect();
        if live.is_empty() {
            return row.leader.into_iter().collect();
        }
        let wanted = usize::try_from(topic.replication.max(1)).unwrap_or(1).min(live.len());
        let first = match row.leader.and_then(|leader| live.iter().position(|b| b.node == leader)) {
            Some(at) => at,
            None => usize::try_from(partition.0).unwrap_or(0) % live.len(),
        };
        let mut out = vec![live[first]];
        // The ring starts elsewhere for each partition, so that a leader's followers differ.
        let step = 1 + usize::try_from(partition.0).unwrap_or(0) % live.len().saturating_sub(1).max(1);
        let ring = || (0..live.len()).map(|n| live[(first + step + n) % live.len()]);
        while out.len() < wanted {
            let rest = ring().filter(|broker| out.iter().all(|b| b.node != broker.node));
            let of_its_rack = |broker: &&Broker| out.iter().filter(|b| b.rack == broker.rack).count();
            let Some(next) = rest.min_by_key(of_its_rack) else { break };
            out.push(next);
        }
        out.into_iter().map(|b| b.node).collect()
    }

    /// The replicas that are in sync: all that live, since the bucket holds the data.
    pub fn in_sync(&self, replicas: &[BrokerId]) -> Vec<BrokerId> {
        let lives = |node: &&BrokerId| self.broker(**node).is_some_and(|b| b.alive);
        replicas.iter().filter(lives).copied().collect()
    }

    /// The partitions with a move under way.
    pub fn moving(&self) -> impl Iterator<Item = (TopicPartition, Successor)> {
        self.partitions().filter_map(|(tp, p)| Some((tp, p.successor?)))
    }
}

/// Where clients of a listener reach a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At<'a> {
    /// Advertised host.
    pub host: &'a str,
    /// Advertised port.
    pub port: u16,
    /// The broker's rack.
    pub rack: Option<&'a str>,
}

impl Partition {
    /// Its segments in the bucket, by offset, those that are being deleted too.
    pub fn segments(&self) -> &[Arc<segment::Row>] {
        self.segments.as_ref().map(|rows| rows.as_slice()).unwrap_or_default()
    }

    /// Whether the batch of `epoch` in that parcel belongs to its log: a chain entry covers it (R13).
    pub fn covers(&self, lane: LaneId, seq: Seq, epoch: LeaderEpoch) -> bool {
        self.chain.iter().any(|entry| {
            entry.lane == lane
                && entry.leader_epoch == epoch
                && seq >= entry.from
                && entry.to.is_none_or(|to| seq < to)
        })
    }

    /// The offset after the last that is in segments; `None` where none is.
    pub fn tiered(&self) -> Option<Offset> {
        self.segments().last().map(|row| row.last.plus(1))
    }
}

impl Topic {
    /// Its partitions, by index.
    pub fn partitions(&self) -> impl Iterator<Item = (TopicPartition, &Partition)> {
        let topic = self.id;
        (0..)
            .zip(&self.partitions)
            .map(move |(index, row)| (TopicPartition { topic, partition: PartitionIndex(index) }, row))
    }

    /// A partition by index.
    pub fn partition(&self, index: PartitionIndex) -> Option<&Partition> {
        self.partitions.get(usize::try_from(index.0).ok()?)
    }
}
