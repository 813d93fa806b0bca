//! The network edge: listeners, connections, frames.
//!
//! Owns sockets, bytes in flight and the order of answers on a connection. Requests of one connection start
//! in arrival order, finish in the background and are answered in request order. Every limit holds before
//! memory is taken. Knows no Kafka message: a frame goes to a [`Service`], pieces come back.

mod connection;
mod frame;
mod listener;
mod outbox;
mod pace;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tidemark_proto::kafka::pieces::Pieces;
use tidemark_tiering::seam::Seams;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use connection::Transport;
pub use frame::Frame;
pub use listener::{BindError, Bound, Endpoint};

use pace::Pace;

/// What becomes of a request.
#[derive(Debug)]
pub enum Answer {
    /// A whole response frame, its length first.
    Reply {
        /// The frame.
        frame: Pieces,
        /// How long the connection is then not read from (KIP-219: answer at once, mute after).
        mute: Duration,
    },
    /// Nothing is sent (acks=0).
    None {
        /// As after a reply.
        mute: Duration,
    },
    /// Earlier answers are sent, then the connection is closed. The reason goes to the log, already escaped.
    Close(String),
}

/// The second phase of a request: runs in the background, gives the answer.
pub type Finish = BoxFuture<'static, Answer>;

/// Whom frames are given to.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// The first phase of a request. Awaited in arrival order on each connection: what must happen in order
    /// (dedupe, offsets) happens here, what may wait goes into the returned future. Whoever keeps the frame's
    /// bytes keeps its permit, and drops both together.
    async fn start(&self, peer: &Arc<Peer>, frame: Frame) -> Finish;

    /// Whether the answer may be so large that a connection gets only one such at a time.
    fn is_heavy(&self, frame: &[u8]) -> bool;

    /// Told when an answer of `bytes` to `api_key` has left, `sending` after it was ready.
    fn sent(&self, _api_key: i16, _bytes: usize, _sending: Duration) {}
}

/// The other end of a connection.
#[derive(Debug)]
pub struct Peer {
    /// Number of this connection, unique in the process.
    pub connection: u64,
    /// Name of the listener it came in on.
    pub listener: Arc<str>,
    /// Its address.
    pub addr: SocketAddr,
    /// Client software name and version, once it has told.
    pub software: Mutex<Option<(String, String)>>,
}

/// Bounds on what the outside may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest frame (`socket.request.max.bytes`).
    pub frame_bytes_max: usize,
    /// Bytes of all requests that are being read or worked on (`queued.max.request.bytes`).
    pub queued_bytes_max: usize,
    /// Silence after which a connection with nothing in flight is closed (`connections.max.idle.ms`).
    pub idle: Duration,
    /// A started frame must bring its end, or another [`frame::PROGRESS_BYTES`], within this time.
    pub partial_frame: Duration,
    /// An answer must make progress on the socket within this time.
    pub write_stall: Duration,
    /// Requests started and not yet answered, per connection.
    pub in_flight_max: usize,
    /// How many connections at first; [`Server::limit_connections`] changes it.
    pub connections: ConnectionLimits,
    /// `SO_SNDBUF`; `None` leaves the system's own tuning on.
    pub send_buffer_bytes: Option<usize>,
    /// `SO_RCVBUF`; `None` leaves the system's own tuning on.
    pub receive_buffer_bytes: Option<usize>,
}

/// How many connections there may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Of all listeners (`max.connections`).
    pub all: usize,
    /// Per address (`max.connections.per.ip`).
    pub per_ip: usize,
    /// Exceptions to the former (`max.connections.per.ip.overrides`).
    pub overrides: BTreeMap<IpAddr, usize>,
    /// New ones in a second; those beyond wait (`max.connection.creation.rate`).
    pub per_second: usize,
}

