//! PushTelemetry (key 72, v0): a client's metrics, which nobody receives (KIP-714).
//!
//! Checked as Kafka does and dropped.

use std::sync::Arc;

use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::{PushTelemetryRequest, PushTelemetryResponse};

use super::Ctx;
use super::get_telemetry_subscriptions::{BYTES_MAX, CODECS, subscription};
use crate::node::Node;

/// Answers.
pub async fn handle(
    _node: Arc<Node>,
    _ctx: Arc<Ctx>,
    request: PushTelemetryRequest,
) -> PushTelemetryResponse {
    PushTelemetryResponse { error_code: judge(&request).code(), ..Default::default() }
}

fn judge(request: &PushTelemetryRequest) -> ErrorCode {
    let id = request.client_instance_id;
    if id.is_nil() {
        return ErrorCode::InvalidRequest;
    }
    if request.subscription_id != subscription(id) {
        return ErrorCode::UnknownSubscriptionId;
    }
    if request.compression_type != 0 && !CODECS.contains(&request.compression_type) {
        return ErrorCode::UnsupportedCompressionType;
    }
    if i32::try_from(request.metrics.len()).is_ok_and(|bytes| bytes <= BYTES_MAX) {
        ErrorCode::None
    } else {
        ErrorCode::TelemetryTooLarge
    }
}

#[cfg(test)]
mod tests {
    use tidemark_proto::kafka::api::ApiKey;
    use tidemark_proto::kafka::messages::GetTelemetrySubscriptionsRequest;

    use super::*;
    use crate::api::get_telemetry_subscriptions;
    use crate::api::testing::node;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_asks_all_the_same_gets_an_empty_subscription() {
        let node = node().await;
        let ctx = Arc::new(Ctx::local(ApiKey::GetTelemetrySubscriptions, 0));
        let request = GetTelemetrySubscriptionsRequest::default();
        let told = get_telemetry_subscriptions::handle(node, ctx, request).await;
        assert!(!told.client_instance_id.is_nil() && told.requested_metrics.is_empty());
        let push = PushTelemetryRequest {
            client_instance_id: told.client_instance_id,
            subscription_id: told.subscription_id,
            ..Default::default()
        };
        assert_eq!(judge(&push), ErrorCode::None);
        let other = PushTelemetryRequest { subscription_id: told.subscription_id + 1, ..push.clone() };
        assert_eq!(judge(&other), ErrorCode::UnknownSubscriptionId);
        let odd = PushTelemetryRequest { compression_type: 9, ..push.clone() };
        assert_eq!(judge(&odd), ErrorCode::UnsupportedCompressionType);
        let large = PushTelemetryRequest { metrics: vec![0; (1 << 20) + 1].into(), ..push };
        assert_eq!(judge(&large), ErrorCode::TelemetryTooLarge);
        assert_eq!(judge(&PushTelemetryRequest::default()), ErrorCode::InvalidRequest);
    }
}
