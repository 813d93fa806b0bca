//! What is built can be read back, stamped, walked and looked up.

use bytes::Bytes;
use proptest::prelude::*;

use super::super::control::{EndMarker, Outcome};
use super::super::records::{Header, Record, Records};
use super::super::stamp::{Stamped, recompressed, with_append_time};
use super::super::validate::{Validated, validate, validate_entry};
use super::super::view::{Batch, Batches, sequence_plus};
use super::super::{BatchError, TimestampType, find_by_timestamp, max_timestamp};
use super::*;
use crate::id::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};

/// The batch of one record {key "k", value "v"} at time 1, as Java's producer writes it.
const KNOWN: [u8; 70] = [
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 58, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xff, 0xff, 0xff, 0, 0, 0, 1, 16, 0, 0, 0, 2, b'k', 2, b'v', 0,
];

#[test]
fn built_bytes_are_the_formats() {
    let mut builder = Builder::new();
    builder.append(Millis(1), Some(b"k"), Some(b"v"));
    let batch = builder.build();
    let mut bytes = batch.bytes().to_vec();
    bytes[AT_CRC..AT_CRC + 4].fill(0);
    assert_eq!(bytes, KNOWN);
    assert_eq!(batch.crc(), crc32c::crc32c(&KNOWN[AT_ATTRIBUTES..]));
}

#[test]
fn accessors_say_what_the_builder_was_told() {
    let mut builder = Builder::new()
        .compression(Compression::Zstd)
        .producer(ProducerId(7), ProducerEpoch(3), i32::MAX)
        .transactional()
        .base_offset(Offset(100))
        .leader_epoch(LeaderEpoch(9));
    builder.append(Millis(50), None, Some(b"a")).append(Millis(40), Some(b"k"), None);
    let batch = builder.build();
    assert_eq!(
        (batch.base_offset(), batch.last_offset(), batch.next_offset()),
        (Offset(100), Offset(101), Offset(102))
    );
    assert_eq!((batch.count(), batch.last_offset_delta()), (2, 1));
    assert_eq!((batch.base_timestamp(), batch.max_timestamp()), (Millis(50), Millis(50)));
    assert_eq!(batch.compression(), Ok(Compression::Zstd));
    assert_eq!((batch.producer_id(), batch.producer_epoch()), (ProducerId(7), ProducerEpoch(3)));
    assert_eq!((batch.base_sequence(), batch.last_sequence()), (i32::MAX, 0), "sequences wrap to 0");
    assert!(batch.is_transactional() && !batch.is_control());
    assert_eq!(batch.partition_leader_epoch(), LeaderEpoch(9));
    assert_eq!(batch.size(), batch.bytes().len());
    assert_eq!(batch.verify_crc(), Ok(()));
}

#[test]
fn sequences_wrap_to_zero_and_never_below() {
    assert_eq!(sequence_plus(5, 3), 8);
    assert_eq!(sequence_plus(i32::MAX, 1), 0);
    assert_eq!(sequence_plus(i32::MAX - 1, 5), 3);
}

#[test]
fn stamping_leaves_the_checksum_right_and_the_bytes_where_they_are() {
    let batch = sample(Compression::Lz4, 10, 50);
    let stamped = Stamped::new(&batch, Offset(1 << 40), LeaderEpoch(12));
    assert_eq!(stamped.base_offset(), Offset(1 << 40));
    assert_eq!(stamped.last_offset(), Offset((1 << 40) + 9));
    assert_eq!(stamped.partition_leader_epoch(), LeaderEpoch(12));
    assert_eq!((stamped.size(), stamped.len()), (batch.size(), batch.size()));
    assert_eq!(stamped.verify_crc(), Ok(()));
    assert_eq!(stamped.tail().as_ptr(), batch.bytes()[16..].as_ptr(), "a slice, not a copy");
    let whole = stamped.to_batch();
    assert_eq!(whole.base_offset(), Offset(1 << 40));
    assert_eq!(whole.verify_crc(), Ok(()));
    let mut pieces = Vec::new();
    stamped.push_to(&mut pieces);
    assert_eq!(pieces.concat(), stamped.to_bytes());
    assert_eq!(records(&whole)[3].offset, Offset((1 << 40) + 3));
}

