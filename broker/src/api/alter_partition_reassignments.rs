//! AlterPartitionReassignments (key 45, v0-1): new replicas for partitions.
//!
//! The data is in the bucket, so there is nothing to copy: the replicas asked for are noted, and ownership goes to the
//! first of them that lives, which takes a few requests to the bucket. Until then the reassignment is in progress and may
//! be cancelled: the leader stays, and what was assigned before is assigned again.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidemark_proto::id::{BrokerId, PartitionIndex, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::alter_partition_reassignments_request::ReassignablePartition;
use tidemark_proto::kafka::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use tidemark_proto::kafka::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse,
};
use tidemark_proto::kafka::text::Text;

use super::view::View;
use super::{Ctx, Operation, Resource};
use crate::cluster::command::{Command, Refusal};
use crate::cluster::image::Topic;
use crate::node::Node;

/// Answers.
pub async fn handle(
    node: Arc<Node>,
    ctx: Arc<Ctx>,
    request: AlterPartitionReassignmentsRequest,
) -> AlterPartitionReassignmentsResponse {
    let image = node.cluster.image();
    let (mut answer, change) = respond(&View::of(&node, &image, &ctx), &request);
    let sent = async {
        if !change.assigned.is_empty() {
            node.cluster.submit(Command::AssignReplicas { assigned: change.assigned }).await?;
        }
        if !change.cancelled.is_empty() {
            node.cluster.submit(Command::CancelReassignments { partitions: change.cancelled }).await?;
        }
        Ok(())
    };
    if let Err(code) = sent.await {
        let code: ErrorCode = code;
        let rows = answer.responses.iter_mut().flat_map(|topic| &mut topic.partitions);
        rows.filter(|row| row.error_code == 0).for_each(|row| row.error_code = code.code());
    }
    answer
}

/// What a request comes to.
#[derive(Debug, Default)]
struct Change {
    assigned: Vec<(TopicPartition, Vec<BrokerId>)>,
    cancelled: Vec<TopicPartition>,
}

fn respond(
    view: &View<'_>,
    request: &AlterPartitionReassignmentsRequest,
) -> (AlterPartitionReassignmentsResponse, Change) {
    if !view.allows(Operation::Alter, Resource::Cluster) {
        let answer = AlterPartitionReassignmentsResponse {
            error_code: ErrorCode::ClusterAuthorizationFailed.code(),
            error_message: Some(Text::from_static("Cluster authorization failed.")),
            ..Default::default()
        };
        return (answer, Change::default());
    }
    let mut change = Change::default();
    let may_resize = view.ctx.version == 0 || request.allow_replication_factor_change;
    let mut responses = Vec::with_capacity(request.topics.len());
    for asked in &request.topics {
        let topic = view.image.topic_named(&asked.name);
        let rows = asked.partitions.iter().map(|partition| {
            let judged = judge(view, topic.map(|t| &**t), partition, may_resize, &mut change);
            let (code, why) = judged.err().map_or((ErrorCode::None, None), |r| (r.code, Some(r.why)));
            ReassignablePartitionResponse {
                partition_index: partition.partition_index,
                error_code: code.code(),
                error_message: why.map(Text::from),
                ..Default::default()
            }
        });
        let partitions = rows.collect();
        responses.push(ReassignableTopicResponse {
            name: asked.name.clone(),
            partitions,
            ..Default::default()
        });
    }
    let answer = AlterPartitionReassignmentsResponse {
        allow_replication_factor_change: request.allow_replication_factor_change,
        error_message: None,
        responses,
        ..Default::default()
    };
    (answer, change)
}

