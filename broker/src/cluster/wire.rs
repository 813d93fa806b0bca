//! Records and images as bytes: the schema of `proto/src/rpc/meta.proto`.
//!
//! Reading is strict: an id of the wrong length, a number out of range or a record this build does not know
//! is [`Unreadable`], never guessed at. What the bytes mean is `image`'s.

mod rows;
mod snapshot;

use bytes::Bytes;
use prost::Message;
use tidemark_proto::id::{
    BrokerEpoch, BrokerId, Generation, LaneId, Life, Nonce, PartitionIndex, Position, ProducerId, Seq,
    TopicId, TopicPartition,
};
use tidemark_proto::rpc::meta::v1 as pb;
use uuid::Uuid;

use super::image::Link;
use super::record::{Carried, Placed, Record, Scope};

/// The number of a record's kind in the schema: what its bytes begin with.
pub(super) fn number_of(record: &Record) -> u64 {
    let bytes = record_to(record).encode_to_vec();
    prost::encoding::decode_varint(&mut bytes.as_slice()).map_or(0, |tag| tag >> 3)
}

pub use snapshot::{snapshot_from, snapshot_of};

/// Why bytes are not what the schema says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(pub String);

pub(super) type Read<T> = Result<T, Unreadable>;

fn unreadable<T>(why: impl Into<String>) -> Read<T> {
    Err(Unreadable(why.into()))
}

/// What one object of the log says (E2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The object before it in its author's image.
    pub prev: Link,
    /// The author's commit when it was sent.
    pub durable: Seq,
    /// Its records.
    pub records: Vec<Record>,
}

impl Entry {
    /// The body's bytes.
    pub fn encode(&self) -> Bytes {
        let body = pb::Body {
            prev_nonce: self.prev.nonce.to_bytes().to_vec().into(),
            prev_crc: self.prev.crc,
            durable: self.durable.0,
            records: self.records.iter().map(record_to).collect(),
        };
        body.encode_to_vec().into()
    }

    /// The inverse of [`Entry::encode`].
    pub fn decode(body: Bytes) -> Read<Entry> {
        let body = pb::Body::decode(body).or_else(|e| unreadable(e.to_string()))?;
        let prev = Link { nonce: nonce(&body.prev_nonce)?, crc: body.prev_crc };
        let records = body.records.into_iter().map(record_from).collect::<Read<_>>()?;
        Ok(Entry { prev, durable: Seq(body.durable), records })
    }
}

fn array(bytes: &[u8]) -> Read<[u8; 16]> {
    bytes.try_into().or_else(|_| unreadable(format!("an id of {} bytes", bytes.len())))
}

fn nonce(bytes: &[u8]) -> Read<Nonce> {
    Ok(Nonce::from_bytes(array(bytes)?))
}

fn life(bytes: &[u8]) -> Read<Life> {
    Ok(Life::from_bytes(array(bytes)?))
}

fn topic_id(bytes: &[u8]) -> Read<TopicId> {
    Ok(TopicId(Uuid::from_bytes(array(bytes)?)))
}

fn ids_from(ids: &[Bytes]) -> Read<Vec<Uuid>> {
    ids.iter().map(|id| Ok(Uuid::from_bytes(array(id)?))).collect()
}

fn partition_from(topic: &[u8], partition: i32) -> Read<TopicPartition> {
    Ok(TopicPartition { topic: topic_id(topic)?, partition: PartitionIndex(partition) })
}

fn id_bytes(id: Uuid) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

fn topic_bytes(id: TopicId) -> Bytes {
    id_bytes(id.0)
}

fn life_bytes(life: Life) -> Bytes {
    Bytes::copy_from_slice(&life.to_bytes())
}

fn need<T>(value: Option<T>, what: &str) -> Read<T> {
    value.map_or_else(|| unreadable(format!("{what} is missing")), Ok)
}

fn small(value: i32) -> Read<i16> {
    i16::try_from(value).or_else(|_| unreadable(format!("{value} is too large")))
}

