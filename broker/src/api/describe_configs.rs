//! DescribeConfigs (key 32, v0-4): every key of a topic, broker, group, subscription to clients' metrics or logger with
//! value, source, synonyms, type and doc.
//!
//! No keys named, or none at all, means all. Broker keys are this broker's; the empty name means what is set for all
//! brokers while they run. Groups and subscriptions need not be there.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemark_proto::id::BrokerId;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::describe_configs_request::DescribeConfigsResource;
use tidemark_proto::kafka::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use tidemark_proto::kafka::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use tidemark_proto::kafka::text::Text;

use super::broker_loggers;
use super::metadata::is_name;
use super::view::View;
use super::{Ctx, Operation, Resource};
use crate::config::{ConfigRow, ConfigSource, broker_rows, client_metrics_rows, group_rows, topic_rows};
use crate::loggers::Loggers;
use crate::node::Node;

/// Resource types, with Kafka's numbers.
pub mod resource {
    /// A topic.
    pub const TOPIC: i8 = 2;
    /// A broker.
    pub const BROKER: i8 = 4;
    /// A broker's log levels.
    pub const BROKER_LOGGER: i8 = 8;
    /// Client metrics.
    pub const CLIENT_METRICS: i8 = 16;
    /// A group.
    pub const GROUP: i8 = 32;
}

type Refused = (ErrorCode, String);

/// Answers.
pub async fn handle(
    node: Arc<Node>,
    ctx: Arc<Ctx>,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let image = node.cluster.image();
    let view = View::of(&node, &image, &ctx);
    let results = request.resources.iter().map(|asked| result(&view, &node.loggers, &request, asked));
    DescribeConfigsResponse { results: results.collect(), ..Default::default() }
}

fn result(
    view: &View<'_>,
    loggers: &Loggers,
    request: &DescribeConfigsRequest,
    asked: &DescribeConfigsResource,
) -> DescribeConfigsResult {
    let (resource_type, resource_name) = (asked.resource_type, asked.resource_name.clone());
    let base = DescribeConfigsResult { resource_type, resource_name, ..Default::default() };
    let entries = match asked.resource_type {
        resource::BROKER_LOGGER if view.allows(Operation::DescribeConfigs, Resource::Cluster) => {
            broker_loggers::describe(view, loggers, &asked.resource_name)
                .map_err(|refusal| (refusal.code, refusal.why))
        }
        _ => rows(view, asked).map(|rows| rows.into_iter().map(|row| entry(request, row)).collect()),
    };
    let entries = match entries {
        Ok(entries) => entries,
        Err((code, why)) => {
            return DescribeConfigsResult {
                error_code: code.code(),
                error_message: Some(Text::from(why)),
                ..base
            };
        }
    };
    let wanted = asked.configuration_keys.as_deref().filter(|keys| !keys.is_empty());
    let shown =
        entries.into_iter().filter(|row| wanted.is_none_or(|keys| keys.iter().any(|key| **key == *row.name)));
    DescribeConfigsResult { configs: shown.collect(), ..base }
}

fn entry(request: &DescribeConfigsRequest, row: ConfigRow) -> DescribeConfigsResourceResult {
    let synonyms = row.synonyms.into_iter().map(|synonym| DescribeConfigsSynonym {
        name: Text::from_static(synonym.name),
        value: synonym.value.map(Text::from),
        source: synonym.source as i8,
        ..Default::default()
    });
    DescribeConfigsResourceResult {
        name: Text::from_static(row.name),
        value: row.value.map(Text::from),
        read_only: row.read_only,
        is_default: row.source == ConfigSource::Default,
        config_source: row.source as i8,
        is_sensitive: row.secret,
        synonyms: if request.include_synonyms { synonyms.collect() } else { Vec::new() },
        config_type: row.kind.wire(),
        documentation: request.include_documentation.then(|| Text::from(row.doc)),
        ..Default::default()
    }
}

