//! Giving a batch its place: base offset and leader epoch lie outside the checksum, so 16 bytes are
//! rewritten and the rest stays the slice of the frame that it is.
//!
//! Changes under the checksum (the broker's time, a corrected maximum) copy the batch once.

use bytes::Bytes;

use super::attributes::{CODEC_MASK, CONTROL, DELETE_HORIZON, LOG_APPEND_TIME, TRANSACTIONAL};
use super::view::{
    ATTRIBUTES_AT, BASE_SEQUENCE_AT, BASE_TIMESTAMP_AT, Batch, COUNT_AT, CRC_AT, HEADER_BYTES,
    LAST_OFFSET_DELTA_AT, MAX_TIMESTAMP_AT, PREFIX_BYTES, PRODUCER_EPOCH_AT, PRODUCER_ID_AT, STAMP_BYTES,
    header_accessors, sequence_plus,
};
use super::{BatchError, Compression, TimestampType, compress};
use crate::id::{LeaderEpoch, Millis, Offset, ProducerEpoch, ProducerId};

/// A batch with its assigned offset and leader epoch. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Stamped {
    head: [u8; STAMP_BYTES],
    tail: Bytes,
}

impl Stamped {
    /// `batch` at `base`, appended under `epoch`.
    pub fn new(batch: &Batch, base: Offset, epoch: LeaderEpoch) -> Stamped {
        let bytes = batch.bytes();
        let mut head = [0; STAMP_BYTES];
        head[..8].copy_from_slice(&base.0.to_be_bytes());
        head[8..12].copy_from_slice(&bytes[8..12]);
        head[12..].copy_from_slice(&epoch.0.to_be_bytes());
        Stamped { head, tail: bytes.slice(STAMP_BYTES..) }
    }

    /// Bytes of the whole batch; never zero.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        STAMP_BYTES + self.tail.len()
    }

    /// The 16 rewritten bytes.
    pub fn head(&self) -> &[u8; STAMP_BYTES] {
        &self.head
    }

    /// Everything after them, untouched.
    pub fn tail(&self) -> &Bytes {
        &self.tail
    }

    /// Appends the two pieces; the large one is not copied.
    pub fn push_to(&self, out: &mut Vec<Bytes>) {
        out.push(Bytes::copy_from_slice(&self.head));
        out.push(self.tail.clone());
    }

    /// One contiguous copy.
    pub fn to_bytes(&self) -> Bytes {
        [&self.head, &self.tail[..]].concat().into()
    }

    /// One contiguous copy, as a batch.
    pub fn to_batch(&self) -> Batch {
        Batch::parse(self.to_bytes()).expect("stamping keeps structure and length")
    }

    fn at<const N: usize>(&self, at: usize) -> [u8; N] {
        let from = if at < STAMP_BYTES { &self.head[at..] } else { &self.tail[at - STAMP_BYTES..] };
        from[..N].try_into().expect("a header has 61 bytes")
    }

    fn checksummed(&self) -> &[u8] {
        &self.tail[ATTRIBUTES_AT - STAMP_BYTES..]
    }
}

header_accessors!(Stamped);

/// The batch under the broker's clock: bit 3 set, maximum timestamp `now`, new checksum. The records are
/// not touched: readers take their time from the header.
pub fn with_append_time(batch: &Batch, now: Millis) -> Batch {
    rewrite_times(batch, batch.attributes() | LOG_APPEND_TIME, now)
}

/// The batch with the maximum timestamp its records really have, under the producer's clock.
pub fn with_max_timestamp(batch: &Batch, max: Millis) -> Batch {
    rewrite_times(batch, batch.attributes() & !LOG_APPEND_TIME, max)
}

/// The same records under another codec (`compression.type` of a topic), at a level of its scale. `limit` bounds the expanded
/// form.
pub fn recompressed(
    batch: &Batch,
    codec: Compression,
    level: Option<i32>,
    limit: usize,
) -> Result<Batch, BatchError> {
    let from = batch.compression()?;
    if from == codec {
        return Ok(batch.clone());
    }
    let plain = compress::decompress(from, &batch.payload(), limit)?;
    let mut bytes = batch.bytes()[..HEADER_BYTES].to_vec();
    compress::compress_at(codec, level, &plain, &mut bytes);
    let length = i32::try_from(bytes.len() - PREFIX_BYTES).map_err(|_| BatchError::Expands { limit })?;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    let attributes = batch.attributes() & !CODEC_MASK | i16::from(codec.id());
    bytes[ATTRIBUTES_AT..ATTRIBUTES_AT + 2].copy_from_slice(&attributes.to_be_bytes());
    Ok(seal(bytes))
}

fn rewrite_times(batch: &Batch, attributes: i16, max: Millis) -> Batch {
    if attributes == batch.attributes() && max == batch.max_timestamp() {
        return batch.clone();
    }
    let mut bytes = batch.bytes().to_vec();
    bytes[ATTRIBUTES_AT..ATTRIBUTES_AT + 2].copy_from_slice(&attributes.to_be_bytes());
    bytes[MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8].copy_from_slice(&max.0.to_be_bytes());
    seal(bytes)
}

/// Puts the checksum on a finished batch.
pub(crate) fn seal(mut bytes: Vec<u8>) -> Batch {
    let crc = crc32c::crc32c(&bytes[ATTRIBUTES_AT..]);
    bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
    Batch::parse(bytes.into()).expect("the writer sets magic and length")
}
