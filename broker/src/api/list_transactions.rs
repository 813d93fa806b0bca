//! ListTransactions (key 66, v0-2): transactions whose coordinator this broker is.
//!
//! There is no transaction coordinator yet, so there are none. States that Kafka does not know are told back.

use std::sync::Arc;

use tidemark_proto::kafka::messages::{ListTransactionsRequest, ListTransactionsResponse};

use super::Ctx;
use crate::node::Node;

/// States of a transaction, as Kafka's tools name them.
const STATES: [&str; 8] = [
    "Empty",
    "Ongoing",
    "PrepareCommit",
    "PrepareAbort",
    "CompleteCommit",
    "CompleteAbort",
    "Dead",
    "PrepareEpochFence",
];

/// Answers.
pub async fn handle(
    _node: Arc<Node>,
    _ctx: Arc<Ctx>,
    request: ListTransactionsRequest,
) -> ListTransactionsResponse {
    respond(request)
}

fn respond(request: ListTransactionsRequest) -> ListTransactionsResponse {
    let unknown = request.state_filters.into_iter().filter(|state| !STATES.contains(&&**state));
    ListTransactionsResponse { unknown_state_filters: unknown.collect(), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_states_are_told_back() {
        let request = ListTransactionsRequest {
            state_filters: vec!["Ongoing".into(), "Sleeping".into()],
            ..Default::default()
        };
        let answer = respond(request);
        assert_eq!((answer.error_code, answer.transaction_states.len()), (0, 0));
        assert_eq!(answer.unknown_state_filters, ["Sleeping"]);
    }
}
