//! Frames off the wire: four bytes of length, then that many bytes.
//!
//! A length is believed only after bytes have come: no buffer is sized by it before, and the permits for a
//! large frame are asked for only once its first bytes are here, so that a claim alone costs us nothing. Each
//! frame ends in an allocation of its own, of about its own size. Knows nothing of what is inside.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// Within each partial-frame deadline a frame must end or have grown by this much.
pub const PROGRESS_BYTES: usize = 256 << 10;
/// An idle connection holds no more than this.
const IDLE_BYTES: usize = 1 << 10;
/// What a client must have sent before its claim of a longer frame is charged to the budget.
const PROVEN_BYTES: usize = 16 << 10;
/// First step of a large frame's buffer; later steps quadruple.
const STEP_BYTES: usize = 1 << 20;
const LENGTH_BYTES: usize = 4;

/// One whole frame and the budget it holds.
#[derive(Debug)]
pub struct Frame {
    /// What followed the length.
    pub bytes: Bytes,
    /// When its last byte was here.
    pub arrived: Instant,
    /// Returned to the budget when the request is done.
    pub permit: OwnedSemaphorePermit,
}

/// Why no frame came.
#[derive(Debug)]
pub enum End {
    /// The client closed between frames.
    Closed,
    /// The client is gone: no answer can reach it.
    Lost(io::Error),
    /// The client broke the protocol; the sentence says how.
    Protocol(String),
    /// A deadline passed; the sentence says which.
    Expired(&'static str),
}

/// Reads frames from `io`.
pub struct Frames<R> {
    io: R,
    buffer: BytesMut,
    first: bool,
    bytes_max: usize,
    partial_frame: Duration,
    budget: Arc<Semaphore>,
    budget_bytes: usize,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    /// Frames of at most `bytes_max`, charged to `budget` which holds `budget_bytes` in all.
    pub fn new(
        io: R,
        bytes_max: usize,
        partial_frame: Duration,
        budget: Arc<Semaphore>,
        budget_bytes: usize,
    ) -> Frames<R> {
        Frames { io, buffer: BytesMut::new(), first: true, bytes_max, partial_frame, budget, budget_bytes }
    }

    /// Waits until the first bytes of a frame are here. Cancel-safe.
    pub async fn begin(&mut self) -> Result<(), End> {
        if !self.buffer.is_empty() {
            return Ok(());
        }
        self.buffer.reserve(IDLE_BYTES);
        match (&mut self.io).take(IDLE_BYTES as u64).read_buf(&mut self.buffer).await {
            Ok(0) => Err(End::Closed),
            Ok(_) => Ok(()),
            Err(error) => Err(End::Lost(error)),
        }
    }

    /// The rest of a begun frame.
    pub async fn rest(&mut self) -> Result<Frame, End> {
        let mut deadline = Instant::now() + self.partial_frame;
        while self.buffer.len() < LENGTH_BYTES {
            let missing = LENGTH_BYTES - self.buffer.len();
            self.read(missing.max(IDLE_BYTES), deadline).await?;
        }
        let length = self.take_length()?;
        let proven = length.min(PROVEN_BYTES);
        while self.buffer.len() < proven {
            self.read(length - self.buffer.len(), deadline).await?;
        }
        let charge = u32::try_from(length.min(self.budget_bytes)).expect("the budget fits u32");
        let permit =
            self.budget.clone().acquire_many_owned(charge).await.expect("the budget is never closed");
        // The wait for a permit was ours, not the client's.
        deadline = deadline.max(Instant::now() + self.partial_frame);
        let mut mark = self.buffer.len() + PROGRESS_BYTES;
        while self.buffer.len() < length {
            self.read(length - self.buffer.len(), deadline).await?;
            if self.buffer.len() >= mark {
                mark = self.buffer.len() + PROGRESS_BYTES;
                deadline = Instant::now() + self.partial_frame;
            }
        }
        let bytes = self.buffer.split_to(length).freeze();
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        Ok(Frame { bytes, arrived: Instant::now(), permit })
    }

    fn take_length(&mut self) -> Result<usize, End> {
        let head: [u8; LENGTH_BYTES] = self.buffer[..LENGTH_BYTES].try_into().expect("four bytes are here");
        if std::mem::take(&mut self.first)
            && let Some(dialect) = foreign_dialect(&self.buffer)
        {
            return Err(End::Protocol(format!("looks like {dialect} on a PLAINTEXT listener")));
        }
        let length = i32::from_be_bytes(head);
        match usize::try_from(length) {
            Ok(n) if n > 0 && n <= self.bytes_max => {
                let _ = self.buffer.split_to(LENGTH_BYTES);
                Ok(n)
            }
            _ => Err(End::Protocol(format!("invalid frame length {length}"))),
        }
    }

    /// One read of at most `wanted` bytes, into a buffer that grows with what has come.
    async fn read(&mut self, wanted: usize, deadline: Instant) -> Result<(), End> {
        if self.buffer.capacity() == self.buffer.len() {
            let here = self.buffer.len();
            let step =
                if here < PROVEN_BYTES { PROVEN_BYTES } else { STEP_BYTES.max(here.saturating_mul(3)) };
            self.buffer.reserve(wanted.min(step));
        }
        let mut into = (&mut self.buffer).limit(wanted);
        match timeout_at(deadline, self.io.read_buf(&mut into)).await {
            Err(_) => Err(End::Expired("half a frame, then too little for too long")),
            Ok(Ok(0)) => Err(End::Protocol("connection closed in the middle of a frame".into())),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(End::Lost(error)),
        }
    }
}

/// Names the protocol that other clients speak when they come to the wrong port.
fn foreign_dialect(bytes: &[u8]) -> Option<&'static str> {
    const HTTP: [&[u8; 4]; 8] = [b"GET ", b"POST", b"HEAD", b"PUT ", b"OPTI", b"DELE", b"CONN", b"PRI "];
    let head = bytes.get(..4)?;
    if HTTP.iter().any(|verb| head == *verb) {
        Some("HTTP")
    } else if head[0] == 0x16 && head[1] == 0x03 && head[2] <= 0x04 {
        Some("TLS")
    } else if head == b"SSH-" {
        Some("SSH")
    } else {
        None
    }
}
