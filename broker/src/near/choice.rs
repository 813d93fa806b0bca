//! Who serves a reader: the leader, or a replica in the reader's rack. Pure.
//!
//! As Kafka's `RackAwareReplicaSelector`, with one difference: all replicas have all that is committed, so that the first in the
//! list's order is chosen and the readers of a rack share one broker's cache.

use tidemark_proto::id::{BrokerId, PartitionIndex};

use crate::cluster::Image;
use crate::cluster::image::Topic;

/// Who is asked, by whom.
#[derive(Clone, Copy, Debug)]
pub struct Seat<'a> {
    /// The broker that decides.
    pub me: BrokerId,
    /// The listener its client came in on.
    pub listener: &'a str,
}

/// The replica that a client of `rack` had better read from than from its leader, `seat.me`: one that lives, stays,
/// and can be reached on the client's listener.
pub fn nearest(
    image: &Image,
    topic: &Topic,
    partition: PartitionIndex,
    rack: &str,
    seat: Seat<'_>,
) -> Option<BrokerId> {
    let there = |node: BrokerId| image.broker(node).is_some_and(|b| b.rack.as_deref() == Some(rack));
    let leads = topic.partition(partition)?.leader == Some(seat.me);
    // Most brokers are asked by clients of their own rack, or of a rack without any broker.
    if rack.is_empty() || !leads || there(seat.me) || !image.live().any(|b| there(b.node)) {
        return None;
    }
    let serves = |node: &BrokerId| {
        let stays = image.broker(*node).is_some_and(|b| b.alive) && !image.drains(*node);
        *node != seat.me && stays && there(*node) && image.endpoint(*node, seat.listener).is_some()
    };
    image.replicas(topic, partition).into_iter().find(serves)
}

/// The leader that `me` asks to serve the partition as one of its replicas; `None` where it leads itself, is no replica, or
/// nobody leads.
pub fn to_ask(image: &Image, topic: &Topic, partition: PartitionIndex, me: BrokerId) -> Option<BrokerId> {
    let leader = topic.partition(partition)?.leader.filter(|leader| *leader != me)?;
    let lives = image.broker(leader).is_some_and(|b| b.alive && !b.peer.is_empty());
    (lives && image.replicas(topic, partition).contains(&me)).then_some(leader)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tidemark_proto::id::{BrokerEpoch, LaneId, Life, Seq, TopicId};
    use uuid::Uuid;

    use super::*;
    use crate::cluster::image::{Broker, DRAIN, Endpoint};
    use crate::cluster::record::{Placed, Record, Scope};

    const P: PartitionIndex = PartitionIndex(0);
    const TOPIC: TopicId = TopicId(Uuid::from_u128(7));

    fn broker(node: u16, rack: Option<&str>) -> Broker {
        let endpoint = Endpoint { listener: "PLAINTEXT".into(), port: node, ..Endpoint::default() };
        Broker {
            node: BrokerId(i32::from(node)),
            epoch: BrokerEpoch(u64::from(node)),
            life: Life(u128::from(node)),
            endpoints: vec![endpoint],
            peer: format!("peer-{node}"),
            rack: rack.map(str::to_owned),
            alive: true,
            ..Broker::default()
        }
    }

    /// A partition led by broker 1 with `replication` replicas.
    fn world(brokers: Vec<Broker>, replication: i16) -> Image {
        let mut image = Image::default();
        for broker in brokers {
            image.apply(&Record::BrokerRegistered { broker, lanes: 1 });
        }
        let lane = LaneId { epoch: BrokerEpoch(1), lane: 0, life: Life(1) };
        let placed = vec![Some(Placed { node: BrokerId(1), lane, from: Seq(0) })];
        let (name, configs) = ("t".into(), BTreeMap::new());
        image.apply(&Record::TopicCreated { id: TOPIC, name, replication, configs, placed });
        image
    }

    fn choose(image: &Image, rack: &str) -> Option<i32> {
        let topic = image.topic(TOPIC).unwrap();
        let seat = Seat { me: BrokerId(1), listener: "PLAINTEXT" };
        nearest(image, topic, P, rack, seat).map(|node| node.0)
    }

    #[test]
    fn a_client_is_sent_to_the_replica_of_its_rack_and_stays_with_a_leader_in_it() {
        let image = world(vec![broker(1, Some("a")), broker(2, Some("b")), broker(3, Some("c"))], 3);
        let found = ["a", "b", "c", "d", ""].map(|rack| choose(&image, rack));
        assert_eq!(found, [None, Some(2), Some(3), None, None]);
    }

    #[test]
    fn only_a_replica_is_chosen_and_all_clients_of_a_rack_get_the_same_one() {
        let brokers = || vec![broker(1, Some("a")), broker(2, Some("b")), broker(3, Some("b"))];
        let few = world(brokers(), 1);
        assert_eq!(choose(&few, "b"), None, "the leader is the only replica");
        let two = world(brokers(), 2);
        let replicas = two.replicas(two.topic(TOPIC).unwrap(), P);
        assert_eq!(choose(&two, "b"), Some(replicas[1].0));
        let all = world(brokers(), 3);
        assert_eq!(choose(&all, "b"), choose(&all, "b"));
    }

    #[test]
    fn a_broker_that_is_dead_leaves_or_is_out_of_the_clients_reach_is_not_chosen() {
        let draining = Broker { draining: true, ..broker(2, Some("b")) };
        assert_eq!(choose(&world(vec![broker(1, Some("a")), draining], 2), "b"), None);
        let mut told = world(vec![broker(1, Some("a")), broker(2, Some("b"))], 2);
        let set = vec![(DRAIN.to_owned(), Some("true".to_owned()))];
        told.apply(&Record::ConfigSet { scope: Scope::Broker(Some(BrokerId(2))), set });
        assert_eq!(choose(&told, "b"), None);
        let elsewhere = Broker { endpoints: Vec::new(), ..broker(2, Some("b")) };
        assert_eq!(choose(&world(vec![broker(1, Some("a")), elsewhere], 2), "b"), None);
        let dead = Broker { alive: false, ..broker(2, Some("b")) };
        assert_eq!(choose(&world(vec![broker(1, Some("a")), dead], 2), "b"), None);
        let unknown = broker(2, None);
        assert_eq!(choose(&world(vec![broker(1, Some("a")), unknown], 2), "b"), None);
    }

    #[test]
    fn who_does_not_lead_sends_nobody_away_and_only_a_replica_asks_the_leader() {
        let image = world(vec![broker(1, Some("a")), broker(2, Some("b")), broker(3, Some("c"))], 2);
        let topic = image.topic(TOPIC).unwrap();
        let seat = Seat { me: BrokerId(2), listener: "PLAINTEXT" };
        assert_eq!(nearest(&image, topic, P, "c", seat), None);
        let replicas = image.replicas(topic, P);
        for node in [1, 2, 3].map(BrokerId) {
            let asks = to_ask(&image, topic, P, node);
            let expected = (node != BrokerId(1) && replicas.contains(&node)).then_some(BrokerId(1));
            assert_eq!(asks, expected, "{node}");
        }
        assert_eq!(to_ask(&image, topic, PartitionIndex(9), BrokerId(2)), None);
    }
}
