//! DeleteGroups (key 42, v0-2): groups without members go, with their offsets.
//!
//! One row per group: NON_EMPTY_GROUP while it has members, GROUP_ID_NOT_FOUND where there is none. Answered when the
//! tombstones are in the bucket.

use std::sync::Arc;

use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::delete_groups_response::DeletableGroupResult;
use tidemark_proto::kafka::messages::{DeleteGroupsRequest, DeleteGroupsResponse};

use super::coordinator::{self, Pending};
use super::{Ctx, Operation, Resource};
use crate::group::command::Command;
use crate::node::Node;

/// Answers.
pub async fn handle(node: Arc<Node>, ctx: Arc<Ctx>, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
    let mut asked = Vec::new();
    for group_id in request.groups_names {
        let pending = if node.allows(&ctx, Operation::Delete, Resource::Group(&group_id)) {
            coordinator::submit(&node, &group_id, Command::Delete).await
        } else {
            Pending::Refused(ErrorCode::GroupAuthorizationFailed)
        };
        asked.push((group_id, pending));
    }
    let mut results = Vec::with_capacity(asked.len());
    for (group_id, pending) in asked {
        let error_code = coordinator::code_of(&pending.answer().await);
        results.push(DeletableGroupResult { group_id, error_code });
    }
    DeleteGroupsResponse { results, ..Default::default() }
}
