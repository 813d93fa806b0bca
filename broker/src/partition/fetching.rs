//! From sources to bytes: memory as it is, the rest from hot segments where they have it, else parcels and runs
//! through the chunk cache or, in a directory bucket, as slices of their files.
//!
//! What comes back from the bucket is verified before it is served (R27), whoever wrote it. Readers that go on where
//! they stopped have a handle that reads ahead. Knows no request.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use tidemark_proto::id::TopicPartition;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::pieces::Pieces;
use tidemark_tiering::bucket::Kind;
use tidemark_tiering::error::Error;
use tidemark_tiering::hot::disks::Hot;
use tidemark_tiering::lru::Lru;
use tidemark_tiering::parcel::verify_pieces;
use tidemark_tiering::read::{Handle, Reader};
use tidemark_tiering::run::Want;
use tidemark_tiering::seam::Seams;

use crate::archive::Archive;
use crate::cluster::image::Image;
use crate::partition::Look;
use crate::partition::index::{Appetite, Source, Stored};

/// Parcels of one partition that one fetch reads at a time.
const PARCELS: usize = 8;

/// Readers whose place is remembered.
const READERS: usize = 8192;

/// Who reads: the number of a connection, 0 for this broker itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asker(pub u64);

/// Sequential readers: who asks for what.
type Handles = Lru<(Asker, TopicPartition), Arc<Handle>>;

/// Reads for fetches and for the coordinators. Cheap to clone.
#[derive(Clone)]
pub struct Fetching {
    reader: Reader,
    hot: Hot,
    archive: Arc<Archive>,
    handles: Arc<Mutex<Handles>>,
    seams: Seams,
}

impl Fetching {
    /// Reads `hot`, else objects by `reader`; `archive` finds them for what is in runs.
    pub fn new(reader: Reader, hot: Hot, archive: Arc<Archive>, seams: &Seams) -> Fetching {
        let handles = Arc::new(Mutex::new(Lru::new(READERS)));
        Fetching { reader, hot, archive, handles, seams: seams.clone() }
    }

    /// The world it reads in.
    pub fn seams(&self) -> &Seams {
        &self.seams
    }

    /// What objects are read by.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// The hot segments.
    pub fn hot(&self) -> &Hot {
        &self.hot
    }

    /// Bytes of memory that reading what `look` found takes.
    pub fn memory(&self, look: &Look) -> usize {
        let in_file = |source: &Source| !matches!(source, Source::Memory(_)) && self.reader.is_local();
        match look.sources.iter().all(in_file) {
            true => 0,
            false => look.bytes,
        }
    }

    /// Reads `sources` in order; `image` names the runs.
    ///
    /// # Errors
    /// `KafkaStorageError` where the bucket's bytes are damaged or gone; a retriable code where it does not answer.
    pub async fn pieces(
        &self,
        by: Asker,
        tp: TopicPartition,
        image: &Image,
        sources: Vec<Source>,
    ) -> Result<Pieces, ErrorCode> {
        let handle = self.handle(by, tp);
        let reads: Vec<_> =
            sources.into_iter().map(|source| self.source(&handle, tp, image, source)).collect();
        let mut found = futures::stream::iter(reads).buffered(PARCELS);
        let mut out = Pieces::new();
        while let Some(pieces) = found.try_next().await? {
            out.extend(pieces);
        }
        Ok(out)
    }

    async fn source(
        &self,
        handle: &Handle,
        tp: TopicPartition,
        image: &Image,
        source: Source,
    ) -> Result<Pieces, ErrorCode> {
        match source {
            Source::Memory(batches) => {
                let mut parts = Vec::with_capacity(batches.len() * 2);
                batches.iter().for_each(|b| b.push_to(&mut parts));
                let mut out = Pieces::new();
                parts.into_iter().for_each(|p: Bytes| out.push(p));
                Ok(out)
            }
            Source::Stored(stored) => match self.hot_stored(tp, &stored).await {
                Some(pieces) => Ok(pieces),
                None => self.stored(stored).await,
            },
            Source::Archived { from, until, appetite } => {
                let Appetite { bytes_max, at_least_one } = appetite;
                let want = Want { from, until, bytes_max, at_least_one };
                // Where compaction has been a copy from before may hold what a deletion, dropped meanwhile, had deleted.
                let is_clean = image.partition(tp).is_some_and(|p| from < p.cleaned);
                if !is_clean && let Some(taken) = self.hot.take(tp, want).await {
                    return Ok(taken.pieces);
                }
                let read = self.archive.read(handle, image, tp, (from, until), appetite).await;
                match read {
                    // What a fetch was planned on may be deleted before it is read.
                    Err(Error::Gone { .. }) if self.archive.is_below_start(tp, from) => {
                        Err(ErrorCode::OffsetOutOfRange)
                    }
                    read => read.map_err(|e| code(&e)),
                }
            }
        }
    }

    /// Exactly these batches, from a hot segment.
    async fn hot_stored(&self, tp: TopicPartition, stored: &Stored) -> Option<Pieces> {
        let (first, last) = (stored.entries().first()?, stored.entries().last()?);
        let (from, until) = (first.base_offset, last.last_offset.plus(1));
        let want = Want { from, until, bytes_max: usize::MAX, at_least_one: true };
        let pieces = self.hot.take(tp, want).await?.pieces;
        (pieces.len() as u64 == stored.bytes.end - stored.bytes.start).then_some(pieces)
    }

    async fn stored(&self, stored: Stored) -> Result<Pieces, ErrorCode> {
        let (parcel, range) = (stored.parcel.clone(), stored.bytes.clone());
        if stored.shared {
            self.reader.bring(Kind::Parcel, &parcel.key, parcel.size);
        }
        let check = move |pieces: &Pieces| verify_pieces(pieces, stored.entries());
        let read = self.reader.read_checked(Kind::Parcel, &parcel.key, range, Some(parcel.size), check);
        read.await.map_err(|error| {
            if let Error::Corrupt { key, why } = &error {
                tracing::error!(key, why, "a parcel is damaged: its batches are not served");
            }
            code(&error)
        })
    }

    fn handle(&self, by: Asker, tp: TopicPartition) -> Arc<Handle> {
        let mut handles = self.handles.lock();
        if let Some(handle) = handles.get(&(by, tp)) {
            return handle.clone();
        }
        let handle = Arc::new(self.reader.handle());
        handles.insert((by, tp), handle.clone(), 1);
        handle
    }
}

fn code(error: &Error) -> ErrorCode {
    tracing::warn!(%error, "a read failed");
    crate::api::error::code_of(error)
}
