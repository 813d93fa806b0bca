//! Rows 20–28 of reliability.md §C.4, as far as a batch alone can break them, and the grammar of records.

use std::io::Write;

use bytes::Bytes;

use super::super::stamp;
use super::super::validate::{Invalid, RECORD_ERRORS_MAX, validate, validate_entry};
use super::super::varint;
use super::super::view::{
    BASE_SEQUENCE_AT, BASE_TIMESTAMP_AT, Batch, COUNT_AT, HEADER_BYTES, LAST_OFFSET_DELTA_AT,
    PRODUCER_EPOCH_AT, PRODUCER_ID_AT,
};
use super::*;
use crate::id::{ProducerEpoch, ProducerId};
use crate::kafka::error::ErrorCode;

fn refusal(batch: &Batch) -> Invalid {
    refusal_by(batch, &rules())
}

fn refusal_by(batch: &Batch, rules: &Rules) -> Invalid {
    validate(batch, rules).expect_err("a bad batch is refused")
}

fn entry(bytes: impl Into<Bytes>) -> ErrorCode {
    validate_entry(bytes.into(), &rules()).expect_err("bad bytes are refused").code
}

#[test]
fn row_20_a_flipped_bit_is_corrupt() {
    for codec in Compression::ALL {
        let good = sample(codec, 20, 20).bytes().to_vec();
        for at in AT_CRC..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert_eq!(entry(bad), ErrorCode::CorruptMessage, "{codec} byte {at}");
        }
    }
}

#[test]
fn row_20_every_cut_is_corrupt() {
    let good = sample(Compression::None, 3, 20).bytes().clone();
    for cut in 1..good.len() {
        assert_eq!(entry(good.slice(..cut)), ErrorCode::CorruptMessage, "{cut}");
    }
    assert_eq!(entry(Bytes::new()), ErrorCode::InvalidRecord);
}

#[test]
fn row_20_a_length_that_lies_is_corrupt() {
    let good = sample(Compression::None, 3, 20);
    let length = good.length();
    for lie in [0, -1, i32::MIN, i32::MAX, 48, length - 1, length + 1] {
        let mut bad = good.bytes().to_vec();
        bad[8..12].copy_from_slice(&lie.to_be_bytes());
        assert_eq!(entry(bad), ErrorCode::CorruptMessage, "{lie}");
    }
}

#[test]
fn row_21_old_and_unknown_formats_are_named() {
    for (magic, code) in [
        (0, ErrorCode::UnsupportedForMessageFormat),
        (1, ErrorCode::UnsupportedForMessageFormat),
        (3, ErrorCode::InvalidRecord),
        (0xff, ErrorCode::InvalidRecord),
    ] {
        let mut bad = sample(Compression::None, 1, 1).bytes().to_vec();
        bad[16] = magic;
        assert_eq!(entry(bad), code, "magic {magic}");
    }
    // A real v1 message is smaller than a v2 header.
    let v1 = [&[0; 8][..], &[0, 0, 0, 22], &[1, 2, 3, 4], &[1], &[0; 17]].concat();
    assert_eq!(entry(v1), ErrorCode::UnsupportedForMessageFormat);
}

#[test]
fn row_22_counts_and_offset_deltas_must_agree() {
    for codec in Compression::ALL {
        let good = sample(codec, 5, 5);
        for count in [0, -1, 4, 6, i32::MAX, i32::MIN] {
            let bad = forged(&good, COUNT_AT, &i32::to_be_bytes(count));
            assert_eq!(refusal(&bad).code, ErrorCode::InvalidRecord, "count {count}");
        }
        for count in [4, 6, i32::MAX - 1] {
            let bad = forged(&good, COUNT_AT, &i32::to_be_bytes(count));
            let bad = forged(&bad, LAST_OFFSET_DELTA_AT, &i32::to_be_bytes(count - 1));
            assert_eq!(refusal(&bad).code, ErrorCode::InvalidRecord, "{codec} lies twice: {count}");
        }
        for delta in [-1, 3, 5, i32::MAX, i32::MIN] {
            let bad = forged(&good, LAST_OFFSET_DELTA_AT, &i32::to_be_bytes(delta));
            assert_eq!(refusal(&bad).code, ErrorCode::InvalidRecord, "delta {delta}");
        }
    }
}

