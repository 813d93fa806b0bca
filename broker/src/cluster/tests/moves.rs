//! Moves of single partitions, decided record by record (R17).

use tidemark_proto::id::{
    BrokerEpoch, BrokerId, LeaderEpoch, Life, Millis, PartitionIndex, Seq, TopicId, TopicPartition,
};
use tidemark_proto::kafka::error::ErrorCode;
use uuid::Uuid;

use super::super::command::{Command, NewTopic, Reply, Sealed};
use super::super::image::{Image, Partition};
use super::super::record::Scope;
use super::super::state::Rules;

const TP: TopicPartition =
    TopicPartition { topic: TopicId(Uuid::from_u128(7)), partition: PartitionIndex(0) };

fn told(image: &mut Image, command: Command) -> Reply {
    let outcome = image.decide(&Rules::default(), Millis(0), &command).expect("decided");
    outcome.records.iter().for_each(|record| image.apply(record));
    image.check();
    outcome.reply
}

fn join(image: &mut Image, node: i32) -> BrokerEpoch {
    let life = Life(image.version().into());
    let (endpoints, rack, peer, sealed) = (vec![], None, String::new(), vec![]);
    let node = Some(BrokerId(node));
    match told(image, Command::RegisterBroker { node, life, endpoints, rack, peer, sealed }) {
        Reply::Registered { epoch, .. } => epoch,
        other => panic!("{other:?}"),
    }
}

/// A topic with one partition, led by broker 1; brokers 2 and 3 lead nothing.
fn cluster() -> (Image, [BrokerEpoch; 3]) {
    let mut image = Image::default();
    let first = join(&mut image, 1);
    let topic =
        NewTopic { name: "t".into(), id: TP.topic, partitions: 1, replication: 1, ..NewTopic::default() };
    told(&mut image, Command::CreateTopics { topics: vec![topic], validate_only: false });
    let rest = [join(&mut image, 2), join(&mut image, 3)];
    (image, [first, rest[0], rest[1]])
}

fn row(image: &Image) -> &Partition {
    image.partition(TP).expect("there")
}

fn plan(image: &mut Image, node: i32) -> u64 {
    told(image, Command::PlanMoves { moves: vec![(TP, BrokerId(node))] });
    row(image).successor.map_or(0, |s| s.planned)
}

fn release(image: &mut Image, by: BrokerEpoch, bound: u64, plan: u64) -> bool {
    let partitions = vec![(TP, row(image).leader_epoch, plan)];
    match told(image, Command::Release { by, bound: Seq(bound), partitions }) {
        Reply::Released(rows) => rows[0],
        other => panic!("{other:?}"),
    }
}

fn take_over(image: &mut Image, node: i32, epoch: BrokerEpoch, at: u64) {
    let sealed = image.open_lanes(BrokerId(node)).map(|(lane, _)| Sealed { lane, at: Seq(at) }).collect();
    told(image, Command::TakeOver { node: BrokerId(node), epoch, sealed });
}

#[test]
fn a_planned_partition_moves_at_the_bound_that_its_leader_names() {
    let (mut image, [one, two, _]) = cluster();
    let planned = plan(&mut image, 2);
    let partitions = vec![(TP, LeaderEpoch(0))];
    told(&mut image, Command::ReadyToLead { by: two, from: Seq(3), partitions });
    assert!(row(&image).successor.is_some_and(|s| s.ready));
    assert_eq!(row(&image).leader, Some(BrokerId(1)), "until it lets go");
    assert!(release(&mut image, one, 5, planned));
    let partition = row(&image);
    assert_eq!((partition.leader, partition.leader_epoch), (Some(BrokerId(2)), LeaderEpoch(1)));
    let bounds = partition.chain.iter().map(|e| (e.from, e.to)).collect::<Vec<_>>();
    assert_eq!(bounds, [(Seq(0), Some(Seq(5))), (Seq(3), None)], "its lane held nothing before");
    assert_eq!((partition.successor, image.led(BrokerId(1))), (None, 0));
}

