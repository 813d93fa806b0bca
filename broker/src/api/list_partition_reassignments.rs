//! ListPartitionReassignments (key 46, v0): the partitions on their way to another leader.
//!
//! The replicas are those the partition will have; the next leader is listed as being added.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemark_proto::id::PartitionIndex;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::list_partition_reassignments_response::{
    OngoingPartitionReassignment, OngoingTopicReassignment,
};
use tidemark_proto::kafka::messages::{
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse,
};
use tidemark_proto::kafka::text::Text;

use super::view::View;
use super::{Ctx, Operation, Resource};
use crate::node::Node;

/// Answers.
pub async fn handle(
    node: Arc<Node>,
    ctx: Arc<Ctx>,
    request: ListPartitionReassignmentsRequest,
) -> ListPartitionReassignmentsResponse {
    let image = node.cluster.image();
    respond(&View::of(&node, &image, &ctx), &request)
}

fn respond(
    view: &View<'_>,
    request: &ListPartitionReassignmentsRequest,
) -> ListPartitionReassignmentsResponse {
    if !view.allows(Operation::Describe, Resource::Cluster) {
        return ListPartitionReassignmentsResponse {
            error_code: ErrorCode::ClusterAuthorizationFailed.code(),
            error_message: Some(Text::from_static("Cluster authorization failed.")),
            ..Default::default()
        };
    }
    let asked_for = |name: &str, index: PartitionIndex| match &request.topics {
        None => true,
        Some(topics) => topics.iter().any(|t| &*t.name == name && t.partition_indexes.contains(&index.0)),
    };
    let mut topics: BTreeMap<&str, Vec<OngoingPartitionReassignment>> = BTreeMap::new();
    for (tp, successor) in view.image.moving() {
        let Some(topic) = view.image.topic(tp.topic).filter(|t| asked_for(&t.name, tp.partition)) else {
            continue;
        };
        let mut replicas: Vec<i32> =
            view.image.replicas(topic, tp.partition).iter().map(|node| node.0).collect();
        if !replicas.contains(&successor.node.0) {
            replicas.push(successor.node.0);
        }
        topics.entry(&topic.name).or_default().push(OngoingPartitionReassignment {
            partition_index: tp.partition.0,
            replicas,
            adding_replicas: vec![successor.node.0],
            ..Default::default()
        });
    }
    let topics = topics.into_iter().map(|(name, partitions)| OngoingTopicReassignment {
        name: name.into(),
        partitions,
        ..Default::default()
    });
    ListPartitionReassignmentsResponse { topics: topics.collect(), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use tidemark_proto::id::BrokerId;
    use tidemark_proto::kafka::messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics;

    use super::*;
    use crate::api::testing::World;
    use crate::cluster::record::Record;

    #[test]
    fn a_partition_on_its_way_is_listed_until_it_has_arrived() {
        let mut world = World::new();
        let listed = |world: &World, topics: Option<&[(&str, &[i32])]>| -> Vec<(String, i32, Vec<i32>)> {
            let topics = topics.map(|topics| {
                let topic = |(name, indexes): &(&str, &[i32])| ListPartitionReassignmentsTopics {
                    name: (*name).into(),
                    partition_indexes: indexes.to_vec(),
                    ..Default::default()
                };
                topics.iter().map(topic).collect()
            });
            let request = ListPartitionReassignmentsRequest { topics, ..Default::default() };
            let answer = respond(&world.view(46, 0).look(), &request);
            let rows =
                answer.topics.iter().flat_map(|t| t.partitions.iter().map(|p| (t.name.to_string(), p)));
            rows.map(|(name, p)| (name, p.partition_index, p.adding_replicas.clone())).collect()
        };
        assert_eq!(listed(&world, None), []);
        let partitions = vec![(world.orders, vec![PartitionIndex(0)])];
        let to = Some(BrokerId(2));
        world.image.apply(&Record::MovesPlanned { to, partitions: partitions.clone() });
        let row = ("orders".to_owned(), 0, vec![2]);
        assert_eq!(listed(&world, None), std::slice::from_ref(&row));
        assert_eq!(listed(&world, Some(&[("orders", &[0, 1])])), [row]);
        assert_eq!(listed(&world, Some(&[("orders", &[1])])), []);
        world.image.apply(&Record::MovesPlanned { to: None, partitions });
        assert_eq!(listed(&world, None), []);
    }
}
