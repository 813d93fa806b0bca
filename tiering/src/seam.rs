//! The seams through which the world comes in: clock, randomness, task spawning.
//!
//! (Network and files are seams of their own: connections are any `AsyncRead + AsyncWrite`, the bucket is
//! any `ObjectStore`, the hot tier has a memory form.) Monotonic time is `tokio::time`, which the simulator
//! pauses. The simulator builds these from one seed; a process builds them once in `main`.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use tidemark_proto::id::{Life, Millis, Nonce};
use tokio::task::{AbortHandle, JoinHandle};
use uuid::Uuid;

/// Everything ambient that a component may use. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Seams {
    /// Wall clock, for timestamps that users see.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Entropy,
    /// Where tasks are spawned; one per process (per simulated broker).
    pub tasks: Tasks,
}

impl Seams {
    /// The real world.
    pub fn system() -> Seams {
        Seams { clock: Arc::new(SystemClock), entropy: Entropy::system(), tasks: Tasks::default() }
    }

    /// A seeded world whose wall clock runs with tokio's time from a fixed date.
    pub fn seeded(seed: u64) -> Seams {
        Seams {
            clock: Arc::new(VirtualClock::start()),
            entropy: Entropy::seeded(seed),
            tasks: Tasks::inline(),
        }
    }
}

/// The wall clock. Timestamps only; order and safety never depend on it.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Now.
    fn wall(&self) -> Millis;
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // the one place that reads the ambient clock
    fn wall(&self) -> Millis {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Millis(since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX)))
    }
}

/// A wall clock that starts at a fixed date and advances with tokio's (pausable) time.
#[derive(Debug)]
pub struct VirtualClock {
    start: tokio::time::Instant,
}

impl VirtualClock {
    /// 2026-01-01T00:00:00Z.
    pub const DATE: Millis = Millis(1_767_225_600_000);

    /// Starts the clock now. Needs a tokio runtime.
    pub fn start() -> VirtualClock {
        VirtualClock { start: tokio::time::Instant::now() }
    }
}

impl Clock for VirtualClock {
    fn wall(&self) -> Millis {
        let since = self.start.elapsed().as_millis();
        Millis(Self::DATE.0 + i64::try_from(since).unwrap_or(i64::MAX))
    }
}

/// Randomness from one generator; clones share it.
#[derive(Clone)]
pub struct Entropy(Arc<Mutex<StdRng>>);

impl Entropy {
    /// Seeded by the operating system.
    pub fn system() -> Entropy {
        Entropy(Arc::new(Mutex::new(StdRng::from_os_rng())))
    }

    /// The same sequence for the same seed.
    pub fn seeded(seed: u64) -> Entropy {
        Entropy(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    /// A fresh generator seeded from this one.
    pub fn fork(&self) -> Entropy {
        Entropy::seeded(self.u64())
    }

    /// 64 random bits.
    pub fn u64(&self) -> u64 {
        self.0.lock().next_u64()
    }

    /// A number in `0..n`; 0 when `n` is 0.
    pub fn below(&self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.0.lock().random_range(0..n) }
    }

    /// A number in `[0, 1)`.
    pub fn unit(&self) -> f64 {
        self.0.lock().random()
    }

    /// A fresh nonce.
    pub fn nonce(&self) -> Nonce {
        Nonce(self.0.lock().random())
    }

    /// A fresh life.
    pub fn life(&self) -> Life {
        Life(self.0.lock().random())
    }

    /// A random UUID (version 4).
    pub fn uuid(&self) -> Uuid {
        uuid::Builder::from_random_bytes(self.0.lock().random()).into_uuid()
    }
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entropy")
    }
}

/// Spawns tasks that live and die together. Clones share one set.
///
/// `kill` ends every task at its next suspension point, as `kill -9` would end a process; `freeze` stops all
/// of them from being polled until `thaw`, as `SIGSTOP` would.
#[derive(Clone, Debug, Default)]
pub struct Tasks(Arc<Mutex<Set>>);

#[derive(Debug, Default)]
struct Set {
    handles: Vec<AbortHandle>,
    prune_at: usize,
    killed: bool,
    frozen: bool,
    inline: bool,
    waiting: Vec<Waker>,
}

impl Tasks {
    /// A set whose blocking work runs in place: with threads the same seed would not give the same trace.
    pub fn inline() -> Tasks {
        Tasks(Arc::new(Mutex::new(Set { inline: true, ..Set::default() })))
    }

    /// Spawns `future` on the current runtime. After a kill nothing starts.
    #[allow(clippy::disallowed_methods)] // the one place that spawns
    pub fn spawn<F>(&self, future: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let gated = Gated { tasks: self.clone(), future: Some(Box::pin(future)) };
        let handle = tokio::spawn(gated);
        let mut set = self.0.lock();
        if set.killed {
            handle.abort();
        }
        if set.handles.len() >= set.prune_at {
            set.handles.retain(|h| !h.is_finished());
            set.prune_at = set.handles.len() * 2 + 64;
        }
        set.handles.push(handle.abort_handle());
        handle
    }

    /// Runs blocking file work off the reactor.
    #[allow(clippy::disallowed_methods)] // the one place that does
    pub async fn blocking<T, F>(&self, work: F) -> T
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        if self.0.lock().inline {
            return work();
        }
        match tokio::task::spawn_blocking(work).await {
            Ok(value) => value,
            Err(stopped) => match stopped.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => std::future::pending().await, // the runtime is going away
            },
        }
    }

    /// Ends every task; later spawns end at once.
    pub fn kill(&self) {
        let mut set = self.0.lock();
        set.killed = true;
        set.handles.drain(..).for_each(|h| h.abort());
        set.waiting.drain(..).for_each(Waker::wake);
    }

    /// Stops polling every task until [`Tasks::thaw`].
    pub fn freeze(&self) {
        self.0.lock().frozen = true;
    }

    /// Lets frozen tasks run again.
    pub fn thaw(&self) {
        let mut set = self.0.lock();
        set.frozen = false;
        set.waiting.drain(..).for_each(Waker::wake);
    }
}

struct Gated<F: Future> {
    tasks: Tasks,
    future: Option<Pin<Box<F>>>,
}

impl<F: Future> Future for Gated<F> {
    /// `None` when the set was killed before the task ended.
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        {
            let mut set = self.tasks.0.lock();
            if set.killed {
                drop(set);
                self.future = None;
                return Poll::Ready(None);
            }
            if set.frozen {
                set.waiting.push(cx.waker().clone());
                return Poll::Pending;
            }
        }
        match self.future.as_mut() {
            Some(future) => future.as_mut().poll(cx).map(Some),
            None => Poll::Ready(None),
        }
    }
}
