//! A request's writes on their way: answered together, when the last of them is decided and durable.

use std::collections::BTreeMap;

use tidemark_proto::id::Seq;
use tidemark_proto::kafka::error::ErrorCode;
use tokio::sync::oneshot;

use super::{WriteResults, Written};

/// One request's writes.
#[derive(Debug)]
pub(super) struct Ticket {
    results: Vec<Option<Result<Written, ErrorCode>>>,
    undecided: usize,
    durable_with: Option<Seq>,
    reply: oneshot::Sender<WriteResults>,
    early: bool,
}

impl Ticket {
    /// Answers with what was decided; what was not is `otherwise`.
    pub(super) fn answer(self, otherwise: ErrorCode) {
        let results = self.results.into_iter().map(|r| r.unwrap_or(Err(otherwise))).collect();
        self.reply.send(results).ok(); // the connection may be gone
    }

    /// Answers every write with `code`: the lane has ended, nothing is known to be durable.
    pub(super) fn refuse(self, code: ErrorCode) {
        let results = self.results.iter().map(|_| Err(code)).collect();
        self.reply.send(results).ok();
    }
}

/// Tickets with undecided writes, by number.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    open: BTreeMap<u64, Ticket>,
    next: u64,
}

impl Tickets {
    /// Opens a ticket for `writes` writes.
    pub(super) fn open(&mut self, writes: usize, reply: oneshot::Sender<WriteResults>, early: bool) -> u64 {
        let number = self.next;
        self.next += 1;
        let ticket =
            Ticket { results: vec![None; writes], undecided: writes, durable_with: None, reply, early };
        self.open.insert(number, ticket);
        number
    }

    /// Notes the decision on write `slot`. When it was the last, gives the ticket back with the sequence whose commit
    /// releases it.
    pub(super) fn decide(
        &mut self,
        number: u64,
        slot: usize,
        result: Result<Written, ErrorCode>,
        durable_with: Option<Seq>,
    ) -> Option<(Ticket, Option<Seq>)> {
        let ticket = self.open.get_mut(&number).expect("a write is decided once, while its ticket is open");
        assert!(ticket.results[slot].replace(result).is_none(), "a write is decided once");
        ticket.undecided -= 1;
        ticket.durable_with = ticket.durable_with.max(durable_with);
        if ticket.undecided > 0 {
            return None;
        }
        let ticket = self.open.remove(&number).expect("it was there above");
        let durable_with = ticket.durable_with.filter(|_| !ticket.early);
        Some((ticket, durable_with))
    }

    /// All that are still open.
    pub(super) fn take(&mut self) -> Vec<Ticket> {
        std::mem::take(&mut self.open).into_values().collect()
    }
}
