//! Reads segments: by offset and by time through their indexes, which are kept, batches verified (R27), none copied.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tidemark_proto::id::{Millis, Offset};
use tidemark_proto::kafka::pieces::Pieces;
use tidemark_proto::record::view::Batches;

use super::Row;
use super::indexes::Indexes;
use crate::bucket::{Bucket, Kind, Patience, Span};
use crate::error::Error;
use crate::format::Damage;
use crate::keys::{self, SegmentName, SegmentPart};
use crate::lru::Lru;
use crate::parcel::Extent;
use crate::read::Handle;
use crate::run::{Sliced, Taken, Want, take};

/// Bytes of indexes kept.
const CACHED: usize = 32 << 20;

/// Reads segments of one bucket.
#[derive(Debug)]
pub struct Reader {
    bucket: Bucket,
    kept: Mutex<Lru<String, Arc<Indexes>>>,
}

/// A segment found: its log, its row, its indexes.
#[derive(Clone, Debug)]
pub struct Segment {
    bucket: Bucket,
    key: String,
    row: Row,
    indexes: Arc<Indexes>,
}

impl Reader {
    /// A reader that keeps nothing yet.
    pub fn new(bucket: Bucket) -> Reader {
        Reader { bucket, kept: Mutex::new(Lru::new(CACHED)) }
    }

    /// The segment of a row.
    ///
    /// # Errors
    /// Where its indexes are gone or damaged.
    pub async fn open(&self, name: &SegmentName, row: &Row) -> Result<Segment, Error> {
        let key = keys::segment(name, SegmentPart::Log);
        let kept = self.kept.lock().get(&key).cloned();
        let indexes = match kept {
            Some(indexes) => indexes,
            None => self.load(name, row, &key).await?,
        };
        Ok(Segment { bucket: self.bucket.clone(), key, row: row.clone(), indexes })
    }

    async fn load(&self, name: &SegmentName, row: &Row, log: &str) -> Result<Arc<Indexes>, Error> {
        let key = keys::segment(name, SegmentPart::Indexes);
        let found = self.bucket.get(Kind::Segment, &key, Span::All, Patience::Forever).await?;
        let object = found.ok_or_else(|| Error::Gone { key: key.clone() })?.bytes;
        let indexes = Indexes::parse(object, &row.indexes, (row.base, row.last), row.bytes);
        let indexes = Arc::new(indexes.map_err(|damage| damage.at(&key))?);
        self.kept.lock().insert(log.to_owned(), indexes.clone(), indexes.weight());
        Ok(indexes)
    }
}

impl Segment {
    /// Its indexes.
    pub fn indexes(&self) -> &Indexes {
        &self.indexes
    }

    /// Key of its log.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Takes what `want` allows: whole batches from the one on that holds `want.from`. One look, as [`take`].
    ///
    /// # Errors
    /// Where the log is gone or damaged.
    pub async fn take(&self, handle: &Handle, want: Want) -> Result<Taken, Error> {
        let log = Log { handle, key: &self.key, size: self.row.bytes };
        let first = self.holder(&log, want.from).await?;
        let slices = (first..self.indexes.slices()).map(|slice| self.indexes.extent(slice));
        take(&log, slices, self.row.last, want).await
    }

    /// The first batch of `target` or later that reaches `from`.
    ///
    /// # Errors
    /// Where the log is gone or damaged.
    pub async fn find_time(&self, target: Millis, from: Offset) -> Result<Option<Bytes>, Error> {
        let start = self.indexes.since(target).max(from);
        for slice in self.indexes.slice_of(start)..self.indexes.slices() {
            for batch in Batches::new(self.load(&Direct(self), slice).await?) {
                let batch = batch.map_err(|error| self.damaged(&error))?;
                if batch.max_timestamp() >= target && batch.last_offset() >= from {
                    return Ok(Some(batch.bytes().clone()));
                }
            }
        }
        Ok(None)
    }

    /// The greatest timestamp of the batches that reach `from`.
    ///
    /// # Errors
    /// Where the log is gone or damaged.
    pub async fn largest(&self, from: Offset) -> Result<Millis, Error> {
        if from <= self.row.base {
            return Ok(self.row.max_timestamp);
        }
        let mut largest = Millis(-1);
        for slice in self.indexes.slice_of(from)..self.indexes.slices() {
            for batch in Batches::new(self.load(&Direct(self), slice).await?) {
                let batch = batch.map_err(|error| self.damaged(&error))?;
                if batch.last_offset() >= from {
                    largest = largest.max(batch.max_timestamp());
                }
            }
        }
        Ok(largest)
    }

