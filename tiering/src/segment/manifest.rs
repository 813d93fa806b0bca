//! The `.rsm-manifest` of a segment: JSON as the open-source plug-ins for KIP-405 write and read it.
//!
//! Ours says that nothing was transformed: chunks are what a reader may ask for, compressed and encrypted nowhere.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidemark_proto::id::{BrokerId, LeaderEpoch, Millis, Offset};

use super::Row;
use super::indexes::Layout;
use crate::format::Damage;
use crate::keys::{SegmentName, kafka_id};

/// Bytes of a chunk, as a reader of this layout is told.
const CHUNK: u32 = 4 << 20;
/// A longer one is not looked at.
const LONGEST: usize = 1 << 20;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    version: String,
    chunk_index: Chunks,
    segment_indexes: Places,
    compression: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encryption: Option<serde_json::Value>,
    remote_log_segment_metadata: Described,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Chunks {
    r#type: String,
    original_chunk_size: u32,
    original_file_size: u32,
    transformed_chunk_size: u32,
    final_transformed_chunk_size: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Places {
    offset: Place,
    timestamp: Place,
    producer_snapshot: Place,
    leader_epoch: Place,
    transaction: Option<Place>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    position: u32,
    size: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Described {
    remote_log_segment_id: SegmentId,
    start_offset: i64,
    end_offset: i64,
    max_timestamp_ms: i64,
    broker_id: i32,
    event_timestamp_ms: i64,
    segment_leader_epochs: BTreeMap<i32, i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SegmentId {
    topic_id_partition: TopicIdPartition,
    id: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TopicIdPartition {
    topic_id: String,
    topic_partition: TopicPartition,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct TopicPartition {
    topic: String,
    partition: i32,
}

impl Manifest {
    /// Of a segment that `broker` copies at `now`.
    pub fn new(name: &SegmentName, row: &Row, broker: BrokerId, now: Millis) -> Manifest {
        let size = row.bytes as u32;
        let places =
            row.indexes.parts().map(|part| Place { position: part.start as u32, size: part.len() as u32 });
        let [offset, timestamp, producer_snapshot, leader_epoch, transaction] = places;
        Manifest {
            version: "1".to_owned(),
            chunk_index: Chunks {
                r#type: "fixed".to_owned(),
                original_chunk_size: CHUNK,
                original_file_size: size,
                transformed_chunk_size: CHUNK,
                final_transformed_chunk_size: last_chunk(size, CHUNK),
            },
            segment_indexes: Places {
                offset,
                timestamp,
                producer_snapshot,
                leader_epoch,
                transaction: Some(transaction).filter(|place| place.size > 0),
            },
            compression: false,
            encryption: None,
            remote_log_segment_metadata: Described {
                remote_log_segment_id: SegmentId {
                    topic_id_partition: TopicIdPartition {
                        topic_id: kafka_id(name.topic_id.0),
                        topic_partition: TopicPartition {
                            topic: name.topic.clone(),
                            partition: name.partition.0,
                        },
                    },
                    id: kafka_id(row.id),
                },
                start_offset: row.base.0,
                end_offset: row.last.0,
                max_timestamp_ms: row.max_timestamp.0,
                broker_id: broker.0,
                event_timestamp_ms: now.0,
                segment_leader_epochs: row.epochs.iter().map(|(epoch, start)| (epoch.0, start.0)).collect(),
            },
        }
    }

    /// The object.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("its maps have keys that JSON takes")
    }

    /// The inverse of [`Self::encode`].
    ///
    /// # Errors
    /// Where it is not such an object, says what cannot be, or tells of a segment that is compressed or encrypted.
    pub fn parse(bytes: &[u8]) -> Result<Manifest, Damage> {
        if bytes.len() > LONGEST {
            return Err(Damage::new(format!("a manifest of {} bytes", bytes.len())));
        }
        let manifest: Manifest =
            serde_json::from_slice(bytes).map_err(|error| Damage::new(error.to_string()))?;
        manifest.check().map_err(Damage::new)?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        let (chunks, of) = (&self.chunk_index, &self.remote_log_segment_metadata);
        if self.version != "1" || chunks.r#type != "fixed" {
            return Err(format!("version {} with {} chunks is not known", self.version, chunks.r#type));
        }
        if self.compression || self.encryption.is_some() {
            return Err("its segment is compressed or encrypted".to_owned());
        }
        let (size, chunk) = (chunks.original_file_size, chunks.original_chunk_size);
        let plain = chunk > 0
            && chunks.transformed_chunk_size == chunk
            && chunks.final_transformed_chunk_size == last_chunk(size, chunk);
        if !plain || size > i32::MAX as u32 {
            return Err("its chunks are not those of a plain log".to_owned());
        }
        if of.start_offset < 0 || of.end_offset < of.start_offset {
            return Err("it ends before it begins".to_owned());
        }
        let mut end = 0u32;
        for place in self.places() {
            if place.position != end {
                return Err("its indexes do not lie side by side".to_owned());
            }
            end = end.checked_add(place.size).ok_or("its indexes have no end")?;
        }
        Ok(())
    }

    fn places(&self) -> [Place; 5] {
        let of = &self.segment_indexes;
        let end = of.leader_epoch.position.saturating_add(of.leader_epoch.size);
        let transaction = of.transaction.unwrap_or(Place { position: end, size: 0 });
        [of.offset, of.timestamp, of.producer_snapshot, of.leader_epoch, transaction]
    }

    /// Where the indexes lie; the CRC is not among what a manifest tells, and is 0.
    pub fn layout(&self) -> Layout {
        let [offset, time, producers, epochs, transactions] = self.places().map(|place| place.size);
        Layout { offset, time, producers, epochs, transactions, crc: 0 }
    }

    /// First and last offset.
    pub fn offsets(&self) -> (Offset, Offset) {
        let of = &self.remote_log_segment_metadata;
        (Offset(of.start_offset), Offset(of.end_offset))
    }

    /// Bytes of the log.
    pub fn bytes(&self) -> u64 {
        u64::from(self.chunk_index.original_file_size)
    }

    /// Greatest timestamp.
    pub fn max_timestamp(&self) -> Millis {
        Millis(self.remote_log_segment_metadata.max_timestamp_ms)
    }

    /// Leader epochs, and where in the segment each begins.
    pub fn epochs(&self) -> impl Iterator<Item = (LeaderEpoch, Offset)> {
        let epochs = &self.remote_log_segment_metadata.segment_leader_epochs;
        epochs.iter().map(|(epoch, start)| (LeaderEpoch(*epoch), Offset(*start)))
    }

    /// Topic, topic id, partition and segment id, as they stand there.
    pub fn whose(&self) -> (&str, &str, i32, &str) {
        let id = &self.remote_log_segment_metadata.remote_log_segment_id;
        let of = &id.topic_id_partition;
        (&of.topic_partition.topic, &of.topic_id, of.topic_partition.partition, &id.id)
    }
}

/// Bytes of the last chunk of a file.
fn last_chunk(size: u32, chunk: u32) -> u32 {
    match size.checked_rem(chunk) {
        Some(0) | None => chunk.min(size),
        Some(rest) => rest,
    }
}
