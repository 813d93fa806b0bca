//! The `.indexes` object of a segment: five of Kafka's files side by side, and look-ups in them.
//!
//! Kafka's index files have no checksum; the row in the metadata has one of the whole object. An entry of the offset
//! index names the *last* offset of the batch at a position, so where exactly a slice begins is not known before it is
//! read: a slice's extent gives bounds.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tidemark_proto::id::{Millis, Offset};

use super::epochs::Epochs;
use super::index::{OFFSET_ENTRY, TIME_ENTRY};
use super::producers::{Aborted, Producers, parse_aborted};
use crate::format::Damage;
use crate::parcel::Extent;

/// Where the five files lie in their object, one behind the other from 0 on, in the order of the fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Layout {
    /// Bytes of the offset index.
    pub offset: u32,
    /// Bytes of the time index.
    pub time: u32,
    /// Bytes of the producer snapshot.
    pub producers: u32,
    /// Bytes of the leader epoch checkpoint.
    pub epochs: u32,
    /// Bytes of the transaction index; 0: there is none.
    pub transactions: u32,
    /// CRC32C of the whole object.
    pub crc: u32,
}

impl Layout {
    /// Length of the object.
    pub fn len(&self) -> u64 {
        self.parts().iter().map(|part| (part.end - part.start) as u64).sum()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where each file lies.
    pub fn parts(&self) -> [Range<usize>; 5] {
        let mut at = 0usize;
        [self.offset, self.time, self.producers, self.epochs, self.transactions].map(|len| {
            let from = at;
            at += len as usize;
            from..at
        })
    }
}

/// The indexes of one segment, ready for look-ups.
#[derive(Debug)]
pub struct Indexes {
    base: Offset,
    last: Offset,
    bytes: u64,
    offsets: Bytes,
    times: Bytes,
    producers: Bytes,
    epochs: Epochs,
    aborted: Vec<Aborted>,
    /// Last offsets of slices, as far as they were looked at.
    ends: Mutex<BTreeMap<usize, Offset>>,
}

impl Indexes {
    /// Reads the object of a segment whose log has `bytes` bytes of offsets `base..=last`.
    ///
    /// # Errors
    /// Where it is not what `layout` says, or a look-up in it would lead outside the log.
    pub fn parse(
        object: Bytes,
        layout: &Layout,
        (base, last): (Offset, Offset),
        bytes: u64,
    ) -> Result<Indexes, Damage> {
        if object.len() as u64 != layout.len() {
            return Err(Damage::new(format!("{} bytes instead of {}", object.len(), layout.len())));
        }
        let crc = crc32c::crc32c(&object);
        if crc != layout.crc {
            return Err(Damage::new(format!("CRC32C is {crc:08x} instead of {:08x}", layout.crc)));
        }
        let [offsets, times, producers, epochs, transactions] = layout.parts().map(|part| object.slice(part));
        let indexes = Indexes {
            base,
            last,
            bytes,
            offsets,
            times,
            producers,
            epochs: Epochs::parse(&epochs)?,
            aborted: parse_aborted(&transactions)?,
            ends: Mutex::default(),
        };
        indexes.check()?;
        Ok(indexes)
    }

    fn check(&self) -> Result<(), Damage> {
        if !self.offsets.len().is_multiple_of(OFFSET_ENTRY) || !self.times.len().is_multiple_of(TIME_ENTRY) {
            return Err(Damage::new("an index ends within an entry"));
        }
        let within = |offset: Offset| self.base <= offset && offset <= self.last;
        let mut before = (self.base.plus(-1), 0);
        for (offset, position) in self.entries() {
            if offset <= before.0 || position <= before.1 || !within(offset) || position >= self.bytes {
                return Err(Damage::new(format!("offset index: {offset} at {position} does not follow")));
            }
            before = (offset, position);
        }
        let mut before = (Millis(-1), self.base);
        for (time, offset) in self.moments() {
            if time <= before.0 || offset < before.1 || !within(offset) {
                return Err(Damage::new(format!("time index: {time} at {offset} does not follow")));
            }
            before = (time, offset);
        }
        Ok(())
    }

