//! DescribeQuorum (key 55, v0-2): the metadata's owner and followers, as Kafka shows its quorum.
//!
//! There is no quorum: the bucket is one. The controller is the only voter and its generation the epoch; the other living
//! brokers are observers. The high watermark counts the records of the metadata log. An observer that falls behind
//! loses its session and with it its place here, so all are shown as caught up.

use std::sync::Arc;

use tidemark_proto::id::{BrokerId, Millis};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::describe_quorum_request;
use tidemark_proto::kafka::messages::describe_quorum_response::{
    Listener, Node as QuorumNode, PartitionData, ReplicaState, TopicData,
};
use tidemark_proto::kafka::messages::{DescribeQuorumRequest, DescribeQuorumResponse};
use tidemark_proto::kafka::text::Text;

use super::view::View;
use super::{Ctx, Operation, Resource};
use crate::node::Node;

/// Kafka's name for the metadata log.
const METADATA_TOPIC: &str = "__cluster_metadata";

/// Answers.
pub async fn handle(
    node: Arc<Node>,
    ctx: Arc<Ctx>,
    request: DescribeQuorumRequest,
) -> DescribeQuorumResponse {
    let image = node.cluster.image();
    respond(&View::of(&node, &image, &ctx), &request, node.seams.clock.wall())
}

fn respond(view: &View<'_>, request: &DescribeQuorumRequest, now: Millis) -> DescribeQuorumResponse {
    if !view.allows(Operation::Describe, Resource::Cluster) {
        let code = ErrorCode::ClusterAuthorizationFailed;
        let error_message = Some(Text::from_static("Cluster authorization failed."));
        return DescribeQuorumResponse { error_code: code.code(), error_message, ..Default::default() };
    }
    let partition =
        |topic: &str, asked: &describe_quorum_request::PartitionData| match (topic, asked.partition_index) {
            (METADATA_TOPIC, 0) => quorum(view, now),
            (_, partition_index) => PartitionData {
                partition_index,
                error_code: ErrorCode::UnknownTopicOrPartition.code(),
                error_message: Some(Text::from_static("This server does not host this topic-partition.")),
                ..Default::default()
            },
        };
    let topics = request.topics.iter().map(|topic| TopicData {
        topic_name: topic.topic_name.clone(),
        partitions: topic.partitions.iter().map(|p| partition(&topic.topic_name, p)).collect(),
        ..Default::default()
    });
    let nodes = view.image.live().map(|broker| {
        let listeners = broker.endpoints.iter().map(|endpoint| Listener {
            name: Text::from(endpoint.listener.as_str()),
            host: Text::from(endpoint.host.as_str()),
            port: endpoint.port,
            ..Default::default()
        });
        QuorumNode { node_id: broker.node.0, listeners: listeners.collect(), ..Default::default() }
    });
    DescribeQuorumResponse {
        error_message: None,
        topics: topics.collect(),
        nodes: nodes.collect(),
        ..Default::default()
    }
}

fn quorum(view: &View<'_>, now: Millis) -> PartitionData {
    let controller = view.image.controller();
    let leader = BrokerId(view.controller());
    let epoch = controller.map_or(0, |c| i32::try_from(c.generation.0).unwrap_or(i32::MAX));
    let end = i64::try_from(view.image.version()).unwrap_or(i64::MAX);
    let state = |node: BrokerId| ReplicaState {
        replica_id: node.0,
        log_end_offset: end,
        last_fetch_timestamp: now.0,
        last_caught_up_timestamp: now.0,
        ..Default::default()
    };
    PartitionData {
        error_message: None,
        leader_id: leader.0,
        leader_epoch: epoch,
        high_watermark: end,
        current_voters: vec![state(leader)],
        observers: view.image.live().map(|b| b.node).filter(|n| *n != leader).map(state).collect(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use tidemark_proto::id::{Generation, Life};

    use super::*;
    use crate::api::testing::World;
    use crate::cluster::record::Record;

    fn ask(world: &World, topic: &str, index: i32) -> DescribeQuorumResponse {
        let partition =
            describe_quorum_request::PartitionData { partition_index: index, ..Default::default() };
        let topic = describe_quorum_request::TopicData {
            topic_name: topic.into(),
            partitions: vec![partition],
            ..Default::default()
        };
        let request = DescribeQuorumRequest { topics: vec![topic], ..Default::default() };
        respond(&world.view(55, 2).look(), &request, Millis(7))
    }

    #[test]
    fn the_controller_is_the_only_voter_even_if_it_had_no_id_when_it_began() {
        [Some(BrokerId(2)), None].into_iter().for_each(broker_2_is_the_voter);
    }

    fn broker_2_is_the_voter(node: Option<BrokerId>) {
        let mut world = World::new();
        world.image.apply(&Record::ControllerAnnounced {
            generation: Generation(4),
            life: Life(2),
            node,
            address: String::new(),
        });
        let answer = ask(&world, METADATA_TOPIC, 0);
        let quorum = &answer.topics[0].partitions[0];
        assert_eq!((quorum.error_code, quorum.leader_id, quorum.leader_epoch), (0, 2, 4));
        assert_eq!(quorum.current_voters.iter().map(|v| v.replica_id).collect::<Vec<_>>(), [2]);
        assert_eq!(quorum.observers.iter().map(|v| v.replica_id).collect::<Vec<_>>(), [1]);
        assert_eq!(quorum.high_watermark, i64::try_from(world.image.version()).unwrap());
        assert_eq!(
            answer.nodes.iter().map(|n| (n.node_id, n.listeners.len())).collect::<Vec<_>>(),
            [(1, 2), (2, 2)]
        );
    }

    #[test]
    fn any_other_partition_is_unknown() {
        let world = World::new();
        for (topic, index) in [(METADATA_TOPIC, 1), ("orders", 0)] {
            assert_eq!(ask(&world, topic, index).topics[0].partitions[0].error_code, 3);
        }
        let view = world.view(55, 2).denying(Operation::Describe, "");
        let answer = respond(&view.look(), &DescribeQuorumRequest::default(), Millis(7));
        assert_eq!(answer.error_code, 31);
    }
}
