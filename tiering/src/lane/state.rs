//! The open parcel and the dial: when a parcel closes and goes out.
//!
//! Pure. A parcel closes when it is full; at once when somebody asked to flush; else as the dial says.
//!
//! *Where a request costs money*: at once while there is a PUT token, and at the latest when its oldest batch
//! has waited D = target − p99(close → ack), within [target/4, target]. Tokens bound the cost, D the latency.
//!
//! *Where it costs nothing* (a directory, one's own MinIO): at once when nothing is in flight, else when its
//! oldest batch has waited as long as a PUT usually takes. That is group commit: what arrives during one PUT
//! shares the next, so a light load is answered in one PUT's time, a heavy one fills its parcels (full ones
//! go out side by side), and many tiny creates never queue on the disk's one journal. The median bounds what
//! one straggler can hold back.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::log::Latencies;

/// The dial's settings.
#[derive(Clone, Copy, Debug)]
pub struct Dial {
    /// A parcel with so many bytes is full.
    pub size: u64,
    /// PUT tokens a second; `None` where a request costs nothing.
    pub rate: Option<f64>,
    /// Ack latency aimed at (p99).
    pub target: Duration,
    /// Un-acked bytes at which a lane is full.
    pub unacked: u64,
}

impl Dial {
    /// The defaults of design.md §4 for a store that costs, or does not.
    pub fn new(free: bool) -> Dial {
        Dial {
            size: 4 << 20,
            rate: (!free).then_some(8.0),
            target: Duration::from_millis(500),
            unacked: 256 << 20,
        }
    }

    /// Tokens that can be saved: a quarter of a second's, at least one.
    fn burst(&self) -> f64 {
        self.rate.map_or(1.0, |rate| (rate / 4.0).max(1.0))
    }
}

/// Before the first PUTs are answered, a free store is taken to need this long.
const USUAL: Duration = Duration::from_millis(5);
/// Parcels before their latencies are believed, and between two looks.
const LEARN: f64 = 20.0;
const REFRESH: u32 = 5;
/// Rounding of a token that is as good as whole.
const WHOLE: f64 = 1.0 - 1e-6;

/// A parcel that is not sent yet.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    bytes: u64,
    since: Instant,
    flush: bool,
}

/// A parcel that is sent and not committed.
#[derive(Clone, Copy, Debug)]
struct Sent {
    bytes: u64,
    closed: Instant,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct State {
    dial: Dial,
    waiting: VecDeque<Waiting>, // only the last is open
    sent: VecDeque<Sent>,       // the oldest un-acked first
    unacked: u64,
    tokens: f64,
    filled: Option<Instant>,
    acks: Latencies,
    since_look: u32,
    longest: Duration,
    usual: Duration,
}

impl State {
    /// Nothing open, nothing sent.
    pub fn new(dial: Dial) -> State {
        State {
            dial,
            waiting: VecDeque::new(),
            sent: VecDeque::new(),
            unacked: 0,
            tokens: dial.burst(),
            filled: None,
            acks: Latencies::new(1_000),
            since_look: 0,
            longest: dial.target / 2,
            usual: USUAL,
        }
    }

    /// `bytes` go into the open parcel; gives how many parcels go out before it. All that one call adds lies
    /// in one parcel.
    pub fn add(&mut self, now: Instant, bytes: u64) -> usize {
        self.unacked += bytes;
        match self.waiting.back_mut().filter(|open| open.bytes < self.dial.size) {
            Some(open) => open.bytes += bytes,
            None => self.waiting.push_back(Waiting { bytes, since: now, flush: false }),
        }
        self.waiting.len() - 1
    }

    /// What waits goes out as soon as the window has room, tokens or not.
    pub fn flush(&mut self) {
        self.waiting.iter_mut().for_each(|parcel| parcel.flush = true);
    }

    /// Whether the first waiting parcel closes now, with so many PUTs in flight and room for one more. If so
    /// it counts as sent.
    pub fn close(&mut self, now: Instant, in_flight: usize) -> bool {
        self.refill(now);
        let Some(first) = self.waiting.front().copied() else { return false };
        let full = self.waiting.len() > 1 || first.bytes >= self.dial.size;
        let waited = now.saturating_duration_since(first.since);
        let dial = match self.dial.rate {
            Some(_) => self.tokens >= WHOLE || waited >= self.longest,
            None => in_flight == 0 || waited >= self.usual.min(self.longest),
        };
        if !(full || first.flush || dial) {
            return false;
        }
        self.tokens = (self.tokens - 1.0).max(-1.0);
        self.waiting.pop_front();
        self.sent.push_back(Sent { bytes: first.bytes, closed: now });
        true
    }

    /// The oldest `count` sent parcels are committed.
    pub fn acked(&mut self, now: Instant, count: usize) {
        for parcel in self.sent.drain(..count.min(self.sent.len())) {
            self.unacked -= parcel.bytes;
            self.acks.add(now.saturating_duration_since(parcel.closed));
            self.since_look += 1;
        }
        if self.acks.count() < LEARN || self.since_look < REFRESH {
            return;
        }
        self.since_look = 0;
        let target = self.dial.target;
        if let (Some(p99), Some(p50)) = (self.acks.quantile(0.99), self.acks.quantile(0.5)) {
            self.longest = target.saturating_sub(p99).clamp(target / 4, target);
            self.usual = p50;
        }
    }

    /// When [`State::close`] may say yes with nothing else happening (room given). No batch, no timer.
    pub fn wake(&self, now: Instant) -> Option<Instant> {
        let first = self.waiting.front()?;
        let Some(rate) = self.dial.rate else { return Some(first.since + self.usual.min(self.longest)) };
        let missing = (1.0 - self.tokens_at(now)).max(0.0);
        let token = now + Duration::from_secs_f64(missing / rate.max(1e-3));
        Some(token.min(first.since + self.longest))
    }

    /// D: how long a batch may wait in the open parcel.
    pub fn longest_wait(&self) -> Duration {
        self.longest
    }

    /// Bytes added and not committed.
    pub fn unacked_bytes(&self) -> u64 {
        self.unacked
    }

    /// Whether producers must wait.
    pub fn is_full(&self) -> bool {
        self.unacked >= self.dial.unacked
    }

    /// Whether nothing waits to be sent.
    pub fn is_sent(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Asserts the invariants.
    pub fn check(&self) {
        let waiting: u64 = self.waiting.iter().map(|parcel| parcel.bytes).sum();
        let sent: u64 = self.sent.iter().map(|parcel| parcel.bytes).sum();
        assert_eq!(waiting + sent, self.unacked, "un-acked bytes");
        let closed = self.waiting.len().saturating_sub(1);
        assert!(self.waiting.iter().take(closed).all(|p| p.bytes >= self.dial.size), "only the last is open");
        assert!(self.longest >= self.dial.target / 4 && self.longest <= self.dial.target, "D");
        assert!((-1.0..=self.dial.burst()).contains(&self.tokens), "tokens");
    }

    fn tokens_at(&self, now: Instant) -> f64 {
        let since = self.filled.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        (self.tokens + since.as_secs_f64() * self.dial.rate.unwrap_or(0.0)).min(self.dial.burst())
    }

    fn refill(&mut self, now: Instant) {
        self.tokens = self.tokens_at(now);
        self.filled = Some(now);
    }
}

#[cfg(test)]
mod tests;
