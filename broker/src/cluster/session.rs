//! A broker's session: whether it may serve reads now (R24), and the memory of who asks.
//!
//! Fresh means: less than T_session has passed since the *sending* of the last heartbeat that the controller
//! granted. Asking is what makes the next heartbeats ask for a grant (E15): without readers, no proof of
//! ownership is needed and no request reaches the bucket.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidemark_tiering::watch;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A broker's session. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Session(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    base: Instant,
    length: Duration,
    /// Microseconds since `base`; 0 = never.
    until: AtomicU64,
    asked: AtomicU64,
    nudge: Notify,
    rounds: watch::Sender<u64>,
}

impl Session {
    /// A session not granted yet, of `length`.
    pub(super) fn new(length: Duration) -> Session {
        let (until, asked, rounds) = (AtomicU64::new(0), AtomicU64::new(0), watch::Sender::new(0));
        Session(Arc::new(Inner { base: Instant::now(), length, until, asked, nudge: Notify::new(), rounds }))
    }

    /// Whether reads may be served at `now`. Costs two atomics.
    pub fn fresh(&self, now: Instant) -> bool {
        self.0.asked.fetch_max(self.micros(now).max(1), Ordering::Relaxed);
        self.lasts(now)
    }

    fn lasts(&self, now: Instant) -> bool {
        self.micros(now) < self.0.until.load(Ordering::Acquire)
    }

    /// Asks for a grant now where there is none; `true` if reads may be served. Gives up with the second
    /// heartbeat that brought none.
    pub async fn refresh(&self) -> bool {
        let mut rounds = self.0.rounds.subscribe();
        for _ in 0..2 {
            if self.fresh(Instant::now()) {
                return true;
            }
            self.0.nudge.notify_one();
            if tokio::time::timeout(self.0.length, rounds.changed()).await.is_err() {
                break;
            }
        }
        self.fresh(Instant::now())
    }

    /// Proves anew, however fresh: `true` if a heartbeat sent after this call was granted.
    pub async fn prove(&self) -> bool {
        let asked = Instant::now();
        let mut rounds = self.0.rounds.subscribe();
        for _ in 0..3 {
            self.fresh(asked);
            self.0.nudge.notify_one();
            if tokio::time::timeout(self.0.length, rounds.changed()).await.is_err() {
                break;
            }
            if self.0.until.load(Ordering::Acquire) >= self.micros(asked + self.0.length) {
                return true;
            }
        }
        false
    }

    /// Whether somebody asked within the last session length.
    pub(super) fn has_readers(&self, now: Instant) -> bool {
        let asked = self.0.asked.load(Ordering::Relaxed);
        asked != 0 && self.micros(now) < asked + micros(self.0.length)
    }

    /// A heartbeat sent at `sent` was granted.
    pub(super) fn renewed(&self, sent: Instant) {
        self.0.until.fetch_max(self.micros(sent + self.0.length), Ordering::AcqRel);
    }

    /// The epoch is over.
    pub(super) fn ended(&self) {
        self.0.until.store(0, Ordering::Release);
    }

    /// A heartbeat was answered, or not.
    pub(super) fn round(&self) {
        self.0.rounds.send_modify(|n| *n += 1);
    }

    /// Until somebody wants a heartbeat now.
    pub(super) async fn nudged(&self) {
        self.0.nudge.notified().await;
    }

    fn micros(&self, at: Instant) -> u64 {
        micros(at.saturating_duration_since(self.0.base))
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_millis(2_500);

    #[tokio::test(start_paused = true)]
    async fn a_session_lapses_counted_from_the_sending_of_the_heartbeat() {
        let session = Session::new(LENGTH);
        let sent = Instant::now();
        tokio::time::advance(Duration::from_millis(400)).await;
        assert!(!session.fresh(Instant::now()), "not granted yet");
        session.renewed(sent);
        assert!(session.fresh(sent + LENGTH - Duration::from_millis(1)));
        assert!(!session.fresh(sent + LENGTH));
        session.renewed(sent + Duration::from_secs(1));
        session.renewed(sent); // answers may overtake one another
        assert!(session.fresh(sent + LENGTH));
        session.ended();
        assert!(!session.fresh(sent));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_reads_until_somebody_asks() {
        let session = Session::new(LENGTH);
        tokio::time::advance(Duration::from_secs(1)).await;
        let now = Instant::now();
        assert!(!session.has_readers(now));
        session.fresh(now);
        assert!(session.has_readers(now + LENGTH / 2));
        assert!(!session.has_readers(now + LENGTH));
    }
}
