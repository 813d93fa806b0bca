//! InitProducerId (key 22, v0-5): a producer id for idempotence.
//!
//! Ids come in blocks of 1,000 from the controller and are never given twice. Without a transactional id the
//! answer is always a fresh id with epoch 0, whatever the request carries (KIP-360 asks so). Transactional ids are
//! answered CoordinatorNotAvailable until there is a transaction coordinator.

use std::sync::Arc;

use tidemark_proto::id::ProducerId;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::{InitProducerIdRequest, InitProducerIdResponse};

use crate::api::{Ctx, Operation, Resource};
use crate::cluster::command::{Command, Reply};
use crate::node::Node;

/// The rest of a block.
#[derive(Debug, Default)]
pub struct ProducerIds {
    block: tokio::sync::Mutex<std::ops::Range<i64>>,
}

impl ProducerIds {
    /// A fresh id.
    ///
    /// # Errors
    /// What the controller answers, retriable while there is none.
    pub async fn next(&self, node: &Node) -> Result<ProducerId, ErrorCode> {
        // Held over the request for a block on purpose: the others would only ask for further blocks.
        let mut block = self.block.lock().await;
        if block.is_empty() {
            let owned = node.owned().ok_or(ErrorCode::CoordinatorNotAvailable)?;
            let command = Command::AllocateProducerIds { by: owned.lane.epoch };
            match node.cluster.submit(command).await? {
                Reply::Producers { first, count } => *block = first.0..first.0 + count,
                _ => return Err(ErrorCode::UnknownServerError),
            }
        }
        let id = block.next().ok_or(ErrorCode::UnknownServerError)?;
        Ok(ProducerId(id))
    }
}

/// Answers.
pub async fn handle(
    node: Arc<Node>,
    ctx: Arc<Ctx>,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    let refused = |code: ErrorCode| InitProducerIdResponse {
        error_code: code.code(),
        producer_id: -1,
        producer_epoch: -1,
        ..Default::default()
    };
    if request.transactional_id.as_ref().is_some_and(|id| id.is_empty()) {
        return refused(ErrorCode::InvalidRequest);
    }
    if let Some(id) = &request.transactional_id {
        let allowed = node.allows(&ctx, Operation::Write, Resource::TransactionalId(id));
        return refused(match allowed {
            true => ErrorCode::CoordinatorNotAvailable,
            false => ErrorCode::TransactionalIdAuthorizationFailed,
        });
    }
    if !node.allows(&ctx, Operation::IdempotentWrite, Resource::Cluster) {
        return refused(ErrorCode::ClusterAuthorizationFailed);
    }
    match node.producer_ids.next(&node).await {
        Ok(id) => InitProducerIdResponse { producer_id: id.0, producer_epoch: 0, ..Default::default() },
        Err(code) => refused(code),
    }
}