fn rows(view: &View<'_>, asked: &DescribeConfigsResource) -> Result<Vec<ConfigRow>, Refused> {
    let name = &*asked.resource_name;
    let may = |resource| view.allows(Operation::DescribeConfigs, resource);
    let denied = |code: ErrorCode| Err((code, "Authorization failed.".to_owned()));
    let nameless = |what: &str| Err((ErrorCode::InvalidRequest, format!("{what} name must not be empty")));
    let none = BTreeMap::new();
    match asked.resource_type {
        resource::TOPIC if !may(Resource::Topic(name)) => denied(ErrorCode::TopicAuthorizationFailed),
        resource::TOPIC if !is_name(name) => {
            Err((ErrorCode::InvalidTopicException, format!("'{}' is no topic name.", name.escape_debug())))
        }
        resource::TOPIC => match view.image.topic_named(name) {
            Some(topic) => Ok(topic_rows(&view.settings(), &topic.configs)),
            None => Err((ErrorCode::UnknownTopicOrPartition, format!("There is no topic {name}."))),
        },
        resource::GROUP if !may(Resource::Group(name)) => denied(ErrorCode::GroupAuthorizationFailed),
        resource::GROUP if name.is_empty() => nameless("Group"),
        resource::GROUP => {
            Ok(group_rows(&view.settings(), view.image.configs_of_group(name).unwrap_or(&none)))
        }
        resource::BROKER | resource::BROKER_LOGGER | resource::CLIENT_METRICS if !may(Resource::Cluster) => {
            denied(ErrorCode::ClusterAuthorizationFailed)
        }
        resource::BROKER => broker(view, name),
        resource::CLIENT_METRICS if name.is_empty() => nameless("Client metrics subscription"),
        resource::CLIENT_METRICS => {
            Ok(client_metrics_rows(view.image.client_metrics_named(name).unwrap_or(&none)))
        }
        other => Err((ErrorCode::InvalidRequest, format!("Resource type {other} has no configs."))),
    }
}

