//! UnregisterBroker (key 64, v0): forgets a broker that is gone.
//!
//! Any broker takes it and forwards. Differs from Kafka: a living broker is refused, since it would be back with its next
//! heartbeat; a node id that was never there is BROKER_ID_NOT_REGISTERED.

use std::sync::Arc;

use tidemark_proto::id::BrokerId;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::{UnregisterBrokerRequest, UnregisterBrokerResponse};
use tidemark_proto::kafka::text::Text;

use super::{Ctx, Operation, Resource};
use crate::cluster::Command;
use crate::node::Node;

/// Answers.
pub async fn handle(
    node: Arc<Node>,
    ctx: Arc<Ctx>,
    request: UnregisterBrokerRequest,
) -> UnregisterBrokerResponse {
    if !node.allows(&ctx, Operation::Alter, Resource::Cluster) {
        return respond(ErrorCode::ClusterAuthorizationFailed, "Cluster authorization failed.");
    }
    let id = BrokerId(request.broker_id);
    match node.cluster.submit(Command::UnregisterBroker { node: id }).await {
        Ok(_) => UnregisterBrokerResponse { error_message: None, ..Default::default() },
        Err(ErrorCode::InvalidRequest) => {
            let why = format!(
                "Broker {id} is alive. Stop it first; one that has ended is gone from the lists of the living."
            );
            respond(ErrorCode::InvalidRequest, &why)
        }
        Err(ErrorCode::BrokerIdNotRegistered) => {
            respond(ErrorCode::BrokerIdNotRegistered, &format!("Broker ID {id} is not currently registered"))
        }
        Err(code) => respond(code, &code.to_string()),
    }
}

fn respond(code: ErrorCode, why: &str) -> UnregisterBrokerResponse {
    UnregisterBrokerResponse {
        error_code: code.code(),
        error_message: Some(Text::from(why)),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use tidemark_proto::kafka::api::ApiKey;

    use super::*;
    use crate::api::testing::node;

    #[tokio::test(start_paused = true)]
    async fn a_living_broker_stays_and_an_unknown_one_is_not_registered() {
        let node = node().await;
        let ask = |broker_id| {
            let ctx = Arc::new(Ctx::local(ApiKey::UnregisterBroker, 0));
            handle(node.clone(), ctx, UnregisterBrokerRequest { broker_id, ..Default::default() })
        };
        assert_eq!(ask(1).await.error_code, 42);
        assert_eq!(ask(9).await.error_code, 102);
        assert_eq!(node.cluster.image().live().count(), 1);
    }
}
