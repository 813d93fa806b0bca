//! The simulated world: brokers in slots, a faulty bucket, a network, and what befalls them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidemark_broker::api::{AllowAll, Dispatch};
use tidemark_broker::cluster::image::Endpoint;
use tidemark_broker::cluster::peers::memory::{MemoryNet, MemoryPeers};
use tidemark_broker::cluster::{Cluster, Identity, Rules, Start, Timings};
use tidemark_broker::config;
use tidemark_broker::metrics::Metrics;
use tidemark_broker::node::{Node, Parts, Running};
use tidemark_broker::server::{Limits, Server};
use tidemark_proto::id::BrokerId;
use tidemark_tiering::bucket::faults::{Absence, Faulty, Latency, Weather};
use tidemark_tiering::bucket::{Bucket, Memory, Options};
use tidemark_tiering::seam::{Clock, Entropy, Seams, Tasks, VirtualClock};
use tokio::time::{Instant, sleep};

use crate::check::{Event, Value, Violation, check};
use crate::net::{Net, Place};
use crate::workload::{self, World as Clients};

/// Partitions of the topic.
const PARTITIONS: i32 = 3;
/// Everything must be healthy and read within this time after the last fault.
const CALM: Duration = Duration::from_secs(240);

/// What one seed expands to.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Brokers.
    pub brokers: usize,
    /// How long faults go on.
    pub storm: Duration,
    /// Whether the bucket misbehaves.
    pub weather: bool,
    /// Mean time between blows, ms.
    pub blow_every_ms: u64,
}

impl Plan {
    /// The plan of `seed`.
    pub fn of(seed: u64) -> Plan {
        let entropy = Entropy::seeded(seed ^ 0x7469_6465);
        Plan {
            seed,
            brokers: 1 + usize::try_from(entropy.below(3)).expect("small"),
            storm: Duration::from_secs(20 + entropy.below(40)),
            weather: entropy.below(4) != 0,
            blow_every_ms: 1_500 + entropy.below(6_000),
        }
    }
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// Broken promises; none, one hopes.
    pub violations: Vec<Violation>,
    /// Records acknowledged.
    pub acked: u64,
    /// Hash of everything clients saw, in order.
    pub trace: u64,
    /// How often each rare thing happened.
    pub counters: BTreeMap<String, u64>,
}

struct Broker {
    address: String,
    seams: Seams,
    running: Arc<Mutex<Option<Running>>>,
}

struct World {
    plan: Plan,
    store: Arc<Faulty>,
    memory: Arc<Memory>,
    clock: Arc<dyn Clock>,
    entropy: Entropy,
    net: Net,
    peers: MemoryNet,
    brokers: Vec<Option<Broker>>,
    lives: usize,
    counters: BTreeMap<String, u64>,
}

/// Runs one seed.
pub async fn run(plan: Plan) -> Outcome {
    let entropy = Entropy::seeded(plan.seed);
    let clock: Arc<dyn Clock> = Arc::new(VirtualClock::start());
    let memory = Arc::new(Memory::new(clock.clone()));
    let quiet = Weather { latency: fair(), ..Weather::default() };
    let store = Arc::new(Faulty::new(memory.clone(), quiet, entropy.fork()));
    let outside = Tasks::inline();
    let world = World {
        store,
        memory,
        clock,
        net: Net::new(entropy.fork(), outside.clone()),
        peers: MemoryNet::new(entropy.fork(), Duration::from_millis(1)),
        brokers: (0..plan.brokers).map(|_| None).collect(),
        lives: 0,
        counters: BTreeMap::new(),
        entropy,
        plan,
    };
    world.run(outside).await
}

fn fair() -> Latency {
    Latency { p50: Duration::from_millis(8), p99: Duration::from_millis(40), ..Latency::default() }
}