#[test]
fn a_valid_batch_is_taken_without_a_copy() {
    for codec in Compression::ALL {
        let batch = sample(codec, 100, 100);
        let Validated { batch: taken, expanded } = validate_entry(batch.bytes().clone(), &rules()).unwrap();
        assert_eq!(taken, batch);
        assert_eq!(taken.bytes().as_ptr(), batch.bytes().as_ptr());
        assert_eq!(expanded, sample(Compression::None, 100, 100).payload().len(), "{codec}");
    }
}

#[test]
fn append_time_is_the_brokers_for_every_record() {
    let batch = sample(Compression::Gzip, 3, 10);
    let stamped = with_append_time(&batch, Millis(5));
    assert_eq!(stamped.verify_crc(), Ok(()));
    assert_eq!(stamped.timestamp_type(), TimestampType::LogAppendTime);
    assert!(records(&stamped).iter().all(|record| record.timestamp == Millis(5)));
    let rules = Rules { timestamp_type: TimestampType::LogAppendTime, ..rules() };
    let old = forged(&batch, super::super::view::BASE_TIMESTAMP_AT, &3i64.to_be_bytes());
    let taken = validate(&old, &Rules { before_max_ms: 1, ..rules }).unwrap();
    assert_eq!(taken.batch.max_timestamp(), NOW, "the producer's times do not matter");
}

#[test]
fn a_wrong_maximum_timestamp_is_put_right() {
    let batch = sample(Compression::None, 4, 10);
    let lying = forged(&batch, super::super::view::MAX_TIMESTAMP_AT, &1i64.to_be_bytes());
    let taken = validate(&lying, &rules()).unwrap();
    assert_eq!(taken.batch, batch);
}

#[test]
fn lookups_are_exact_to_the_record() {
    for codec in Compression::ALL {
        let mut builder = Builder::new().compression(codec).base_offset(Offset(10));
        for time in [100, 300, 200, 300] {
            builder.append(Millis(time), None, Some(b"x"));
        }
        let batch = builder.build();
        let find = |target| find_by_timestamp(&batch, Millis(target), Offset(0)).unwrap();
        assert_eq!(find(0), Some((Offset(10), Millis(100))));
        assert_eq!(find(101), Some((Offset(11), Millis(300))));
        assert_eq!(find(300), Some((Offset(11), Millis(300))));
        assert_eq!(find(301), None);
        assert_eq!(max_timestamp(&batch, Offset(0)).unwrap(), Some((Offset(11), Millis(300))));
        let under_broker = with_append_time(&batch, Millis(400));
        assert_eq!(max_timestamp(&under_broker, Offset(0)).unwrap(), Some((Offset(10), Millis(400))));
        assert_eq!(
            find_by_timestamp(&under_broker, Millis(350), Offset(0)).unwrap(),
            Some((Offset(10), Millis(400)))
        );
        assert_eq!(find_by_timestamp(&under_broker, Millis(401), Offset(0)).unwrap(), None);
    }
}

#[test]
fn compaction_keeps_offsets_and_may_leave_a_batch_empty() {
    let all = records(&sample(Compression::None, 5, 5));
    let mut kept = Builder::new().delete_horizon(Millis(77));
    kept.keep(&all[1]).keep(&all[3]).span_to(Offset(4));
    let batch = kept.build();
    assert_eq!((batch.count(), batch.last_offset()), (2, Offset(4)));
    assert_eq!(batch.delete_horizon(), Some(Millis(77)));
    assert_eq!(records(&batch), [all[1].clone(), all[3].clone()]);
    let mut empty = Builder::new().producer(ProducerId(1), ProducerEpoch(0), 4);
    empty.span_to(Offset(4));
    let empty = empty.build();
    assert_eq!((empty.count(), empty.last_sequence()), (0, 8));
    assert_eq!(records(&empty), []);
    assert_eq!(max_timestamp(&empty, Offset(0)).unwrap(), None);
}

