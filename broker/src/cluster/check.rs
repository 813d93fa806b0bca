//! What always holds of an [`Image`]: asserted after every record in tests and simulation.

use std::collections::{BTreeMap, BTreeSet};

use tidemark_proto::id::TopicPartition;
use tidemark_proto::id::{LeaderEpoch, Offset, PartitionIndex};

use super::image::{Image, Partition};

impl Image {
    /// Panics where an invariant is broken.
    pub fn check(&self) {
        self.check_names();
        self.check_lanes();
        let mut led = BTreeMap::new();
        for topic in self.topics.values() {
            for (index, partition) in (0..).zip(&topic.partitions) {
                let tp = TopicPartition { topic: topic.id, partition: PartitionIndex(index) };
                self.check_partition(tp, partition);
                if let Some(leader) = partition.leader {
                    *led.entry(leader).or_insert(0) += 1;
                }
            }
        }
        assert_eq!(led, *self.led, "partitions are counted per leader");
    }

    fn check_names(&self) {
        assert_eq!(self.names.len(), self.topics.len(), "one name a topic");
        for (name, id) in self.names.iter() {
            let topic = self.topics.get(id).expect("a name leads to a topic");
            assert_eq!((&topic.name, topic.id), (name, *id), "name and id agree");
            assert!(!self.deleted.contains_key(id), "a topic id is never used again");
        }
    }

    fn check_lanes(&self) {
        let mut epochs = BTreeMap::new();
        for (id, lane) in self.lanes() {
            assert!(id.epoch < self.next_epoch, "R1: {id} was allocated");
            let life = *epochs.entry(id.epoch).or_insert(id.life);
            assert_eq!(life, id.life, "R1: an epoch belongs to one life");
            assert!(lane.sealed.is_none_or(|at| lane.low <= at), "R11, R19: low({id}) <= sealed({id})");
            if lane.recoverer.is_some() {
                assert!(lane.sealed.is_some_and(|at| lane.low < at), "{id} has something to recover");
            }
            let alive = self.broker(lane.node).is_some_and(|b| b.alive && b.epoch == id.epoch);
            assert_eq!(alive, lane.sealed.is_none(), "{id} is open while its broker epoch lives");
        }
        let alive: BTreeSet<_> = self.live().map(|b| b.epoch).collect();
        assert_eq!(alive.len(), self.live().count(), "R1: one epoch a broker");
    }

    fn check_partition(&self, tp: TopicPartition, p: &Partition) {
        let open = p.chain.last().filter(|e| e.to.is_none());
        match (p.leader, open) {
            (None, None) => {}
            (Some(leader), Some(entry)) => {
                let lane = self.lane(entry.lane).expect("a chain names lanes that exist");
                assert_eq!(lane.node, leader, "{tp} is led from its leader's lane");
                assert!(lane.sealed.is_none(), "{tp} is led from a lane that is open");
                assert_eq!(entry.leader_epoch, p.leader_epoch, "{tp}: the open entry is the leader's");
            }
            (leader, entry) => panic!("{tp}: leader {leader:?}, open entry {entry:?}"),
        }
        let mut last = LeaderEpoch(-1);
        for entry in &p.chain {
            assert!(entry.leader_epoch > last, "{tp}: leader epochs rise along the chain");
            last = entry.leader_epoch;
            let lane = self.lane(entry.lane).expect("a chain names lanes that exist");
            if let Some(to) = entry.to {
                assert!(entry.from < to, "{tp}: no empty entries");
                assert!(to > lane.low, "{tp}: an entry whose data is all in runs is dropped");
                assert!(lane.sealed.is_none_or(|at| to <= at), "{tp}: R13: bounds lie below the seal");
            }
        }
        assert!(last <= p.leader_epoch, "{tp}: no entry of a later leader epoch");
        assert!(p.chain.iter().rev().skip(1).all(|e| e.to.is_some()), "{tp}: only the last entry is open");
        assert!(p.assigned_at <= self.version, "{tp} was assigned in the past");
        assert!(p.log_start >= Offset(0), "{tp}: the log starts somewhere");
        for pair in p.segments().windows(2) {
            assert!(pair[0].last < pair[1].base, "{tp}: segments rise and never overlap");
            let follows = pair[0].last.plus(1) == pair[1].base || pair[1].base <= p.log_start;
            assert!(follows, "{tp}: nothing that can be read lies between segments");
        }
        let lowest = p.segments().iter().find(|row| row.last >= p.log_start);
        assert!(
            lowest.is_none_or(|row| row.base <= p.log_start),
            "{tp}: segments reach down to the log start"
        );
        for row in p.segments() {
            assert!(row.state.is_named(), "{tp}: {:?} has no row", row.state);
            assert!(row.state.is_readable() || row.last < p.log_start, "{tp}: only what cannot be read goes");
            assert!(
                row.epochs.iter().all(|(epoch, _)| *epoch <= p.leader_epoch),
                "{tp}: no later leader epoch"
            );
        }
        if let Some(successor) = p.successor {
            assert!(
                p.leader.is_some_and(|leader| leader != successor.node),
                "{tp} moves from a living leader"
            );
            let alive = self.broker(successor.node).is_some_and(|b| b.alive);
            assert!(alive, "{tp}: its successor lives");
        }
        let under_way = p.successor.is_some();
        assert!(
            under_way || p.assigned_before.is_none(),
            "{tp}: nothing is under way that could be cancelled"
        );
        if let Some(home) = p.home {
            assert!(self.checkpoints.contains_key(&home), "{tp}: its checkpoint is still named");
        }
    }
}
