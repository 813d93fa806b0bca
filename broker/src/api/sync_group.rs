//! SyncGroup (key 14, v0-5): the leader brings the assignments, everybody gets theirs.
//!
//! Followers wait for the leader; everybody waits until the assignment is in the bucket. v3: static members
//! (KIP-345). v5: protocol type and name must be said, and match (KIP-559).

use std::sync::Arc;

use bytes::Bytes;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::{SyncGroupRequest, SyncGroupResponse};
use tidemark_proto::kafka::text::Text;

use super::Ctx;
use super::coordinator::{self, Pending};
use crate::group::command::{Command, Reply, Sync};
use crate::node::Node;

/// Takes the request in; the future gives the answer.
pub async fn start(
    node: Arc<Node>,
    ctx: Arc<Ctx>,
    request: SyncGroupRequest,
) -> impl Future<Output = SyncGroupResponse> + Send + use<> {
    let unsaid = request.protocol_type.is_none() || request.protocol_name.is_none();
    let group = request.group_id.clone();
    let pending = if ctx.version >= 5 && unsaid {
        Pending::Refused(ErrorCode::InconsistentGroupProtocol)
    } else {
        coordinator::submit_as_member(&node, &ctx, &group, Command::Sync(command(request))).await
    };
    async move { respond(pending.answer().await) }
}

fn command(request: SyncGroupRequest) -> Sync {
    let instance = request.group_instance_id.as_ref();
    let each = request.assignments.iter();
    Sync {
        caller: coordinator::caller(&request.member_id, instance, request.generation_id),
        protocol_type: request.protocol_type.as_ref().map(Text::detached),
        protocol: request.protocol_name.as_ref().map(Text::detached),
        assignments: each.map(|a| (a.member_id.detached(), Bytes::copy_from_slice(&a.assignment))).collect(),
    }
}

fn respond(answer: Result<Reply, ErrorCode>) -> SyncGroupResponse {
    match answer {
        Ok(Reply::Synced(synced)) => SyncGroupResponse {
            protocol_type: synced.protocol_type,
            protocol_name: synced.protocol,
            assignment: synced.assignment,
            ..Default::default()
        },
        Ok(_) => refused(ErrorCode::UnknownServerError),
        Err(code) => refused(code),
    }
}

fn refused(code: ErrorCode) -> SyncGroupResponse {
    SyncGroupResponse { error_code: code.code(), ..Default::default() }
}
