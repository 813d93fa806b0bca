//! The four codecs, in both directions.
//!
//! Every expansion streams through one buffer of its thread and stops at a cap, so that a bomb costs a
//! bounded time and no memory (reliability.md §C.2). Sizes that a stream declares are hints: nothing is
//! allocated on their word. One frame format per codec, as Kafka's Java client reads it.

use std::cell::Cell;
use std::io::Write;

use bytes::Bytes;
use zstd::zstd_safe;

use super::{BatchError, Compression};

mod lz4;
mod snappy;

/// Cap for callers that trust their batches (they were validated when they came in).
pub const TRUSTED_LIMIT: usize = 256 << 20;
/// Most bytes that one compressed byte may stand for…
pub const RATIO_MAX: usize = 1000;
/// …once the output passes this: a few kilobytes of zeros are no bomb.
pub const RATIO_FREE: usize = 4 << 20;
/// Largest zstd window taken: 2^23 = 8 MiB, what level 19 asks for.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 23;

const CHUNK: usize = 64 << 10;
/// A buffer that one large block has blown up further than this is not kept.
const KEEP_MAX: usize = 4 << 20;

/// Compresses `plain` with the codec's default level.
pub fn compress(codec: Compression, plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    compress_into(codec, plain, &mut out);
    out
}

/// zstd's highest level here: those above need a window that readers refuse.
const ZSTD_LEVEL_MAX: i32 = 19;

/// Appends the compressed form of `plain` to `out`.
pub(crate) fn compress_into(codec: Compression, plain: &[u8], out: &mut Vec<u8>) {
    compress_at(codec, None, plain, out);
}

/// The same at a level of the codec's own scale. gzip and zstd have one; a level out of its bounds is the nearest within.
pub(crate) fn compress_at(codec: Compression, level: Option<i32>, plain: &[u8], out: &mut Vec<u8>) {
    match codec {
        Compression::None => out.extend_from_slice(plain),
        Compression::Gzip => {
            let level = level.and_then(|level| u32::try_from(level).ok()).map(|level| level.min(9));
            let level = level.map_or_else(flate2::Compression::default, flate2::Compression::new);
            let mut encoder = flate2::write::GzEncoder::new(out, level);
            encoder.write_all(plain).and_then(|()| encoder.finish()).expect("a Vec takes every byte");
        }
        Compression::Snappy => snappy::compress_into(plain, out),
        Compression::Lz4 => lz4::compress_into(plain, out),
        Compression::Zstd => {
            let level = level.unwrap_or(3).min(ZSTD_LEVEL_MAX);
            let packed = zstd::bulk::compress(plain, level).expect("any level takes any input");
            out.extend_from_slice(&packed);
        }
    }
}

/// Expands `packed` to at most `limit` bytes. Uncompressed bytes are returned as they are.
pub fn decompress(codec: Compression, packed: &Bytes, limit: usize) -> Result<Bytes, BatchError> {
    if codec == Compression::None {
        return if packed.len() <= limit { Ok(packed.clone()) } else { Err(BatchError::Expands { limit }) };
    }
    with_scratch(|scratch| {
        let mut stream = Inflate::new(codec, packed, limit, scratch);
        let mut plain = Vec::new();
        while stream.refill()? {
            plain.extend_from_slice(stream.chunk());
        }
        Ok(plain.into())
    })
}

/// What a thread keeps between batches: the output buffer and the decoders' states.
#[derive(Default)]
pub(crate) struct Scratch {
    out: Vec<u8>,
    zstd: Option<zstd_safe::DCtx<'static>>,
    gzip: Option<flate2::Decompress>,
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

/// Lends the thread's scratch; a nested call gets one of its own.
pub(crate) fn with_scratch<T>(work: impl FnOnce(&mut Scratch) -> T) -> T {
    let mut scratch = SCRATCH.take().unwrap_or_default();
    let done = work(&mut scratch);
    if scratch.out.capacity() > KEEP_MAX {
        scratch.out = Vec::new();
    }
    SCRATCH.set(Some(scratch));
    done
}

/// A compressed stream being expanded, a chunk at a time.
pub(crate) struct Inflate<'a> {
    codec: Compression,
    rest: &'a [u8],
    scratch: &'a mut Scratch,
    have: usize,
    produced: usize,
    limit: usize,
    state: State,
}

enum State {
    /// Nothing read yet.
    Start,
    /// Within a gzip member or zstd frame.
    Inside,
    /// At a place where the stream may end.
    Between,
    Lz4(lz4::Frame),
    Xerial,
    Done,
}

impl<'a> Inflate<'a> {
    /// Over `packed`, to at most `limit` bytes and [`RATIO_MAX`] bytes for each of `packed`'s.
    pub(crate) fn new(codec: Compression, packed: &'a [u8], limit: usize, scratch: &'a mut Scratch) -> Self {
        let ratio = packed.len().saturating_mul(RATIO_MAX).max(RATIO_FREE);
        let limit = limit.min(ratio);
        Inflate { codec, rest: packed, scratch, have: 0, produced: 0, limit, state: State::Start }
    }

    /// The bytes of the last [`Self::refill`].
    pub(crate) fn chunk(&self) -> &[u8] {
        &self.scratch.out[..self.have]
    }

