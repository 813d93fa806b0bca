//! Producers and aborted transactions as Kafka keeps them beside a segment: the producer snapshot and the transaction index.
//!
//! Both follow from the batches alone, so whoever builds a segment folds them as it goes. Pure.

use std::collections::BTreeMap;

use tidemark_proto::id::{Millis, Offset, ProducerEpoch, ProducerId};
use tidemark_proto::record::control::{EndMarker, Outcome};
use tidemark_proto::record::view::Batch;

use crate::format::Damage;
use crate::format::scan::Scan;

const VERSION: i16 = 1;
/// Bytes of a producer in the snapshot.
const PRODUCER: usize = 46;
/// Bytes of an aborted transaction in the transaction index.
const ABORTED: usize = 34;
/// Kafka's sign for no sequence, no offset, no coordinator epoch.
const NONE: i32 = -1;

/// What Kafka's snapshot says of one producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    /// Its epoch.
    pub epoch: ProducerEpoch,
    /// Sequence of its last record, -1 if none.
    pub last_sequence: i32,
    /// Offset of its last record, -1 if none.
    pub last_offset: Offset,
    /// Last offset of its last batch less the first.
    pub offset_delta: i32,
    /// Time of its last batch.
    pub timestamp: Millis,
    /// Epoch of the coordinator that last ended a transaction of it, -1 if none.
    pub coordinator_epoch: i32,
    /// First offset of its open transaction.
    pub open_txn: Option<Offset>,
}

/// An aborted transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted {
    /// Whose.
    pub producer: ProducerId,
    /// Offset of its first record.
    pub first: Offset,
    /// Offset of the marker that ended it.
    pub marker: Offset,
    /// The last stable offset once it had ended.
    pub stable: Offset,
}

/// All producers of a partition as of some offset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Producers(BTreeMap<ProducerId, Producer>);

impl Producers {
    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = (ProducerId, &Producer)> {
        self.0.iter().map(|(id, producer)| (*id, producer))
    }

    /// Takes the next batch of the log; gives the transaction that it aborts.
    ///
    /// # Errors
    /// Where a marker cannot be read.
    pub fn apply(&mut self, batch: &Batch) -> Result<Option<Aborted>, Damage> {
        if !batch.has_producer_id() {
            return Ok(None);
        }
        if batch.is_control() {
            let end = EndMarker::read(batch).map_err(|error| Damage::new(error.to_string()))?;
            return Ok(end.and_then(|end| self.end(end, batch)));
        }
        let known = self.0.get(&batch.producer_id());
        let open = known.and_then(|producer| producer.open_txn);
        let open_txn = if batch.is_transactional() { open.or(Some(batch.base_offset())) } else { open };
        let producer = Producer {
            epoch: batch.producer_epoch(),
            last_sequence: batch.last_sequence(),
            last_offset: batch.last_offset(),
            offset_delta: batch.last_offset_delta(),
            timestamp: batch.max_timestamp(),
            coordinator_epoch: known.map_or(NONE, |producer| producer.coordinator_epoch),
            open_txn,
        };
        self.0.insert(batch.producer_id(), producer);
        Ok(None)
    }

    fn end(&mut self, end: EndMarker, batch: &Batch) -> Option<Aborted> {
        let fresh = Producer {
            epoch: end.epoch,
            last_sequence: NONE,
            last_offset: Offset(i64::from(NONE)),
            offset_delta: 0,
            timestamp: batch.max_timestamp(),
            coordinator_epoch: end.coordinator_epoch,
            open_txn: None,
        };
        let known = self.0.entry(end.producer).or_insert(fresh);
        let open = known.open_txn;
        *known = match known.epoch == end.epoch {
            true => Producer {
                timestamp: fresh.timestamp,
                open_txn: None,
                coordinator_epoch: end.coordinator_epoch,
                ..*known
            },
            false => fresh,
        };
        let (first, marker) = (open.filter(|_| end.outcome == Outcome::Abort)?, batch.last_offset());
        let stable = self.0.values().filter_map(|producer| producer.open_txn).min();
        Some(Aborted { producer: end.producer, first, marker, stable: stable.unwrap_or(marker.plus(1)) })
    }

    /// Forgets producers that wrote nothing since `before`, and beyond `most` those idle longest. Open transactions stay.
    pub fn expire(&mut self, before: Millis, most: usize) {
        self.0.retain(|_, producer| producer.open_txn.is_some() || producer.timestamp >= before);
        let Some(excess) = self.0.len().checked_sub(most).filter(|excess| *excess > 0) else { return };
        let idle = self.0.iter().filter(|(_, producer)| producer.open_txn.is_none());
        let mut idle: Vec<_> = idle.map(|(id, producer)| (producer.timestamp, *id)).collect();
        idle.sort_unstable();
        for (_, id) in idle.into_iter().take(excess) {
            self.0.remove(&id);
        }
    }

