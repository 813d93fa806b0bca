//! One connection: a reading and a writing loop in one task.
//!
//! The reader starts requests in arrival order. The writer polls what has started, collects answers in
//! request order and writes them; it goes on polling while the socket is blocked, so that a client that never
//! reads holds nothing that others wait for. At most `in_flight_max` requests are started and unanswered.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use parking_lot::Mutex;
use tidemark_proto::kafka::pieces::Pieces;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};

use super::frame::{End, Frames};
use super::outbox::{Outbox, Sink};
use super::{Answer, Peer, Server};

/// What carries a connection.
pub enum Transport {
    /// A socket.
    Tcp(TcpStream),
    /// Any stream of bytes: the simulator's pipe, an in-process client.
    Stream(Box<dyn Duplex>),
}

impl Transport {
    /// Any stream of bytes as a transport.
    pub fn stream(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Transport {
        Transport::Stream(Box::new(io))
    }
}

/// Both directions of a stream of bytes.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A started request on its way to the writer.
struct Started {
    finish: super::Finish,
    api_key: i16,
    slots: Slots,
}

/// What bounds the requests of a connection; free again when the answer has been written.
struct Slots {
    _any: OwnedSemaphorePermit,
    _heavy: Option<OwnedSemaphorePermit>,
}

/// An answer, and what it takes along.
struct Finished {
    answer: Answer,
    api_key: i16,
    slots: Slots,
}

/// What the two loops share.
struct Shared {
    /// Last time a frame came or an answer left.
    active: Mutex<Instant>,
    /// Not to be read from before.
    muted_until: Mutex<Option<Instant>>,
}

impl Shared {
    /// Nothing is read for `time` from now on, nor for less than was said before.
    fn mute(&self, time: Duration) {
        if !time.is_zero() {
            let mut until = self.muted_until.lock();
            *until = (*until).max(Some(Instant::now() + time));
        }
    }
}

/// Serves the connection until either side ends it.
pub async fn run(server: &Server, transport: Transport, peer: Arc<Peer>) {
    let (source, sink): (Box<dyn AsyncRead + Send + Unpin>, Sink) = match transport {
        Transport::Tcp(socket) => {
            let (read, write) = socket.into_split();
            (Box::new(read), Sink::Tcp(write))
        }
        Transport::Stream(io) => {
            let (read, write) = tokio::io::split(io);
            (Box::new(read), Sink::Other(Box::new(write)))
        }
    };
    let (send, receive) = mpsc::channel(server.0.limits.in_flight_max.max(1));
    let shared = Shared { active: Mutex::new(Instant::now()), muted_until: Mutex::new(None) };
    let serve = serve(server, &peer, &shared, source, sink, send, receive);
    tokio::select! {
        biased;
        () = server.0.stop.cancelled() => {}
        () = serve => {}
    }
}

/// Runs both loops; a lost client ends them at once, a closed one lets the writer finish. The end is reported before
/// the client can see it.
async fn serve(
    server: &Server,
    peer: &Arc<Peer>,
    shared: &Shared,
    source: Box<dyn AsyncRead + Send + Unpin>,
    sink: Sink,
    send: mpsc::Sender<Started>,
    receive: mpsc::Receiver<Started>,
) {
    let mut outbox = Outbox::new(sink, &server.0.seams.tasks);
    let mut read = pin!(read_loop(server, peer, shared, source, send));
    let end = both(&mut read, write_loop(server, shared, &mut outbox, receive)).await;
    report(server, peer, end);
    if outbox.is_empty() {
        outbox.close().await;
    }
}

/// How the connection ends of which these are the two loops.
async fn both(read: impl Future<Output = End>, write: impl Future<Output = End>) -> End {
    let (read, mut write) = (pin!(read), pin!(write));
    let end = tokio::select! {
        biased;
        end = &mut write => return end,
        end = read => end,
    };
    match end {
        End::Lost(_) => end,
        _ => match write.await {
            End::Closed => end,
            worse => worse,
        },
    }
}

async fn read_loop(
    server: &Server,
    peer: &Arc<Peer>,
    shared: &Shared,
    source: Box<dyn AsyncRead + Send + Unpin>,
    send: mpsc::Sender<Started>,
) -> End {
    let inner = &*server.0;
    let limits = &inner.limits;
    let mut frames = Frames::new(
        source,
        limits.frame_bytes_max,
        limits.partial_frame,
        inner.budget.clone(),
        limits.queued_bytes_max,
    );
    let in_flight_max = limits.in_flight_max.max(1);
    let any = Arc::new(Semaphore::new(in_flight_max));
    let heavy = Arc::new(Semaphore::new(1));
    loop {
        let next = async {
            let slot = any.clone().acquire_owned().await.expect("the slots are never closed");
            unmuted(shared).await;
            begin_or_idle(&mut frames, shared, &any, in_flight_max, limits.idle).await?;
            let frame = frames.rest().await?;
            // What was on its way when an answer muted the connection waits with the rest.
            unmuted(shared).await;
            *shared.active.lock() = frame.arrived;
            Ok((slot, frame))
        };
        let (slot, frame) = tokio::select! {
            biased;
            () = inner.drain.cancelled() => return End::Closed,
            next = next => match next {
                Ok(next) => next,
                Err(end) => return end,
            },
        };
        let is_heavy = inner.service.is_heavy(&frame.bytes);
        let slots = Slots {
            _any: slot,
            _heavy: match is_heavy {
                true => Some(heavy.clone().acquire_owned().await.expect("the slots are never closed")),
                false => None,
            },
        };
        let api_key = api_key(&frame.bytes);
        let finish = inner.service.start(peer, frame).await;
        if send.send(Started { finish, api_key, slots }).await.is_err() {
            return End::Closed;
        }
    }
}

fn api_key(frame: &Bytes) -> i16 {
    frame.get(..2).map_or(-1, |key| i16::from_be_bytes([key[0], key[1]]))
}

async fn unmuted(shared: &Shared) {
    loop {
        let until = shared.muted_until.lock().take();
        match until {
            Some(until) => tokio::time::sleep_until(until).await,
            None => return,
        }
    }
}

/// Waits for the next frame's first bytes. Idle is: nothing in flight, nothing heard or said for `idle`.
async fn begin_or_idle(
    frames: &mut Frames<Box<dyn AsyncRead + Send + Unpin>>,
    shared: &Shared,
    slots: &Semaphore,
    in_flight_max: usize,
    idle: Duration,
) -> Result<(), End> {
    loop {
        let deadline = *shared.active.lock() + idle;
        let deadline = deadline.max(Instant::now() + Duration::from_millis(1));
        match timeout_at(deadline, frames.begin()).await {
            Ok(begun) => return begun,
            Err(_) => {
                let nothing_in_flight = slots.available_permits() + 1 == in_flight_max;
                let mut active = shared.active.lock();
                if !nothing_in_flight {
                    *active = Instant::now();
                } else if active.elapsed() >= idle {
                    return Err(End::Expired("idle"));
                }
            }
        }
    }
}

async fn write_loop(
    server: &Server,
    shared: &Shared,
    outbox: &mut Outbox,
    mut receive: mpsc::Receiver<Started>,
) -> End {
    let inner = &*server.0;
    let mut finishing = FuturesOrdered::new();
    let mut leaving: VecDeque<Leaving> = VecDeque::new();
    let mut unread = Unread { server, bytes: 0 };
    let mut closing: Option<End> = None;
    let mut progress = Instant::now();
    let mut more = true;
    loop {
        if outbox.is_empty() {
            if let Some(end) = closing {
                return end;
            }
            if !more && finishing.is_empty() {
                return End::Closed;
            }
        }
        tokio::select! {
            biased;
            Some(finished) = finishing.next(), if closing.is_none() => {
                let Finished { answer, api_key, slots } = finished;
                match answer {
                    Answer::None { mute } => {
                        shared.mute(mute);
                        drop(slots);
                    }
                    Answer::Close(reason) => closing = Some(End::Protocol(reason)),
                    Answer::Reply { frame, mute } => {
                        if outbox.is_empty() {
                            progress = Instant::now();
                        }
                        shared.mute(mute);
                        unread.add(frame.len());
                        leaving.push_back(Leaving::new(outbox, frame, api_key, slots));
                    }
                }
            }
            started = receive.recv(), if more && closing.is_none() => match started {
                None => more = false,
                Some(started) => finishing.push_back(finish(started)),
            },
            written = timeout_at(progress + inner.limits.write_stall, outbox.step()), if !outbox.is_empty() => {
                match written {
                    Err(_) => return End::Expired("the client does not read its answers"),
                    Ok(Err(error)) => return End::Lost(error),
                    Ok(Ok(())) => {
                        progress = Instant::now();
                        while let Some(left) = leaving.pop_front_if(|next| next.end <= outbox.written()) {
                            *shared.active.lock() = progress;
                            unread.sub(left.bytes);
                            left.report(inner, progress);
                        }
                    }
                }
            }
        }
    }
}

async fn finish(started: Started) -> Finished {
    let Started { finish, api_key, slots } = started;
    Finished { answer: finish.await, api_key, slots }
}

/// An answer in the outbox.
struct Leaving {
    end: u64,
    bytes: usize,
    api_key: i16,
    queued: Instant,
    _slots: Slots,
}

impl Leaving {
    fn new(outbox: &mut Outbox, frame: Pieces, api_key: i16, slots: Slots) -> Leaving {
        let bytes = frame.len();
        Leaving { end: outbox.push(frame), bytes, api_key, queued: Instant::now(), _slots: slots }
    }