    /// Expands the next piece; false at the sound end of the stream.
    pub(crate) fn refill(&mut self) -> Result<bool, BatchError> {
        self.have = 0;
        while self.have == 0 && !matches!(self.state, State::Done) {
            self.have = match self.codec {
                Compression::None => self.plain(),
                Compression::Gzip => self.gzip()?,
                Compression::Snappy => self.snappy()?,
                Compression::Lz4 => self.lz4()?,
                Compression::Zstd => self.zstd()?,
            };
        }
        self.produced += self.have;
        if self.produced > self.limit {
            return Err(BatchError::Expands { limit: self.limit });
        }
        Ok(self.have > 0)
    }

    fn damaged(&self, why: &'static str) -> BatchError {
        BatchError::Stream { codec: self.codec, why }
    }

    /// Makes room for `bytes` of output.
    fn room(&mut self, bytes: usize) {
        if self.scratch.out.len() < bytes {
            self.scratch.out.resize(bytes, 0);
        }
    }

    fn plain(&mut self) -> usize {
        let piece = self.rest.len().min(CHUNK);
        self.scratch.out.clear();
        self.scratch.out.extend_from_slice(&self.rest[..piece]);
        self.rest = &self.rest[piece..];
        if self.rest.is_empty() {
            self.state = State::Done;
        }
        piece
    }

    /// Members follow one another, as Java's reader takes them.
    fn gzip(&mut self) -> Result<usize, BatchError> {
        self.room(CHUNK);
        let Scratch { out, gzip, .. } = &mut *self.scratch;
        let decoder = gzip.get_or_insert_with(|| flate2::Decompress::new_gzip(15));
        if !matches!(self.state, State::Inside) {
            if self.rest.is_empty() {
                if matches!(self.state, State::Start) {
                    return Err(self.damaged("empty"));
                }
                self.state = State::Done;
                return Ok(0);
            }
            decoder.reset(true);
            self.state = State::Inside;
        }
        let (read, wrote) = (decoder.total_in(), decoder.total_out());
        let status = decoder.decompress(self.rest, &mut out[..CHUNK], flate2::FlushDecompress::None);
        let read = (decoder.total_in() - read) as usize;
        let wrote = (decoder.total_out() - wrote) as usize;
        self.rest = &self.rest[read..];
        match status {
            Ok(flate2::Status::StreamEnd) => self.state = State::Between,
            Ok(_) if read == 0 && wrote == 0 => return Err(self.damaged("cut short")),
            Ok(_) => {}
            Err(_) => return Err(self.damaged("not gzip, or its data or checksum is wrong")),
        }
        Ok(wrote)
    }

    fn zstd(&mut self) -> Result<usize, BatchError> {
        self.room(CHUNK);
        let Scratch { out, zstd, .. } = &mut *self.scratch;
        let decoder = zstd.get_or_insert_with(zstd_safe::DCtx::create);
        if matches!(self.state, State::Start) {
            let ready = decoder.reset(zstd_safe::ResetDirective::SessionAndParameters).and_then(|_| {
                decoder.set_parameter(zstd_safe::DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))
            });
            if ready.is_err() || self.rest.is_empty() {
                return Err(self.damaged("empty"));
            }
            self.state = State::Between;
        }
        if self.rest.is_empty() && matches!(self.state, State::Between) {
            self.state = State::Done;
            return Ok(0);
        }
        let mut input = zstd_safe::InBuffer::around(self.rest);
        let mut output = zstd_safe::OutBuffer::around(&mut out[..CHUNK]);
        let left = decoder.decompress_stream(&mut output, &mut input);
        let (read, wrote) = (input.pos(), output.pos());
        self.rest = &self.rest[read..];
        match left {
            Ok(0) => self.state = State::Between,
            Ok(_) if read == 0 && wrote == 0 => return Err(self.damaged("cut short")),
            Ok(_) => self.state = State::Inside,
            Err(_) => return Err(self.damaged("not zstd, its data is wrong, or its window is over 8 MiB")),
        }
        Ok(wrote)
    }

    fn snappy(&mut self) -> Result<usize, BatchError> {
        if matches!(self.state, State::Start) {
            if let Some(rest) = snappy::strip_header(self.rest) {
                self.rest = rest;
                self.state = State::Xerial;
            } else {
                self.state = State::Done;
                return self.snappy_block(self.rest);
            }
        }
        match snappy::next_block(&mut self.rest) {
            Ok(Some(block)) => self.snappy_block(block),
            Ok(None) => {
                self.state = State::Done;
                Ok(0)
            }
            Err(why) => Err(self.damaged(why)),
        }
    }

    fn snappy_block(&mut self, block: &[u8]) -> Result<usize, BatchError> {
        let size = snappy::block_size(block).map_err(|why| self.damaged(why))?;
        if size > self.limit - self.produced {
            return Err(BatchError::Expands { limit: self.limit });
        }
        self.room(size);
        snappy::decompress(block, &mut self.scratch.out[..size]).map_err(|why| self.damaged(why))
    }

    fn lz4(&mut self) -> Result<usize, BatchError> {
        if let State::Start = self.state {
            let frame = lz4::Frame::open(&mut self.rest).map_err(|why| self.damaged(why))?;
            self.state = State::Lz4(frame);
        }
        let State::Lz4(frame) = &mut self.state else { return Ok(0) };
        match frame.next_block(&mut self.rest) {
            Ok(Some(block)) => {
                let room = block.room;
                self.room(room);
                let State::Lz4(frame) = &mut self.state else { return Ok(0) };
                let wrote = frame.expand(&block, &mut self.scratch.out[..room]);
                wrote.map_err(|why| BatchError::Stream { codec: Compression::Lz4, why })
            }
            Ok(None) => {
                self.state = State::Done;
                Ok(0)
            }
            Err(why) => Err(BatchError::Stream { codec: Compression::Lz4, why }),
        }
    }
}
