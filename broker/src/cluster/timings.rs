//! The times of sessions and elections (design.md §7), all `tidemark.*` keys.

use std::time::Duration;

/// How long things take, or may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    /// Between a broker's heartbeats.
    pub heartbeat: Duration,
    /// A broker without a granted heartbeat for this long serves no reads (R24) and is taken over.
    pub session: Duration,
    /// A proof of ownership is good for this long (E15).
    pub control: Duration,
    /// Added where one machine waits for another's session to lapse.
    pub skew: Duration,
    /// T of the election: the first seal of a life waits about this long, each later one twice the last.
    pub election: Duration,
    /// How long a peer may take to answer.
    pub peer: Duration,
    /// How long a command may take in all.
    pub submit: Duration,
    /// A commit answered later than this after its first send proves nothing (R23).
    pub ack: Duration,
    /// Between two looks at whether the brokers lead their shares; the first so long after brokers came or went. `None`:
    /// never.
    pub balance: Option<Duration>,
    /// A move whose successor, and then whose leader, takes longer than this is called off.
    pub moving: Duration,
    /// Before collected objects are deleted.
    pub delete_grace: Duration,
    /// A snapshot is due when the log since the last outgrows half of it, at least this (E9).
    pub snapshot_min: u64,
    /// What a request weighs in that: a reader that starts waits as long for it as for so many bytes.
    pub request_weight: u64,
}

impl Default for Timings {
    fn default() -> Timings {
        Timings {
            heartbeat: Duration::from_millis(500),
            session: Duration::from_millis(2_500),
            control: Duration::from_secs(1),
            skew: Duration::from_millis(200),
            election: Duration::from_millis(500),
            peer: Duration::from_secs(1),
            submit: Duration::from_secs(30),
            ack: Duration::from_secs(60),
            balance: None,
            moving: Duration::from_secs(60),
            delete_grace: Duration::from_secs(600),
            snapshot_min: 1 << 20,
            request_weight: 32 << 10,
        }
    }
}
