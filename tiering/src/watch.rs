//! A value that one side sets and others wait on, like tokio's `watch`, with one difference: waiters are woken in the
//! order in which they subscribed.
//!
//! tokio wakes them in an order drawn from a thread's own random numbers, which no seed reaches, so that the same
//! seed would not give the same simulation.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::ops::Deref;
use std::sync::Arc;
use std::task::{Poll, Waker};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};

/// The sender is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody sets the value any more")]
pub struct Closed;

#[derive(Debug)]
struct Shared<T> {
    value: RwLock<T>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    version: u64,
    closed: bool,
    next: u64,
    waiting: BTreeMap<u64, Waker>,
}

/// Sets the value.
#[derive(Debug)]
pub struct Sender<T>(Arc<Shared<T>>);

/// Sees the value and waits for changes of it.
#[derive(Debug)]
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    id: u64,
    seen: u64,
}

/// The value, borrowed; whoever sets it waits for this.
#[derive(Debug)]
pub struct Ref<'a, T>(RwLockReadGuard<'a, T>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A value and who waits on it.
pub fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(value);
    let receiver = sender.subscribe();
    (sender, receiver)
}

impl<T> Sender<T> {
    /// A value that nobody waits on yet.
    pub fn new(value: T) -> Sender<T> {
        Sender(Arc::new(Shared { value: RwLock::new(value), state: Mutex::default() }))
    }

    /// A receiver that has seen the value as it is.
    pub fn subscribe(&self) -> Receiver<T> {
        let mut state = self.0.state.lock();
        state.next += 1;
        Receiver { shared: self.0.clone(), id: state.next, seen: state.version }
    }

    /// The value.
    pub fn borrow(&self) -> Ref<'_, T> {
        Ref(self.0.value.read())
    }

    /// Sets the value and gives back the former one.
    pub fn send_replace(&self, value: T) -> T {
        let before = std::mem::replace(&mut *self.0.value.write(), value);
        self.0.wake(false);
        before
    }

    /// Changes the value in place.
    pub fn send_modify(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.0.value.write());
        self.0.wake(false);
    }

    /// Changes the value in place; waiters are woken only if `change` says so.
    pub fn send_if_modified(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        let changed = change(&mut self.0.value.write());
        if changed {
            self.0.wake(false);
        }
        changed
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.wake(true);
    }
}

impl<T> Shared<T> {
    fn wake(&self, closed: bool) {
        let mut state = self.state.lock();
        state.closed |= closed;
        if !closed {
            state.version += 1;
        }
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_values().for_each(Waker::wake);
    }
}

impl<T> Receiver<T> {
    /// The value.
    pub fn borrow(&self) -> Ref<'_, T> {
        Ref(self.shared.value.read())
    }

    /// The value, which then counts as seen.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        self.seen = self.shared.state.lock().version;
        Ref(self.shared.value.read())
    }

    /// Waits for a value that was not seen, and counts it as seen. Cancel-safe.
    ///
    /// # Errors
    /// [`Closed`] when there is none and never will be.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        poll_fn(|cx| {
            let mut state = self.shared.state.lock();
            if state.version != self.seen {
                self.seen = state.version;
                return Poll::Ready(Ok(()));
            }
            if state.closed {
                return Poll::Ready(Err(Closed));
            }
            state.waiting.insert(self.id, cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Waits until the value is as wanted.
    ///
    /// # Errors
    /// [`Closed`] when it never will be.
    pub async fn wait_for(&mut self, wanted: impl Fn(&T) -> bool) -> Result<Ref<'_, T>, Closed> {
        loop {
            if wanted(&self.borrow_and_update()) {
                return Ok(Ref(self.shared.value.read()));
            }
            self.changed().await?;
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Receiver<T> {
        let mut state = self.shared.state.lock();
        state.next += 1;
        Receiver { shared: self.shared.clone(), id: state.next, seen: self.seen }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.state.lock().waiting.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_is_seen_once_and_an_end_is_told() {
        let (sender, mut receiver) = channel(1);
        sender.send_replace(2);
        assert_eq!(receiver.changed().await, Ok(()));
        assert_eq!(*receiver.borrow(), 2);
        sender.send_if_modified(|_| false);
        let mut late = receiver.clone();
        let waiting = async { late.wait_for(|v| *v == 5).await.map(|v| *v) };
        let setting = async {
            tokio::task::yield_now().await;
            sender.send_modify(|v| *v = 5);
        };
        let (seen, ()) = tokio::join!(waiting, setting);
        assert_eq!(seen, Ok(5));
        assert_eq!(receiver.changed().await, Ok(()));
        drop(sender);
        assert_eq!(receiver.changed().await, Err(Closed));
    }
}
