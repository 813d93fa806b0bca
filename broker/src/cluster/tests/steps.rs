//! A controller killed at every moment of a creation, a deletion and a move: the history stays one, and nothing
//! half-made stays.
//!
//! The store and the network take whole milliseconds, so that kills at each of them, or at every other, fall between all
//! steps: asked, sent, stored, answered, told. What got no answer is asked again, as a client would.

use std::time::Duration;

use tidemark_proto::id::{BrokerId, LeaderEpoch, PartitionIndex, Seq, TopicId, TopicPartition};
use tidemark_tiering::bucket::faults::{Latency, Weather};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::super::Image;
use super::super::command::{Command, NewTopic, TopicRef};
use super::super::handle::Registration;
use super::world::{Node, World};

const S: Duration = Duration::from_secs(1);
const TOPIC: TopicId = TopicId(Uuid::from_u128(7));
/// Moments of a death, and their distance in ms: they go on longer than any course takes while nobody dies.
const MOMENTS: u64 = 60;

/// What goes on while the controller dies.
#[derive(Clone, Copy, Debug)]
enum Course {
    Create,
    Delete,
    Move,
}

struct Cluster {
    world: World,
    controller: Node,
    others: [(Node, Registration); 2],
}

/// Three brokers; the first rules. A store that takes 8 ms for a request.
async fn cluster(seed: u64) -> Cluster {
    let mut world = World::new(seed);
    let slow = Duration::from_millis(8);
    let latency = Latency { p50: slow, p99: slow, ..Latency::default() };
    world.faulty.set_weather(Weather { latency, ..Weather::default() });
    let (controller, _) = world.broker(1).await;
    let others = [world.broker(2).await, world.broker(3).await];
    assert!(controller.cluster.is_controller());
    Cluster { world, controller, others }
}

