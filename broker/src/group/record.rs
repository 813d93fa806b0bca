//! Group records as they lie in `__consumer_offsets`, byte for byte what Kafka's tools read.
//!
//! Offset keys of version 1 with values of version 3 (1 where the commit asked for its own retention, which
//! version 3 cannot say), group keys of version 2 with values of version 3; a tombstone deletes. Everything
//! Kafka ever wrote under these keys is read; other keys are left alone.

use bytes::Bytes;
use tidemark_proto::id::Millis;
use tidemark_proto::kafka::internal::{
    GROUP_METADATA_VALUE, GroupMetadataKey, GroupMetadataValue, OFFSET_COMMIT_VALUE, OffsetCommitKey,
    OffsetCommitValue, OffsetsKey, decode_versioned, encode_versioned, group_metadata_value::MemberMetadata,
};
use tidemark_proto::kafka::text::Text;
use tidemark_proto::kafka::wire::{DecodeError, EncodeError};

use super::command::{Committed, GroupRecord, Record, RecordedMember};

/// The value version that has room for an expiry of its own.
const OFFSET_VALUE_WITH_EXPIRY: i16 = 1;

/// Key and value of a record; no value is a tombstone.
pub type KeyValue = (Bytes, Option<Bytes>);

/// A group's record as key and value.
///
/// # Errors
/// A name is longer than the format allows.
pub fn encode(group: &Text, record: &Record) -> Result<KeyValue, EncodeError> {
    let group_key = || OffsetsKey::Group(GroupMetadataKey { group: group.clone() }).encode();
    let offset_key = |topic: &Text, partition: i32| {
        let key = OffsetCommitKey { group: group.clone(), topic: topic.clone(), partition };
        OffsetsKey::Offset(key).encode()
    };
    Ok(match record {
        Record::Group(record) => {
            (group_key()?, Some(encode_versioned(&group_value(record), GROUP_METADATA_VALUE)?))
        }
        Record::GroupGone => (group_key()?, None),
        Record::Offset(topic, partition, committed) => {
            let version = match committed.expires {
                Some(_) => OFFSET_VALUE_WITH_EXPIRY,
                None => OFFSET_COMMIT_VALUE,
            };
            let value = encode_versioned(&offset_value(committed), version)?;
            (offset_key(topic, *partition)?, Some(value))
        }
        Record::OffsetGone(topic, partition) => (offset_key(topic, *partition)?, None),
    })
}

/// Whose record a key and value are, and which; `None` for kinds that are none of ours.
///
/// # Errors
/// The bytes are not what their version says.
pub fn decode(key: Bytes, value: Option<Bytes>) -> Result<Option<(Text, Record)>, DecodeError> {
    match OffsetsKey::decode(key)? {
        OffsetsKey::Unknown(_) => Ok(None),
        OffsetsKey::Group(key) => {
            let record = match value {
                None => Record::GroupGone,
                Some(value) => Record::Group(group_record(decode_versioned(value)?.1)),
            };
            Ok(Some((key.group.detached(), record)))
        }
        OffsetsKey::Offset(OffsetCommitKey { group, topic, partition }) => {
            let topic = topic.detached();
            let record = match value {
                None => Record::OffsetGone(topic, partition),
                Some(value) => Record::Offset(topic, partition, committed(decode_versioned(value)?.1)),
            };
            Ok(Some((group.detached(), record)))
        }
    }
}

fn offset_value(committed: &Committed) -> OffsetCommitValue {
    OffsetCommitValue {
        offset: committed.offset,
        leader_epoch: committed.leader_epoch,
        metadata: committed.metadata.clone(),
        commit_timestamp: committed.at.0,
        expire_timestamp: committed.expires.map_or(-1, |at| at.0),
        ..OffsetCommitValue::default()
    }
}

fn committed(value: OffsetCommitValue) -> Committed {
    Committed {
        offset: value.offset,
        leader_epoch: value.leader_epoch,
        metadata: value.metadata.detached(),
        at: Millis(value.commit_timestamp),
        expires: Some(Millis(value.expire_timestamp)).filter(|at| at.0 >= 0),
    }
}

