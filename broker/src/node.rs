//! A broker: its parts, as handlers see them.

use std::sync::Arc;

use tidemark_tiering::seam::Seams;

use crate::api::{Authorizer, Ctx, Operation, Resource};
use crate::config;
use crate::metrics::Metrics;

/// See the module.
pub struct Node {
    /// The world.
    pub seams: Seams,
    /// Effective configuration.
    pub config: Arc<config::Broker>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Who may do what.
    pub authorizer: Arc<dyn Authorizer>,
}

impl Node {
    /// Asks the authorizer.
    pub fn allows(&self, ctx: &Ctx, operation: Operation, resource: Resource<'_>) -> bool {
        self.authorizer.allow(ctx, operation, resource)
    }
}
