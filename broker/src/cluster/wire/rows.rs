//! Rows of the image as messages, shared by records and snapshots.

use std::collections::BTreeMap;

use tidemark_proto::id::{
    BrokerEpoch, BrokerId, LeaderEpoch, Millis, Offset, PartitionIndex, Seq, TopicId, TopicPartition,
};
use tidemark_proto::rpc::meta::v1 as pb;
use tidemark_tiering::segment::{self, Layout, State};
use uuid::Uuid;

use super::super::image::{Broker, CheckpointRow, Endpoint, RunRow};
use super::super::quota::{Entity, Part, Rate};
use super::super::record::Closed;
use super::{Read, Unreadable, array, id_bytes, lane_from, lane_to, life, life_bytes, topic_bytes, topic_id};

pub(super) fn broker_to(row: &Broker) -> pb::Broker {
    pb::Broker {
        node: row.node.0,
        epoch: row.epoch.0,
        life: life_bytes(row.life),
        endpoints: row
            .endpoints
            .iter()
            .map(|e| pb::Endpoint {
                listener: e.listener.clone(),
                protocol: e.protocol.clone(),
                host: e.host.clone(),
                port: u32::from(e.port),
            })
            .collect(),
        peer: row.peer.clone(),
        rack: row.rack.clone(),
        alive: row.alive,
        draining: row.draining,
    }
}

pub(super) fn broker_from(row: pb::Broker) -> Read<Broker> {
    let endpoint = |e: pb::Endpoint| {
        let port = u16::try_from(e.port).map_err(|_| Unreadable(format!("port {}", e.port)))?;
        Ok(Endpoint { listener: e.listener, protocol: e.protocol, host: e.host, port })
    };
    Ok(Broker {
        node: BrokerId(row.node),
        epoch: BrokerEpoch(row.epoch),
        life: life(&row.life)?,
        endpoints: row.endpoints.into_iter().map(endpoint).collect::<Read<_>>()?,
        peer: row.peer,
        rack: row.rack,
        alive: row.alive,
        draining: row.draining,
    })
}

pub(super) fn partitions_to(partitions: &[(TopicId, Vec<PartitionIndex>)]) -> Vec<pb::TopicPartitions> {
    let row = |(topic, list): &(TopicId, Vec<PartitionIndex>)| pb::TopicPartitions {
        topic: topic_bytes(*topic),
        partitions: list.iter().map(|index| index.0).collect(),
    };
    partitions.iter().map(row).collect()
}

pub(super) fn partitions_from(rows: Vec<pb::TopicPartitions>) -> Read<Vec<(TopicId, Vec<PartitionIndex>)>> {
    let row = |p: pb::TopicPartitions| {
        Ok((topic_id(&p.topic)?, p.partitions.into_iter().map(PartitionIndex).collect()))
    };
    rows.into_iter().map(row).collect()
}

pub(super) fn starts_to(starts: &[(TopicPartition, Offset)]) -> Vec<pb::LogStart> {
    let row = |(tp, offset): &(TopicPartition, Offset)| pb::LogStart {
        topic: topic_bytes(tp.topic),
        partition: tp.partition.0,
        offset: offset.0,
    };
    starts.iter().map(row).collect()
}

pub(super) fn starts_from(rows: Vec<pb::LogStart>) -> Read<Vec<(TopicPartition, Offset)>> {
    let row = |s: pb::LogStart| {
        let (topic, partition) = (topic_id(&s.topic)?, PartitionIndex(s.partition));
        Ok((TopicPartition { topic, partition }, Offset(s.offset)))
    };
    rows.into_iter().map(row).collect()
}

pub(super) fn closed_from(row: pb::Closed) -> Read<Closed> {
    Ok(Closed { lane: lane_from(row.lane)?, to: Seq(row.to) })
}

pub(super) fn run_to(row: &RunRow) -> pb::Run {
    let lane = |(lane, from, to): &(_, Seq, Seq)| pb::LaneRange {
        lane: Some(lane_to(*lane)),
        from: from.0,
        to: to.0,
    };
    pb::Run {
        id: id_bytes(row.id),
        key: row.key.clone(),
        level: row.level,
        bytes: row.bytes,
        ranges: row.ranges.iter().map(|(first, last)| pb::Range { first: *first, last: *last }).collect(),
        max_timestamp: row.max_timestamp.0,
        lanes: row.lanes.iter().map(lane).collect(),
        committed: row.committed,
        oldest: row.oldest.0,
        class: row.class,
        shares: row.shares,
    }
}

