//! KIP-951: an answer that refuses a leader tells the current one, and where it is.
//!
//! Collects over one answer which leaders were told of; each is located once, on the listener the client came in on.

use std::collections::BTreeSet;

use tidemark_proto::id::{BrokerId, LeaderEpoch, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;

use super::Ctx;
use crate::cluster::image::{At, Image};

/// The leaders told of in one answer.
pub struct NewLeaders<'a> {
    image: &'a Image,
    listener: &'a str,
    told: BTreeSet<BrokerId>,
}

impl<'a> NewLeaders<'a> {
    /// None yet.
    pub fn new(image: &'a Image, ctx: &'a Ctx) -> NewLeaders<'a> {
        NewLeaders { image, listener: &ctx.listener, told: BTreeSet::new() }
    }

    /// The leader (-1: none now) and its epoch, where `code` says that the client asked the wrong one.
    pub fn beside(&mut self, code: ErrorCode, tp: TopicPartition) -> Option<(BrokerId, LeaderEpoch)> {
        if !matches!(code, ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch) {
            return None;
        }
        let partition = self.image.partition(tp)?;
        self.told.extend(partition.leader);
        Some((partition.leader.unwrap_or(BrokerId(-1)), partition.leader_epoch))
    }

    /// Where those told of are, as the answer's own rows.
    pub fn located<E>(self, row: impl Fn(BrokerId, At<'a>) -> E) -> Vec<E> {
        let at = |node: BrokerId| Some(row(node, self.image.endpoint(node, self.listener)?));
        self.told.into_iter().filter_map(at).collect()
    }
}

#[cfg(test)]
mod tests {
    use tidemark_proto::id::{PartitionIndex, TopicId};

    use super::*;
    use crate::api::testing::World;

    #[test]
    fn a_wrong_leader_is_told_the_right_one_and_each_is_located_once_on_the_clients_listener() {
        let world = World::new();
        let seen = world.view(1, 16).on("EXTERNAL");
        let view = seen.look();
        let mut leaders = NewLeaders::new(view.image, view.ctx);
        let tp = |partition| TopicPartition { topic: world.orders, partition: PartitionIndex(partition) };
        for partition in [1, 3] {
            let told = leaders.beside(ErrorCode::NotLeaderOrFollower, tp(partition));
            assert_eq!(told.map(|(leader, _)| leader), Some(BrokerId(2)));
        }
        assert_eq!(leaders.beside(ErrorCode::OffsetOutOfRange, tp(0)), None);
        let elsewhere = TopicPartition { topic: TopicId(uuid::Uuid::nil()), ..tp(0) };
        assert_eq!(leaders.beside(ErrorCode::FencedLeaderEpoch, elsewhere), None);
        assert_eq!(leaders.located(|node, at| (node, at.port)), [(BrokerId(2), 19093)]);
    }
}