fn group_value(record: &GroupRecord) -> GroupMetadataValue {
    let members = record.members.iter().map(|m| MemberMetadata {
        member_id: m.member.clone(),
        group_instance_id: m.instance.clone(),
        client_id: m.client_id.clone(),
        client_host: m.client_host.clone(),
        rebalance_timeout: m.rebalance_timeout_ms,
        session_timeout: m.session_timeout_ms,
        subscription: m.subscription.clone(),
        assignment: m.assignment.clone(),
    });
    GroupMetadataValue {
        protocol_type: record.protocol_type.clone(),
        generation: record.generation,
        protocol: record.protocol.clone(),
        leader: record.leader.clone(),
        current_state_timestamp: record.since.0,
        members: members.collect(),
    }
}

fn group_record(value: GroupMetadataValue) -> GroupRecord {
    let members = value.members.into_iter().map(|m| RecordedMember {
        member: m.member_id.detached(),
        instance: m.group_instance_id.map(|i| i.detached()),
        client_id: m.client_id.detached(),
        client_host: m.client_host.detached(),
        // Version 0 had none: the session timeout stood for it.
        rebalance_timeout_ms: match m.rebalance_timeout {
            -1 => m.session_timeout,
            given => given,
        },
        session_timeout_ms: m.session_timeout,
        subscription: Bytes::copy_from_slice(&m.subscription),
        assignment: Bytes::copy_from_slice(&m.assignment),
    });
    GroupRecord {
        protocol_type: value.protocol_type.detached(),
        generation: value.generation,
        protocol: value.protocol.map(|p| p.detached()),
        leader: value.leader.map(|l| l.detached()),
        since: Millis(value.current_state_timestamp),
        members: members.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(expires: Option<Millis>, leader_epoch: i32) -> Record {
        let metadata = Text::from("mine");
        let committed =
            Committed { offset: 42, leader_epoch, metadata, at: Millis(1_700_000_000_000), expires };
        Record::Offset(Text::from("orders"), 7, committed)
    }

    fn group() -> Record {
        Record::Group(GroupRecord {
            protocol_type: Text::from("consumer"),
            generation: 3,
            protocol: Some(Text::from("range")),
            leader: Some(Text::from("m-1")),
            since: Millis(5),
            members: vec![RecordedMember {
                member: Text::from("m-1"),
                instance: Some(Text::from("one")),
                client_id: Text::from("c"),
                client_host: Text::from("/127.0.0.1"),
                rebalance_timeout_ms: 60_000,
                session_timeout_ms: 10_000,
                subscription: Bytes::from_static(b"s"),
                assignment: Bytes::from_static(b"a"),
            }],
        })
    }

    #[test]
    fn every_record_reads_back() {
        let topic = Text::from("orders");
        let gone = [Record::GroupGone, Record::OffsetGone(topic, 7)];
        let kept = [offset(None, 9), offset(Some(Millis(1_800_000_000_000)), -1), group()];
        for record in gone.into_iter().chain(kept) {
            let (key, value) = encode(&Text::from("g"), &record).unwrap();
            assert_eq!(decode(key, value).unwrap(), Some((Text::from("g"), record)));
        }
    }

    #[test]
    fn offsets_are_written_so_that_tools_in_the_field_read_them() {
        let (key, value) = encode(&Text::from("g"), &offset(None, 9)).unwrap();
        assert_eq!(&key[..], b"\x00\x01\x00\x01g\x00\x06orders\x00\x00\x00\x07");
        let expected = b"\x00\x03\x00\x00\x00\x00\x00\x00\x00\x2a\x00\x00\x00\x09\x00\x04mine\x00\x00\x01\x8b\xcf\xe5\x68\x00";
        assert_eq!(&value.unwrap()[..], expected);
        let (key, value) = encode(&Text::from("g"), &group()).unwrap();
        assert_eq!(&key[..], b"\x00\x02\x00\x01g");
        assert_eq!(&value.unwrap()[..2], b"\x00\x03");
    }

    #[test]
    fn other_kinds_are_left_alone_and_damage_is_told() {
        assert_eq!(decode(Bytes::from_static(b"\x00\x05rest"), None), Ok(None));
        assert!(decode(Bytes::from_static(b"\x00"), None).is_err());
        let (key, value) = encode(&Text::from("g"), &group()).unwrap();
        assert!(decode(key, Some(value.unwrap().slice(..20))).is_err());
    }
}