#[test]
fn markers_tell_how_a_transaction_ended() {
    for outcome in [Outcome::Commit, Outcome::Abort] {
        let marker =
            EndMarker { outcome, producer: ProducerId(5), epoch: ProducerEpoch(2), coordinator_epoch: 11 };
        let batch = marker.to_batch(NOW);
        assert!(batch.is_control() && batch.is_transactional());
        assert_eq!(batch.base_sequence(), -1);
        assert_eq!(EndMarker::read(&batch), Ok(Some(marker)));
    }
    assert_eq!(EndMarker::read(&sample(Compression::None, 1, 1)), Ok(None));
}

#[test]
fn concatenated_batches_are_told_apart() {
    let (one, two) = (sample(Compression::None, 1, 1), sample(Compression::Gzip, 9, 9));
    let both = Bytes::from([&one.bytes()[..], &two.bytes()[..]].concat());
    let read: Result<Vec<Batch>, _> = Batches::new(both.clone()).collect();
    assert_eq!(read.unwrap(), [one.clone(), two]);
    let mut cut = Batches::new(both.slice(..both.len() - 1));
    assert_eq!(cut.next(), Some(Ok(one)));
    assert!(matches!(cut.next(), Some(Err(BatchError::Truncated { .. }))));
    assert_eq!(cut.next(), None);
}

#[test]
fn a_batch_may_change_its_codec_but_not_its_records() {
    let plain = sample(Compression::None, 50, 50);
    for codec in Compression::ALL {
        let packed = recompressed(&plain, codec, None, 1 << 20).unwrap();
        assert_eq!(packed.compression(), Ok(codec));
        assert_eq!(packed.verify_crc(), Ok(()));
        assert_eq!(records(&packed), records(&plain));
        assert_eq!(recompressed(&packed, Compression::None, None, 1 << 20).unwrap(), plain);
    }
}

fn records(batch: &Batch) -> Vec<Record> {
    Records::new(batch).unwrap().collect::<Result<_, _>>().unwrap()
}

type Fields = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

fn bytes(up_to: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..up_to)
}

fn fields() -> impl Strategy<Value = Fields> {
    (
        0..4_000_000_000_000i64,
        proptest::option::of(bytes(40)),
        proptest::option::of(bytes(4000)),
        proptest::collection::vec((bytes(9), proptest::option::of(bytes(9))), 0..4),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_records_come_back_under_any_codec(
        codec in 0..5u8,
        base in 0..i64::MAX / 2,
        all in proptest::collection::vec(fields(), 1..40),
    ) {
        let codec = Compression::from_id(codec).unwrap();
        let mut builder = Builder::new().compression(codec);
        for (time, key, value, headers) in &all {
            let headers: Vec<Header> = headers
                .iter()
                .map(|(key, value)| Header { key: key.clone().into(), value: value.clone().map(Bytes::from) })
                .collect();
            builder.append_with(Millis(*time), key.as_deref(), value.as_deref(), &headers);
        }
        let batch = builder.build();
        let open = Rules { after_max_ms: i64::MAX, ..rules() };
        prop_assert_eq!(&validate(&batch, &open).unwrap().batch, &batch);
        let stamped = Stamped::new(&batch, Offset(base), LeaderEpoch(1)).to_batch();
        let read = records(&stamped);
        prop_assert_eq!(read.len(), all.len());
        for (index, (record, (time, key, value, headers))) in read.iter().zip(&all).enumerate() {
            prop_assert_eq!(record.offset, Offset(base + index as i64));
            prop_assert_eq!(record.timestamp, Millis(*time));
            prop_assert_eq!(record.key.as_deref(), key.as_deref());
            prop_assert_eq!(record.value.as_deref(), value.as_deref());
            prop_assert_eq!(record.headers.len(), headers.len());
            for (header, (key, value)) in record.headers.iter().zip(headers) {
                prop_assert_eq!(&header.key[..], &key[..]);
                prop_assert_eq!(header.value.as_deref(), value.as_deref());
            }
        }
        let target = all[all.len() / 2].0;
        let first = read.iter().find(|record| record.timestamp.0 >= target).map(|r| (r.offset, r.timestamp));
        prop_assert_eq!(find_by_timestamp(&stamped, Millis(target), Offset(0)).unwrap(), first);
    }
}
