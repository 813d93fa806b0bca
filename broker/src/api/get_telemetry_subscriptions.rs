//! GetTelemetrySubscriptions (key 71, v0): which of its metrics a client should push (KIP-714).
//!
//! None: there is no receiver for them. Not listed in ApiVersions, as Kafka does without a telemetry plug-in, so that no
//! client asks; one that asks all the same gets an id, an empty subscription and the interval at which to ask again.

use std::sync::Arc;

use tidemark_proto::kafka::messages::{GetTelemetrySubscriptionsRequest, GetTelemetrySubscriptionsResponse};
use uuid::Uuid;

use super::Ctx;
use crate::node::Node;

/// `telemetry.max.bytes`.
pub const BYTES_MAX: i32 = 1 << 20;

/// Kafka's default interval between pushes.
const INTERVAL_MS: i32 = 300_000;

/// zstd, lz4, gzip, snappy: Kafka's order of preference.
pub const CODECS: [i8; 4] = [4, 3, 1, 2];

/// Answers.
pub async fn handle(
    node: Arc<Node>,
    _ctx: Arc<Ctx>,
    request: GetTelemetrySubscriptionsRequest,
) -> GetTelemetrySubscriptionsResponse {
    let client_instance_id = match request.client_instance_id.is_nil() {
        true => node.seams.entropy.uuid(),
        false => request.client_instance_id,
    };
    GetTelemetrySubscriptionsResponse {
        client_instance_id,
        subscription_id: subscription(client_instance_id),
        accepted_compression_types: CODECS.to_vec(),
        push_interval_ms: INTERVAL_MS,
        telemetry_max_bytes: BYTES_MAX,
        delta_temporality: true,
        ..Default::default()
    }
}

/// The id of the empty subscription of a client.
pub fn subscription(client: Uuid) -> i32 {
    crc32c::crc32c(client.as_bytes()).cast_signed()
}
