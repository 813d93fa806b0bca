//! ListPartitionReassignments (key 46, v0): always empty, since ownership moves at once.

use std::sync::Arc;

use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::{
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse,
};
use tidemark_proto::kafka::text::Text;

use super::{Ctx, Operation, Resource};
use crate::node::Node;

/// Answers.
pub async fn handle(
    node: Arc<Node>,
    ctx: Arc<Ctx>,
    _request: ListPartitionReassignmentsRequest,
) -> ListPartitionReassignmentsResponse {
    let (code, why) = match node.allows(&ctx, Operation::Describe, Resource::Cluster) {
        true => (ErrorCode::None, None),
        false => {
            (ErrorCode::ClusterAuthorizationFailed, Some(Text::from_static("Cluster authorization failed.")))
        }
    };
    ListPartitionReassignmentsResponse { error_code: code.code(), error_message: why, ..Default::default() }
}
