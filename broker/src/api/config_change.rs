//! Changing configs, as AlterConfigs and IncrementalAlterConfigs share it: what a request names, who may, who commits.
//!
//! Topics, one broker, or all brokers (empty name), groups, subscriptions to clients' metrics. Each resource is judged
//! and committed by itself: one that is refused does not hold up the others.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemark_proto::id::BrokerId;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::text::Text;

use super::describe_configs::resource;
use super::view::View;
use super::{Ctx, Operation, Resource};
use crate::cluster::command::Refusal;
use crate::cluster::record::Scope;
use crate::cluster::{Command, Reply};
use crate::config::{
    ConfigRow, broker_rows, check_client_metrics, check_group, client_metrics_rows, group_rows,
    is_legacy_topic, topic_rows,
};
use crate::node::Node;

/// Keys with their new values; `None` resets.
pub type Changes = Vec<(String, Option<String>)>;

/// A resource of the request, with what is asked of it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a, C> {
    /// Its type, with Kafka's numbers.
    pub kind: i8,
    /// Its name.
    pub name: &'a Text,
    /// The request's rows.
    pub configs: &'a [C],
}

/// What became of a resource.
#[derive(Debug)]
pub struct Changed {
    /// Its type.
    pub kind: i8,
    /// Its name.
    pub name: Text,
    /// The code.
    pub code: ErrorCode,
    /// Why.
    pub why: Option<Text>,
}

