//! Moving the bytes of a connection: one future, two halves, a queue between them.
//!
//! Order is the invariant: what is written n-th is the n-th entry of the queue and the n-th answer's owner.

use std::collections::VecDeque;
use std::future::Future;
use std::io::IoSlice;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use futures::future::{Either, select};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::{ClientError, Shared};

/// Pieces handed to one vectored write.
const SLICES_MAX: usize = 64;
/// Bytes gathered before a write.
const GATHER_MAX: usize = 1 << 20;
/// First and smallest step in which the read buffer grows: never by a length the peer merely claims.
const READ_STEP: usize = 64 << 10;

/// A request on its way, length first.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) frame: Vec<Bytes>,
    pub(super) then: Then,
}

/// What follows the writing of a request. The permit is its place in flight.
#[derive(Debug)]
pub(super) enum Then {
    Written(oneshot::Sender<()>, OwnedSemaphorePermit),
    Answer(i32, oneshot::Sender<Bytes>, OwnedSemaphorePermit),
}

/// A request that has been written, or is about to be.
type Waiting = (i32, oneshot::Sender<Bytes>, OwnedSemaphorePermit);

/// Runs the connection to its end.
pub(super) async fn run<IO: AsyncRead + AsyncWrite>(
    io: IO,
    mut requests: mpsc::Receiver<Outgoing>,
    shared: Arc<Shared>,
    in_flight_max: usize,
) {
    let (read, write) = tokio::io::split(io);
    // A permit is held for every entry, so this never fills.
    let (waiting, answers) = mpsc::channel(in_flight_max);
    let end = {
        let writing = std::pin::pin!(write_all(write, &mut requests, waiting));
        let reading = std::pin::pin!(read_all(read, answers, shared.options.response_bytes_max));
        either(reading, writing).await
    };
    // The reason stands before anyone is woken by what is dropped here.
    let _ = shared.ended.set(end);
    shared.in_flight.close();
    requests.close();
}

async fn either<T>(a: impl Future<Output = T> + Unpin, b: impl Future<Output = T> + Unpin) -> T {
    match select(a, b).await {
        Either::Left((end, _)) | Either::Right((end, _)) => end,
    }
}

fn closed(why: impl Into<Arc<str>>) -> ClientError {
    ClientError::Closed(why.into())
}

async fn write_all(
    mut io: impl AsyncWrite + Unpin,
    requests: &mut mpsc::Receiver<Outgoing>,
    waiting: mpsc::Sender<Waiting>,
) -> ClientError {
    let mut pieces = VecDeque::new();
    let mut written = Vec::new();
    while let Some(mut next) = requests.recv().await {
        let mut gathered = 0;
        loop {
            gathered += next.frame.iter().map(Bytes::len).sum::<usize>();
            pieces.extend(next.frame.into_iter().filter(|piece| !piece.is_empty()));
            match next.then {
                Then::Written(done, permit) => written.push((done, permit)),
                Then::Answer(correlation, answer, permit) => {
                    if waiting.send((correlation, answer, permit)).await.is_err() {
                        return closed("its reader ended");
                    }
                }
            }
            if gathered >= GATHER_MAX {
                break;
            }
            match requests.try_recv() {
                Ok(more) => next = more,
                Err(_) => break,
            }
        }
        if let Err(error) = write_pieces(&mut io, &mut pieces).await {
            return closed(error.to_string());
        }
        for (done, permit) in written.drain(..) {
            drop(permit);
            let _ = done.send(());
        }
    }
    let _ = io.shutdown().await;
    closed("nobody uses it any more")
}

async fn write_pieces(
    io: &mut (impl AsyncWrite + Unpin),
    pieces: &mut VecDeque<Bytes>,
) -> std::io::Result<()> {
    while !pieces.is_empty() {
        let mut wrote = {
            let slices: Vec<IoSlice<'_>> =
                pieces.iter().take(SLICES_MAX).map(|piece| IoSlice::new(piece)).collect();
            io.write_vectored(&slices).await?
        };
        if wrote == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        while let Some(piece) = pieces.front_mut().filter(|_| wrote > 0) {
            let step = wrote.min(piece.len());
            piece.advance(step);
            wrote -= step;
            if piece.is_empty() {
                pieces.pop_front();
            }
        }
    }
    io.flush().await
}

async fn read_all(
    mut io: impl AsyncRead + Unpin,
    mut answers: mpsc::Receiver<Waiting>,
    response_bytes_max: usize,
) -> ClientError {
    let mut buffer = BytesMut::new();
    loop {
        let frame = match read_frame(&mut io, &mut buffer, response_bytes_max).await {
            Ok(frame) => frame,
            Err(end) => return end,
        };
        // The entry was queued before its request was written: an answer without one was not asked for.
        let Ok((correlation, answer, permit)) = answers.try_recv() else {
            return ClientError::Protocol("an answer to no request".into());
        };
        if frame[..4] != correlation.to_be_bytes() {
            return ClientError::Protocol("an answer out of order".into());
        }
        drop(permit);
        let _ = answer.send(frame);
    }
}

/// The next response without its length; at least a correlation id. A slice of the read buffer.
async fn read_frame(
    io: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    response_bytes_max: usize,
) -> Result<Bytes, ClientError> {
    loop {
        let mut need = 4;
        if let Some(length) = buffer.first_chunk::<4>() {
            let length = i32::from_be_bytes(*length);
            match usize::try_from(length) {
                Ok(length) if (4..=response_bytes_max).contains(&length) => need += length,
                _ => return Err(ClientError::Protocol(format!("a response of {length} bytes").into())),
            }
            if buffer.len() >= need {
                buffer.advance(4);
                return Ok(buffer.split_to(need - 4).freeze());
            }
        }
        let missing = need - buffer.len();
        buffer.reserve(missing.min(buffer.len()).max(READ_STEP));
        match io.read_buf(buffer).await {
            Ok(0) if buffer.is_empty() => return Err(closed("by the broker")),
            Ok(0) => return Err(closed("by the broker, within an answer")),
            Ok(_) => {}
            Err(error) => return Err(closed(error.to_string())),
        }
    }
}
