//! Admin requests over a connection: a row for everything asked for, and nothing done where one only asks.

use std::collections::BTreeSet;

use tidemark_proto::id::{BrokerEpoch, BrokerId, Life, PartitionIndex};
use tidemark_proto::kafka::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use tidemark_proto::kafka::messages::alter_replica_log_dirs_request::{
    AlterReplicaLogDir, AlterReplicaLogDirTopic,
};
use tidemark_proto::kafka::messages::create_partitions_request::CreatePartitionsTopic;
use tidemark_proto::kafka::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use tidemark_proto::kafka::messages::delete_topics_request::DeleteTopicState;
use tidemark_proto::kafka::messages::describe_configs_request::DescribeConfigsResource;
use tidemark_proto::kafka::messages::describe_log_dirs_request::DescribableLogDirTopic;
use tidemark_proto::kafka::messages::describe_producers_request::TopicRequest;
use tidemark_proto::kafka::messages::elect_leaders_request::TopicPartitions;
use tidemark_proto::kafka::messages::metadata_request::MetadataRequestTopic;
use tidemark_proto::kafka::messages::{
    AlterConfigsRequest, AlterPartitionReassignmentsRequest, AlterReplicaLogDirsRequest,
    CreatePartitionsRequest, CreateTopicsRequest, DeleteGroupsRequest, DeleteTopicsRequest,
    DescribeConfigsRequest, DescribeConfigsResponse, DescribeGroupsRequest, DescribeLogDirsRequest,
    DescribeProducersRequest, DescribeTransactionsRequest, ElectLeadersRequest, FindCoordinatorRequest,
    IncrementalAlterConfigsRequest, MetadataRequest, alter_configs_request,
    incremental_alter_configs_request,
};
use tidemark_proto::kafka::text::Text;

use super::log_house::{House, batch};
use super::metadata;
use super::testing::World;
use crate::cluster::image::Broker;
use crate::cluster::record::Record;

const TOPIC: i8 = 2;
const BROKER: i8 = 4;

fn new(name: &str, partitions: i32, replication_factor: i16) -> CreatableTopic {
    CreatableTopic { name: name.into(), num_partitions: partitions, replication_factor, ..Default::default() }
}