/// The most partitions one record may make, against absurd counts.
const PARTITIONS_MAX: u32 = 4_000_000;

fn lane_to(lane: LaneId) -> pb::Lane {
    pb::Lane { epoch: lane.epoch.0, lane: lane.lane, life: life_bytes(lane.life) }
}

fn lane_from(lane: Option<pb::Lane>) -> Read<LaneId> {
    let lane = need(lane, "lane")?;
    Ok(LaneId { epoch: BrokerEpoch(lane.epoch), lane: lane.lane, life: life(&lane.life)? })
}

fn placed_to(placed: Placed) -> pb::Placed {
    pb::Placed { node: placed.node.0, lane: Some(lane_to(placed.lane)), from: placed.from.0 }
}

fn placed_from(placed: pb::Placed) -> Read<Placed> {
    Ok(Placed { node: BrokerId(placed.node), lane: lane_from(placed.lane)?, from: Seq(placed.from) })
}

fn placing_to(placed: &[Option<Placed>]) -> Vec<pb::Placing> {
    let runs = placed.chunk_by(|a, b| a == b);
    runs.map(|run| pb::Placing {
        placed: run.first().copied().flatten().map(placed_to),
        count: u32::try_from(run.len()).unwrap_or(u32::MAX),
    })
    .collect()
}

fn placing_from(placing: Vec<pb::Placing>) -> Read<Vec<Option<Placed>>> {
    let total = placing.iter().try_fold(0u32, |sum, p| sum.checked_add(p.count));
    if total.is_none_or(|total| total > PARTITIONS_MAX) {
        return unreadable("more partitions than any topic has");
    }
    let mut out = Vec::new();
    for run in placing {
        let placed = run.placed.map(placed_from).transpose()?;
        out.extend(std::iter::repeat_n(placed, run.count as usize));
    }
    Ok(out)
}

fn scope_to(scope: &Scope) -> pb::config_set::Scope {
    match scope {
        Scope::Topic(id) => pb::config_set::Scope::Topic(topic_bytes(*id)),
        Scope::Broker(Some(node)) => pb::config_set::Scope::Broker(node.0),
        Scope::Broker(None) => pb::config_set::Scope::AllBrokers(true),
        Scope::Group(name) => pb::config_set::Scope::Group(name.clone()),
        Scope::ClientMetrics(name) => pb::config_set::Scope::ClientMetrics(name.clone()),
    }
}

fn scope_from(scope: Option<pb::config_set::Scope>) -> Read<Scope> {
    Ok(match need(scope, "scope")? {
        pb::config_set::Scope::Topic(id) => Scope::Topic(topic_id(&id)?),
        pb::config_set::Scope::Broker(node) => Scope::Broker(Some(BrokerId(node))),
        pb::config_set::Scope::AllBrokers(_) => Scope::Broker(None),
        pb::config_set::Scope::Group(name) => Scope::Group(name),
        pb::config_set::Scope::ClientMetrics(name) => Scope::ClientMetrics(name),
    })
}

