//! CreateTopics (key 19, v0-7): names, counts and configs are checked, then the controller commits.
//!
//! Any broker takes it and forwards. Any replication factor is accepted: the bucket replicates. v5 answers the topic's
//! configs, v7 its id. One row per topic asked for; a name that comes twice is refused in all its rows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidemark_proto::id::{BrokerId, PartitionIndex, TopicId};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::create_topics_request::CreatableTopic;
use tidemark_proto::kafka::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use tidemark_proto::kafka::messages::{CreateTopicsRequest, CreateTopicsResponse};
use tidemark_proto::kafka::text::Text;

use super::config_change::warn_of_legacy;
use super::view::View;
use super::{Ctx, Operation, Resource};
use crate::cluster::command::{Created, NewTopic, Refusal};
use crate::cluster::{Command, Reply};
use crate::config::topic_rows;
use crate::node::Node;

/// Answers.
pub async fn handle(node: Arc<Node>, ctx: Arc<Ctx>, request: CreateTopicsRequest) -> CreateTopicsResponse {
    let image = node.cluster.image();
    let view = View::of(&node, &image, &ctx);
    let (refused, wanted) = sort(&view, &request);
    let topics: Vec<NewTopic> =
        wanted.iter().map(|topic| new_topic(topic, TopicId(node.seams.entropy.uuid()))).collect();
    for topic in &topics {
        topic.configs.iter().for_each(|(key, _)| warn_of_legacy(&topic.name, key));
    }
    let validate_only = request.validate_only;
    let outcome = match topics.is_empty() {
        true => Ok(Vec::new()),
        false => {
            let wait = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0).max(1));
            let submit = node.cluster.submit(Command::CreateTopics { topics, validate_only });
            match tokio::time::timeout(wait, submit).await {
                Err(_) => Err(ErrorCode::RequestTimedOut),
                Ok(Err(code)) => Err(code),
                Ok(Ok(Reply::Created(rows))) => Ok(rows),
                Ok(Ok(_)) => Err(ErrorCode::UnknownServerError),
            }
        }
    };
    let mut created: BTreeMap<&str, Result<Created, Refusal>> = BTreeMap::new();
    if let Ok(rows) = &outcome {
        created.extend(rows.iter().map(|(name, row)| (name.as_str(), row.clone())));
    }
    let failed = |code: ErrorCode| Refusal::new(code, "");
    let topics = request.topics.iter().map(|topic| {
        let result = match (refused.get(&topic.name), &outcome) {
            (Some(refusal), _) => Err(refusal.clone()),
            (None, Err(code)) => Err(failed(*code)),
            (None, Ok(_)) => created
                .get(topic.name.as_str())
                .cloned()
                .unwrap_or_else(|| Err(failed(ErrorCode::UnknownServerError))),
        };
        row(&view, topic, result, validate_only)
    });
    CreateTopicsResponse { topics: topics.collect(), ..Default::default() }
}

/// Tells what is refused at once from what the controller is asked.
fn sort<'a>(
    view: &View<'_>,
    request: &'a CreateTopicsRequest,
) -> (BTreeMap<Text, Refusal>, Vec<&'a CreatableTopic>) {
    let mut seen: BTreeMap<&Text, usize> = BTreeMap::new();
    request.topics.iter().for_each(|topic| *seen.entry(&topic.name).or_default() += 1);
    let anywhere = view.allows(Operation::Create, Resource::Cluster);
    let mut refused = BTreeMap::new();
    let mut wanted = Vec::new();
    for topic in &request.topics {
        let refusal = if !anywhere && !view.allows(Operation::Create, Resource::Topic(&topic.name)) {
            Refusal::new(ErrorCode::TopicAuthorizationFailed, "Authorization failed.")
        } else if seen.get(&topic.name).is_some_and(|times| *times > 1) {
            Refusal::new(ErrorCode::InvalidRequest, "Duplicate topic name.")
        } else if &*topic.name == "__cluster_metadata" {
            Refusal::new(
                ErrorCode::InvalidTopicException,
                "Creation of internal topic __cluster_metadata is prohibited.",
            )
        } else {
            wanted.push(topic);
            continue;
        };
        refused.insert(topic.name.clone(), refusal);
    }
    (refused, wanted)
}

fn new_topic(topic: &CreatableTopic, id: TopicId) -> NewTopic {
    let assignment =
        |row: &tidemark_proto::kafka::messages::create_topics_request::CreatableReplicaAssignment| {
            (PartitionIndex(row.partition_index), row.broker_ids.iter().map(|id| BrokerId(*id)).collect())
        };
    let config = |row: &tidemark_proto::kafka::messages::create_topics_request::CreatableTopicConfig| {
        (row.name.as_str().to_owned(), row.value.as_ref().map(|value| value.as_str().to_owned()))
    };
    NewTopic {
        name: topic.name.as_str().to_owned(),
        id,
        partitions: topic.num_partitions,
        replication: topic.replication_factor,
        assignments: topic.assignments.iter().map(assignment).collect(),
        configs: topic.configs.iter().map(config).collect(),
    }
}

