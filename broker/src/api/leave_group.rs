//! LeaveGroup (key 13, v0-5): members go at once instead of timing out.
//!
//! v3: many in one request, by member id or `group.instance.id`, each with a code of its own (KIP-345); before,
//! the one member's code is the answer's. v5: reason (KIP-800), not kept.

use std::sync::Arc;

use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::leave_group_response::MemberResponse;
use tidemark_proto::kafka::messages::{LeaveGroupRequest, LeaveGroupResponse};
use tidemark_proto::kafka::text::Text;

use super::{Ctx, coordinator};
use crate::group::command::{Command, Leaver, Reply};
use crate::node::Node;

/// Takes the request in; the future gives the answer.
pub async fn start(
    node: Arc<Node>,
    ctx: Arc<Ctx>,
    request: LeaveGroupRequest,
) -> impl Future<Output = LeaveGroupResponse> + Send + use<> {
    let version = ctx.version;
    let leavers = leavers(version, &request);
    let leave = Command::Leave(leavers.clone());
    let pending = coordinator::submit_as_member(&node, &ctx, &request.group_id, leave).await;
    async move { respond(version, leavers, pending.answer().await) }
}

fn leavers(version: i16, request: &LeaveGroupRequest) -> Vec<Leaver> {
    if version < 3 {
        return vec![Leaver { member: request.member_id.detached(), instance: None }];
    }
    let each = request.members.iter().map(|m| Leaver {
        member: m.member_id.detached(),
        instance: m.group_instance_id.as_ref().map(Text::detached),
    });
    each.collect()
}

fn respond(version: i16, leavers: Vec<Leaver>, answer: Result<Reply, ErrorCode>) -> LeaveGroupResponse {
    let refused = |code: ErrorCode| LeaveGroupResponse { error_code: code.code(), ..Default::default() };
    let codes = match answer {
        Ok(Reply::Left(codes)) => codes,
        Ok(_) => return refused(ErrorCode::UnknownServerError),
        Err(code) => return refused(code),
    };
    if version < 3 {
        return refused(codes.first().copied().unwrap_or(ErrorCode::None));
    }
    let members = leavers.into_iter().zip(codes).map(|(leaver, code)| MemberResponse {
        member_id: leaver.member,
        group_instance_id: leaver.instance,
        error_code: code.code(),
    });
    LeaveGroupResponse { members: members.collect(), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_clients_get_the_one_members_code_as_the_answers() {
        let leavers = || vec![Leaver { member: Text::from("m"), instance: None }];
        let gone = || Ok(Reply::Left(vec![ErrorCode::UnknownMemberId]));
        let old = respond(2, leavers(), gone());
        assert_eq!((old.error_code, old.members.len()), (ErrorCode::UnknownMemberId.code(), 0));
        let new = respond(3, leavers(), gone());
        assert_eq!((new.error_code, new.members[0].error_code), (0, ErrorCode::UnknownMemberId.code()));
    }
}
