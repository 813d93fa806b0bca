//! DescribeTopicPartitions (key 75, v0): topics page by page, in the order of their names.
//!
//! No topics named means all that may be described. At most `max.request.partition.size.limit` partitions a page; the
//! cursor names the first one left out. There are no eligible leader replicas to tell: the lists are empty.

use std::sync::Arc;

use tidemark_proto::id::PartitionIndex;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use tidemark_proto::kafka::messages::{DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse};
use tidemark_proto::kafka::text::Text;

use super::metadata::{is_name, partition};
use super::view::{NOT_ASKED, View};
use super::{Ctx, Operation, Resource};
use crate::node::{Node, is_internal};

/// Answers.
pub async fn handle(
    node: Arc<Node>,
    ctx: Arc<Ctx>,
    request: DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let image = node.cluster.image();
    respond(&View::of(&node, &image, &ctx), &request)
}

fn respond(view: &View<'_>, request: &DescribeTopicPartitionsRequest) -> DescribeTopicPartitionsResponse {
    let mut names: Vec<Text> = match request.topics.is_empty() {
        true => view.image.topics().map(|topic| Text::from(&*topic.name)).collect(),
        false => request.topics.iter().map(|topic| topic.name.clone()).collect(),
    };
    names.sort();
    names.dedup();
    let start = request.cursor.as_ref();
    let asked = usize::try_from(request.response_partition_limit).unwrap_or(0);
    let mut left = asked.clamp(1, view.config.describe_partitions_max.max(1));
    let mut response = DescribeTopicPartitionsResponse::default();
    for name in names {
        if start.is_some_and(|cursor| name < cursor.topic_name) {
            continue;
        }
        let from = start
            .filter(|cursor| name == cursor.topic_name)
            .map_or(0, |cursor| cursor.partition_index.max(0));
        let from = usize::try_from(from).unwrap_or(0);
        let known = view.image.topic_named(&name).map_or(0, |topic| topic.partitions.len());
        if left == 0 {
            let partition_index = i32::try_from(from).unwrap_or(0);
            response.next_cursor = Some(Cursor { topic_name: name, partition_index, ..Default::default() });
            break;
        }
        let Some(topic) = topic(view, &name, from, left, !request.topics.is_empty()) else { continue };
        let shown = topic.partitions.len();
        left -= shown;
        response.topics.push(topic);
        if from + shown < known {
            let partition_index = i32::try_from(from + shown).unwrap_or(i32::MAX);
            response.next_cursor = Some(Cursor { topic_name: name, partition_index, ..Default::default() });
            break;
        }
    }
    response
}

/// Up to `limit` partitions of a topic from `from`; `None` where it is not to be seen and was not named.
fn topic(
    view: &View<'_>,
    name: &Text,
    from: usize,
    limit: usize,
    named: bool,
) -> Option<DescribeTopicPartitionsResponseTopic> {
    let refused = |code: ErrorCode| DescribeTopicPartitionsResponseTopic {
        error_code: code.code(),
        name: Some(name.clone()),
        topic_authorized_operations: NOT_ASKED,
        ..Default::default()
    };
    if !view.allows(Operation::Describe, Resource::Topic(name)) {
        return named.then(|| refused(ErrorCode::TopicAuthorizationFailed));
    }
    let Some(found) = view.image.topic_named(name) else {
        let code =
            if is_name(name) { ErrorCode::UnknownTopicOrPartition } else { ErrorCode::InvalidTopicException };
        return Some(refused(code));
    };
    let indexes = (from..found.partitions.len()).take(limit).filter_map(|index| i32::try_from(index).ok());
    let partitions = indexes.map(|index| {
        let row = partition(view, found, PartitionIndex(index));
        DescribeTopicPartitionsResponsePartition {
            error_code: row.error_code,
            partition_index: row.partition_index,
            leader_id: row.leader_id,
            leader_epoch: row.leader_epoch,
            replica_nodes: row.replica_nodes,
            isr_nodes: row.isr_nodes,
            offline_replicas: row.offline_replicas,
            // Null is legal and breaks the Java client (4.3.1).
            eligible_leader_replicas: Some(Vec::new()),
            last_known_elr: Some(Vec::new()),
            ..Default::default()
        }
    });
    Some(DescribeTopicPartitionsResponseTopic {
        name: Some(name.clone()),
        topic_id: found.id.0,
        is_internal: is_internal(name),
        partitions: partitions.collect(),
        topic_authorized_operations: view.topic_operations(name),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use tidemark_proto::kafka::messages::describe_topic_partitions_request as request;

    use super::*;
    use crate::api::testing::World;

    #[test]
    fn pages_go_through_all_partitions_once() {
        let world = World::new();
        let mut request =
            DescribeTopicPartitionsRequest { response_partition_limit: 3, ..Default::default() };
        let mut seen = Vec::new();
        for _ in 0..10 {
            let page = respond(&world.view(75, 0).look(), &request);
            for topic in &page.topics {
                let name = topic.name.clone().unwrap_or_default();
                seen.extend(topic.partitions.iter().map(|p| (name.clone(), p.partition_index)));
            }
            assert!(page.topics.iter().map(|t| t.partitions.len()).sum::<usize>() <= 3);
            let rows = || page.topics.iter().flat_map(|t| &t.partitions);
            assert!(rows().all(|p| p.eligible_leader_replicas.is_some() && p.last_known_elr.is_some()));
            let Some(next) = page.next_cursor else { break };
            let (topic_name, partition_index) = (next.topic_name, next.partition_index);
            request.cursor = Some(request::Cursor { topic_name, partition_index, ..Default::default() });
        }
        assert_eq!(seen.len(), 6);
        assert!(seen.is_sorted());
    }

    #[test]
    fn named_topics_have_their_errors_and_hidden_ones_are_left_out_of_the_list() {
        let world = World::new();
        let named = |name: &str| request::TopicRequest { name: name.into(), ..Default::default() };
        let request = DescribeTopicPartitionsRequest {
            topics: vec![named("orders"), named("nope"), named("a/b")],
            ..Default::default()
        };
        let codes = |view: &View<'_>, request: &DescribeTopicPartitionsRequest| {
            respond(view, request).topics.iter().map(|t| t.error_code).collect::<Vec<_>>()
        };
        assert_eq!(codes(&world.view(75, 0).look(), &request), [17, 3, 0]);
        let denied = world.view(75, 0).denying(Operation::Describe, "orders");
        assert_eq!(codes(&denied.look(), &request), [17, 3, 29]);
        assert_eq!(codes(&denied.look(), &DescribeTopicPartitionsRequest::default()), [0]);
    }
}
