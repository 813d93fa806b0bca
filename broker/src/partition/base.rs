//! A partition as of some point of its log: what recovery starts from and what a cut writes down.
//!
//! Pure. A base is folded out of the bucket alone: a snapshot (of a run or a checkpoint) and the footers after
//! it, so that a cut never writes down what is not durable. Replaying a batch that a base holds changes nothing.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tidemark_proto::id::{LeaderEpoch, Offset};
use tidemark_tiering::parcel::footer::BatchEntry;

use super::producer::{Origin, Producers};
use super::state::{Appended, enter};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Base {
    /// First offset that can be read.
    pub log_start: Offset,
    /// Offset after the last record.
    pub end: Offset,
    /// Leader epochs and the offset each began at, rising.
    pub epochs: Vec<(LeaderEpoch, Offset)>,
    /// The dedupe window.
    pub producers: Producers,
}

/// A hole or an overlap where recovery needs the log to be dense (R13).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("offset {found} stands where {expected} was expected")]
pub struct Gap {
    /// Offset the log had reached.
    pub expected: Offset,
    /// Offset that came next.
    pub found: Offset,
}

/// The part of a footer's batch entry that state is made of.
pub fn appended(entry: &BatchEntry) -> Appended {
    let origin = (entry.producer_id.0 >= 0).then(|| Origin {
        id: entry.producer_id,
        epoch: entry.producer_epoch,
        first: entry.base_sequence,
        last: entry.last_sequence(),
    });
    Appended {
        base: entry.base_offset,
        last: entry.last_offset,
        leader_epoch: entry.leader_epoch,
        origin,
        max_timestamp: entry.max_timestamp,
        transactional: entry.is_transactional() && !entry.is_control(),
        marker: entry.marker.as_ref().map(|m| m.coordinator_epoch),
    }
}

impl Base {
    /// Takes the next batch of the log. One that the base already holds is passed over; returns whether it was new.
    ///
    /// # Errors
    /// [`Gap`] when offsets are missing or overlap: the partition goes offline, nothing is truncated (R13).
    pub fn replay(&mut self, entry: &BatchEntry) -> Result<bool, Gap> {
        if entry.last_offset < self.end {
            return Ok(false);
        }
        if entry.base_offset != self.end {
            return Err(Gap { expected: self.end, found: entry.base_offset });
        }
        enter(&mut self.epochs, &mut self.producers, &appended(entry));
        self.end = entry.last_offset.plus(1);
        Ok(true)
    }

    /// Bytes of epochs and producers; offsets stand beside them in the objects that carry a base.
    pub fn encode_snapshot(&self) -> Bytes {
        let producers = self.producers.encode();
        let mut out = BytesMut::with_capacity(5 + self.epochs.len() * 12 + producers.len());
        out.put_u8(1);
        out.put_u32(u32::try_from(self.epochs.len()).expect("fewer epochs than 2^32"));
        for (epoch, start) in &self.epochs {
            out.put_i32(epoch.0);
            out.put_i64(start.0);
        }
        out.put_slice(&producers);
        out.freeze()
    }

    /// The inverse of [`Self::encode_snapshot`]; `None` when the bytes are damaged.
    pub fn decode(log_start: Offset, end: Offset, mut snapshot: Bytes) -> Option<Base> {
        if snapshot.is_empty() {
            return Some(Base { log_start, end, ..Base::default() });
        }
        if snapshot.try_get_u8().ok()? != 1 {
            return None;
        }
        let mut epochs = Vec::new();
        for _ in 0..snapshot.try_get_u32().ok()? {
            let epoch = LeaderEpoch(snapshot.try_get_i32().ok()?);
            epochs.push((epoch, Offset(snapshot.try_get_i64().ok()?)));
        }
        Some(Base { log_start, end, epochs, producers: Producers::decode(snapshot)? })
    }
}
