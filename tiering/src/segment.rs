//! A segment: a stretch of one partition as Kafka's tiered storage (KIP-405) keeps it, three objects of plain Kafka files.
//!
//! `.log` is a log segment, batches as they are; `.indexes` is Kafka's five index files side by side; `.rsm-manifest`
//! says where each lies, and is written last: without it the others are garbage, which their names tell. The layout is
//! the one that the open-source plug-ins publish, so data can leave without us. What a segment is worth to us, its
//! [`Row`], is small and stands in the metadata. Knows no image, no broker and no leader.

pub mod build;
pub mod epochs;
pub mod index;
pub mod indexes;
pub mod lifecycle;
pub mod manifest;
pub mod producers;
pub mod read;
pub mod upload;

pub use build::{Builder, Built, Start};
pub use epochs::Epochs;
pub use indexes::{Indexes, Layout};
pub use lifecycle::State;
pub use manifest::Manifest;
pub use producers::{Aborted, Producers};
pub use read::Reader;

use serde::{Deserialize, Serialize};
use tidemark_proto::id::{LeaderEpoch, Millis, Offset};
use uuid::Uuid;

/// What the metadata says of a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Row {
    /// Its id, which its names hold; and in it its creator's epoch.
    pub id: Uuid,
    /// First offset.
    pub base: Offset,
    /// Last offset.
    pub last: Offset,
    /// Greatest timestamp.
    pub max_timestamp: Millis,
    /// Bytes of the log.
    pub bytes: u64,
    /// Leader epochs of its batches, and where in the segment each begins.
    pub epochs: Vec<(LeaderEpoch, Offset)>,
    /// Where the indexes lie in their object.
    pub indexes: Layout,
    /// How far its life has gone.
    pub state: State,
}

#[cfg(test)]
mod tests;
