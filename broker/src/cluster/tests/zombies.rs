//! The counterexamples that shaped the rules (reliability.md §B.4), played on whole members.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidemark_proto::id::{Generation, Life, Nonce, Position, Seq};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_tiering::bucket::faults::{Fault, Latency, Weather};
use tidemark_tiering::bucket::{Kind, Patience, Verb};
use tidemark_tiering::format::seal::Sealer;
use tidemark_tiering::keys;
use tokio::time::sleep;

use super::super::command::{Command, TopicRef};
use super::super::handle::Cluster;
use super::super::log;
use super::world::World;

const S: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn two_candidates_for_an_empty_bucket_get_one_cluster() {
    for seed in 20..40 {
        let mut world = World::new(seed);
        let (p50, p99) = (Duration::from_millis(30), Duration::from_millis(300));
        let latency = Latency { p50, p99, per_mib: Duration::ZERO };
        world.faulty.set_weather(Weather { latency, lost_answers: 0.3, ..Weather::default() });
        let ((a, _a), (b, _b)) = (world.start(Some(1)), world.start(Some(2)));
        let (a, b) = tokio::join!(Cluster::start(a), Cluster::start(b));
        let (a, b) = (a.unwrap(), b.unwrap());
        tokio::try_join!(a.register(), b.register()).unwrap();
        assert_eq!(a.image().cluster(), b.image().cluster(), "seed {seed}");
        assert!(a.is_controller() != b.is_controller(), "seed {seed}");
    }
}

/// m_sketch: A's delayed seal lands on a collected key; B, whose position is as old, reaches it contiguously.
#[tokio::test(start_paused = true)]
async fn a_seal_that_lands_on_a_collected_key_seals_nothing() {
    let mut world = World::new(41);
    world.timings.snapshot_min = 2_000;
    world.timings.delete_grace = S;
    let (a, _) = world.broker(1).await;
    let b = world.join(Some(2)).await;
    sleep(S).await;
    let at = b.cluster.image().position();
    b.seams.tasks.freeze();
    for n in 0..60 {
        a.create(&format!("topic{n}"), 1).await;
    }
    sleep(5 * S).await;
    let key = keys::meta(at);
    assert!(!world.objects().contains(&key), "collected");
    let by = Sealer { life: Life(9), nonce: Nonce(9), next: at.generation.0 + 1, address: "nobody".into() };
    let seal = log::seal(a.cluster.image().cluster(), at, &by);
    world.store.overwrite(&key, Bytes::from(seal.concat()));
    world.net.cut(&a.address, &b.address);
    b.seams.tasks.thaw();
    b.until(20 * S, |image| image.topics().count() == 60).await;
    world.net.heal();
    sleep(20 * S).await;
    let image = b.cluster.image();
    assert_ne!(image.controller().map(|c| c.life), Some(Life(9)), "nobody ever ruled by that seal");
    a.create("after", 1).await;
    sleep(S).await;
    for node in [&a, &b] {
        assert_eq!(node.cluster.image().topics().count(), 61);
        assert_eq!(node.cluster.alarm(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_zombie_owners_late_record_is_in_nobodys_history() {
    let mut world = World::new(42);
    let (a, _) = world.broker(1).await;
    let (b, _) = world.broker(2).await;
    a.create("keep", 1).await;
    sleep(S).await;
    // The next record lands long after its sender was deposed.
    world.faulty.fail_next(Verb::Put, "meta/00000000000000000001/", Fault::Late(60 * S));
    let a = Arc::new(a);
    let asked = a.clone();
    let lost = a.seams.tasks.spawn(async move { asked.cluster.submit(delete_it()).await });
    sleep(Duration::from_millis(20)).await;
    assert_eq!(world.faulty.scripted(), 0);
    a.seams.tasks.freeze();
    b.until(30 * S, |image| image.position().generation == Generation(2)).await;
    a.seams.tasks.thaw();
    sleep(90 * S).await;
    assert_eq!(lost.await.unwrap(), Some(Err(ErrorCode::RequestTimedOut)), "nobody knows, nobody repeats it");
    let (one, two) = (a.cluster.image(), b.cluster.image());
    assert_eq!((one.position(), one.link()), (two.position(), two.link()));
    assert!(one.topic_named("keep").is_some());
}

fn delete_it() -> Command {
    Command::DeleteTopics { topics: vec![TopicRef::Name("keep".into())] }
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_wrote_nothing_is_sealed_at_its_first_key() {
    let mut world = World::new(43);
    let (a, _) = world.broker(1).await;
    a.seams.tasks.kill();
    // The next owner seals, and dies before its first record lands.
    world.faulty.fail_next(Verb::Put, "meta/00000000000000000002/00000000000000000000", Fault::Hang);
    let (start, b) = world.start(Some(2));
    let started = Cluster::start(start).await.unwrap();
    sleep(S).await;
    assert_eq!(started.image().position().generation, Generation(2));
    b.seams.tasks.kill();
    let (c, _) = world.broker(3).await;
    assert_eq!(c.cluster.image().position().generation, Generation(3));
    c.cluster.image().check();
}

#[tokio::test(start_paused = true)]
async fn a_lost_object_is_an_alarm_and_never_sealed() {
    let mut world = World::new(44);
    let (a, _) = world.broker(1).await;
    for n in 0..6 {
        a.create(&format!("topic{n}"), 1).await;
    }
    a.seams.tasks.kill();
    let lost = Position { generation: Generation(1), seq: Seq(3) };
    let gone = a_bucket(&world).delete(Kind::Meta, vec![keys::meta(lost)], Patience::Forever).await;
    gone.unwrap();
    let refused = world.try_join(Some(1)).await.err().unwrap();
    assert!(refused.0.contains("it was lost"), "{refused}");
    assert!(!world.objects().contains(&keys::meta(lost)), "E13: not sealed");
}

#[tokio::test(start_paused = true)]
async fn a_damaged_object_is_an_alarm() {
    let mut world = World::new(45);
    let (a, _) = world.broker(1).await;
    a.seams.tasks.kill();
    let key = keys::meta(Position { generation: Generation(1), seq: Seq(1) });
    let (_, bytes) = world.store.dump().into_iter().find(|(k, _)| *k == key).unwrap();
    let mut bad = bytes.to_vec();
    bad[100] ^= 1;
    world.store.overwrite(&key, bad.into());
    let refused = world.try_join(Some(1)).await.err().unwrap();
    assert!(refused.0.contains(&key), "{refused}");
}

fn a_bucket(world: &World) -> tidemark_tiering::bucket::Bucket {
    let store = Arc::new(world.store.clone());
    tidemark_tiering::bucket::Bucket::new(store, Default::default(), &world.seams)
}
