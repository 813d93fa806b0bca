//! The simulation's own test: each bug planted behind the feature is found, and the tree without one is clean.

use std::time::Duration;

use tidemark_tiering::planted::{ALL, Bug, plant};

use crate::plan::Plan;
use crate::{env, simulate};

/// Runs given to one bug, from one first seed.
const RUNS: u64 = 400;

/// What this thread has had of the processor; the machine may be busy with something else.
fn worked() -> Duration {
    let spent =
        std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells what a thread spent");
    let nanos = spent.split_whitespace().next().and_then(|text| text.parse().ok());
    Duration::from_nanos(nanos.expect("a number of nanoseconds"))
}

/// The processor's time until `bug` shows, from seed `first` on.
fn search(bug: Bug, first: u64) -> Option<(u64, Duration, String)> {
    let before = worked();
    plant(Some(bug));
    let found = (first..first + RUNS).find_map(|seed| {
        let outcome = simulate(Plan::of(seed));
        outcome.violations.first().map(|v| (seed, v.to_string()))
    });
    plant(None);
    found.map(|(seed, what)| (seed, worked() - before, what))
}

/// `SIM_BUG` names one; `SIM_TRIES` searches from so many first seeds and prints the median.
#[test]
fn planted_bugs_are_found() {
    let tries = env("SIM_TRIES").unwrap_or(1);
    let only = std::env::var("SIM_BUG").ok();
    let mut missed = Vec::new();
    for bug in ALL.into_iter().filter(|b| only.as_ref().is_none_or(|o| *o == format!("{b:?}"))) {
        let mut times = Vec::new();
        for attempt in 0..tries {
            match search(bug, 10_000 * (attempt + 1)) {
                Some((seed, took, what)) => {
                    println!("{bug:?}: seed {seed}, {:.1} s: {what}", took.as_secs_f64());
                    times.push(took);
                }
                None => missed.push(bug),
            }
        }
        times.sort();
        if let Some(median) = times.get(times.len() / 2) {
            println!("{bug:?}: median {:.1} s over {} searches", median.as_secs_f64(), times.len());
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
