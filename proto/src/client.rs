//! One Kafka connection, pipelined: many calls at once, answers in the order of the requests.
//!
//! A connection is a [`Client`] (cheap to clone) and a driver, a future that the caller runs on a task of
//! its own; it ends when the connection does, or when every clone is gone. In flight and response size
//! are bounded. Knows no retry, no metadata and no timeout: drop a call to give it up; its answer is then
//! read and thrown away. Dropping the driver closes the connection.

use std::future::Future;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::kafka::frame;
use crate::kafka::pieces::{Piece, Pieces};
use crate::kafka::text::Text;
use crate::kafka::wire::{DecodeError, Decoder, EncodeError, Message, Request};

mod driver;
mod versions;

pub use versions::Versions;

use driver::{Outgoing, Then};

/// What a connection is bound to.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name the client goes by.
    pub client_id: Text,
    /// Most requests without an answer; more calls wait.
    pub in_flight_max: usize,
    /// Largest response taken; a larger one ends the connection.
    pub response_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { client_id: Text::from_static("tidemark"), in_flight_max: 64, response_bytes_max: 128 << 20 }
    }
}

/// Why a call has no answer. Whether the broker did what it was asked is then unknown, save for `Encode`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The connection is gone.
    #[error("the connection is closed: {0}")]
    Closed(Arc<str>),
    /// The broker answered what no broker may; the connection is closed.
    #[error("the broker breaks the protocol: {0}")]
    Protocol(Arc<str>),
    /// The request cannot be put into this version.
    #[error("the request cannot be encoded: {0}")]
    Encode(#[from] EncodeError),
    /// The response is not what its version says.
    #[error("the response cannot be decoded: {0}")]
    Decode(#[from] DecodeError),
    /// Client and broker share no version of this API.
    #[error("the broker serves no version of {0} that we speak")]
    Version(&'static str),
}

/// A connection. Clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    outgoing: mpsc::Sender<Outgoing>,
}

#[derive(Debug)]
struct Shared {
    options: Options,
    correlation: AtomicI32,
    in_flight: Arc<Semaphore>,
    ended: OnceLock<ClientError>,
}

impl Client {
    /// Connects over TCP. Run the second half on a task.
    pub async fn connect(
        address: impl ToSocketAddrs,
        options: Options,
    ) -> std::io::Result<(Client, impl Future<Output = ()> + Send + 'static)> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Client::over(stream, options))
    }

    /// Speaks over `io`. Run the second half on a task.
    pub fn over<IO>(io: IO, options: Options) -> (Client, impl Future<Output = ()> + Send + 'static)
    where
        IO: AsyncRead + AsyncWrite + Send + 'static,
    {
        let in_flight_max = options.in_flight_max.clamp(1, Semaphore::MAX_PERMITS);
        let (outgoing, requests) = mpsc::channel(in_flight_max);
        let shared = Arc::new(Shared {
            correlation: AtomicI32::new(0),
            in_flight: Arc::new(Semaphore::new(in_flight_max)),
            ended: OnceLock::new(),
            options,
        });
        let driver = driver::run(io, requests, shared.clone(), in_flight_max);
        (Client { shared, outgoing }, driver)
    }

    /// Sends `request` in `version` and waits for its answer.
    pub async fn call<R: Request>(&self, version: i16, request: &R) -> Result<R::Response, ClientError> {
        let correlation = self.next_correlation();
        let frame = self.encode(correlation, version, request)?;
        let response = self.exchange(correlation, frame).await?;
        decode::<R>(response, version)
    }

    /// Sends `request` and waits until it is written, for requests that are never answered (Produce with
    /// acks=0).
    pub async fn send<R: Request>(&self, version: i16, request: &R) -> Result<(), ClientError> {
        let frame = self.encode(self.next_correlation(), version, request)?;
        let (written, done) = oneshot::channel();
        self.submit(frame, |permit| Then::Written(written, permit)).await?;
        done.await.map_err(|_| self.ended())
    }

    /// Sends a request that is already encoded, header first and without its length, under a correlation
    /// id of our own. Answers what follows the correlation id in the response.
    pub async fn call_frame(&self, request: Bytes) -> Result<Bytes, ClientError> {
        let (correlation, frame) = self.renumber(request)?;
        let response = self.exchange(correlation, frame).await?;
        Ok(response.slice(4..))
    }

    /// As [`Self::call_frame`], for a request that is never answered: waits until it is written.
    pub async fn send_frame(&self, request: Bytes) -> Result<(), ClientError> {
        let (_, frame) = self.renumber(request)?;
        let (written, done) = oneshot::channel();
        self.submit(frame, |permit| Then::Written(written, permit)).await?;
        done.await.map_err(|_| self.ended())
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.outgoing.is_closed()
    }

    fn next_correlation(&self) -> i32 {
        // Kafka's clients keep to positive ids; order is the queue's, not theirs.
        self.shared.correlation.fetch_add(1, Ordering::Relaxed) & i32::MAX
    }

    fn encode<R: Request>(
        &self,
        correlation: i32,
        version: i16,
        request: &R,
    ) -> Result<Vec<Bytes>, ClientError> {
        let client_id = Some(&self.shared.options.client_id);
        into_memory(frame::encode_request(correlation, client_id, request, version)?)
    }

    /// Puts our correlation id for the caller's; the body is not copied.
    fn renumber(&self, request: Bytes) -> Result<(i32, Vec<Bytes>), ClientError> {
        let (Some(head), Ok(length)) = (request.first_chunk::<8>(), i32::try_from(request.len())) else {
            return Err(ClientError::Encode(EncodeError::TooLong(request.len())));
        };
        let correlation = self.next_correlation();
        let mut ours = BytesMut::with_capacity(12);
        ours.extend_from_slice(&length.to_be_bytes());
        ours.extend_from_slice(&head[..4]);
        ours.extend_from_slice(&correlation.to_be_bytes());
        Ok((correlation, vec![ours.freeze(), request.slice(8..)]))
    }

    async fn exchange(&self, correlation: i32, frame: Vec<Bytes>) -> Result<Bytes, ClientError> {
        let (answer, done) = oneshot::channel();
        self.submit(frame, |permit| Then::Answer(correlation, answer, permit)).await?;
        done.await.map_err(|_| self.ended())
    }

    /// Waits for a place in flight, which the request keeps until it is answered (or written).
    async fn submit(
        &self,
        frame: Vec<Bytes>,
        then: impl FnOnce(tokio::sync::OwnedSemaphorePermit) -> Then,
    ) -> Result<(), ClientError> {
        let permit = self.shared.in_flight.clone().acquire_owned().await.map_err(|_| self.ended())?;
        self.outgoing.send(Outgoing { frame, then: then(permit) }).await.map_err(|_| self.ended())
    }

    fn ended(&self) -> ClientError {
        let gone = || ClientError::Closed("its driver was dropped".into());
        self.shared.ended.get().cloned().unwrap_or_else(gone)
    }
}

/// Reads a whole response frame.
fn decode<R: Request>(response: Bytes, version: i16) -> Result<R::Response, ClientError> {
    let mut decoder = Decoder::new(response);
    frame::decode_response_header(&mut decoder, R::KEY.response_header_version(version))?;
    let response = R::Response::decode(&mut decoder, version)?;
    decoder.finish()?;
    Ok(response)
}

/// Requests go out of memory: file pieces are a broker's.
fn into_memory(frame: Pieces) -> Result<Vec<Bytes>, ClientError> {
    let mut out = Vec::with_capacity(frame.0.len());
    for piece in frame.0 {
        match piece {
            Piece::Bytes(bytes) => out.push(bytes),
            Piece::File(slice) => out.push(slice.read().map_err(|_| EncodeError::File)?),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
