//! Enforcing client quotas: how long a connection is held after an answer (KIP-219).
//!
//! One bucket of tokens per kind and share of a quota, as large as Kafka's window: what is sent beyond it is waited for at
//! the quota's rate. The answer goes out at once with the time in it; the connection is not read from meanwhile.
//! Rates come out of the metadata with every request, so a change holds at once. request_percentage and
//! controller_mutation_rate are stored and shown, but nothing is held back for them.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::cluster::Image;
use crate::cluster::quota::{self, CONSUMER_BYTE_RATE, PRODUCER_BYTE_RATE};

/// Buckets kept at most; full ones go first, since a new one is full too.
const BUCKETS_MAX: usize = 10_000;

/// What is metered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Bytes of Produce requests.
    Produce,
    /// Bytes of Fetch answers.
    Fetch,
}

impl Kind {
    fn key(self) -> &'static str {
        match self {
            Kind::Produce => PRODUCER_BYTE_RATE,
            Kind::Fetch => CONSUMER_BYTE_RATE,
        }
    }
}

/// Whose share: the user and the client id, each empty where all share.
type Share = (Kind, String, String);

#[derive(Clone, Copy, Debug)]
struct Bucket {
    rate: f64,
    tokens: f64,
    at: Instant,
}

/// The buckets of one broker.
#[derive(Debug)]
pub struct Quotas {
    window: f64,
    buckets: Mutex<BTreeMap<Share, Bucket>>,
}

/// A quota that holds for a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    rate: f64,
    share: Share,
}

impl Quotas {
    /// Buckets that hold `window` seconds' worth of a rate.
    pub fn new(window: f64) -> Quotas {
        Quotas { window, buckets: Mutex::default() }
    }

    /// The quota of `kind` that holds for `principal` and `client`, if there is one.
    pub fn bound(image: &Image, kind: Kind, principal: &str, client: &str) -> Option<Bound> {
        let user = principal.strip_prefix("User:").unwrap_or(principal);
        let found = quota::find(image.quotas(), kind.key(), user, client)?;
        let part = |named: bool, name: &str| if named { name.to_owned() } else { String::new() };
        Some(Bound {
            rate: found.rate,
            share: (kind, part(found.by_user, user), part(found.by_client, client)),
        })
    }

    /// The most bytes one answer may have under `bound`: a window's worth, so that a reader always gets on.
    pub fn most(&self, bound: &Bound) -> usize {
        (bound.rate * self.window) as usize
    }

    /// How long to wait before `bytes` more are in order; nothing is taken while anything is owed.
    pub fn wait(&self, bound: &Bound, bytes: usize) -> Duration {
        self.with(bound, |bucket| owed(bucket.tokens - bytes as f64, bucket.rate))
    }

    /// Takes `bytes` and says how long the connection has to be held for them.
    pub fn take(&self, bound: &Bound, bytes: usize) -> Duration {
        self.with(bound, |bucket| {
            bucket.tokens -= bytes as f64;
            owed(bucket.tokens, bucket.rate)
        })
    }

    fn with<T>(&self, bound: &Bound, on: impl FnOnce(&mut Bucket) -> T) -> T {
        let now = Instant::now();
        let full = bound.rate * self.window;
        let mut buckets = self.buckets.lock();
        if buckets.len() >= BUCKETS_MAX && !buckets.contains_key(&bound.share) {
            buckets.retain(|_, bucket| refilled(bucket, now, self.window) < bucket.rate * self.window);
        }
        let fresh = Bucket { rate: bound.rate, tokens: full, at: now };
        let bucket = buckets.entry(bound.share.clone()).or_insert(fresh);
        let tokens = refilled(bucket, now, self.window);
        *bucket = Bucket { rate: bound.rate, tokens: tokens.min(full), at: now };
        on(bucket)
    }
}

fn refilled(bucket: &Bucket, now: Instant, window: f64) -> f64 {
    let since = now.saturating_duration_since(bucket.at).as_secs_f64();
    (bucket.tokens + since * bucket.rate).min(bucket.rate * window)
}

fn owed(tokens: f64, rate: f64) -> Duration {
    // Waits are told in milliseconds; a day is the most that makes sense.
    let seconds = (-tokens / rate).clamp(0.0, 86_400.0);
    Duration::from_millis((seconds * 1_000.0).ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::quota::{Entity, Part, Rate};
    use crate::cluster::record::Record;

    fn image(rows: &[(Option<&str>, Option<&str>, f64)]) -> Image {
        let mut image = Image::default();
        for (user, client, rate) in rows {
            let part = |name: &str| Part::Named(name.to_owned());
            let entity = Entity { user: user.map(part), client: client.map(part), ip: None };
            let set = vec![(PRODUCER_BYTE_RATE.to_owned(), Some(Rate::new(*rate)))];
            image.apply(&Record::QuotasSet { entity, set });
        }
        image
    }

    #[tokio::test(start_paused = true)]
    async fn what_goes_beyond_the_window_is_waited_for_at_the_rate() {
        let image = image(&[(None, Some("c"), 100.0)]);
        let bound = Quotas::bound(&image, Kind::Produce, "User:u", "c").unwrap();
        let quotas = Quotas::new(10.0);
        assert_eq!(quotas.take(&bound, 1_000), Duration::ZERO, "the window");
        assert_eq!(quotas.take(&bound, 50), Duration::from_millis(500));
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(quotas.take(&bound, 0), Duration::ZERO);
        assert_eq!(quotas.take(&bound, 100), Duration::from_secs(1));
        tokio::time::advance(Duration::from_secs(1_000)).await;
        assert_eq!(quotas.take(&bound, 1_001), Duration::from_millis(10), "idle time is worth one window");
        assert_eq!(quotas.wait(&bound, 1), Duration::from_millis(20));
        assert_eq!(quotas.wait(&bound, 1), Duration::from_millis(20), "asking takes nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_is_as_wide_as_its_row() {
        let image = image(&[(Some("u"), None, 10.0), (None, Some("c"), 20.0)]);
        let bound = |user, client| Quotas::bound(&image, Kind::Produce, user, client);
        assert_eq!(bound("User:u", "x"), bound("User:u", "y"), "all of a user's clients share");
        assert_eq!(bound("User:a", "c"), bound("User:b", "c"), "all users of a client id share");
        assert_ne!(bound("User:u", "c"), bound("User:a", "c"));
        assert_eq!(bound("User:a", "x"), None);
        assert_eq!(Quotas::bound(&image, Kind::Fetch, "User:u", "x"), None);
    }
}
