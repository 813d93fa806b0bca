//! Metadata (key 3, v0-13): brokers, topics, leaders.
//!
//! Addresses are those of the listener asked on. No topics in v0, null later: all that may be described; by id from
//! v12. A named topic that is not there is created when asked to (`auto.create.topics.enable`), and the answer already
//! has it. Replicas = ISR = min(RF, live) brokers, leader first; leader epochs as committed. Differs from Kafka: a topic
//! id is taken from v10 on.

use std::sync::Arc;
use std::time::Duration;

use tidemark_proto::id::{BrokerId, PartitionIndex, TopicId};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::metadata_request::MetadataRequestTopic;
use tidemark_proto::kafka::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use tidemark_proto::kafka::messages::{MetadataRequest, MetadataResponse};
use tidemark_proto::kafka::text::Text;

use super::view::{NOT_ASKED, View};
use super::{Ctx, Operation, Resource};
use crate::cluster::Command;
use crate::cluster::command::NewTopic;
use crate::cluster::image::Topic;
use crate::node::{Node, OFFSETS_TOPIC, is_internal};

/// How long a request waits for the topics it creates.
const CREATE_WAIT: Duration = Duration::from_secs(10);

/// Answers.
pub async fn handle(node: Arc<Node>, ctx: Arc<Ctx>, request: MetadataRequest) -> MetadataResponse {
    let image = node.cluster.image();
    let wanted = missing(&View::of(&node, &image, &ctx), &request);
    if wanted.is_empty() {
        return respond(&View::of(&node, &image, &ctx), &request);
    }
    let new = |name: Text| {
        let offsets = name == OFFSETS_TOPIC;
        let group = &node.config.group;
        NewTopic {
            id: TopicId(node.seams.entropy.uuid()),
            partitions: if offsets { group.offsets_partitions } else { -1 },
            replication: if offsets { group.offsets_replication } else { -1 },
            configs: if offsets { offsets_configs(group) } else { Vec::new() },
            name: name.into(),
            assignments: Vec::new(),
        }
    };
    let create =
        Command::CreateTopics { topics: wanted.into_iter().map(new).collect(), validate_only: false };
    // Whatever came of it stands in the image: it was created, or it was there by now, or it is still missing.
    match tokio::time::timeout(CREATE_WAIT, node.cluster.submit(create)).await {
        Ok(Ok(_)) => {}
        Ok(Err(code)) => tracing::debug!(%code, "topics were not created on demand"),
        Err(_) => tracing::debug!("topics were not created on demand in time"),
    }
    let image = node.cluster.image();
    respond(&View::of(&node, &image, &ctx), &request)
}

/// What `__consumer_offsets` is created with.
pub fn offsets_configs(group: &crate::config::Group) -> Vec<(String, Option<String>)> {
    let segment = group.offsets_segment_bytes.max(1 << 20).to_string();
    [("cleanup.policy", "compact"), ("compression.type", "producer"), ("segment.bytes", &segment)]
        .map(|(key, value)| (key.to_owned(), Some(value.to_owned())))
        .to_vec()
}

/// Names asked for that may and can be created now.
fn missing(view: &View<'_>, request: &MetadataRequest) -> Vec<Text> {
    let asked = request.topics.as_deref().unwrap_or_default();
    if !request.allow_auto_topic_creation || !view.config.auto_create_topics {
        return Vec::new();
    }
    let mut names: Vec<Text> = asked
        .iter()
        .filter(|topic| topic.topic_id.is_nil())
        .filter_map(|topic| topic.name.clone())
        .filter(|name| view.image.topic_named(name).is_none() && is_name(name))
        .filter(|name| view.allows(Operation::Describe, Resource::Topic(name)))
        .filter(|name| may_create(view, name))
        .map(|name| name.detached())
        .collect();
    names.sort();
    names.dedup();
    names
}

fn may_create(view: &View<'_>, name: &str) -> bool {
    view.allows(Operation::Create, Resource::Cluster) || view.allows(Operation::Create, Resource::Topic(name))
}

/// Kafka's rule for topic names: 1 to 249 of letters, digits, `.`, `_`, `-`, and neither `.` nor `..`.
pub fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=249).contains(&name.len()) && name.chars().all(plain) && name != "." && name != ".."
}

fn respond(view: &View<'_>, request: &MetadataRequest) -> MetadataResponse {
    let version = view.ctx.version;
    let brokers = view.brokers().map(|(broker, endpoint)| MetadataResponseBroker {
        node_id: broker.node.0,
        host: Text::from(endpoint.host.as_str()),
        port: i32::from(endpoint.port),
        rack: broker.rack.as_deref().map(Text::from),
        ..Default::default()
    });
    let operations = request.include_topic_authorized_operations;
    let topics = match &request.topics {
        None => all(view, operations),
        Some(topics) if topics.is_empty() && version == 0 => all(view, operations),
        Some(topics) => topics.iter().map(|topic| named(view, topic, operations)).collect(),
    };
    MetadataResponse {
        brokers: brokers.collect(),
        cluster_id: Some(view.cluster_id()),
        controller_id: view.controller(),
        topics,
        cluster_authorized_operations: match request.include_cluster_authorized_operations {
            true if view.allows(Operation::Describe, Resource::Cluster) => view.cluster_operations(),
            true => 0,
            false => NOT_ASKED,
        },
        ..Default::default()
    }
}

