//! The simulation's own test: each bug planted behind the feature is found, and the tree without one is clean.

use std::time::{Duration, Instant};

use tidemark_tiering::planted::{ALL, Bug, plant};

use crate::plan::Plan;
use crate::simulate;

/// Runs given to one bug, from one first seed.
const RUNS: u64 = 400;

/// Seconds of this thread until `bug` shows, from seed `first` on.
#[allow(clippy::disallowed_methods)] // the measure is real time
fn search(bug: Bug, first: u64) -> Option<(u64, Duration, String)> {
    let began = Instant::now();
    plant(Some(bug));
    let found = (first..first + RUNS).find_map(|seed| {
        let outcome = std::panic::catch_unwind(|| simulate(Plan::of(seed)));
        match outcome {
            Ok(outcome) => outcome.violations.first().map(|v| (seed, v.to_string())),
            Err(_) => Some((seed, "an invariant's assertion".to_owned())),
        }
    });
    plant(None);
    found.map(|(seed, what)| (seed, began.elapsed(), what))
}

/// `SIM_BUG` names one; `SIM_TRIES` searches from so many first seeds and prints the median.
#[test]
fn planted_bugs_are_found() {
    let tries = crate::env("SIM_TRIES").unwrap_or(1);
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
