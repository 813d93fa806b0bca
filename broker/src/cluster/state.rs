//! Decisions on the metadata: a command against an image gives records and a reply, or a refusal.
//!
//! Reads only. The driver decides on the image that includes its own pending records (E3), so a guard that
//! held here (R11: s >= low, R18, R19, id allocation) holds at the records' place in the log. Knows no
//! clock, randomness or store; `now` and every random id arrive as arguments.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tidemark_proto::id::{
    BrokerEpoch, BrokerId, LaneId, Millis, PartitionIndex, ProducerId, Seq, TopicId, TopicPartition,
};
use tidemark_proto::kafka::error::ErrorCode;

use super::command::{Command, Outcome, Refusal, Reply, Sealed};
use super::image::{Broker, DRAIN, Image, is_true};
use super::placement::{Placement, home_of};
use super::record::{Closed, Placed, Record, Scope};

mod cuts;
mod levels;
mod moves;
mod quotas;
mod runs;
mod segments;
mod starts;
mod topics;

/// Checks a topic config's key and value; the sentence says what is wrong and what is allowed.
pub type ConfigCheck = Arc<dyn Fn(&str, Option<&str>) -> Result<(), String> + Send + Sync>;

/// What decisions need to know that is not metadata.
#[derive(Clone)]
pub struct Rules {
    /// Partitions of a topic that asks for -1.
    pub partitions: i32,
    /// Replication factor of a topic that asks for -1.
    pub replication: i16,
    /// The most partitions one topic may have.
    pub partitions_max: i32,
    /// Checks topic configs.
    pub topic_config: ConfigCheck,
    /// Checks broker configs.
    pub broker_config: ConfigCheck,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            partitions: 1,
            replication: 1,
            partitions_max: 200_000,
            topic_config: Arc::new(|_, _| Ok(())),
            broker_config: Arc::new(|_, _| Ok(())),
        }
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules").field("partitions", &self.partitions).finish_non_exhaustive()
    }
}

/// Producer ids handed out at a time (KIP-730).
pub const PRODUCER_BLOCK: i64 = 1_000;

