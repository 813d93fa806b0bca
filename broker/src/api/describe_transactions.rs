//! DescribeTransactions (key 65, v0): transactions by transactional id.
//!
//! There is no transaction coordinator yet, so no id is known: TRANSACTIONAL_ID_NOT_FOUND.

use std::sync::Arc;

use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::describe_transactions_response::TransactionState;
use tidemark_proto::kafka::messages::{DescribeTransactionsRequest, DescribeTransactionsResponse};

use super::{Ctx, Operation, Resource};
use crate::node::Node;

/// Answers.
pub async fn handle(
    node: Arc<Node>,
    ctx: Arc<Ctx>,
    request: DescribeTransactionsRequest,
) -> DescribeTransactionsResponse {
    let rows = request.transactional_ids.into_iter().map(|id| {
        let code = match node.allows(&ctx, Operation::Describe, Resource::TransactionalId(&id)) {
            true => ErrorCode::TransactionalIdNotFound,
            false => ErrorCode::TransactionalIdAuthorizationFailed,
        };
        TransactionState { error_code: code.code(), transactional_id: id, ..Default::default() }
    });
    DescribeTransactionsResponse { transaction_states: rows.collect(), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use tidemark_proto::kafka::api::ApiKey;

    use super::*;
    use crate::api::testing::node;

    #[tokio::test(start_paused = true)]
    async fn every_id_has_a_row_and_none_is_known() {
        let ctx = Arc::new(Ctx::local(ApiKey::DescribeTransactions, 0));
        let request = DescribeTransactionsRequest {
            transactional_ids: vec!["a".into(), "b".into()],
            ..Default::default()
        };
        let rows = handle(node().await, ctx, request).await.transaction_states;
        let told: Vec<_> = rows.iter().map(|r| (r.transactional_id.as_str(), r.error_code)).collect();
        assert_eq!(told, [("a", 105), ("b", 105)]);
    }
}
