//! The metadata image: what the metadata log, folded up to a position, says.
//!
//! Owns the rows (brokers, lanes, topics with their partitions, runs, checkpoints, configs, features, id
//! blocks) and the only mutation of them, [`Image::apply`], the same live and at replay. Pure: no clock, no
//! randomness, no store. Clones share all rows, so one is cheap to hand to every reader.
//! Invariants are in [`Image::check`].

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidemark_proto::id::{
    BrokerEpoch, BrokerId, ClusterId, Generation, LaneId, LeaderEpoch, Life, Nonce, Offset, PartitionIndex,
    Position, ProducerId, Seq, TopicId, TopicPartition,
};
use tidemark_tiering::run::range_of;
use uuid::Uuid;

pub use tidemark_tiering::run::{CheckpointRow, RunRow};

use super::quota::{self, Entity, Rate};
use super::record::{Closed, Placed, Record, Scope};
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

    /// A partition.
    pub fn partition(&self, tp: TopicPartition) -> Option<&Partition> {
        self.topic(tp.topic)?.partition(tp.partition)
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
        let topic = self.topic(tp.topic)?;
        let partition = topic.partition(tp.partition)?;
        match partition.home.and_then(|home| self.checkpoint(home)) {
            // A commit's checkpoint covers its runs. Version 0: not known.
            Some(home) => Some(if home.committed == 0 { 0 } else { home.committed + 1 }),
            // Led for the first time: whoever opens it has cut nothing of it.
            None => (partition.leader_epoch.0 > 0).then_some(topic.created),
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
        let all = self.topics.values().flat_map(|topic| topic.partitions());
        all.filter(move |(_, p)| open(p)).map(|(tp, _)| tp)
    }

    /// The replicas that Metadata reports: the leader, then others alive, from racks not seen yet first;
    /// min(RF, live) in all. The ISR is the same list. With no leader: any living brokers.
    pub fn replicas(&self, topic: &Topic, partition: PartitionIndex) -> Vec<BrokerId> {
        let Some(row) = topic.partition(partition) else { return Vec::new() };
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
        for fresh_rack_only in [true, false] {
            for broker in ring() {
                let seen = out.iter().any(|b| b.node == broker.node);
                let rack_seen = broker.rack.is_none() || out.iter().any(|b| b.rack == broker.rack);
                if out.len() < wanted && !seen && !(fresh_rack_only && rack_seen) {
                    out.push(broker);
                }
            }
        }
        out.into_iter().map(|b| b.node).collect()
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

/// The mutation.
impl Image {
    /// Folds one record in. The record was decided on exactly this image (E3, `prev`), so whatever it names
    /// exists; a row it does not find is left alone.
    pub fn apply(&mut self, record: &Record) {
        self.version += 1;
        match record {
            Record::ControllerAnnounced { generation, life, node, address } => {
                let nonce = self.controller.as_ref().map_or(Nonce::default(), |c| c.nonce);
                let (generation, life, node) = (*generation, *life, *node);
                let address = address.clone();
                self.controller = Some(Arc::new(Controller { generation, nonce, life, node, address }));
            }
            Record::BrokerRegistered { broker, lanes } => self.broker_registered(broker, *lanes),
            Record::BrokerFenced { node, epoch } => {
                if let Some(row) = Arc::make_mut(&mut self.brokers).get_mut(node)
                    && row.epoch == *epoch
                {
                    Arc::make_mut(row).alive = false;
                }
            }
            Record::BrokerRemoved { node } => {
                Arc::make_mut(&mut self.brokers).remove(node);
            }
            Record::LaneSealed { lane, at, recoverer } => {
                if let Some(row) = Arc::make_mut(&mut self.lanes).get_mut(lane) {
                    row.sealed = Some(*at);
                    row.recoverer = recoverer.filter(|_| row.low < *at);
                }
            }
            Record::LaneRecoverer { lane, recoverer } => {
                if let Some(row) = Arc::make_mut(&mut self.lanes).get_mut(lane) {
                    row.recoverer = Some(*recoverer);
                }
            }
            Record::TopicCreated { id, name, replication, configs, placed } => {
                let name: Arc<str> = name.as_str().into();
                let (id, replication, configs) = (*id, *replication, configs.clone());
                Arc::make_mut(&mut self.names).insert(name.clone(), id);
                let (partitions, created) = (Vec::new(), self.version);
                let topic = Topic { id, name, replication, configs, partitions, created };
                Arc::make_mut(&mut self.topics).insert(id, Arc::new(topic));
                self.partitions_added(id, placed);
            }
            Record::PartitionsAdded { topic, placed } => self.partitions_added(*topic, placed),
            Record::PartitionsMoved { from, to, partitions } => self.partitions_moved(*from, *to, partitions),
            Record::TopicDeleted { id } => self.topic_deleted(*id),
            Record::TopicForgotten { id } => {
                Arc::make_mut(&mut self.deleted).remove(id);
            }
            Record::LaneForgotten { lane } => {
                Arc::make_mut(&mut self.lanes).remove(lane);
            }
            Record::LogSwept { below } => self.swept = *below,
            Record::CutCommitted { lane, low, runs, checkpoint, version } => {
                self.cut_committed(*lane, *low, runs, checkpoint.as_ref(), *version);
            }
            Record::ProducerIdsAllocated { next } => self.next_producer = *next,
            Record::ConfigSet { scope, set } => self.config_set(scope, set),
            Record::LogStartsMoved { starts } => self.log_starts_moved(starts),
            Record::QuotasSet { entity, set } => self.quotas_set(entity, set),
            Record::FeatureLevel { name, level } => {
                let features = Arc::make_mut(&mut self.features);
                match *level {
                    0 => features.remove(name),
                    level => features.insert(name.clone(), level),
                };
            }
        }
    }

    /// Notes that the object named `link` at [`Image::position`] is folded in whole.
    pub fn advance(&mut self, link: Link) {
        self.link = link;
        self.position.seq = self.position.seq.next();
    }

    /// Goes on to the generation that a counted seal opened (E6). The seal at (0, 0) names the cluster.
    pub fn cross(&mut self, cluster: ClusterId, owner: Controller) {
        if self.cluster == ClusterId::default() {
            self.cluster = cluster;
        }
        self.position = Position { generation: owner.generation, seq: Seq(0) };
        self.controller = Some(Arc::new(owner));
    }

    fn broker_registered(&mut self, broker: &Broker, lanes: u32) {
        self.next_epoch = BrokerEpoch(self.next_epoch.0.max(broker.epoch.0 + 1));
        let rows = Arc::make_mut(&mut self.lanes);
        for lane in 0..lanes {
            let id = LaneId { epoch: broker.epoch, lane, life: broker.life };
            rows.insert(id, Lane { node: broker.node, ..Lane::default() });
        }
        Arc::make_mut(&mut self.brokers).insert(broker.node, Arc::new(broker.clone()));
    }

    fn partitions_added(&mut self, topic: TopicId, placed: &[Option<Placed>]) {
        let version = self.version;
        let Some(row) = Arc::make_mut(&mut self.topics).get_mut(&topic) else { return };
        let row = Arc::make_mut(row);
        let led = Arc::make_mut(&mut self.led);
        for place in placed {
            let mut partition = Partition { assigned_at: version, ..Partition::default() };
            if let Some(place) = place {
                partition.leader = Some(place.node);
                partition.chain.push(place.entry(LeaderEpoch(0)));
                *led.entry(place.node).or_default() += 1;
            }
            row.partitions.push(partition);
        }
    }

    fn partitions_moved(
        &mut self,
        from: Option<Closed>,
        to: Option<Placed>,
        partitions: &[(TopicId, Vec<PartitionIndex>)],
    ) {
        let version = self.version;
        let low = from.and_then(|closed| self.lanes.get(&closed.lane)).map_or(Seq(0), |row| row.low);
        let topics = Arc::make_mut(&mut self.topics);
        let led = Arc::make_mut(&mut self.led);
        for (topic, indexes) in partitions {
            let Some(row) = topics.get_mut(topic) else { continue };
            let row = Arc::make_mut(row);
            for index in indexes {
                let at = usize::try_from(index.0).unwrap_or(usize::MAX);
                let Some(partition) = row.partitions.get_mut(at) else { continue };
                if let Some(old) = partition.leader.take()
                    && let Some(count) = led.get_mut(&old)
                {
                    *count = count.saturating_sub(1);
                    if *count == 0 {
                        led.remove(&old);
                    }
                }
                partition.close(from, low);
                if let Some(place) = to {
                    partition.leader = Some(place.node);
                    partition.leader_epoch.0 += 1;
                    partition.chain.push(place.entry(partition.leader_epoch));
                    *led.entry(place.node).or_default() += 1;
                }
                partition.assigned_at = version;
            }
        }
    }

    fn topic_deleted(&mut self, id: TopicId) {
        let Some(topic) = Arc::make_mut(&mut self.topics).remove(&id) else { return };
        Arc::make_mut(&mut self.names).remove(&topic.name);
        let row = Deleted { name: topic.name.clone(), at: self.version };
        Arc::make_mut(&mut self.deleted).insert(id, row);
        self.count_led();
        self.retire_checkpoints(None);
    }

    fn cut_committed(
        &mut self,
        lane: LaneId,
        low: Seq,
        runs: &[RunRow],
        checkpoint: Option<&CheckpointRow>,
        version: u64,
    ) {
        let committed = self.version;
        if let Some(row) = Arc::make_mut(&mut self.lanes).get_mut(&lane) {
            row.low = low;
            if row.sealed == Some(low) {
                row.recoverer = None;
            }
        }
        let mut named: Vec<RunRow> = runs.iter().map(|run| RunRow { committed, ..run.clone() }).collect();
        named.sort_by_key(|run| run.id);
        named.into_iter().for_each(|run| self.run_named(run));
        if let Some(row) = checkpoint {
            let row = CheckpointRow { committed, ..row.clone() };
            Arc::make_mut(&mut self.checkpoints).insert(row.id, Arc::new(row));
        }
        let home = checkpoint.map(|c| c.id);
        for topic in Arc::make_mut(&mut self.topics).values_mut() {
            if !topic.partitions.iter().any(|p| p.chain.iter().any(|e| e.lane == lane)) {
                continue;
            }
            for partition in &mut Arc::make_mut(topic).partitions {
                partition.cut(lane, low, home.filter(|_| partition.assigned_at <= version));
            }
        }
        self.retire_checkpoints(home);
    }

    /// Rows come in the order of their commits, those of one commit by id.
    pub(super) fn run_named(&mut self, run: RunRow) {
        let run = Arc::new(run);
        Arc::make_mut(&mut self.ranges).insert(&run);
        Arc::make_mut(&mut self.runs).insert(run.id, run);
    }

    /// Forgets checkpoints that nobody recovers from.
    fn retire_checkpoints(&mut self, keep: Option<Uuid>) {
        let mut named: std::collections::BTreeSet<Uuid> = keep.into_iter().collect();
        for topic in self.topics.values() {
            named.extend(topic.partitions.iter().filter_map(|p| p.home));
        }
        if self.checkpoints.keys().any(|id| !named.contains(id)) {
            Arc::make_mut(&mut self.checkpoints).retain(|id, _| named.contains(id));
        }
    }

    fn config_set(&mut self, scope: &Scope, set: &[(String, Option<String>)]) {
        let table = match scope {
            Scope::Topic(id) => {
                let Some(topic) = Arc::make_mut(&mut self.topics).get_mut(id) else { return };
                &mut Arc::make_mut(topic).configs
            }
            Scope::Broker(node) => Arc::make_mut(&mut self.broker_configs).entry(*node).or_default(),
            Scope::Group(name) => Arc::make_mut(&mut self.group_configs).entry(name.clone()).or_default(),
            Scope::ClientMetrics(name) => {
                Arc::make_mut(&mut self.client_metrics).entry(name.clone()).or_default()
            }
        };
        for (key, value) in set {
            match value {
                Some(value) => table.insert(key.clone(), value.clone()),
                None => table.remove(key),
            };
        }
        // Nothing set is as good as nothing there.
        if !table.is_empty() {
            return;
        }
        match scope {
            Scope::Topic(_) => {}
            Scope::Broker(node) => drop(Arc::make_mut(&mut self.broker_configs).remove(node)),
            Scope::Group(name) => drop(Arc::make_mut(&mut self.group_configs).remove(name)),
            Scope::ClientMetrics(name) => drop(Arc::make_mut(&mut self.client_metrics).remove(name)),
        }
    }

    fn log_starts_moved(&mut self, starts: &[(TopicPartition, Offset)]) {
        let topics = Arc::make_mut(&mut self.topics);
        for (tp, offset) in starts {
            let Some(row) = topics.get_mut(&tp.topic) else { continue };
            let at = usize::try_from(tp.partition.0).unwrap_or(usize::MAX);
            if let Some(partition) = Arc::make_mut(row).partitions.get_mut(at) {
                partition.log_start = partition.log_start.max(*offset);
            }
        }
    }

    fn quotas_set(&mut self, entity: &Entity, set: &[(String, Option<Rate>)]) {
        let table = Arc::make_mut(&mut self.quotas);
        let row = table.entry(entity.clone()).or_default();
        for (key, value) in set {
            match value {
                Some(value) => row.insert(key.clone(), *value),
                None => row.remove(key),
            };
        }
        if row.is_empty() {
            table.remove(entity);
        }
    }

    /// Recomputes what is derived and not stored.
    pub(super) fn count_led(&mut self) {
        let mut led = BTreeMap::new();
        for topic in self.topics.values() {
            for leader in topic.partitions.iter().filter_map(|p| p.leader) {
                *led.entry(leader).or_default() += 1;
            }
        }
        self.led = Arc::new(led);
    }
}

impl Partition {
    fn close(&mut self, from: Option<Closed>, low: Seq) {
        let Some(from) = from else { return };
        if let Some(entry) = self.chain.last_mut()
            && entry.lane == from.lane
            && entry.to.is_none()
        {
            entry.to = Some(from.to);
            if from.to <= entry.from.max(low) {
                self.chain.pop(); // it holds no batch, or none that is not in runs
            }
        }
    }

    /// A cut of `lane` up to `low` was committed: what lies below is in runs. `home` is its checkpoint where that one
    /// describes this partition. Only the lane the partition's log runs in now gives it a home, so that every run
    /// with batches that the checkpoint does not cover is named after it.
    fn cut(&mut self, lane: LaneId, low: Seq, home: Option<Uuid>) {
        if self.chain.last().is_some_and(|e| e.lane == lane) {
            self.home = home.or(self.home);
        }
        self.chain.retain(|e| e.lane != lane || e.to.is_none_or(|to| to > low));
    }
}

impl Placed {
    pub(super) fn entry(&self, leader_epoch: LeaderEpoch) -> ChainEntry {
        ChainEntry { lane: self.lane, leader_epoch, from: self.from, to: None }
    }
}