impl World {
    async fn run(mut self, outside: Tasks) -> Outcome {
        for slot in 0..self.plan.brokers {
            self.start(slot);
        }
        let clients = Clients {
            net: self.net.clone(),
            history: Arc::default(),
            entropy: self.entropy.fork(),
            tasks: outside.clone(),
            began: Instant::now(),
            ports: (0..self.plan.brokers).map(Net::port).collect(),
        };
        let mut found = Vec::new();
        let created = tokio::time::timeout(CALM, workload::create_topic(&clients, PARTITIONS)).await;
        if created.is_err() {
            found.push(stuck("no topic could be created in a healthy cluster"));
        }
        let until = Instant::now() + self.plan.storm;
        let mut producers = Vec::new();
        for (number, partition) in (1u32..).zip((0..PARTITIONS).chain(0..PARTITIONS)) {
            producers.push(outside.spawn(workload::produce(clients.clone(), number, partition, until)));
        }
        for (number, partition) in (100u32..).zip(0..PARTITIONS) {
            outside.spawn(workload::read(clients.clone(), number, partition, until + CALM / 4));
        }
        for number in 200..202 {
            outside.spawn(workload::commit(clients.clone(), number, until + CALM / 8));
        }
        self.storm(until).await;
        self.calm().await;
        let mut acked = 0;
        let deadline = Instant::now() + CALM;
        for producer in producers {
            match tokio::time::timeout_at(deadline, producer).await {
                Ok(Ok(Some(Ok(count)))) => acked += u64::from(count),
                Ok(Ok(Some(Err(why)))) => found.push(Violation { kind: "producer-failed", what: why }),
                Ok(_) => found.push(stuck("a producer's task ended")),
                Err(_) => found.push(stuck("a producer is not done in a healthy cluster")),
            }
        }
        let mut last: BTreeMap<i32, Vec<(i64, Value)>> = BTreeMap::new();
        for (number, partition) in (300u32..).zip(0..PARTITIONS) {
            match tokio::time::timeout(CALM, workload::read_all(&clients, number, partition)).await {
                Ok(Some(records)) => drop(last.insert(partition, records)),
                _ => found.push(stuck(&format!("partition {partition} cannot be read in a healthy cluster"))),
            }
        }
        let history = std::mem::take(&mut *clients.history.lock());
        if let Ok(path) = std::env::var("SIM_DUMP") {
            let lines: Vec<String> = history.iter().map(|event| format!("{event:?}\n")).collect();
            std::fs::write(path, lines.concat()).expect("SIM_DUMP is writable");
        }
        found.extend(check(&history, &last));
        for (name, count) in self.store.counts() {
            *self.counters.entry(format!("store {name}")).or_default() += count;
        }
        self.count_objects();
        self.brokers.iter().flatten().for_each(|b| b.seams.tasks.kill());
        outside.kill();
        Outcome { violations: found, acked, trace: trace(&history), counters: self.counters }
    }

    fn count(&mut self, what: &str) {
        *self.counters.entry(what.to_owned()).or_default() += 1;
    }

    /// What the bucket holds at the end tells which rare paths were taken.
    fn count_objects(&mut self) {
        for (key, bytes) in self.memory.dump() {
            let sealed = tidemark_tiering::format::Header::parse(&bytes)
                .is_ok_and(|h| h.kind == tidemark_tiering::format::Kind::Seal);
            let what = match (key.split('/').next(), sealed) {
                (Some("wal"), true) => "lanes sealed",
                (Some("meta"), true) => "generations sealed",
                (Some("run"), _) => "objects of cuts",
                _ => continue,
            };
            self.count(what);
        }
    }

    /// Starts a broker in `slot`: a new life with an empty disk, and a peer address of its own.
    fn start(&mut self, slot: usize) {
        let seams = Seams { clock: self.clock.clone(), entropy: self.entropy.fork(), tasks: Tasks::inline() };
        let running = Arc::new(Mutex::new(None));
        self.lives += 1;
        let address = format!("broker-{slot}:{}", self.lives);
        let peers = self.peers.node(&address, &seams);
        let place = Slot { slot, store: self.store.clone(), peers, net: self.net.clone() };
        seams.tasks.spawn(boot(place, seams.clone(), running.clone()));
        self.brokers[slot] = Some(Broker { address, seams, running });
    }

    fn kill(&mut self, slot: usize) {
        if let Some(broker) = self.brokers[slot].take() {
            broker.seams.tasks.kill();
            self.net.set_door(slot, None);
        }
    }

    async fn storm(&mut self, until: Instant) {
        while Instant::now() < until {
            let pause = self.plan.blow_every_ms / 2 + self.entropy.below(self.plan.blow_every_ms);
            sleep(Duration::from_millis(pause)).await;
            let slot = usize::try_from(self.entropy.below(self.plan.brokers as u64)).expect("an index");
            self.blow(slot).await;
        }
    }

