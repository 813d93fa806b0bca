//! Builds a parcel's bytes: batches by reference, heads packed, footer and trailer behind them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tidemark_proto::id::{ClusterId, LaneId, Nonce, PartitionIndex, Seq, TopicId, TopicPartition};
use tidemark_proto::record::stamp::Stamped;

use super::footer::{BatchEntry, Fact, Footer, Part};
use super::read::MAGIC;
use crate::bucket::Body;
use crate::format::tail::finish;
use crate::format::{HEADER_LEN, Header, Kind};

/// One stamped batch on its way into a parcel.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Topic.
    pub topic: TopicId,
    /// Partition of it.
    pub partition: PartitionIndex,
    /// Whether the topic is internal; those lie last, beside the footer.
    pub internal: bool,
    /// The batch.
    pub batch: Stamped,
    /// What the footer says of it.
    pub meta: BatchEntry,
}

impl Entry {
    /// The partition.
    pub fn of(&self) -> TopicPartition {
        TopicPartition { topic: self.topic, partition: self.partition }
    }

    /// Bytes of the batch.
    pub fn len(&self) -> usize {
        self.batch.len()
    }

    /// Never: a batch has a header.
    pub fn is_empty(&self) -> bool {
        false
    }
}

/// A parcel ready to be sent.
#[derive(Clone, Debug)]
pub struct Built {
    /// Its bytes, fixed from here on (R2).
    pub body: Body,
    /// Its footer.
    pub footer: Arc<Footer>,
}

/// Builds the parcel `seq` of `lane`. Entries keep their order within a partition; no batch is copied.
pub fn build(
    cluster: ClusterId,
    lane: LaneId,
    seq: Seq,
    nonce: Nonce,
    entries: Vec<Entry>,
    facts: Vec<Fact>,
) -> Built {
    let count = entries.len();
    let mut groups: BTreeMap<(bool, TopicPartition), Vec<Entry>> = BTreeMap::new();
    for entry in entries {
        groups.entry((entry.internal, entry.of())).or_default().push(entry);
    }
    let mut heads = BytesMut::with_capacity(16 * count);
    let mut parts = Vec::with_capacity(groups.len());
    let mut pieces: Vec<Bytes> = Vec::with_capacity(2 * count + 3);
    pieces.push(Bytes::new()); // the header's place
    let mut position = HEADER_LEN as u64;
    for ((internal, of), group) in groups {
        let mut part = Part { of, internal, position, length: 0, batches: Vec::with_capacity(group.len()) };
        for entry in group {
            debug_assert_eq!(entry.meta.length as usize, entry.batch.len(), "the entry tells of this batch");
            heads.extend_from_slice(entry.batch.head());
            pieces.push(heads.split().freeze());
            pieces.push(entry.batch.tail().clone());
            part.length += entry.meta.stored();
            part.batches.push(entry.meta);
        }
        position += part.length;
        parts.push(part);
    }
    let footer = Footer { parts, facts };
    let mut tail = footer.encode();
    let mut header = Header::of_lane(Kind::Parcel, cluster, lane, seq, nonce);
    let head = finish(&mut tail, &mut header, position - HEADER_LEN as u64, MAGIC);
    pieces[0] = Bytes::copy_from_slice(&head);
    pieces.push(Bytes::from(tail));
    Built { body: Body::from(pieces), footer: Arc::new(footer) }
}