/// Asks until there is an answer that a client would take for one.
async fn told(node: &Node, command: &Command) {
    for _ in 0..100 {
        if let Ok(Ok(_)) = timeout(10 * S, node.cluster.submit(command.clone())).await {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("never answered: {command:?}");
}

fn creation() -> Command {
    let topic =
        NewTopic { name: "t".into(), id: TOPIC, partitions: 6, replication: 1, ..NewTopic::default() };
    Command::CreateTopics { topics: vec![topic], validate_only: false }
}

fn partition(image: &Image, index: i32) -> Option<(TopicPartition, super::super::image::Partition)> {
    let tp = TopicPartition { topic: TOPIC, partition: PartitionIndex(index) };
    Some((tp, image.partition(tp)?.clone()))
}

/// Both halves of a move from broker 2 to broker 3, as their owners would go about it, until it is done.
async fn moved(leader: &(Node, Registration), successor: &(Node, Registration)) {
    let to = successor.1.node;
    let led = |image: &Image| {
        (0..6).filter_map(|i| partition(image, i)).find(|(_, p)| p.leader == Some(leader.1.node))
    };
    let Some((tp, _)) = led(&leader.0.cluster.image()) else { panic!("broker 2 leads something") };
    for _ in 0..2_000 {
        let image = successor.0.cluster.image();
        let row = image.partition(tp).expect("nobody deletes it");
        let by = |of: &(Node, Registration)| of.1.epoch;
        match row.successor {
            _ if row.leader == Some(to) => return,
            None => told(&leader.0, &Command::PlanMoves { moves: vec![(tp, to)] }).await,
            Some(s) if !s.ready => {
                let partitions = vec![(tp, row.leader_epoch)];
                told(&successor.0, &Command::ReadyToLead { by: by(successor), from: Seq(0), partitions })
                    .await;
            }
            Some(s) => {
                let partitions = vec![(tp, row.leader_epoch, s.planned)];
                told(&leader.0, &Command::Release { by: by(leader), bound: Seq(5), partitions }).await;
            }
        }
        sleep(Duration::from_millis(3)).await;
    }
    panic!("never moved");
}

async fn course(which: Course, others: &[(Node, Registration); 2]) {
    match which {
        Course::Create => told(&others[0].0, &creation()).await,
        Course::Delete => {
            told(&others[0].0, &Command::DeleteTopics { topics: vec![TopicRef::Id(TOPIC)] }).await;
        }
        Course::Move => moved(&others[0], &others[1]).await,
    }
}

/// All that holds however it went.
async fn judge(which: Course, cluster: &mut Cluster, at: u64) {
    let (reader, _) = cluster.world.broker(4).await;
    let [one, two] = &cluster.others;
    let newest = reader.cluster.image().position();
    for (node, _) in [one, two] {
        node.until(20 * S, |image| image.position() >= newest).await;
    }
    sleep(5 * S).await;
    // Of members that live on and one that read the bucket, at one position.
    let images = [&one.0, &two.0, &reader].map(|node| node.cluster.image());
    images.iter().for_each(|image| image.check());
    assert!(images.windows(2).all(|pair| pair[0] == pair[1]), "{which:?} at {at} ms: two histories");
    let image = &images[2];
    assert_eq!(image.led(BrokerId(1)), 0, "{which:?} at {at} ms: the dead lead nothing");
    let rows: Vec<_> = (0..7).filter_map(|index| partition(image, index)).collect();
    match which {
        Course::Delete => {
            assert!(rows.is_empty() && image.topic_named("t").is_none(), "{which:?} at {at} ms");
        }
        Course::Create | Course::Move => {
            assert_eq!(rows.len(), 6, "{which:?} at {at} ms: whole or not at all");
            assert!(rows.iter().all(|(_, p)| p.leader.is_some()), "{which:?} at {at} ms: all are led");
            assert!(
                rows.iter().all(|(_, p)| p.successor.is_none()),
                "{which:?} at {at} ms: none is on its way"
            );
        }
    }
    if matches!(which, Course::Move) {
        let released = |p: &super::super::image::Partition| {
            let bounds = p.chain.iter().filter(|entry| entry.to == Some(Seq(5))).count();
            (bounds, p.leader_epoch)
        };
        let moved: Vec<_> = rows.iter().map(|(_, p)| released(p)).filter(|(n, _)| *n > 0).collect();
        assert_eq!(moved, [(1, LeaderEpoch(1))], "{which:?} at {at} ms: moved once, at its bound");
    }
}

/// `true` if the controller lived to answer.
async fn killed_at(which: Course, at: u64) -> bool {
    let mut cluster = cluster(50).await;
    if !matches!(which, Course::Create) {
        told(&cluster.controller, &creation()).await;
        for (node, _) in &cluster.others {
            node.until(S, |image| image.topic_named("t").is_some()).await;
        }
    }
    let (tasks, moment) = (cluster.controller.seams.tasks.clone(), Duration::from_millis(at));
    let done = {
        let mut going = std::pin::pin!(course(which, &cluster.others));
        let early = timeout(moment, going.as_mut()).await.is_ok();
        tasks.kill();
        if !early {
            going.await;
        }
        early
    };
    judge(which, &mut cluster, at).await;
    done
}

async fn killed_at_every_moment(which: Course, distance: u64) {
    let mut answered = 0;
    for at in 0..MOMENTS {
        answered += u64::from(killed_at(which, at * distance).await);
    }
    assert!((1..MOMENTS).contains(&answered), "{answered} of {MOMENTS}: the kills span the course");
}

#[tokio::test(start_paused = true)]
async fn a_controller_killed_at_any_step_of_a_creation_leaves_a_whole_topic() {
    killed_at_every_moment(Course::Create, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_controller_killed_at_any_step_of_a_deletion_leaves_nothing_of_it() {
    killed_at_every_moment(Course::Delete, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_controller_killed_at_any_step_of_a_move_leaves_one_leader() {
    killed_at_every_moment(Course::Move, 2).await;
}
