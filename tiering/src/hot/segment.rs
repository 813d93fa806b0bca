//! One hot segment on the disk: batches in Kafka's own files, `.log`, `.index` and `.timeindex`, named by the first
//! offset, so that Kafka's tools read them.
//!
//! Written by one writer, in large appends, never synced: it is a copy of what the bucket holds. The index files
//! are opened only when there is an entry to add, so that a partition costs one open file at most.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::path::{Path, PathBuf};

use tidemark_proto::id::{Millis, Offset};
use tidemark_proto::record::stamp::Stamped;

use crate::segment::index::{Entries, Indexer};

/// An index entry is due after this many bytes of batches (Kafka's `index.interval.bytes`).
const INTERVAL: u64 = 4096;
/// Buffers given to one write.
const BUFFERS: usize = 512;

/// When a segment is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// `segment.bytes`.
    pub bytes: u64,
    /// `segment.ms`: between the times of its first batch and of any other.
    pub ms: i64,
}

/// A segment that is written to.
#[derive(Debug)]
pub(super) struct Segment {
    /// Its files without their extensions.
    path: PathBuf,
    base: Offset,
    next: Offset,
    indexer: Indexer,
    /// Greatest timestamp of its first batch.
    first: Option<Millis>,
}

/// Where a batch lies in the log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Laid {
    /// First offset.
    pub base: Offset,
    /// Its first byte.
    pub at: u64,
}

impl Segment {
    /// Creates the files of a segment that begins with `base`, and gives the log file for writing and reading.
    pub fn create(folder: &Path, base: Offset) -> io::Result<(Segment, File)> {
        let path = folder.join(format!("{:020}", base.0));
        let log =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).open(log_of(&path))?;
        File::create(path.with_extension("index"))?;
        File::create(path.with_extension("timeindex"))?;
        let indexer = Indexer::new(base, INTERVAL);
        Ok((Segment { path, base, next: base, indexer, first: None }, log))
    }

    /// First offset.
    pub fn base(&self) -> Offset {
        self.base
    }

    /// Offset after the last.
    pub fn next(&self) -> Offset {
        self.next
    }

    /// Bytes of the log file.
    pub fn len(&self) -> u64 {
        self.indexer.len()
    }

    /// Its files without their extensions.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many of `batches` it takes within `bounds`. None unless the first one follows on: a segment has no hole.
    pub fn takes(&self, batches: &[Stamped], bounds: Bounds) -> usize {
        let (mut next, mut len, mut first) = (self.next, self.len(), self.first);
        let limit = bounds.bytes.min(i32::MAX as u64);
        for (at, batch) in batches.iter().enumerate() {
            let (size, last) = (batch.len() as u64, batch.last_offset());
            let near = last.0 - self.base.0 <= i64::from(i32::MAX);
            // By the records' own times, as Kafka: a segment that is read again rolls where it rolled before.
            let time = batch.max_timestamp();
            let waited = time.0.saturating_sub(first.get_or_insert(time).0);
            let full = len > 0 && (len + size > limit || waited > bounds.ms);
            if batch.base_offset() != next || !near || full {
                return at;
            }
            (next, len) = (last.plus(1), len + size);
        }
        batches.len()
    }

    /// Appends batches that it takes; `log` is its log file.
    pub fn append(&mut self, log: &File, batches: &[Stamped]) -> io::Result<Vec<Laid>> {
        let (mut due, mut laid) = (Entries::default(), Vec::with_capacity(batches.len()));
        let start = self.len();
        for batch in batches {
            let last = batch.last_offset();
            self.first.get_or_insert(batch.max_timestamp());
            laid.push(Laid { base: batch.base_offset(), at: self.len() });
            self.indexer.add(last, batch.max_timestamp(), batch.len() as u64, &mut due);
            self.next = last.plus(1);
        }
        write_at(log, batches, start)?;
        self.append_entries(&due)?;
        Ok(laid)
    }

    /// Ends the segment: its greatest timestamp is in the time index, as Kafka has it in a closed one.
    pub fn close(mut self) -> io::Result<()> {
        let mut due = Entries::default();
        self.indexer.close(&mut due);
        self.append_entries(&due)
    }

    fn append_entries(&self, due: &Entries) -> io::Result<()> {
        append_to(&self.path.with_extension("index"), &due.offsets)?;
        append_to(&self.path.with_extension("timeindex"), &due.times)
    }
}

/// The log file of a segment.
pub(super) fn log_of(path: &Path) -> PathBuf {
    path.with_extension("log")
}

/// Deletes a segment's files; what is gone already is none of its concern.
pub(super) fn delete(path: &Path) {
    for extension in ["log", "index", "timeindex"] {
        std::fs::remove_file(path.with_extension(extension)).ok();
    }
    if let Some(folder) = path.parent() {
        std::fs::remove_dir(folder).ok(); // only the last one finds it empty
    }
}

fn write_at(log: &File, batches: &[Stamped], mut at: u64) -> io::Result<()> {
    let parts = batches.iter().flat_map(|batch| [&batch.head()[..], &batch.tail()[..]]);
    let mut slices: Vec<IoSlice<'_>> = parts.map(IoSlice::new).collect();
    let mut left = &mut slices[..];
    while !left.is_empty() {
        let count = left.len().min(BUFFERS);
        let written = rustix::io::pwritev(log, &left[..count], at)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        at += written as u64;
        IoSlice::advance_slices(&mut left, written);
    }
    Ok(())
}

fn append_to(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    OpenOptions::new().append(true).open(path)?.write_all(bytes)
}
