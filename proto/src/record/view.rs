//! A whole batch as it lies on the wire and in every object: accessors over its 61-byte header.
//!
//! ```text
//! 0 base offset i64 | 8 length i32 | 12 partition leader epoch i32 | 16 magic i8 | 17 crc-32c u32 |
//! 21 attributes i16 | 23 last offset delta i32 | 27 base timestamp i64 | 35 max timestamp i64 |
//! 43 producer id i64 | 51 producer epoch i16 | 53 base sequence i32 | 57 count i32 | 61 records
//! ```
//! Length counts from byte 12, the checksum covers from byte 21. Reading a view checks structure only:
//! never the checksum, never the records.

use bytes::Bytes;

use super::attributes::{CODEC_MASK, CONTROL, DELETE_HORIZON, LOG_APPEND_TIME, TRANSACTIONAL};
use super::{BatchError, Compression, TimestampType};
use crate::id::{LeaderEpoch, Millis, Offset, ProducerEpoch, ProducerId};

/// Bytes of a batch header.
pub const HEADER_BYTES: usize = 61;
/// Bytes before the ones that the length field counts.
pub const PREFIX_BYTES: usize = 12;
/// Bytes that assigning an offset and an epoch touches; all lie outside the checksum.
pub const STAMP_BYTES: usize = 16;

pub(crate) const MAGIC_AT: usize = 16;
pub(crate) const CRC_AT: usize = 17;
pub(crate) const ATTRIBUTES_AT: usize = 21;
pub(crate) const LAST_OFFSET_DELTA_AT: usize = 23;
pub(crate) const BASE_TIMESTAMP_AT: usize = 27;
pub(crate) const MAX_TIMESTAMP_AT: usize = 35;
pub(crate) const PRODUCER_ID_AT: usize = 43;
pub(crate) const PRODUCER_EPOCH_AT: usize = 51;
pub(crate) const BASE_SEQUENCE_AT: usize = 53;
pub(crate) const COUNT_AT: usize = 57;

/// One whole v2 batch, a slice of whatever it arrived in. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Batch {
    bytes: Bytes,
}

impl Batch {
    /// Takes exactly one batch: structure, magic and length. No checksum, no records.
    pub fn parse(bytes: Bytes) -> Result<Batch, BatchError> {
        let size = size_of_first(&bytes)?;
        if bytes.len() > size {
            return Err(BatchError::Trailing(bytes.len() - size));
        }
        Ok(Batch { bytes })
    }

    /// The batch's bytes, base offset to last record.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The records as they lie there, compressed or not.
    pub fn payload(&self) -> Bytes {
        self.bytes.slice(HEADER_BYTES..)
    }

    fn at<const N: usize>(&self, at: usize) -> [u8; N] {
        self.bytes[at..at + N].try_into().expect("a header has 61 bytes")
    }
}

/// Size of the batch that `bytes` begins with, once it is known to be whole and of format v2.
pub fn size_of_first(bytes: &[u8]) -> Result<usize, BatchError> {
    // Magic stands at the same place in every format: say which one it is before anything else.
    match bytes.get(MAGIC_AT) {
        None => return Err(BatchError::Truncated { need: HEADER_BYTES, have: bytes.len() }),
        Some(&2) => {}
        Some(&magic) => return Err(BatchError::Magic(magic as i8)),
    }
    let length = i32::from_be_bytes(bytes[8..12].try_into().expect("four bytes"));
    let size = match usize::try_from(length) {
        Ok(length) if length + PREFIX_BYTES >= HEADER_BYTES => length + PREFIX_BYTES,
        _ => return Err(BatchError::Length(length)),
    };
    if bytes.len() < size {
        return Err(BatchError::Truncated { need: size, have: bytes.len() });
    }
    Ok(size)
}