/// Sets `key` on a resource.
fn set(
    kind: i8,
    name: &str,
    key: &str,
    value: &str,
) -> incremental_alter_configs_request::AlterConfigsResource {
    incremental_alter_configs_request::AlterConfigsResource {
        resource_type: kind,
        resource_name: name.into(),
        configs: vec![incremental_alter_configs_request::AlterableConfig {
            name: key.into(),
            config_operation: 0,
            value: Some(value.into()),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// The same, which replaces all that was set.
fn replace(kind: i8, name: &str, key: &str, value: &str) -> alter_configs_request::AlterConfigsResource {
    alter_configs_request::AlterConfigsResource {
        resource_type: kind,
        resource_name: name.into(),
        configs: vec![alter_configs_request::AlterableConfig {
            name: key.into(),
            value: Some(value.into()),
            ..Default::default()
        }],
        ..Default::default()
    }
}

impl House {
    async fn create(&self, topic: CreatableTopic, validate_only: bool) -> i16 {
        let request = CreateTopicsRequest {
            topics: vec![topic],
            timeout_ms: 30_000,
            validate_only,
            ..Default::default()
        };
        self.client.call(7, &request).await.unwrap().topics[0].error_code
    }

    async fn alter(&self, kind: i8, name: &str, key: &str, value: &str, validate_only: bool) -> i16 {
        let resources = vec![set(kind, name, key, value)];
        let request = IncrementalAlterConfigsRequest { resources, validate_only, ..Default::default() };
        self.client.call(1, &request).await.unwrap().responses[0].error_code
    }

    async fn configs(&self, resources: &[(i8, &str)]) -> DescribeConfigsResponse {
        let resources = resources.iter().map(|(resource_type, name)| DescribeConfigsResource {
            resource_type: *resource_type,
            resource_name: (*name).into(),
            configuration_keys: None,
            ..Default::default()
        });
        let request = DescribeConfigsRequest { resources: resources.collect(), ..Default::default() };
        self.client.call(4, &request).await.unwrap()
    }

    /// A config of the topic `t`, if it is shown.
    async fn config(&self, key: &str) -> Option<String> {
        let told = self.configs(&[(TOPIC, "t")]).await;
        let row = told.results[0].configs.iter().find(|row| &*row.name == key)?;
        row.value.as_deref().map(str::to_owned)
    }

    /// Code, partitions and replicas of each partition of a topic that is asked for by name.
    async fn look(&self, version: i16, name: &str, create: bool) -> (i16, usize, usize) {
        let topic = MetadataRequestTopic { name: Some(name.into()), ..Default::default() };
        let request = MetadataRequest {
            topics: Some(vec![topic]),
            allow_auto_topic_creation: create,
            ..Default::default()
        };
        let topic = self.client.call(version, &request).await.unwrap().topics.remove(0);
        let replicas = topic.partitions.first().map_or(0, |p| p.replica_nodes.len());
        (topic.error_code, topic.partitions.len(), replicas)
    }
}

#[tokio::test(start_paused = true)]
async fn every_topic_of_an_admin_request_has_its_row() {
    let mut house = House::open().await;
    house.topic("t", &[]).await;
    let topics = ["x", "t", "a b"].map(|name| new(name, 1, 1)).to_vec();
    let request = CreateTopicsRequest { topics, timeout_ms: 30_000, ..Default::default() };
    let made = house.client.call(7, &request).await.unwrap().topics;
    let made: Vec<_> = made.iter().map(|t| (t.name.as_str(), t.error_code)).collect();
    assert_eq!(made, [("x", 0), ("t", 36), ("a b", 17)]);

    let more = |(name, count): (&str, i32)| CreatePartitionsTopic {
        name: name.into(),
        count,
        assignments: None,
        ..Default::default()
    };
    let topics = [("t", 2), ("nope", 2), ("x", 1)].map(more).to_vec();
    let request = CreatePartitionsRequest { topics, timeout_ms: 30_000, ..Default::default() };
    let grown = house.client.call(3, &request).await.unwrap().results;
    let grown: Vec<_> = grown.iter().map(|t| (t.name.as_str(), t.error_code)).collect();
    assert_eq!(grown, [("t", 0), ("nope", 3), ("x", 37)]);

    let named = |name: &str| DeleteTopicState { name: Some(name.into()), ..Default::default() };
    let topics = vec![named("nope"), named("x")];
    let request = DeleteTopicsRequest { topics, timeout_ms: 30_000, ..Default::default() };
    let gone = house.client.call(6, &request).await.unwrap().responses;
    let gone: Vec<_> = gone.iter().map(|t| (t.name.as_deref(), t.error_code)).collect();
    assert_eq!(gone, [(Some("nope"), 3), (Some("x"), 0)]);
}

#[tokio::test(start_paused = true)]
async fn every_resource_of_a_request_about_configs_has_its_row() {
    let mut house = House::open().await;
    house.topic("t", &[]).await;
    let told = house.configs(&[(TOPIC, "t"), (TOPIC, "nope"), (BROKER, "1"), (BROKER, "9"), (77, "x")]).await;
    let told: Vec<_> = told.results.iter().map(|r| (r.resource_name.as_str(), r.error_code)).collect();
    assert_eq!(told, [("t", 0), ("nope", 3), ("1", 0), ("9", 42), ("x", 42)]);
    let (key, value) = ("retention.ms", "5");
    let resources =
        vec![set(TOPIC, "t", key, value), set(TOPIC, "nope", key, value), set(BROKER, "9", key, value)];
    let request = IncrementalAlterConfigsRequest { resources, ..Default::default() };
    let set = house.client.call(1, &request).await.unwrap().responses;
    let set: Vec<_> = set.iter().map(|r| (r.resource_name.as_str(), r.error_code)).collect();
    assert_eq!(set, [("t", 0), ("nope", 3), ("9", 42)]);
    let resources = vec![replace(TOPIC, "nope", key, value), replace(TOPIC, "t", "segment.ms", "7")];
    let request = AlterConfigsRequest { resources, ..Default::default() };
    let replaced = house.client.call(2, &request).await.unwrap().responses;
    let replaced: Vec<_> = replaced.iter().map(|r| (r.resource_name.as_str(), r.error_code)).collect();
    assert_eq!(replaced, [("nope", 3), ("t", 0)]);
    let now = (house.config("retention.ms").await, house.config("segment.ms").await);
    assert_eq!(now, (Some("604800000".into()), Some("7".into())), "what is not named is reset");
}

#[tokio::test(start_paused = true)]
async fn every_group_and_partition_of_a_request_has_its_row() {
    let mut house = House::open().await;
    house.topic("t", &[]).await;
    let names = || ["g", "h"].map(Text::from_static).to_vec();
    let request = FindCoordinatorRequest { coordinator_keys: names(), ..Default::default() };
    let found = house.client.call(6, &request).await.unwrap().coordinators;
    assert_eq!(found.iter().map(|c| &c.key).collect::<Vec<_>>(), names().iter().collect::<Vec<_>>());
    let request = DescribeGroupsRequest { groups: names(), ..Default::default() };
    assert_eq!(house.client.call(5, &request).await.unwrap().groups.len(), 2);
    let request = DeleteGroupsRequest { groups_names: names() };
    assert_eq!(house.client.call(2, &request).await.unwrap().results.len(), 2);
    let request = DescribeTransactionsRequest { transactional_ids: names(), ..Default::default() };
    assert_eq!(house.client.call(0, &request).await.unwrap().transaction_states.len(), 2);

    let of =
        |name: &str| TopicRequest { name: name.into(), partition_indexes: vec![0, 9], ..Default::default() };
    let request = DescribeProducersRequest { topics: vec![of("t"), of("nope")], ..Default::default() };
    let told = house.client.call(0, &request).await.unwrap().topics;
    assert!(told.iter().flat_map(|t| &t.partitions).map(|p| p.error_code).eq([0, 3, 3, 3]));
    let of =
        |name: &str| TopicPartitions { topic: name.into(), partitions: vec![0, 9], ..Default::default() };
    let topic_partitions = Some(vec![of("t"), of("nope")]);
    let request = ElectLeadersRequest { topic_partitions, timeout_ms: 30_000, ..Default::default() };
    let told = house.client.call(2, &request).await.unwrap().replica_election_results;
    assert!(told.iter().flat_map(|t| &t.partition_result).map(|p| p.error_code).eq([84, 3, 3, 3]));
    let to = |partition_index| ReassignablePartition {
        partition_index,
        replicas: Some(vec![1]),
        ..Default::default()
    };
    let of = |name: &str| ReassignableTopic {
        name: name.into(),
        partitions: vec![to(0), to(9)],
        ..Default::default()
    };
    let topics = vec![of("t"), of("nope")];
    let request = AlterPartitionReassignmentsRequest { topics, timeout_ms: 30_000, ..Default::default() };
    let told = house.client.call(0, &request).await.unwrap().responses;
    assert!(told.iter().flat_map(|t| &t.partitions).map(|p| p.error_code).eq([0, 3, 3, 3]));
}

#[tokio::test(start_paused = true)]
async fn who_only_validates_changes_nothing() {
    let mut house = House::open().await;
    house.topic("t", &[]).await;
    assert_eq!(house.create(new("x", 3, 1), true).await, 0);
    assert_eq!(house.create(new("t", 3, 1), true).await, 36, "what could not be is told");
    assert_eq!(house.look(12, "x", false).await.0, 3);
    let topic = CreatePartitionsTopic { name: "t".into(), count: 5, ..Default::default() };
    let request = CreatePartitionsRequest {
        topics: vec![CreatePartitionsTopic { assignments: None, ..topic }],
        timeout_ms: 30_000,
        validate_only: true,
        ..Default::default()
    };
    assert_eq!(house.client.call(3, &request).await.unwrap().results[0].error_code, 0);
    assert_eq!(house.look(12, "t", false).await, (0, 1, 1));
    assert_eq!(house.alter(TOPIC, "t", "retention.ms", "5", true).await, 0);
    assert_eq!(house.alter(TOPIC, "t", "retention.ms", "five", true).await, 40);
    let resources = vec![replace(TOPIC, "t", "segment.ms", "7")];
    let request = AlterConfigsRequest { resources, validate_only: true, ..Default::default() };
    assert_eq!(house.client.call(2, &request).await.unwrap().responses[0].error_code, 0);
    let now = (house.config("retention.ms").await, house.config("segment.ms").await);
    assert_eq!(now, (Some("604800000".into()), Some("604800000".into())));
}

#[tokio::test(start_paused = true)]
async fn any_replication_factor_is_taken_and_as_many_replicas_are_told_as_brokers_live() {
    let house = House::open().await;
    for (name, factor) in [("one", 1), ("three", 3), ("many", i16::MAX), ("default", -1)] {
        assert_eq!(house.create(new(name, 2, factor), false).await, 0, "{name}");
        assert_eq!(house.look(12, name, false).await, (0, 2, 1), "{name}");
    }
    assert_eq!(house.create(new("none", 1, 0), false).await, 38);
}

#[test]
fn replicas_are_as_many_brokers_as_live_of_different_racks_first_and_all_in_sync() {
    let mut world = World::new();
    for (node, rack) in [(3_u16, "rack-1"), (4, "rack-3")] {
        let first = world.image.broker(BrokerId(1)).unwrap().clone();
        let (epoch, life) = (BrokerEpoch(u64::from(node)), Life(u128::from(node)));
        let broker =
            Broker { node: BrokerId(i32::from(node)), epoch, life, rack: Some(rack.into()), ..first };
        world.image.apply(&Record::BrokerRegistered { broker, lanes: 1 });
    }
    let (seen, topic) = (world.view(3, 12), world.image.topic_named("orders").unwrap());
    for index in 0..4 {
        let row = metadata::partition(&seen.look(), topic, PartitionIndex(index));
        let rack = |id: &i32| world.image.broker(BrokerId(*id)).unwrap().rack.clone();
        let racks: BTreeSet<_> = row.replica_nodes.iter().map(rack).collect();
        assert_eq!((row.replica_nodes.len(), racks.len()), (3, 3), "{:?} of four", row.replica_nodes);
        assert_eq!(row.replica_nodes[0], row.leader_id);
        assert_eq!((row.isr_nodes, row.offline_replicas), (row.replica_nodes, vec![]));
    }
}

#[test]
fn the_controller_that_is_told_is_a_broker_that_lives() {
    let world = World::new();
    let seen = world.view(3, 12);
    let told = seen.look().controller();
    assert!(seen.look().brokers().any(|(broker, _)| broker.node.0 == told), "{told}");
}

#[tokio::test(start_paused = true)]
async fn topics_are_created_on_demand_at_once_and_only_where_both_sides_want_it() {
    let house = House::open().await;
    assert_eq!(house.look(3, "old-client", true).await, (0, 1, 1), "before v4 nobody could say no");
    assert_eq!(house.look(12, "asked", true).await, (0, 1, 1));
    assert_eq!(house.look(4, "unasked", false).await.0, 3);
    assert_eq!(house.look(12, "not a name", true).await.0, 17);
    let listed =
        house.client.call(12, &MetadataRequest { topics: None, ..Default::default() }).await.unwrap();
    let names: Vec<_> = listed.topics.iter().filter_map(|t| t.name.as_deref()).collect();
    assert_eq!(names, ["asked", "old-client"], "who asks for all creates none");
    let house = House::with(&["auto.create.topics.enable=false"]).await;
    assert_eq!(house.look(12, "asked", true).await.0, 3);
}

#[tokio::test(start_paused = true)]
async fn a_broker_has_one_log_directory_with_what_it_leads_and_no_end() {
    let mut house = House::open().await;
    house.topic("t", &[]).await;
    house.topic("empty", &[]).await;
    house.produce(9, "t", &batch(&[1, 2, 3])).await;
    let ask = async |topics| {
        let answer = house.client.call(4, &DescribeLogDirsRequest { topics, ..Default::default() }).await;
        let mut dirs = answer.unwrap().results;
        assert_eq!((dirs.len(), dirs[0].error_code), (1, 0));
        assert_eq!((dirs[0].total_bytes, dirs[0].usable_bytes), (-1, -1));
        let topics = std::mem::take(&mut dirs[0].topics).into_iter();
        let mut sizes: Vec<_> =
            topics.map(|t| (t.name.as_str().to_owned(), t.partitions[0].partition_size > 0)).collect();
        sizes.sort();
        sizes
    };
    assert_eq!(ask(None).await, [("empty".to_owned(), false), ("t".to_owned(), true)]);
    let named = |name: &str| DescribableLogDirTopic {
        topic: name.into(),
        partitions: vec![0, 9],
        ..Default::default()
    };
    assert_eq!(ask(Some(vec![named("t"), named("nope")])).await, [("t".to_owned(), true)]);
}

#[tokio::test(start_paused = true)]
async fn there_is_no_other_log_directory_to_move_a_partition_to() {
    let mut house = House::open().await;
    house.topic("t", &[]).await;
    let topic = || AlterReplicaLogDirTopic { name: "t".into(), partitions: vec![0, 9], ..Default::default() };
    let dir =
        |path: &str| AlterReplicaLogDir { path: path.into(), topics: vec![topic()], ..Default::default() };
    let dirs = vec![dir("/somewhere/else"), dir("memory:")];
    let request = AlterReplicaLogDirsRequest { dirs, ..Default::default() };
    for version in 1..=2 {
        let told = house.client.call(version, &request).await.unwrap().results;
        let codes = told.iter().flat_map(|t| &t.partitions).map(|p| p.error_code);
        assert_eq!(codes.collect::<Vec<_>>(), [57, 57, 0, 0], "v{version}: the bucket is where they are");
    }
}

#[tokio::test(start_paused = true)]
async fn a_topic_refuses_what_it_does_not_know_and_takes_names_of_older_kafkas_in_silence() {
    let house = House::open().await;
    let with = |name: &str, key: &str, value: &str| {
        let config =
            CreatableTopicConfig { name: key.into(), value: Some(value.into()), ..Default::default() };
        CreatableTopic { configs: vec![config], ..new(name, 1, 1) }
    };
    assert_eq!(house.create(with("x", "no.such", "1"), false).await, 40);
    assert_eq!(house.create(with("x", "internal.segment.bytes", "1"), false).await, 40);
    assert_eq!(house.create(with("x", "remote.log.copy.disable", "true"), false).await, 40);
    assert_eq!(house.create(with("t", "message.format.version", "3.0"), false).await, 0);
    assert_eq!(house.alter(TOPIC, "t", "message.downconversion.enable", "true", false).await, 0);
    assert_eq!(house.alter(TOPIC, "t", "no.such", "1", false).await, 40);
    assert_eq!(house.config("message.format.version").await, None);
    assert_eq!(house.config("message.downconversion.enable").await, None);
}
