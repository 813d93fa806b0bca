//! A run: what a cut or a merge makes of many parcels, sorted, so that the low mark can rise.
//!
//! An object holds whole partitions side by side in the parcels' order (user topics by topic id and partition,
//! then internal ones), at most 256 MiB; pages of entries behind them, a root page that names the pages. A
//! partition's entry tells offsets, times, place, CRC and the state a takeover needs; there are no entries per
//! batch. Nothing is named before a metadata commit names it (R18). Knows no image and no broker.

pub mod build;
pub mod checkpoint;
pub mod entry;
pub mod read;
pub mod root;
pub mod take;

pub use build::{Piece, RunRow, build};
pub use checkpoint::{Checkpoint, CheckpointRow};
pub use entry::{Partition, Slice, State};
pub use read::{Reader, open, verify_slice};
pub use root::Root;
pub use take::{Object, Sliced, Taken, Want, take};

use tidemark_proto::id::TopicPartition;

/// The range a partition belongs to: the first 32 bits of its topic's id. Ids are random, so this is a hash; and
/// it keeps the order of parcels and runs.
pub fn range_of(of: TopicPartition) -> u32 {
    let [a, b, c, d, ..] = *of.topic.0.as_bytes();
    u32::from_be_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests;
