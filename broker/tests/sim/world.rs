//! The simulated world: brokers in slots, a faulty bucket, a network, clients; and the course of a run.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidemark_broker::cluster::bystander;
use tidemark_broker::cluster::peers::memory::MemoryNet;
use tidemark_broker::verify::{Depth, How, Progress, verify};
use tidemark_tiering::bucket::faults::{Faulty, Weather};
use tidemark_tiering::bucket::{Bucket, Memory, Options};
use tidemark_tiering::seam::{Clock, Entropy, Seams, Tasks, VirtualClock};
use tidemark_tiering::witness;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::audit;
use crate::blows::{Mend, ports};
use crate::broker::{Broker, Place, boot, rack_of};
use crate::check::{Violation, check};
use crate::client::{Session, World as Clients};
use crate::history::{Ending, Event, Log};
use crate::net::Net;
use crate::plan::{Course, Plan};
use crate::workload::{self, COMPACTED, LATEST, TOPIC};

/// Partitions of the topic.
const PARTITIONS: i32 = 3;
/// Everything must be healthy and read within this time after the last fault.
const CALM: Duration = Duration::from_secs(240);

/// What a run came to.
#[derive(Debug, Default)]
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

type Produced = JoinHandle<Option<Result<u32, String>>>;

/// See the module.
pub struct World {
    /// What the seed expands to.
    pub plan: Plan,
    /// The bucket.
    pub store: Arc<Faulty>,
    memory: Arc<Memory>,
    voids: audit::Voids,
    clock: Arc<dyn Clock>,
    /// Randomness of what befalls.
    pub entropy: Entropy,
    /// Tasks of nobody who can die.
    pub outside: Tasks,
    /// The way to the brokers.
    pub net: Net,
    /// The way between them.
    pub peers: MemoryNet,
    /// Who is in each slot.
    pub brokers: Vec<Option<Broker>>,
    /// Processes whose slot has another one.
    pub older: Vec<Broker>,
    /// What ends the blows that have fallen.
    pub mends: Vec<(Instant, Mend)>,
    lives: usize,
    counters: BTreeMap<String, u64>,
}

/// Runs one seed.
pub async fn run(plan: Plan) -> Outcome {
    witness::take();
    let entropy = Entropy::seeded(plan.seed);
    let clock: Arc<dyn Clock> = Arc::new(VirtualClock::start());
    let memory = Arc::new(Memory::new(clock.clone()));
    let store = Arc::new(Faulty::new(memory.clone(), plan.usual(), entropy.fork()));
    let outside = Tasks::inline();
    let world = World {
        store,
        memory,
        voids: audit::Voids::default(),
        clock,
        net: Net::new(entropy.fork(), outside.clone()),
        peers: MemoryNet::new(entropy.fork(), Duration::from_millis(1)),
        brokers: (0..plan.brokers).map(|_| None).collect(),
        older: Vec::new(),
        mends: Vec::new(),
        lives: 0,
        counters: BTreeMap::new(),
        outside,
        entropy,
        plan,
    };
    world.run().await
}

impl World {
    async fn run(mut self) -> Outcome {
        (0..self.plan.brokers).for_each(|slot| self.start(slot));
        let clients = Clients {
            net: self.net.clone(),
            history: Arc::default(),
            entropy: self.entropy.fork(),
            tasks: self.outside.clone(),
            began: Instant::now(),
            ports: ports(self.plan.brokers),
            tiered: self.plan.offload_bytes > 0,
        };
        let mut found = Vec::new();
        let mut first = Session::new(&clients, 0);
        let (plain, compacted) = (workload::plain(&clients), self.plan.compacted());
        let created = async {
            workload::create_topic(&mut first, TOPIC, PARTITIONS, &plain).await;
            workload::create_topic(&mut first, LATEST, 1, &compacted).await;
        };
        if timeout(CALM, created).await.is_err() {
            found.push(stuck("no topic could be created in a healthy cluster"));
        }
        let until = Instant::now() + self.plan.storm;
        let producers = self.populate(&clients, until);
        match self.plan.course {
            Course::Steps(table) => {
                let missed = self.die_at_every_step(table, until).await;
                found.extend(missed.into_iter().map(|what| Violation { kind: "step-not-met", what }));
            }
            Course::Any | Course::Races => self.storm(until).await,
        }
        self.calm();
        let acked = self.watched(finished(producers, &mut found)).await;
        let mut ending = Ending { records: self.watched(read_all(&clients, 300)).await, ..Ending::default() };
        ending.kept = Some((self.plan.retention_ms, clients.now())).filter(|(ms, _)| *ms > 0);
        self.cold_start().await;
        ending.again = self.watched(read_all(&clients, 400)).await;
        match self.watched(timeout(CALM, workload::topics(&mut first))).await {
            Ok(topics) => ending.topics = topics,
            Err(_) => found.push(stuck("the topics cannot be listed in a healthy cluster")),
        }
        let history = std::mem::take(&mut *clients.history.lock());
        ending.starts = self.starts();
        if let Ok(path) = std::env::var("SIM_DUMP") {
            let lines: Vec<String> = history.iter().map(|event| format!("{event:?}\n")).collect();
            std::fs::write(path, lines.concat()).expect("SIM_DUMP is writable");
        }
        found.extend(check(&history, &ending));
        found.extend(audit::audit(&self.memory));
        found.extend(self.settled().await);
        found.extend(self.verified(&ending).await);
        self.brokers.iter().flatten().for_each(|b| b.seams.tasks.kill());
        self.outside.kill();
        self.tally();
        Outcome { violations: found, acked, trace: trace(&history), counters: self.counters }
    }

