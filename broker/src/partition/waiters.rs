//! Long polls: fetches that wait for the high watermark of any of their partitions to move.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// One waiting fetch; it is woken once and then looks again.
#[derive(Debug, Default)]
pub struct Waiter {
    woken: AtomicBool,
    notify: Notify,
}

impl Waiter {
    /// Waits until woken; at once if it has been.
    pub async fn woken(&self) {
        if !self.woken.load(Ordering::Acquire) {
            self.notify.notified().await;
        }
    }

    /// Wakes the fetch.
    pub fn wake(&self) {
        self.woken.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    fn is_done(&self) -> bool {
        self.woken.load(Ordering::Acquire)
    }
}

/// The fetches that wait on one partition.
#[derive(Debug, Default)]
pub struct Waiters {
    list: Vec<Arc<Waiter>>,
    prune_at: usize,
}

impl Waiters {
    /// Adds a fetch. Those that gave up or were woken through another partition are dropped now and then.
    pub fn add(&mut self, waiter: Arc<Waiter>) {
        if self.list.len() >= self.prune_at {
            self.list.retain(|w| Arc::strong_count(w) > 1 && !w.is_done());
            self.prune_at = self.list.len() * 2 + 16;
        }
        self.list.push(waiter);
    }

    /// Wakes all.
    pub fn wake_all(&mut self) {
        self.list.drain(..).for_each(|w| w.wake());
    }

    /// How many wait.
    pub fn count(&self) -> usize {
        self.list.iter().filter(|w| Arc::strong_count(w) > 1 && !w.is_done()).count()
    }
}
