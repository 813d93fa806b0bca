//! A broker that dies at each step of its upkeep: just before what it asks of the store is done, or just after, and before
//! it is told. What it was about to do is done by its next life or by another broker, once; what is left over goes.

use std::fmt;
use std::time::Duration;

use tidemark_tiering::bucket::Verb;
use tidemark_tiering::bucket::faults::Fault;
use tokio::time::{Instant, sleep, sleep_until};

use crate::world::World;

/// What is asked of the store in one step: the verb, and what the key contains.
type Ask = (Verb, &'static str);

/// Where it dies: when it asks for this, or for this next after that.
#[derive(PartialEq, Eq)]
pub struct Step {
    name: &'static str,
    after: Option<Ask>,
    at: Ask,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

const fn first(name: &'static str, verb: Verb, key: &'static str) -> Step {
    Step { name, after: None, at: (verb, key) }
}

const fn then(name: &'static str, after: Ask, verb: Verb, key: &'static str) -> Step {
    Step { name, after: Some(after), at: (verb, key) }
}

/// Of what is done for every log.
pub static OF_RUNS: [Step; 13] = [
    first("parcel put", Verb::Put, "wal/"),
    first("cut: run put", Verb::Put, "/0-"),
    first("cut: checkpoint put", Verb::Put, "check-"),
    then("cut: committed", (Verb::Put, "/0-"), Verb::Put, "meta/"),
    first("cut: parcel deleted", Verb::Delete, "wal/"),
    first("cut: checkpoint deleted", Verb::Delete, "check-"),
    first("merge: run put", Verb::Put, "/1-"),
    then("merge: committed", (Verb::Put, "/1-"), Verb::Put, "meta/"),
    then("merge: input deleted", (Verb::Put, "/1-"), Verb::Delete, "/0-"),
    first("retention: committed", Verb::Put, "meta/0"),
    first("retention: run deleted", Verb::Delete, "/1-"),
    first("metadata: snapshot put", Verb::Put, "meta/snapshot/"),
    first("metadata: log deleted", Verb::Delete, "meta/0"),
];

/// Of what is done for tiered topics besides.
pub static OF_SEGMENTS: [Step; 10] = [
    first("offload: log put", Verb::Put, ".log"),
    first("offload: indexes put", Verb::Put, ".indexes"),
    first("offload: manifest put", Verb::Put, ".rsm-manifest"),
    then("offload: committed", (Verb::Put, ".rsm-manifest"), Verb::Put, "meta/0"),
    then("offload: run deleted", (Verb::Put, ".rsm-manifest"), Verb::Delete, "run/"),
    then("retired: committed", (Verb::Delete, "run/"), Verb::Put, "meta/0"),
    first("retired: manifest deleted", Verb::Delete, ".rsm-manifest"),
    first("retired: indexes deleted", Verb::Delete, ".indexes"),
    first("retired: log deleted", Verb::Delete, ".log"),
    then("retired: forgotten", (Verb::Delete, ".log"), Verb::Put, "meta/0"),
];

/// Not done, and never answered; or done, and never answered.
const MOMENTS: [(&str, Fault); 2] = [("before", Fault::Hang), ("after", Fault::Deaf)];

/// A step comes to pass within this time.
const MET: Duration = Duration::from_secs(60);
/// How long the dead stay so.
const DOWN: Duration = Duration::from_millis(400);
/// The world goes on for so long between two deaths.
const UP: Duration = Duration::from_millis(200);

/// How long all of it may take.
pub const LONGEST: Duration = Duration::from_secs(150);

impl World {
    /// Dies at every step of `table`, before and after, until `until`. Gives the steps that did not come to pass.
    pub async fn die_at_every_step(&mut self, table: &[Step], until: Instant) -> Vec<String> {
        let mut missed = Vec::new();
        for step in table {
            for (moment, fault) in MOMENTS {
                sleep(UP).await;
                self.supervise();
                match self.dies_at(step, fault).await {
                    true => self.count(&format!("died: {} ({moment})", step.name)),
                    false => missed.push(format!("{} ({moment})", step.name)),
                }
            }
        }
        tracing::info!(left = ?until.duration_since(Instant::now()), "died at every step");
        sleep_until(until).await;
        missed
    }

    /// Whoever takes the step first dies of it.
    async fn dies_at(&mut self, step: &Step, fault: Fault) -> bool {
        let deadline = Instant::now() + MET;
        if let Some(after) = step.after {
            // A fault that is none: it tells that the first of the two was asked for.
            if self.meets(after, Fault::Stall(Duration::ZERO), deadline).await.is_none() {
                return false;
            }
        }
        let Some(slot) = self.meets(step.at, fault, deadline).await else { return false };
        // What was asked for lands before it dies.
        sleep(Duration::from_millis(100)).await;
        self.kill(slot);
        sleep(DOWN).await;
        self.start(slot);
        true
    }

    /// The slot whose broker asks for it first, and meets `fault`.
    async fn meets(&mut self, (verb, key): Ask, fault: Fault, deadline: Instant) -> Option<usize> {
        self.brokers.iter().flatten().for_each(|broker| broker.store.fail_next(verb, key, fault));
        let met = loop {
            let done = |broker: &crate::broker::Broker| broker.store.scripted() == 0;
            match self.brokers.iter().position(|broker| broker.as_ref().is_some_and(done)) {
                None if Instant::now() < deadline => sleep(Duration::from_millis(5)).await,
                met => break met,
            }
        };
        self.brokers.iter().flatten().for_each(|broker| broker.store.unscript());
        met
    }
}