#[test]
fn a_release_that_comes_late_does_not_move_by_a_newer_plan() {
    let (mut image, [one, ..]) = cluster();
    let first = plan(&mut image, 2);
    plan(&mut image, 1); // called off: the leader goes on, beyond the bound it had named
    assert!(!release(&mut image, one, 5, first));
    let second = plan(&mut image, 2);
    assert!(!release(&mut image, one, 5, first), "a copy of the first one, late in the network");
    assert_eq!(row(&image).leader, Some(BrokerId(1)));
    assert!(release(&mut image, one, 9, second));
    assert!(release(&mut image, one, 9, second), "sent again: it is another's");
}

#[test]
fn a_successor_that_dies_leaves_the_partition_where_it_is() {
    let (mut image, [one, two, _]) = cluster();
    let planned = plan(&mut image, 2);
    take_over(&mut image, 2, two, 0);
    assert_eq!(row(&image).successor, None);
    assert!(!release(&mut image, one, 5, planned));
    join(&mut image, 2);
    assert_eq!(row(&image).successor, None, "nor does it come back with it");
}

#[test]
fn a_move_that_is_called_off_stays_and_a_late_release_moves_nothing() {
    let (mut image, [one, two, _]) = cluster();
    let planned = plan(&mut image, 2);
    told(&mut image, Command::CallOff { moves: vec![(TP, planned + 1)] });
    assert!(row(&image).successor.is_some(), "it was another plan that took too long");
    let partitions = vec![(TP, LeaderEpoch(0))];
    told(&mut image, Command::ReadyToLead { by: two, from: Seq(3), partitions });
    told(&mut image, Command::CallOff { moves: vec![(TP, planned)] });
    assert_eq!((row(&image).successor, row(&image).leader), (None, Some(BrokerId(1))));
    assert!(!release(&mut image, one, 5, planned));
    assert_eq!(row(&image).leader, Some(BrokerId(1)));
}

#[test]
fn a_cancelled_reassignment_gives_back_what_was_assigned_before() {
    let (mut image, [one, ..]) = cluster();
    let assign = |image: &mut Image, nodes: &[i32]| {
        let nodes = nodes.iter().map(|node| BrokerId(*node)).collect();
        told(image, Command::AssignReplicas { assigned: vec![(TP, nodes)] });
    };
    let cancel = |image: &mut Image| told(image, Command::CancelReassignments { partitions: vec![TP] });
    let assigned = |image: &Image| row(image).assigned.iter().map(|node| node.0).collect::<Vec<_>>();
    assign(&mut image, &[1, 2]);
    assert_eq!(row(&image).successor, None, "it leads already");
    assign(&mut image, &[3, 2]);
    assign(&mut image, &[2, 3]);
    assert_eq!(assigned(&image), [2, 3]);
    cancel(&mut image);
    assert_eq!((assigned(&image), row(&image).successor), (vec![1, 2], None), "as before the first of them");
    cancel(&mut image);
    assert_eq!(assigned(&image), [1, 2], "nothing is under way");
    plan(&mut image, 3);
    cancel(&mut image);
    assert_eq!((assigned(&image), row(&image).successor), (vec![1, 2], None), "a move that assigned nothing");
    assign(&mut image, &[2]);
    let planned = row(&image).successor.expect("a move").planned;
    assert!(release(&mut image, one, 3, planned));
    cancel(&mut image);
    assert_eq!(assigned(&image), [2], "it has arrived");
}

#[test]
fn a_leader_that_dies_leaves_it_to_the_successor_that_was_planned() {
    let (mut image, [one, ..]) = cluster();
    plan(&mut image, 3);
    take_over(&mut image, 1, one, 4);
    assert_eq!((row(&image).leader, row(&image).successor), (Some(BrokerId(3)), None));
}

#[test]
fn a_partition_that_nobody_leads_goes_at_once() {
    let (mut image, [one, two, three]) = cluster();
    take_over(&mut image, 2, two, 0);
    take_over(&mut image, 3, three, 0);
    take_over(&mut image, 1, one, 4);
    assert_eq!(row(&image).leader, None);
    join(&mut image, 2);
    assert_eq!(row(&image).leader, Some(BrokerId(2)), "who comes takes it");
    let (mut image, [one, ..]) = cluster();
    let moves = vec![(TP, BrokerId(9))];
    told(&mut image, Command::PlanMoves { moves });
    assert_eq!(row(&image).successor, None, "there is no such broker");
    assert!(!release(&mut image, one, 0, 0));
}

