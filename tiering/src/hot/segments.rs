//! Hot segment files of one disk: what was committed lately, in Kafka's own form, for the kernel to send.
//!
//! Holds no truth: it is fed after commit and never waited for, wiped at start, and bounded. A disk that fails, fills
//! up, turns read-only or loses its files costs an alarm and speed: the tier is off, reads go to the bucket, and it
//! starts anew on an empty folder when the disk can be written again. R27: a stretch of a file is verified when this
//! process first serves it, and the file is still as long as it was written.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tidemark_proto::id::{LeaderEpoch, Offset, TopicId, TopicPartition};
use tidemark_proto::kafka::pieces::{FileSlice, Pieces};
use tidemark_proto::record::stamp::Stamped;
use tokio::sync::mpsc;
use tokio::time::Instant;

pub use super::segment::Bounds;
use super::segment::log_of;
use super::shelf::{Found, Shelf};
use super::writer;
use crate::error::Error;
use crate::format::Damage;
use crate::lru::Lru;
use crate::read::{Ranges, contains};
use crate::run::{self, Sliced, Taken, Want};
use crate::seam::{Seams, Tasks};

/// Name of a topic and bounds of its segments; `None` when it is not there any more.
pub type Naming = Arc<dyn Fn(TopicId) -> Option<(String, Bounds)> + Send + Sync>;

/// Where hot segments of a disk go.
#[derive(Clone, Debug)]
pub struct HotConfig {
    /// A folder of their own: it is wiped.
    pub folder: PathBuf,
    /// Bytes of log files at most.
    pub bytes: u64,
    /// Bytes that may wait to be written; more are skipped.
    pub queue: usize,
    /// How long the tier is off after a failure before it is tried again.
    pub retry: Duration,
    /// Log files kept open.
    pub open_files: usize,
    /// Free space that is left on the disk.
    pub room: u64,
}

impl HotConfig {
    /// The usual bounds.
    pub fn new(folder: PathBuf, bytes: u64) -> HotConfig {
        let (queue, retry) = (32 << 20, Duration::from_secs(10));
        HotConfig { folder, bytes, queue, retry, open_files: 256, room: 256 << 20 }
    }
}

/// What the tier holds and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HotStats {
    /// Bytes of log files.
    pub bytes: u64,
    /// Segments.
    pub segments: u64,
    /// Reads answered.
    pub hits: u64,
    /// Reads not answered.
    pub misses: u64,
    /// Bytes written.
    pub written: u64,
    /// Batches that were not written, because the disk was slow or off.
    pub skipped: u64,
}

/// The hot segments on one disk. Clones share them.
#[derive(Clone)]
pub struct Disk(Arc<Open>);

struct Open {
    inner: Arc<Inner>,
    queue: mpsc::Sender<Offer>,
}

/// Batches of one partition, committed.
pub(super) struct Offer {
    pub of: TopicPartition,
    pub batches: Vec<Stamped>,
    pub bytes: usize,
}

pub(super) struct Inner {
    pub config: HotConfig,
    pub naming: Naming,
    pub shelf: Mutex<Shelf>,
    pub files: Mutex<Lru<PathBuf, Arc<File>>>,
    pub tasks: Tasks,
    pub queued: AtomicUsize,
    pub written: AtomicU64,
    pub skipped: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    /// Why it is off, and until when it stays so.
    off: Mutex<Option<(String, Instant)>>,
    #[cfg(test)]
    pub fault: Mutex<Option<io::ErrorKind>>,
}

impl Disk {
    /// Disk segments under an empty folder of their own; whatever it holds goes.
    pub fn open(config: HotConfig, naming: Naming, seams: &Seams) -> Disk {
        let (queue, offers) = mpsc::channel(4096);
        let inner = Arc::new(Inner {
            shelf: Mutex::default(),
            files: Mutex::new(Lru::new(config.open_files)),
            naming,
            tasks: seams.tasks.clone(),
            queued: AtomicUsize::new(0),
            written: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            off: Mutex::new(None),
            #[cfg(test)]
            fault: Mutex::new(None),
            config,
        });
        seams.tasks.spawn(writer::run(inner.clone(), offers));
        Disk(Arc::new(Open { inner, queue }))
    }

    /// The partition is owned under `epoch` now: what older ownerships left is dropped, and no more of it taken. A
    /// batch beyond the bound of an ownership is void (R13), and its offsets belong to others by now.
    pub fn lead(&self, of: TopicPartition, epoch: LeaderEpoch) {
        self.0.inner.shelf.lock().lead(of, epoch);
    }

    /// The partition's log starts at `start` now: segments below it go, their files with the next write.
    pub fn start(&self, of: TopicPartition, start: Offset) {
        self.0.inner.shelf.lock().start(of, start);
    }

