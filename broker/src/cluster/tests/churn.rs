//! Three members under random faults of store, network and process, by seed: one history for all.
//!
//! M1, M3, M5: whoever has an image at a position has the same one. M2: what was answered is there at the
//! end. M7: with the faults gone, a command commits. R24: no session is fresh under an epoch that a committed
//! takeover has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidemark_proto::id::{BrokerId, Position, TopicId};
use tidemark_tiering::bucket::faults::Weather;
use tidemark_tiering::seam::Entropy;
use tokio::time::{Instant, sleep, timeout};

use super::super::command::{Command, NewTopic, Reply};
use super::super::handle::{Cluster, Registration};
use super::super::image::Link;
use super::world::{Node, World};

/// What was answered, by anybody, ever.
#[derive(Default)]
struct History {
    links: BTreeMap<Position, Link>,
    topics: BTreeSet<TopicId>,
    producers: BTreeSet<i64>,
    epochs: BTreeSet<u64>,
    refused: u32,
}

struct Slot {
    id: i32,
    node: Option<Node>,
    registered: Arc<Mutex<Option<Registration>>>,
    frozen: bool,
}

type Shared = Arc<Mutex<History>>;

/// Watches every image a member publishes.
fn watch(node: &Node, history: &Shared) {
    let mut images = node.cluster.watch();
    let history = history.clone();
    node.seams.tasks.spawn(async move {
        while images.changed().await.is_ok() {
            let image = images.borrow_and_update().clone();
            image.check();
            let (at, link) = (image.position(), image.link());
            let known = *history.lock().links.entry(at).or_insert(link);
            assert_eq!(known, link, "M1: two histories at {at}");
        }
    });
}

/// Registers, again after every fence, and gives commands now and then.
async fn work(cluster: Cluster, entropy: Entropy, slot: Arc<Mutex<Option<Registration>>>, history: Shared) {
    loop {
        let Ok(registration) = cluster.register().await else { continue };
        assert!(history.lock().epochs.insert(registration.epoch.0), "R1: an epoch given twice");
        *slot.lock() = Some(registration);
        let lives = |c: &Cluster| {
            c.image().broker(registration.node).is_some_and(|b| b.alive && b.epoch == registration.epoch)
        };
        while lives(&cluster) {
            sleep(Duration::from_millis(50 + entropy.below(900))).await;
            let id = TopicId(entropy.uuid());
            let name = format!("t-{}", id.0.simple());
            let topic = NewTopic { name, id, partitions: 2, replication: 1, ..NewTopic::default() };
            let command = match entropy.below(3) {
                0 => Command::AllocateProducerIds { by: registration.epoch },
                _ => Command::CreateTopics { topics: vec![topic], validate_only: false },
            };
            match cluster.submit(command).await {
                Ok(Reply::Created(rows)) if rows[0].1.is_ok() => drop(history.lock().topics.insert(id)),
                Ok(Reply::Producers { first, .. }) => {
                    assert!(history.lock().producers.insert(first.0), "producer ids given twice");
                }
                _ => history.lock().refused += 1,
            }
        }
    }
}

async fn join(world: &mut World, slot: &mut Slot, history: &Shared) {
    let (start, parts) = world.start(Some(slot.id));
    let (registered, history) = (Arc::new(Mutex::new(None)), history.clone());
    slot.registered = registered.clone();
    slot.frozen = false;
    // A start waits for the store and the others; a kill may come before it ends.
    let Ok(Ok(cluster)) = timeout(Duration::from_secs(40), Cluster::start(start)).await else {
        parts.seams.tasks.kill();
        slot.node = None;
        return;
    };
    let node = Node { cluster, seams: parts.seams, bucket: parts.bucket, address: parts.address };
    watch(&node, &history);
    let entropy = node.seams.entropy.fork();
    node.seams.tasks.spawn(work(node.cluster.clone(), entropy, registered, history));
    slot.node = Some(node);
}

/// R24: nobody may serve reads under an epoch whose successors were told to serve.
fn check_sessions(slots: &[Slot]) {
    let images = slots.iter().filter_map(|s| s.node.as_ref()).map(|n| n.cluster.image());
    let Some(newest) = images.max_by_key(|image| image.position()) else { return };
    for slot in slots {
        let (Some(node), Some(registration)) = (&slot.node, *slot.registered.lock()) else { continue };
        let over = newest.lane(registration.lane).is_some_and(|row| row.sealed.is_some());
        let fresh = node.cluster.session().fresh(Instant::now());
        assert!(
            !(over && fresh),
            "R24: broker {} reads under epoch {} after its takeover",
            slot.id,
            registration.epoch
        );
    }
}

