//! Counters of what upkeep of runs has done.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Samples;

/// See the module.
#[derive(Debug, Default)]
pub struct Upkeep {
    reclaimed_runs: AtomicU64,
    reclaimed_bytes: AtomicU64,
    merges: AtomicU64,
    merged_read: AtomicU64,
    merged_written: AtomicU64,
    compactions: AtomicU64,
    compacted_read: AtomicU64,
    compacted_written: AtomicU64,
}

impl Upkeep {
    /// Runs were un-named because nobody needed anything in them.
    pub fn reclaimed(&self, runs: usize, bytes: u64) {
        self.reclaimed_runs.fetch_add(runs as u64, Relaxed);
        self.reclaimed_bytes.fetch_add(bytes, Relaxed);
    }

    /// Runs were merged into others.
    pub fn merged(&self, read: u64, written: u64) {
        self.merges.fetch_add(1, Relaxed);
        self.merged_read.fetch_add(read, Relaxed);
        self.merged_written.fetch_add(written, Relaxed);
    }

    /// Runs were compacted into others.
    pub fn compacted(&self, read: u64, written: u64) {
        self.compactions.fetch_add(1, Relaxed);
        self.compacted_read.fetch_add(read, Relaxed);
        self.compacted_written.fetch_add(written, Relaxed);
    }

    /// Tells them.
    pub fn tell(&self, into: &mut Samples) {
        for (name, count) in [
            ("tidemark_runs_reclaimed", &self.reclaimed_runs),
            ("tidemark_runs_reclaimed_bytes", &self.reclaimed_bytes),
            ("tidemark_merges", &self.merges),
            ("tidemark_merges_read_bytes", &self.merged_read),
            ("tidemark_merges_written_bytes", &self.merged_written),
            ("tidemark_compactions", &self.compactions),
            ("tidemark_compactions_read_bytes", &self.compacted_read),
            ("tidemark_compactions_written_bytes", &self.compacted_written),
        ] {
            into.set(name, count.load(Relaxed) as f64);
        }
    }
}
