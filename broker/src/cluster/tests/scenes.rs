//! One scene a test.

use std::time::Duration;

use tidemark_proto::id::{BrokerEpoch, BrokerId, Generation, Position, Seq};
use tidemark_tiering::bucket::faults::{Latency, Weather};
use tidemark_tiering::bucket::{Bucket, Kind, MeterRow, Verb};
use tidemark_tiering::keys;
use tokio::time::{Instant, sleep};

use super::super::command::{Command, Reply};
use super::world::World;

const S: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn an_empty_bucket_is_sealed_and_ruled_at_once() {
    let mut world = World::new(1);
    let started = Instant::now();
    let (node, registration) = world.broker(1).await;
    assert!(started.elapsed() < Duration::from_millis(100), "{:?}", started.elapsed());
    assert!(node.cluster.is_controller());
    assert_eq!((registration.node, registration.epoch), (BrokerId(1), BrokerEpoch(1)));
    let Reply::Created(rows) = node.create("t", 3).await else { panic!() };
    assert_eq!(rows[0].1.as_ref().unwrap().partitions, 3);
    let image = node.cluster.image();
    image.check();
    assert!(image.topic_named("t").unwrap().partitions.iter().all(|p| p.leader == Some(BrokerId(1))));
    assert_eq!(image.position(), Position { generation: Generation(1), seq: Seq(3) });
}

#[tokio::test(start_paused = true)]
async fn a_restart_is_a_takeover_of_oneself_and_takes_no_wait() {
    let mut world = World::new(2);
    let (node, old) = world.broker(1).await;
    node.create("t", 3).await;
    node.seams.tasks.kill();
    let started = Instant::now();
    let (node, new) = world.broker(1).await;
    assert!(started.elapsed() < Duration::from_millis(150), "{:?}", started.elapsed());
    assert_eq!(new.node, old.node);
    assert!(new.epoch > old.epoch);
    let image = node.cluster.image();
    image.check();
    let topic = image.topic_named("t").unwrap();
    assert!(topic.partitions.iter().all(|p| p.leader_epoch.0 == 1 && p.leader == Some(new.node)));
    assert_eq!(image.lane(old.lane).unwrap().sealed, Some(Seq(0)));
}

#[tokio::test(start_paused = true)]
async fn a_dead_broker_is_taken_over_and_the_controllers_death_too() {
    let mut world = World::new(3);
    let (a, _) = world.broker(1).await;
    let (b, _) = world.broker(2).await;
    let (c, _) = world.broker(3).await;
    a.create("t", 6).await;
    sleep(S).await;
    for node in [&a, &b, &c] {
        let image = node.cluster.image();
        assert_eq!([1, 2, 3].map(|n| image.led(BrokerId(n))), [2, 2, 2]);
    }
    c.seams.tasks.kill();
    let took = a.until(5 * S, |image| image.led(BrokerId(3)) == 0).await;
    assert!(took < 2 * S, "{took:?}");
    a.cluster.image().check();
    a.seams.tasks.kill();
    let took = b.until(8 * S, |image| image.led(BrokerId(2)) == 6).await;
    assert!(took < 4 * S, "{took:?}");
    assert!(b.cluster.is_controller());
    b.cluster.image().check();
    assert_eq!(b.cluster.image().position().generation, Generation(2));
}

#[tokio::test(start_paused = true)]
async fn an_idle_cluster_sends_no_request() {
    let mut world = World::new(4);
    let (a, _) = world.broker(1).await;
    let (b, _) = world.broker(2).await;
    sleep(5 * S).await;
    let count = |n: &super::world::Node| n.bucket.meter().iter().map(|row| row.attempts).sum::<u64>();
    let before = (count(&a), count(&b));
    sleep(60 * S).await;
    assert_eq!((count(&a), count(&b)), before);
}

