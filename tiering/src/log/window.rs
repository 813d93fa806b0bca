//! The window of a fenced log: what is sent, what is durable, what is committed.
//!
//! Pure. `commit` is the end of the contiguous durable prefix of the *whole* log (R5) and the only thing
//! acks, reads and offsets may follow; after a fence it never moves again (R14). A sequence number is given
//! once and never skipped (R4). Also decides which object may be hedged, and when one is stuck (R7). Knows
//! no bytes, no store and no clock.

use std::collections::VecDeque;
use std::time::Duration;

use tidemark_proto::id::Seq;
use tokio::time::Instant;

use super::latency::Classes;

/// Bounds of a window.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// PUTs in flight: objects sent and not durable (R7).
    pub in_flight: usize,
    /// Objects between commit and the next sequence number, the durable ones behind a gap included.
    pub span: usize,
    /// An answer later than this after the first send proves nothing by itself (R23).
    pub t_ack: Duration,
    /// An object not durable for this long is stuck (R7).
    pub t_stuck: Duration,
    /// Copies that may be sent besides the first.
    pub hedges: u32,
    /// Share of the sends that may be hedges.
    pub budget: f64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            in_flight: 16,
            span: 1_024,
            t_ack: Duration::from_secs(60),
            t_stuck: Duration::from_secs(120),
            hedges: 3,
            budget: 0.05,
        }
    }
}

/// The commit moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The new commit: every sequence number below it is durable.
    pub upto: Seq,
    /// First send of the oldest object that is newly committed (E15).
    pub first_sent: Instant,
    /// An answer among them came later than T_ack after its first send (R23): before anything is acked, a
    /// read of the metadata must prove the log unsealed.
    pub slow: bool,
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    size: u64,
    first_sent: Instant,
    last_sent: Instant,
    hedges: u32,
    landed: Option<Instant>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Window {
    limits: Limits,
    commit: Seq,
    flights: VecDeque<Flight>, // the object at `commit` first
    in_flight: usize,
    tokens: f64,
    classes: Classes,
    fence: Option<Seq>,
    stuck_told: Option<Seq>,
}

/// Hedges that may be saved up, and had at the start.
const TOKENS: f64 = 10.0;
const FIRST_TOKENS: f64 = 5.0;

impl Window {
    /// An empty window whose next sequence number is `from`.
    pub fn new(from: Seq, limits: Limits) -> Window {
        Window {
            limits,
            commit: from,
            flights: VecDeque::new(),
            in_flight: 0,
            tokens: FIRST_TOKENS,
            classes: Classes::default(),
            fence: None,
            stuck_told: None,
        }
    }

    /// The end of the contiguous durable prefix (R5).
    pub fn commit(&self) -> Seq {
        self.commit
    }

    /// The next object's sequence number.
    pub fn next(&self) -> Seq {
        Seq(self.commit.0 + self.flights.len() as u64)
    }

    /// Objects sent and not durable.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Where the log was fenced.
    pub fn fence(&self) -> Option<Seq> {
        self.fence
    }

    /// Whether another object may be sent.
    pub fn has_room(&self) -> bool {
        self.fence.is_none()
            && self.in_flight < self.limits.in_flight
            && self.flights.len() < self.limits.span
    }

    /// An object of `size` bytes is sent; gives its sequence number, or nothing after a fence (E4).
    pub fn send(&mut self, now: Instant, size: u64) -> Option<Seq> {
        if self.fence.is_some() {
            return None;
        }
        let seq = self.next();
        self.flights.push_back(Flight { size, first_sent: now, last_sent: now, hedges: 0, landed: None });
        self.in_flight += 1;
        self.tokens = (self.tokens + self.limits.budget).min(TOKENS);
        Some(seq)
    }

    /// The first copy of an object took this long, whichever copy won.
    pub fn timed(&mut self, size: u64, took: Duration) {
        self.classes.add(size, took);
    }

    /// A copy of `seq` is durable. Gives the move of the commit, if it moved.
    pub fn landed(&mut self, now: Instant, seq: Seq) -> Option<Committed> {
        let flight = self.flight_mut(seq)?;
        if flight.landed.is_some() {
            return None;
        }
        flight.landed = Some(now);
        self.in_flight -= 1;
        if self.fence.is_some() {
            return None; // R14: nothing commits after the fence
        }
        let mut moved = None;
        while let Some(Flight { landed: Some(at), first_sent, .. }) = self.flights.front().copied() {
            self.flights.pop_front();
            self.commit = self.commit.next();
            let late = at.duration_since(first_sent) > self.limits.t_ack;
            let before = moved.map_or((first_sent, false), |m: Committed| (m.first_sent, m.slow));
            moved = Some(Committed { upto: self.commit, first_sent: before.0, slow: before.1 || late });
        }
        moved
    }

    /// Something else stands at `seq`: nothing commits from now on (R14).
    pub fn fenced(&mut self, seq: Seq) {
        self.fence.get_or_insert(seq);
    }

    /// The object that should be sent once more now, if any; counts it as sent. Only the oldest un-acked one
    /// is ever hedged, as all others wait for it.
    pub fn hedge(&mut self, now: Instant) -> Option<Seq> {
        let due = self.hedge_due()?;
        if due > now || self.tokens < 1.0 {
            return None;
        }
        self.tokens -= 1.0;
        let oldest = self.flights.front_mut()?;
        oldest.hedges += 1;
        oldest.last_sent = now;
        Some(self.commit)
    }

    /// The object that has been stuck since some time, told once (R7).
    pub fn stuck(&mut self, now: Instant) -> Option<Seq> {
        let due = self.stuck_due()?;
        if due > now {
            return None;
        }
        self.stuck_told = Some(self.commit);
        Some(self.commit)
    }

    /// When to ask [`Window::hedge`] and [`Window::stuck`] again if nothing happens before.
    pub fn wake(&self) -> Option<Instant> {
        let hedge = self.hedge_due().filter(|_| self.tokens >= 1.0);
        [hedge, self.stuck_due()].into_iter().flatten().min()
    }

    /// Asserts the invariants.
    pub fn check(&self) {
        assert!(self.flights.front().is_none_or(|f| f.landed.is_none() || self.fence.is_some()), "R5");
        let open = self.flights.iter().filter(|f| f.landed.is_none()).count();
        assert_eq!(open, self.in_flight, "in-flight count");
        assert!(self.flights.iter().all(|f| f.hedges <= self.limits.hedges), "hedges per object");
    }

    fn hedge_due(&self) -> Option<Instant> {
        let oldest = self.flights.front()?;
        if self.fence.is_some() || oldest.landed.is_some() || oldest.hedges >= self.limits.hedges {
            return None;
        }
        Some(oldest.last_sent + self.classes.patience(oldest.size) * (1 << oldest.hedges))
    }

    fn stuck_due(&self) -> Option<Instant> {
        let oldest = self.flights.front()?;
        if self.fence.is_some() || oldest.landed.is_some() || self.stuck_told == Some(self.commit) {
            return None;
        }
        Some(oldest.first_sent + self.limits.t_stuck)
    }

    fn flight_mut(&mut self, seq: Seq) -> Option<&mut Flight> {
        let at = seq.0.checked_sub(self.commit.0)?;
        self.flights.get_mut(usize::try_from(at).ok()?)
    }
}

#[cfg(test)]
mod tests;
