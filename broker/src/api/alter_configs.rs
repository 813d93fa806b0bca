//! AlterConfigs (key 33, v0-2): replaces all configs of a resource; what is not named is reset.
//!
//! For old clients; rules as in `incremental_alter_configs`.

use std::sync::Arc;

use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::alter_configs_request::AlterableConfig;
use tidemark_proto::kafka::messages::alter_configs_response::AlterConfigsResourceResponse;
use tidemark_proto::kafka::messages::{AlterConfigsRequest, AlterConfigsResponse};

use super::Ctx;
use super::incremental_alter_configs::{Changes, check_dynamic, rows, scope, submit, told};
use super::view::View;
use crate::cluster::command::Refusal;
use crate::cluster::record::Scope;
use crate::config::ConfigSource;
use crate::node::Node;

/// Answers.
pub async fn handle(node: Arc<Node>, ctx: Arc<Ctx>, request: AlterConfigsRequest) -> AlterConfigsResponse {
    let mut responses = Vec::with_capacity(request.resources.len());
    for asked in &request.resources {
        let image = node.cluster.image();
        let view = View::of(&node, &image, &ctx);
        let judged = scope(&view, asked.resource_type, &asked.resource_name)
            .and_then(|scope| Ok((changes(&view, &scope, &asked.configs)?, scope)));
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
    AlterConfigsResponse { responses, ..Default::default() }
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