    /// Kafka's `.snapshot` file.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(4 + self.0.len() * PRODUCER);
        body.extend_from_slice(&(self.0.len() as i32).to_be_bytes());
        for (id, producer) in &self.0 {
            body.extend_from_slice(&id.0.to_be_bytes());
            body.extend_from_slice(&producer.epoch.0.to_be_bytes());
            body.extend_from_slice(&producer.last_sequence.to_be_bytes());
            body.extend_from_slice(&producer.last_offset.0.to_be_bytes());
            body.extend_from_slice(&producer.offset_delta.to_be_bytes());
            body.extend_from_slice(&producer.timestamp.0.to_be_bytes());
            body.extend_from_slice(&producer.coordinator_epoch.to_be_bytes());
            body.extend_from_slice(&producer.open_txn.map_or(-1, |first| first.0).to_be_bytes());
        }
        let mut out = VERSION.to_be_bytes().to_vec();
        out.extend_from_slice(&crc32c::crc32c(&body).to_be_bytes());
        out.extend_from_slice(&body);
        out
    }

    /// The inverse of [`Self::encode`].
    ///
    /// # Errors
    /// Where it is not such a file, or damaged.
    pub fn parse(bytes: &[u8]) -> Result<Producers, Damage> {
        let bad = |why: &str| Damage::new(format!("producer snapshot: {why}"));
        let mut scan = Scan::new(bytes);
        if scan.i16()? != VERSION {
            return Err(bad("not of version 1"));
        }
        let (crc, body) = (scan.u32()?, bytes.get(6..).unwrap_or_default());
        if crc32c::crc32c(body) != crc {
            return Err(bad("its CRC32C is wrong"));
        }
        let count = scan.count(PRODUCER)?;
        let mut producers = Producers::default();
        for _ in 0..count {
            let id = ProducerId(scan.i64()?);
            let producer = Producer {
                epoch: ProducerEpoch(scan.i16()?),
                last_sequence: scan.i32()?,
                last_offset: Offset(scan.i64()?),
                offset_delta: scan.i32()?,
                timestamp: Millis(scan.i64()?),
                coordinator_epoch: scan.i32()?,
                open_txn: Some(Offset(scan.i64()?)).filter(|first| first.0 >= 0),
            };
            if producers.0.insert(id, producer).is_some() {
                return Err(bad("a producer stands twice"));
            }
        }
        scan.end()?;
        Ok(producers)
    }
}

/// Kafka's `.txnindex` file.
pub fn encode_aborted(aborted: &[Aborted]) -> Vec<u8> {
    let mut out = Vec::with_capacity(aborted.len() * ABORTED);
    for txn in aborted {
        out.extend_from_slice(&0i16.to_be_bytes());
        out.extend_from_slice(&txn.producer.0.to_be_bytes());
        out.extend_from_slice(&txn.first.0.to_be_bytes());
        out.extend_from_slice(&txn.marker.0.to_be_bytes());
        out.extend_from_slice(&txn.stable.0.to_be_bytes());
    }
    out
}

/// The inverse of [`encode_aborted`].
///
/// # Errors
/// Where it is not such a file, or its transactions do not follow each other.
pub fn parse_aborted(bytes: &[u8]) -> Result<Vec<Aborted>, Damage> {
    let bad = |why: &str| Damage::new(format!("transaction index: {why}"));
    if !bytes.len().is_multiple_of(ABORTED) {
        return Err(bad("ends within an entry"));
    }
    let mut scan = Scan::new(bytes);
    let mut aborted: Vec<Aborted> = Vec::with_capacity(bytes.len() / ABORTED);
    for _ in 0..bytes.len() / ABORTED {
        if scan.i16()? != 0 {
            return Err(bad("an entry is not of version 0"));
        }
        let producer = ProducerId(scan.i64()?);
        let (first, marker, stable) = (Offset(scan.i64()?), Offset(scan.i64()?), Offset(scan.i64()?));
        if first.0 < 0 || marker < first || aborted.last().is_some_and(|last| last.marker >= marker) {
            return Err(bad("offsets do not rise"));
        }
        aborted.push(Aborted { producer, first, marker, stable });
    }
    Ok(aborted)
}
