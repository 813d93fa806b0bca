//! The 16 attribute bits of a batch: codec (0–2), timestamp type (3), transactional (4), control (5),
//! delete horizon (6). The rest are Kafka's to define and are carried as they are.

use std::fmt;

/// Bits 0–2: the codec.
pub(crate) const CODEC_MASK: i16 = 0b111;
/// Bit 3: the timestamps are the broker's.
pub(crate) const LOG_APPEND_TIME: i16 = 1 << 3;
/// Bit 4: part of a transaction.
pub(crate) const TRANSACTIONAL: i16 = 1 << 4;
/// Bit 5: control records (markers).
pub(crate) const CONTROL: i16 = 1 << 5;
/// Bit 6: the base timestamp is a delete horizon (KIP-534).
pub(crate) const DELETE_HORIZON: i16 = 1 << 6;

/// How the records of a batch are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// Snappy, in xerial's framing as the Java client writes it.
    Snappy,
    /// LZ4 frame, independent blocks.
    Lz4,
    /// Zstandard; needs Produce v7 and Fetch v10.
    Zstd,
}

impl Compression {
    /// Every codec, in the order of its id.
    pub const ALL: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    /// The id as attribute bits 0–2 hold it.
    pub fn id(self) -> u8 {
        self as u8
    }

    /// The inverse of [`Self::id`]; ids 5–7 are not assigned.
    pub fn from_id(id: u8) -> Option<Compression> {
        Self::ALL.get(usize::from(id)).copied()
    }

    /// Kafka's name, as `compression.type` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whose clock a batch's timestamps come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimestampType {
    /// The producer's (`message.timestamp.type=CreateTime`).
    #[default]
    CreateTime,
    /// The broker's, one for the whole batch: its maximum timestamp.
    LogAppendTime,
}

impl fmt::Display for TimestampType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TimestampType::CreateTime => "CreateTime",
            TimestampType::LogAppendTime => "LogAppendTime",
        })
    }
}
