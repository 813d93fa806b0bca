//! GetTelemetrySubscriptions (key 71, v0): which of its metrics a client should push (KIP-714).
//!
//! What the subscriptions it fits want together, at the shortest of their intervals. Not listed in ApiVersions, as Kafka
//! does without a telemetry plug-in: there is no receiver, so no client should be made to push.

use std::sync::Arc;

use tidemark_proto::kafka::messages::{GetTelemetrySubscriptionsRequest, GetTelemetrySubscriptionsResponse};
use tidemark_proto::kafka::text::Text;
use uuid::Uuid;

use super::Ctx;
use crate::cluster::Image;
use crate::config::{ClientFacts, Subscription};
use crate::node::Node;

/// `telemetry.max.bytes`.
pub const BYTES_MAX: i32 = 1 << 20;

/// zstd, lz4, gzip, snappy: Kafka's order of preference.
pub const CODECS: [i8; 4] = [4, 3, 1, 2];

/// Answers.
pub async fn handle(
    node: Arc<Node>,
    ctx: Arc<Ctx>,
    request: GetTelemetrySubscriptionsRequest,
) -> GetTelemetrySubscriptionsResponse {
    let client_instance_id = match request.client_instance_id.is_nil() {
        true => node.seams.entropy.uuid(),
        false => request.client_instance_id,
    };
    let subscription = of_client(&node.cluster.image(), &ctx, client_instance_id);
    GetTelemetrySubscriptionsResponse {
        client_instance_id,
        subscription_id: number(&subscription, client_instance_id),
        accepted_compression_types: CODECS.to_vec(),
        push_interval_ms: subscription.interval_ms,
        telemetry_max_bytes: BYTES_MAX,
        delta_temporality: true,
        requested_metrics: subscription.metrics.into_iter().map(Text::from).collect(),
        ..Default::default()
    }
}

/// What the sender of `ctx`, which calls itself `instance`, is asked for.
pub fn of_client(image: &Image, ctx: &Ctx, instance: Uuid) -> Subscription {
    let (software, version) = ctx.peer.software.lock().clone().unwrap_or_default();
    let client: ClientFacts = [
        instance.to_string(),
        ctx.client_id.as_deref().unwrap_or_default().to_owned(),
        software,
        version,
        ctx.peer.addr.ip().to_string(),
        ctx.peer.addr.port().to_string(),
    ];
    Subscription::of(image.client_metrics().map(|(_, set)| set), &client)
}

/// A number that another subscription, or another client's, hardly has.
pub fn number(subscription: &Subscription, instance: Uuid) -> i32 {
    let sum = crc32c::crc32c(instance.as_bytes());
    let sum = crc32c::crc32c_append(sum, &subscription.interval_ms.to_be_bytes());
    let metrics = subscription.metrics.iter();
    metrics.fold(sum, |sum, name| crc32c::crc32c_append(sum, format!("{name},").as_bytes())).cast_signed()
}
