//! IncrementalAlterConfigs (key 44, v0-1): sets, resets, appends to and subtracts from single configs.
//!
//! Topics, one broker, or all brokers (empty name). Append and subtract are for lists only. A key that comes twice, or
//! a key that cannot change while a broker runs, is refused with its resource; other resources go on.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidemark_proto::id::BrokerId;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use tidemark_proto::kafka::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use tidemark_proto::kafka::messages::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};
use tidemark_proto::kafka::text::Text;

use super::describe_configs::resource;
use super::view::View;
use super::{Ctx, Operation, Resource};
use crate::cluster::command::Refusal;
use crate::cluster::record::Scope;
use crate::cluster::{Command, Reply};
use crate::config::{ConfigRow, Kind, broker_rows, items, topic_rows};
use crate::node::Node;

/// Keys with their new values; `None` resets.
pub type Changes = Vec<(String, Option<String>)>;

/// Answers.
pub async fn handle(
    node: Arc<Node>,
    ctx: Arc<Ctx>,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let mut responses = Vec::with_capacity(request.resources.len());
    for asked in &request.resources {
        let image = node.cluster.image();
        let view = View::of(&node, &image, &ctx);
        let twice = request.resources.iter().filter(|other| same(other, asked)).count() > 1;
        let judged = match twice {
            true => Err(Refusal::new(ErrorCode::InvalidRequest, "Each resource must appear at most once.")),
            false => scope(&view, asked.resource_type, &asked.resource_name)
                .and_then(|scope| Ok((changes(&view, &scope, &asked.configs)?, scope))),
        };
        let outcome = match judged {
            Ok((changes, scope)) => submit(&node, scope, changes, request.validate_only).await,
            Err(refusal) => Err(refusal),
        };
        let (code, why) = told(outcome);
        responses.push(AlterConfigsResourceResponse {
            error_code: code.code(),
            error_message: why,
            resource_type: asked.resource_type,
            resource_name: asked.resource_name.clone(),
            ..Default::default()
        });
    }
    IncrementalAlterConfigsResponse { responses, ..Default::default() }
}

fn same(a: &AlterConfigsResource, b: &AlterConfigsResource) -> bool {
    a.resource_type == b.resource_type && a.resource_name == b.resource_name
}

/// An outcome as code and message.
pub fn told(outcome: Result<(), Refusal>) -> (ErrorCode, Option<Text>) {
    match outcome {
        Ok(()) => (ErrorCode::None, None),
        Err(Refusal { code, why }) if why.is_empty() => (code, Some(Text::from(code.to_string()))),
        Err(Refusal { code, why }) => (code, Some(Text::from(why))),
    }
}

/// Has the controller commit the changes.
pub async fn submit(node: &Node, scope: Scope, set: Changes, validate_only: bool) -> Result<(), Refusal> {
    match node.cluster.submit(Command::SetConfig { scope, set, validate_only }).await {
        Ok(Reply::Row(row)) => row,
        Ok(_) => Err(Refusal::new(ErrorCode::UnknownServerError, "")),
        Err(code) => Err(Refusal::new(code, "")),
    }
}

/// What a resource names, if its configs may be changed by the asker.
pub fn scope(view: &View<'_>, kind: i8, name: &str) -> Result<Scope, Refusal> {
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
        other => {
            let why = format!("Configs of resource type {other} cannot be changed.");
            Err(Refusal::new(ErrorCode::InvalidRequest, why))
        }
    }
}

/// All keys of a scope as they are now.
pub fn rows(view: &View<'_>, scope: &Scope) -> Vec<ConfigRow> {
    let none = std::collections::BTreeMap::new();
    match scope {
        Scope::Topic(id) => {
            let own = view.image.topic(*id).map_or(&none, |topic| &topic.configs);
            topic_rows(&view.config.settings, own)
        }
        Scope::Broker(node) => {
            let own = view.image.broker_configs(*node).unwrap_or(&none);
            broker_rows(&view.config.settings, own, view.image.broker_configs(None).unwrap_or(&none))
        }
    }
}

