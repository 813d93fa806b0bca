//! ListGroups (key 16, v0-5): the groups this broker coordinates.
//!
//! Clients ask every broker. v4: filter by state, v5: by type; both without regard to case. Without DESCRIBE on the
//! cluster a group shows only to those who may describe it.

use std::sync::Arc;

use tidemark_proto::kafka::messages::list_groups_response::ListedGroup;
use tidemark_proto::kafka::messages::{ListGroupsRequest, ListGroupsResponse};
use tidemark_proto::kafka::text::Text;

use super::{Ctx, Operation, Resource};
use crate::ledger::Listed;
use crate::node::Node;

/// The one type of group there is.
const CLASSIC: &str = "classic";

/// Answers.
pub async fn handle(node: Arc<Node>, ctx: Arc<Ctx>, request: ListGroupsRequest) -> ListGroupsResponse {
    let listed = match node.groups.list().await {
        Ok(listed) => listed,
        Err(code) => return ListGroupsResponse { error_code: code.code(), ..Default::default() },
    };
    let sees_all = node.allows(&ctx, Operation::Describe, Resource::Cluster);
    let sees = |group: &str| sees_all || node.allows(&ctx, Operation::Describe, Resource::Group(group));
    let groups = listed.into_iter().filter(|g| sees(&g.group) && passes(&request, g)).map(|g| ListedGroup {
        group_id: g.group,
        protocol_type: g.protocol_type,
        group_state: Text::from_static(g.phase.name()),
        group_type: Text::from_static(CLASSIC),
    });
    ListGroupsResponse { groups: groups.collect(), ..Default::default() }
}

fn passes(request: &ListGroupsRequest, group: &Listed) -> bool {
    let passes = |filter: &[Text], value: &str| {
        filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(value))
    };
    passes(&request.states_filter, group.phase.name()) && passes(&request.types_filter, CLASSIC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::members::Phase;

    #[test]
    fn filters_look_at_state_and_type_without_regard_to_case() {
        let group =
            Listed { group: Text::from("g"), phase: Phase::Stable, protocol_type: Text::from("consumer") };
        let passes = |states: &[&str], types: &[&str]| {
            let texts = |all: &[&str]| all.iter().map(|t| Text::from(*t)).collect();
            let request = ListGroupsRequest {
                states_filter: texts(states),
                types_filter: texts(types),
                ..Default::default()
            };
            super::passes(&request, &group)
        };
        assert!(passes(&[], &[]) && passes(&["stable"], &[]) && passes(&["Empty", "STABLE"], &["Classic"]));
        assert!(!passes(&["Empty"], &[]) && !passes(&[], &["consumer"]));
    }
}