    /// The slice that holds `offset`: of two that may, the first is looked at once.
    async fn holder(&self, log: &impl Sliced, offset: Offset) -> Result<usize, Error> {
        let slice = self.indexes.slice_of(offset);
        let certain = slice == 0 && offset <= self.row.base;
        if certain || slice + 1 == self.indexes.slices() || self.indexes.known_end(slice).is_some() {
            return Ok(slice);
        }
        let mut end = None;
        for batch in Batches::new(self.load(log, slice).await?) {
            end = Some(batch.map_err(|error| self.damaged(&error))?.last_offset());
        }
        self.indexes.note_end(slice, end.unwrap_or(self.row.last));
        Ok(self.indexes.slice_of(offset))
    }

    async fn load(&self, log: &impl Sliced, slice: usize) -> Result<Bytes, Error> {
        let extent = self.indexes.extent(slice);
        let range = extent.position..extent.position + extent.length;
        let check = move |pieces: &Pieces| verify_within(&whole(pieces)?, extent);
        let pieces = log.read_checked(range, check).await?;
        log.load(pieces).await
    }

    fn damaged(&self, why: &impl ToString) -> Error {
        Damage::new(why.to_string()).at(&self.key)
    }
}

fn whole(pieces: &Pieces) -> Result<Bytes, Damage> {
    pieces.clone().into_bytes().map_err(|error| Damage::new(error.to_string()))
}

/// The log of a segment, read by way of a handle.
struct Log<'a> {
    handle: &'a Handle,
    key: &'a str,
    size: u64,
}

impl Sliced for Log<'_> {
    fn name(&self) -> &str {
        self.key
    }

    fn check(&self) -> fn(&Bytes, Extent) -> Result<(), Damage> {
        verify_within
    }

    async fn read_checked<F>(&self, range: Range<u64>, check: F) -> Result<Pieces, Error>
    where
        F: Fn(&Pieces) -> Result<(), Damage> + Send + 'static,
    {
        self.handle.read_checked(Kind::Segment, self.key, range, Some(self.size), &[], check).await
    }

    async fn load(&self, pieces: Pieces) -> Result<Bytes, Error> {
        self.handle.load(pieces).await
    }
}

/// The same, straight from the bucket: for a look-up that nobody goes on from.
struct Direct<'a>(&'a Segment);

impl Sliced for Direct<'_> {
    fn name(&self) -> &str {
        &self.0.key
    }

    async fn read_checked<F>(&self, range: Range<u64>, check: F) -> Result<Pieces, Error>
    where
        F: Fn(&Pieces) -> Result<(), Damage> + Send + 'static,
    {
        let Segment { bucket, key, .. } = self.0;
        let found = bucket.get(Kind::Segment, key, Span::Range(range), Patience::Forever).await?;
        let pieces = Pieces::from(found.ok_or_else(|| Error::Gone { key: key.clone() })?.bytes);
        check(&pieces).map_err(|damage| damage.at(key))?;
        Ok(pieces)
    }

    async fn load(&self, pieces: Pieces) -> Result<Bytes, Error> {
        whole(&pieces).map_err(|damage| damage.at(&self.0.key))
    }
}

/// Checks that `bytes` are whole batches within the bounds of `extent`: offsets rise, every CRC is true (R27).
pub fn verify_within(bytes: &Bytes, extent: Extent) -> Result<(), Damage> {
    let wrong = |what: String| Damage::new(format!("slice at {}: {what}", extent.position));
    if bytes.len() as u64 != extent.length {
        return Err(wrong(format!("{} bytes instead of {}", bytes.len(), extent.length)));
    }
    let mut next = extent.base_offset;
    for batch in Batches::new(bytes.clone()) {
        let batch = batch.map_err(|error| wrong(error.to_string()))?;
        batch.verify_crc().map_err(|error| wrong(error.to_string()))?;
        let (base, last) = (batch.base_offset(), batch.last_offset());
        if base < next || last < base || last > extent.last_offset {
            return Err(wrong(format!("a batch of {base}..={last} where {next} is due")));
        }
        next = last.plus(1);
    }
    Ok(())
}
