//! ElectLeaders (key 43, v0-2): hands partitions to their preferred replicas.
//!
//! The preferred replica is the first one assigned. Where nobody assigned any, the leader is listed first, so there is
//! nothing to do: ELECTION_NOT_NEEDED. A partition that nobody leads has no candidate, since any living broker would lead
//! it. An election is a move (R17) and answered when it is over. Where all partitions are asked for, those that need
//! nothing are left out, as in Kafka.

use std::sync::Arc;
use std::time::Duration;

use tidemark_proto::id::{BrokerId, PartitionIndex, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use tidemark_proto::kafka::messages::{ElectLeadersRequest, ElectLeadersResponse};
use tidemark_proto::kafka::text::Text;
use tokio::time::timeout;

use super::view::View;
use super::{Ctx, Operation, Resource};
use crate::cluster::command::Command;
use crate::cluster::image::{Image, Topic};
use crate::node::Node;

const PREFERRED: i8 = 0;
const UNCLEAN: i8 = 1;

/// Answers.
pub async fn handle(node: Arc<Node>, ctx: Arc<Ctx>, request: ElectLeadersRequest) -> ElectLeadersResponse {
    let image = node.cluster.image();
    let (mut answer, elections) = respond(&View::of(&node, &image, &ctx), &request);
    if elections.is_empty() {
        return answer;
    }
    let patience = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let over = elect(&node, &elections);
    let code = match timeout(patience, over).await {
        Ok(Ok(())) => return answer,
        Ok(Err(code)) => code,
        Err(_) => ErrorCode::RequestTimedOut,
    };
    let image = node.cluster.image();
    for topic in &mut answer.replica_election_results {
        let Some(id) = image.topic_named(&topic.topic).map(|t| t.id) else { continue };
        for row in &mut topic.partition_result {
            let tp = TopicPartition { topic: id, partition: PartitionIndex(row.partition_id) };
            if elections.iter().any(|election| election.0 == tp && !is_over(&image, election)) {
                (row.error_code, row.error_message) = (code.code(), Some(Text::from(code.to_string())));
            }
        }
    }
    answer
}

/// A partition and who is to lead it.
type Election = (TopicPartition, BrokerId);

async fn elect(node: &Node, elections: &[Election]) -> Result<(), ErrorCode> {
    node.cluster.submit(Command::PlanMoves { moves: elections.to_vec() }).await?;
    let mut images = node.cluster.watch();
    let moved = images.wait_for(|image| elections.iter().all(|election| is_over(image, election))).await;
    moved.map(drop).map_err(|_| ErrorCode::RequestTimedOut)
}

fn is_over(image: &Image, (tp, elected): &Election) -> bool {
    image.partition(*tp).is_none_or(|p| p.leader == Some(*elected))
}

fn respond(view: &View<'_>, request: &ElectLeadersRequest) -> (ElectLeadersResponse, Vec<Election>) {
    if !view.allows(Operation::Alter, Resource::Cluster) {
        return (refused(request, ErrorCode::ClusterAuthorizationFailed), Vec::new());
    }
    let kind = if view.ctx.version == 0 { PREFERRED } else { request.election_type };
    if !matches!(kind, PREFERRED | UNCLEAN) {
        return (refused(request, ErrorCode::InvalidRequest), Vec::new());
    }
    let mut elections = Vec::new();
    let mut judge = |topic: Option<&Topic>, name: &str, index: i32| {
        judge(view.image, topic, kind, (name, index), &mut elections)
    };
    let replica_election_results = match &request.topic_partitions {
        Some(topics) => topics
            .iter()
            .map(|asked| {
                let topic = view.image.topic_named(&asked.topic);
                let rows = asked
                    .partitions
                    .iter()
                    .map(|index| row(*index, judge(topic.map(|t| &**t), &asked.topic, *index)));
                result(asked.topic.clone(), rows.collect())
            })
            .collect(),
        None => view
            .image
            .topics()
            .filter_map(|topic| {
                let rows = topic.partitions().filter_map(|(tp, _)| {
                    let index = tp.partition.0;
                    let (code, why) = judge(Some(topic), &topic.name, index);
                    (code != ErrorCode::ElectionNotNeeded).then(|| row(index, (code, why)))
                });
                let rows: Vec<PartitionResult> = rows.collect();
                (!rows.is_empty()).then(|| result(Text::from(&*topic.name), rows))
            })
            .collect(),
    };
    (ElectLeadersResponse { replica_election_results, ..Default::default() }, elections)
}

fn judge(
    image: &Image,
    topic: Option<&Topic>,
    kind: i8,
    (name, index): (&str, i32),
    elections: &mut Vec<Election>,
) -> (ErrorCode, String) {
    let Some(topic) = topic else {
        return (ErrorCode::UnknownTopicOrPartition, format!("No such topic as {}", name.escape_debug()));
    };
    let Some(partition) = topic.partition(PartitionIndex(index)) else {
        return (ErrorCode::UnknownTopicOrPartition, format!("No such partition as {name}-{index}"));
    };
    let unavailable =
        || (ErrorCode::PreferredLeaderNotAvailable, "The preferred leader was not available.".to_owned());
    match (partition.leader, kind) {
        (Some(leader), PREFERRED) if partition.assigned.first().is_some_and(|first| *first != leader) => {
            let alive = partition.assigned.first().filter(|n| image.broker(**n).is_some_and(|b| b.alive));
            let Some(preferred) = alive else { return unavailable() };
            let tp = TopicPartition { topic: topic.id, partition: PartitionIndex(index) };
            elections.push((tp, *preferred));
            (ErrorCode::None, String::new())
        }
        (Some(_), _) => {
            (ErrorCode::ElectionNotNeeded, "Leader election not needed for topic partition.".into())
        }
        (None, PREFERRED) => unavailable(),
        (None, _) => (
            ErrorCode::EligibleLeadersNotAvailable,
            "Eligible topic partition leaders are not available.".into(),
        ),
    }
}

fn row(partition_id: i32, (code, why): (ErrorCode, String)) -> PartitionResult {
    let (error_code, error_message) = (code.code(), (!why.is_empty()).then(|| Text::from(why)));
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
    use crate::cluster::record::Record;

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
    fn where_nobody_assigned_replicas_the_leader_is_the_preferred_one() {
        let world = World::new();
        let view = world.view(43, 2);
        assert_eq!(codes(&respond(&view.look(), &asks("orders", &[0, 3, 4, -1])).0), [84, 84, 3, 3]);
        assert_eq!(codes(&respond(&view.look(), &asks("nope", &[0])).0), [3]);
        let all = ElectLeadersRequest { topic_partitions: None, ..Default::default() };
        assert_eq!(respond(&view.look(), &all), (ElectLeadersResponse::default(), Vec::new()));
    }

    #[test]
    fn the_first_replica_assigned_is_elected_if_it_lives() {
        let mut world = World::new();
        let assign = |world: &mut World, replicas: &[i32]| {
            let replicas = replicas.iter().map(|n| BrokerId(*n)).collect();
            let partitions = vec![(world.orders, vec![PartitionIndex(0)])];
            world.image.apply(&Record::ReplicasAssigned { replicas, partitions });
        };
        let elected = |world: &World| {
            let (answer, elections) = respond(&world.view(43, 2).look(), &asks("orders", &[0]));
            (codes(&answer), elections.into_iter().map(|(_, node)| node).collect::<Vec<_>>())
        };
        let leader = world.image.topic_named("orders").and_then(|t| t.partitions[0].leader).unwrap();
        let other = BrokerId(3 - leader.0);
        assign(&mut world, &[leader.0, other.0]);
        assert_eq!(elected(&world), (vec![84], vec![]));
        assign(&mut world, &[other.0, leader.0]);
        assert_eq!(elected(&world), (vec![0], vec![other]));
        assign(&mut world, &[9, leader.0]);
        assert_eq!(elected(&world), (vec![80], vec![]), "it does not live");
    }

    #[test]
    fn an_asker_without_rights_is_told_in_every_version() {
        let world = World::new();
        for version in 0..=2 {
            let view = world.view(43, version).denying(Operation::Alter, "");
            let (answer, _) = respond(&view.look(), &asks("orders", &[0, 1]));
            assert_eq!((answer.error_code, codes(&answer)), (31, vec![31, 31]));
        }
        let odd = ElectLeadersRequest { election_type: 7, ..asks("orders", &[0]) };
        assert_eq!(respond(&world.view(43, 2).look(), &odd).0.error_code, 42);
    }
}