    /// Takes batches of a partition that are committed, in order. Never waits: what the disk is too slow for is left
    /// out, and the partition goes on in another segment behind the hole.
    pub fn offer(&self, of: TopicPartition, batches: Vec<Stamped>) {
        if batches.is_empty() {
            return;
        }
        let Open { inner, queue } = &*self.0;
        let (bytes, count) = (batches.iter().map(Stamped::len).sum::<usize>(), batches.len() as u64);
        let fits = inner.queued.fetch_add(bytes, Ordering::Relaxed) + bytes <= inner.config.queue;
        if !fits || queue.try_send(Offer { of, batches, bytes }).is_err() {
            inner.queued.fetch_sub(bytes, Ordering::Relaxed);
            inner.skipped.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// What `want` asks for, if the batch that holds `want.from` is here; perhaps only the beginning of it.
    pub async fn take(&self, of: TopicPartition, want: Want) -> Option<Taken> {
        let inner = &self.0.inner;
        let taken = inner.take(of, want).await;
        let count = if taken.is_some() { &inner.hits } else { &inner.misses };
        count.fetch_add(1, Ordering::Relaxed);
        taken
    }

    /// Counters.
    pub fn stats(&self) -> HotStats {
        let (inner, read) = (&self.0.inner, |counter: &AtomicU64| counter.load(Ordering::Relaxed));
        let shelf = inner.shelf.lock();
        HotStats {
            bytes: shelf.bytes(),
            segments: shelf.segments() as u64,
            hits: read(&inner.hits),
            misses: read(&inner.misses),
            written: read(&inner.written),
            skipped: read(&inner.skipped),
        }
    }

    /// What the disk says to every write from now on.
    #[cfg(test)]
    pub(super) fn fail(&self, how: Option<io::ErrorKind>) {
        *self.0.inner.fault.lock() = how;
    }

    /// Why the tier is off, for an alarm.
    pub fn alarm(&self) -> Option<String> {
        let off = self.0.inner.off.lock();
        off.as_ref().map(|(why, _)| why.clone())
    }
}

impl Inner {
    async fn take(&self, of: TopicPartition, want: Want) -> Option<Taken> {
        let found = self.shelf.lock().find(of, want)?;
        let file = match self.open_log(&found.path).await {
            Ok(file) => file,
            Err(error) => {
                self.switch_off(&format!("{} cannot be opened: {error}", found.path.display()));
                return None;
            }
        };
        let Found { path, base, slices, last, verified } = found;
        let stretch = Stretch { name: path.display().to_string(), file, verified, tasks: &self.tasks };
        match run::take(&stretch, slices.into_iter(), last, want).await {
            Ok(taken) => Some(taken).filter(|taken| !taken.pieces.is_empty()),
            Err(Error::Corrupt { key, why }) => {
                tracing::error!(key, why, "a hot segment is damaged: it is dropped, the bucket is read");
                self.shelf.lock().drop_segment(of, base);
                None
            }
            Err(error) => {
                self.switch_off(&error.to_string());
                None
            }
        }
    }

    /// The log file of a segment, for reading and writing.
    pub async fn open_log(&self, path: &Path) -> io::Result<Arc<File>> {
        if let Some(file) = self.files.lock().get(path) {
            return Ok(file.clone());
        }
        let log = log_of(path);
        let open = move || File::options().read(true).write(true).open(log);
        let file = Arc::new(self.tasks.blocking(open).await?);
        self.files.lock().insert(path.to_owned(), file.clone(), 1);
        Ok(file)
    }

    /// Whether the tier is off, and whether it may be tried again.
    pub fn is_off(&self) -> Option<bool> {
        self.off.lock().as_ref().map(|(_, until)| *until <= Instant::now())
    }

    /// Switches off after a failure; everything held is let go of.
    pub fn switch_off(&self, why: &str) {
        let mut off = self.off.lock();
        if off.is_none() {
            tracing::error!(
                why,
                "hot segments are off: reads go to the bucket until the disk can be used again"
            );
        }
        *off = Some((why.to_owned(), Instant::now() + self.config.retry));
        self.shelf.lock().clear();
        *self.files.lock() = Lru::new(self.config.open_files);
    }

    /// Switches on again.
    pub fn switch_on(&self) {
        if self.off.lock().take().is_some() {
            tracing::info!("hot segments are on again");
        }
    }
}

/// A segment's log file as slices.
struct Stretch<'a> {
    name: String,
    file: Arc<File>,
    verified: Arc<Mutex<Ranges>>,
    tasks: &'a Tasks,
}

impl Sliced for Stretch<'_> {
    fn name(&self) -> &str {
        &self.name
    }

    async fn read_checked<F>(&self, range: Range<u64>, check: F) -> Result<Pieces, Error>
    where
        F: Fn(&Pieces) -> Result<(), Damage> + Send + 'static,
    {
        let unreadable = |e: io::Error| Error::Retry(format!("{} cannot be read: {e}", self.name));
        let held = self.file.metadata().map_err(unreadable)?.len();
        if held < range.end {
            return Err(Error::Retry(format!("{} was cut to {held} bytes", self.name)));
        }
        let len = usize::try_from(range.end - range.start).map_err(|e| Error::Full(e.to_string()))?;
        let slice = FileSlice { file: self.file.clone(), offset: range.start, len };
        if !contains(&self.verified.lock(), &range) {
            let slice = slice.clone();
            let work = move || slice.read().map(|bytes| check(&Pieces::from(bytes)));
            let checked = self.tasks.blocking(work).await.map_err(unreadable)?;
            checked.map_err(|damage| damage.at(&self.name))?;
            crate::read::join(&mut self.verified.lock(), range);
        }
        Ok(Pieces::from(slice))
    }

    async fn load(&self, pieces: Pieces) -> Result<Bytes, Error> {
        let loaded = self.tasks.blocking(move || pieces.into_bytes()).await;
        loaded.map_err(|e| Error::Retry(format!("{} cannot be read: {e}", self.name)))
    }
}

#[cfg(test)]
mod tests;