    fn report(self, inner: &super::Inner, now: Instant) {
        inner.service.sent(self.api_key, self.bytes, now.duration_since(self.queued));
    }
}

/// Counts this connection's unread answers in the server's gauge, and takes them out when it ends.
struct Unread<'a> {
    server: &'a Server,
    bytes: usize,
}

impl Unread<'_> {
    fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.server.0.unread_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn sub(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.server.0.unread_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Unread<'_> {
    fn drop(&mut self) {
        self.sub(self.bytes);
    }
}

fn report(server: &Server, peer: &Peer, end: End) {
    let Peer { connection, listener, addr, .. } = peer;
    let counts = &server.0.counts;
    match end {
        End::Closed => tracing::debug!(connection, %addr, "connection closed"),
        End::Lost(error) => lost(*connection, addr, &error),
        End::Expired(why) => {
            counts.expired.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(connection, %addr, why, "connection closed: deadline passed");
        }
        End::Protocol(why) => {
            counts.protocol_errors.fetch_add(1, Ordering::Relaxed);
            server.0.log.line(|skipped| {
                tracing::info!(connection, %addr, %listener, skipped, "connection closed: {why} from {addr}");
            });
        }
    }
}

fn lost(connection: u64, addr: &SocketAddr, error: &io::Error) {
    tracing::debug!(connection, %addr, %error, "connection lost");
}