/// Judges and commits resource by resource; `changes` makes changes of a resource's rows.
pub async fn change<C>(
    node: &Arc<Node>,
    ctx: &Ctx,
    asked: &[Asked<'_, C>],
    validate_only: bool,
    changes: fn(&View<'_>, &Scope, &[C]) -> Result<Changes, Refusal>,
) -> Vec<Changed> {
    let mut times: BTreeMap<(i8, &Text), usize> = BTreeMap::new();
    asked.iter().for_each(|one| *times.entry((one.kind, one.name)).or_default() += 1);
    let mut done = Vec::with_capacity(asked.len());
    for one in asked {
        let (kind, name) = (one.kind, one.name.clone());
        let judged = match times[&(kind, &name)] > 1 {
            true => Err(Refusal::new(ErrorCode::InvalidRequest, "Each resource must appear at most once.")),
            false => {
                let image = node.cluster.image();
                let view = View::of(node, &image, ctx);
                scope(&view, kind, &name).and_then(|scope| {
                    let changes = changes(&view, &scope, one.configs)?;
                    check(&view, &scope, &changes)?;
                    if matches!(scope, Scope::Topic(_)) {
                        changes.iter().for_each(|(key, _)| warn_of_legacy(&name, key));
                    }
                    Ok((changes, scope))
                })
            }
        };
        let outcome = match judged {
            Ok((changes, scope)) => submit(node, scope, changes, validate_only).await,
            Err(refusal) => Err(refusal),
        };
        let (code, why) = told(outcome);
        done.push(Changed { kind, name, code, why });
    }
    done
}

/// Tells the log of a setting that has no effect and is not reported, so that nobody looks for it in vain.
pub fn warn_of_legacy(topic: &str, key: &str) {
    if is_legacy_topic(key) {
        tracing::warn!(topic, key, "accepted, no effect: a setting of older Kafkas");
    }
}

/// An outcome as code and message.
pub fn told(outcome: Result<(), Refusal>) -> (ErrorCode, Option<Text>) {
    match outcome {
        Ok(()) => (ErrorCode::None, None),
        Err(Refusal { code, why }) if why.is_empty() => (code, Some(Text::from(code.to_string()))),
        Err(Refusal { code, why }) => (code, Some(Text::from(why))),
    }
}

/// Has the controller commit the changes. A value that running brokers cannot take makes the request invalid, as in Kafka
/// (KAFKA-13609); of anything else it is the config.
async fn submit(node: &Node, scope: Scope, set: Changes, validate_only: bool) -> Result<(), Refusal> {
    let of_brokers = matches!(scope, Scope::Broker(_));
    match node.cluster.submit(Command::SetConfig { scope, set, validate_only }).await {
        Ok(Reply::Row(Err(Refusal { code: ErrorCode::InvalidConfig, why }))) if of_brokers => {
            Err(Refusal { code: ErrorCode::InvalidRequest, why })
        }
        Ok(Reply::Row(row)) => row,
        Ok(_) => Err(Refusal::new(ErrorCode::UnknownServerError, "")),
        Err(code) => Err(Refusal::new(code, "")),
    }
}

/// What a resource names, if its configs may be changed by the asker.
fn scope(view: &View<'_>, kind: i8, name: &str) -> Result<Scope, Refusal> {
    let may = |resource| view.allows(Operation::AlterConfigs, resource);
    let denied = |code| Err(Refusal::new(code, "Authorization failed."));
    match kind {
        resource::TOPIC if !may(Resource::Topic(name)) => denied(ErrorCode::TopicAuthorizationFailed),
        resource::TOPIC => match view.image.topic_named(name) {
            Some(topic) => Ok(Scope::Topic(topic.id)),
            None => Err(Refusal::new(ErrorCode::UnknownTopicOrPartition, "")),
        },
        resource::BROKER if !may(Resource::Cluster) => denied(ErrorCode::ClusterAuthorizationFailed),
        resource::BROKER if name.is_empty() => Ok(Scope::Broker(None)),
        resource::BROKER => match name.parse().map(BrokerId) {
            Ok(id) if view.image.broker(id).is_some() => Ok(Scope::Broker(Some(id))),
            _ => Err(Refusal::new(
                ErrorCode::InvalidRequest,
                format!("There is no broker {}.", name.escape_debug()),
            )),
        },
        resource::GROUP if !may(Resource::Group(name)) => denied(ErrorCode::GroupAuthorizationFailed),
        resource::GROUP if name.is_empty() => {
            Err(Refusal::new(ErrorCode::InvalidRequest, "Default group resources are not allowed."))
        }
        resource::GROUP => Ok(Scope::Group(name.to_owned())),
        resource::CLIENT_METRICS if !may(Resource::Cluster) => denied(ErrorCode::ClusterAuthorizationFailed),
        resource::CLIENT_METRICS if name.is_empty() => {
            Err(Refusal::new(ErrorCode::InvalidRequest, "Subscription name can't be empty"))
        }
        resource::CLIENT_METRICS => Ok(Scope::ClientMetrics(name.to_owned())),
        other => {
            let why = format!("Configs of resource type {other} cannot be changed.");
            Err(Refusal::new(ErrorCode::InvalidRequest, why))
        }
    }
}

/// All keys of a scope as they are now.
pub fn rows(view: &View<'_>, scope: &Scope) -> Vec<ConfigRow> {
    let none = BTreeMap::new();
    match scope {
        Scope::Topic(id) => {
            let own = view.image.topic(*id).map_or(&none, |topic| &topic.configs);
            topic_rows(&view.settings(), own)
        }
        Scope::Broker(node) => broker_rows(&view.settings_of(*node)),
        Scope::Group(name) => {
            group_rows(&view.settings(), view.image.configs_of_group(name).unwrap_or(&none))
        }
        Scope::ClientMetrics(name) => {
            client_metrics_rows(view.image.client_metrics_named(name).unwrap_or(&none))
        }
    }
}

/// Judges values that the controller does not: of groups by this broker's bounds, and of subscriptions.
fn check(view: &View<'_>, scope: &Scope, changes: &Changes) -> Result<(), Refusal> {
    let settings = view.settings();
    for (key, value) in changes {
        let value = value.as_deref();
        let judged = match scope {
            Scope::Topic(_) | Scope::Broker(_) => Ok(()),
            Scope::Group(_) => {
                check_group(&settings, key, value).map_err(|why| (ErrorCode::InvalidConfig, why))
            }
            Scope::ClientMetrics(_) => check_client_metrics(key, value),
        };
        judged.map_err(|(code, why)| Refusal::new(code, why))?;
    }
    Ok(())
}

/// A broker's key must be one that may change while it runs.
pub fn check_dynamic(scope: &Scope, row: Option<&ConfigRow>, name: &str) -> Result<(), Refusal> {
    match (scope, row) {
        (Scope::Broker(_), Some(row)) if row.read_only => {
            let why = format!("{name} cannot be changed while the broker runs; set it in its file.");
            Err(Refusal::new(ErrorCode::InvalidRequest, why))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::World;

    #[test]
    fn resources_are_found_and_guarded() {
        let world = World::new();
        let code = |kind, name| scope(&world.view(44, 1).look(), kind, name).map_err(|r| r.code.code());
        assert_eq!(code(resource::TOPIC, "orders"), Ok(Scope::Topic(world.orders)));
        assert_eq!(code(resource::TOPIC, "nope"), Err(3));
        assert_eq!(code(resource::BROKER, ""), Ok(Scope::Broker(None)));
        assert_eq!(code(resource::BROKER, "2"), Ok(Scope::Broker(Some(BrokerId(2)))));
        assert_eq!(code(resource::BROKER, "9"), Err(42));
        assert_eq!(code(77, "x"), Err(42));
        assert_eq!(code(resource::GROUP, "g"), Ok(Scope::Group("g".into())));
        assert_eq!([code(resource::GROUP, ""), code(resource::CLIENT_METRICS, "")], [Err(42), Err(42)]);
        assert_eq!(code(resource::CLIENT_METRICS, "m"), Ok(Scope::ClientMetrics("m".into())));
        let denied = world.view(44, 1).denying(Operation::AlterConfigs, "");
        assert_eq!(scope(&denied.look(), resource::TOPIC, "orders").unwrap_err().code.code(), 29);
        assert_eq!(scope(&denied.look(), resource::BROKER, "1").unwrap_err().code.code(), 31);
        assert_eq!(scope(&denied.look(), resource::GROUP, "g").unwrap_err().code.code(), 30);
        assert_eq!(scope(&denied.look(), resource::CLIENT_METRICS, "m").unwrap_err().code.code(), 31);
    }

    #[test]
    fn values_of_groups_and_subscriptions_are_judged_where_they_are_asked_for() {
        let world = World::new();
        let code = |scope: &Scope, key: &str, value: &str| {
            let changes = vec![(key.to_owned(), Some(value.to_owned()))];
            check(&world.view(44, 1).look(), scope, &changes).map_err(|r| r.code.code())
        };
        let (group, metrics) = (Scope::Group("g".into()), Scope::ClientMetrics("m".into()));
        assert_eq!(code(&group, "consumer.session.timeout.ms", "50000"), Ok(()));
        assert_eq!(code(&group, "consumer.session.timeout.ms", "1"), Err(40));
        assert_eq!(code(&group, "no.such", "1"), Err(40));
        assert_eq!([code(&metrics, "no.such", "1"), code(&metrics, "interval.ms", "1")], [Err(42), Err(42)]);
    }
}
