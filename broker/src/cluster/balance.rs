//! Which partitions ought to be led by another broker, and why. Pure.
//!
//! First what somebody asked for: the first living replica that was assigned leads, and a broker that drains leads
//! nothing. Then evenness: brokers lead about as many partitions each, and no more moves than that takes. One plan at a
//! time: while moves are under way nothing is planned.

use std::collections::{BTreeMap, BTreeSet};

use tidemark_proto::id::{BrokerId, TopicId, TopicPartition};

use super::image::{Image, Partition};

/// Moves planned at a time.
const MOVES: usize = 1_000;

/// Brokers whose counts differ by no more than a tenth are even enough, so that a cluster comes to rest.
const TOLERANCE: u32 = 10;

/// What to move, and a sentence that says why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Which partitions, to whom.
    pub moves: Vec<(TopicPartition, BrokerId)>,
    /// Why.
    pub why: String,
}

/// What would balance the cluster as it is; `None` where it is balanced, or on its way.
pub fn balance(image: &Image) -> Option<Balance> {
    let mut led: BTreeMap<BrokerId, u32> =
        image.live().filter(|b| !b.draining).map(|b| (b.node, image.led(b.node))).collect();
    if led.is_empty() || image.moving().next().is_some() {
        return None;
    }
    let (mut moves, mut free) = (Vec::new(), BTreeMap::<BrokerId, Share>::new());
    let (mut preferred, mut drained) = (0, 0);
    for (tp, p) in image.topics().flat_map(|topic| topic.partitions()) {
        let Some(leader) = p.leader else { continue };
        match wanted(&led, p) {
            Some(node) if node == leader => {}
            Some(node) => {
                // Counted, so that evenness does not move others for what this already mends.
                led.entry(leader).and_modify(|count| *count = count.saturating_sub(1));
                *led.get_mut(&node)? += 1;
                moves.push((tp, node));
                preferred += 1;
            }
            None if led.contains_key(&leader) => free.entry(leader).or_default().add(tp),
            None => {
                let (node, _) = least(&led)?;
                *led.get_mut(&node)? += 1;
                moves.push((tp, node));
                drained += 1;
            }
        }
    }
    let even = evened(&mut led, &mut free);
    let (most, fewest) = (led.values().max().copied()?, led.values().min().copied()?);
    moves.extend(even.iter().copied());
    moves.truncate(MOVES);
    let why = format!(
        "{preferred} to their preferred leaders, {drained} from brokers that drain, {} for evenness ({fewest} to {most} \
         partitions a broker)",
        even.len()
    );
    (!moves.is_empty()).then_some(Balance { moves, why })
}

/// Who was assigned and may lead.
fn wanted(led: &BTreeMap<BrokerId, u32>, p: &Partition) -> Option<BrokerId> {
    p.assigned.iter().find(|node| led.contains_key(node)).copied()
}

fn least(led: &BTreeMap<BrokerId, u32>) -> Option<(BrokerId, u32)> {
    led.iter().min_by_key(|(_, count)| **count).map(|(node, count)| (*node, *count))
}

/// Takes from who leads most and gives to who leads fewest, until they are even enough.
fn evened(
    led: &mut BTreeMap<BrokerId, u32>,
    free: &mut BTreeMap<BrokerId, Share>,
) -> Vec<(TopicPartition, BrokerId)> {
    let mut moves = Vec::new();
    while moves.len() < MOVES {
        let giver =
            led.iter().filter(|(node, _)| free.get(node).is_some_and(|share| !share.sizes.is_empty()));
        let Some((from, most)) = giver.max_by_key(|(_, count)| **count).map(|(node, count)| (*node, *count))
        else {
            break;
        };
        let Some((to, fewest)) = least(led) else { break };
        if most - fewest <= (most / TOLERANCE).max(1) {
            break;
        }
        let Some(tp) = free.get_mut(&from).and_then(Share::take) else { break };
        led.insert(from, most - 1);
        led.insert(to, fewest + 1);
        moves.push((tp, to));
    }
    moves
}

/// What one broker leads and could give away, by topic.
#[derive(Debug, Default)]
struct Share {
    of: BTreeMap<TopicId, Vec<TopicPartition>>,
    sizes: BTreeSet<(usize, TopicId)>,
}

impl Share {
    fn add(&mut self, tp: TopicPartition) {
        let list = self.of.entry(tp.topic).or_default();
        self.sizes.remove(&(list.len(), tp.topic));
        list.push(tp);
        self.sizes.insert((list.len(), tp.topic));
    }

    /// One of the topic it holds most of, so that topics are spread too.
    fn take(&mut self) -> Option<TopicPartition> {
        let (size, topic) = self.sizes.pop_last()?;
        if size > 1 {
            self.sizes.insert((size - 1, topic));
        }
        self.of.get_mut(&topic)?.pop()
    }
}