#[tokio::test(start_paused = true)]
async fn readers_make_sessions_fresh_and_silence_lets_them_lapse() {
    let mut world = World::new(5);
    let (a, _) = world.broker(1).await;
    let (b, registered) = world.broker(2).await;
    let session = b.cluster.session();
    sleep(5 * S).await;
    assert!(!session.fresh(Instant::now()), "nobody read");
    assert!(session.refresh().await);
    for _ in 0..100 {
        sleep(S / 10).await;
        assert!(session.fresh(Instant::now()));
    }
    assert!(b.cluster.prove_unsealed(registered.lane).await);
    world.net.cut(&a.address, &b.address);
    sleep(3 * S).await;
    assert!(!session.fresh(Instant::now()));
    assert!(!b.cluster.prove_unsealed(registered.lane).await);
}

#[tokio::test(start_paused = true)]
async fn a_frozen_broker_is_not_replaced_before_its_session_lapsed() {
    let mut world = World::new(6);
    let (a, _) = world.broker(1).await;
    let (b, _) = world.broker(2).await;
    a.create("t", 2).await;
    let session = b.cluster.session();
    assert!(session.refresh().await);
    b.seams.tasks.freeze();
    let mut lapsed = None;
    let frozen = Instant::now();
    while a.cluster.image().led(BrokerId(2)) > 0 {
        assert!(frozen.elapsed() < 10 * S);
        if lapsed.is_none() && !session.fresh(Instant::now()) {
            lapsed = Some(frozen.elapsed());
        }
        sleep(Duration::from_millis(1)).await;
    }
    assert!(lapsed.is_some(), "replaced while it could serve reads");
    b.seams.tasks.thaw();
    sleep(S).await;
    assert!(!session.refresh().await, "its epoch is over");
    assert!(b.cluster.image().broker(BrokerId(2)).is_some_and(|row| !row.alive));
    b.cluster.register().await.unwrap();
    assert!(session.refresh().await);
}

#[tokio::test(start_paused = true)]
async fn a_second_life_of_a_node_id_fences_the_first() {
    let mut world = World::new(7);
    let (a, _) = world.broker(1).await;
    let (b, old) = world.broker(2).await;
    a.create("t", 2).await;
    assert!(b.cluster.session().refresh().await);
    let started = Instant::now();
    let (c, new) = world.broker(2).await;
    assert!(started.elapsed() > 2 * S, "the older life lives: its session must lapse first");
    assert!(new.epoch > old.epoch);
    assert!(!b.cluster.session().refresh().await);
    assert!(!b.cluster.session().fresh(Instant::now()));
    assert!(c.cluster.session().refresh().await);
}

#[tokio::test(start_paused = true)]
async fn leaving_hands_over_at_once() {
    let mut world = World::new(8);
    let (a, _) = world.broker(1).await;
    let (b, lane) = world.broker(2).await;
    a.create("t", 4).await;
    let left = Instant::now();
    let early = b.cluster.leave(vec![]).await;
    assert!(early.is_err(), "R12: its own seal comes first");
    let (c, again) = (b, lane);
    let registration = c.cluster.register().await.unwrap();
    assert!(registration.epoch > again.epoch);
    let sealed = super::super::command::Sealed { lane: registration.lane, at: Seq(7) };
    c.cluster.leave(vec![sealed]).await.unwrap();
    assert_eq!(c.cluster.image().led(BrokerId(1)), 4);
    assert!(left.elapsed() < S);
}

