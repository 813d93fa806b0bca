//! ListConfigResources (key 74, v0-1): which resources have configs.
//!
//! v0 knows client metrics only. v1: the types asked for, or all of them: topics, and brokers twice, since each has configs
//! and loggers. A type that is not one of Kafka's is UNSUPPORTED_VERSION, as in Kafka. Groups and client metrics are there
//! once something has been set on them.

use std::sync::Arc;

use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::list_config_resources_response::ConfigResource;
use tidemark_proto::kafka::messages::{ListConfigResourcesRequest, ListConfigResourcesResponse};
use tidemark_proto::kafka::text::Text;

use super::describe_configs::resource;
use super::view::View;
use super::{Ctx, Operation, Resource};
use crate::node::Node;

const TYPES: [i8; 5] =
    [resource::GROUP, resource::CLIENT_METRICS, resource::BROKER_LOGGER, resource::BROKER, resource::TOPIC];

/// Answers.
pub async fn handle(
    node: Arc<Node>,
    ctx: Arc<Ctx>,
    request: ListConfigResourcesRequest,
) -> ListConfigResourcesResponse {
    let image = node.cluster.image();
    respond(&View::of(&node, &image, &ctx), &request)
}

fn respond(view: &View<'_>, request: &ListConfigResourcesRequest) -> ListConfigResourcesResponse {
    let refused =
        |code: ErrorCode| ListConfigResourcesResponse { error_code: code.code(), ..Default::default() };
    if !view.allows(Operation::DescribeConfigs, Resource::Cluster) {
        return refused(ErrorCode::ClusterAuthorizationFailed);
    }
    let wanted: &[i8] = match (view.ctx.version, request.resource_types.is_empty()) {
        (0, _) => &[resource::CLIENT_METRICS],
        (_, true) => &TYPES,
        (_, false) => &request.resource_types,
    };
    if wanted.iter().any(|kind| !TYPES.contains(kind)) {
        return refused(ErrorCode::UnsupportedVersion);
    }
    let mut config_resources = Vec::new();
    for kind in TYPES.into_iter().filter(|kind| wanted.contains(kind)) {
        let row =
            |name: Text| ConfigResource { resource_name: name, resource_type: kind, ..Default::default() };
        match kind {
            resource::TOPIC => {
                config_resources.extend(view.image.topics().map(|topic| row(Text::from(&*topic.name))));
            }
            resource::BROKER | resource::BROKER_LOGGER => {
                let brokers = view.brokers().map(|(broker, _)| row(Text::from(broker.node.0.to_string())));
                config_resources.extend(brokers);
            }
            resource::GROUP => {
                let groups = view.image.group_configs();
                config_resources.extend(groups.map(|(name, _)| row(Text::from(name))));
            }
            _ => {
                let metrics = view.image.client_metrics();
                config_resources.extend(metrics.map(|(name, _)| row(Text::from(name))));
            }
        }
    }
    ListConfigResourcesResponse { config_resources, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::World;
    use crate::cluster::record::{Record, Scope};

    fn names(world: &World, version: i16, types: &[i8]) -> Result<Vec<(i8, String)>, i16> {
        let request = ListConfigResourcesRequest { resource_types: types.to_vec(), ..Default::default() };
        let answer = respond(&world.view(74, version).look(), &request);
        let row = |r: ConfigResource| (r.resource_type, r.resource_name.as_str().to_owned());
        match answer.error_code {
            0 => Ok(answer.config_resources.into_iter().map(row).collect()),
            code => Err(code),
        }
    }

    #[test]
    fn all_types_are_listed_where_none_is_named() {
        let world = World::new();
        let all = names(&world, 1, &[]).unwrap();
        assert!(all.contains(&(2, "orders".into())) && all.contains(&(4, "1".into())));
        assert!(all.contains(&(8, "2".into())));
        assert_eq!(names(&world, 1, &[4]), Ok(vec![(4, "1".into()), (4, "2".into())]));
    }

    #[test]
    fn the_first_version_knows_client_metrics_only() {
        let mut world = World::new();
        assert_eq!(names(&world, 0, &[]), Ok(Vec::new()));
        let set = vec![("metrics".to_owned(), Some("*".to_owned()))];
        world.image.apply(&Record::ConfigSet { scope: Scope::ClientMetrics("m".into()), set });
        let set = vec![("consumer.session.timeout.ms".to_owned(), Some("50000".to_owned()))];
        world.image.apply(&Record::ConfigSet { scope: Scope::Group("g".into()), set });
        assert_eq!(names(&world, 0, &[]).unwrap().len(), 1);
        assert_eq!(names(&world, 1, &[16, 32]), Ok(vec![(32, "g".into()), (16, "m".into())]));
    }

    #[test]
    fn an_unknown_type_and_an_asker_without_rights_are_refused() {
        let world = World::new();
        assert_eq!(names(&world, 1, &[2, 3]), Err(35));
        let view = world.view(74, 1).denying(Operation::DescribeConfigs, "");
        assert_eq!(respond(&view.look(), &ListConfigResourcesRequest::default()).error_code, 31);
    }
}