#[test]
fn a_broker_that_drains_gives_everything_and_gets_nothing() {
    let (mut image, [one, ..]) = cluster();
    told(&mut image, Command::Drain { by: one });
    let successor = row(&image).successor.expect("planned");
    assert_ne!(successor.node, BrokerId(1));
    let topic = |n: u128| NewTopic {
        name: format!("t{n}"),
        id: TopicId(Uuid::from_u128(n)),
        partitions: 4,
        replication: 1,
        ..NewTopic::default()
    };
    told(&mut image, Command::CreateTopics { topics: vec![topic(8)], validate_only: false });
    assert_eq!(image.led(BrokerId(1)), 1);
    assert!(release(&mut image, one, 3, successor.planned));
    assert_eq!(image.led(BrokerId(1)), 0);
    join_again(&mut image);
}

fn drain_told(image: &mut Image, node: i32, value: Option<&str>) {
    let set = vec![("tidemark.drain".to_owned(), value.map(str::to_owned))];
    let scope = Scope::Broker(Some(BrokerId(node)));
    let reply = told(image, Command::SetConfig { scope, set, validate_only: false });
    assert_eq!(reply, Reply::Row(Ok(())));
}

#[test]
fn a_broker_told_to_drain_gives_everything_and_gets_nothing_until_it_is_told_otherwise() {
    let (mut image, [one, two, three]) = cluster();
    drain_told(&mut image, 1, Some("true"));
    let successor = row(&image).successor.expect("planned");
    assert_eq!(successor.node, BrokerId(2));
    assert!(release(&mut image, one, 3, successor.planned));
    let topic = NewTopic {
        name: "u".into(),
        id: TopicId(Uuid::from_u128(8)),
        partitions: 4,
        replication: 1,
        ..NewTopic::default()
    };
    told(&mut image, Command::CreateTopics { topics: vec![topic], validate_only: false });
    assert_eq!(plan(&mut image, 1), 0, "nobody moves anything there");
    told(&mut image, Command::AssignReplicas { assigned: vec![(TP, vec![BrokerId(1), BrokerId(3)])] });
    assert_eq!(row(&image).successor.map(|s| s.node), Some(BrokerId(3)), "the first that may lead");
    take_over(&mut image, 2, two, 0);
    assert_eq!(image.led(BrokerId(1)), 0, "nor does it inherit");
    take_over(&mut image, 3, three, 0);
    assert_eq!(image.led(BrokerId(1)), 5, "but when it is the last one");
    join(&mut image, 2);
    take_over(&mut image, 1, one, 4);
    join(&mut image, 1);
    assert!(image.drains(BrokerId(1)), "its next life drains too");
    drain_told(&mut image, 1, None);
    assert!(plan(&mut image, 1) > 0);
}

#[test]
fn a_broker_told_to_drain_that_starts_anew_is_not_its_own_heir() {
    let (mut image, _) = cluster();
    drain_told(&mut image, 1, Some("TRUE"));
    let sealed: Vec<_> = image.open_lanes(BrokerId(1)).map(|(lane, _)| Sealed { lane, at: Seq(4) }).collect();
    told(
        &mut image,
        Command::RegisterBroker {
            node: Some(BrokerId(1)),
            life: Life(77),
            endpoints: vec![],
            rack: None,
            peer: String::new(),
            sealed,
        },
    );
    assert_eq!(row(&image).leader, Some(BrokerId(2)));
}

#[test]
fn what_is_on_its_way_to_a_broker_that_drains_stays_and_all_brokers_cannot_be_drained_by_one_word() {
    let (mut image, _) = cluster();
    plan(&mut image, 2);
    drain_told(&mut image, 2, Some("true"));
    assert_eq!(row(&image).successor, None);
    let set = vec![("tidemark.drain".to_owned(), Some("true".to_owned()))];
    let all = Command::SetConfig { scope: Scope::Broker(None), set, validate_only: false };
    assert!(matches!(told(&mut image, all), Reply::Row(Err(_))));
}

/// The next life of broker 1 is a broker like any other.
fn join_again(image: &mut Image) {
    let epoch = image.broker(BrokerId(1)).expect("there").epoch;
    take_over(image, 1, epoch, 3);
    join(image, 1);
    assert!(!image.broker(BrokerId(1)).expect("there").draining);
}