fn record_to(record: &Record) -> pb::Record {
    use pb::record::Kind;
    let kind = match record {
        Record::ControllerAnnounced { generation, life, node, address } => {
            Kind::ControllerAnnounced(pb::ControllerAnnounced {
                generation: generation.0,
                life: life_bytes(*life),
                node: node.map(|n| n.0),
                address: address.clone(),
            })
        }
        Record::BrokerRegistered { broker, lanes } => {
            let broker = Some(rows::broker_to(broker));
            Kind::BrokerRegistered(pb::BrokerRegistered { broker, lanes: *lanes })
        }
        Record::BrokerFenced { node, epoch } => {
            Kind::BrokerFenced(pb::BrokerFenced { node: node.0, epoch: epoch.0 })
        }
        Record::BrokerRemoved { node } => Kind::BrokerRemoved(pb::BrokerRemoved { node: node.0 }),
        Record::LaneSealed { lane, at, recoverer } => Kind::LaneSealed(pb::LaneSealed {
            lane: Some(lane_to(*lane)),
            at: at.0,
            recoverer: recoverer.map(|n| n.0),
        }),
        Record::LaneRecoverer { lane, recoverer } => {
            Kind::LaneRecoverer(pb::LaneRecoverer { lane: Some(lane_to(*lane)), recoverer: recoverer.0 })
        }
        Record::LogSwept { below } => Kind::LogSwept(swept_to(*below)),
        Record::LaneForgotten { lane } => {
            Kind::LaneForgotten(pb::LaneForgotten { lane: Some(lane_to(*lane)) })
        }
        Record::TopicCreated { id, name, replication, configs, placed } => {
            Kind::TopicCreated(pb::TopicCreated {
                id: topic_bytes(*id),
                name: name.clone(),
                replication: i32::from(*replication),
                configs: rows::configs_to(configs),
                placed: placing_to(placed),
            })
        }
        Record::PartitionsAdded { topic, placed } => Kind::PartitionsAdded(pb::PartitionsAdded {
            topic: topic_bytes(*topic),
            placed: placing_to(placed),
        }),
        Record::PartitionsMoved { from, to, partitions } => Kind::PartitionsMoved(pb::PartitionsMoved {
            from: from.map(|c| pb::Closed { lane: Some(lane_to(c.lane)), to: c.to.0 }),
            to: to.map(placed_to),
            partitions: rows::partitions_to(partitions),
        }),
        Record::MovesPlanned { to, partitions } => Kind::MovesPlanned(pb::MovesPlanned {
            to: to.map(|n| n.0),
            partitions: rows::partitions_to(partitions),
        }),
        Record::SuccessorReady { node, from, partitions } => Kind::SuccessorReady(pb::SuccessorReady {
            node: node.0,
            from: from.0,
            partitions: rows::partitions_to(partitions),
        }),
        Record::ReplicasAssigned { replicas, partitions } => Kind::ReplicasAssigned(pb::ReplicasAssigned {
            replicas: replicas.iter().map(|n| n.0).collect(),
            partitions: rows::partitions_to(partitions),
        }),
        Record::BrokerDraining { node, epoch } => {
            Kind::BrokerDraining(pb::BrokerDraining { node: node.0, epoch: epoch.0 })
        }
        Record::SegmentsCommitted { of, rows: segments } => Kind::SegmentsCommitted(pb::SegmentsCommitted {
            topic: topic_bytes(of.topic),
            partition: of.partition.0,
            segments: segments.iter().map(rows::segment_to).collect(),
        }),
        Record::SegmentsRetired { of, ids } => Kind::SegmentsRetired(pb::SegmentsRetired {
            topic: topic_bytes(of.topic),
            partition: of.partition.0,
            ids: ids.iter().copied().map(id_bytes).collect(),
        }),
        Record::SegmentsForgotten { of, ids } => Kind::SegmentsForgotten(pb::SegmentsForgotten {
            topic: topic_bytes(of.topic),
            partition: of.partition.0,
            ids: ids.iter().copied().map(id_bytes).collect(),
        }),
        Record::TopicDeleted { id } => Kind::TopicDeleted(pb::TopicDeleted { id: topic_bytes(*id) }),
        Record::TopicForgotten { id } => Kind::TopicForgotten(pb::TopicForgotten { id: topic_bytes(*id) }),
        Record::CutCommitted { lane, low, runs, checkpoint, version } => {
            Kind::CutCommitted(pb::CutCommitted {
                lane: Some(lane_to(*lane)),
                low: low.0,
                runs: runs.iter().map(rows::run_to).collect(),
                checkpoint: checkpoint.as_ref().map(rows::checkpoint_to),
                version: *version,
            })
        }
        Record::RunsReplaced { drop, add, starts, carried, cleaned } => {
            Kind::RunsReplaced(pb::RunsReplaced {
                drop: drop.iter().copied().map(id_bytes).collect(),
                add: add.iter().map(rows::run_to).collect(),
                starts: rows::starts_to(starts),
                carried: carried.as_ref().map(|c| rows::checkpoint_to(&c.row)),
                homes: carried.as_ref().map(|c| rows::partitions_to(&c.of)).unwrap_or_default(),
                cleaned: rows::starts_to(cleaned),
            })
        }
        Record::ProducerIdsAllocated { next } => {
            Kind::ProducerIdsAllocated(pb::ProducerIdsAllocated { next: next.0 })
        }
        Record::ConfigSet { scope, set } => Kind::ConfigSet(pb::ConfigSet {
            scope: Some(scope_to(scope)),
            set: set
                .iter()
                .map(|(key, value)| pb::Config { key: key.clone(), value: value.clone() })
                .collect(),
        }),
        Record::LogStartsMoved { starts } => {
            Kind::LogStartsMoved(pb::LogStartsMoved { starts: rows::starts_to(starts) })
        }
        Record::QuotasSet { entity, set } => {
            let set = set.iter().map(|(key, rate)| (key.as_str(), *rate));
            Kind::QuotasSet(rows::quotas_to(entity, set))
        }
        Record::FeatureLevel { name, level } => {
            Kind::FeatureLevel(pb::FeatureLevel { name: name.clone(), level: i32::from(*level) })
        }
    };
    pb::Record { kind: Some(kind) }
}

