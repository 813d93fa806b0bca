//! The whole image as one message (E9). The cluster id and the position stand in the object's header.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tidemark_proto::id::{
    BrokerEpoch, BrokerId, ClusterId, Generation, LeaderEpoch, Offset, Position, ProducerId, Seq,
};
use tidemark_proto::rpc::meta::v1 as pb;
use uuid::Uuid;

use super::super::image::{ChainEntry, Controller, Deleted, Image, Lane, Link, Partition, Successor, Topic};
use super::super::record::Scope;
use super::{Read, array, id_bytes, lane_from, lane_to, life, life_bytes, nonce, rows, unreadable};

/// The snapshot's body.
pub fn snapshot_of(image: &Image) -> Bytes {
    let controller = image.controller().map(|c| pb::Controller {
        generation: c.generation.0,
        nonce: c.nonce.to_bytes().to_vec().into(),
        life: life_bytes(c.life),
        node: c.node.map(|n| n.0),
        address: c.address.clone(),
    });
    let lane = |(id, row): (_, &Lane)| pb::LaneRow {
        lane: Some(lane_to(id)),
        node: row.node.0,
        low: row.low.0,
        sealed: row.sealed.map(|s| s.0),
        recoverer: row.recoverer.map(|n| n.0),
    };
    let message = pb::Snapshot {
        version: image.version,
        last_nonce: image.link.nonce.to_bytes().to_vec().into(),
        last_crc: image.link.crc,
        controller,
        brokers: image.brokers().map(rows::broker_to).collect(),
        lanes: image.lanes().map(lane).collect(),
        topics: image.topics.values().map(|t| topic_to(t)).collect(),
        deleted: image
            .deleted()
            .map(|(id, row)| pb::DeletedRow { id: id_bytes(id.0), name: row.name.to_string(), at: row.at })
            .collect(),
        runs: image.runs().map(|run| rows::run_to(run)).collect(),
        checkpoints: image.checkpoints().map(rows::checkpoint_to).collect(),
        configs: configs_of(image),
        features: image
            .features
            .iter()
            .map(|(name, level)| pb::FeatureLevel { name: name.clone(), level: i32::from(*level) })
            .collect(),
        quotas: image
            .quotas
            .iter()
            .map(|(entity, row)| {
                rows::quotas_to(entity, row.iter().map(|(key, rate)| (key.as_str(), Some(*rate))))
            })
            .collect(),
        next_epoch: image.next_epoch.0,
        next_producer: image.next_producer.0,
        swept: Some(super::swept_to(image.swept)),
    };
    message.encode_to_vec().into()
}

/// The inverse of [`snapshot_of`].
pub fn snapshot_from(cluster: ClusterId, position: Position, body: Bytes) -> Read<Image> {
    let from = pb::Snapshot::decode(body).or_else(|e| unreadable(e.to_string()))?;
    let mut image = Image { cluster, position, ..Image::default() };
    image.version = from.version;
    image.link = Link { nonce: nonce(&from.last_nonce)?, crc: from.last_crc };
    if let Some(c) = from.controller {
        image.controller = Some(Arc::new(Controller {
            generation: Generation(c.generation),
            nonce: nonce(&c.nonce)?,
            life: life(&c.life)?,
            node: c.node.map(BrokerId),
            address: c.address,
        }));
    }
    let brokers = Arc::make_mut(&mut image.brokers);
    for row in from.brokers {
        let row = rows::broker_from(row)?;
        brokers.insert(row.node, Arc::new(row));
    }
    let lanes = Arc::make_mut(&mut image.lanes);
    for row in from.lanes {
        let id = lane_from(row.lane)?;
        let (node, low) = (BrokerId(row.node), Seq(row.low));
        let (sealed, recoverer) = (row.sealed.map(Seq), row.recoverer.map(BrokerId));
        lanes.insert(id, Lane { node, low, sealed, recoverer });
    }
    for row in from.topics {
        let topic = topic_from(row)?;
        Arc::make_mut(&mut image.names).insert(topic.name.clone(), topic.id);
        Arc::make_mut(&mut image.topics).insert(topic.id, Arc::new(topic));
    }
    for row in from.deleted {
        let id = super::topic_id(&row.id)?;
        let row = Deleted { name: row.name.into(), at: row.at };
        Arc::make_mut(&mut image.deleted).insert(id, row);
    }
    let mut runs = from.runs.into_iter().map(rows::run_from).collect::<Read<Vec<_>>>()?;
    runs.sort_by_key(|row| (row.committed, row.id));
    runs.into_iter().for_each(|row| image.run_named(row));
    for row in from.checkpoints {
        let row = rows::checkpoint_from(row)?;
        Arc::make_mut(&mut image.checkpoints).insert(row.id, Arc::new(row));
    }
    for row in from.configs {
        let configs = rows::configs_from(row.set);
        match super::scope_from(row.scope)? {
            Scope::Topic(_) => return unreadable("topic configs outside their topic"),
            Scope::Broker(node) => {
                Arc::make_mut(&mut image.broker_configs).insert(node, configs);
            }
            Scope::Group(name) => {
                Arc::make_mut(&mut image.group_configs).insert(name, configs);
            }
            Scope::ClientMetrics(name) => {
                Arc::make_mut(&mut image.client_metrics).insert(name, configs);
            }
        }
    }
    for row in from.features {
        Arc::make_mut(&mut image.features).insert(row.name, super::small(row.level)?);
    }
    for row in from.quotas {
        let (entity, set) = rows::quotas_from(row)?;
        let set = set.into_iter().filter_map(|(key, rate)| Some((key, rate?)));
        Arc::make_mut(&mut image.quotas).insert(entity, set.collect());
    }
    image.next_epoch = BrokerEpoch(from.next_epoch);
    image.next_producer = ProducerId(from.next_producer);
    image.swept = from.swept.as_ref().map(super::swept_from).unwrap_or_default();
    image.count_led();
    Ok(image)
}

