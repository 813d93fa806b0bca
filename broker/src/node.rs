//! A broker: its parts, as handlers see them.

use std::sync::Arc;

use tidemark_proto::id::{BrokerId, Life};
use tidemark_tiering::seam::Seams;

use crate::api::{Authorizer, Ctx, Operation, Resource};
use crate::cluster::Cluster;
use crate::config;
use crate::metrics::Metrics;

/// The topic that holds groups and their offsets.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// The topic that holds transactions.
pub const TRANSACTIONS_TOPIC: &str = "__transaction_state";

/// Whether clients may not write to the topic.
pub fn is_internal(topic: &str) -> bool {
    matches!(topic, OFFSETS_TOPIC | TRANSACTIONS_TOPIC)
}

/// See the module.
pub struct Node {
    /// The world.
    pub seams: Seams,
    /// This run of the process.
    pub life: Life,
    /// Effective configuration.
    pub config: Arc<config::Broker>,
    /// The metadata.
    pub cluster: Cluster,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Who may do what.
    pub authorizer: Arc<dyn Authorizer>,
}

impl Node {
    /// This broker's id; -1 before it is registered.
    pub fn id(&self) -> BrokerId {
        let image = self.cluster.image();
        image.live().find(|broker| broker.life == self.life).map_or(BrokerId(-1), |broker| broker.node)
    }

    /// Asks the authorizer.
    pub fn allows(&self, ctx: &Ctx, operation: Operation, resource: Resource<'_>) -> bool {
        self.authorizer.allow(ctx, operation, resource)
    }
}