impl Default for ConnectionLimits {
    fn default() -> ConnectionLimits {
        let overrides = BTreeMap::new();
        ConnectionLimits { all: usize::MAX, per_ip: usize::MAX, overrides, per_second: usize::MAX }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            frame_bytes_max: 100 << 20,
            queued_bytes_max: 256 << 20,
            idle: Duration::from_secs(600),
            partial_frame: Duration::from_secs(30),
            write_stall: Duration::from_secs(600),
            in_flight_max: 64,
            connections: ConnectionLimits::default(),
            send_buffer_bytes: None,
            receive_buffer_bytes: None,
        }
    }
}

/// Counters of the edge, read by metrics.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections accepted since start.
    pub accepted: AtomicU64,
    /// Connections refused because of a limit.
    pub refused: AtomicU64,
    /// Connections closed because the client broke the protocol.
    pub protocol_errors: AtomicU64,
    /// Connections closed because they were idle, sent half a frame or read nothing.
    pub expired: AtomicU64,
}

/// The running edge. Clones share it.
#[derive(Clone)]
pub struct Server(Arc<Inner>);

struct Inner {
    service: Arc<dyn Service>,
    limits: Limits,
    seams: Seams,
    /// Permits, in bytes, for frames being read or worked on.
    budget: Arc<Semaphore>,
    counts: Counts,
    open: Mutex<Open>,
    all_closed: Notify,
    next_connection: AtomicU64,
    /// Stop accepting and reading; answer what has started.
    drain: CancellationToken,
    /// Close everything now.
    stop: CancellationToken,
    log: LogGate,
    unread_bytes: AtomicUsize,
}

#[derive(Default)]
struct Open {
    limits: ConnectionLimits,
    total: usize,
    by_ip: BTreeMap<IpAddr, usize>,
    by_listener: BTreeMap<Arc<str>, usize>,
    pace: Pace,
}

impl Server {
    /// An edge without listeners; [`Server::listen`] and [`Server::attach`] feed it.
    pub fn new(service: Arc<dyn Service>, limits: Limits, seams: &Seams) -> Server {
        let budget = limits.queued_bytes_max.clamp(1, u32::MAX as usize / 2);
        let open = Open { limits: limits.connections.clone(), ..Open::default() };
        Server(Arc::new(Inner {
            service,
            limits: Limits { queued_bytes_max: budget, ..limits },
            seams: seams.clone(),
            budget: Arc::new(Semaphore::new(budget)),
            counts: Counts::default(),
            open: Mutex::new(open),
            all_closed: Notify::new(),
            next_connection: AtomicU64::new(1),
            drain: CancellationToken::new(),
            stop: CancellationToken::new(),
            log: LogGate::default(),
            unread_bytes: AtomicUsize::new(0),
        }))
    }

    /// Accepts connections on `bound` from now on.
    pub fn listen(&self, bound: Bound) {
        let server = self.clone();
        self.0.seams.tasks.spawn(async move { listener::accept(server, bound).await });
    }

    /// Serves one connection that came some other way (the simulator's pipe, the in-process gateway).
    pub fn attach(&self, transport: Transport, listener: &str, addr: SocketAddr) {
        let listener: Arc<str> = Arc::from(listener);
        let Some(guard) = self.admit(&listener, addr) else { return };
        let number = self.0.next_connection.fetch_add(1, Ordering::Relaxed);
        let peer = Arc::new(Peer { connection: number, listener, addr, software: Mutex::new(None) });
        let server = self.clone();
        self.0.seams.tasks.spawn(async move {
            connection::run(&server, transport, peer).await;
            drop(guard);
        });
    }

    /// Stops accepting and reading, answers what has started, closes. What is not done by `patience` is cut.
    pub async fn drain(&self, patience: Duration) {
        self.0.drain.cancel();
        let deadline = Instant::now() + patience;
        let closed = tokio::time::timeout_at(deadline, self.wait_closed()).await;
        self.0.stop.cancel();
        if closed.is_err() {
            let left = self.connections();
            tracing::warn!(connections = left, "connections cut: not answered within the drain time");
            let _ = tokio::time::timeout(Duration::from_secs(1), self.wait_closed()).await;
        }
    }