#[cfg(test)]
mod tests {
    use tidemark_proto::id::{BrokerEpoch, LaneId, PartitionIndex, Seq};
    use uuid::Uuid;

    use super::super::image::Broker;
    use super::super::record::{Placed, Record};
    use super::*;

    /// Brokers 1 to `brokers`, and a topic with partitions led by each of `leaders`.
    fn image(brokers: i32, leaders: &[i32]) -> Image {
        let mut image = Image::default();
        for node in 1..=brokers {
            let broker = Broker {
                node: BrokerId(node),
                epoch: BrokerEpoch(u64::try_from(node).unwrap()),
                alive: true,
                ..Broker::default()
            };
            image.apply(&Record::BrokerRegistered { broker, lanes: 1 });
        }
        let place = |node: &i32| {
            let epoch = BrokerEpoch(u64::try_from(*node).unwrap());
            Some(Placed { node: BrokerId(*node), lane: LaneId { epoch, ..LaneId::default() }, from: Seq(0) })
        };
        image.apply(&Record::TopicCreated {
            id: TopicId(Uuid::from_u128(1)),
            name: "t".into(),
            replication: 1,
            configs: BTreeMap::new(),
            placed: leaders.iter().map(place).collect(),
        });
        image
    }

    fn targets(image: &Image) -> Vec<(i32, i32)> {
        let moves = balance(image).map(|plan| plan.moves).unwrap_or_default();
        let mut rows: Vec<_> = moves.into_iter().map(|(tp, node)| (tp.partition.0, node.0)).collect();
        rows.sort_unstable();
        rows
    }

    fn one(index: i32) -> Vec<(TopicId, Vec<PartitionIndex>)> {
        vec![(TopicId(Uuid::from_u128(1)), vec![PartitionIndex(index)])]
    }

    #[test]
    fn a_broker_that_joined_gets_its_share_and_no_more_is_moved_than_that_takes() {
        assert_eq!(targets(&image(2, &[1, 1, 1, 1])), [(2, 2), (3, 2)]);
        assert_eq!(targets(&image(3, &[1, 1, 2, 2, 1, 2])), [(4, 3), (5, 3)]);
    }

    #[test]
    fn the_fullest_topic_gives_first() {
        let mut share = Share::default();
        let tp = |topic, partition| TopicPartition {
            topic: TopicId(Uuid::from_u128(topic)),
            partition: PartitionIndex(partition),
        };
        [tp(9, 0), tp(1, 0), tp(1, 1), tp(1, 2)].into_iter().for_each(|tp| share.add(tp));
        let taken = std::iter::from_fn(|| share.take()).map(|tp| tp.topic.0.as_u128());
        assert_eq!(taken.collect::<Vec<_>>(), [1, 1, 9, 1]);
    }

    #[test]
    fn an_even_cluster_and_a_lone_broker_are_left_alone() {
        assert_eq!(balance(&image(3, &[1, 2, 3, 1, 2])), None);
        assert_eq!(balance(&image(1, &[1, 1, 1])), None);
        assert_eq!(balance(&image(0, &[])), None);
    }

    #[test]
    fn nothing_is_planned_while_something_moves() {
        let mut image = image(2, &[1, 1, 1, 1]);
        image.apply(&Record::MovesPlanned { to: Some(BrokerId(2)), partitions: one(0) });
        assert_eq!(balance(&image), None);
    }

    #[test]
    fn who_was_assigned_leads_even_where_that_is_uneven() {
        let mut image = image(2, &[1, 2]);
        for index in [0, 1] {
            let replicas = vec![BrokerId(9), BrokerId(1)];
            image.apply(&Record::ReplicasAssigned { replicas, partitions: one(index) });
        }
        assert_eq!(targets(&image), [(1, 1)], "the first one that lives");
    }

    #[test]
    fn what_goes_to_preferred_leaders_counts_for_evenness() {
        let mut image = image(2, &[1, 1, 1, 1]);
        for index in [0, 1] {
            let replicas = vec![BrokerId(2)];
            image.apply(&Record::ReplicasAssigned { replicas, partitions: one(index) });
        }
        assert_eq!(targets(&image), [(0, 2), (1, 2)], "two each: no other has to move");
    }

    #[test]
    fn a_broker_that_drains_is_emptied_and_given_nothing() {
        let mut image = image(3, &[1, 1, 2, 3]);
        image.apply(&Record::BrokerDraining { node: BrokerId(1), epoch: BrokerEpoch(1) });
        assert_eq!(targets(&image), [(0, 2), (1, 3)]);
    }
}
