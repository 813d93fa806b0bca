//! The metadata as older levels wrote it is read for ever: real bytes of each under `testdata/meta/`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tidemark_proto::id::{
    BrokerEpoch, BrokerId, ClusterId, Generation, LaneId, Life, Millis, Offset, PartitionIndex, Position,
    ProducerId, Seq, TopicId, TopicPartition,
};
use uuid::Uuid;

use super::super::image::{Broker, CheckpointRow, Endpoint, Image, RunRow};
use super::super::quota::{Entity, Part, Rate};
use super::super::record::{Closed, Placed, Record, Scope};
use super::super::wire::{Entry, number_of, snapshot_from, snapshot_of};

const TOPIC: TopicId = TopicId(Uuid::from_u128(7));

fn lane(node: u16) -> LaneId {
    LaneId { epoch: BrokerEpoch(u64::from(node)), lane: 0, life: Life(u128::from(node)) }
}

fn broker(node: u16) -> Broker {
    let endpoint = Endpoint {
        listener: "PLAINTEXT".into(),
        protocol: "PLAINTEXT".into(),
        host: format!("broker-{node}"),
        port: 9092,
    };
    Broker {
        node: BrokerId(i32::from(node)),
        epoch: BrokerEpoch(u64::from(node)),
        life: Life(u128::from(node)),
        endpoints: vec![endpoint],
        peer: format!("broker-{node}:7000"),
        rack: Some("a".into()),
        alive: true,
        ..Broker::default()
    }
}

fn of(indexes: &[i32]) -> Vec<(TopicId, Vec<PartitionIndex>)> {
    vec![(TOPIC, indexes.iter().map(|index| PartitionIndex(*index)).collect())]
}

fn placed(node: u16) -> Placed {
    Placed { node: BrokerId(i32::from(node)), lane: lane(node), from: Seq(0) }
}

/// What a controller might have written at level 1, every kind at least once.
fn level_1() -> Vec<Record> {
    let registered = |node| Record::BrokerRegistered { broker: broker(node), lanes: 1 };
    let configs: BTreeMap<String, String> = [("retention.ms".to_owned(), "5".to_owned())].into();
    let set = vec![("retention.ms".to_owned(), Some("6".to_owned())), ("segment.ms".to_owned(), None)];
    let run = RunRow {
        id: Uuid::from_u128(21),
        key: "run/1".into(),
        bytes: 9,
        ranges: vec![(0, 5)],
        max_timestamp: Millis(3),
        lanes: vec![(lane(1), Seq(0), Seq(2))],
        ..RunRow::default()
    };
    let checkpoint = CheckpointRow {
        id: Uuid::from_u128(22),
        key: "check/1".into(),
        lane: lane(1),
        upto: Seq(2),
        bytes: 4,
        ..CheckpointRow::default()
    };
    let other = TopicId(Uuid::from_u128(8));
    let created = |id, name: &str, placed| Record::TopicCreated {
        id,
        name: name.to_owned(),
        replication: 3,
        configs: configs.clone(),
        placed,
    };
    vec![
        Record::ControllerAnnounced {
            generation: Generation(1),
            life: Life(1),
            node: Some(BrokerId(1)),
            address: "broker-1:7000".into(),
        },
        registered(1),
        registered(2),
        registered(3),
        created(TOPIC, "t", vec![Some(placed(1)), Some(placed(2)), None]),
        Record::PartitionsAdded { topic: TOPIC, placed: vec![Some(placed(3))] },
        created(other, "u", vec![Some(placed(2))]),
        Record::TopicDeleted { id: other },
        Record::TopicForgotten { id: other },
        Record::CutCommitted {
            lane: lane(1),
            low: Seq(2),
            runs: vec![run],
            checkpoint: Some(checkpoint),
            version: 9,
        },
        Record::MovesPlanned { to: Some(BrokerId(2)), partitions: of(&[0]) },
        Record::SuccessorReady { node: BrokerId(2), from: Seq(4), partitions: of(&[0]) },
        Record::ReplicasAssigned { replicas: vec![BrokerId(2), BrokerId(1)], partitions: of(&[1]) },
        Record::BrokerDraining { node: BrokerId(2), epoch: BrokerEpoch(2) },
        Record::BrokerFenced { node: BrokerId(3), epoch: BrokerEpoch(3) },
        Record::LaneSealed { lane: lane(3), at: Seq(5), recoverer: Some(BrokerId(1)) },
        Record::LaneRecoverer { lane: lane(3), recoverer: BrokerId(2) },
        Record::PartitionsMoved {
            from: Some(Closed { lane: lane(3), to: Seq(5) }),
            to: Some(placed(1)),
            partitions: of(&[3]),
        },
        Record::BrokerRemoved { node: BrokerId(3) },
        Record::LogStartsMoved {
            starts: vec![(TopicPartition { topic: TOPIC, partition: PartitionIndex(1) }, Offset(3))],
        },
        Record::ConfigSet { scope: Scope::Topic(TOPIC), set: set.clone() },
        Record::ConfigSet { scope: Scope::Broker(None), set: set.clone() },
        Record::ConfigSet { scope: Scope::Group("g".into()), set },
        Record::QuotasSet {
            entity: Entity { user: Some(Part::from_name(Some("me".into()))), client: None, ip: None },
            set: vec![("producer_byte_rate".into(), Some(Rate::new(1.5)))],
        },
        Record::ProducerIdsAllocated { next: ProducerId(1_000) },
        Record::FeatureLevel { name: "metadata.version".into(), level: 29 },
        Record::LaneForgotten { lane: lane(9) },
        Record::LogSwept { below: Position { generation: Generation(1), seq: Seq(3) } },
    ]
}

/// The bytes kept under this name; made once, where they are not there yet.
fn kept(name: &str, made: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/meta").join(name);
    if !file.exists() && std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, made()).unwrap();
    }
    std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

#[test]
fn a_log_of_level_1_is_read_as_it_was_meant() {
    let records = level_1();
    let kinds: std::collections::BTreeSet<u64> = records.iter().map(number_of).collect();
    assert_eq!(kinds, (1..=23).collect(), "every kind of that level");
    let entry = Entry { records, ..Entry::default() };
    let bytes = kept("log-1.bin", || entry.encode().to_vec());
    assert_eq!(Entry::decode(bytes.into()).unwrap(), entry);
}

#[test]
fn a_snapshot_of_level_1_is_read_as_it_was_meant() {
    let mut image = Image::default();
    level_1().iter().for_each(|record| image.apply(record));
    let bytes = kept("snapshot-1.bin", || snapshot_of(&image).to_vec());
    let read = snapshot_from(ClusterId::default(), Position::default(), bytes.into()).unwrap();
    assert_eq!(read, image);
}