    /// Producers as of the segment's end.
    ///
    /// # Errors
    /// Where the snapshot is damaged.
    pub fn producers(&self) -> Result<Producers, Damage> {
        Producers::parse(&self.producers)
    }

    /// Leader epochs up to the segment's end, from the partition's first on.
    pub fn epochs(&self) -> &Epochs {
        &self.epochs
    }

    /// Transactions whose abort marker is in the segment, by marker.
    pub fn aborted(&self) -> &[Aborted] {
        &self.aborted
    }

    /// About the memory they take.
    pub fn weight(&self) -> usize {
        256 + self.offsets.len() + self.times.len() + self.producers.len() + 40 * self.aborted.len()
    }

    /// How many slices look-ups land on.
    pub fn slices(&self) -> usize {
        self.entry_count() + 1
    }

    /// The slice that holds `offset` if any does; it may turn out that only the next one does.
    pub fn slice_of(&self, offset: Offset) -> usize {
        // Entry i is the last offset of the first batch of slice i + 1.
        let (mut low, mut high) = (0, self.entry_count());
        while low < high {
            let mid = (low + high) / 2;
            match self.entry(mid).0 <= offset {
                true => low = mid + 1,
                false => high = mid,
            }
        }
        match self.ends.lock().get(&low) {
            Some(end) if *end < offset && low + 1 < self.slices() => low + 1,
            _ => low,
        }
    }

    /// Notes what a look at a slice showed: its last offset.
    pub fn note_end(&self, slice: usize, last: Offset) {
        self.ends.lock().insert(slice, last);
    }

    /// The last offset of a slice, if it was looked at.
    pub fn known_end(&self, slice: usize) -> Option<Offset> {
        self.ends.lock().get(&slice).copied()
    }

    /// Where a slice lies. Its first batch begins at `base_offset` or above, its last ends at `last_offset` or below.
    pub fn extent(&self, slice: usize) -> Extent {
        let (first, position) = match slice.checked_sub(1).map(|at| self.entry(at)) {
            None => (self.base, 0),
            // The batch before ends below this one's first offset; the slice before holds at least one batch.
            Some((_, position)) if slice == 1 => (self.base.plus(1), position),
            Some((_, position)) => (self.entry(slice - 2).0.plus(1), position),
        };
        let (last, end) = match slice < self.entry_count() {
            true => (Offset(self.entry(slice).0.0 - 1), self.entry(slice).1),
            false => (self.last, self.bytes),
        };
        Extent { base_offset: first, last_offset: last, position, length: end - position }
    }

    /// Where the first record of `time` or later is at the earliest.
    pub fn since(&self, time: Millis) -> Offset {
        let (mut low, mut high) = (0, self.moment_count());
        while low < high {
            let mid = (low + high) / 2;
            match self.moment(mid).0 < time {
                true => low = mid + 1,
                false => high = mid,
            }
        }
        low.checked_sub(1).map_or(self.base, |at| self.moment(at).1.plus(1))
    }

    /// The offset index.
    pub fn entries(&self) -> impl Iterator<Item = (Offset, u64)> {
        (0..self.entry_count()).map(|at| self.entry(at))
    }

    /// The time index.
    pub fn moments(&self) -> impl Iterator<Item = (Millis, Offset)> {
        (0..self.moment_count()).map(|at| self.moment(at))
    }

    fn entry_count(&self) -> usize {
        self.offsets.len() / OFFSET_ENTRY
    }

    fn entry(&self, at: usize) -> (Offset, u64) {
        let mut entry = &self.offsets[at * OFFSET_ENTRY..];
        (self.base.plus(i64::from(entry.get_u32())), u64::from(entry.get_u32()))
    }

    fn moment_count(&self) -> usize {
        self.times.len() / TIME_ENTRY
    }

    fn moment(&self, at: usize) -> (Millis, Offset) {
        let mut entry = &self.times[at * TIME_ENTRY..];
        (Millis(entry.get_i64()), self.base.plus(i64::from(entry.get_u32())))
    }
}
