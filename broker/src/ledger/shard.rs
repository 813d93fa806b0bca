//! One partition's groups while this broker leads it: state, batches on their way, replies held back.
//!
//! Batches are numbered by tickets. A group remembers the ticket of its last record; whatever is said about
//! it waits for that. No I/O: the appender carries the batches, the task hears how they fared.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tidemark_proto::id::Millis;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::text::Text;
use tidemark_proto::record::build::Builder;
use tokio::sync::{mpsc, oneshot};

use super::appender::{Append, FLYING_MAX};
use super::load::Loaded;
use crate::group::command::Reply;
use crate::group::record::KeyValue;
use crate::group::state::Group;

/// A batch is closed before it outgrows this; one command's records stay together even so.
const BATCH_BYTES: usize = 512 << 10;

/// Bytes that may wait for their turn; past that, commands that write are refused (15) until some are durable.
const BACKLOG_BYTES: usize = 16 << 20;

/// Somebody who waits, and what for.
pub type Answer = (oneshot::Sender<Result<Reply, ErrorCode>>, Result<Reply, ErrorCode>);

/// One group and the ticket of its last record.
#[derive(Debug, Default)]
pub struct Entry {
    pub group: Group,
    pub ticket: u64,
}

/// See the module.
pub struct Shard {
    pub groups: BTreeMap<Text, Entry>,
    batches: mpsc::Sender<Append>,
    /// The batch being filled has the number `filling`; all up to `durable` are in the bucket.
    open: Builder,
    filling: u64,
    durable: u64,
    queue: VecDeque<Append>,
    backlog: usize,
    flying: usize,
    held: BTreeMap<u64, Vec<Answer>>,
    doomed: BTreeSet<Text>,
}

impl Shard {
    pub fn new(loaded: Loaded, batches: mpsc::Sender<Append>) -> Shard {
        let entry = |(id, group)| (id, Entry { group, ticket: 0 });
        Shard {
            groups: loaded.into_iter().map(entry).collect(),
            batches,
            open: Builder::new(),
            filling: 1,
            durable: 0,
            queue: VecDeque::new(),
            backlog: 0,
            flying: 0,
            held: BTreeMap::new(),
            doomed: BTreeSet::new(),
        }
    }

    /// Whether no more records are taken for now.
    pub fn is_full(&self) -> bool {
        self.backlog + self.open.size() > BACKLOG_BYTES
    }

    /// Takes the records of one command; returns the ticket of their batch.
    pub fn push(&mut self, records: &[KeyValue], now: Millis) -> u64 {
        let size: usize = records.iter().map(|(k, v)| k.len() + v.as_ref().map_or(0, |v| v.len())).sum();
        if !self.open.is_empty() && self.open.size() + size > BATCH_BYTES {
            self.close();
        }
        for (key, value) in records {
            self.open.append(now, Some(key), value.as_deref());
        }
        self.filling
    }

    fn close(&mut self) {
        let open = std::mem::take(&mut self.open);
        let batch = open.build().bytes().clone();
        self.backlog += batch.len();
        self.queue.push_back(Append { ticket: self.filling, batch });
        self.filling += 1;
    }

    /// Sends off what may go. While many batches fly, commands gather in the open one.
    pub fn flush(&mut self) {
        if !self.open.is_empty() && self.flying + self.queue.len() < FLYING_MAX {
            self.close();
        }
        while self.flying < FLYING_MAX
            && let Some(append) = self.queue.pop_front()
        {
            self.backlog -= append.batch.len();
            self.flying += 1;
            // The channel has room for all that may fly; it is closed only when a failure is on its way.
            self.batches.try_send(append).ok();
        }
    }

    /// A batch is in the bucket, and with it all before: who waited for them is answered.
    pub fn durable(&mut self, ticket: u64) {
        assert_eq!(ticket, self.durable + 1, "batches become durable in order");
        self.durable = ticket;
        self.flying -= 1;
        while let Some(entry) = self.held.first_entry().filter(|e| *e.key() <= ticket) {
            entry.remove().into_iter().for_each(answer);
        }
        let durable = self.durable;
        let settled = |e: &Entry| e.ticket <= durable;
        let due: Vec<Text> =
            self.doomed.iter().filter(|id| self.groups.get(*id).is_none_or(settled)).cloned().collect();
        for id in due {
            self.doomed.remove(&id);
            self.forget_if_nothing(&id);
        }
        self.flush();
    }

    /// Answers now, or when the batch of this ticket is durable.
    pub fn hold(&mut self, ticket: u64, waiting: Answer) {
        if ticket <= self.durable {
            answer(waiting);
        } else {
            self.held.entry(ticket).or_default().push(waiting);
        }
    }

    /// Drops a group that nothing is known of, once the log has its end.
    pub fn forget_if_nothing(&mut self, id: &Text) {
        let Some(entry) = self.groups.get(id).filter(|e| e.group.is_nothing()) else { return };
        if entry.ticket <= self.durable {
            self.groups.remove(id);
        } else {
            self.doomed.insert(id.clone());
        }
    }

    /// Ends the shard; who waits is sent away.
    pub fn refuse_all(self, code: ErrorCode) {
        for (to, _) in self.held.into_values().flatten() {
            to.send(Err(code)).ok();
        }
    }
}

fn answer((to, result): Answer) {
    to.send(result).ok(); // its connection may be gone
}
