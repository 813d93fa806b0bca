//! What the proxy has seen and done, readable while it runs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::Serialize;

use super::faults::Fault;

/// Counters of one proxy.
#[derive(Debug, Default)]
pub struct Counters {
    faults: [AtomicU64; Fault::ALL.len()],
    answers: Mutex<BTreeMap<String, u64>>,
    late_delivered: Mutex<BTreeMap<u16, u64>>,
    /// Connections accepted.
    pub connections: AtomicU64,
    /// Bytes of request bodies.
    pub bytes_up: AtomicU64,
    /// Bytes of answer bodies.
    pub bytes_down: AtomicU64,
    /// Requests the upstream did not answer.
    pub upstream_errors: AtomicU64,
    /// Requests met by an outage.
    pub outages: AtomicU64,
}

/// The counters as JSON gives them.
#[derive(Debug, Serialize)]
pub struct Snapshot {
    /// Connections accepted.
    pub connections: u64,
    /// `METHOD status` of what the upstream answered.
    pub answers: BTreeMap<String, u64>,
    /// Faults by kind.
    pub faults: BTreeMap<Fault, u64>,
    /// What the upstream answered to late requests, by status.
    pub late_delivered: BTreeMap<u16, u64>,
    /// Bytes of request bodies.
    pub bytes_up: u64,
    /// Bytes of answer bodies.
    pub bytes_down: u64,
    /// Requests the upstream did not answer.
    pub upstream_errors: u64,
    /// Requests met by an outage.
    pub outages: u64,
}

/// Adds to a counter.
pub fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

impl Counters {
    /// One more of `fault`.
    pub fn fault(&self, fault: Fault) {
        add(&self.faults[fault as usize], 1);
    }

    /// The upstream answered.
    pub fn answer(&self, method: &str, status: u16) {
        *self.answers.lock().entry(format!("{method} {status}")).or_default() += 1;
    }

    /// The upstream answered a late request.
    pub fn late(&self, status: u16) {
        *self.late_delivered.lock().entry(status).or_default() += 1;
    }

    /// All of them now.
    pub fn snapshot(&self) -> Snapshot {
        let read = |c: &AtomicU64| c.load(Ordering::Relaxed);
        Snapshot {
            connections: read(&self.connections),
            answers: self.answers.lock().clone(),
            faults: Fault::ALL.iter().map(|f| (*f, read(&self.faults[*f as usize]))).collect(),
            late_delivered: self.late_delivered.lock().clone(),
            bytes_up: read(&self.bytes_up),
            bytes_down: read(&self.bytes_down),
            upstream_errors: read(&self.upstream_errors),
            outages: read(&self.outages),
        }
    }
}
