//! Building batches: for coordinators, compaction, clients and tests.

use super::Compression;
use super::attributes::{CONTROL, DELETE_HORIZON, LOG_APPEND_TIME, TRANSACTIONAL};
use super::compress::compress_into;
use super::records::{Header, Record};
use super::stamp::seal;
use super::varint;
use super::view::{Batch, HEADER_BYTES, PREFIX_BYTES};
use crate::id::{LeaderEpoch, Millis, Offset, ProducerEpoch, ProducerId};

/// A batch in the making. Offsets are dense from the base unless records are placed with [`Self::keep`].
#[derive(Clone, Debug)]
pub struct Builder {
    codec: Compression,
    attributes: i16,
    base_offset: Offset,
    epoch: LeaderEpoch,
    producer: (ProducerId, ProducerEpoch, i32),
    base_timestamp: Option<Millis>,
    max_timestamp: Millis,
    append_time: Option<Millis>,
    last_delta: i32,
    count: i32,
    records: Vec<u8>,
    body: Vec<u8>,
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            codec: Compression::None,
            attributes: 0,
            base_offset: Offset(0),
            epoch: LeaderEpoch(-1),
            producer: (ProducerId(-1), ProducerEpoch(-1), -1),
            base_timestamp: None,
            max_timestamp: Millis(-1),
            append_time: None,
            last_delta: -1,
            count: 0,
            records: Vec::new(),
            body: Vec::new(),
        }
    }
}

impl Builder {
    /// An empty batch at offset 0, uncompressed, of no producer.
    pub fn new() -> Builder {
        Builder::default()
    }

    /// Compresses the records.
    pub fn compression(mut self, codec: Compression) -> Self {
        self.codec = codec;
        self
    }

    /// Names the producer and the sequence of the first record.
    pub fn producer(mut self, id: ProducerId, epoch: ProducerEpoch, base_sequence: i32) -> Self {
        self.producer = (id, epoch, base_sequence);
        self
    }

    /// Makes it part of the producer's transaction.
    pub fn transactional(mut self) -> Self {
        self.attributes |= TRANSACTIONAL;
        self
    }

    /// Makes its records control records.
    pub fn control(mut self) -> Self {
        self.attributes |= CONTROL;
        self
    }

    /// Puts it at `base`; before any record is kept at an absolute offset.
    pub fn base_offset(mut self, base: Offset) -> Self {
        self.base_offset = base;
        self
    }

    /// The leader epoch it is appended under.
    pub fn leader_epoch(mut self, epoch: LeaderEpoch) -> Self {
        self.epoch = epoch;
        self
    }

    /// Counts timestamps from here instead of from the first record's.
    pub fn base_timestamp(mut self, base: Millis) -> Self {
        self.base_timestamp = Some(base);
        self
    }

    /// Puts it under the broker's clock.
    pub fn append_time(mut self, now: Millis) -> Self {
        self.append_time = Some(now);
        self
    }

    /// Stamps the delete horizon of a first cleaning (KIP-534); before any record.
    pub fn delete_horizon(mut self, horizon: Millis) -> Self {
        self.attributes |= DELETE_HORIZON;
        self.base_timestamp = Some(horizon);
        self
    }

    /// Makes the batch span `last` at least, though the records there may be gone (compaction keeps a
    /// producer's last batch, empty).
    pub fn span_to(&mut self, last: Offset) -> &mut Self {
        self.last_delta = self.last_delta.max(self.delta(last));
        self
    }

    /// Adds a record at the next offset.
    pub fn append(&mut self, timestamp: Millis, key: Option<&[u8]>, value: Option<&[u8]>) -> &mut Self {
        self.append_with(timestamp, key, value, &[])
    }

    /// Adds a record with headers at the next offset.
    pub fn append_with(
        &mut self,
        timestamp: Millis,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header],
    ) -> &mut Self {
        let delta = self.last_delta + 1;
        self.put(delta, timestamp, key, value, headers)
    }

    /// Adds a record at the offset it already has; offsets must rise.
    pub fn keep(&mut self, record: &Record) -> &mut Self {
        let delta = self.delta(record.offset);
        assert!(delta > self.last_delta, "offsets within a batch rise");
        self.put(delta, record.timestamp, record.key.as_deref(), record.value.as_deref(), &record.headers)
    }

    /// Records so far.
    pub fn count(&self) -> i32 {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes the batch would have uncompressed.
    pub fn size(&self) -> usize {
        HEADER_BYTES + self.records.len()
    }

    /// The batch, checksum and all. Panics when it passes 2 GiB: callers bound what they append.
    pub fn build(&self) -> Batch {
        let mut attributes = self.attributes | i16::from(self.codec.id());
        if self.append_time.is_some() {
            attributes |= LOG_APPEND_TIME;
        }
        let (producer, epoch, sequence) = self.producer;
        let base_timestamp = self.base_timestamp.unwrap_or(Millis(-1));
        let mut bytes = Vec::with_capacity(self.size());
        bytes.extend_from_slice(&self.base_offset.0.to_be_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.epoch.0.to_be_bytes());
        bytes.push(2);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&attributes.to_be_bytes());
        bytes.extend_from_slice(&self.last_delta.max(0).to_be_bytes());
        bytes.extend_from_slice(&base_timestamp.0.to_be_bytes());
        bytes.extend_from_slice(&self.append_time.unwrap_or(self.max_timestamp).0.to_be_bytes());
        bytes.extend_from_slice(&producer.0.to_be_bytes());
        bytes.extend_from_slice(&epoch.0.to_be_bytes());
        bytes.extend_from_slice(&sequence.to_be_bytes());
        bytes.extend_from_slice(&self.count.to_be_bytes());
        compress_into(self.codec, &self.records, &mut bytes);
        let length = i32::try_from(bytes.len() - PREFIX_BYTES).expect("a batch is smaller than 2 GiB");
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        seal(bytes)
    }

    fn delta(&self, offset: Offset) -> i32 {
        i32::try_from(offset.0 - self.base_offset.0).expect("a batch spans less than 2^31 offsets")
    }

    fn put(
        &mut self,
        delta: i32,
        timestamp: Millis,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header],
    ) -> &mut Self {
        let base = *self.base_timestamp.get_or_insert(timestamp);
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        body.push(0);
        varint::put(&mut body, timestamp.0.wrapping_sub(base.0));
        varint::put(&mut body, i64::from(delta));
        put_field(&mut body, key);
        put_field(&mut body, value);
        varint::put(&mut body, headers.len() as i64);
        for header in headers {
            put_field(&mut body, Some(&header.key));
            put_field(&mut body, header.value.as_deref());
        }
        varint::put(&mut self.records, body.len() as i64);
        self.records.extend_from_slice(&body);
        self.body = body;
        self.max_timestamp = self.max_timestamp.max(timestamp);
        self.last_delta = delta;
        self.count += 1;
        self
    }
}

fn put_field(body: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        None => varint::put(body, -1),
        Some(bytes) => {
            varint::put(body, bytes.len() as i64);
            body.extend_from_slice(bytes);
        }
    }
}