impl Image {
    /// Decides `command` on this image.
    pub fn decide(&self, rules: &Rules, _now: Millis, command: &Command) -> Result<Outcome, ErrorCode> {
        match command {
            Command::RegisterBroker { node, life, endpoints, rack, peer, sealed } => {
                let broker = Broker {
                    node: node.unwrap_or_else(|| self.free_node()),
                    epoch: self.next_epoch,
                    life: *life,
                    endpoints: endpoints.clone(),
                    peer: peer.clone(),
                    rack: rack.clone(),
                    alive: true,
                    draining: false,
                };
                self.register(broker, sealed)
            }
            Command::TakeOver { node, epoch, sealed } => Ok(self.take_over(*node, *epoch, sealed)),
            Command::UnregisterBroker { node } => match self.broker(*node) {
                None => Err(ErrorCode::BrokerIdNotRegistered),
                Some(row) if row.alive => Err(ErrorCode::InvalidRequest),
                Some(_) => Ok(done(vec![Record::BrokerRemoved { node: *node }])),
            },
            Command::CreateTopics { topics, validate_only } => {
                Ok(self.create_topics(rules, topics, *validate_only))
            }
            Command::CreatePartitions { topic, count, assignments, validate_only } => {
                Ok(self.create_partitions(rules, topic, *count, assignments, *validate_only))
            }
            Command::DeleteTopics { topics } => Ok(self.delete_topics(topics)),
            Command::ForgetTopic { id } => match self.deleted.contains_key(id) {
                true => Ok(done(vec![Record::TopicForgotten { id: *id }])),
                false => Ok(Outcome::reply(Reply::Done)),
            },
            Command::CommitCut { by, lane, low, runs, checkpoint, version } => {
                let cut = cuts::Cut { by: *by, lane: *lane, low: *low, version: *version };
                self.commit_cut(cut, runs, checkpoint.as_ref())
            }
            Command::ReplaceRuns { by, drop, add, starts, carried, cleaned } => {
                self.replace_runs(*by, (drop, add), starts, carried.as_deref(), cleaned)
            }
            Command::NoteSwept { below } => {
                let news = *below > self.swept && *below <= self.position;
                Ok(done(news.then_some(Record::LogSwept { below: *below }).into_iter().collect()))
            }
            Command::ForgetLane { lane } => Ok(self.forget_lane(*lane)),
            Command::AllocateProducerIds { by } => self.allocate_producers(*by),
            Command::SetConfig { scope, set, validate_only } => {
                Ok(self.set_config(rules, scope, set, *validate_only))
            }
            Command::MoveLogStarts { by, starts } => self.move_log_starts(*by, starts),
            Command::CommitSegments { by, of, leader_epoch, rows } => {
                self.commit_segments(*by, *of, *leader_epoch, rows)
            }
            Command::RetireSegments { by, of, leader_epoch, ids } => {
                self.retire_segments(*by, *of, *leader_epoch, ids)
            }
            Command::ForgetSegments { of, ids } => Ok(done(self.forget_segments(*of, ids))),
            Command::PlanMoves { moves } => Ok(done(self.plan_moves(moves))),
            Command::CallOff { moves } => Ok(done(self.call_off(moves))),
            Command::ReadyToLead { by, from, partitions } => self.ready_to_lead(*by, *from, partitions),
            Command::Release { by, bound, partitions } => self.release(*by, *bound, partitions),
            Command::Drain { by } => self.drain(*by),
            Command::AssignReplicas { assigned } => Ok(done(self.assign_replicas(assigned))),
            Command::CancelReassignments { partitions } => Ok(done(self.cancel_reassignments(partitions))),
            Command::SetQuotas { entity, set, validate_only } => {
                Ok(self.set_quotas(entity, set, *validate_only))
            }
            Command::FinalizeVersion { level, known } => Ok(self.finalize_version(*level, known)),
            Command::SetFeature { name, level } => {
                let record = Record::FeatureLevel { name: name.clone(), level: *level };
                Ok(done(vec![record]))
            }
        }
    }

    /// The living broker that a command names as its sender.
    fn sender(&self, by: BrokerEpoch) -> Result<&Broker, ErrorCode> {
        self.broker_of(by).filter(|b| b.alive).ok_or(ErrorCode::StaleBrokerEpoch)
    }

    /// Node ids given out by the controller start at 1 and are not used again.
    fn free_node(&self) -> BrokerId {
        BrokerId(self.brokers.keys().next_back().map_or(0, |node| node.0.max(0)) + 1)
    }

    fn register(&self, broker: Broker, sealed: &[Sealed]) -> Result<Outcome, ErrorCode> {
        if broker.node.0 < 0 {
            return Err(ErrorCode::InvalidRequest);
        }
        if let Some(first) = self.unsealed(broker.node, sealed) {
            return Ok(Outcome::reply(first));
        }
        let (node, epoch, life) = (broker.node, broker.epoch, broker.life);
        let home = Placed { node, lane: LaneId { epoch, lane: 0, life }, from: Seq(0) };
        let mut records = Vec::new();
        if let Some(old) = self.broker(node).filter(|b| b.alive) {
            records.push(Record::BrokerFenced { node, epoch: old.epoch });
        }
        records.push(Record::BrokerRegistered { broker, lanes: 1 });
        // A broker that was told to drain before it died, or stopped, is no heir of its own where there are others.
        let others = self.told_to_drain(node).then(|| Placement::over(self, Some(node)));
        let mut others = others.filter(|placement| placement.least().is_some());
        for (lane, _) in self.open_lanes(node) {
            let at = bound(sealed, lane);
            records.push(Record::LaneSealed { lane, at, recoverer: Some(node) });
            match &mut others {
                Some(placement) => records.extend(self.spread(lane, at, placement)),
                None => records.extend(moved(Some(Closed { lane, to: at }), Some(home), self.led_by(lane))),
            }
        }
        records.extend(moved(None, Some(home), self.orphans()));
        records.extend(self.orphan_lanes().map(|lane| Record::LaneRecoverer { lane, recoverer: node }));
        Ok(Outcome { records, reply: Reply::Registered { node, epoch } })
    }

