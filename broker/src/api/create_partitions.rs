//! CreatePartitions (key 37, v0-3): raises partition counts.
//!
//! Any broker takes it and forwards. One row per topic asked for. Replicas that are assigned explicitly hold from the
//! first leader on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidemark_proto::id::BrokerId;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::create_partitions_request::CreatePartitionsTopic;
use tidemark_proto::kafka::messages::create_partitions_response::CreatePartitionsTopicResult;
use tidemark_proto::kafka::messages::{CreatePartitionsRequest, CreatePartitionsResponse};
use tidemark_proto::kafka::text::Text;

use super::view::View;
use super::{Ctx, Operation, Resource};
use crate::cluster::command::Refusal;
use crate::cluster::{Command, Reply};
use crate::node::Node;

/// Answers.
pub async fn handle(
    node: Arc<Node>,
    ctx: Arc<Ctx>,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let wait = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0).max(1));
    let deadline = tokio::time::Instant::now() + wait;
    let mut seen: BTreeMap<&Text, usize> = BTreeMap::new();
    request.topics.iter().for_each(|topic| *seen.entry(&topic.name).or_default() += 1);
    let mut results = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let judged = judge(&View::of(&node, &node.cluster.image(), &ctx), topic, seen[&topic.name] > 1);
        let outcome = match judged {
            Err(refusal) => Err(refusal),
            Ok(()) => {
                let assigned = topic.assignments.iter().flatten();
                let command = Command::CreatePartitions {
                    topic: topic.name.as_str().to_owned(),
                    count: topic.count,
                    assignments: assigned
                        .map(|row| row.broker_ids.iter().copied().map(BrokerId).collect())
                        .collect(),
                    validate_only: request.validate_only,
                };
                match tokio::time::timeout_at(deadline, node.cluster.submit(command)).await {
                    Err(_) => Err(Refusal::new(ErrorCode::RequestTimedOut, "")),
                    Ok(Err(code)) => Err(Refusal::new(code, "")),
                    Ok(Ok(Reply::Row(row))) => row,
                    Ok(Ok(_)) => Err(Refusal::new(ErrorCode::UnknownServerError, "")),
                }
            }
        };
        let (code, why) =
            outcome.err().map_or((ErrorCode::None, None), |Refusal { code, why }| (code, Some(why)));
        results.push(CreatePartitionsTopicResult {
            name: topic.name.clone(),
            error_code: code.code(),
            error_message: why
                .map(|why| if why.is_empty() { Text::from(code.to_string()) } else { Text::from(why) }),
            ..Default::default()
        });
    }
    CreatePartitionsResponse { results, ..Default::default() }
}

fn judge(view: &View<'_>, topic: &CreatePartitionsTopic, twice: bool) -> Result<(), Refusal> {
    if !view.allows(Operation::Alter, Resource::Topic(&topic.name)) {
        return Err(Refusal::new(ErrorCode::TopicAuthorizationFailed, "Authorization failed."));
    }
    if twice {
        return Err(Refusal::new(ErrorCode::InvalidRequest, "Duplicate topic in request."));
    }
    let Some(found) = view.image.topic_named(&topic.name) else {
        return Err(Refusal::new(ErrorCode::UnknownTopicOrPartition, ""));
    };
    let more = i64::from(topic.count) - i64::try_from(found.partitions.len()).unwrap_or(i64::MAX);
    match &topic.assignments {
        // A count that is no increase is the controller's to refuse, whatever is assigned.
        Some(rows) if more > 0 && i64::try_from(rows.len()) != Ok(more) => {
            let why = format!("{more} partitions are to be added, but {} assignments are given.", rows.len());
            Err(Refusal::new(ErrorCode::InvalidReplicaAssignment, why))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use tidemark_proto::kafka::messages::create_partitions_request::CreatePartitionsAssignment;

    use super::*;
    use crate::api::testing::World;

    #[test]
    fn rows_are_judged_before_the_controller_is_asked() {
        let world = World::new();
        let code = |name: &str, count, assignments: Option<usize>, twice| {
            let assignments = assignments.map(|n| vec![CreatePartitionsAssignment::default(); n]);
            let topic = CreatePartitionsTopic { name: name.into(), count, assignments, ..Default::default() };
            judge(&world.view(37, 3).look(), &topic, twice).err().map(|refusal| refusal.code.code())
        };
        assert_eq!(code("orders", 6, None, false), None);
        assert_eq!(code("orders", 6, Some(2), false), None);
        assert_eq!(code("orders", 6, Some(3), false), Some(39));
        assert_eq!(code("orders", 6, None, true), Some(42));
        assert_eq!(code("nope", 6, None, false), Some(3));
        assert_eq!(code("orders", 0, Some(0), false), None);
        assert_eq!(code("orders", 4, Some(1), false), None);
    }
}