#[test]
fn row_22_offset_deltas_run_from_zero_by_one() {
    for deltas in [[1, 2], [0, 0], [0, 2], [1, 0], [-1, 0]] {
        let records: Vec<u8> = deltas.iter().flat_map(|delta| record(*delta, 0)).collect();
        assert_eq!(
            refusal(&raw(Compression::None, 2, &records)).code,
            ErrorCode::InvalidRecord,
            "{deltas:?}"
        );
    }
    let records: Vec<u8> = [0, 1].iter().flat_map(|delta| record(*delta, 0)).collect();
    assert!(validate(&raw(Compression::None, 2, &records), &rules()).is_ok());
}

/// A bare record without key or value.
fn record(offset_delta: i64, timestamp_delta: i64) -> Vec<u8> {
    let mut body = vec![0];
    for field in [timestamp_delta, offset_delta, -1, -1, 0] {
        varint::put(&mut body, field);
    }
    framed(&body)
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint::put(&mut out, body.len() as i64);
    out.extend_from_slice(body);
    out
}

#[test]
fn records_that_break_the_grammar_are_refused() {
    let body = |fields: &[i64]| {
        let mut body = vec![0];
        fields.iter().for_each(|field| varint::put(&mut body, *field));
        body
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("negative size", vec![1]),
        ("size past the end", vec![0x40, 0, 0]),
        ("size of 2 GiB", vec![0xfe, 0xff, 0xff, 0xff, 0x0f, 0]),
        ("empty", vec![0]),
        ("endless varint", vec![0xff; 20]),
        ("key past the record", framed(&body(&[0, 0, 100, -1, 0]))),
        ("key length of -2", framed(&body(&[0, 0, -2, -1, 0]))),
        ("value length of 2^31", framed(&body(&[0, 0, -1, i64::from(i32::MAX), 0]))),
        ("header count of -1", framed(&body(&[0, 0, -1, -1, -1]))),
        ("header count of 2^31", framed(&body(&[0, 0, -1, -1, i64::from(i32::MAX)]))),
        ("header without a name", framed(&body(&[0, 0, -1, -1, 1, -1, -1]))),
        ("bytes left in the record", framed(&[&body(&[0, 0, -1, -1, 0])[..], &[0, 0]].concat())),
        ("size too small", [&[2u8][..], &body(&[0, 0, -1, -1, 0])].concat()),
    ];
    for (name, records) in cases {
        for codec in Compression::ALL {
            let batch = raw(codec, 1, &super::super::compress::compress(codec, &records));
            assert_eq!(refusal(&batch).code, ErrorCode::InvalidRecord, "{name} {codec}");
            let read: Result<Vec<_>, _> =
                super::super::records::Records::new(&batch).and_then(|records| records.collect());
            assert!(read.is_err(), "the decoder takes what the validator refuses: {name}");
        }
    }
}

#[test]
fn records_beyond_the_count_are_refused() {
    let two = [record(0, 0), record(1, 0)].concat();
    for codec in Compression::ALL {
        let batch = raw(codec, 1, &super::super::compress::compress(codec, &two));
        assert_eq!(refusal(&batch).code, ErrorCode::InvalidRecord);
    }
}

/// A batch whose one record is `size` zeros, written as a stream so that the test needs no memory either.
fn bomb(codec: Compression, size: usize) -> Batch {
    let mut head = vec![0];
    for field in [0, 0, -1, size as i64] {
        varint::put(&mut head, field);
    }
    let mut start = Vec::new();
    varint::put(&mut start, (head.len() + size + 1) as i64);
    start.extend_from_slice(&head);
    let zeros = vec![0; 1 << 20];
    let write = |out: &mut dyn Write| {
        out.write_all(&start).unwrap();
        (0..size >> 20).for_each(|_| out.write_all(&zeros).unwrap());
        out.write_all(&[0]).unwrap();
    };
    let packed = match codec {
        Compression::Gzip => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            write(&mut out);
            out.finish().unwrap()
        }
        Compression::Lz4 => {
            let info = lz4_flex::frame::FrameInfo::new()
                .block_mode(lz4_flex::frame::BlockMode::Independent)
                .block_size(lz4_flex::frame::BlockSize::Max4MB);
            let mut out = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
            write(&mut out);
            out.finish().unwrap()
        }
        _ => {
            let mut out = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
            write(&mut out);
            out.finish().unwrap()
        }
    };
    raw(codec, 1, &packed)
}