fn all(view: &View<'_>, operations: bool) -> Vec<MetadataResponseTopic> {
    let seen = view.image.topics().filter(|t| view.allows(Operation::Describe, Resource::Topic(&t.name)));
    seen.map(|found| topic(view, found, operations)).collect()
}

fn named(view: &View<'_>, asked: &MetadataRequestTopic, operations: bool) -> MetadataResponseTopic {
    let refused = |code: ErrorCode| MetadataResponseTopic {
        error_code: code.code(),
        name: Some(asked.name.clone().unwrap_or_default())
            .filter(|name| !name.is_empty() || view.ctx.version < 12),
        topic_id: asked.topic_id,
        topic_authorized_operations: NOT_ASKED,
        is_internal: asked.name.as_deref().is_some_and(is_internal),
        ..Default::default()
    };
    let describes = |name: &str| view.allows(Operation::Describe, Resource::Topic(name));
    match &asked.name {
        Some(name) if asked.topic_id.is_nil() => {
            if !describes(name) {
                return refused(ErrorCode::TopicAuthorizationFailed);
            }
            match view.image.topic_named(name) {
                Some(found) => topic(view, found, operations),
                None if !is_name(name) => refused(ErrorCode::InvalidTopicException),
                None => refused(ErrorCode::UnknownTopicOrPartition),
            }
        }
        None if asked.topic_id.is_nil() => refused(ErrorCode::InvalidRequest),
        _ => match view.image.topic(TopicId(asked.topic_id)).filter(|found| describes(&found.name)) {
            Some(found) => topic(view, found, operations),
            None => refused(ErrorCode::UnknownTopicId),
        },
    }
}

fn topic(view: &View<'_>, found: &Topic, operations: bool) -> MetadataResponseTopic {
    let partitions = (0..found.partitions.len()).filter_map(|index| i32::try_from(index).ok());
    MetadataResponseTopic {
        name: Some(Text::from(&*found.name)),
        topic_id: found.id.0,
        is_internal: is_internal(&found.name),
        partitions: partitions.map(|index| partition(view, found, PartitionIndex(index))).collect(),
        topic_authorized_operations: match operations {
            true => view.topic_operations(&found.name),
            false => NOT_ASKED,
        },
        ..Default::default()
    }
}