pub(super) fn run_from(row: pb::Run) -> Read<RunRow> {
    let lane = |r: pb::LaneRange| Ok((lane_from(r.lane)?, Seq(r.from), Seq(r.to)));
    Ok(RunRow {
        id: Uuid::from_bytes(array(&row.id)?),
        key: row.key,
        level: row.level,
        bytes: row.bytes,
        ranges: row.ranges.into_iter().map(|r| (r.first, r.last)).collect(),
        max_timestamp: Millis(row.max_timestamp),
        lanes: row.lanes.into_iter().map(lane).collect::<Read<_>>()?,
        committed: row.committed,
        oldest: Millis(row.oldest),
        class: row.class,
        shares: row.shares,
    })
}

pub(super) fn checkpoint_to(row: &CheckpointRow) -> pb::Checkpoint {
    pb::Checkpoint {
        id: id_bytes(row.id),
        key: row.key.clone(),
        lane: Some(lane_to(row.lane)),
        upto: row.upto.0,
        bytes: row.bytes,
        committed: row.committed,
    }
}

pub(super) fn checkpoint_from(row: pb::Checkpoint) -> Read<CheckpointRow> {
    Ok(CheckpointRow {
        id: Uuid::from_bytes(array(&row.id)?),
        key: row.key,
        lane: lane_from(row.lane)?,
        upto: Seq(row.upto),
        bytes: row.bytes,
        committed: row.committed,
    })
}

pub(super) fn segment_to(row: &segment::Row) -> pb::Segment {
    let Layout { offset, time, producers, epochs, transactions, crc } = row.indexes;
    let epoch =
        |(epoch, from): &(LeaderEpoch, Offset)| pb::SegmentEpoch { leader_epoch: epoch.0, from: from.0 };
    pb::Segment {
        id: id_bytes(row.id),
        base: row.base.0,
        last: row.last.0,
        max_timestamp: row.max_timestamp.0,
        bytes: row.bytes,
        epochs: row.epochs.iter().map(epoch).collect(),
        indexes: vec![offset, time, producers, epochs, transactions],
        indexes_crc: crc,
        deleting: row.state == State::DeleteStarted,
    }
}

pub(super) fn segment_from(row: pb::Segment) -> Read<segment::Row> {
    let [offset, time, producers, epochs, transactions] = row.indexes[..] else {
        return Err(Unreadable(format!("a segment with {} indexes", row.indexes.len())));
    };
    let epoch = |e: &pb::SegmentEpoch| (LeaderEpoch(e.leader_epoch), Offset(e.from));
    Ok(segment::Row {
        id: Uuid::from_bytes(array(&row.id)?),
        base: Offset(row.base),
        last: Offset(row.last),
        max_timestamp: Millis(row.max_timestamp),
        bytes: row.bytes,
        epochs: row.epochs.iter().map(epoch).collect(),
        indexes: Layout { offset, time, producers, epochs, transactions, crc: row.indexes_crc },
        state: if row.deleting { State::DeleteStarted } else { State::CopyFinished },
    })
}

/// An entity and the quotas set (`Some`) or removed (`None`) of it.
pub(super) type Quotas = (Entity, Vec<(String, Option<Rate>)>);

pub(super) fn quotas_to<'a>(
    entity: &Entity,
    set: impl Iterator<Item = (&'a str, Option<Rate>)>,
) -> pb::QuotasSet {
    let part =
        |part: &Option<Part>| part.as_ref().map(|p| pb::QuotaPart { name: p.name().map(str::to_owned) });
    pb::QuotasSet {
        user: part(&entity.user),
        client: part(&entity.client),
        ip: part(&entity.ip),
        set: set.map(|(key, rate)| pb::Quota { key: key.to_owned(), value: rate.map(Rate::value) }).collect(),
    }
}

pub(super) fn quotas_from(row: pb::QuotasSet) -> Read<Quotas> {
    let part = |part: Option<pb::QuotaPart>| part.map(|p| Part::from_name(p.name));
    let entity = Entity { user: part(row.user), client: part(row.client), ip: part(row.ip) };
    if entity == Entity::default() {
        return Err(Unreadable("quotas of nobody".into()));
    }
    Ok((entity, row.set.into_iter().map(|q| (q.key, q.value.map(Rate::new))).collect()))
}

pub(super) fn configs_to(configs: &BTreeMap<String, String>) -> Vec<pb::Config> {
    configs.iter().map(|(key, value)| pb::Config { key: key.clone(), value: Some(value.clone()) }).collect()
}

pub(super) fn configs_from(configs: Vec<pb::Config>) -> BTreeMap<String, String> {
    configs.into_iter().filter_map(|c| Some((c.key, c.value?))).collect()
}