#[test]
fn row_23_a_bomb_stops_early() {
    for (codec, size) in
        [(Compression::Zstd, 1 << 30), (Compression::Gzip, 256 << 20), (Compression::Lz4, 256 << 20)]
    {
        let bomb = bomb(codec, size);
        assert!(bomb.size() < 2 << 20, "{codec}: {} bytes", bomb.size());
        let rules = Rules { max_message_bytes: 4 << 20, ..rules() };
        let refused = refusal_by(&bomb, &rules);
        assert_eq!(refused.code, ErrorCode::MessageTooLarge, "{codec}: {refused}");
    }
}

#[test]
fn row_24_unknown_codecs_and_early_zstd_are_unsupported() {
    let good = sample(Compression::None, 1, 1);
    for id in 5..=7i16 {
        let bad = forged(&good, AT_ATTRIBUTES, &id.to_be_bytes());
        assert_eq!(refusal(&bad).code, ErrorCode::UnsupportedCompressionType);
    }
    let zstd = sample(Compression::Zstd, 1, 1);
    for (version, fine) in [(3, false), (6, false), (7, true), (13, true)] {
        let taken = validate(&zstd, &Rules { produce_version: version, ..rules() });
        assert_eq!(
            taken.err().map(|refused| refused.code),
            (!fine).then_some(ErrorCode::UnsupportedCompressionType)
        );
    }
}

#[test]
fn row_24_a_stream_cut_short_is_corrupt() {
    for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let good = sample(codec, 50, 50);
        let packed = &good.bytes()[HEADER_BYTES..];
        for cut in [1, packed.len() / 2, packed.len() - 1] {
            assert_eq!(
                refusal(&raw(codec, 50, &packed[..cut])).code,
                ErrorCode::CorruptMessage,
                "{codec} {cut}"
            );
        }
        let rubbish = raw(codec, 50, b"\xffno stream of any codec begins so");
        assert_eq!(refusal(&rubbish).code, ErrorCode::CorruptMessage, "{codec}");
    }
}

#[test]
fn row_25_a_batch_larger_than_the_topic_takes_is_refused() {
    let batch = sample(Compression::None, 1, 1000);
    let just = Rules { max_message_bytes: batch.size(), ..rules() };
    assert!(validate(&batch, &just).is_ok());
    let refused = refusal_by(&batch, &Rules { max_message_bytes: batch.size() - 1, ..rules() });
    assert_eq!(refused.code, ErrorCode::MessageTooLarge);
}

#[test]
fn row_26_timestamps_out_of_bounds_are_named_one_by_one() {
    let mut builder = Builder::new();
    for time in [NOW.0, NOW.0 - 1001, NOW.0 + 3_600_000, NOW.0 + 3_600_001, -1, NOW.0 - 1000] {
        builder.append(Millis(time), None, None);
    }
    let refused = refusal_by(&builder.build(), &Rules { before_max_ms: 1000, ..rules() });
    assert_eq!(refused.code, ErrorCode::InvalidTimestamp);
    assert_eq!(refused.records.iter().map(|record| record.index).collect::<Vec<_>>(), [1, 3]);
    assert!(refused.records[0].message.contains("out of range"), "{refused:?}");
}

