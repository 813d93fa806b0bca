//! The cluster as one request may see it: image, this broker's config, the asker's rights, its listener.
//!
//! Addresses are always those of the listener the request came in on; a broker without that listener is not there for
//! the asker. What may not be described is never revealed.

use std::collections::BTreeMap;

use tidemark_proto::id::BrokerId;
use tidemark_proto::kafka::text::Text;

use super::{Authorizer, Ctx, Operation, Resource};
use crate::cluster::Image;
use crate::cluster::image::{Broker, Endpoint};
use crate::config::{self, Settings, short_id};
use crate::node::Node;

/// Value of "authorized operations" where nobody asked for them.
pub const NOT_ASKED: i32 = i32::MIN;

const TOPIC_OPERATIONS: [Operation; 8] = [
    Operation::Read,
    Operation::Write,
    Operation::Create,
    Operation::Delete,
    Operation::Alter,
    Operation::Describe,
    Operation::DescribeConfigs,
    Operation::AlterConfigs,
];

const CLUSTER_OPERATIONS: [Operation; 7] = [
    Operation::Create,
    Operation::Alter,
    Operation::Describe,
    Operation::ClusterAction,
    Operation::DescribeConfigs,
    Operation::AlterConfigs,
    Operation::IdempotentWrite,
];

/// See the module.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The metadata.
    pub image: &'a Image,
    /// This broker's configuration.
    pub config: &'a config::Broker,
    /// Who may do what.
    pub authorizer: &'a dyn Authorizer,
    /// The request.
    pub ctx: &'a Ctx,
    /// This broker.
    pub node: BrokerId,
}

impl<'a> View<'a> {
    /// What `ctx` sees at `node` in `image`.
    pub fn of(node: &'a Node, image: &'a Image, ctx: &'a Ctx) -> View<'a> {
        View { image, config: &node.config, authorizer: &*node.authorizer, ctx, node: node.id() }
    }

    /// This broker's settings under what was set while it runs.
    pub fn settings(&self) -> Settings {
        self.settings_of(Some(self.node))
    }

    /// This broker's file under what was set while brokers run: on `node`, or, without one, for all of them only.
    pub fn settings_of(&self, node: Option<BrokerId>) -> Settings {
        let none = BTreeMap::new();
        let set = |node| self.image.broker_configs(node).unwrap_or(&none);
        let own = if node.is_some() { set(node) } else { &none };
        self.config.settings.under(set(None), own)
    }

    /// Asks the authorizer.
    pub fn allows(&self, operation: Operation, resource: Resource<'_>) -> bool {
        self.authorizer.allow(self.ctx, operation, resource)
    }

    /// Where the asker reaches `broker`.
    pub fn endpoint(&self, broker: &'a Broker) -> Option<&'a Endpoint> {
        broker.endpoints.iter().find(|endpoint| *endpoint.listener == *self.ctx.listener)
    }

    /// The living brokers the asker can reach, by node id.
    pub fn brokers(&self) -> impl Iterator<Item = (&'a Broker, &'a Endpoint)> {
        let view = *self;
        self.image.live().filter_map(move |broker| Some((broker, view.endpoint(broker)?)))
    }

    /// The broker that admin calls are sent to: the controller, or this one while nobody can reach that. Every broker
    /// takes them and forwards.
    pub fn controller(&self) -> i32 {
        let node = self.image.controller_node();
        let reachable =
            node.and_then(|node| self.image.broker(node)).filter(|b| b.alive && self.endpoint(b).is_some());
        reachable.map_or(self.node.0, |broker| broker.node.0)
    }

    /// The cluster's id, as tools show it.
    pub fn cluster_id(&self) -> Text {
        Text::from(short_id::to_letters(self.image.cluster().0))
    }

    /// What the asker may do to a topic, as a bit field of operation codes.
    pub fn topic_operations(&self, name: &str) -> i32 {
        self.bits(&TOPIC_OPERATIONS, Resource::Topic(name))
    }

    /// What the asker may do to the cluster, as a bit field of operation codes.
    pub fn cluster_operations(&self) -> i32 {
        self.bits(&CLUSTER_OPERATIONS, Resource::Cluster)
    }

    fn bits(&self, operations: &[Operation], resource: Resource<'_>) -> i32 {
        operations
            .iter()
            .filter(|op| self.allows(**op, resource))
            .fold(0, |bits, op| bits | 1 << (*op as i32))
    }
}
