//! Batches encoded before the run: a few templates, of which a numbered batch is a copy with its header
//! stamped. The number is in the base timestamp, so that what was read back can be told and compared whole,
//! compressed or not. Needs a topic that keeps the client's timestamps.

use anyhow::{Result, ensure};
use bytes::{Bytes, BytesMut};
use clap::ValueEnum;
use tidemark_proto::id::Millis;
use tidemark_proto::record;
use tidemark_proto::record::build::Builder;
use tidemark_proto::record::view::Batch;
use tidemark_tiering::seam::Entropy;

const TEMPLATES: usize = 16;

// Where a version 2 batch's header has what is stamped.
const CRC_AT: usize = 17;
const CRC_FROM: usize = 21;
const BASE_TIMESTAMP_AT: usize = 27;
const MAX_TIMESTAMP_AT: usize = 35;
const PRODUCER_ID_AT: usize = 43;
const PRODUCER_EPOCH_AT: usize = 51;
const BASE_SEQUENCE_AT: usize = 53;

/// How records are compressed.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Codec {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl From<Codec> for record::Compression {
    fn from(codec: Codec) -> record::Compression {
        match codec {
            Codec::None => record::Compression::None,
            Codec::Gzip => record::Compression::Gzip,
            Codec::Snappy => record::Compression::Snappy,
            Codec::Lz4 => record::Compression::Lz4,
            Codec::Zstd => record::Compression::Zstd,
        }
    }
}

/// The templates of a run.
#[derive(Clone, Debug)]
pub struct Batches {
    templates: Vec<Batch>,
    epoch: i64,
    producer: Option<(i64, i16)>,
}

impl Batches {
    /// Batches of records of `record_bytes`, about `batch_bytes` before compression; numbers count
    /// milliseconds from `epoch`.
    pub fn build(
        record_bytes: usize,
        batch_bytes: usize,
        codec: Codec,
        epoch: Millis,
        producer: Option<(i64, i16)>,
        entropy: &Entropy,
    ) -> Batches {
        let template = |_| {
            let mut builder = Builder::new().compression(codec.into());
            while builder.is_empty() || builder.size() + record_bytes <= batch_bytes {
                builder.append(epoch, None, Some(&value(record_bytes, entropy)));
            }
            builder.build()
        };
        Batches { templates: (0..TEMPLATES).map(template).collect(), epoch: epoch.0, producer }
    }

    /// Records in a batch.
    pub fn records(&self) -> u32 {
        self.templates[0].count().unsigned_abs()
    }

    /// Bytes of a batch on the wire, in the mean.
    pub fn bytes(&self) -> usize {
        self.templates.iter().map(Batch::size).sum::<usize>() / self.templates.len()
    }

    fn template(&self, number: u64) -> &Batch {
        &self.templates[(number % TEMPLATES as u64) as usize]
    }

    /// The `number`-th batch of a partition. The same number gives the same bytes.
    pub fn stamped(&self, number: u64) -> Bytes {
        let template = self.template(number);
        let mut bytes = BytesMut::from(&template.bytes()[..]);
        let timestamp = (self.epoch + number as i64).to_be_bytes();
        bytes[BASE_TIMESTAMP_AT..BASE_TIMESTAMP_AT + 8].copy_from_slice(&timestamp);
        bytes[MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8].copy_from_slice(&timestamp);
        if let Some((id, epoch)) = self.producer {
            let sequence = (number * u64::from(self.records()) % (1 << 31)) as i32;
            bytes[PRODUCER_ID_AT..PRODUCER_ID_AT + 8].copy_from_slice(&id.to_be_bytes());
            bytes[PRODUCER_EPOCH_AT..PRODUCER_EPOCH_AT + 2].copy_from_slice(&epoch.to_be_bytes());
            bytes[BASE_SEQUENCE_AT..BASE_SEQUENCE_AT + 4].copy_from_slice(&sequence.to_be_bytes());
        }
        let crc = crc32c::crc32c(&bytes[CRC_FROM..]);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
        bytes.freeze()
    }

    /// Which batch of ours this is.
    pub fn number(&self, batch: &Batch) -> Option<u64> {
        u64::try_from(batch.base_timestamp().0.checked_sub(self.epoch)?).ok()
    }

    /// Checks that every byte under the checksum, records and all, is as it was sent.
    pub fn check(&self, batch: &Batch) -> Result<u64> {
        let number = self.number(batch);
        let ours = number.map(|n| self.stamped(n));
        let same = ours.is_some_and(|ours| ours[CRC_AT..] == batch.bytes()[CRC_AT..]);
        ensure!(
            same && batch.verify_crc().is_ok(),
            "offset {} holds a batch that was not sent",
            batch.base_offset().0
        );
        Ok(number.unwrap_or_default())
    }
}

/// Half random, half repeating: compresses to about a half, as logs and events do.
fn value(bytes: usize, entropy: &Entropy) -> Vec<u8> {
    let mut value = Vec::with_capacity(bytes + 16);
    while value.len() < bytes {
        value.extend_from_slice(&entropy.u64().to_le_bytes());
        value.extend_from_slice(b"tidemark");
    }
    value.truncate(bytes);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(codec: Codec) -> Batches {
        Batches::build(100, 4000, codec, Millis(1_000_000), Some((7, 3)), &Entropy::seeded(1))
    }

    #[test]
    fn a_stamped_batch_is_valid_and_known_again() {
        for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let batches = batches(codec);
            let batch = Batch::parse(batches.stamped(21)).unwrap();
            batch.verify_crc().unwrap();
            assert_eq!((batch.producer_id().0, batch.producer_epoch().0), (7, 3));
            assert_eq!(batch.base_sequence(), 21 * batch.count());
            assert_eq!(batches.check(&batch).unwrap(), 21);
        }
    }

    #[test]
    fn another_batch_is_refused() {
        let batches = batches(Codec::None);
        let mut damaged = batches.stamped(5).to_vec();
        *damaged.last_mut().unwrap() ^= 1;
        assert!(batches.check(&Batch::parse(damaged.into()).unwrap()).is_err());
        let foreign = Builder::new().append(Millis(3), None, Some(b"x")).build();
        assert!(batches.check(&foreign).is_err());
    }

    #[test]
    fn sequences_wrap_as_kafka_counts() {
        let batches = batches(Codec::None);
        let per_batch = u64::from(batches.records());
        let number = (1 << 31) / per_batch + 1;
        let batch = Batch::parse(batches.stamped(number)).unwrap();
        assert_eq!(u64::try_from(batch.base_sequence()).unwrap(), number * per_batch - (1 << 31));
    }
}