/// A partition's row.
pub fn partition(view: &View<'_>, topic: &Topic, index: PartitionIndex) -> MetadataResponsePartition {
    let replicas = view.image.replicas(topic, index);
    let in_sync = view.image.in_sync(&replicas);
    let ids = |nodes: &[BrokerId]| nodes.iter().map(|node| node.0).collect::<Vec<i32>>();
    let dead: Vec<BrokerId> = replicas.iter().filter(|node| !in_sync.contains(node)).copied().collect();
    let row = topic.partition(index);
    let leader = row.and_then(|row| row.leader).and_then(|node| view.image.broker(node)).filter(|b| b.alive);
    let error = match leader {
        None => ErrorCode::LeaderNotAvailable,
        Some(leader) if view.endpoint(leader).is_none() => match view.ctx.version {
            0..6 => ErrorCode::LeaderNotAvailable,
            _ => ErrorCode::ListenerNotFound,
        },
        Some(_) => ErrorCode::None,
    };
    MetadataResponsePartition {
        error_code: error.code(),
        partition_index: index.0,
        leader_id: leader.filter(|_| error == ErrorCode::None).map_or(-1, |leader| leader.node.0),
        leader_epoch: row.map_or(-1, |row| row.leader_epoch.0),
        isr_nodes: ids(&in_sync),
        offline_replicas: ids(&dead),
        replica_nodes: ids(&replicas),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::World;

    fn ask(names: &[&str]) -> MetadataRequest {
        let topics = names
            .iter()
            .map(|name| MetadataRequestTopic { name: Some((*name).into()), ..Default::default() });
        MetadataRequest { topics: Some(topics.collect()), ..Default::default() }
    }

    fn by_id(id: TopicId) -> MetadataRequest {
        let topic = MetadataRequestTopic { topic_id: id.0, name: None, ..Default::default() };
        MetadataRequest { topics: Some(vec![topic]), ..Default::default() }
    }

    #[test]
    fn brokers_have_the_addresses_of_the_listener_asked_on() {
        let world = World::new();
        for (listener, port) in [("PLAINTEXT", 9092), ("EXTERNAL", 19092)] {
            let response = respond(&world.view(3, 12).on(listener).look(), &ask(&[]));
            assert_eq!(response.brokers.iter().map(|b| b.port).collect::<Vec<_>>(), [port, port + 1]);
        }
        let response = respond(&world.view(3, 12).on("NOBODY").look(), &ask(&["orders"]));
        assert!(response.brokers.is_empty());
        assert_eq!(response.topics[0].partitions[0].error_code, ErrorCode::ListenerNotFound.code());
    }

    #[test]
    fn a_topic_has_its_leaders_first_among_its_replicas_and_its_epochs() {
        let world = World::new();
        let response = respond(&world.view(3, 12).look(), &ask(&["orders"]));
        let topic = &response.topics[0];
        assert_eq!((topic.error_code, topic.topic_id, topic.partitions.len()), (0, world.orders.0, 4));
        for row in &topic.partitions {
            assert_eq!((row.error_code, row.leader_id, row.leader_epoch), (0, row.replica_nodes[0], 0));
            assert_eq!((&row.isr_nodes, row.offline_replicas.len()), (&row.replica_nodes, 0));
        }
        assert_eq!(response.cluster_id.unwrap().len(), 22);
        assert_eq!(topic.topic_authorized_operations, i32::MIN);
    }

    #[test]
    fn none_all_and_unknown_follow_the_version() {
        let world = World::new();
        let topics = |version, request: &MetadataRequest| {
            let response = respond(&world.view(3, version).look(), request);
            response
                .topics
                .iter()
                .map(|t| (t.name.clone().unwrap_or_default(), t.error_code))
                .collect::<Vec<_>>()
        };
        let everything = MetadataRequest { topics: None, ..Default::default() };
        assert_eq!(topics(12, &everything).len(), 2);
        assert_eq!(topics(0, &ask(&[])).len(), 2, "v0 has no null");
        assert_eq!(topics(1, &ask(&[])).len(), 0);
        assert_eq!(
            topics(12, &ask(&["nope", "a/b", ""])).iter().map(|t| t.1).collect::<Vec<_>>(),
            [3, 17, 17]
        );
    }

    #[test]
    fn a_topic_is_found_by_id_and_an_unknown_id_is_said_to_be_one() {
        let world = World::new();
        let found = respond(&world.view(3, 12).look(), &by_id(world.orders)).topics.remove(0);
        assert_eq!((found.error_code, found.name.as_deref()), (0, Some("orders")));
        let missing =
            respond(&world.view(3, 12).look(), &by_id(TopicId(uuid::Uuid::from_u128(99)))).topics.remove(0);
        assert_eq!((missing.error_code, missing.name), (ErrorCode::UnknownTopicId.code(), None));
    }

    #[test]
    fn what_may_not_be_described_is_refused_by_name_and_hidden_elsewhere() {
        let world = World::new();
        let view = world.view(3, 12).denying(Operation::Describe, "orders");
        assert_eq!(respond(&view.look(), &ask(&["orders"])).topics[0].error_code, 29);
        assert_eq!(respond(&view.look(), &by_id(world.orders)).topics[0].error_code, 100);
        let everything = respond(&view.look(), &MetadataRequest { topics: None, ..Default::default() });
        assert_eq!(everything.topics.len(), 1);
        assert_eq!(everything.topics[0].name.as_deref(), Some(OFFSETS_TOPIC));
        assert!(missing(&view.look(), &ask(&["orders"])).is_empty());
    }

    #[test]
    fn operations_are_told_when_asked_for() {
        let world = World::new();
        let request = MetadataRequest {
            include_topic_authorized_operations: true,
            include_cluster_authorized_operations: true,
            ..ask(&["orders"])
        };
        let response = respond(&world.view(3, 8).look(), &request);
        assert_eq!(response.topics[0].topic_authorized_operations, 0b1101_1111_1000);
        assert_eq!(response.cluster_authorized_operations, 0b1_1111_1010_0000);
    }

    #[test]
    fn only_names_that_can_exist_and_do_not_are_created_once_each_and_only_when_asked_to() {
        let world = World::new();
        let mut request = ask(&["new", "orders", "a/b", "new"]);
        assert_eq!(missing(&world.view(3, 12).look(), &request), ["new"]);
        let denied = world.view(3, 12).denying(Operation::Create, "");
        assert!(missing(&denied.look(), &request).is_empty());
        request.allow_auto_topic_creation = false;
        assert!(missing(&world.view(3, 12).look(), &request).is_empty());
    }

    #[test]
    fn row_39_names_are_checked_as_kafka_does() {
        let long = "x".repeat(250);
        assert!(["", ".", "..", "a/b", "a b", "é", long.as_str()].into_iter().all(|name| !is_name(name)));
        assert!(["a", "a.b_c-D9", "...", &long[..249]].into_iter().all(is_name));
    }
}