/// Header accessors, for anything with `at::<N>(offset)` and `checksummed()`.
macro_rules! header_accessors {
    ($view:ty) => {
        impl $view {
            /// Offset of the first record.
            pub fn base_offset(&self) -> Offset {
                Offset(i64::from_be_bytes(self.at(0)))
            }

            /// Offset of the last record.
            pub fn last_offset(&self) -> Offset {
                Offset(self.base_offset().0.wrapping_add(i64::from(self.last_offset_delta())))
            }

            /// The offset after the last record.
            pub fn next_offset(&self) -> Offset {
                Offset(self.last_offset().0.wrapping_add(1))
            }

            /// The length field: bytes from the leader epoch on.
            pub fn length(&self) -> i32 {
                i32::from_be_bytes(self.at(8))
            }

            /// Bytes of the whole batch.
            pub fn size(&self) -> usize {
                self.length() as usize + PREFIX_BYTES
            }

            /// Leader epoch under which it was appended.
            pub fn partition_leader_epoch(&self) -> LeaderEpoch {
                LeaderEpoch(i32::from_be_bytes(self.at(12)))
            }

            /// The stored CRC-32C.
            pub fn crc(&self) -> u32 {
                u32::from_be_bytes(self.at(CRC_AT))
            }

            /// The raw attribute bits.
            pub fn attributes(&self) -> i16 {
                i16::from_be_bytes(self.at(ATTRIBUTES_AT))
            }

            /// The codec.
            pub fn compression(&self) -> Result<Compression, BatchError> {
                let id = (self.attributes() & CODEC_MASK) as u8;
                Compression::from_id(id).ok_or(BatchError::Codec(id))
            }

            /// Whose clock the timestamps come from.
            pub fn timestamp_type(&self) -> TimestampType {
                if self.attributes() & LOG_APPEND_TIME != 0 {
                    TimestampType::LogAppendTime
                } else {
                    TimestampType::CreateTime
                }
            }

            /// Whether it belongs to a transaction.
            pub fn is_transactional(&self) -> bool {
                self.attributes() & TRANSACTIONAL != 0
            }

            /// Whether it holds control records.
            pub fn is_control(&self) -> bool {
                self.attributes() & CONTROL != 0
            }

            /// The delete horizon a first cleaning stamped (KIP-534).
            pub fn delete_horizon(&self) -> Option<Millis> {
                (self.attributes() & DELETE_HORIZON != 0).then(|| self.base_timestamp())
            }

            /// Last offset − base offset.
            pub fn last_offset_delta(&self) -> i32 {
                i32::from_be_bytes(self.at(LAST_OFFSET_DELTA_AT))
            }

            /// What the records' timestamp deltas are counted from.
            pub fn base_timestamp(&self) -> Millis {
                Millis(i64::from_be_bytes(self.at(BASE_TIMESTAMP_AT)))
            }

            /// The largest timestamp; -1 when no record has one.
            pub fn max_timestamp(&self) -> Millis {
                Millis(i64::from_be_bytes(self.at(MAX_TIMESTAMP_AT)))
            }

            /// Producer id; -1 when the producer is not idempotent.
            pub fn producer_id(&self) -> ProducerId {
                ProducerId(i64::from_be_bytes(self.at(PRODUCER_ID_AT)))
            }

            /// Whether a producer id is there.
            pub fn has_producer_id(&self) -> bool {
                self.producer_id().0 >= 0
            }

            /// Producer epoch; -1 without a producer id.
            pub fn producer_epoch(&self) -> ProducerEpoch {
                ProducerEpoch(i16::from_be_bytes(self.at(PRODUCER_EPOCH_AT)))
            }

            /// Sequence of the first record; -1 when there is none.
            pub fn base_sequence(&self) -> i32 {
                i32::from_be_bytes(self.at(BASE_SEQUENCE_AT))
            }

            /// Sequence of the last record; after 2³¹−1 comes 0.
            pub fn last_sequence(&self) -> i32 {
                match self.base_sequence() {
                    first if first < 0 => first,
                    first => sequence_plus(first, self.last_offset_delta()),
                }
            }

            /// The record count, as the header says.
            pub fn count(&self) -> i32 {
                i32::from_be_bytes(self.at(COUNT_AT))
            }

            /// Compares the stored checksum with the bytes.
            pub fn verify_crc(&self) -> Result<(), BatchError> {
                let (stored, computed) = (self.crc(), crc32c::crc32c(self.checksummed()));
                if stored == computed {
                    return Ok(());
                }
                Err(BatchError::Checksum { stored, computed })
            }
        }

        impl std::fmt::Debug for $view {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(
                    f,
                    concat!(stringify!($view), "({}..={} epoch {} attributes {:#x} {} B)"),
                    self.base_offset(),
                    self.last_offset(),
                    self.partition_leader_epoch(),
                    self.attributes(),
                    self.size()
                )
            }
        }
    };
}
pub(crate) use header_accessors;

header_accessors!(Batch);

impl Batch {
    fn checksummed(&self) -> &[u8] {
        &self.bytes[ATTRIBUTES_AT..]
    }
}

/// The sequence `records` after `sequence`: it wraps from 2³¹−1 to 0, never to a negative one.
pub fn sequence_plus(sequence: i32, records: i32) -> i32 {
    const SPAN: i64 = 1 << 31;
    ((i64::from(sequence) + i64::from(records)).rem_euclid(SPAN)) as i32
}

/// The batches of a run of concatenated ones. Ends at the first that is not whole, and says so once.
#[derive(Clone, Debug)]
pub struct Batches {
    rest: Bytes,
}

impl Batches {
    /// Over `bytes`, which begin at a batch.
    pub fn new(bytes: Bytes) -> Batches {
        Batches { rest: bytes }
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &Bytes {
        &self.rest
    }
}

impl Iterator for Batches {
    type Item = Result<Batch, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        match size_of_first(&self.rest) {
            Ok(size) => Some(Ok(Batch { bytes: self.rest.split_to(size) })),
            Err(error) => {
                self.rest.clear();
                Some(Err(error))
            }
        }
    }
}
