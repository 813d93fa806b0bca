//! What a share of a run becomes when its batches were judged: their bytes, and the entry that tells of them.

use bytes::Bytes;
use tidemark_proto::id::Millis;
use tidemark_proto::record::BatchError;
use tidemark_proto::record::view::{Batch, Batches};

use super::pass::Kept;
use crate::run::entry::SLICE;
use crate::run::{Partition, Slice};

/// A share that is rewritten, batch by batch. Its bounds stay, whatever is left between them: what lies side by side still
/// does. Only its first batch is told to be at an edge, unless the share is written behind one that it follows: slices
/// begin where a batch does.
#[derive(Debug)]
pub struct Rewrite {
    batches: Batches,
    /// The next batch is the first of what is written side by side.
    first: bool,
    parts: Vec<Bytes>,
    entry: Partition,
}

impl Rewrite {
    /// Of `share`, whose batches are `bytes`. `joins`: it is written behind one that it follows.
    pub fn new(share: &Partition, bytes: Bytes, joins: bool) -> Rewrite {
        let entry = Partition {
            max_timestamp: Millis(-1),
            length: 0,
            crc: 0,
            batches: 0,
            slices: Vec::new(),
            ..share.clone()
        };
        Rewrite { batches: Batches::new(bytes), first: !joins, parts: Vec::new(), entry }
    }

    /// Asks `judge` about the next batch, told whether it is at an edge; the bytes looked at, or `None` after the last one.
    ///
    /// # Errors
    /// Where a batch is damaged.
    pub fn step(
        &mut self,
        judge: impl FnOnce(&Batch, bool) -> Result<Kept, BatchError>,
    ) -> Result<Option<usize>, BatchError> {
        let Some(batch) = self.batches.next().transpose()? else { return Ok(None) };
        batch.verify_crc()?;
        match judge(&batch, std::mem::take(&mut self.first))? {
            Kept::Whole => self.push(&batch),
            Kept::Rewritten(other) => self.push(&other),
            Kept::Gone => {}
        }
        Ok(Some(batch.size()))
    }

    /// What it has become: an entry without a place, and its bytes.
    pub fn done(self) -> (Partition, Vec<Bytes>) {
        (self.entry, self.parts)
    }

    fn push(&mut self, batch: &Batch) {
        let entry = &mut self.entry;
        match entry.slices.last_mut() {
            Some(slice) if entry.length - u64::from(slice.at) < SLICE => {
                slice.max_timestamp = slice.max_timestamp.max(batch.max_timestamp());
            }
            _ => entry.slices.push(Slice {
                base_offset: batch.base_offset(),
                at: entry.length as u32, // no longer than the share was, which has slices too
                max_timestamp: batch.max_timestamp(),
            }),
        }
        entry.crc = crc32c::crc32c_append(entry.crc, batch.bytes());
        entry.length += batch.size() as u64;
        entry.batches += 1;
        entry.max_timestamp = entry.max_timestamp.max(batch.max_timestamp());
        self.parts.push(batch.bytes().clone());
    }
}