/// Configs of everything but topics, which carry their own.
fn configs_of(image: &Image) -> Vec<pb::ConfigSet> {
    let row = |scope: Scope, configs| pb::ConfigSet {
        scope: Some(super::scope_to(&scope)),
        set: rows::configs_to(configs),
    };
    let brokers = image.broker_configs.iter().map(|(node, configs)| row(Scope::Broker(*node), configs));
    let groups = image.group_configs().map(|(name, configs)| row(Scope::Group(name.to_owned()), configs));
    let metrics =
        image.client_metrics().map(|(name, configs)| row(Scope::ClientMetrics(name.to_owned()), configs));
    brokers.chain(groups).chain(metrics).collect()
}

fn topic_to(topic: &Topic) -> pb::TopicRow {
    let entry = |e: &ChainEntry| pb::ChainEntry {
        lane: Some(lane_to(e.lane)),
        leader_epoch: e.leader_epoch.0,
        from: e.from.0,
        to: e.to.map(|s| s.0),
    };
    let partition = |p: &Partition| pb::PartitionRow {
        leader: p.leader.map(|n| n.0),
        leader_epoch: p.leader_epoch.0,
        chain: p.chain.iter().map(entry).collect(),
        assigned_at: p.assigned_at,
        home: p.home.map(id_bytes).unwrap_or_default(),
        log_start: p.log_start.0,
        cleaned: p.cleaned.0,
        successor: p.successor.map(|s| pb::Successor {
            node: s.node.0,
            ready: s.ready,
            from: s.from.0,
            planned: s.planned,
        }),
        assigned: p.assigned.iter().map(|n| n.0).collect(),
        assigned_before: p
            .assigned_before
            .as_ref()
            .map(|before| pb::Nodes { nodes: before.iter().map(|n| n.0).collect() }),
        segments: p.segments().iter().map(|row| rows::segment_to(row)).collect(),
    };
    pb::TopicRow {
        id: id_bytes(topic.id.0),
        name: topic.name.to_string(),
        replication: i32::from(topic.replication),
        configs: rows::configs_to(&topic.configs),
        partitions: topic.partitions.iter().map(partition).collect(),
        created: topic.created,
    }
}

fn topic_from(row: pb::TopicRow) -> Read<Topic> {
    let entry = |e: pb::ChainEntry| {
        let (lane, leader_epoch) = (lane_from(e.lane)?, LeaderEpoch(e.leader_epoch));
        Ok(ChainEntry { lane, leader_epoch, from: Seq(e.from), to: e.to.map(Seq) })
    };
    let partition = |p: pb::PartitionRow| {
        let home = match p.home.is_empty() {
            true => None,
            false => Some(Uuid::from_bytes(array(&p.home)?)),
        };
        Ok(Partition {
            leader: p.leader.map(BrokerId),
            leader_epoch: LeaderEpoch(p.leader_epoch),
            chain: p.chain.into_iter().map(entry).collect::<Read<_>>()?,
            assigned_at: p.assigned_at,
            home,
            log_start: Offset(p.log_start),
            cleaned: Offset(p.cleaned),
            successor: p.successor.map(|s| Successor {
                node: BrokerId(s.node),
                ready: s.ready,
                from: Seq(s.from),
                planned: s.planned,
            }),
            assigned: p.assigned.into_iter().map(BrokerId).collect(),
            assigned_before: p.assigned_before.map(|n| n.nodes.into_iter().map(BrokerId).collect()),
            segments: match p.segments.is_empty() {
                true => None,
                false => {
                    let rows = p.segments.into_iter().map(|row| rows::segment_from(row).map(Arc::new));
                    Some(Arc::new(rows.collect::<Read<_>>()?))
                }
            },
        })
    };
    Ok(Topic {
        id: super::topic_id(&row.id)?,
        name: row.name.into(),
        replication: super::small(row.replication)?,
        configs: rows::configs_from(row.configs),
        partitions: row.partitions.into_iter().map(partition).collect::<Read<_>>()?,
        created: row.created,
    })
}
