//! Messages no request carries as such: the consumer protocol's blobs in JoinGroup and SyncGroup, and
//! the records of `__consumer_offsets` and `__transaction_state`.
//!
//! All of them begin with a 16-bit number: a blob's or value's version, or the kind of a key.

use bytes::Bytes;

use super::wire::{DecodeError, Decoder, EncodeError, Encoder, Fault, Message, Wire};

pub use generated::*;

#[allow(clippy::all, reason = "generated")]
mod generated {
    use crate::kafka::messages::prelude;

    include!(concat!(env!("OUT_DIR"), "/internal.rs"));
}

/// Version of [`OffsetCommitValue`] that is written: tools in the field read no newer one.
pub const OFFSET_COMMIT_VALUE: i16 = 3;
/// Version of [`GroupMetadataValue`] that is written.
pub const GROUP_METADATA_VALUE: i16 = 3;
/// Version of [`TransactionLogValue`] that is written.
pub const TRANSACTION_LOG_VALUE: i16 = 1;

/// A value or blob behind its version.
pub fn encode_versioned<M: Message>(message: &M, version: i16) -> Result<Bytes, EncodeError> {
    prefixed(version, message, version)
}

/// A value or blob and the version it was written in, which must be one the codec speaks. Bytes behind
/// it are refused.
pub fn decode_versioned<M: Message>(bytes: Bytes) -> Result<(i16, M), DecodeError> {
    let mut d = Decoder::new(bytes);
    let version = i16::read(&mut d, 0, false)?;
    let message = M::decode(&mut d, version)?;
    d.finish()?;
    Ok((version, message))
}

/// A consumer protocol blob as Kafka's clients read it: a version newer than known is read as the
/// newest known one, and bytes behind the message are left alone.
pub fn decode_consumer_protocol<M: Message>(bytes: Bytes) -> Result<(i16, M), DecodeError> {
    let mut d = Decoder::new(bytes);
    let version = i16::read(&mut d, 0, false)?;
    let message = M::decode(&mut d, version.min(M::MAX))?;
    Ok((version, message))
}

/// A key of `__consumer_offsets`.
#[derive(Clone, Debug, PartialEq)]
pub enum OffsetsKey {
    /// A committed offset: kinds 0 and 1.
    Offset(OffsetCommitKey),
    /// A group of the classic protocol: kind 2.
    Group(GroupMetadataKey),
    /// A kind this build does not know; such records are to be left alone.
    Unknown(i16),
}

impl OffsetsKey {
    /// Reads a key.
    pub fn decode(bytes: Bytes) -> Result<OffsetsKey, DecodeError> {
        let mut d = Decoder::new(bytes);
        let key = match i16::read(&mut d, 0, false)? {
            0 | 1 => OffsetsKey::Offset(OffsetCommitKey::decode(&mut d, 0)?),
            2 => OffsetsKey::Group(GroupMetadataKey::decode(&mut d, 0)?),
            kind if kind < 0 => return Err(d.fault(Fault::Version(kind))),
            kind => return Ok(OffsetsKey::Unknown(kind)),
        };
        d.finish()?;
        Ok(key)
    }

    /// Writes a key; one of an unknown kind cannot be written.
    pub fn encode(&self) -> Result<Bytes, EncodeError> {
        match self {
            OffsetsKey::Offset(key) => prefixed(1, key, 0),
            OffsetsKey::Group(key) => prefixed(2, key, 0),
            OffsetsKey::Unknown(kind) => Err(EncodeError::Version(*kind)),
        }
    }
}

fn prefixed<M: Message>(number: i16, message: &M, version: i16) -> Result<Bytes, EncodeError> {
    let mut e = Encoder::new();
    number.write(&mut e, 0, false)?;
    message.encode(&mut e, version)?;
    e.finish().into_bytes().map_err(|_| EncodeError::File)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_key_is_the_bytes_kafka_writes() {
        let key = OffsetsKey::Offset(OffsetCommitKey { group: "g".into(), topic: "t".into(), partition: 7 });
        let bytes = key.encode().unwrap();
        assert_eq!(&bytes[..], b"\0\x01\0\x01g\0\x01t\0\0\0\x07");
        assert_eq!(OffsetsKey::decode(bytes), Ok(key));
    }

    #[test]
    fn a_key_of_another_kind_is_left_alone_and_a_negative_one_refused() {
        assert_eq!(OffsetsKey::decode(Bytes::from_static(b"\0\x05rest")), Ok(OffsetsKey::Unknown(5)));
        assert!(OffsetsKey::decode(Bytes::from_static(b"\xff\xff")).is_err());
    }

    #[test]
    fn a_subscription_of_a_newer_version_is_read_as_the_newest_known() {
        let subscription = ConsumerProtocolSubscription { topics: vec!["t".into()], ..Default::default() };
        let mut bytes = encode_versioned(&subscription, 3).unwrap().to_vec();
        bytes[1] = 9;
        bytes.extend_from_slice(b"more");
        let read = decode_consumer_protocol::<ConsumerProtocolSubscription>(bytes.clone().into()).unwrap();
        assert_eq!(read, (9, subscription));
        assert!(decode_versioned::<ConsumerProtocolSubscription>(bytes.into()).is_err());
    }

    #[test]
    fn an_offset_value_of_version_3_has_no_expiry_and_an_epoch() {
        let value =
            OffsetCommitValue { offset: 5, leader_epoch: 2, commit_timestamp: 1, ..Default::default() };
        let bytes = encode_versioned(&value, OFFSET_COMMIT_VALUE).unwrap();
        assert_eq!(bytes.len(), 2 + 8 + 4 + 2 + 8);
        assert_eq!(decode_versioned(bytes), Ok((3, value)));
    }
}
