//! Tests that span the module's files.

mod codecs;
mod hostile;
mod round;

use super::build::Builder;
use super::validate::Rules;
use super::view::{ATTRIBUTES_AT, Batch, CRC_AT};
use super::{Compression, stamp};
use crate::id::Millis;

const NOW: Millis = Millis(1_700_000_000_000);

/// A batch of `count` keyed records of about `value` bytes each, somewhat compressible.
fn sample(codec: Compression, count: usize, value: usize) -> Batch {
    let mut builder = Builder::new().compression(codec);
    for index in 0..count {
        let body: Vec<u8> = (0..value).map(|at| ((at * at + index) % 97) as u8).collect();
        builder.append(Millis(NOW.0 + index as i64), Some(&index.to_be_bytes()), Some(&body));
    }
    builder.build()
}

/// The batch with bytes changed and the checksum put right: what a careless or hostile producer sends.
fn forged(batch: &Batch, at: usize, with: &[u8]) -> Batch {
    let mut bytes = batch.bytes().to_vec();
    bytes[at..at + with.len()].copy_from_slice(with);
    stamp::seal(bytes)
}

/// A batch of `count` records whose record bytes are `records`, just as given.
fn raw(codec: Compression, count: i32, records: &[u8]) -> Batch {
    let mut bytes = Builder::new().compression(codec).build().bytes()[..super::view::HEADER_BYTES].to_vec();
    bytes.extend_from_slice(records);
    let length = (bytes.len() - 12) as i32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[super::view::LAST_OFFSET_DELTA_AT..][..4].copy_from_slice(&(count - 1).to_be_bytes());
    bytes[super::view::COUNT_AT..][..4].copy_from_slice(&count.to_be_bytes());
    stamp::seal(bytes)
}

fn rules() -> Rules {
    Rules::defaults(NOW)
}

/// Kafka's layout, where tests patch it.
const AT_CRC: usize = CRC_AT;
const AT_ATTRIBUTES: usize = ATTRIBUTES_AT;
