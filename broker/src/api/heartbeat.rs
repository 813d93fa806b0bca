//! Heartbeat (key 12, v0-4): a member says that it lives and learns whether to rejoin.
//!
//! Owns nothing; asks the group. REBALANCE_IN_PROGRESS while members are awaited, success while assignments are.
//! Never waits for the bucket. v3: `group.instance.id` (KIP-345).

use std::sync::Arc;

use tidemark_proto::kafka::messages::{HeartbeatRequest, HeartbeatResponse};

use super::{Ctx, coordinator};
use crate::group::command::Command;
use crate::node::Node;

/// Takes the request in; the future gives the answer.
pub async fn start(
    node: Arc<Node>,
    ctx: Arc<Ctx>,
    request: HeartbeatRequest,
) -> impl Future<Output = HeartbeatResponse> + Send + use<> {
    let HeartbeatRequest { group_id, generation_id, member_id, group_instance_id, .. } = request;
    let caller = coordinator::caller(&member_id, group_instance_id.as_ref(), generation_id);
    let pending = coordinator::submit_as_member(&node, &ctx, &group_id, Command::Heartbeat(caller)).await;
    async move {
        let error_code = coordinator::code_of(&pending.answer().await);
        HeartbeatResponse { error_code, ..Default::default() }
    }
}
