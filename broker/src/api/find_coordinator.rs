//! FindCoordinator (key 10, v0-6): who leads the partition of `__consumer_offsets` that holds a group.
//!
//! The topic is made on the first call. v4: many keys in one request. v6: share groups. Keys of transactions and
//! share groups are refused (42) until their coordinators are built. Addresses are those of the listener the
//! request came in on.

use std::sync::Arc;

use tidemark_proto::id::TopicId;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::find_coordinator_response::Coordinator;
use tidemark_proto::kafka::messages::{FindCoordinatorRequest, FindCoordinatorResponse};
use tidemark_proto::kafka::text::Text;

use super::{Ctx, Operation, Resource, coordinator};
use crate::cluster::command::NewTopic;
use crate::cluster::{Command, Image, Reply};
use crate::node::{Node, OFFSETS_TOPIC};

/// Kafka's number for "the key is a group id".
const GROUP: i8 = 0;
/// … a transactional id.
const TRANSACTION: i8 = 1;
/// … `group:topic id:partition` of a share group.
const SHARE: i8 = 2;

/// Why a key has no coordinator: the code and a sentence.
type Refusal = (ErrorCode, &'static str);

/// Answers.
pub async fn handle(
    node: Arc<Node>,
    ctx: Arc<Ctx>,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let kind = request.key_type;
    let keys = if ctx.version < 4 { vec![request.key] } else { request.coordinator_keys };
    let verdicts: Vec<(Text, Result<(), Refusal>)> = keys
        .into_iter()
        .map(|key| {
            let verdict = may_ask(&node, &ctx, kind, &key);
            (key, verdict)
        })
        .collect();
    if verdicts.iter().any(|(_, verdict)| verdict.is_ok()) {
        make_topic(&node).await;
    }
    let image = node.cluster.image();
    let rows = verdicts.into_iter().map(|(key, verdict)| {
        let found = verdict.and_then(|()| find(&image, &ctx.listener, &key));
        row(key, found)
    });
    respond(ctx.version, rows.collect())
}

fn may_ask(node: &Node, ctx: &Ctx, kind: i8, key: &Text) -> Result<(), Refusal> {
    match kind {
        GROUP if node.allows(ctx, Operation::Describe, Resource::Group(key)) => Ok(()),
        GROUP => Err((ErrorCode::GroupAuthorizationFailed, "")),
        TRANSACTION if !node.allows(ctx, Operation::Describe, Resource::TransactionalId(key)) => {
            Err((ErrorCode::TransactionalIdAuthorizationFailed, ""))
        }
        TRANSACTION => Err((ErrorCode::InvalidRequest, "transactions are not supported yet")),
        SHARE if ctx.version >= 6 => Err((ErrorCode::InvalidRequest, "share groups are not supported yet")),
        _ => Err((ErrorCode::InvalidRequest, "unknown type of coordinator key")),
    }
}

/// Makes the topic if it is missing. What goes wrong shows in the image: there is no coordinator then.
async fn make_topic(node: &Node) {
    if node.cluster.image().topic_named(OFFSETS_TOPIC).is_some() {
        return;
    }
    let config = &node.config.group;
    let set = |key: &str, value: String| (key.to_owned(), Some(value));
    let topic = NewTopic {
        name: OFFSETS_TOPIC.to_owned(),
        id: TopicId(node.seams.entropy.uuid()),
        partitions: config.offsets_partitions,
        replication: config.offsets_replication,
        assignments: Vec::new(),
        configs: vec![
            set("cleanup.policy", "compact".to_owned()),
            set("compression.type", "producer".to_owned()),
            set("segment.bytes", config.offsets_segment_bytes.to_string()),
        ],
    };
    let command = Command::CreateTopics { topics: vec![topic], validate_only: false };
    match node.cluster.submit(command).await {
        Ok(Reply::Created(rows)) => {
            let refusal = rows.into_iter().find_map(|(_, row)| row.err());
            if let Some(refusal) = refusal.filter(|r| r.code != ErrorCode::TopicAlreadyExists) {
                tracing::error!(code = %refusal.code, why = %refusal.why, "{OFFSETS_TOPIC} cannot be made");
            }
        }
        Ok(other) => tracing::error!(?other, "{OFFSETS_TOPIC} cannot be made"),
        Err(code) => tracing::warn!(%code, "{OFFSETS_TOPIC} cannot be made now"),
    }
}

/// Where the asker reaches the coordinator: node id, host, port.
fn find(image: &Image, listener: &str, key: &str) -> Result<(i32, Text, i32), Refusal> {
    let missing = |code| (code, "");
    let at = coordinator::place(image, key).map_err(missing)?;
    let leader = image
        .topic_named(OFFSETS_TOPIC)
        .and_then(|topic| topic.partition(at)?.leader)
        .and_then(|node| image.broker(node))
        .filter(|broker| broker.alive);
    let reached = leader.and_then(|broker| {
        let endpoint = broker.endpoints.iter().find(|e| e.listener == listener)?;
        Some((broker.node.0, Text::from(endpoint.host.as_str()), i32::from(endpoint.port)))
    });
    reached.ok_or(missing(ErrorCode::CoordinatorNotAvailable))
}

fn row(key: Text, found: Result<(i32, Text, i32), Refusal>) -> Coordinator {
    match found {
        Ok((node_id, host, port)) => Coordinator { key, node_id, host, port, ..Default::default() },
        Err((code, why)) => Coordinator {
            key,
            node_id: -1,
            port: -1,
            error_code: code.code(),
            error_message: Some(Text::from(why)).filter(|why| !why.is_empty()),
            ..Default::default()
        },
    }
}

fn respond(version: i16, mut rows: Vec<Coordinator>) -> FindCoordinatorResponse {
    if version >= 4 {
        return FindCoordinatorResponse { coordinators: rows, ..Default::default() };
    }
    let Some(row) = rows.pop() else { return FindCoordinatorResponse::default() };
    FindCoordinatorResponse {
        error_code: row.error_code,
        error_message: row.error_message,
        node_id: row.node_id,
        host: row.host,
        port: row.port,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use tidemark_proto::id::{BrokerEpoch, BrokerId, LaneId, Life, Seq};
    use uuid::Uuid;

    use super::*;
    use crate::cluster::image::{Broker, Endpoint};
    use crate::cluster::record::{Placed, Record};
    use crate::group::partition_of;

    /// Brokers 1 and 2 with two listeners each lead one partition of the offsets topic each.
    fn world() -> Image {
        let mut image = Image::default();
        let mut placed = Vec::new();
        for node in [1_u16, 2] {
            let endpoint = |listener: &str, port| Endpoint {
                listener: listener.into(),
                host: format!("broker-{node}"),
                port,
                ..Endpoint::default()
            };
            let endpoints = vec![endpoint("PLAINTEXT", 9091 + node), endpoint("EXTERNAL", 19091 + node)];
            let (epoch, life) = (BrokerEpoch(u64::from(node)), Life(u128::from(node)));
            let node = BrokerId(i32::from(node));
            let broker = Broker { node, epoch, life, endpoints, alive: true, ..Broker::default() };
            image.apply(&Record::BrokerRegistered { broker, lanes: 1 });
            placed.push(Some(Placed { node, lane: LaneId { epoch, lane: 0, life }, from: Seq(0) }));
        }
        let id = TopicId(Uuid::from_u128(8));
        let (name, configs) = (OFFSETS_TOPIC.into(), Default::default());
        image.apply(&Record::TopicCreated { id, name, replication: 3, configs, placed });
        image
    }

    #[test]
    fn the_coordinator_is_the_leader_of_the_groups_partition_by_the_askers_listener() {
        let image = world();
        for group in ["a", "b", "c"] {
            let node = partition_of(group, 2) + 1;
            let plain = find(&image, "PLAINTEXT", group);
            assert_eq!(plain, Ok((node, Text::from(format!("broker-{node}")), 9091 + node)));
            let external = find(&image, "EXTERNAL", group);
            assert_eq!(external.unwrap().2, 19091 + node);
            assert_eq!(find(&image, "OTHER", group), Err((ErrorCode::CoordinatorNotAvailable, "")));
        }
        let nowhere = find(&Image::default(), "PLAINTEXT", "a");
        assert_eq!(nowhere, Err((ErrorCode::CoordinatorNotAvailable, "")));
    }

    #[test]
    fn old_versions_have_one_row_at_the_top() {
        let refused = || row(Text::from("g"), Err((ErrorCode::InvalidRequest, "why")));
        let old = respond(3, vec![refused()]);
        assert_eq!((old.error_code, old.node_id, old.port), (42, -1, -1));
        assert_eq!(old.error_message, Some(Text::from("why")));
        assert_eq!(respond(4, vec![refused(), refused()]).coordinators.len(), 2);
    }
}
