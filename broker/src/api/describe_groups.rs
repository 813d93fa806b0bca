//! DescribeGroups (key 15, v0-6): a group's state, protocol and members.
//!
//! Metadata and assignments of a stable group only. v3: what the asker may do. v4: `group.instance.id`. v6: a group
//! that is not there is GROUP_ID_NOT_FOUND (KIP-1043); before, it is "Dead" without an error.

use std::sync::Arc;

use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use tidemark_proto::kafka::messages::{DescribeGroupsRequest, DescribeGroupsResponse};
use tidemark_proto::kafka::text::Text;

use super::view::NOT_ASKED;
use super::{Ctx, Operation, Resource, coordinator};
use crate::group::command::{Command, DescribedMember, Description, Reply};
use crate::group::members::Phase;
use crate::node::Node;

/// What can be done to a group, for the bit field of authorized operations.
const OPERATIONS: [Operation; 5] = [
    Operation::Read,
    Operation::Delete,
    Operation::Describe,
    Operation::DescribeConfigs,
    Operation::AlterConfigs,
];

/// Answers.
pub async fn handle(
    node: Arc<Node>,
    ctx: Arc<Ctx>,
    request: DescribeGroupsRequest,
) -> DescribeGroupsResponse {
    let mut groups = Vec::new();
    for group in request.groups {
        let allowed = |operation: &Operation| node.allows(&ctx, *operation, Resource::Group(&group));
        let bits = || OPERATIONS.iter().filter(|o| allowed(o)).fold(0, |bits, o| bits | 1 << (*o as i32));
        let operations = if request.include_authorized_operations { bits() } else { NOT_ASKED };
        let answer = if allowed(&Operation::Describe) {
            coordinator::ask(&node, &group, Command::Describe).await
        } else {
            Err(ErrorCode::GroupAuthorizationFailed)
        };
        groups.push(row(ctx.version, group, answer, operations));
    }
    DescribeGroupsResponse { groups, ..Default::default() }
}

fn row(version: i16, group_id: Text, answer: Result<Reply, ErrorCode>, operations: i32) -> DescribedGroup {
    let description = match answer {
        Ok(Reply::Described(description)) => description,
        Ok(_) => return refused(group_id, ErrorCode::UnknownServerError),
        Err(code) => return refused(group_id, code),
    };
    let Description { phase, protocol_type, protocol, members } = description;
    let missing = phase == Phase::Dead && version >= 6;
    // Kafka's own words: tools show them, and scripts look for them.
    let told = missing.then(|| Text::from(format!("Group {group_id} not found.")));
    DescribedGroup {
        error_code: if missing { ErrorCode::GroupIdNotFound.code() } else { 0 },
        error_message: told,
        group_id,
        group_state: Text::from_static(phase.name()),
        protocol_type,
        protocol_data: protocol,
        members: members.into_iter().map(member).collect(),
        authorized_operations: operations,
    }
}

fn member(member: DescribedMember) -> DescribedGroupMember {
    DescribedGroupMember {
        member_id: member.member,
        group_instance_id: member.instance,
        client_id: member.client_id,
        client_host: member.client_host,
        member_metadata: member.metadata,
        member_assignment: member.assignment,
    }
}

fn refused(group_id: Text, code: ErrorCode) -> DescribedGroup {
    DescribedGroup {
        error_code: code.code(),
        group_id,
        authorized_operations: NOT_ASKED,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_is_not_there_is_dead_or_not_found_by_version() {
        let dead = || Ok(Reply::Described(Description::default()));
        let old = row(5, Text::from("g"), dead(), NOT_ASKED);
        assert_eq!((old.error_code, old.group_state.as_str()), (0, "Dead"));
        let new = row(6, Text::from("g"), dead(), NOT_ASKED);
        assert_eq!((new.error_code, new.group_state.as_str()), (69, "Dead"));
        assert_eq!(new.error_message.as_deref(), Some("Group g not found."));
    }
}
