//! Makes a segment's indexes, manifest and row out of its batches, one after the other.
//!
//! Keeps no batch: the log itself goes wherever the caller sends it. What goes in is verified (R27) and follows on, so
//! what comes out is true of it. Pure.

use bytes::Bytes;
use tidemark_proto::id::{BrokerId, Millis, Offset};
use tidemark_proto::record::view::Batch;

use super::epochs::Epochs;
use super::index::{Entries, Indexer};
use super::indexes::Layout;
use super::manifest::Manifest;
use super::producers::{Aborted, Producers, encode_aborted};
use super::{Row, State};
use crate::format::Damage;
use crate::keys::SegmentName;

/// An index entry is due after this many bytes of batches: a look-up lands on stretches as long as a run's slices are.
const INTERVAL: u64 = 64 << 10;
/// A producer that was idle for longer is not in the snapshot of a segment, as in Kafka (`producer.id.expiration.ms`).
const IDLE_MS: i64 = 24 * 60 * 60 * 1000;
/// Producers in a snapshot at most.
const PRODUCERS: usize = 100_000;

/// What is known where a segment begins: the end of the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// Leader epochs so far.
    pub epochs: Epochs,
    /// Producers, with their open transactions.
    pub producers: Producers,
}

/// See the module.
#[derive(Debug)]
pub struct Builder {
    base: Offset,
    next: Offset,
    indexer: Indexer,
    entries: Entries,
    epochs: Epochs,
    producers: Producers,
    aborted: Vec<Aborted>,
}

/// A segment but for its log.
#[derive(Clone, Debug)]
pub struct Built {
    /// What the metadata says of it.
    pub row: Row,
    /// The `.indexes` object.
    pub indexes: Bytes,
    /// The `.rsm-manifest` object.
    pub manifest: Manifest,
    /// Where the next one starts.
    pub end: Start,
}

impl Builder {
    /// Begins at `base`.
    pub fn new(base: Offset, start: Start) -> Builder {
        Builder {
            base,
            next: base,
            indexer: Indexer::new(base, INTERVAL),
            entries: Entries::default(),
            epochs: start.epochs,
            producers: start.producers,
            aborted: Vec::new(),
        }
    }

    /// Bytes of the log so far.
    pub fn len(&self) -> u64 {
        self.indexer.len()
    }

    /// Whether there is no batch yet.
    pub fn is_empty(&self) -> bool {
        self.indexer.is_empty()
    }

    /// First offset.
    pub fn base(&self) -> Offset {
        self.base
    }

    /// Offset after the last.
    pub fn next(&self) -> Offset {
        self.next
    }

    /// Whether a batch is within what Kafka's formats can say: positions and relative offsets of 31 bits.
    pub fn takes(&self, batch: &Batch) -> bool {
        let end = self.len() + batch.size() as u64;
        end <= i32::MAX as u64 && batch.last_offset().0 - self.base.0 <= i64::from(i32::MAX)
    }

    /// Takes the next batch. Offsets rise; holes are what compaction leaves.
    ///
    /// # Errors
    /// Where it does not follow or its checksum is wrong: nothing is built of damaged batches.
    pub fn add(&mut self, batch: &Batch) -> Result<(), Damage> {
        batch.verify_crc().map_err(|error| Damage::new(error.to_string()))?;
        let (base, last) = (batch.base_offset(), batch.last_offset());
        if base < self.next || last < base || !self.takes(batch) {
            return Err(Damage::new(format!("a batch of {base}..={last} where {} is due", self.next)));
        }
        if !self.epochs.enter(batch.partition_leader_epoch(), base) {
            return Err(Damage::new(format!("the leader epoch of the batch at {base} falls")));
        }
        self.aborted.extend(self.producers.apply(batch)?);
        self.indexer.add(last, batch.max_timestamp(), batch.size() as u64, &mut self.entries);
        self.next = last.plus(1);
        Ok(())
    }

    /// Ends the segment, which `broker` copies at `now`. `name.base` and `name.id` are its.
    pub fn finish(mut self, name: &SegmentName, broker: BrokerId, now: Millis) -> Built {
        self.indexer.close(&mut self.entries);
        let newest = self.indexer.newest();
        self.producers.expire(Millis(newest.0.saturating_sub(IDLE_MS)), PRODUCERS);
        let files = [
            self.entries.offsets,
            self.entries.times,
            self.producers.encode(),
            self.epochs.encode(),
            encode_aborted(&self.aborted),
        ];
        let [offset, time, producers, epochs, transactions] =
            [0, 1, 2, 3, 4].map(|at: usize| files[at].len() as u32);
        let indexes = Bytes::from(files.concat());
        let crc = crc32c::crc32c(&indexes);
        let row = Row {
            id: name.id,
            base: self.base,
            last: Offset(self.next.0 - 1),
            max_timestamp: newest,
            bytes: self.indexer.len(),
            epochs: self.epochs.from(self.base),
            indexes: Layout { offset, time, producers, epochs, transactions, crc },
            state: State::CopyFinished,
        };
        let manifest = Manifest::new(name, &row, broker, now);
        Built { row, indexes, manifest, end: Start { epochs: self.epochs, producers: self.producers } }
    }
}