fn record_from(record: pb::Record) -> Read<Record> {
    use pb::record::Kind;
    let Some(kind) = record.kind else {
        return unreadable(
            "a record of a kind that this build does not know: start the newer one that wrote it",
        );
    };
    Ok(match kind {
        Kind::ControllerAnnounced(r) => Record::ControllerAnnounced {
            generation: Generation(r.generation),
            life: life(&r.life)?,
            node: r.node.map(BrokerId),
            address: r.address,
        },
        Kind::BrokerRegistered(r) => Record::BrokerRegistered {
            broker: rows::broker_from(need(r.broker, "broker")?)?,
            lanes: r.lanes.min(1_024),
        },
        Kind::BrokerFenced(r) => Record::BrokerFenced { node: BrokerId(r.node), epoch: BrokerEpoch(r.epoch) },
        Kind::BrokerRemoved(r) => Record::BrokerRemoved { node: BrokerId(r.node) },
        Kind::LaneSealed(r) => Record::LaneSealed {
            lane: lane_from(r.lane)?,
            at: Seq(r.at),
            recoverer: r.recoverer.map(BrokerId),
        },
        Kind::LaneRecoverer(r) => {
            Record::LaneRecoverer { lane: lane_from(r.lane)?, recoverer: BrokerId(r.recoverer) }
        }
        Kind::LogSwept(r) => Record::LogSwept { below: swept_from(&r) },
        Kind::LaneForgotten(r) => Record::LaneForgotten { lane: lane_from(r.lane)? },
        Kind::TopicCreated(r) => Record::TopicCreated {
            id: topic_id(&r.id)?,
            name: r.name,
            replication: small(r.replication)?,
            configs: rows::configs_from(r.configs),
            placed: placing_from(r.placed)?,
        },
        Kind::PartitionsAdded(r) => {
            Record::PartitionsAdded { topic: topic_id(&r.topic)?, placed: placing_from(r.placed)? }
        }
        Kind::PartitionsMoved(r) => Record::PartitionsMoved {
            from: r.from.map(rows::closed_from).transpose()?,
            to: r.to.map(placed_from).transpose()?,
            partitions: rows::partitions_from(r.partitions)?,
        },
        Kind::MovesPlanned(r) => {
            Record::MovesPlanned { to: r.to.map(BrokerId), partitions: rows::partitions_from(r.partitions)? }
        }
        Kind::SuccessorReady(r) => Record::SuccessorReady {
            node: BrokerId(r.node),
            from: Seq(r.from),
            partitions: rows::partitions_from(r.partitions)?,
        },
        Kind::ReplicasAssigned(r) => Record::ReplicasAssigned {
            replicas: r.replicas.into_iter().map(BrokerId).collect(),
            partitions: rows::partitions_from(r.partitions)?,
        },
        Kind::BrokerDraining(r) => {
            Record::BrokerDraining { node: BrokerId(r.node), epoch: BrokerEpoch(r.epoch) }
        }
        Kind::TopicDeleted(r) => Record::TopicDeleted { id: topic_id(&r.id)? },
        Kind::TopicForgotten(r) => Record::TopicForgotten { id: topic_id(&r.id)? },
        Kind::CutCommitted(r) => Record::CutCommitted {
            lane: lane_from(r.lane)?,
            low: Seq(r.low),
            runs: r.runs.into_iter().map(rows::run_from).collect::<Read<_>>()?,
            checkpoint: r.checkpoint.map(rows::checkpoint_from).transpose()?,
            version: r.version,
        },
        Kind::RunsReplaced(r) => {
            let row = r.carried.map(rows::checkpoint_from).transpose()?;
            let of = rows::partitions_from(r.homes)?;
            Record::RunsReplaced {
                drop: r.drop.iter().map(|id| Ok(Uuid::from_bytes(array(id)?))).collect::<Read<_>>()?,
                add: r.add.into_iter().map(rows::run_from).collect::<Read<_>>()?,
                starts: rows::starts_from(r.starts)?,
                carried: row.map(|row| Carried { row, of }),
                cleaned: rows::starts_from(r.cleaned)?,
            }
        }
        Kind::SegmentsCommitted(r) => Record::SegmentsCommitted {
            of: partition_from(&r.topic, r.partition)?,
            rows: r.segments.into_iter().map(rows::segment_from).collect::<Read<_>>()?,
        },
        Kind::SegmentsRetired(r) => {
            Record::SegmentsRetired { of: partition_from(&r.topic, r.partition)?, ids: ids_from(&r.ids)? }
        }
        Kind::SegmentsForgotten(r) => {
            Record::SegmentsForgotten { of: partition_from(&r.topic, r.partition)?, ids: ids_from(&r.ids)? }
        }
        Kind::ProducerIdsAllocated(r) => Record::ProducerIdsAllocated { next: ProducerId(r.next) },
        Kind::ConfigSet(r) => Record::ConfigSet {
            scope: scope_from(r.scope)?,
            set: r.set.into_iter().map(|c| (c.key, c.value)).collect(),
        },
        Kind::LogStartsMoved(r) => Record::LogStartsMoved { starts: rows::starts_from(r.starts)? },
        Kind::QuotasSet(r) => {
            let (entity, set) = rows::quotas_from(r)?;
            Record::QuotasSet { entity, set }
        }
        Kind::FeatureLevel(r) => Record::FeatureLevel { name: r.name, level: small(r.level)? },
    })
}

fn swept_to(below: Position) -> pb::LogSwept {
    pb::LogSwept { generation: below.generation.0, seq: below.seq.0 }
}

fn swept_from(row: &pb::LogSwept) -> Position {
    Position { generation: Generation(row.generation), seq: Seq(row.seq) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_an_unknown_kind_stops_the_reader_with_a_sentence() {
        let known = pb::Body {
            prev_nonce: vec![0; 16].into(),
            records: vec![record_to(&Record::LogSwept { below: Position::default() })],
            ..pb::Body::default()
        };
        let mut bytes = known.encode_to_vec();
        assert!(Entry::decode(bytes.clone().into()).is_ok());
        // Field 4 of the body (a record) that holds field 1,000 (a message of no bytes).
        let tag = (1_000 << 3) | 2;
        let mut record = Vec::new();
        prost::encoding::encode_varint(tag, &mut record);
        record.push(0);
        bytes.extend([(4 << 3) | 2, u8::try_from(record.len()).unwrap()]);
        bytes.extend(record);
        let why = Entry::decode(bytes.into()).unwrap_err().to_string();
        assert!(why.contains("does not know"), "{why}");
    }
}
