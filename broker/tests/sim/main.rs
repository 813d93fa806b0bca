//! The simulation: N brokers, clients and a faulty bucket in one seeded thread, and a checker of what clients saw.
//!
//! A failing seed is the bug report: `SIM_SEED=n cargo test -p tidemark-broker --test sim -- one_seed --nocapture`.

#![allow(clippy::print_stdout, reason = "what a run did is told to whoever runs it")]

mod audit;
mod blows;
mod broker;
mod check;
mod client;
mod history;
mod net;
mod plan;
#[cfg(feature = "planted-bugs")]
mod planted;
mod races;
mod steps;
mod workload;
mod world;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Once;

use check::Violation;
use plan::Plan;
use world::Outcome;

thread_local! {
    /// Panics of this thread: in a task they would end only that task.
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Runs one seed. A panic anywhere, an invariant's assertion above all, is a violation.
fn simulate(plan: Plan) -> Outcome {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let told = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.with_borrow_mut(|panics| panics.push(info.to_string()));
            told(info);
        }));
    });
    PANICS.take();
    let mut outcome = std::panic::catch_unwind(|| run(plan)).unwrap_or_default();
    let panics = PANICS.take().into_iter().map(|what| Violation { kind: "panic", what });
    outcome.violations.extend(panics);
    outcome
}

fn run(plan: Plan) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(world::run(plan))
}

/// Fixed seeds of an ordinary test run.
const RUNS: u64 = 6;

/// What even these must have met: else they prove nothing.
const MET: [&str; 9] = [
    "E7 election won",
    "R10 seal placed",
    "R11 lane ended",
    "R18 cut committed",
    "R18 runs replaced",
    "log start raised by retention",
    "R18 segment committed",
    "R27 segment read",
    "compaction committed",
];

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn tell(plan: &Plan, outcome: &Outcome) {
    println!("{plan:?}: {} acked, trace {:016x}", outcome.acked, outcome.trace);
    outcome.violations.iter().for_each(|v| println!("  {v}"));
}

/// What runs came to, together.
#[derive(Default)]
struct Totals {
    runs: u64,
    acked: u64,
    /// Of each counter its sum, and how many runs it was not 0 in.
    counters: BTreeMap<String, (u64, u64)>,
}

impl Totals {
    fn add(&mut self, outcome: Outcome) {
        self.runs += 1;
        self.acked += outcome.acked;
        for (name, n) in outcome.counters {
            let (sum, runs) = self.counters.entry(name).or_default();
            (*sum, *runs) = (*sum + n, *runs + u64::from(n > 0));
        }
    }

    fn never(&self) -> Vec<&str> {
        let zero = self.counters.iter().filter(|(_, (sum, _))| *sum == 0).map(|(name, _)| name.as_str());
        zero.filter(|name| MET.contains(name)).collect()
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} runs, {} records acknowledged", self.runs, self.acked)?;
        writeln!(f, "{:<42} {:>9} {:>9}", "", "times", "runs")?;
        self.counters.iter().try_for_each(|(name, (sum, runs))| writeln!(f, "{name:<42} {sum:>9} {runs:>9}"))
    }
}

#[test]
fn same_seed_twice_gives_the_same_trace() {
    for seed in [1, 2] {
        let (a, b) = (simulate(Plan::of(seed)), simulate(Plan::of(seed)));
        assert_eq!(a.trace, b.trace, "seed {seed}");
        assert!(a.acked > 0, "seed {seed} did nothing");
    }
}

#[test]
fn a_broker_that_dies_at_any_step_of_its_upkeep_loses_nothing_and_leaves_nothing() {
    die_at_every_step(&steps::OF_RUNS, 0);
}

#[test]
fn a_broker_that_dies_at_any_step_of_offloading_loses_nothing_and_leaves_nothing() {
    die_at_every_step(&steps::OF_SEGMENTS, 2_000);
}

/// Alone, and with another to take over.
fn die_at_every_step(table: &'static [steps::Step], offload_bytes: u64) {
    for brokers in [1, 2] {
        let plan = Plan::of_steps(table, offload_bytes, brokers);
        let outcome = simulate(plan.clone());
        tell(&plan, &outcome);
        let deaths = outcome.counters.iter().filter(|(what, _)| what.starts_with("died: "));
        deaths.for_each(|(what, times)| println!("{what}: {times}"));
        assert!(outcome.violations.is_empty());
    }
}

#[test]
fn one_seed() {
    if let Ok(filter) = std::env::var("RUST_LOG") {
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_ansi(false).init();
    }
    let plan = Plan::of(env("SIM_SEED").unwrap_or(3));
    let outcome = simulate(plan.clone());
    tell(&plan, &outcome);
    assert!(outcome.violations.is_empty());
}

/// A few fixed seeds, or fresh ones for `SIM_SECONDS`.
#[test]
#[allow(clippy::disallowed_methods)] // the budget is real time, and fresh seeds come from outside
fn fresh_seeds() {
    let began = std::time::Instant::now();
    let budget = env("SIM_SECONDS");
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let first = env("SIM_SEED").unwrap_or(if budget.is_some() { clock.as_secs() * 1_000 } else { 1_000 });
    let mut totals = Totals::default();
    for seed in first.. {
        let enough = match budget {
            Some(seconds) => began.elapsed().as_secs() >= seconds,
            None => totals.runs >= RUNS,
        };
        if enough {
            break;
        }
        let plan = Plan::of(seed);
        let outcome = simulate(plan.clone());
        if !outcome.violations.is_empty() {
            tell(&plan, &outcome);
        }
        assert!(
            outcome.violations.is_empty(),
            "seed {seed}: SIM_SEED={seed} cargo test -p tidemark-broker --test sim -- one_seed --nocapture"
        );
        totals.add(outcome);
    }
    println!("from seed {first}: {totals}");
    if budget.is_none() {
        assert_eq!(
            totals.never(),
            Vec::<&str>::new(),
            "what these rules are for never happened: it proves nothing"
        );
    }
}