    /// From now on at most so many connections are taken; none that is open is closed.
    pub fn limit_connections(&self, limits: ConnectionLimits) {
        self.0.open.lock().limits = limits;
    }

    /// How long a connection that came now waits before it is served.
    fn pace(&self) -> Duration {
        let mut open = self.0.open.lock();
        let per_second = open.limits.per_second;
        open.pace.take(Instant::now(), per_second)
    }

    /// Connections now open.
    pub fn connections(&self) -> usize {
        self.0.open.lock().total
    }

    /// Connections now open, per listener.
    pub fn connections_by_listener(&self) -> Vec<(Arc<str>, usize)> {
        self.0.open.lock().by_listener.iter().map(|(name, n)| (name.clone(), *n)).collect()
    }

    /// Bytes of requests now being read or worked on.
    pub fn queued_bytes(&self) -> usize {
        self.0.limits.queued_bytes_max - self.0.budget.available_permits()
    }

    /// Bytes of finished answers that clients have not read yet.
    pub fn unread_bytes(&self) -> usize {
        self.0.unread_bytes.load(Ordering::Relaxed)
    }

    /// The edge's counters.
    pub fn counts(&self) -> &Counts {
        &self.0.counts
    }

    async fn wait_closed(&self) {
        loop {
            let closed = self.0.all_closed.notified();
            if self.connections() == 0 {
                return;
            }
            closed.await;
        }
    }

    fn admit(&self, listener: &Arc<str>, addr: SocketAddr) -> Option<OpenGuard> {
        let ip = addr.ip().to_canonical();
        let refused = {
            let mut open = self.0.open.lock();
            let of_ip = open.by_ip.get(&ip).copied().unwrap_or(0);
            let per_ip = *open.limits.overrides.get(&ip).unwrap_or(&open.limits.per_ip);
            if open.total >= open.limits.all {
                Some("max.connections")
            } else if of_ip >= per_ip {
                Some("max.connections.per.ip")
            } else {
                open.total += 1;
                *open.by_ip.entry(ip).or_default() += 1;
                *open.by_listener.entry(listener.clone()).or_default() += 1;
                None
            }
        };
        if let Some(limit) = refused {
            self.0.counts.refused.fetch_add(1, Ordering::Relaxed);
            self.0.log.line(|skipped| {
                tracing::info!(%addr, %listener, limit, skipped, "connection refused: limit reached");
            });
            return None;
        }
        self.0.counts.accepted.fetch_add(1, Ordering::Relaxed);
        Some(OpenGuard { server: self.clone(), listener: listener.clone(), ip })
    }
}

/// Counts one open connection for as long as it lives.
struct OpenGuard {
    server: Server,
    listener: Arc<str>,
    ip: IpAddr,
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        let mut open = self.server.0.open.lock();
        open.total -= 1;
        if let Some(n) = open.by_ip.get_mut(&self.ip) {
            *n -= 1;
            if *n == 0 {
                open.by_ip.remove(&self.ip);
            }
        }
        if let Some(n) = open.by_listener.get_mut(&self.listener) {
            *n -= 1;
        }
        if open.total == 0 {
            self.server.0.all_closed.notify_waiters();
        }
    }
}

/// Keeps a flood of bad clients from becoming a flood of log lines: ten a second, the rest are counted.
#[derive(Default)]
struct LogGate {
    window: Mutex<Option<(Instant, u32)>>,
    skipped: AtomicU64,
}

impl LogGate {
    const LINES_PER_SECOND: u32 = 10;

    fn line(&self, write: impl FnOnce(u64)) {
        let now = Instant::now();
        let open = {
            let mut window = self.window.lock();
            match window.as_mut() {
                Some((since, lines)) if now.duration_since(*since) < Duration::from_secs(1) => {
                    *lines += 1;
                    *lines <= Self::LINES_PER_SECOND
                }
                _ => {
                    *window = Some((now, 1));
                    true
                }
            }
        };
        if open {
            write(self.skipped.swap(0, Ordering::Relaxed));
        } else {
            self.skipped.fetch_add(1, Ordering::Relaxed);
        }
    }
}