struct Seen {
    generations: u64,
    epochs: usize,
    topics: usize,
    kills: u32,
}

async fn churn(seed: u64, seconds: u64) -> Seen {
    let mut world = World::new(seed);
    world.timings.snapshot_min = 8_000;
    world.timings.delete_grace = Duration::from_secs(2);
    let chance = world.seams.entropy.fork();
    let history = Shared::default();
    let mut slots: Vec<Slot> =
        (1..=3).map(|id| Slot { id, node: None, registered: Arc::default(), frozen: false }).collect();
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut kills = 0;
    while Instant::now() < end {
        for _ in 0..20 {
            sleep(Duration::from_millis(50)).await;
            check_sessions(&slots);
        }
        let pick = chance.below(3) as usize;
        if slots[pick].node.is_none() {
            join(&mut world, &mut slots[pick], &history).await;
            continue;
        }
        match chance.below(24) {
            0 => {
                kills += 1;
                if let Some(node) = slots[pick].node.take() {
                    node.seams.tasks.kill();
                }
            }
            1 | 2 => {
                let slot = &mut slots[pick];
                if let Some(node) = &slot.node {
                    if slot.frozen { node.seams.tasks.thaw() } else { node.seams.tasks.freeze() }
                }
                slot.frozen = !slot.frozen;
            }
            3 => {
                let other = (pick + 1) % 3;
                if let (Some(a), Some(b)) = (&slots[pick].node, &slots[other].node) {
                    world.net.cut(&a.address, &b.address);
                }
            }
            4 => world.net.heal(),
            5 | 6 => world.faulty.set_weather(Weather::rough()),
            7 => world.faulty.set_weather(Weather { late: 0.1, lost_answers: 0.2, ..Weather::rough() }),
            8 => world.faulty.set_weather(Weather::default()),
            _ => {}
        }
    }
    // Fair weather: everybody is back, and the cluster works (M7).
    world.net.heal();
    world.faulty.set_weather(Weather::default());
    for slot in &mut slots {
        if let (Some(node), true) = (&slot.node, slot.frozen) {
            node.seams.tasks.thaw();
            slot.frozen = false;
        }
    }
    sleep(Duration::from_secs(10)).await;
    for slot in slots.iter_mut().filter(|slot| slot.node.is_none()) {
        join(&mut world, slot, &history).await;
    }
    sleep(Duration::from_secs(60)).await;
    check_sessions(&slots);
    let nodes: Vec<&Node> = slots.iter().map(|s| s.node.as_ref().expect("M7: everybody joins")).collect();
    assert!(matches!(nodes[0].create("last", 1).await, Reply::Created(rows) if rows[0].1.is_ok()), "M7");
    let rulers = nodes.iter().filter(|n| n.cluster.is_controller()).count();
    assert_eq!(rulers, 1, "M3, and everybody found it");
    sleep(Duration::from_secs(2)).await;
    let image = nodes[0].cluster.image();
    for node in &nodes {
        assert_eq!(node.cluster.alarm(), None);
        assert!(node.cluster.image().topic_named("last").is_some());
    }
    assert!((1..=3).all(|id| image.broker(BrokerId(id)).is_some_and(|b| b.alive)));
    let history = history.lock();
    for id in &history.topics {
        assert!(image.topic(*id).is_some(), "M2: an answered topic is lost");
    }
    let generations = image.position().generation.0;
    let seen = Seen { generations, epochs: history.epochs.len(), topics: history.topics.len(), kills };
    nodes.iter().for_each(|node| node.seams.tasks.kill());
    seen
}

/// Runs one seed in a runtime of its own, so that seeds do not share time.
fn run(seed: u64, seconds: u64) -> Seen {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let local = runtime.expect("a runtime");
    local.block_on(churn(seed, seconds))
}

#[test]
fn one_history_under_churn() {
    let from: u64 = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let seeds: u64 = std::env::var("SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(6);
    let (mut generations, mut epochs, mut topics, mut kills) = (0, 0, 0, 0);
    for seed in from..from + seeds {
        let seen = std::panic::catch_unwind(|| run(seed, 300)).unwrap_or_else(|_| panic!("seed {seed}"));
        generations += seen.generations;
        epochs += seen.epochs;
        topics += seen.topics;
        kills += seen.kills;
    }
    println!("{generations} generations, {epochs} epochs, {topics} topics, {kills} kills");
    assert!(generations > seeds * 4 && epochs as u64 > seeds * 6 && topics > 100, "it did happen");
}
