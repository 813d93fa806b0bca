//! The bucket: conditional create, ranged read, listing after a key, delete; counted and priced.
//!
//! One primitive carries the commit protocol: [`Bucket::place`] creates an object exactly once and settles
//! every unclear answer by reading (R4). The store is not trusted: its own retries are off (they turn one's
//! own write into "already exists"), errors prove nothing, lengths are checked. Knows no format and no log.

mod attempt;
mod body;
mod config;
pub mod conformance;
mod directory;
pub mod faults;
mod health;
mod memory;
mod meter;
mod open;
mod place;
mod price;
pub mod probe;
mod read;
mod second;
mod trouble;

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::path::Path;
use parking_lot::Mutex;
use tidemark_proto::id::Millis;

pub use body::Body;
pub use config::{Config, OpenError, Secret};
pub use directory::{DirLock, Directory, LockState};
pub use health::Health;
pub use memory::Memory;
pub use meter::{MeterRow, Outcome, Seconds, Verb};
pub use place::Placed;
pub use price::Prices;

use crate::seam::Seams;

/// What an object is, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// What one PUT of a lane makes durable.
    Parcel,
    /// The end of a lane or of a generation.
    Seal,
    /// A record of the metadata log.
    Meta,
    /// A metadata snapshot.
    Snapshot,
    /// An object of a run.
    Run,
    /// A checkpoint.
    Checkpoint,
    /// An object of a segment.
    Segment,
    /// A partition manifest.
    Manifest,
    /// What a start-up probe writes.
    Probe,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 9] = [
        Kind::Parcel,
        Kind::Seal,
        Kind::Meta,
        Kind::Snapshot,
        Kind::Run,
        Kind::Checkpoint,
        Kind::Segment,
        Kind::Manifest,
        Kind::Probe,
    ];

    /// The label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Parcel => "parcel",
            Kind::Seal => "seal",
            Kind::Meta => "meta",
            Kind::Snapshot => "snapshot",
            Kind::Run => "run",
            Kind::Checkpoint => "checkpoint",
            Kind::Segment => "segment",
            Kind::Manifest => "manifest",
            Kind::Probe => "probe",
        }
    }
}

/// Which bytes of an object to read. Whatever lies beyond its end is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Span {
    /// The whole object.
    All,
    /// These bytes.
    Range(Range<u64>),
    /// The last so many bytes.
    Tail(u64),
}

/// How long to go on when the store does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// So many attempts (at least one).
    Tries(u32),
    /// Until it answers, or the caller drops the call.
    Forever,
}

impl Patience {
    fn allows(self, attempts: u32) -> bool {
        match self {
            Patience::Tries(n) => attempts < n,
            Patience::Forever => true,
        }
    }
}

/// Bytes of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The bytes asked for, as far as the object has them.
    pub bytes: Bytes,
    /// Size of the whole object.
    pub size: u64,
    /// Where in the object `bytes` begins.
    pub start: u64,
}

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Its size.
    pub size: u64,
    /// When the store says it was written. For people and for graces, never for order.
    pub modified: Millis,
}

/// How a [`Bucket`] over a given store behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Put before every key, without slashes at the ends.
    pub prefix: String,
    /// What requests cost.
    pub prices: Prices,
    /// Time allowed for an attempt, beyond what its bytes take at 1 MiB/s.
    pub attempt: Duration,
    /// When a read that has not been answered is asked a second time, beyond what its bytes take at 4 MiB/s.
    pub late: Option<Duration>,
    /// Whether the store reads the end of an object without knowing its size.
    pub suffix_reads: bool,
    /// How many keys one delete request takes.
    pub delete_batch: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            prefix: String::new(),
            prices: Prices::Free,
            attempt: Duration::from_secs(5),
            late: Some(Duration::from_millis(500)),
            suffix_reads: true,
            delete_batch: 1,
        }
    }
}

/// A bucket, or a part of one under a prefix. Cheap to clone; clones share counters and health.
#[derive(Clone)]
pub struct Bucket(Arc<Inner>);

struct Inner {
    store: Arc<dyn ObjectStore>,
    options: Options,
    directory: Option<PathBuf>,
    seams: Seams,
    meter: Mutex<meter::Meter>,
    watch: Mutex<health::Watch>,
    seconds: Mutex<second::Allowance>,
}

impl Bucket {
    /// The bucket that `config` names. Sends no request; on a directory, checks that it can be used.
    pub fn open(config: &Config, seams: &Seams) -> Result<Bucket, OpenError> {
        open::open(config, seams)
    }

    /// A bucket over any store.
    pub fn new(store: Arc<dyn ObjectStore>, options: Options, seams: &Seams) -> Bucket {
        Bucket::over(store, options, None, seams)
    }

    /// A bucket in memory, empty.
    pub fn memory(seams: &Seams) -> Bucket {
        Bucket::new(Arc::new(Memory::new(seams.clock.clone())), Options::default(), seams)
    }

    fn over(
        store: Arc<dyn ObjectStore>,
        options: Options,
        directory: Option<PathBuf>,
        seams: &Seams,
    ) -> Bucket {
        Bucket(Arc::new(Inner {
            store,
            options,
            directory,
            seams: seams.clone(),
            meter: Mutex::default(),
            watch: Mutex::new(health::Watch::new()),
            seconds: Mutex::default(),
        }))
    }

    /// All requests so far, by kind, verb and outcome.
    pub fn meter(&self) -> Vec<MeterRow> {
        self.0.meter.lock().rows()
    }

    /// Whether the store works for us.
    pub fn health(&self) -> Health {
        self.0.watch.lock().health()
    }

    /// The price table in use.
    pub fn prices(&self) -> Prices {
        self.0.options.prices
    }

    /// Whether requests cost nothing.
    pub fn is_free(&self) -> bool {
        self.0.options.prices.is_free()
    }

    /// Where the object lies on this machine; only on a directory bucket.
    pub fn local_path(&self, key: &str) -> Option<PathBuf> {
        let path = self.path(key).ok()?;
        self.0.directory.as_ref().map(|root| root.join(path.as_ref()))
    }

    /// The directory of a directory bucket: where [`DirLock`]s of its users are.
    pub fn directory(&self) -> Option<&std::path::Path> {
        self.0.directory.as_deref()
    }

    fn path(&self, key: &str) -> Result<Path, object_store::path::Error> {
        match self.0.options.prefix.as_str() {
            "" => Path::parse(key),
            prefix => Path::parse(format!("{prefix}/{key}")),
        }
    }

    /// The key of a path the store listed.
    fn key(&self, path: &Path) -> Option<String> {
        match self.0.options.prefix.as_str() {
            "" => Some(path.as_ref().to_owned()),
            prefix => path.as_ref().strip_prefix(prefix)?.strip_prefix('/').map(str::to_owned),
        }
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({})", self.0.store)
    }
}

#[cfg(test)]
mod tests;