fn judge(
    view: &View<'_>,
    topic: Option<&Topic>,
    asked: &ReassignablePartition,
    may_resize: bool,
    change: &mut Change,
) -> Result<(), Refusal> {
    let index = PartitionIndex(asked.partition_index);
    let Some((topic, row)) = topic.and_then(|topic| Some((topic, topic.partition(index)?))) else {
        let why = "The topic or partition does not exist.";
        return Err(Refusal::new(ErrorCode::UnknownTopicOrPartition, why));
    };
    let tp = TopicPartition { topic: topic.id, partition: index };
    let Some(replicas) = &asked.replicas else {
        if row.successor.is_none() {
            let why = "No partition reassignment is in progress.";
            return Err(Refusal::new(ErrorCode::NoReassignmentInProgress, why));
        }
        change.cancelled.push(tp);
        return Ok(());
    };
    let bad = |why: String| Err(Refusal::new(ErrorCode::InvalidReplicaAssignment, why));
    if replicas.is_empty() {
        return bad("The manual partition assignment includes an empty replica list.".into());
    }
    if let Some(id) = replicas.iter().find(|id| **id < 0) {
        return bad(format!("The manual partition assignment includes the invalid replica id {id}."));
    }
    if replicas.iter().collect::<BTreeSet<_>>().len() != replicas.len() {
        return bad("The manual partition assignment includes a broker more than once.".into());
    }
    if let Some(id) = replicas.iter().find(|id| view.image.broker(BrokerId(**id)).is_none()) {
        let why = format!(
            "The manual partition assignment includes broker {id}, but no such broker is registered."
        );
        return bad(why);
    }
    if !may_resize && replicas.len() != view.image.replicas(topic, index).len() {
        let why = "The replication factor is changed by the reassignment, which the request does not allow.";
        return Err(Refusal::new(ErrorCode::InvalidReplicationFactor, why));
    }
    change.assigned.push((tp, replicas.iter().map(|id| BrokerId(*id)).collect()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use tidemark_proto::kafka::messages::alter_partition_reassignments_request::ReassignableTopic;

    use super::*;
    use crate::api::testing::World;

    fn codes(
        world: &World,
        version: i16,
        name: &str,
        asks: &[(i32, Option<&[i32]>)],
        resize: bool,
    ) -> Vec<i16> {
        let partitions = asks.iter().map(|(partition_index, replicas)| ReassignablePartition {
            partition_index: *partition_index,
            replicas: replicas.map(<[i32]>::to_vec),
            ..Default::default()
        });
        let topic =
            ReassignableTopic { name: name.into(), partitions: partitions.collect(), ..Default::default() };
        let request = AlterPartitionReassignmentsRequest {
            topics: vec![topic],
            allow_replication_factor_change: resize,
            ..Default::default()
        };
        let (answer, _) = respond(&world.view(45, version).look(), &request);
        assert_eq!(answer.error_code, 0);
        answer.responses.iter().flat_map(|t| &t.partitions).map(|p| p.error_code).collect()
    }

    #[test]
    fn brokers_that_exist_are_taken_and_only_what_is_in_progress_can_be_cancelled() {
        let world = World::new();
        let asks: [(i32, Option<&[i32]>); 7] = [
            (0, Some(&[2, 1])),
            (1, Some(&[9])),
            (2, Some(&[])),
            (3, Some(&[1, 1])),
            (0, None),
            (4, Some(&[1])),
            (0, Some(&[-1])),
        ];
        assert_eq!(codes(&world, 0, "orders", &asks, true), [0, 39, 39, 39, 85, 3, 39]);
        assert_eq!(codes(&world, 0, "nope", &[(0, Some(&[1]))], true), [3]);
    }

    #[test]
    fn the_number_of_replicas_may_be_held_fixed() {
        let world = World::new();
        let asks: [(i32, Option<&[i32]>); 2] = [(0, Some(&[2, 1])), (1, Some(&[1]))];
        assert_eq!(codes(&world, 1, "orders", &asks, false), [0, 38]);
        assert_eq!(codes(&world, 0, "orders", &asks, false), [0, 0], "the first version cannot say so");
    }

    #[test]
    fn an_asker_without_rights_gets_one_code() {
        let world = World::new();
        let view = world.view(45, 0).denying(Operation::Alter, "");
        let (answer, _) = respond(&view.look(), &AlterPartitionReassignmentsRequest::default());
        assert_eq!((answer.error_code, answer.responses.len()), (31, 0));
    }
}