#[test]
fn row_26_negative_and_absurd_timestamps_are_refused() {
    for time in [-2, i64::MIN, i64::MAX] {
        let mut builder = Builder::new();
        builder.append(Millis(time), None, None);
        assert_eq!(refusal(&builder.build()).code, ErrorCode::InvalidTimestamp, "{time}");
    }
    // A delta that overflows the base wraps, and is judged by where it lands.
    let batch = raw(Compression::None, 1, &record(0, i64::MAX));
    let batch = forged(&batch, BASE_TIMESTAMP_AT, &i64::MAX.to_be_bytes());
    assert_eq!(refusal(&batch).code, ErrorCode::InvalidTimestamp);
    let none = forged(&sample(Compression::None, 1, 1), BASE_TIMESTAMP_AT, &(-1i64).to_be_bytes());
    assert!(validate(&none, &rules()).is_ok(), "-1 is no timestamp");
}

#[test]
fn row_26_the_type_of_timestamp_is_the_brokers_to_say() {
    let batch = stamp::with_append_time(&sample(Compression::None, 1, 1), NOW);
    assert_eq!(refusal(&batch).code, ErrorCode::InvalidTimestamp);
}

#[test]
fn row_27_a_compacted_topic_takes_no_null_key() {
    for codec in Compression::ALL {
        let mut builder = Builder::new().compression(codec);
        builder.append(NOW, Some(b"k"), None).append(NOW, None, Some(b"v")).append(NOW, Some(b""), None);
        let batch = builder.build();
        assert!(validate(&batch, &rules()).is_ok());
        let refused = refusal_by(&batch, &Rules { compacted: true, ..rules() });
        assert_eq!(refused.code, ErrorCode::InvalidRecord);
        assert_eq!(refused.records.iter().map(|record| record.index).collect::<Vec<_>>(), [1]);
    }
}

#[test]
fn row_27_control_batches_are_not_for_clients() {
    let mut builder = Builder::new().control();
    builder.append(NOW, Some(&[0, 0, 0, 1]), Some(&[0; 6]));
    assert_eq!(refusal(&builder.build()).code, ErrorCode::InvalidRecord);
    let mut builder = Builder::new().delete_horizon(NOW);
    builder.append(NOW, None, None);
    assert_eq!(refusal(&builder.build()).code, ErrorCode::InvalidRecord);
}

#[test]
fn row_28_one_batch_an_entry() {
    let one = sample(Compression::None, 1, 1).bytes().to_vec();
    assert_eq!(entry([&one[..], &one].concat()), ErrorCode::InvalidRecord);
    assert_eq!(entry([&one[..], &one[..one.len() - 1]].concat()), ErrorCode::CorruptMessage);
    assert_eq!(entry([&one[..], &[0]].concat()), ErrorCode::CorruptMessage);
}

#[test]
fn a_producer_counts_from_offset_zero() {
    let bad = forged(&sample(Compression::None, 1, 1), 0, &5i64.to_be_bytes());
    assert_eq!(refusal(&bad).code, ErrorCode::InvalidRecord);
}

#[test]
fn producer_fields_make_sense_together() {
    let mut builder = Builder::new().producer(ProducerId(1), ProducerEpoch(0), 0);
    builder.append(NOW, None, None);
    let good = builder.build();
    assert!(validate(&good, &rules()).is_ok());
    for (at, bytes) in [
        (BASE_SEQUENCE_AT, &(-1i32).to_be_bytes()[..]),
        (PRODUCER_EPOCH_AT, &(-1i16).to_be_bytes()),
        (PRODUCER_ID_AT, &(-2i64).to_be_bytes()),
    ] {
        assert_eq!(refusal(&forged(&good, at, bytes)).code, ErrorCode::InvalidRecord);
    }
    let mut builder = Builder::new().transactional();
    builder.append(NOW, None, None);
    assert_eq!(refusal(&builder.build()).code, ErrorCode::InvalidRecord);
}

#[test]
fn a_refusal_of_many_records_is_bounded() {
    let mut builder = Builder::new();
    (0..5000).for_each(|_| {
        builder.append(NOW, None, None);
    });
    let refused = refusal_by(&builder.build(), &Rules { compacted: true, ..rules() });
    assert_eq!(refused.records.len(), RECORD_ERRORS_MAX);
    assert!(refused.message.starts_with("5000 of") && refused.message.len() < 500, "{refused}");
}