    fn take_over(&self, node: BrokerId, epoch: BrokerEpoch, sealed: &[Sealed]) -> Outcome {
        if !self.broker(node).is_some_and(|b| b.epoch == epoch && b.alive) {
            return Outcome::reply(Reply::Done); // somebody was faster
        }
        if let Some(first) = self.unsealed(node, sealed) {
            return Outcome::reply(first);
        }
        let mut records = vec![Record::BrokerFenced { node, epoch }];
        let mut placement = Placement::over(self, Some(node));
        let recoverer = placement.least();
        for (lane, _) in self.open_lanes(node) {
            let at = bound(sealed, lane);
            records.push(Record::LaneSealed { lane, at, recoverer });
            records.extend(self.spread(lane, at, &mut placement));
        }
        if let Some(recoverer) = recoverer {
            let left = self.to_recover(node).map(|(lane, _)| Record::LaneRecoverer { lane, recoverer });
            records.extend(left);
        }
        done(records)
    }

    /// What is led from a lane that ends `at` goes to the living.
    fn spread(&self, lane: LaneId, at: Seq, placement: &mut Placement) -> Vec<Record> {
        let closed = Some(Closed { lane, to: at });
        let mut by_leader: BTreeMap<BrokerId, (Placed, Vec<TopicPartition>)> = BTreeMap::new();
        let mut nobody = Vec::new();
        for tp in self.led_by(lane) {
            match placement.rather(self.heirs(tp)) {
                Some(place) => by_leader.entry(place.node).or_insert((place, Vec::new())).1.push(tp),
                None => nobody.push(tp),
            }
        }
        let led = by_leader.into_values();
        let mut records: Vec<Record> =
            led.filter_map(|(place, partitions)| moved(closed, Some(place), partitions)).collect();
        records.extend(moved(closed, None, nobody));
        records
    }

    /// R11: every open lane of `node` must be sealed, at or above its low mark; else which one to seal.
    fn unsealed(&self, node: BrokerId, sealed: &[Sealed]) -> Option<Reply> {
        let missing = |(lane, low): &(LaneId, Seq)| !sealed.iter().any(|s| s.lane == *lane && s.at >= *low);
        let mut open = self.open_lanes(node).map(|(lane, row)| (lane, row.low));
        open.find(missing).map(|(lane, low)| Reply::SealFirst { lane, low })
    }

    /// Who should lead a partition rather than anybody: its successor, which may have read it, and its replicas.
    fn heirs(&self, tp: TopicPartition) -> Vec<BrokerId> {
        let row = self.partition(tp);
        let successor = row.and_then(|p| p.successor).map(|s| s.node);
        successor.into_iter().chain(row.into_iter().flat_map(|p| p.assigned.iter().copied())).collect()
    }

    fn orphans(&self) -> impl Iterator<Item = TopicPartition> {
        self.partitions().filter(|(_, p)| p.leader.is_none()).map(|(tp, _)| tp)
    }

    /// Dead lanes that hold data and whose recoverer is dead or was never named.
    fn orphan_lanes(&self) -> impl Iterator<Item = LaneId> {
        let lost = |row: &super::image::Lane| {
            let living = row.recoverer.and_then(|node| self.broker(node)).is_some_and(|b| b.alive);
            row.sealed.is_some_and(|at| row.low < at) && !living
        };
        self.lanes().filter(move |(_, row)| lost(row)).map(|(lane, _)| lane)
    }

