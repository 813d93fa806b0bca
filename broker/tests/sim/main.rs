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
mod workload;
mod world;

use std::collections::BTreeMap;

use plan::Plan;
use world::Outcome;

fn simulate(plan: Plan) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(world::run(plan))
}

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn tell(plan: &Plan, outcome: &Outcome) {
    println!("{plan:?}: {} acked, trace {:016x}, {:?}", outcome.acked, outcome.trace, outcome.counters);
    outcome.violations.iter().for_each(|v| println!("  {v}"));
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
    let (mut totals, mut runs) = (BTreeMap::<String, u64>::new(), 0);
    for seed in first.. {
        let enough = match budget {
            Some(seconds) => began.elapsed().as_secs() >= seconds,
            None => runs >= 6,
        };
        if enough {
            break;
        }
        let plan = Plan::of(seed);
        let outcome = simulate(plan.clone());
        if !outcome.violations.is_empty() {
            tell(&plan, &outcome);
        }
        assert!(outcome.violations.is_empty(), "seed {seed}");
        runs += 1;
        outcome.counters.into_iter().for_each(|(name, n)| *totals.entry(name).or_default() += n);
        *totals.entry("acked".to_owned()).or_default() += outcome.acked;
    }
    println!("{runs} runs from seed {first}: {totals:#?}");
    assert!(
        totals.get("lanes sealed").is_some_and(|n| *n > 0),
        "the runs sealed no lane: they prove nothing"
    );
}
