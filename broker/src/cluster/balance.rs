//! Which partitions ought to be led by another broker, and why. Pure.
//!
//! First what somebody asked for: the first living replica that was assigned leads, and a broker that drains leads
//! nothing. Then evenness: brokers lead about as many partitions each, and no more moves than that takes. Then, where
//! counts are even, what they carry. One plan at a time: while moves are under way nothing is planned.

use std::collections::{BTreeMap, BTreeSet};

use tidemark_proto::id::{BrokerId, TopicId, TopicPartition};

use super::image::{Image, Partition};

mod weights;

pub use weights::Loads;

/// How many partitions brokers lead.
type Counts = BTreeMap<BrokerId, u32>;

/// Moves planned at a time.
const MOVES: usize = 1_000;

/// Brokers whose counts differ by no more than a tenth are even enough, so that a cluster comes to rest.
const TOLERANCE: u32 = 10;

/// A broker to which moves of so many partitions were called off lately is given none.
const STRIKES: usize = 3;

/// Moves that were called off lately, and are not planned again yet.
#[derive(Clone, Debug, Default)]
pub struct Avoid {
    moves: BTreeSet<(TopicPartition, BrokerId)>,
    brokers: BTreeSet<BrokerId>,
}

impl Avoid {
    /// Of these moves.
    pub fn new(moves: impl IntoIterator<Item = (TopicPartition, BrokerId)>) -> Avoid {
        let moves: BTreeSet<_> = moves.into_iter().collect();
        let mut strikes = BTreeMap::<BrokerId, usize>::new();
        moves.iter().for_each(|(_, node)| *strikes.entry(*node).or_default() += 1);
        let brokers = strikes.into_iter().filter(|(_, count)| *count >= STRIKES).map(|(node, _)| node);
        Avoid { brokers: brokers.collect(), moves }
    }

    /// Whether `tp` is not to go to `node`.
    pub fn holds(&self, tp: TopicPartition, node: BrokerId) -> bool {
        self.brokers.contains(&node) || self.moves.contains(&(tp, node))
    }

    /// Whether `tp` could not be moved to somebody.
    fn stuck(&self, tp: TopicPartition) -> bool {
        let all = (tp, BrokerId(i32::MIN))..=(tp, BrokerId(i32::MAX));
        self.moves.range(all).next().is_some()
    }
}

/// What to move, and a sentence that says why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Which partitions, to whom.
    pub moves: Vec<(TopicPartition, BrokerId)>,
    /// Why.
    pub why: String,
}

/// What would balance the cluster as it is, without what is to be avoided; `None` where it is balanced, or on its way.
pub fn balance(image: &Image, avoid: &Avoid, loads: Option<&Loads>) -> Option<Balance> {
    let mut led: Counts =
        image.live().filter(|b| !image.drains(b.node)).map(|b| (b.node, image.led(b.node))).collect();
    if led.is_empty() || image.moving().next().is_some() {
        return None;
    }
    let (mut moves, mut free) = (Vec::new(), BTreeMap::<BrokerId, Share>::new());
    let (mut preferred, mut drained) = (0, 0);
    for (tp, p) in image.partitions() {
        let Some(leader) = p.leader else { continue };
        match wanted(&led, p, |node| avoid.holds(tp, node)) {
            Some(node) if node == leader => {}
            Some(node) => {
                // Counted, so that evenness does not move others for what this already mends.
                led.entry(leader).and_modify(|count| *count = count.saturating_sub(1));
                *led.get_mut(&node)? += 1;
                moves.push((tp, node));
                preferred += 1;
            }
            None if led.contains_key(&leader) && avoid.stuck(tp) => {}
            None if led.contains_key(&leader) => free.entry(leader).or_default().add(tp),
            None => {
                let Some((node, _)) = least(&led, |node| avoid.holds(tp, node)) else { continue };
                *led.get_mut(&node)? += 1;
                moves.push((tp, node));
                drained += 1;
            }
        }
    }
    let even = evened(&mut led, &mut free, avoid);
    let (most, fewest) = (led.values().max().copied()?, led.values().min().copied()?);
    moves.extend(even.iter().copied());
    moves.truncate(MOVES);
    if moves.is_empty() {
        let (moves, why) = weights::weighed(image, &mut led, loads?, avoid)?;
        return Some(Balance { moves, why });
    }
    let why = format!(
        "{preferred} to their preferred leaders, {drained} from brokers that drain, {} for evenness ({fewest} to {most} \
         partitions a broker)",
        even.len()
    );
    Some(Balance { moves, why })
}

