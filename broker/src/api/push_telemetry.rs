//! PushTelemetry (key 72, v0): a client's metrics, which nobody receives (KIP-714).
//!
//! Checked as Kafka does and dropped.

use std::sync::Arc;

use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::{PushTelemetryRequest, PushTelemetryResponse};

use super::Ctx;
use super::get_telemetry_subscriptions::{BYTES_MAX, CODECS, number, of_client};
use crate::node::Node;

/// Answers.
pub async fn handle(node: Arc<Node>, ctx: Arc<Ctx>, request: PushTelemetryRequest) -> PushTelemetryResponse {
    let id = request.client_instance_id;
    let subscription = number(&of_client(&node.cluster.image(), &ctx, id), id);
    PushTelemetryResponse { error_code: judge(&request, subscription).code(), ..Default::default() }
}

/// `subscription` is what the client should know by now.
fn judge(request: &PushTelemetryRequest, subscription: i32) -> ErrorCode {
    let id = request.client_instance_id;
    if id.is_nil() {
        return ErrorCode::InvalidRequest;
    }
    if request.subscription_id != subscription {
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
    use uuid::Uuid;

    use super::*;
    use crate::api::get_telemetry_subscriptions;
    use crate::api::testing::node;
    use crate::cluster::Command;
    use crate::cluster::record::Scope;

    #[tokio::test(start_paused = true)]
    async fn a_client_pushes_for_the_subscription_it_has_now() {
        let node = node().await;
        let ctx = Arc::new(Ctx::local(ApiKey::GetTelemetrySubscriptions, 0));
        let ask = |id| {
            let request = GetTelemetrySubscriptionsRequest { client_instance_id: id, ..Default::default() };
            get_telemetry_subscriptions::handle(node.clone(), ctx.clone(), request)
        };
        let told = ask(Uuid::nil()).await;
        assert!(!told.client_instance_id.is_nil() && told.requested_metrics.is_empty());
        assert_eq!(told.push_interval_ms, 300_000);
        let push = PushTelemetryRequest {
            client_instance_id: told.client_instance_id,
            subscription_id: told.subscription_id,
            ..Default::default()
        };
        let code = |push: &PushTelemetryRequest| handle(node.clone(), ctx.clone(), push.clone());
        assert_eq!(code(&push).await.error_code, 0);
        let set = [("metrics", "org.apache.kafka."), ("interval.ms", "1000")];
        let set = set.map(|(key, value)| (key.to_owned(), Some(value.to_owned()))).to_vec();
        let scope = Scope::ClientMetrics("all".into());
        node.cluster.submit(Command::SetConfig { scope, set, validate_only: false }).await.unwrap();
        assert_eq!(code(&push).await.error_code, ErrorCode::UnknownSubscriptionId.code());
        let told = ask(told.client_instance_id).await;
        assert_eq!(
            (told.requested_metrics, told.push_interval_ms),
            (vec!["org.apache.kafka.".into()], 1_000)
        );
        let push = PushTelemetryRequest { subscription_id: told.subscription_id, ..push };
        assert_eq!(code(&push).await.error_code, 0);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let push = PushTelemetryRequest {
            client_instance_id: Uuid::from_u128(7),
            subscription_id: 5,
            ..Default::default()
        };
        assert_eq!(judge(&push, 5), ErrorCode::None);
        assert_eq!(judge(&push, 6), ErrorCode::UnknownSubscriptionId);
        let odd = PushTelemetryRequest { compression_type: 9, ..push.clone() };
        assert_eq!(judge(&odd, 5), ErrorCode::UnsupportedCompressionType);
        let large = PushTelemetryRequest { metrics: vec![0; (1 << 20) + 1].into(), ..push };
        assert_eq!(judge(&large, 5), ErrorCode::TelemetryTooLarge);
        assert_eq!(judge(&PushTelemetryRequest::default(), 5), ErrorCode::InvalidRequest);
    }
}
