//! Memory of fetch answers: what is being read, and what was read and clients have not taken yet.
//!
//! A fetch waits for room and never fails for want of it. One that has waited for [`PATIENCE`] goes on without, with
//! one batch: clients that do not read may hold all of the budget for as long as their connections live, and must
//! not keep the others from their data. So memory stays below the budget and one batch a connection. Slices of files
//! take no memory and are not counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tidemark_proto::kafka::pieces::{Piece, Pieces};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Longest wait for room.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// See the module. Clones share it.
#[derive(Clone, Debug)]
pub struct Budget {
    room: Arc<Semaphore>,
    bytes: usize,
    waits: Arc<AtomicU64>,
}

/// A part of the budget, given back when it is dropped.
#[derive(Debug)]
pub struct Share(OwnedSemaphorePermit);

impl Budget {
    /// `bytes` for all fetches together (`tidemark.fetch.memory.bytes`).
    pub fn new(bytes: usize) -> Budget {
        let bytes = bytes.clamp(1, Semaphore::MAX_PERMITS);
        Budget { room: Arc::new(Semaphore::new(bytes)), bytes, waits: Arc::default() }
    }

    /// Room for `bytes`, if there is some now. More than there is altogether counts as all of it.
    pub fn try_take(&self, bytes: usize) -> Option<Share> {
        self.room.clone().try_acquire_many_owned(self.charge(bytes)).ok().map(Share)
    }

    /// Room for `bytes`, first come first served; `None` after [`PATIENCE`].
    pub async fn take(&self, bytes: usize) -> Option<Share> {
        self.waits.fetch_add(1, Ordering::Relaxed);
        let room = self.room.clone().acquire_many_owned(self.charge(bytes));
        tokio::time::timeout(PATIENCE, room).await.ok()?.ok().map(Share)
    }

    fn charge(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.bytes)).unwrap_or(u32::MAX)
    }

    /// Bytes taken now.
    pub fn used(&self) -> usize {
        self.bytes - self.room.available_permits().min(self.bytes)
    }

    /// Fetches that had to wait.
    pub fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }
}

impl Share {
    /// Ties the share to an answer's records, `all` in the order in which they leave: it is given back with the last
    /// of their buffers, and what it is too large by at once.
    pub fn bind<'a>(mut self, all: impl DoubleEndedIterator<Item = &'a mut Pieces>) {
        let (mut bytes, mut last) = (0, None);
        for piece in all.rev().flat_map(|pieces| pieces.0.iter_mut().rev()) {
            if let Piece::Bytes(buffer) = piece {
                bytes += buffer.len();
                last.get_or_insert(buffer);
            }
        }
        drop(self.0.split(self.0.num_permits().saturating_sub(bytes)));
        if let Some(last) = last {
            let buffer = std::mem::take(last);
            *last = Bytes::from_owner(Kept { buffer, _share: self });
        }
    }
}

/// A buffer that holds on to its share.
struct Kept {
    buffer: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(bytes: usize) -> Pieces {
        let mut pieces = Pieces::from(Bytes::from(vec![1; bytes / 2]));
        pieces.push(Bytes::from(vec![2; bytes - bytes / 2]));
        pieces
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_lives_as_long_as_the_last_buffer_of_its_answer() {
        let budget = Budget::new(1000);
        let share = budget.try_take(900).unwrap();
        assert!(budget.try_take(101).is_none());
        let mut all = [records(100), records(300), Pieces::new()];
        share.bind(all.iter_mut());
        assert_eq!(budget.used(), 400);
        let [first, mut second, _] = all;
        drop(first);
        second.0.remove(0);
        assert_eq!(budget.used(), 400, "what is left of the answer has not gone out");
        assert_eq!(second.clone().into_bytes().unwrap(), vec![2; 150]);
        drop(second);
        assert_eq!(budget.used(), 0);
        budget.try_take(10).unwrap().bind([&mut Pieces::new()].into_iter());
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_too_large_for_the_budget_takes_all_of_it() {
        let budget = Budget::new(1000);
        let share = budget.try_take(5000).unwrap();
        assert_eq!(budget.used(), 1000);
        drop(share);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_what_comes_back_and_gives_up_in_time() {
        let budget = Budget::new(1000);
        let share = budget.try_take(600).unwrap();
        let start = tokio::time::Instant::now();
        assert!(budget.take(500).await.is_none());
        assert_eq!(start.elapsed(), PATIENCE);
        let (found, ()) = tokio::join!(budget.take(500), async { drop(share) });
        assert!(found.is_some());
        assert_eq!((budget.used(), budget.waits()), (500, 2));
    }
}