#[tokio::test(start_paused = true)]
async fn two_clusters_on_one_prefix_are_refused_with_a_sentence() {
    let mut world = World::new(9);
    let (_a, _) = world.broker(1).await;
    let (mut start, _parts) = world.start(Some(2));
    start.cluster = Some(tidemark_proto::id::ClusterId(uuid::Uuid::from_u128(5)));
    let refused = super::super::Cluster::start(start).await.unwrap_err();
    assert!(refused.0.contains("belongs to cluster"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn data_without_a_metadata_log_is_refused_with_a_sentence() {
    let mut world = World::new(10);
    world.store.overwrite("wal/0000-00000000000000000001-0-00000000/00000000000000000000", "x".into());
    let refused = world.try_join(None).await.err().unwrap();
    assert!(refused.0.contains("no metadata log"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn node_ids_are_given_out_and_commands_are_forwarded() {
    let mut world = World::new(11);
    let a = world.join(None).await;
    assert_eq!(a.cluster.register().await.unwrap().node, BrokerId(1));
    let b = world.join(None).await;
    let registered = b.cluster.register().await.unwrap();
    assert_eq!(registered.node, BrokerId(2));
    let Reply::Created(_) = b.create("t", 2).await else { panic!() };
    assert!(b.cluster.image().topic_named("t").is_some(), "applied where it was asked for");
    let take = Command::AllocateProducerIds { by: registered.epoch };
    let Reply::Producers { first, .. } = b.cluster.submit(take.clone()).await.unwrap() else { panic!() };
    let Reply::Producers { first: next, .. } = b.cluster.submit(take).await.unwrap() else { panic!() };
    assert_eq!(next.0, first.0 + 1_000);
}

/// Requests on the metadata log so far, reads and listings.
fn reads(bucket: &Bucket) -> u64 {
    let of_log = |row: &&MeterRow| matches!(row.kind, Kind::Meta | Kind::Snapshot);
    let asks = |row: &&MeterRow| matches!(row.verb, Verb::Get | Verb::List);
    bucket.meter().iter().filter(of_log).filter(asks).map(|row| row.attempts).sum()
}

#[tokio::test(start_paused = true)]
async fn a_start_reads_as_little_after_two_hundred_lives_as_after_forty() {
    let mut world = World::new(21);
    world.timings.delete_grace = S;
    let mut most = 0;
    for life in 0..200 {
        let (a, _) = world.broker(1).await;
        if life > 40 {
            most = most.max(reads(&a.bucket));
        }
        sleep(2 * S).await;
        a.seams.tasks.kill();
    }
    assert!(most <= 60, "{most} reads to start");
    let objects = world.objects();
    let log = objects.iter().filter(|key| key.starts_with("meta/")).count();
    assert!((200..260).contains(&log), "{log} objects of the log, of which each life sealed one");
}

#[tokio::test(start_paused = true)]
async fn a_takeovers_course_leaves_the_newer_epochs_lane_alone() {
    let mut world = World::new(22);
    // Uneven answers: the new epoch is often decided before the controller's first object is durable.
    let latency = Latency { p50: S / 100, p99: S / 5, ..Latency::default() };
    world.faulty.set_weather(Weather { latency, ..Weather::default() });
    for life in 0..120 {
        let (a, registered) = world.broker(1).await;
        sleep(5 * S).await;
        let first = keys::parcel(&registered.lane, Seq(0));
        assert!(!world.objects().contains(&first), "life {life}: its own controller sealed its lane");
        a.seams.tasks.kill();
    }
}

#[tokio::test(start_paused = true)]
async fn snapshots_bound_the_log_and_restart_readers() {
    let mut world = World::new(12);
    world.timings.snapshot_min = 2_000;
    world.timings.delete_grace = S;
    let (a, _) = world.broker(1).await;
    for n in 0..60 {
        a.create(&format!("topic{n}"), 1).await;
    }
    sleep(5 * S).await;
    let objects = world.objects();
    let snapshots = objects.iter().filter(|key| key.starts_with("meta/snapshot/")).count();
    assert_eq!(snapshots, 1, "{objects:#?}");
    assert!(objects.len() < 40, "{objects:#?}");
    assert!(objects.contains(&"meta/00000000000000000000/00000000000000000000".to_owned()), "E11");
    a.seams.tasks.kill();
    let (b, _) = world.broker(1).await;
    assert_eq!(b.cluster.image().topics().count(), 60);
    b.cluster.image().check();
}
