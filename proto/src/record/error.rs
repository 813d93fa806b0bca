//! What can be wrong with the bytes of a batch, whoever wrote them.

use super::Compression;

/// A batch that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The bytes end before the batch does.
    #[error("batch needs {need} bytes, only {have} are there")]
    Truncated {
        /// Bytes the batch needs, as far as its header could be read.
        need: usize,
        /// Bytes there are.
        have: usize,
    },
    /// The length field is negative or smaller than a header.
    #[error("batch length {0} is impossible")]
    Length(i32),
    /// Bytes follow the one batch that was expected.
    #[error("{0} bytes follow the batch")]
    Trailing(usize),
    /// Not message format v2.
    #[error("message format {0} is not 2")]
    Magic(i8),
    /// CRC-32C over attributes to end does not match.
    #[error("checksum is {computed:08x}, the batch says {stored:08x}")]
    Checksum {
        /// As the header says.
        stored: u32,
        /// As the bytes are.
        computed: u32,
    },
    /// Codec id without a meaning.
    #[error("compression codec {0} is unknown")]
    Codec(u8),
    /// The compressed stream is damaged or cut short.
    #[error("damaged {codec} stream: {why}")]
    Stream {
        /// The codec that refused it.
        codec: Compression,
        /// What it found.
        why: &'static str,
    },
    /// The records expand past the limit in force.
    #[error("records expand past {limit} bytes")]
    Expands {
        /// The limit.
        limit: usize,
    },
    /// A record breaks the grammar.
    #[error("record {index}: {why}")]
    Record {
        /// Position in the batch, from 0.
        index: i32,
        /// What is wrong with it.
        why: &'static str,
    },
}
