//! ElectLeaders (key 43, v0-2): hands partitions to their preferred replicas.
//!
//! The preferred replica is the first one listed, and the leader is always listed first, so there is never anything to
//! do: ELECTION_NOT_NEEDED. A partition that nobody leads has no candidate either, since any living broker would lead it.
//! Where all partitions are asked for, those that need nothing are left out, as in Kafka.

use std::sync::Arc;

use tidemark_proto::id::PartitionIndex;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use tidemark_proto::kafka::messages::{ElectLeadersRequest, ElectLeadersResponse};
use tidemark_proto::kafka::text::Text;

use super::view::View;
use super::{Ctx, Operation, Resource};
use crate::cluster::image::Topic;
use crate::node::Node;

const PREFERRED: i8 = 0;
const UNCLEAN: i8 = 1;

/// Answers.
pub async fn handle(node: Arc<Node>, ctx: Arc<Ctx>, request: ElectLeadersRequest) -> ElectLeadersResponse {
    let image = node.cluster.image();
    respond(&View::of(&node, &image, &ctx), &request)
}

fn respond(view: &View<'_>, request: &ElectLeadersRequest) -> ElectLeadersResponse {
    if !view.allows(Operation::Alter, Resource::Cluster) {
        return refused(request, ErrorCode::ClusterAuthorizationFailed);
    }
    let kind = if view.ctx.version == 0 { PREFERRED } else { request.election_type };
    if !matches!(kind, PREFERRED | UNCLEAN) {
        return refused(request, ErrorCode::InvalidRequest);
    }
    let replica_election_results = match &request.topic_partitions {
        Some(topics) => topics
            .iter()
            .map(|asked| {
                let topic = view.image.topic_named(&asked.topic);
                let rows = asked
                    .partitions
                    .iter()
                    .map(|index| row(*index, judge(topic.map(|t| &**t), kind, &asked.topic, *index)));
                result(asked.topic.clone(), rows.collect())
            })
            .collect(),
        None => view
            .image
            .topics()
            .filter_map(|topic| {
                let rows = topic.partitions().filter_map(|(tp, _)| {
                    let index = tp.partition.0;
                    let (code, why) = judge(Some(topic), kind, &topic.name, index);
                    (code != ErrorCode::ElectionNotNeeded).then(|| row(index, (code, why)))
                });
                let rows: Vec<PartitionResult> = rows.collect();
                (!rows.is_empty()).then(|| result(Text::from(&*topic.name), rows))
            })
            .collect(),
    };
    ElectLeadersResponse { replica_election_results, ..Default::default() }
}

fn judge(topic: Option<&Topic>, kind: i8, name: &str, index: i32) -> (ErrorCode, String) {
    let Some(topic) = topic else {
        return (ErrorCode::UnknownTopicOrPartition, format!("No such topic as {}", name.escape_debug()));
    };
    let Some(partition) = topic.partition(PartitionIndex(index)) else {
        return (ErrorCode::UnknownTopicOrPartition, format!("No such partition as {name}-{index}"));
    };
    match (partition.leader, kind) {
        (Some(_), _) => {
            (ErrorCode::ElectionNotNeeded, "Leader election not needed for topic partition.".into())
        }
        (None, PREFERRED) => {
            (ErrorCode::PreferredLeaderNotAvailable, "The preferred leader was not available.".into())
        }
        (None, _) => (
            ErrorCode::EligibleLeadersNotAvailable,
            "Eligible topic partition leaders are not available.".into(),
        ),
    }
}

fn row(partition_id: i32, (code, why): (ErrorCode, String)) -> PartitionResult {
    let (error_code, error_message) = (code.code(), Some(Text::from(why)));
    PartitionResult { partition_id, error_code, error_message, ..Default::default() }
}

fn result(topic: Text, partition_result: Vec<PartitionResult>) -> ReplicaElectionResult {
    ReplicaElectionResult { topic, partition_result, ..Default::default() }
}

/// The first version has no code of its own, so every row has it.
fn refused(request: &ElectLeadersRequest, code: ErrorCode) -> ElectLeadersResponse {
    let asked = request.topic_partitions.iter().flatten();
    let results = asked.map(|topic| {
        let rows = topic.partitions.iter().map(|index| row(*index, (code, code.to_string())));
        result(topic.topic.clone(), rows.collect())
    });
    ElectLeadersResponse {
        error_code: code.code(),
        replica_election_results: results.collect(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use tidemark_proto::kafka::messages::elect_leaders_request::TopicPartitions;

    use super::*;
    use crate::api::testing::World;

    fn asks(topic: &str, partitions: &[i32]) -> ElectLeadersRequest {
        let topic =
            TopicPartitions { topic: topic.into(), partitions: partitions.to_vec(), ..Default::default() };
        ElectLeadersRequest { topic_partitions: Some(vec![topic]), ..Default::default() }
    }

    fn codes(response: &ElectLeadersResponse) -> Vec<i16> {
        let rows = response.replica_election_results.iter().flat_map(|t| &t.partition_result);
        rows.map(|row| row.error_code).collect()
    }

    #[test]
    fn the_leader_is_always_the_preferred_one() {
        let world = World::new();
        let view = world.view(43, 2);
        assert_eq!(codes(&respond(&view.look(), &asks("orders", &[0, 3, 4, -1]))), [84, 84, 3, 3]);
        assert_eq!(codes(&respond(&view.look(), &asks("nope", &[0]))), [3]);
        let all = ElectLeadersRequest { topic_partitions: None, ..Default::default() };
        assert_eq!(respond(&view.look(), &all), ElectLeadersResponse::default());
    }

    #[test]
    fn an_asker_without_rights_is_told_in_every_version() {
        let world = World::new();
        for version in 0..=2 {
            let view = world.view(43, version).denying(Operation::Alter, "");
            let answer = respond(&view.look(), &asks("orders", &[0, 1]));
            assert_eq!((answer.error_code, codes(&answer)), (31, vec![31, 31]));
        }
        let odd = ElectLeadersRequest { election_type: 7, ..asks("orders", &[0]) };
        assert_eq!(respond(&world.view(43, 2).look(), &odd).error_code, 42);
    }
}
