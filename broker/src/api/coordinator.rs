//! The way from a group's id to its coordinator, shared by the group APIs: authorize, find the partition, ask.
//!
//! Requests of one connection reach a group in the order they came in ([`submit`] is awaited in that order), so
//! that pipelined commits do not overtake each other. Knows no rule about groups.

use std::sync::Arc;

use tidemark_proto::id::PartitionIndex;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::text::Text;
use tokio::sync::oneshot;

use super::{Ctx, Operation, Resource};
use crate::cluster::Image;
use crate::group::command::{Caller, Command, Reply};
use crate::group::partition_of;
use crate::node::{Node, OFFSETS_TOPIC};

/// An answer to come.
pub enum Pending {
    /// It was refused at once.
    Refused(ErrorCode),
    /// The coordinator has it.
    Waiting(oneshot::Receiver<Result<Reply, ErrorCode>>),
}

impl Pending {
    /// Waits for it.
    pub async fn answer(self) -> Result<Reply, ErrorCode> {
        match self {
            Pending::Refused(code) => Err(code),
            Pending::Waiting(answer) => answer.await.unwrap_or(Err(ErrorCode::NotCoordinator)),
        }
    }
}

/// The partition of `__consumer_offsets` that holds a group.
pub fn place(image: &Image, group: &str) -> Result<PartitionIndex, ErrorCode> {
    let topic = image.topic_named(OFFSETS_TOPIC).ok_or(ErrorCode::CoordinatorNotAvailable)?;
    let partitions = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
    Ok(PartitionIndex(partition_of(group, partitions)))
}

/// Hands a command to the group's coordinator, if that is us and our session is fresh (R24): a coordinator that was
/// taken over without knowing it must not tell of old offsets.
pub async fn submit(node: &Node, group: &Text, command: Command) -> Pending {
    if !node.may_serve_reads().await {
        return Pending::Refused(ErrorCode::NotCoordinator);
    }
    match place(&node.cluster.image(), group) {
        Ok(at) => Pending::Waiting(node.groups.submit(at, &group.detached(), command).await),
        Err(code) => Pending::Refused(code),
    }
}

/// The same for a request of a member: the group must have a name, and the principal must be allowed to read.
pub async fn submit_as_member(node: &Node, ctx: &Ctx, group: &Text, command: Command) -> Pending {
    if !node.allows(ctx, Operation::Read, Resource::Group(group)) {
        return Pending::Refused(ErrorCode::GroupAuthorizationFailed);
    }
    if group.is_empty() {
        return Pending::Refused(ErrorCode::InvalidGroupId);
    }
    submit(node, group, command).await
}

/// Asks at once.
pub async fn ask(node: &Arc<Node>, group: &Text, command: Command) -> Result<Reply, ErrorCode> {
    submit(node, group, command).await.answer().await
}

/// Who speaks, detached from the request's frame.
pub fn caller(member: &Text, instance: Option<&Text>, generation: i32) -> Caller {
    Caller { member: member.detached(), instance: instance.map(Text::detached), generation }
}

/// The code of a request that is answered with nothing else.
pub fn code_of(answer: &Result<Reply, ErrorCode>) -> i16 {
    answer.as_ref().err().copied().unwrap_or(ErrorCode::None).code()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_offsets_topic_there_is_no_coordinator() {
        assert_eq!(place(&Image::default(), "g"), Err(ErrorCode::CoordinatorNotAvailable));
    }
}
