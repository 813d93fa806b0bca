//! Where partitions' shares of runs lie, as far as it was looked up.
//!
//! Bounded by the number of shares; the partition that was looked up first is forgotten first. Runs never change,
//! so what is remembered stays true for as long as the image names all of them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tidemark_proto::id::{Millis, Offset, TopicPartition};
use uuid::Uuid;

/// Shares remembered.
const SHARES: usize = 1 << 19;

/// One partition's share of one object of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The run.
    pub run: Uuid,
    /// First offset.
    pub base: Offset,
    /// Last offset.
    pub last: Offset,
    /// Greatest timestamp.
    pub max_timestamp: Millis,
    /// Where in the object its batches begin.
    pub position: u64,
    /// Bytes of its batches.
    pub bytes: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Memo {
    of: BTreeMap<TopicPartition, (u64, Arc<Vec<Share>>)>,
    order: VecDeque<TopicPartition>,
    shares: usize,
}

impl Memo {
    /// The partition's shares, and the version from which on runs were not looked into.
    pub fn get(&self, tp: TopicPartition) -> Option<(u64, Arc<Vec<Share>>)> {
        self.of.get(&tp).cloned()
    }

    /// Remembers them.
    pub fn keep(&mut self, tp: TopicPartition, since: u64, shares: Arc<Vec<Share>>) {
        self.shares += shares.len() + 1;
        match self.of.insert(tp, (since, shares)) {
            Some((_, old)) => self.shares -= old.len() + 1,
            None => self.order.push_back(tp),
        }
        while self.shares > SHARES {
            let Some((_, old)) = self.order.pop_front().and_then(|tp| self.of.remove(&tp)) else { break };
            self.shares -= old.len() + 1;
        }
    }
}