/// Who was assigned and may lead.
fn wanted(led: &Counts, p: &Partition, avoided: impl Fn(BrokerId) -> bool) -> Option<BrokerId> {
    let may = |node: &&BrokerId| led.contains_key(node) && (p.leader == Some(**node) || !avoided(**node));
    p.assigned.iter().find(may).copied()
}

fn least(led: &Counts, avoided: impl Fn(BrokerId) -> bool) -> Option<(BrokerId, u32)> {
    let may = led.iter().filter(|(node, _)| !avoided(**node));
    may.min_by_key(|(_, count)| **count).map(|(node, count)| (*node, *count))
}

/// Takes from who leads most and gives to who leads fewest, until they are even enough.
fn evened(
    led: &mut Counts,
    free: &mut BTreeMap<BrokerId, Share>,
    avoid: &Avoid,
) -> Vec<(TopicPartition, BrokerId)> {
    let mut moves = Vec::new();
    while moves.len() < MOVES {
        let giver =
            led.iter().filter(|(node, _)| free.get(node).is_some_and(|share| !share.sizes.is_empty()));
        let Some((from, most)) = giver.max_by_key(|(_, count)| **count).map(|(node, count)| (*node, *count))
        else {
            break;
        };
        let Some((to, fewest)) = least(led, |node| avoid.brokers.contains(&node)) else { break };
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
pub(super) mod tests {
    use tidemark_proto::id::{BrokerEpoch, LaneId, PartitionIndex, Seq};
    use uuid::Uuid;

    use super::super::image::Broker;
    use super::super::record::{Placed, Record};
    use super::*;

    /// Brokers 1 to `brokers`, and a topic with partitions led by each of `leaders`.
    pub fn image(brokers: i32, leaders: &[i32]) -> Image {
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
        let moves = balance(image, &Avoid::default(), None).map(|plan| plan.moves).unwrap_or_default();
        let mut rows: Vec<_> = moves.into_iter().map(|(tp, node)| (tp.partition.0, node.0)).collect();
        rows.sort_unstable();
        rows
    }

    pub fn one(index: i32) -> Vec<(TopicId, Vec<PartitionIndex>)> {
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
        assert_eq!(targets(&image(3, &[1, 2, 3, 1, 2])), []);
        assert_eq!(targets(&image(1, &[1, 1, 1])), []);
        assert_eq!(targets(&image(0, &[])), []);
    }

    #[test]
    fn nothing_is_planned_while_something_moves() {
        let mut image = image(2, &[1, 1, 1, 1]);
        image.apply(&Record::MovesPlanned { to: Some(BrokerId(2)), partitions: one(0) });
        assert_eq!(targets(&image), []);
    }

    pub fn tp(index: i32) -> TopicPartition {
        TopicPartition { topic: TopicId(Uuid::from_u128(1)), partition: PartitionIndex(index) }
    }

    #[test]
    fn what_was_called_off_is_left_alone_and_others_go_instead() {
        let image = image(2, &[1, 1, 1, 1]);
        let avoid = Avoid::new([(tp(3), BrokerId(2))]);
        let moves = balance(&image, &avoid, None).map(|plan| plan.moves);
        assert_eq!(moves, Some(vec![(tp(2), BrokerId(2)), (tp(1), BrokerId(2))]));
        let avoid = Avoid::new([0, 1, 2].map(|index| (tp(index), BrokerId(2))));
        assert_eq!(balance(&image, &avoid, None), None, "a broker that could take none of three");
    }

    #[test]
    fn a_preferred_leader_that_could_not_take_it_yields_to_the_next_for_now() {
        let mut image = image(3, &[1]);
        let replicas = vec![BrokerId(2), BrokerId(1), BrokerId(3)];
        image.apply(&Record::ReplicasAssigned { replicas, partitions: one(0) });
        assert_eq!(targets(&image), [(0, 2)]);
        assert_eq!(
            balance(&image, &Avoid::new([(tp(0), BrokerId(2))]), None),
            None,
            "the next one leads already"
        );
    }

    #[test]
    fn a_drain_goes_elsewhere_where_one_broker_could_not_take_it() {
        let mut image = image(3, &[1]);
        image.apply(&Record::BrokerDraining { node: BrokerId(1), epoch: BrokerEpoch(1) });
        assert_eq!(targets(&image), [(0, 2)]);
        let plan = balance(&image, &Avoid::new([(tp(0), BrokerId(2))]), None);
        assert_eq!(plan.map(|plan| plan.moves), Some(vec![(tp(0), BrokerId(3))]));
        let both = Avoid::new([(tp(0), BrokerId(2)), (tp(0), BrokerId(3))]);
        assert_eq!(balance(&image, &both, None), None);
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