    fn allocate_producers(&self, by: BrokerEpoch) -> Result<Outcome, ErrorCode> {
        self.sender(by)?;
        let first = self.next_producer;
        let next =
            first.0.checked_add(PRODUCER_BLOCK).map(ProducerId).ok_or(ErrorCode::UnknownServerError)?;
        let reply = Reply::Producers { first, count: PRODUCER_BLOCK };
        Ok(Outcome { records: vec![Record::ProducerIdsAllocated { next }], reply })
    }

    fn set_config(
        &self,
        rules: &Rules,
        scope: &Scope,
        set: &[(String, Option<String>)],
        validate_only: bool,
    ) -> Outcome {
        let refuse = |code, why: String| Outcome::reply(Reply::Row(Err(Refusal::new(code, why))));
        let check = match scope {
            Scope::Topic(id) if self.topic(*id).is_none() => {
                return refuse(ErrorCode::UnknownTopicOrPartition, format!("there is no topic {id}"));
            }
            Scope::Topic(_) => Some(&rules.topic_config),
            Scope::Broker(_) => Some(&rules.broker_config),
            // Judged where they are asked for: their bounds are settings of brokers.
            Scope::Group(_) | Scope::ClientMetrics(_) => None,
        };
        let wrong = |(key, value): &(String, Option<String>)| check?(key, value.as_deref()).err();
        if let Some(why) = set.iter().find_map(wrong) {
            return refuse(ErrorCode::InvalidConfig, why);
        }
        if let Scope::Topic(id) = scope
            && let Err(why) = self.check_tiered_with(*id, set)
        {
            return refuse(ErrorCode::InvalidConfig, why);
        }
        let drain = set.iter().rfind(|(key, _)| key == DRAIN).map(|(_, value)| value.as_deref());
        if *scope == Scope::Broker(None) && drain.is_some() {
            return refuse(ErrorCode::InvalidConfig, format!("{DRAIN} is set on one broker, not on all"));
        }
        let mut set = set.to_vec();
        let now = match scope {
            Scope::Group(name) => Some(self.configs_of_group(name)),
            Scope::ClientMetrics(name) => Some(self.client_metrics_named(name)),
            _ => None,
        };
        if let Some(now) = now {
            set.retain(|(key, value)| now.and_then(|now| now.get(key)) != value.as_ref());
        }
        let mut records = match validate_only || set.is_empty() {
            true => Vec::new(),
            false => vec![Record::ConfigSet { scope: scope.clone(), set }],
        };
        if let (Scope::Broker(Some(node)), Some(Some(value)), false) = (scope, drain, validate_only)
            && is_true(value)
        {
            records.extend(self.emptied(*node));
        }
        Outcome { records, reply: Reply::Row(Ok(())) }
    }

    /// The chain entry that partitions led by `node` get now.
    pub fn home_of(&self, node: BrokerId) -> Option<Placed> {
        home_of(self, node)
    }
}

fn done(records: Vec<Record>) -> Outcome {
    Outcome { records, reply: Reply::Done }
}

fn bound(sealed: &[Sealed], lane: LaneId) -> Seq {
    sealed.iter().find(|s| s.lane == lane).map_or(Seq(0), |s| s.at)
}

/// One record for all partitions that go the same way, grouped by topic; none where there are none.
fn moved(
    from: Option<Closed>,
    to: Option<Placed>,
    which: impl IntoIterator<Item = TopicPartition>,
) -> Option<Record> {
    let partitions = by_topic(which);
    (!partitions.is_empty()).then_some(Record::PartitionsMoved { from, to, partitions })
}

/// As records name partitions.
fn by_topic(which: impl IntoIterator<Item = TopicPartition>) -> Vec<(TopicId, Vec<PartitionIndex>)> {
    let mut partitions: Vec<(TopicId, Vec<PartitionIndex>)> = Vec::new();
    for TopicPartition { topic, partition } in which {
        match partitions.last_mut() {
            Some((last, indexes)) if *last == topic => indexes.push(partition),
            _ => partitions.push((topic, vec![partition])),
        }
    }
    partitions
}
