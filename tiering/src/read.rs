//! Bytes of objects, however they are had: straight from a directory bucket's files, from the chunk cache, or
//! by one request per chunk from the bucket, with read-ahead for those who read on.
//!
//! Answers are whole or an error: `Gone` for a missing object, `Corrupt` for one that ends too early. What a
//! record batch is, is not known here: whoever serves batches reads with a check (R27).

mod ahead;
mod checked;
mod files;
mod flight;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tidemark_proto::kafka::pieces::Pieces;

pub use ahead::{Handle, Leg};
pub(crate) use checked::{Ranges, contains, join};

use crate::bucket::{Bucket, Kind};
use crate::error::Error;
use crate::hot::chunks::{CHUNK, ChunkCache, ChunkKey};
use crate::seam::Seams;

/// Bounds of a [`Reader`].
#[derive(Clone, Copy, Debug)]
pub struct ReadConfig {
    /// Chunks in one request, when neighbours are missing.
    pub chunks_per_get: usize,
    /// Chunks being read from the bucket at a time, by all together.
    pub chunks_in_flight: usize,
    /// Of these, chunks that nobody asked for yet.
    pub chunks_ahead: usize,
    /// Most bytes that one handle reads ahead.
    pub window: u64,
    /// Attempts before a read fails.
    pub tries: u32,
    /// Files of a directory bucket kept open.
    pub open_files: usize,
    /// Objects of a directory bucket of which it is remembered what was verified.
    pub verified_objects: usize,
}

impl Default for ReadConfig {
    fn default() -> ReadConfig {
        ReadConfig {
            chunks_per_get: 8,
            chunks_in_flight: 128,
            chunks_ahead: 64,
            window: 32 << 20,
            tries: 6,
            open_files: 256,
            verified_objects: 4096,
        }
    }
}

/// Reads objects. Clones share flights, cache, files and budgets.
#[derive(Clone, Debug)]
pub struct Reader(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bucket: Bucket,
    cache: Arc<dyn ChunkCache>,
    config: ReadConfig,
    seams: Seams,
    files: files::Files,
    flights: flight::Flights,
    verified: checked::Verified,
    checks: checked::Checks,
}

impl Reader {
    /// A reader of `bucket` through `cache` (which a directory bucket does not use).
    pub fn new(bucket: &Bucket, cache: Arc<dyn ChunkCache>, config: ReadConfig, seams: &Seams) -> Reader {
        Reader(Arc::new(Inner {
            bucket: bucket.clone(),
            cache,
            config,
            seams: seams.clone(),
            files: files::Files::new(config.open_files),
            flights: flight::Flights::new(config.chunks_in_flight, config.chunks_ahead),
            verified: checked::Verified::new(config.verified_objects),
            checks: checked::Checks::new(),
        }))
    }

    /// Exactly the bytes `range` of an object. `size` is the object's, where known: it saves a longer request.
    pub async fn read(
        &self,
        kind: Kind,
        key: &str,
        range: Range<u64>,
        size: Option<u64>,
    ) -> Result<Pieces, Error> {
        if range.is_empty() {
            return Ok(Pieces::new());
        }
        if self.0.bucket.directory().is_some() {
            return self.file(key, range).await;
        }
        let object: Arc<str> = Arc::from(key);
        let chunks = chunks(&range)?;
        let mut found = Vec::with_capacity(chunks.len());
        let held =
            chunks.clone().map(|number| self.0.cache.peek(&ChunkKey { object: object.clone(), number }));
        found.extend(held);
        if found.iter().any(Option::is_none) {
            let missing = chunks.clone().zip(&found).filter(|(_, held)| held.is_none()).map(|(n, _)| n);
            let joined = self.join(kind, &object, missing.collect(), size);
            for (number, chunk) in joined {
                found[(number - chunks.start) as usize] = Some(chunk.await?);
            }
        }
        cut(key, &range, chunks.start, found)
    }

    /// Starts to bring all of an object into the cache, by one request, so that those who read parts of it share
    /// that. Does nothing for what is larger than one request, and for files.
    pub fn bring(&self, kind: Kind, key: &str, size: u64) {
        let fits = size <= self.0.config.chunks_per_get as u64 * CHUNK;
        let Ok(chunks) = chunks(&(0..size)) else { return };
        if !fits || self.is_local() {
            return;
        }
        let object: Arc<str> = Arc::from(key);
        let held = |number| self.0.cache.peek(&ChunkKey { object: object.clone(), number }).is_some();
        let missing: Vec<u32> = chunks.filter(|number| !held(*number)).collect();
        if !missing.is_empty() {
            drop(self.join(kind, &object, missing, Some(size)));
        }
    }

    /// A handle for one who reads on and on: it reads ahead.
    pub fn handle(&self) -> Handle {
        Handle::new(self.clone())
    }

    /// Forgets an object that was deleted, so that an open file does not hold on to its space.
    pub fn forget(&self, key: &str) {
        self.0.files.forget(key);
        self.0.verified.forget(key);
    }

    /// Whether reads are slices of files, which take no memory.
    pub fn is_local(&self) -> bool {
        self.0.bucket.directory().is_some()
    }

    /// The chunk cache in use.
    pub fn cache(&self) -> &Arc<dyn ChunkCache> {
        &self.0.cache
    }
}

/// The numbers of the chunks that hold `range`.
fn chunks(range: &Range<u64>) -> Result<Range<u32>, Error> {
    let number =
        |n: u64| u32::try_from(n).map_err(|_| Error::Full(format!("byte {} of an object", range.end)));
    Ok(number(range.start / CHUNK)?..number(range.end.div_ceil(CHUNK))?)
}

/// The bytes `range` out of the chunks from number `first` on.
fn cut(key: &str, range: &Range<u64>, first: u32, found: Vec<Option<Bytes>>) -> Result<Pieces, Error> {
    let mut pieces = Pieces::new();
    for (number, chunk) in (first..).zip(found.into_iter().flatten()) {
        let base = u64::from(number) * CHUNK;
        let (from, to) = (range.start.max(base) - base, range.end.min(base + CHUNK) - base);
        if (chunk.len() as u64) < to {
            let why = format!(
                "it ends at byte {}, and byte {} was asked for",
                base + chunk.len() as u64,
                range.end
            );
            return Err(Error::Corrupt { key: key.to_owned(), why });
        }
        pieces.push(chunk.slice(from as usize..to as usize));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests;