fn row(
    view: &View<'_>,
    topic: &CreatableTopic,
    result: Result<Created, Refusal>,
    validate_only: bool,
) -> CreatableTopicResult {
    let name = topic.name.clone();
    let created = match result {
        Ok(created) => created,
        Err(Refusal { code, why }) => {
            let why = if why.is_empty() { code.to_string() } else { why };
            let (error_code, error_message) = (code.code(), Some(Text::from(why)));
            // No configs: a topic that is not there has none, and v5 and later may not say null here.
            let configs = Some(Vec::new());
            return CreatableTopicResult { name, error_code, error_message, configs, ..Default::default() };
        }
    };
    let topic_id = if validate_only { uuid::Uuid::nil() } else { created.id.0 };
    if !view.allows(Operation::DescribeConfigs, Resource::Topic(&name)) {
        let topic_config_error_code = ErrorCode::TopicAuthorizationFailed.code();
        let configs = Some(Vec::new());
        return CreatableTopicResult {
            name,
            topic_id,
            topic_config_error_code,
            configs,
            error_message: None,
            ..Default::default()
        };
    }
    let own: BTreeMap<String, String> = topic
        .configs
        .iter()
        .filter_map(|c| Some((c.name.as_str().to_owned(), c.value.as_ref()?.as_str().to_owned())))
        .collect();
    let configs = topic_rows(&view.settings(), &own).into_iter().map(|row| CreatableTopicConfigs {
        name: Text::from_static(row.name),
        value: row.value.map(Text::from),
        read_only: row.read_only,
        config_source: row.source as i8,
        is_sensitive: row.secret,
        ..Default::default()
    });
    CreatableTopicResult {
        name,
        topic_id,
        num_partitions: created.partitions,
        replication_factor: created.replication,
        configs: Some(configs.collect()),
        // Null, not empty: some clients take any text for a failure's.
        error_message: None,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::World;

    fn request(names: &[&str]) -> CreateTopicsRequest {
        let topics = names.iter().map(|name| CreatableTopic { name: (*name).into(), ..Default::default() });
        CreateTopicsRequest { topics: topics.collect(), ..Default::default() }
    }

    #[test]
    fn a_name_that_comes_twice_is_refused_in_all_its_rows() {
        let world = World::new();
        let request = request(&["a", "b", "a"]);
        let (refused, wanted) = sort(&world.view(19, 7).look(), &request);
        assert_eq!(refused[&Text::from("a")].code, ErrorCode::InvalidRequest);
        assert_eq!(wanted.len(), 1);
    }

    #[test]
    fn who_may_not_create_is_told_so() {
        let world = World::new();
        let request = request(&["a", "b"]);
        let (refused, wanted) = sort(&world.view(19, 7).denying(Operation::Create, "").look(), &request);
        assert!(refused.values().all(|r| r.code == ErrorCode::TopicAuthorizationFailed));
        assert!(wanted.is_empty());
        let (refused, _) = sort(&world.view(19, 7).denying(Operation::Create, "a").look(), &request);
        assert!(refused.is_empty(), "a right on the cluster is enough");
    }

    #[test]
    fn the_answer_shows_all_configs_with_their_source_unless_they_may_not_be_seen() {
        let world = World::new();
        let topic = CreatableTopic {
            name: "a".into(),
            configs: vec![tidemark_proto::kafka::messages::create_topics_request::CreatableTopicConfig {
                name: "retention.ms".into(),
                value: Some("5".into()),
                ..Default::default()
            }],
            ..Default::default()
        };
        let created = Created { id: TopicId(uuid::Uuid::from_u128(5)), partitions: 3, replication: 2 };
        let seen = row(&world.view(19, 7).look(), &topic, Ok(created.clone()), false);
        let configs = seen.configs.unwrap();
        let retention = configs.iter().find(|c| &*c.name == "retention.ms").unwrap();
        assert_eq!((retention.value.as_deref(), retention.config_source), (Some("5"), 1));
        assert_eq!((seen.num_partitions, seen.replication_factor), (3, 2));
        let hidden = world.view(19, 7).denying(Operation::DescribeConfigs, "a");
        let hidden = row(&hidden.look(), &topic, Ok(created), true);
        assert_eq!((hidden.topic_config_error_code, hidden.num_partitions), (29, -1));
        assert!(hidden.topic_id.is_nil(), "nothing was created");
    }
}
