//! Seeded mutation fuzzing of everything that takes bytes from outside, short enough for CI.
//!
//! `FUZZ_SECONDS` (2 for each target) says how long, `FUZZ_SEED` starts at a given seed. A failure prints
//! the seed of its round: `FUZZ_SEED=<that>` repeats it first
//! (messages: with what earlier rounds found, so repeat from the run's own first seed).

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

mod fuzz {
    pub mod batches;
    pub mod messages;
    pub mod mutate;
}

use fuzz::mutate::Random;

/// Runs `round` with seed after seed until the time is up.
fn run(target: &str, mut round: impl FnMut(&mut Random)) {
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    let first: u64 = std::env::var("FUZZ_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let until = now() + Duration::from_secs(seconds);
    let mut seed = first;
    while now() < until {
        let outcome = catch_unwind(AssertUnwindSafe(|| round(&mut Random::new(seed))));
        if let Err(panic) = outcome {
            eprintln!("{target}: FUZZ_SEED={seed} fails");
            resume_unwind(panic);
        }
        seed += 1;
    }
    eprintln!("{target}: {} rounds", seed - first);
}

#[allow(clippy::disallowed_methods, reason = "how long to fuzz is the one thing here that is not seeded")]
fn now() -> Instant {
    Instant::now()
}

#[test]
fn no_bytes_make_a_batch_panic_or_pass_validation_unreadable() {
    let corpus = fuzz::batches::corpus();
    run("batches", |random| fuzz::batches::round(random, &corpus));
}

#[test]
fn no_bytes_make_a_message_panic_or_change_when_written_again() {
    let mut targets = fuzz::messages::targets();
    run("messages", |random| fuzz::messages::round(random, &mut targets));
}

#[test]
fn every_request_of_the_codec_is_fuzzed() {
    use tidemark_proto::kafka::api::TABLE;
    let mut fuzzed: Vec<_> = fuzz::messages::targets().iter().filter_map(|target| target.key).collect();
    fuzzed.sort();
    assert_eq!(fuzzed, TABLE.iter().map(|row| row.key).collect::<Vec<_>>());
}
