//! The only mutation of an [`Image`]: one record at a time, the same live and at replay.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemark_proto::id::{
    BrokerEpoch, BrokerId, ClusterId, LaneId, LeaderEpoch, Nonce, Offset, PartitionIndex, Position, Seq,
    TopicId, TopicPartition,
};
use tidemark_tiering::segment;
use uuid::Uuid;

use super::super::quota::{Entity, Rate};
use super::super::record::{Carried, Closed, Placed, Record, Scope};
use super::super::runs::RunIndex;
use super::{
    Broker, ChainEntry, CheckpointRow, Controller, Deleted, Image, Lane, Link, Partition, RunRow, Successor,
    Topic,
};

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
                self.moves_called_off(*node);
            }
            Record::BrokerDraining { node, epoch } => {
                if let Some(row) = Arc::make_mut(&mut self.brokers).get_mut(node)
                    && row.epoch == *epoch
                {
                    Arc::make_mut(row).draining = true;
                }
            }
            Record::MovesPlanned { to, partitions } => {
                let planned = self.version;
                let successor = to.map(|node| Successor { node, ready: false, from: Seq(0), planned });
                each_partition(&mut self.topics, partitions, |p| match successor {
                    Some(_) => p.successor = successor,
                    None => p.stays(),
                });
            }
            Record::SuccessorReady { node, from, partitions } => {
                each_partition(&mut self.topics, partitions, |p| {
                    if let Some(successor) = p.successor.as_mut().filter(|s| s.node == *node) {
                        (successor.ready, successor.from) = (true, *from);
                    }
                });
            }
            Record::ReplicasAssigned { replicas, partitions } => {
                each_partition(&mut self.topics, partitions, |p| {
                    let before = std::mem::replace(&mut p.assigned, replicas.clone());
                    if p.successor.is_some() && p.assigned_before.is_none() {
                        p.assigned_before = Some(before.into());
                    }
                });
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
            Record::SegmentsCommitted { of, rows } => self.segments_of(*of, |known| {
                known.extend(rows.iter().cloned().map(Arc::new));
            }),
            Record::SegmentsRetired { of, ids } => self.segments_of(*of, |known| {
                for row in known.iter_mut().filter(|row| ids.contains(&row.id)) {
                    Arc::make_mut(row).state = segment::State::DeleteStarted;
                }
            }),
            Record::SegmentsForgotten { of, ids } => {
                self.segments_of(*of, |known| known.retain(|row| !ids.contains(&row.id)));
            }
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
            Record::RunsReplaced { drop, add, starts, carried, cleaned } => {
                self.runs_replaced(drop, add);
                self.log_starts_moved(starts);
                self.cleaned(cleaned);
                carried.iter().for_each(|carried| self.states_carried(carried));
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
        let led = Arc::make_mut(&mut self.led);
        each_partition(&mut self.topics, partitions, |partition| {
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
            partition.stays();
        });
    }

    /// `node` is dead: it leads nothing next.
    fn moves_called_off(&mut self, node: BrokerId) {
        let to_it = |p: &Partition| p.successor.is_some_and(|s| s.node == node);
        if !self.topics.values().any(|topic| topic.partitions.iter().any(to_it)) {
            return;
        }
        for topic in Arc::make_mut(&mut self.topics).values_mut() {
            if topic.partitions.iter().any(to_it) {
                let partitions = &mut Arc::make_mut(topic).partitions;
                partitions.iter_mut().filter(|p| to_it(p)).for_each(Partition::stays);
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
    pub(in crate::cluster) fn run_named(&mut self, run: RunRow) {
        let run = Arc::new(run);
        Arc::make_mut(&mut self.ranges).insert(&run);
        Arc::make_mut(&mut self.runs).insert(run.id, run);
    }

    /// Rows that stand for others come where the newest of these was, so that recovery finds in them what it would have
    /// found in those.
    fn runs_replaced(&mut self, drop: &[Uuid], add: &[RunRow]) {
        if drop.is_empty() && add.is_empty() {
            return;
        }
        let runs = Arc::make_mut(&mut self.runs);
        for id in drop {
            runs.remove(id);
        }
        for run in add {
            runs.insert(run.id, Arc::new(run.clone()));
        }
        self.ranges = Arc::new(RunIndex::of(self.runs.values()));
    }

    /// A home that was committed later knows more.
    fn states_carried(&mut self, carried: &Carried) {
        let (id, covers) = (carried.row.id, carried.row.committed);
        Arc::make_mut(&mut self.checkpoints).insert(id, Arc::new(carried.row.clone()));
        let checkpoints = self.checkpoints.clone();
        let newer = |home: Uuid| checkpoints.get(&home).is_some_and(|row| row.committed >= covers);
        each_partition(&mut self.topics, &carried.of, |p| {
            if !p.home.is_some_and(newer) {
                p.home = Some(id);
            }
        });
        self.retire_checkpoints(None);
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

    fn cleaned(&mut self, cleaned: &[(TopicPartition, Offset)]) {
        let topics = Arc::make_mut(&mut self.topics);
        for (tp, upto) in cleaned {
            let Some(row) = topics.get_mut(&tp.topic) else { continue };
            let at = usize::try_from(tp.partition.0).unwrap_or(usize::MAX);
            if let Some(partition) = Arc::make_mut(row).partitions.get_mut(at) {
                partition.cleaned = partition.cleaned.max(*upto);
            }
        }
    }

    fn segments_of(&mut self, of: TopicPartition, change: impl FnOnce(&mut Vec<Arc<segment::Row>>)) {
        let Some(row) = Arc::make_mut(&mut self.topics).get_mut(&of.topic) else { return };
        let at = usize::try_from(of.partition.0).unwrap_or(usize::MAX);
        if let Some(partition) = Arc::make_mut(row).partitions.get_mut(at) {
            change(Arc::make_mut(partition.segments.get_or_insert_default()));
            partition.segments.take_if(|rows| rows.is_empty());
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
    pub(in crate::cluster) fn count_led(&mut self) {
        let mut led = BTreeMap::new();
        for topic in self.topics.values() {
            for leader in topic.partitions.iter().filter_map(|p| p.leader) {
                *led.entry(leader).or_default() += 1;
            }
        }
        self.led = Arc::new(led);
    }
}

/// Changes the partitions that a record names, as far as they are there.
fn each_partition(
    topics: &mut Arc<BTreeMap<TopicId, Arc<Topic>>>,
    partitions: &[(TopicId, Vec<PartitionIndex>)],
    mut change: impl FnMut(&mut Partition),
) {
    let topics = Arc::make_mut(topics);
    for (topic, indexes) in partitions {
        let Some(row) = topics.get_mut(topic) else { continue };
        let row = Arc::make_mut(row);
        for index in indexes {
            let at = usize::try_from(index.0).unwrap_or(usize::MAX);
            row.partitions.get_mut(at).into_iter().for_each(&mut change);
        }
    }
}

impl Partition {
    /// No move is under way any more: it has arrived, or was called off.
    fn stays(&mut self) {
        (self.successor, self.assigned_before) = (None, None);
    }

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
    pub(in crate::cluster) fn entry(&self, leader_epoch: LeaderEpoch) -> ChainEntry {
        ChainEntry { lane: self.lane, leader_epoch, from: self.from, to: None }
    }
}
