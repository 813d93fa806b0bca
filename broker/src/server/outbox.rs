//! Answers on their way to the socket: vectored writes of bytes, sendfile of file pieces.
//!
//! Pieces leave in order; several small answers leave in one system call. A file piece goes out by sendfile
//! when its pages are in memory; a cold one is read off the reactor first. Every step is cancel-safe: what
//! was written is accounted for before the future can be dropped.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures::future::BoxFuture;
use tidemark_proto::kafka::pieces::{FileSlice, Piece, Pieces};
use tidemark_tiering::seam::Tasks;
use tokio::io::{AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::tcp::OwnedWriteHalf;

/// Slices given to one vectored write.
const SLICES_MAX: usize = 64;
/// Bytes of a file sent, probed or read in one step.
const FILE_STEP_BYTES: usize = 1 << 20;

/// The writing half of a transport.
pub enum Sink {
    /// A socket: file pieces go by sendfile.
    Tcp(OwnedWriteHalf),
    /// Anything else: file pieces are read and written.
    Other(Box<dyn AsyncWrite + Send + Unpin>),
}

/// What waits to be written.
pub struct Outbox {
    sink: Sink,
    tasks: Tasks,
    queue: VecDeque<Piece>,
    bytes: usize,
    written: u64,
    enqueued: u64,
    loading: Option<BoxFuture<'static, io::Result<Bytes>>>,
}

impl Outbox {
    /// An empty outbox before `sink`.
    pub fn new(sink: Sink, tasks: &Tasks) -> Outbox {
        let tasks = tasks.clone();
        Outbox { sink, tasks, queue: VecDeque::new(), bytes: 0, written: 0, enqueued: 0, loading: None }
    }

    /// Adds a frame; returns the position at which its last byte leaves.
    pub fn push(&mut self, frame: Pieces) -> u64 {
        for piece in frame.0 {
            let length = match &piece {
                Piece::Bytes(bytes) => bytes.len(),
                Piece::File(slice) => slice.len,
            };
            if length > 0 {
                self.bytes += length;
                self.enqueued += length as u64;
                self.queue.push_back(piece);
            }
        }
        self.enqueued
    }

    /// Position up to which everything has left.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Writes some bytes, waiting until the socket takes at least one. Cancel-safe.
    pub async fn step(&mut self) -> io::Result<()> {
        match self.queue.front() {
            None => Ok(()),
            Some(Piece::Bytes(_)) => self.write_bytes().await,
            Some(Piece::File(_)) => self.write_file().await,
        }
    }

    /// Ends the stream in an orderly way.
    pub async fn close(&mut self) {
        let _ = match &mut self.sink {
            Sink::Tcp(half) => half.shutdown().await,
            Sink::Other(io) => io.shutdown().await,
        };
    }

    async fn write_bytes(&mut self) -> io::Result<()> {
        let written = {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut count = 0;
            for (slot, piece) in slices.iter_mut().zip(&self.queue) {
                let Piece::Bytes(bytes) = piece else { break };
                *slot = IoSlice::new(bytes);
                count += 1;
            }
            match &mut self.sink {
                Sink::Tcp(half) => half.write_vectored(&slices[..count]).await?,
                Sink::Other(io) => {
                    let written = io.write_vectored(&slices[..count]).await?;
                    io.flush().await?;
                    written
                }
            }
        };
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.advance(written);
        Ok(())
    }

    async fn write_file(&mut self) -> io::Result<()> {
        if self.loading.is_none() {
            let Some(Piece::File(slice)) = self.queue.front() else { return Ok(()) };
            let length = slice.len.min(FILE_STEP_BYTES);
            match &self.sink {
                Sink::Tcp(half) if is_resident(slice, length) => {
                    let socket = half.as_ref();
                    let sent = loop {
                        socket.writable().await?;
                        let mut offset = slice.offset;
                        let send = || {
                            rustix::fs::sendfile(
                                socket.as_fd(),
                                slice.file.as_fd(),
                                Some(&mut offset),
                                length,
                            )
                            .map_err(io::Error::from)
                        };
                        match socket.try_io(Interest::WRITABLE, send) {
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                            other => break other?,
                        }
                    };
                    if sent == 0 {
                        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a hot file is too short"));
                    }
                    self.advance(sent);
                    return Ok(());
                }
                _ => {
                    let (file, offset) = (Arc::clone(&slice.file), slice.offset);
                    let tasks = self.tasks.clone();
                    self.loading = Some(Box::pin(async move {
                        let read = move || {
                            let mut into = vec![0; length];
                            file.read_exact_at(&mut into, offset).map(|()| Bytes::from(into))
                        };
                        tasks.blocking(read).await
                    }));
                }
            }
        }
        if let Some(loading) = &mut self.loading {
            let loaded = loading.await;
            self.loading = None;
            self.put_loaded(loaded?);
        }
        Ok(())
    }

    /// Puts bytes read from the file piece at the head in front of what is left of it.
    fn put_loaded(&mut self, loaded: Bytes) {
        if let Some(Piece::File(slice)) = self.queue.front_mut() {
            slice.offset += loaded.len() as u64;
            slice.len -= loaded.len();
            if slice.len == 0 {
                self.queue.pop_front();
            }
        }
        self.queue.push_front(Piece::Bytes(loaded));
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        self.written += written as u64;
        while written > 0 {
            let Some(front) = self.queue.front_mut() else { break };
            let length = match front {
                Piece::Bytes(bytes) => {
                    let n = written.min(bytes.len());
                    bytes.advance(n);
                    written -= n;
                    bytes.len()
                }
                Piece::File(slice) => {
                    let n = written.min(slice.len);
                    slice.offset += n as u64;
                    slice.len -= n;
                    written -= n;
                    slice.len
                }
            };
            if length == 0 {
                self.queue.pop_front();
            }
        }
    }
}

/// Whether sending this slice would not wait for the disk, judged by its first and last byte.
fn is_resident(slice: &FileSlice, length: usize) -> bool {
    let probe = |at: u64| {
        let mut byte = [0; 1];
        let mut into = [io::IoSliceMut::new(&mut byte)];
        let found = rustix::io::preadv2(&*slice.file, &mut into, at, rustix::io::ReadWriteFlags::NOWAIT);
        // A file system without the flag is asked no further: its files are memory or quick to read.
        !matches!(found, Err(rustix::io::Errno::AGAIN))
    };
    probe(slice.offset) && probe(slice.offset + length as u64 - 1)
}
