//! A second copy of a read that is late: the answer that comes first counts.
//!
//! For reads and listings only, which change nothing: two answers are both true of some moment after the first was
//! sent. A few in a hundred requests may be doubled, so that a store that is slow as a whole is not asked twice for
//! everything.

use std::future::Future;
use std::time::Duration;

use super::trouble::Trouble;
use super::{Bucket, Kind, Span};

/// What each read adds to the allowance, and what a second copy takes from it.
const EARNED: u32 = 5;
const SPENT: u32 = 100;
/// Most second copies in a burst, in the same unit.
const SAVED: u32 = 20 * SPENT;
/// What a read of a whole parcel or of a part of a run may move before it counts as late.
const LARGE: u64 = 4 << 20;
/// A slow but fair store moves so many bytes in a second.
const SLOW: f64 = (4 << 20) as f64;

/// Second copies that may still be sent.
#[derive(Debug)]
pub(super) struct Allowance(u32);

impl Default for Allowance {
    fn default() -> Allowance {
        Allowance(SAVED)
    }
}

impl Allowance {
    fn earn(&mut self) {
        self.0 = (self.0 + EARNED).min(SAVED);
    }

    fn spend(&mut self) -> bool {
        let left = self.0.checked_sub(SPENT);
        self.0 = left.unwrap_or(self.0);
        left.is_some()
    }
}

/// Bytes that a read is expected to move, at most about.
pub(super) fn expected(kind: Kind, span: &Span) -> u64 {
    match span {
        Span::Range(range) => range.end.saturating_sub(range.start),
        Span::Tail(bytes) => *bytes,
        Span::All => match kind {
            Kind::Parcel | Kind::Snapshot | Kind::Run | Kind::Segment => LARGE,
            Kind::Seal | Kind::Meta | Kind::Checkpoint | Kind::Manifest | Kind::Probe => 0,
        },
    }
}

impl Bucket {
    /// What `once` comes to, asked a second time if it is late for `bytes`.
    pub(super) async fn asked_twice_if_late<T, F>(
        &self,
        bytes: u64,
        once: impl Fn() -> F,
    ) -> Result<T, Trouble>
    where
        F: Future<Output = Result<T, Trouble>>,
    {
        // Boxed: a request is large, and callers hold it in futures of their own.
        let mut first = Box::pin(once());
        let Some(late) = self.0.options.late else { return first.await };
        self.0.seconds.lock().earn();
        let late = late + Duration::from_secs_f64(bytes as f64 / SLOW);
        if let Ok(result) = tokio::time::timeout(late, &mut first).await {
            return result;
        }
        if !self.0.seconds.lock().spend() {
            return first.await;
        }
        let mut second = Box::pin(once());
        let (result, other_is_first) = tokio::select! {
            biased;
            result = &mut first => (result, false),
            result = &mut second => (result, true),
        };
        match result {
            Err(Trouble::Timeout(_) | Trouble::Unknown(_)) if other_is_first => first.await,
            Err(Trouble::Timeout(_) | Trouble::Unknown(_)) => second.await,
            answer => answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::bucket::{Memory, Options};
    use crate::seam::Seams;

    fn bucket(late: Option<Duration>) -> Bucket {
        let seams = Seams::seeded(1);
        let store = std::sync::Arc::new(Memory::new(seams.clock.clone()));
        Bucket::new(store, Options { late, ..Options::default() }, &seams)
    }

    const LATE: Duration = Duration::from_millis(100);

    /// Answers its number after `waits[number]` seconds; those below `failing` time out.
    async fn asked(bucket: &Bucket, waits: [u64; 2], failing: usize) -> (Result<usize, Trouble>, usize) {
        let copies = Cell::new(0);
        let once = || {
            let number = copies.get();
            copies.set(number + 1);
            async move {
                tokio::time::sleep(Duration::from_secs(waits[number])).await;
                if number < failing { Err(Trouble::Timeout("late".into())) } else { Ok(number) }
            }
        };
        let result = bucket.asked_twice_if_late(0, once).await;
        (result, copies.get())
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_of_two_answers_counts() {
        let bucket = bucket(Some(LATE));
        assert!(matches!(asked(&bucket, [0, 0], 0).await, (Ok(0), 1)));
        assert!(matches!(asked(&bucket, [5, 1], 0).await, (Ok(1), 2)));
        assert!(matches!(asked(&bucket, [2, 5], 0).await, (Ok(0), 2)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_that_fails_leaves_it_to_the_other() {
        let bucket = bucket(Some(LATE));
        assert!(matches!(asked(&bucket, [1, 5], 1).await, (Ok(1), 2)));
        assert!(matches!(asked(&bucket, [5, 1], 2).await, (Err(Trouble::Timeout(_)), 2)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_always_late_is_not_asked_twice_for_everything() {
        let bucket = bucket(Some(LATE));
        let mut copies = 0;
        for _ in 0..1000 {
            copies += asked(&bucket, [1, 1], 0).await.1;
        }
        assert!((1050..=1080).contains(&copies), "{copies} requests for 1000 reads");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_is_asked_twice() {
        assert!(matches!(asked(&bucket(None), [9, 0], 0).await, (Ok(0), 1)));
    }
}
