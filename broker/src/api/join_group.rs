//! JoinGroup (key 11, v0-9): a member comes in and waits for the others; the leader learns who is there.
//!
//! v0 has no rebalance timeout: the session timeout stands for it. v4: a first join gets a member id and
//! MEMBER_ID_REQUIRED (KIP-394). v5: static members (KIP-345). v7: protocol type in the answer (KIP-559).
//! v8: reason (logged nowhere). v9: a returning static leader may be told to skip the assignment (KIP-814).

use std::sync::Arc;

use bytes::Bytes;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::join_group_response::JoinGroupResponseMember;
use tidemark_proto::kafka::messages::{JoinGroupRequest, JoinGroupResponse};
use tidemark_proto::kafka::text::Text;

use super::{Ctx, coordinator};
use crate::group::command::{Command, Join, Joined, Protocol, Reply};
use crate::node::Node;

/// Takes the request in; the future gives the answer.
pub async fn start(
    node: Arc<Node>,
    ctx: Arc<Ctx>,
    request: JoinGroupRequest,
) -> impl Future<Output = JoinGroupResponse> + Send + use<> {
    let (version, member) = (ctx.version, request.member_id.clone());
    let group = request.group_id.clone();
    let join = Command::Join(command(&ctx, &node.seams.entropy.uuid().to_string(), request));
    let pending = coordinator::submit_as_member(&node, &ctx, &group, join).await;
    async move { respond(version, member, pending.answer().await) }
}

/// The request in the group's words; `unique` makes the member id that it may be given.
fn command(ctx: &Ctx, unique: &str, request: JoinGroupRequest) -> Join {
    let client_id = ctx.client_id.as_ref().map(Text::detached).unwrap_or_default();
    let instance = request.group_instance_id.map(|i| i.detached());
    let prefix = instance.as_ref().unwrap_or(&client_id);
    let protocol = |name: Text, metadata: Bytes| Protocol {
        name: name.detached(),
        metadata: Bytes::copy_from_slice(&metadata),
    };
    Join {
        fresh: Text::from(format!("{prefix}-{unique}")),
        member: request.member_id.detached(),
        client_host: Text::from(format!("/{}", ctx.peer.addr.ip())),
        protocol_type: request.protocol_type.detached(),
        protocols: request.protocols.into_iter().map(|p| protocol(p.name, p.metadata)).collect(),
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms: match ctx.version {
            0 => request.session_timeout_ms,
            _ => request.rebalance_timeout_ms,
        },
        require_known: ctx.version >= 4,
        can_skip_assignment: ctx.version >= 9,
        instance,
        client_id,
    }
}

fn respond(version: i16, member: Text, answer: Result<Reply, ErrorCode>) -> JoinGroupResponse {
    // Before v7 the protocol's name could not be null.
    let name = |name: Option<Text>| name.or_else(|| (version < 7).then(Text::new));
    let refused = |member_id, code: ErrorCode| JoinGroupResponse {
        error_code: code.code(),
        generation_id: -1,
        protocol_name: name(None),
        member_id,
        ..Default::default()
    };
    match answer {
        Ok(Reply::Joined(joined)) => {
            let Joined { generation, protocol_type, protocol, leader, member, members, skip_assignment } =
                joined;
            let members = members.into_iter().map(|m| JoinGroupResponseMember {
                member_id: m.member,
                group_instance_id: m.instance,
                metadata: m.metadata,
            });
            JoinGroupResponse {
                generation_id: generation,
                protocol_type,
                protocol_name: name(protocol),
                leader,
                skip_assignment,
                member_id: member,
                members: members.collect(),
                ..Default::default()
            }
        }
        Ok(Reply::MemberIdRequired(id)) => refused(id, ErrorCode::MemberIdRequired),
        Ok(_) => refused(member, ErrorCode::UnknownServerError),
        Err(code) => refused(member, code),
    }
}

#[cfg(test)]
mod tests {
    use tidemark_proto::kafka::api::ApiKey;

    use super::*;

    #[test]
    fn the_first_version_has_one_timeout_for_both() {
        let request =
            || JoinGroupRequest { session_timeout_ms: 7, rebalance_timeout_ms: 9, ..Default::default() };
        let rebalance = |v| command(&Ctx::local(ApiKey::JoinGroup, v), "u", request()).rebalance_timeout_ms;
        assert_eq!((rebalance(0), rebalance(1)), (7, 9));
    }

    #[test]
    fn member_ids_begin_with_the_instance_or_the_client() {
        let mut ctx = Ctx::local(ApiKey::JoinGroup, 5);
        ctx.client_id = Some(Text::from("app"));
        assert_eq!(command(&ctx, "u", JoinGroupRequest::default()).fresh, "app-u");
        let instance = Some(Text::from("one"));
        let request = JoinGroupRequest { group_instance_id: instance, ..Default::default() };
        let join = command(&ctx, "u", request);
        assert_eq!(join.fresh, "one-u");
        assert_eq!(join.client_host, "/127.0.0.1");
    }

    #[test]
    fn a_refusal_can_be_written_in_every_version() {
        use tidemark_proto::kafka::wire::Message;
        for version in 0..=9 {
            for answer in [Err(ErrorCode::UnknownMemberId), Ok(Reply::MemberIdRequired(Text::from("m")))] {
                respond(version, Text::from("x"), answer).to_pieces(version).unwrap();
            }
        }
    }
}
