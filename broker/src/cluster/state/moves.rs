//! Decides moves of single partitions between living brokers (R17): planned, read ahead by the successor, released by
//! the leader at a bound of its lane. A partition that nobody leads goes at once.

use std::collections::BTreeMap;

use tidemark_proto::id::{BrokerEpoch, BrokerId, LeaderEpoch, Seq, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;

use super::super::command::{Outcome, Reply};
use super::super::image::{Broker, Image, Partition, Successor};
use super::super::placement::{Placement, home_of};
use super::super::record::{Closed, Placed, Record};
use super::{by_topic, done, moved};

/// Partitions by where they go.
type Groups<K> = BTreeMap<K, Vec<TopicPartition>>;

impl Image {
    pub(super) fn plan_moves(&self, moves: &[(TopicPartition, BrokerId)]) -> Vec<Record> {
        let moves: BTreeMap<TopicPartition, BrokerId> = moves.iter().copied().collect();
        let (mut planned, mut orphans) = (Groups::<Option<BrokerId>>::new(), Groups::<BrokerId>::new());
        for (tp, node) in moves {
            let (Some(p), Some(home)) = (self.partition(tp), home_of(self, node)) else { continue };
            match (p.leader, p.successor) {
                (None, _) => orphans.entry(home.node).or_default().push(tp),
                (Some(leader), None) if leader == node => {}
                (Some(leader), Some(_)) if leader == node => planned.entry(None).or_default().push(tp),
                (_, Some(successor)) if successor.node == node => {}
                _ if self.drains(node) => {}
                _ => planned.entry(Some(node)).or_default().push(tp),
            }
        }
        let planned = planned.into_iter().map(|(to, which)| {
            let partitions = by_topic(which);
            Record::MovesPlanned { to, partitions }
        });
        let orphans = orphans.into_iter().filter_map(|(node, which)| moved(None, home_of(self, node), which));
        planned.chain(orphans).collect()
    }

    /// Whatever holds a move up, what waits for it to end goes on. A release that is on its way then is refused, since it
    /// names the plan.
    pub(super) fn call_off(&self, moves: &[(TopicPartition, u64)]) -> Vec<Record> {
        let moves: BTreeMap<TopicPartition, u64> = moves.iter().copied().collect();
        let stands = |(tp, planned): &(TopicPartition, u64)| {
            let successor = self.partition(*tp).and_then(|p| p.successor);
            successor.is_some_and(|s| s.planned == *planned)
        };
        let partitions = by_topic(moves.into_iter().filter(stands).map(|(tp, _)| tp));
        let none = partitions.is_empty();
        if none { Vec::new() } else { vec![Record::MovesPlanned { to: None, partitions }] }
    }

    /// What has another leader or successor by now is passed over.
    pub(super) fn ready_to_lead(
        &self,
        by: BrokerEpoch,
        from: Seq,
        partitions: &[(TopicPartition, LeaderEpoch)],
    ) -> Result<Outcome, ErrorCode> {
        let node = self.sender(by)?.node;
        let waits = |(tp, led): &&(TopicPartition, LeaderEpoch)| {
            let awaited = |s: Successor| s.node == node && !s.ready;
            self.partition(*tp).is_some_and(|p| p.leader_epoch == *led && p.successor.is_some_and(awaited))
        };
        let partitions = by_topic(partitions.iter().filter(waits).map(|(tp, _)| *tp));
        let none = partitions.is_empty();
        let record = Record::SuccessorReady { node, from, partitions };
        Ok(done(if none { Vec::new() } else { vec![record] }))
    }

    /// A partition whose plan is another by now, or none, stays with the sender, which goes on. So a release that comes
    /// late, sent again by the network, names a bound that the sender has not written beyond.
    pub(super) fn release(
        &self,
        by: BrokerEpoch,
        bound: Seq,
        partitions: &[(TopicPartition, LeaderEpoch, u64)],
    ) -> Result<Outcome, ErrorCode> {
        let sender = self.sender(by)?;
        let lane = home_of(self, sender.node).ok_or(ErrorCode::StaleBrokerEpoch)?.lane;
        if self.lane(lane).is_none_or(|row| bound < row.low) {
            return Err(ErrorCode::InvalidRequest);
        }
        let mut groups = Groups::<(BrokerId, Seq)>::new();
        let mut rows = Vec::with_capacity(partitions.len());
        for (tp, led, planned) in partitions {
            let ours = |p: &&Partition| p.leader == Some(sender.node) && p.leader_epoch == *led;
            let Some(p) = self.partition(*tp).filter(ours) else {
                rows.push(true);
                continue;
            };
            let successor = p.successor.filter(|s| s.planned == *planned && home_of(self, s.node).is_some());
            rows.push(successor.is_some());
            if let Some(successor) = successor {
                groups.entry((successor.node, successor.from)).or_default().push(*tp);
            }
        }
        let closed = Some(Closed { lane, to: bound });
        let records = groups.into_iter().filter_map(|((node, from), which)| {
            let home = home_of(self, node).map(|home| Placed { from: home.from.max(from), ..home });
            moved(closed, home, which)
        });
        Ok(Outcome { records: records.collect(), reply: Reply::Released(rows) })
    }

    pub(super) fn drain(&self, by: BrokerEpoch) -> Result<Outcome, ErrorCode> {
        let Broker { node, epoch, draining, .. } = *self.sender(by)?;
        if Placement::over(self, Some(node)).least().is_none() {
            return Ok(Outcome::reply(Reply::Done)); // there is nobody to take anything
        }
        let mut records = self.emptied(node);
        if !draining {
            records.insert(0, Record::BrokerDraining { node, epoch });
        }
        Ok(done(records))
    }

    /// Plans that what `node` leads goes to others, as evenly as may be, and that what is on its way there stays.
    pub(super) fn emptied(&self, node: BrokerId) -> Vec<Record> {
        let mut placement = Placement::over(self, Some(node));
        let mut moves = Vec::new();
        for (tp, p) in self.partitions() {
            match (p.leader, p.successor) {
                (Some(leader), None) if leader == node => {
                    moves.extend(placement.rather(p.assigned.iter().copied()).map(|place| (tp, place.node)));
                }
                (Some(leader), Some(successor)) if successor.node == node => moves.push((tp, leader)),
                _ => {}
            }
        }
        self.plan_moves(&moves)
    }

    /// The plans come first: what was assigned before is remembered for as long as there is one.
    pub(super) fn assign_replicas(&self, assigned: &[(TopicPartition, Vec<BrokerId>)]) -> Vec<Record> {
        let assigned: BTreeMap<TopicPartition, &Vec<BrokerId>> =
            assigned.iter().map(|(tp, replicas)| (*tp, replicas)).collect();
        let (mut groups, mut moves) = (Groups::<Vec<BrokerId>>::new(), Vec::new());
        for (tp, replicas) in assigned {
            let Some(p) = self.partition(tp) else { continue };
            if p.assigned != *replicas {
                groups.entry(replicas.clone()).or_default().push(tp);
            }
            moves.extend(replicas.iter().find(|node| self.may_lead(**node)).map(|node| (tp, *node)));
        }
        let mut records = self.plan_moves(&moves);
        records.extend(given(groups));
        records
    }

    fn may_lead(&self, node: BrokerId) -> bool {
        home_of(self, node).is_some() && !self.drains(node)
    }

    /// A partition that is not under way stays as it is.
    pub(super) fn cancel_reassignments(&self, partitions: &[TopicPartition]) -> Vec<Record> {
        let (mut groups, mut plans) = (Groups::<Vec<BrokerId>>::new(), Vec::new());
        for tp in partitions {
            let Some(p) = self.partition(*tp) else { continue };
            plans.extend(p.successor.map(|s| (*tp, s.planned)));
            if let Some(before) = p.assigned_before.as_deref().filter(|before| **before != *p.assigned) {
                groups.entry(before.to_vec()).or_default().push(*tp);
            }
        }
        let mut records = self.call_off(&plans);
        records.extend(given(groups));
        records
    }
}

fn given(groups: Groups<Vec<BrokerId>>) -> impl Iterator<Item = Record> {
    groups.into_iter().map(|(replicas, which)| {
        let partitions = by_topic(which);
        Record::ReplicasAssigned { replicas, partitions }
    })
}
