//! DescribeCluster (key 60, v0-2): brokers, controller, cluster id.
//!
//! Addresses are those of the listener asked on. There is no endpoint for controllers alone: asking for it is
//! MISMATCHED_ENDPOINT_TYPE. v2 also shows brokers that are not alive.

use std::sync::Arc;

use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::describe_cluster_response::DescribeClusterBroker;
use tidemark_proto::kafka::messages::{DescribeClusterRequest, DescribeClusterResponse};
use tidemark_proto::kafka::text::Text;

use super::view::{NOT_ASKED, View};
use super::{Ctx, Operation, Resource};
use crate::node::Node;

const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

/// Answers.
pub async fn handle(
    node: Arc<Node>,
    ctx: Arc<Ctx>,
    request: DescribeClusterRequest,
) -> DescribeClusterResponse {
    let image = node.cluster.image();
    respond(&View::of(&node, &image, &ctx), &request)
}

fn respond(view: &View<'_>, request: &DescribeClusterRequest) -> DescribeClusterResponse {
    let refused = |code: ErrorCode, why: &'static str| DescribeClusterResponse {
        error_code: code.code(),
        error_message: Some(Text::from_static(why)),
        ..Default::default()
    };
    match request.endpoint_type {
        BROKERS => {}
        CONTROLLERS => {
            return refused(
                ErrorCode::MismatchedEndpointType,
                "This is a broker; controllers have no endpoint here.",
            );
        }
        _ => return refused(ErrorCode::UnsupportedEndpointType, "Unknown endpoint type."),
    }
    let shown = view.image.brokers().filter(|broker| broker.alive || request.include_fenced_brokers);
    let brokers = shown.filter_map(|broker| {
        let endpoint = view.endpoint(broker)?;
        Some(DescribeClusterBroker {
            broker_id: broker.node.0,
            host: Text::from(endpoint.host.as_str()),
            port: i32::from(endpoint.port),
            rack: broker.rack.as_deref().map(Text::from),
            is_fenced: !broker.alive,
            ..Default::default()
        })
    });
    DescribeClusterResponse {
        endpoint_type: BROKERS,
        cluster_id: view.cluster_id(),
        controller_id: view.controller(),
        brokers: brokers.collect(),
        cluster_authorized_operations: match request.include_cluster_authorized_operations {
            true if view.allows(Operation::Describe, Resource::Cluster) => view.cluster_operations(),
            true => 0,
            false => NOT_ASKED,
        },
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use tidemark_proto::id::{BrokerEpoch, BrokerId};

    use super::*;
    use crate::api::testing::World;
    use crate::cluster::record::Record;

    #[test]
    fn a_dead_broker_is_shown_only_when_asked_for() {
        let mut world = World::new();
        world.image.apply(&Record::BrokerFenced { node: BrokerId(2), epoch: BrokerEpoch(2) });
        let ids = |fenced| {
            let request = DescribeClusterRequest { include_fenced_brokers: fenced, ..Default::default() };
            let response = respond(&world.view(60, 2).look(), &request);
            response.brokers.iter().map(|b| (b.broker_id, b.is_fenced)).collect::<Vec<_>>()
        };
        assert_eq!(ids(false), [(1, false)]);
        assert_eq!(ids(true), [(1, false), (2, true)]);
    }

    #[test]
    fn brokers_have_the_addresses_of_the_listener_asked_on() {
        let world = World::new();
        let ports = |listener| {
            let response =
                respond(&world.view(60, 2).on(listener).look(), &DescribeClusterRequest::default());
            response.brokers.iter().map(|b| b.port).collect::<Vec<_>>()
        };
        assert_eq!(ports("PLAINTEXT"), [9092, 9093]);
        assert_eq!(ports("EXTERNAL"), [19092, 19093]);
    }

    #[test]
    fn controllers_have_no_endpoint() {
        let world = World::new();
        let code = |endpoint_type| {
            let request = DescribeClusterRequest { endpoint_type, ..Default::default() };
            respond(&world.view(60, 1).look(), &request).error_code
        };
        assert_eq!([code(1), code(2), code(7)], [0, 114, 115]);
    }
}