fn broker(view: &View<'_>, name: &str) -> Result<Vec<ConfigRow>, Refused> {
    if name.is_empty() {
        let rows = broker_rows(&view.settings_of(None));
        return Ok(rows.into_iter().filter(|row| row.source == ConfigSource::DynamicDefaultBroker).collect());
    }
    match name.parse() {
        Ok(id) if BrokerId(id) == view.node => {
            let mut rows = broker_rows(&view.settings());
            // An assigned id is as good as a configured one.
            let ids = rows.iter_mut().filter(|row| matches!(row.name, "node.id" | "broker.id"));
            ids.for_each(|row| row.value = Some(view.node.to_string()));
            Ok(rows)
        }
        _ => Err((
            ErrorCode::InvalidRequest,
            format!(
                "Unexpected broker id, expected {} or empty string, but received {}",
                view.node,
                name.escape_debug()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use tidemark_proto::id::TopicId;

    use super::*;
    use crate::api::testing::World;
    use crate::cluster::record::{Record, Scope};

    fn ask(world: &World, kind: i8, name: &str, keys: Option<&[&str]>) -> DescribeConfigsResult {
        let keys = keys.map(|keys| keys.iter().map(|key| (*key).into()).collect());
        let asked = DescribeConfigsResource {
            resource_type: kind,
            resource_name: name.into(),
            configuration_keys: keys,
            ..Default::default()
        };
        let request = DescribeConfigsRequest {
            include_synonyms: true,
            include_documentation: true,
            ..Default::default()
        };
        result(&world.view(32, 4).look(), &Loggers::default(), &request, &asked)
    }

    fn find<'a>(result: &'a DescribeConfigsResult, name: &str) -> &'a DescribeConfigsResourceResult {
        result.configs.iter().find(|row| &*row.name == name).unwrap()
    }

    #[test]
    fn a_topic_shows_all_keys_its_own_first_and_named_ones_only_when_named() {
        let mut world = World::new();
        world.create("own", TopicId(uuid::Uuid::from_u128(20)), 1, &[("cleanup.policy", "compact")]);
        for keys in [None, Some(&[][..])] {
            let result = ask(&world, resource::TOPIC, "own", keys);
            assert!(result.error_code == 0 && result.configs.len() > 30);
            let policy = find(&result, "cleanup.policy");
            assert_eq!(
                (policy.value.as_deref(), policy.config_source, policy.config_type),
                (Some("compact"), 1, 7)
            );
            assert_eq!(policy.synonyms.len(), 2);
            assert!(policy.documentation.is_some() && !policy.read_only);
            assert_eq!(find(&result, "retention.ms").config_source, 5);
        }
        let named = ask(&world, resource::TOPIC, "own", Some(&["cleanup.policy", "no.such"]));
        assert_eq!(named.configs.len(), 1);
    }

    #[test]
    fn a_broker_shows_itself_and_nobody_else() {
        let world = World::new();
        let own = ask(&world, resource::BROKER, "1", None);
        assert_eq!(find(&own, "node.id").value.as_deref(), Some("1"));
        assert_eq!(find(&own, "tidemark.bucket").config_source, 4);
        assert!(find(&own, "ssl.keystore.password").is_sensitive);
        assert_eq!(ask(&world, resource::BROKER, "2", None).error_code, 42);
        assert_eq!(ask(&world, resource::BROKER, "", None).configs.len(), 0);
    }

    #[test]
    fn a_group_shows_its_own_over_its_brokers_and_a_subscription_its_own_only() {
        let mut world = World::new();
        let set = |key: &str, value: &str| vec![(key.to_owned(), Some(value.to_owned()))];
        let (group, metrics) = (Scope::Group("g".into()), Scope::ClientMetrics("m".into()));
        let key = "consumer.session.timeout.ms";
        world.image.apply(&Record::ConfigSet { scope: group, set: set(key, "50000") });
        world.image.apply(&Record::ConfigSet { scope: metrics, set: set("interval.ms", "1000") });
        let places = |kind, name: &str, key: &str| {
            let result = ask(&world, kind, name, Some(&[key]));
            let row = find(&result, key);
            let of = |s: &DescribeConfigsSynonym| (s.name.as_str().to_owned(), s.source);
            let synonyms: Vec<_> = row.synonyms.iter().map(of).collect();
            (row.value.as_deref().unwrap_or("").to_owned(), row.config_source, synonyms)
        };
        let broker = || ("group.consumer.session.timeout.ms".to_owned(), 5);
        let own = || vec![(key.to_owned(), 8), broker()];
        assert_eq!(places(resource::GROUP, "g", key), ("50000".into(), 8, own()));
        assert_eq!(places(resource::GROUP, "nobody", key), ("45000".into(), 5, vec![broker()]));
        assert_eq!(ask(&world, resource::GROUP, "g", None).configs.len(), 17);
        let interval = |name| places(resource::CLIENT_METRICS, name, "interval.ms");
        assert_eq!(interval("m"), ("1000".into(), 7, vec![("interval.ms".into(), 7)]));
        assert_eq!(interval("nobody"), ("300000".into(), 5, Vec::new()));
        assert_eq!(ask(&world, resource::GROUP, "", None).error_code, 42);
        assert_eq!(ask(&world, resource::CLIENT_METRICS, "", None).error_code, 42);
        assert!(ask(&world, resource::BROKER_LOGGER, "1", None).configs.len() > 20);
    }

    #[test]
    fn what_is_not_there_or_not_allowed_has_its_code() {
        let world = World::new();
        assert_eq!(ask(&world, resource::TOPIC, "nope", None).error_code, 3);
        assert_eq!(ask(&world, resource::TOPIC, "a/b", None).error_code, 17);
        assert_eq!(ask(&world, 99, "x", None).error_code, 42);
        assert_eq!(ask(&world, resource::GROUP, "g", None).error_code, 0);
        let asked = |kind| DescribeConfigsResource {
            resource_type: kind,
            resource_name: "orders".into(),
            ..Default::default()
        };
        let view = world.view(32, 4).denying(Operation::DescribeConfigs, "");
        let code = |kind| rows(&view.look(), &asked(kind)).unwrap_err().0.code();
        assert_eq!([code(resource::TOPIC), code(resource::BROKER), code(resource::GROUP)], [29, 31, 30]);
    }
}
