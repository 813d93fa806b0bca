//! E15: a controller grants sessions only within T_ctl of its last proof of ownership.
//!
//! A proof is a PUT that became committed, timed by its first send; or, with nothing in flight, a GET of the
//! next key that finds nothing, timed by its send. It is asked for only while a heartbeat wants a grant.

use tidemark_proto::id::{BrokerEpoch, Position, Seq};
use tidemark_tiering::bucket::{Kind, Patience, Span};
use tidemark_tiering::keys;
use tidemark_tiering::witness::{Sight, saw};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::peers::Beat;
use super::super::timings::Timings;
use super::{Inner, Owner};

/// Heartbeats that wait for a proof, and the newest one.
#[derive(Debug)]
pub(super) struct Proof {
    timings: Timings,
    newest: Option<Instant>,
    trying: bool,
    parked: Vec<Parked>,
}

#[derive(Debug)]
struct Parked {
    epoch: BrokerEpoch,
    tell: oneshot::Sender<Beat>,
    since: Instant,
}

/// A proof by GET was tried.
#[derive(Debug)]
pub(super) struct Tried {
    seq: Seq,
    sent: Instant,
    /// Whether the key held nothing; `None` without an answer.
    absent: Option<bool>,
}

impl Proof {
    pub fn new(timings: Timings) -> Proof {
        Proof { timings, newest: None, trying: false, parked: Vec::new() }
    }

    /// Owned at `sent`.
    pub fn proven(&mut self, sent: Instant) {
        self.newest = self.newest.max(Some(sent));
    }

    fn holds(&self, now: Instant) -> bool {
        self.newest.is_some_and(|sent| now.saturating_duration_since(sent) < self.timings.control)
    }

    pub fn park(&mut self, epoch: BrokerEpoch, tell: oneshot::Sender<Beat>, since: Instant) {
        self.parked.push(Parked { epoch, tell, since });
    }
}

impl Owner {
    /// Grants what waits, if a proof holds; else tries for one.
    pub(super) fn grant(&mut self, now: Instant) {
        if self.proof.parked.is_empty() {
            return;
        }
        if self.proof.holds(now) {
            for parked in std::mem::take(&mut self.proof.parked) {
                let lives = self.durable.broker_of(parked.epoch).is_some_and(|b| b.alive);
                let granted = lives && self.roll.grant(parked.epoch, now);
                let _ = parked.tell.send(if granted { Beat::Granted } else { Beat::Alive });
            }
            return;
        }
        let old = |p: &Parked| now.saturating_duration_since(p.since) >= self.proof.timings.session;
        let (stale, parked): (Vec<Parked>, _) =
            std::mem::take(&mut self.proof.parked).into_iter().partition(old);
        self.proof.parked = parked;
        for parked in stale {
            saw(Sight::NoProof);
            let _ = parked.tell.send(Beat::Alive);
        }
        // With something in flight its commit is the proof; a GET then would prove nothing (M8).
        if !self.proof.trying && self.sent.is_empty() && self.batch.is_empty() {
            self.try_proof(now);
        }
    }

    fn try_proof(&mut self, sent: Instant) {
        self.proof.trying = true;
        let seq = self.appender.next_seq();
        let key = keys::meta(Position { generation: self.generation, seq });
        let (bucket, inner) = (self.shared.bucket.clone(), self.inner.clone());
        let task = self.shared.seams.tasks.spawn(async move {
            // One byte tells as much as the whole.
            let found = bucket.get(Kind::Meta, &key, Span::Range(0..1), Patience::Tries(1)).await;
            let absent = found.ok().map(|found| found.is_none());
            let _ = inner.send(Inner::Proof(Tried { seq, sent, absent })).await;
        });
        self.tasks.push(task.abort_handle());
    }

    /// `false` ends the ownership: somebody else's object stands at the next key.
    pub(super) fn proof_tried(&mut self, tried: Tried) -> bool {
        self.proof.trying = false;
        match tried.absent {
            Some(true) => {
                saw(Sight::ProofByGet);
                self.proof.proven(tried.sent);
            }
            // What was found may be our own, sent after the GET was.
            Some(false) if self.appender.next_seq() == tried.seq => {
                saw(Sight::Deposed);
                tracing::info!(generation = %self.generation, seq = %tried.seq, "another controller took over");
                return false;
            }
            Some(false) => {}
            // No answer: a store that refuses at once must not be asked without a pause. The next tick tries again.
            None => return true,
        }
        self.grant(Instant::now());
        true
    }
}
