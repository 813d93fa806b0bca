//! AlterConfigs (key 33, v0-2): replaces all configs of a resource; what is not named is reset.
//!
//! For old clients; rules as in `incremental_alter_configs`.

use std::sync::Arc;

use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::alter_configs_request::AlterableConfig;
use tidemark_proto::kafka::messages::alter_configs_response::AlterConfigsResourceResponse;
use tidemark_proto::kafka::messages::{AlterConfigsRequest, AlterConfigsResponse};

use super::Ctx;
use super::config_change::{Asked, Changes, change, check_dynamic, rows};
use super::view::View;
use crate::cluster::command::Refusal;
use crate::cluster::record::Scope;
use crate::config::ConfigSource;
use crate::node::Node;

/// Answers.
pub async fn handle(node: Arc<Node>, ctx: Arc<Ctx>, request: AlterConfigsRequest) -> AlterConfigsResponse {
    let asked: Vec<_> = request
        .resources
        .iter()
        .map(|one| Asked { kind: one.resource_type, name: &one.resource_name, configs: &one.configs })
        .collect();
    let changed = change(&node, &ctx, &asked, request.validate_only, changes).await;
    let responses = changed.into_iter().map(|one| AlterConfigsResourceResponse {
        error_code: one.code.code(),
        error_message: one.why,
        resource_type: one.kind,
        resource_name: one.name,
        ..Default::default()
    });
    AlterConfigsResponse { responses: responses.collect(), ..Default::default() }
}

fn changes(view: &View<'_>, scope: &Scope, asked: &[AlterableConfig]) -> Result<Changes, Refusal> {
    let rows = rows(view, scope);
    let mut changes = Changes::new();
    for config in asked {
        let name = config.name.as_str();
        check_dynamic(scope, rows.iter().find(|row| row.name == name), name)?;
        let Some(value) = &config.value else {
            return Err(Refusal::new(
                ErrorCode::InvalidRequest,
                format!("{} has no value.", name.escape_debug()),
            ));
        };
        if changes.iter().any(|(other, _)| other == name) {
            return Err(Refusal::new(
                ErrorCode::InvalidRequest,
                format!("{} is there twice.", name.escape_debug()),
            ));
        }
        changes.push((name.to_owned(), Some(value.as_str().to_owned())));
    }
    let own = match scope {
        Scope::Topic(_) => ConfigSource::Topic,
        Scope::Broker(Some(_)) => ConfigSource::DynamicBroker,
        Scope::Broker(None) => ConfigSource::DynamicDefaultBroker,
        Scope::Group(_) => ConfigSource::Group,
        Scope::ClientMetrics(_) => ConfigSource::ClientMetrics,
    };
    let reset =
        rows.iter().filter(|row| row.source == own && !changes.iter().any(|(name, _)| name == row.name));
    let reset: Changes = reset.map(|row| (row.name.to_owned(), None)).collect();
    changes.extend(reset);
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use tidemark_proto::id::TopicId;

    use super::*;
    use crate::api::testing::World;

    #[test]
    fn what_is_not_named_is_reset() {
        let mut world = World::new();
        let id = TopicId(uuid::Uuid::from_u128(20));
        world.create("own", id, 1, &[("cleanup.policy", "compact"), ("retention.ms", "5")]);
        let config =
            AlterableConfig { name: "retention.ms".into(), value: Some("6".into()), ..Default::default() };
        let found = changes(&world.view(33, 1).look(), &Scope::Topic(id), &[config]).unwrap();
        let expected = [("retention.ms", Some("6")), ("cleanup.policy", None)];
        assert_eq!(found, expected.map(|(k, v)| (k.to_owned(), v.map(str::to_owned))));
    }
}
