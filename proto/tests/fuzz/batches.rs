//! Record batches: parse, validate, expand, look up. What passes validation must be readable by everyone.

use bytes::Bytes;
use tidemark_proto::id::{LeaderEpoch, Millis, Offset, ProducerEpoch, ProducerId};
use tidemark_proto::record::build::Builder;
use tidemark_proto::record::records::{Header, Records};
use tidemark_proto::record::stamp::{Stamped, recompressed};
use tidemark_proto::record::validate::{Rules, Validated, validate_entry};
use tidemark_proto::record::view::{Batch, Batches};
use tidemark_proto::record::{Compression, TimestampType, find_by_timestamp, max_timestamp};

use super::mutate::{Random, mutate};

const NOW: i64 = 1_700_000_000_000;
/// Small, so that a mutated stream that expands costs little.
const EXPANDED_MAX: usize = 1 << 20;

/// A few batches under each codec.
pub fn corpus() -> Vec<Bytes> {
    let mut corpus = Vec::new();
    for codec in Compression::ALL {
        for (count, value) in [(1, 0), (3, 20), (40, 100)] {
            let mut builder = Builder::new().compression(codec);
            if count == 3 {
                builder = builder.producer(ProducerId(9), ProducerEpoch(1), 0).transactional();
            }
            for index in 0..count {
                let body: Vec<u8> = (0..value).map(|at| (at * index % 31) as u8).collect();
                let header = Header { key: Bytes::from_static(b"trace"), value: Some(body.clone().into()) };
                builder.append_with(Millis(NOW + index), Some(b"key"), Some(&body), &[header]);
            }
            corpus.push(builder.build().bytes().clone());
        }
    }
    corpus
}

/// One mutated entry, most often with length and checksum put right so that the deep checks are reached.
pub fn round(random: &mut Random, corpus: &[Bytes]) {
    let mut bytes = random.pick(corpus).to_vec();
    let other = random.pick(corpus);
    if random.one_in(3) {
        mutate_records(random, &mut bytes, other);
    } else {
        mutate(random, &mut bytes, other);
    }
    if !random.one_in(8) {
        put_right(&mut bytes);
    }
    let bytes = Bytes::from(bytes);
    for batch in Batches::new(bytes.clone()).flatten() {
        let _ = (
            batch.verify_crc(),
            find_by_timestamp(&batch, Millis(NOW), batch.base_offset()),
            max_timestamp(&batch, batch.base_offset()),
        );
        if let Ok(records) = Records::bounded(&batch, EXPANDED_MAX) {
            assert!(records.take(100_000).count() < 100_000, "the decoder ends");
        }
    }
    let rules = Rules {
        max_decompressed_bytes: EXPANDED_MAX,
        compacted: random.one_in(2),
        timestamp_type: *random.pick(&[TimestampType::CreateTime, TimestampType::LogAppendTime]),
        ..Rules::defaults(Millis(NOW))
    };
    if let Ok(taken) = validate_entry(bytes, &rules) {
        is_readable(&taken, &rules);
    }
}

/// Leaves the header alone, and where the records are not compressed, hits their small fields.
fn mutate_records(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) {
    let mut records = bytes.split_off(61);
    mutate(random, &mut records, other);
    bytes.extend_from_slice(&records);
}

fn put_right(bytes: &mut [u8]) {
    if bytes.len() < 61 {
        return;
    }
    let length = (bytes.len() - 12) as i32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[16] = 2;
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
}

fn is_readable(taken: &Validated, rules: &Rules) {
    let batch = Stamped::new(&taken.batch, Offset(1000), LeaderEpoch(3)).to_batch();
    batch.verify_crc().expect("what is taken has a right checksum");
    assert_eq!(batch.timestamp_type(), rules.timestamp_type);
    assert!(taken.expanded <= EXPANDED_MAX);
    let mut max = Millis(-1);
    let mut count = 0;
    for (index, record) in Records::bounded(&batch, EXPANDED_MAX).expect("it expands").enumerate() {
        let record = record.expect("its records decode");
        assert_eq!(record.offset, Offset(1000 + index as i64), "offsets are dense");
        assert!(record.key.is_some() || !rules.compacted);
        max = max.max(record.timestamp);
        count += 1;
    }
    assert_eq!((count, max), (batch.count(), batch.max_timestamp()));
    assert_eq!(batch.next_offset(), Offset(1000 + i64::from(count)));
    let (offset, _) = max_timestamp(&batch, batch.base_offset()).expect("it walks").expect("it has records");
    assert!(offset >= batch.base_offset() && offset <= batch.last_offset());
    let again: Batch = recompressed(&batch, Compression::Lz4, None, EXPANDED_MAX).expect("it recompresses");
    assert_eq!(again.count(), batch.count());
}
