//! IncrementalAlterConfigs (key 44, v0-1): sets, resets, appends to and subtracts from single configs.
//!
//! Append and subtract are for lists only. A key that comes twice, or a key that cannot change while a broker runs, is
//! refused with its resource; other resources go on. Levels of loggers are this broker's own business.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::incremental_alter_configs_request::AlterableConfig;
use tidemark_proto::kafka::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use tidemark_proto::kafka::messages::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};

use super::Ctx;
use super::broker_loggers;
use super::config_change::{Asked, Changed, Changes, change, check_dynamic, rows, told};
use super::describe_configs::resource;
use super::view::View;
use crate::cluster::command::Refusal;
use crate::cluster::record::Scope;
use crate::config::{Kind, items};
use crate::node::Node;

/// Answers.
pub async fn handle(
    node: Arc<Node>,
    ctx: Arc<Ctx>,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let is_logger = |kind: i8| kind == resource::BROKER_LOGGER;
    let asked: Vec<_> = request
        .resources
        .iter()
        .filter(|one| !is_logger(one.resource_type))
        .map(|one| Asked { kind: one.resource_type, name: &one.resource_name, configs: &one.configs })
        .collect();
    let changed = change(&node, &ctx, &asked, request.validate_only, changes).await;
    let levels = request.resources.iter().filter(|one| is_logger(one.resource_type)).map(|one| {
        let image = node.cluster.image();
        let (view, name) = (View::of(&node, &image, &ctx), &one.resource_name);
        let done = broker_loggers::alter(&view, &node.loggers, name, &one.configs, request.validate_only);
        let (code, why) = told(done);
        Changed { kind: one.resource_type, name: name.clone(), code, why }
    });
    let responses = changed.into_iter().chain(levels).map(|one| AlterConfigsResourceResponse {
        error_code: one.code.code(),
        error_message: one.why,
        resource_type: one.kind,
        resource_name: one.name,
        ..Default::default()
    });
    IncrementalAlterConfigsResponse { responses: responses.collect(), ..Default::default() }
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
            // Kafka takes a subscription's lists whole only.
            Some(row) if row.kind == Kind::List && !matches!(scope, Scope::ClientMetrics(_)) => {
                Ok(row.value.clone().unwrap_or_default())
            }
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

#[cfg(test)]
mod tests {
    use tidemark_proto::kafka::text::Text;

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
}