    /// Sets the clients to work.
    fn populate(&self, clients: &Clients, until: Instant) -> Vec<Produced> {
        let tasks = &self.outside;
        let partitions = (0..PARTITIONS).chain(0..PARTITIONS);
        let producers = (1u32..).zip(partitions).map(|(number, partition)| {
            tasks.spawn(workload::produce(clients.clone(), number, partition, until))
        });
        let mut producers: Vec<Produced> = producers.collect();
        for number in 10..12 {
            producers.push(tasks.spawn(workload::produce(clients.clone(), number, COMPACTED, until)));
        }
        for (number, rack) in [(120, String::new()), (121, rack_of(0)), (122, rack_of(1))] {
            let until = until + CALM / 16;
            tasks.spawn(workload::read(clients.clone(), number, COMPACTED, until, rack));
        }
        for (number, partition) in (100u32..).zip(0..PARTITIONS) {
            let until = until + CALM / 16;
            tasks.spawn(workload::read(clients.clone(), number, partition, until, String::new()));
            // Two racks each: with three brokers one of them is not the leader's, wherever that is.
            for (at, slot) in [(3, 0), (6, 1)] {
                let number = number + at;
                tasks.spawn(workload::read(clients.clone(), number, partition, until, rack_of(slot)));
            }
        }
        for number in 200..202 {
            tasks.spawn(workload::commit(clients.clone(), number, until + CALM / 16));
        }
        tasks.spawn(workload::administer(clients.clone(), 210, until));
        producers
    }