    async fn blow(&mut self, slot: usize) {
        match self.entropy.below(9) {
            0 | 1 => {
                self.count("kills");
                self.kill(slot);
                sleep(Duration::from_millis(self.entropy.below(6_000))).await;
                self.start(slot);
            }
            2 => {
                let Some(broker) = &self.brokers[slot] else { return };
                let tasks = broker.seams.tasks.clone();
                tasks.freeze();
                self.count("freezes");
                sleep(Duration::from_millis(self.entropy.below(12_000))).await;
                tasks.thaw();
            }
            3 => {
                self.count("replacements");
                // A second process with the same node id; the older one is still there and finds out by itself.
                let older = self.brokers[slot].take();
                self.start(slot);
                sleep(Duration::from_millis(self.entropy.below(8_000))).await;
                older.into_iter().for_each(|b| b.seams.tasks.kill());
            }
            4 if self.plan.brokers > 1 => {
                let other = (slot + 1) % self.plan.brokers;
                self.count("cuts between brokers");
                let pair = (&self.brokers[slot], &self.brokers[other]);
                let (Some(a), Some(b)) = pair else { return };
                self.peers.cut(&a.address, &b.address);
                sleep(Duration::from_millis(self.entropy.below(9_000))).await;
                self.peers.heal();
            }
            5 => {
                self.count("cuts from clients");
                for client in 1..7 {
                    self.net.set_cut(Place::Client(client), Place::Broker(slot), true);
                }
                sleep(Duration::from_millis(self.entropy.below(6_000))).await;
                self.net.heal();
            }
            6 => {
                self.count("bucket away");
                self.store.away(Absence::Refusing, None);
                sleep(Duration::from_millis(self.entropy.below(8_000))).await;
                self.store.back();
            }
            7 => self.close(slot).await,
            _ if self.plan.weather => {
                self.count("storms");
                self.store.set_weather(Weather { latency: fair(), ..Weather::rough() });
                sleep(Duration::from_millis(1_000 + self.entropy.below(8_000))).await;
                self.store.set_weather(Weather { latency: fair(), ..Weather::default() });
            }
            _ => {}
        }
    }

    /// A clean shutdown and a start.
    async fn close(&mut self, slot: usize) {
        self.count("clean restarts");
        let running = self.brokers[slot].as_ref().and_then(|b| b.running.lock().take());
        if let Some(running) = running {
            running.close(Duration::from_secs(20)).await;
        }
        self.kill(slot);
        self.start(slot);
    }

    async fn calm(&mut self) {
        self.store.back();
        self.store.set_weather(Weather { latency: fair(), ..Weather::default() });
        self.net.heal();
        self.peers.heal();
        for slot in 0..self.plan.brokers {
            match &self.brokers[slot] {
                Some(broker) => broker.seams.tasks.thaw(),
                None => self.start(slot),
            }
        }
    }
}

fn stuck(what: &str) -> Violation {
    Violation { kind: "stuck", what: what.to_owned() }
}

/// Where a broker is put.
struct Slot {
    slot: usize,
    store: Arc<Faulty>,
    peers: MemoryPeers,
    net: Net,
}

/// What `tidemark serve` does, without sockets.
async fn boot(place: Slot, seams: Seams, running: Arc<Mutex<Option<Running>>>) {
    let Slot { slot, store, peers, net } = place;
    let sets = [
        "tidemark.bucket=memory:",
        "tidemark.cut.parcels=24",
        "tidemark.cut.ms=4000",
        "tidemark.delete.grace.ms=9000",
        "offsets.topic.num.partitions=2",
        "group.initial.rebalance.delay.ms=0",
    ];
    let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
    let settings = config::Settings::load(None, &sets).expect("valid settings");
    let config = Arc::new(config::Broker::new(settings).expect("valid settings"));
    let bucket = Bucket::new(store, Options::default(), &seams);
    let life = seams.entropy.life();
    let endpoint = Endpoint {
        listener: "PLAINTEXT".to_owned(),
        protocol: "PLAINTEXT".to_owned(),
        host: "sim".to_owned(),
        port: Net::port(slot),
    };
    let node = BrokerId(i32::try_from(slot).expect("small") + 1);
    let start = Start {
        seams: seams.clone(),
        bucket: bucket.clone(),
        identity: Identity { node: Some(node), life, endpoints: vec![endpoint], rack: None },
        cluster: None,
        peers: Arc::new(peers),
        timings: Timings::default(),
        rules: Rules { topic_config: Arc::new(config::check_topic), ..Rules::default() },
    };
    let Ok(cluster) = Cluster::start(start).await else { return };
    let (metrics, authorizer) = (Metrics::new(), Arc::new(AllowAll));
    let parts = Parts { seams: seams.clone(), life, config, bucket, cluster, metrics, authorizer };
    let node = Node::start(parts);
    let server = Server::new(Arc::new(Dispatch::new(node.node.clone())), Limits::default(), &seams);
    net.set_door(slot, Some(server));
    *running.lock() = Some(node);
}

fn trace(history: &[Event]) -> u64 {
    history.iter().fold(0xcbf2_9ce4_8422_2325, |hash, event| {
        format!("{event:?}").bytes().fold(hash, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
    })
}
