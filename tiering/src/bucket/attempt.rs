//! One request: its time limit, its count, its mark on the bucket's health; and the wait before the next.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use super::meter::{Outcome, Verb};
use super::trouble::Trouble;
use super::{Bucket, Kind};

/// What a request that succeeded moved.
pub(super) struct Moved<T> {
    pub(super) value: T,
    pub(super) bytes: u64,
    pub(super) requests: u64,
}

impl<T> Moved<T> {
    pub(super) fn bytes(value: T, bytes: u64) -> Moved<T> {
        Moved { value, bytes, requests: 1 }
    }
}

impl Bucket {
    /// Runs one request. A request whose caller goes away is counted too: it left for the store.
    pub(super) async fn attempt<T>(
        &self,
        (kind, verb): (Kind, Verb),
        key: &str,
        work: impl Future<Output = Result<Moved<T>, Trouble>>,
    ) -> Result<T, Trouble> {
        let mut count = Count { bucket: self, kind, verb, start: Instant::now(), done: false };
        let result = work.await;
        match result {
            Ok(moved) => {
                count.end(Outcome::Done, moved.requests, moved.bytes);
                self.0.watch.lock().answered();
                Ok(moved.value)
            }
            Err(trouble) => {
                count.end(trouble.outcome(), 1, 0);
                self.note(kind, verb, key, &trouble);
                Err(trouble)
            }
        }
    }

    fn note(&self, kind: Kind, verb: Verb, key: &str, trouble: &Trouble) {
        let mut watch = self.0.watch.lock();
        let refused = match trouble {
            Trouble::Exists | Trouble::Absent | Trouble::Range(_) => return watch.answered(),
            Trouble::Timeout(_) | Trouble::Unknown(_) => false,
            Trouble::Refused(_) => true,
        };
        let why = trouble.text();
        if watch.failed(Instant::now(), why, refused) {
            tracing::error!(?verb, kind = kind.name(), key, why, "the store refuses; trying on");
        } else {
            tracing::debug!(?verb, kind = kind.name(), key, why, "attempt failed");
        }
    }

    /// Time allowed for an attempt that moves `bytes`.
    pub(super) fn limit(&self, bytes: usize) -> Duration {
        self.0.options.attempt + Duration::from_secs_f64(bytes as f64 / f64::from(1 << 20))
    }

    /// `work`, or [`Trouble::Timeout`] after `limit`.
    pub(super) async fn within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Trouble> {
        match tokio::time::timeout(limit, work).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(Trouble::of(&error)),
            Err(_) => Err(Trouble::Timeout(format!("no answer within {:.1} s", limit.as_secs_f64()))),
        }
    }

    /// Waits before attempt number `failed + 1`: doubling from 20 ms to 5 s, the last half of it random.
    pub(super) async fn pause(&self, failed: u32) {
        let ceiling = FIRST_PAUSE.saturating_mul(1 << failed.min(16)).min(LONGEST_PAUSE);
        let share = 0.5 + 0.5 * self.0.seams.entropy.unit();
        tokio::time::sleep(ceiling.mul_f64(share)).await;
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

struct Count<'a> {
    bucket: &'a Bucket,
    kind: Kind,
    verb: Verb,
    start: Instant,
    done: bool,
}

impl Count<'_> {
    fn end(&mut self, outcome: Outcome, requests: u64, bytes: u64) {
        self.done = true;
        let (prices, row) = (self.bucket.prices(), (self.kind, self.verb, outcome));
        self.bucket.0.meter.lock().add(prices, row, requests, bytes, self.start.elapsed());
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.end(Outcome::Unknown, 1, 0);
        }
    }
}