#[test]
fn assigned_replicas_are_told_and_the_first_that_lives_leads() {
    let (mut image, [one, two, _]) = cluster();
    let assigned = vec![(TP, vec![BrokerId(2), BrokerId(3)])];
    told(&mut image, Command::AssignReplicas { assigned });
    let planned = row(&image).successor.expect("a move");
    assert_eq!(planned.node, BrokerId(2));
    assert!(release(&mut image, one, 3, planned.planned));
    let topic = image.topic(TP.topic).expect("there").clone();
    assert_eq!(image.replicas(&topic, TP.partition), [BrokerId(2), BrokerId(3)]);
    take_over(&mut image, 2, two, 0);
    assert_eq!(row(&image).leader, Some(BrokerId(3)), "the other replica, though broker 1 leads nothing");
    let replicas = image.replicas(&topic, TP.partition);
    assert_eq!(image.in_sync(&replicas), [BrokerId(3)]);
}

#[test]
fn partitions_are_added_where_somebody_said() {
    let (mut image, _) = cluster();
    let grow = |count, of: &[&[i32]]| {
        let nodes = |row: &&[i32]| row.iter().copied().map(BrokerId).collect();
        let assignments = of.iter().map(nodes).collect();
        Command::CreatePartitions { topic: "t".into(), count, assignments, validate_only: false }
    };
    let refused = |image: &mut Image, command| match told(image, command) {
        Reply::Row(row) => row.err().map(|refusal| refusal.code),
        other => panic!("{other:?}"),
    };
    let bad = Some(ErrorCode::InvalidReplicaAssignment);
    assert_eq!(refused(&mut image, grow(3, &[&[3]])), bad, "two are added, one is assigned");
    assert_eq!(refused(&mut image, grow(2, &[&[3, 2]])), bad, "the topic has one replica");
    assert_eq!(refused(&mut image, grow(2, &[&[9]])), bad, "there is no broker 9");
    assert_eq!(refused(&mut image, grow(3, &[&[3], &[2]])), None);
    let topic = image.topic(TP.topic).expect("there").clone();
    let led = |index: i32| image.replicas(&topic, PartitionIndex(index));
    assert_eq!((led(1), led(2)), (vec![BrokerId(3)], vec![BrokerId(2)]));
    assert_eq!(topic.partitions[1].leader, Some(BrokerId(3)));
}

#[test]
fn replicas_are_spread_over_racks_with_the_leader_first() {
    let mut image = Image::default();
    let racks = ["a", "a", "a", "b", "b", "c"];
    for (node, rack) in (1..).zip(racks) {
        let (life, endpoints, peer, sealed) = (Life(image.version().into()), vec![], String::new(), vec![]);
        let (node, rack) = (Some(BrokerId(node)), Some(rack.to_owned()));
        told(&mut image, Command::RegisterBroker { node, life, endpoints, rack, peer, sealed });
    }
    let of_rack = |node: &BrokerId| racks[usize::try_from(node.0 - 1).expect("a node")];
    for (n, replication, most_of_one) in [(1, 3, 1), (2, 5, 2), (3, 6, 3)] {
        let id = TopicId(Uuid::from_u128(n));
        let topic =
            NewTopic { name: format!("t{n}"), id, partitions: 12, replication, ..NewTopic::default() };
        told(&mut image, Command::CreateTopics { topics: vec![topic], validate_only: false });
        let topic = image.topic(id).expect("there").clone();
        let mut followers = std::collections::BTreeSet::new();
        for (tp, p) in topic.partitions() {
            let replicas = image.replicas(&topic, tp.partition);
            assert_eq!(Some(replicas[0]), p.leader, "{tp}");
            let different: std::collections::BTreeSet<_> = replicas.iter().collect();
            assert_eq!(different.len(), usize::try_from(replication).expect("small"), "{tp}: {replicas:?}");
            for rack in ["a", "b", "c"] {
                let count = replicas.iter().filter(|node| of_rack(node) == rack).count();
                assert!((1..=most_of_one).contains(&count), "{tp}: {count} of {rack} in {replicas:?}");
            }
            followers.insert(replicas[1]);
        }
        assert!(followers.len() > 2, "followers differ: {followers:?}");
    }
}
