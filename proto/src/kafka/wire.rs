//! The runtime under the generated messages: what a value looks like on the wire.
//!
//! `v` is always the message's version and `f` whether that version is flexible (compact lengths,
//! tagged fields). Decoding trusts nothing: see [`Decoder`]. Knows no message.

mod decoder;
mod encoder;
mod values;

use bytes::Bytes;
use thiserror::Error;

pub use decoder::{Decoder, TAGS_MAX};
pub use encoder::{Encoder, Tags};

use super::api::ApiKey;
use super::pieces::Pieces;

/// Longest string of the protocol: what its 16-bit length can say.
pub const TEXT_MAX: usize = i16::MAX as usize;

/// Why bytes were refused, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{fault} at byte {at}")]
pub struct DecodeError {
    /// Bytes read before the fault.
    pub at: usize,
    /// What was wrong there.
    pub fault: Fault,
}

/// What can be wrong with bytes from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// A value reaches past the end of what holds it.
    #[error("the message ends inside a value")]
    End,
    /// A length below -1, or above what the type allows.
    #[error("a length of {0} is not possible")]
    Length(i64),
    /// An array of more elements than the rest of the message could hold.
    #[error("an array of {0} elements cannot fit in the rest of the message")]
    Count(i64),
    /// The decoded form would be out of proportion to the message.
    #[error("the message would take too much memory")]
    Memory,
    /// A variable-length number of more than 32 bits.
    #[error("a varint overflows 32 bits")]
    Varint,
    /// Null where this version allows none.
    #[error("null is not allowed")]
    Null,
    /// A string that is not UTF-8.
    #[error("a string is not UTF-8")]
    Utf8,
    /// Tags out of order, or twice.
    #[error("tag {0} comes twice or out of order")]
    TagOrder(u32),
    /// A tagged field that takes fewer bytes than it declares.
    #[error("tag {0} declares a wrong size")]
    TagSize(u32),
    /// More tagged fields in one struct than [`TAGS_MAX`].
    #[error("{0} tagged fields are too many")]
    TagCount(u32),
    /// Bytes left over behind the message.
    #[error("{0} bytes are left over")]
    Trailing(usize),
    /// A version the codec does not speak.
    #[error("version {0} is not spoken")]
    Version(i16),
}

/// Why a message cannot be put on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// Null in a field that may not be null in this version.
    #[error("a field is null that version {0} does not let be null")]
    Null(i16),
    /// A string, array or message longer than its length prefix can say.
    #[error("{0} is longer than the wire allows")]
    TooLong(usize),
    /// A version the codec does not speak.
    #[error("version {0} is not spoken")]
    Version(i16),
    /// A file piece could not be read while its bytes were asked for in memory.
    #[error("a file piece could not be read")]
    File,
}

/// A value on the wire. Implemented by the generated structs and by the primitive types.
pub trait Wire: Sized {
    /// Fewest bytes a value takes in any version, at least 1.
    const MIN_LEN: usize;

    /// Reads one value.
    fn read(d: &mut Decoder, v: i16, f: bool) -> Result<Self, DecodeError>;

    /// Writes one value.
    fn write(&self, e: &mut Encoder, v: i16, f: bool) -> Result<(), EncodeError>;
}

/// A value that has a null on the wire.
pub trait Nullable: Sized {
    /// Reads a value or null.
    fn read_nullable(d: &mut Decoder, v: i16, f: bool) -> Result<Option<Self>, DecodeError>;

    /// Writes a value or null.
    fn write_nullable(value: Option<&Self>, e: &mut Encoder, v: i16, f: bool) -> Result<(), EncodeError>;
}

/// A whole request, response or record schema.
///
/// A field that the version does not have is left out when encoding, and has its default when decoding.
pub trait Message: Wire + Default {
    /// Lowest version spoken.
    const MIN: i16;
    /// Highest version spoken.
    const MAX: i16;
    /// First flexible version; `i16::MAX` if there is none.
    const FLEXIBLE: i16;

    /// Shows every error code in a response to `visit`, those that say "none" too.
    fn each_error(&self, _visit: &mut dyn FnMut(i16)) {}

    /// Decodes the message; bytes behind it stay in the decoder ([`Decoder::finish`] refuses them).
    fn decode(d: &mut Decoder, version: i16) -> Result<Self, DecodeError> {
        if !(Self::MIN..=Self::MAX).contains(&version) {
            return Err(d.fault(Fault::Version(version)));
        }
        Self::read(d, version, version >= Self::FLEXIBLE)
    }

    /// Encodes the message behind what the encoder already holds.
    fn encode(&self, e: &mut Encoder, version: i16) -> Result<(), EncodeError> {
        if !(Self::MIN..=Self::MAX).contains(&version) {
            return Err(EncodeError::Version(version));
        }
        self.write(e, version, version >= Self::FLEXIBLE)
    }

    /// Decodes bytes that must be exactly this message.
    fn from_bytes(bytes: Bytes, version: i16) -> Result<Self, DecodeError> {
        let mut d = Decoder::new(bytes);
        let message = Self::decode(&mut d, version)?;
        d.finish()?;
        Ok(message)
    }

    /// Encodes the message alone.
    fn to_pieces(&self, version: i16) -> Result<Pieces, EncodeError> {
        let mut e = Encoder::new();
        self.encode(&mut e, version)?;
        Ok(e.finish())
    }

    /// Encodes the message alone into one buffer; copies records, so it is for small messages.
    fn to_bytes(&self, version: i16) -> Result<Bytes, EncodeError> {
        self.to_pieces(version)?.into_bytes().map_err(|_| EncodeError::File)
    }
}

/// A request, and what answers it.
pub trait Request: Message {
    /// The API it belongs to.
    const KEY: ApiKey;
    /// The message that answers it.
    type Response: Message;
}

/// Null of a struct: one signed byte, -1 for null and 1 for a value that follows.
macro_rules! nullable_struct {
    ($name:ident) => {
        impl $crate::kafka::wire::Nullable for $name {
            fn read_nullable(d: &mut Decoder, v: i16, f: bool) -> Result<Option<Self>, DecodeError> {
                if d.struct_is_null()? { Ok(None) } else { wire::Wire::read(d, v, f).map(Some) }
            }
            fn write_nullable(
                value: Option<&Self>,
                e: &mut Encoder,
                v: i16,
                f: bool,
            ) -> Result<(), EncodeError> {
                e.put(&[if value.is_some() { 1 } else { 0xff }]);
                value.map_or(Ok(()), |value| wire::Wire::write(value, e, v, f))
            }
        }
    };
}

pub(crate) use nullable_struct;