fn changes(view: &View<'_>, scope: &Scope, asked: &[AlterableConfig]) -> Result<Changes, Refusal> {
    let rows = rows(view, scope);
    let mut seen = BTreeSet::new();
    let mut changes = Vec::with_capacity(asked.len());
    for config in asked {
        let name = config.name.as_str();
        let shown = name.escape_debug();
        if !seen.insert(name) {
            return Err(Refusal::new(ErrorCode::InvalidRequest, format!("{shown} is there twice.")));
        }
        let row = rows.iter().find(|row| row.name == name);
        check_dynamic(scope, row, name)?;
        let value = || {
            let missing = || Refusal::new(ErrorCode::InvalidRequest, format!("{shown} has no value."));
            config.value.as_deref().ok_or_else(missing)
        };
        let list = || match row {
            Some(row) if row.kind == Kind::List => Ok(row.value.clone().unwrap_or_default()),
            _ => Err(Refusal::new(ErrorCode::InvalidConfig, format!("{shown} is no list."))),
        };
        let value = match config.config_operation {
            0 => Some(value()?.to_owned()),
            1 => None,
            2 => {
                let (old, more) = (list()?, value()?);
                let mut all: Vec<&str> = items(&old).collect();
                all.extend(items(more).filter(|item| !items(&old).any(|o| o == *item)));
                Some(all.join(","))
            }
            3 => {
                let (old, less) = (list()?, value()?);
                let left: Vec<&str> = items(&old).filter(|item| !items(less).any(|l| l == *item)).collect();
                Some(left.join(","))
            }
            other => {
                return Err(Refusal::new(ErrorCode::InvalidRequest, format!("Unknown operation {other}.")));
            }
        };
        changes.push((name.to_owned(), value));
    }
    Ok(changes)
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

    fn change(world: &World, name: &str, operation: i8, value: Option<&str>) -> Result<Changes, i16> {
        let config = AlterableConfig {
            name: name.into(),
            config_operation: operation,
            value: value.map(Text::from),
            ..Default::default()
        };
        changes(&world.view(44, 1).look(), &Scope::Topic(world.orders), &[config]).map_err(|r| r.code.code())
    }

    fn one(key: &str, value: Option<&str>) -> Result<Changes, i16> {
        Ok(vec![(key.to_owned(), value.map(str::to_owned))])
    }

    #[test]
    fn the_four_operations_do_what_kafkas_do() {
        let world = World::new();
        assert_eq!(change(&world, "retention.ms", 0, Some("5")), one("retention.ms", Some("5")));
        assert_eq!(change(&world, "retention.ms", 1, None), one("retention.ms", None));
        let policy = "cleanup.policy";
        assert_eq!(change(&world, policy, 2, Some("compact,delete")), one(policy, Some("delete,compact")));
        assert_eq!(change(&world, policy, 3, Some("delete")), one(policy, Some("")));
        assert_eq!(change(&world, "retention.ms", 2, Some("5")), Err(40));
        assert_eq!(change(&world, "retention.ms", 0, None), Err(42));
        assert_eq!(change(&world, "retention.ms", 9, Some("5")), Err(42));
    }

    #[test]
    fn what_cannot_change_while_a_broker_runs_is_refused() {
        let world = World::new();
        let set = |name: &str| {
            let config = AlterableConfig { name: name.into(), value: Some("1".into()), ..Default::default() };
            changes(&world.view(44, 1).look(), &Scope::Broker(None), &[config]).map_err(|r| r.code.code())
        };
        assert_eq!(set("num.partitions"), Err(42));
        assert_eq!(set("message.max.bytes"), one("message.max.bytes", Some("1")));
    }

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
        let denied = world.view(44, 1).denying(Operation::AlterConfigs, "");
        assert_eq!(scope(&denied.look(), resource::TOPIC, "orders").unwrap_err().code.code(), 29);
        assert_eq!(scope(&denied.look(), resource::BROKER, "1").unwrap_err().code.code(), 31);
    }
}