    /// `work`, while processes that end are started again.
    async fn watched<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = sleep(Duration::from_millis(500)) => self.supervise(),
            }
        }
    }

    /// Where the partitions start by the newest metadata that any broker has.
    fn starts(&self) -> BTreeMap<i32, i64> {
        let mut starts = BTreeMap::new();
        for node in self.brokers.iter().flatten().filter_map(Broker::node) {
            let image = node.cluster.image();
            let partitions = image.topic_named(TOPIC).into_iter().flat_map(|topic| topic.partitions());
            for (tp, partition) in partitions {
                let start = starts.entry(tp.partition.0).or_insert(0);
                *start = partition.log_start.0.max(*start);
            }
        }
        starts
    }

    /// What the metadata names and the bucket has not, or the bucket has and nobody names, once all has had time to go.
    async fn settled(&self) -> Vec<Violation> {
        let Some(node) = self.brokers.iter().flatten().find_map(Broker::node) else {
            return vec![stuck("no broker runs in a healthy cluster")];
        };
        let deadline = Instant::now() + CALM / 4;
        loop {
            let mut found = audit::compare(&self.memory, &node.cluster.image());
            // Elsewhere a late request may leave something that only the sweep of hours finds.
            found.retain(|v| matches!(self.plan.course, Course::Steps(_)) || v.kind != "orphan");
            if found.is_empty() || Instant::now() >= deadline {
                return found;
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// What `tidemark scrub` finds in the bucket, and whether it sees all that clients read.
    async fn verified(&self, ending: &Ending) -> Vec<Violation> {
        let seams =
            Seams { clock: self.clock.clone(), entropy: self.entropy.fork(), tasks: self.outside.clone() };
        let bucket = Bucket::new(self.memory.clone(), Options::default(), &seams);
        let (how, progress) = (How { depth: Depth::Bytes, window: 256 }, Progress::default());
        let looked = async {
            let image = Arc::new(bystander::read(&bucket, &seams).await?);
            verify((&bucket, &seams), image, how, &progress, |_| true).await
        };
        let (image, report) = match looked.await {
            Ok(seen) => seen,
            Err(error) => return vec![Violation { kind: "verify", what: error.to_string() }],
        };
        let findings = report.findings.iter();
        let mut found: Vec<Violation> =
            findings.map(|finding| Violation { kind: "verify", what: format!("{finding:?}") }).collect();
        let topic = image.topic_named(TOPIC);
        for (tp, held) in topic
            .into_iter()
            .flat_map(|topic| topic.partitions())
            .filter_map(|(tp, _)| Some((tp, report.partitions.get(&tp)?)))
        {
            let read = ending.again.get(&tp.partition.0).map_or(0, |log| log.end);
            if held.end.0 < read {
                let what = format!("{tp} ends at {} in the bucket, clients read to {read}", held.end.0);
                found.push(Violation { kind: "verify", what });
            }
        }
        found
    }

    /// A life that begins in `slot`.
    pub fn life(&mut self, slot: usize) -> Broker {
        let seams = Seams { clock: self.clock.clone(), entropy: self.entropy.fork(), tasks: Tasks::inline() };
        let running = Arc::new(Mutex::new(None));
        self.lives += 1;
        let address = format!("broker-{slot}:{}", self.lives);
        let peers = self.peers.node(&address, &seams);
        let way = Faulty::new(self.store.clone(), Weather::default(), self.entropy.fork());
        let store = Arc::new(way);
        let place = Place { slot, store: store.clone(), peers, net: self.net.clone() };
        seams.tasks.spawn(boot(place, self.plan.clone(), seams.clone(), running.clone()));
        Broker { address, seams, store, running }
    }

    /// Looks for what will soon be gone.
    pub fn look(&mut self) {
        self.voids.look(&self.memory);
    }

    /// Counts something rare.
    pub fn count(&mut self, what: &str) {
        tracing::info!(what, "befalls");
        *self.counters.entry(what.to_owned()).or_default() += 1;
    }

    /// Adds what the rules, the fault layer and the bucket tell to the counters.
    fn tally(&mut self) {
        let faults = self.store.counts().into_iter().map(|(name, n)| (format!("store: {name}"), n));
        let rules = witness::take().into_iter().map(|(name, n)| (name.to_owned(), n));
        self.look();
        let objects = self.voids.counts().into_iter().map(|(name, n)| (name.to_owned(), n));
        for (name, n) in faults.chain(rules).chain(objects) {
            *self.counters.entry(name).or_default() += n;
        }
    }
}

/// Waits until every producer has all its records acknowledged; how many these are.
async fn finished(producers: Vec<Produced>, found: &mut Vec<Violation>) -> u64 {
    let (mut acked, deadline) = (0, Instant::now() + CALM);
    for producer in producers {
        match timeout_at(deadline, producer).await {
            Ok(Ok(Some(Ok(count)))) => acked += u64::from(count),
            Ok(Ok(Some(Err(why)))) => found.push(Violation { kind: "producer-failed", what: why }),
            Ok(_) => found.push(stuck("a producer's task ended")),
            Err(_) => found.push(stuck("a producer is not done in a healthy cluster")),
        }
    }
    acked
}

/// Every partition that can be read, from its start, by clients from `first` on.
async fn read_all(clients: &Clients, first: u32) -> BTreeMap<i32, Log> {
    let mut all = BTreeMap::new();
    for (number, partition) in (first..).zip((0..PARTITIONS).chain([COMPACTED])) {
        if let Ok(Some(log)) = timeout(CALM, workload::read_all(clients, number, partition)).await {
            all.insert(partition, log);
        }
    }
    all
}

fn stuck(what: &str) -> Violation {
    Violation { kind: "stuck", what: what.to_owned() }
}

fn trace(history: &[Event]) -> u64 {
    history.iter().fold(0xcbf2_9ce4_8422_2325, |hash, event| {
        format!("{event:?}").bytes().fold(hash, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
    })
}
