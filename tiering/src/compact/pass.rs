//! One pass over one partition: first the survey of what is dirty, then a verdict for every batch, both in order.
//!
//! The rules are Kafka's. Of committed records, one with a later record of its key is dropped, and one without a key; an
//! aborted batch is dropped whole and shadows nothing. What deletes a key (a null value), and the marker of a
//! transaction of which nothing is left, are stamped with a delete horizon when they are first met, and dropped by a pass
//! after it (KIP-534). The last batch of a producer stays, if need be without records, and so do the first and the
//! last of what is rewritten. Markers that abort stay: who reads committed records is told of the aborted transaction for as
//! long as the log's state names it, and must meet its end.

use std::collections::{BTreeMap, BTreeSet};

use tidemark_proto::id::{Millis, Offset, ProducerId};
use tidemark_proto::record::build::Builder;
use tidemark_proto::record::control::{EndMarker, Outcome};
use tidemark_proto::record::records::{Record, Records};
use tidemark_proto::record::view::Batch;
use tidemark_proto::record::{BatchError, TimestampType};

use super::newest::Newest;
use crate::planted::{self, Bug};

/// A transaction that was aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted {
    /// Whose.
    pub producer: ProducerId,
    /// Offset of its first record.
    pub first: Offset,
    /// Offset of the marker that ended it.
    pub marker: Offset,
}

/// What a pass goes by.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// The time.
    pub now: Millis,
    /// `delete.retention.ms`.
    pub delete_retention_ms: i64,
    /// All aborted transactions that end below what is surveyed.
    pub aborted: Vec<Aborted>,
    /// Where the last batch of each known producer ends.
    pub last_of: BTreeMap<ProducerId, Offset>,
}

/// What becomes of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It stays as it is.
    Whole,
    /// This stands for it, over the same offsets.
    Rewritten(Batch),
    /// Nothing.
    Gone,
}

/// See the module.
#[derive(Debug)]
pub struct Pass {
    newest: Newest,
    /// What begins here or above is left as it is.
    upto: Offset,
    now: Millis,
    horizon: Millis,
    /// By producer, the first offset and the marker of its aborted transactions, by marker.
    aborted: BTreeMap<ProducerId, Vec<(Offset, Offset)>>,
    last_of: BTreeMap<ProducerId, Offset>,
    /// Producers of which a batch was left since their last marker.
    open: BTreeSet<ProducerId>,
}

impl Pass {
    /// A pass whose survey begins at `from` and takes at most `bytes` of memory.
    pub fn new(terms: Terms, from: Offset, bytes: usize) -> Pass {
        let Terms { now, delete_retention_ms, aborted, last_of } = terms;
        let mut of: BTreeMap<ProducerId, Vec<(Offset, Offset)>> = BTreeMap::new();
        for txn in aborted {
            of.entry(txn.producer).or_default().push((txn.first, txn.marker));
        }
        of.values_mut().for_each(|txns| txns.sort_unstable_by_key(|(_, marker)| *marker));
        Pass {
            newest: Newest::within(bytes),
            upto: from,
            now,
            horizon: Millis(now.0.saturating_add(delete_retention_ms)),
            aborted: of,
            last_of,
            open: BTreeSet::new(),
        }
    }

    /// Where the survey has come to: what begins here or above is left as it is.
    pub fn upto(&self) -> Offset {
        self.upto
    }

    /// Bytes of memory that the survey takes.
    pub fn bytes(&self) -> usize {
        self.newest.bytes()
    }

    /// Takes in the next batch that is dirty; false where there is no room for it, and the survey is over. The first
    /// is always taken, so that passes get on.
    ///
    /// # Errors
    /// Where its records cannot be read.
    pub fn survey(&mut self, batch: &Batch) -> Result<bool, BatchError> {
        if !batch.is_control() && !self.is_aborted(batch) {
            let count = usize::try_from(batch.count()).unwrap_or(0);
            if !self.newest.has_room(count) && !self.newest.is_empty() {
                return Ok(false);
            }
            for record in Records::new(batch)? {
                let record = record?;
                if let Some(key) = &record.key {
                    self.newest.put(key, record.offset);
                }
            }
        }
        self.upto = self.upto.max(batch.next_offset());
        Ok(true)
    }

    /// What becomes of the next batch, from the front of the log on. `edge`: it is the first of what lies side by
    /// side, and its offsets are to be found there afterwards; likewise those of the last one below where the survey ended.
    ///
    /// # Errors
    /// Where its records cannot be read.
    pub fn judge(&mut self, batch: &Batch, edge: bool) -> Result<Kept, BatchError> {
        if batch.base_offset() >= self.upto {
            return Ok(Kept::Whole);
        }
        let edge = edge || batch.next_offset() >= self.upto;
        if batch.is_control() {
            return self.judge_marker(batch, edge);
        }
        let aborted = self.is_aborted(batch);
        let (mut kept, mut deletes): (Vec<Record>, bool) = (Vec::new(), false);
        if !aborted {
            for record in Records::new(batch)? {
                let record = record?;
                if self.keeps(batch, &record) {
                    deletes |= record.value.is_none();
                    kept.push(record);
                }
            }
        }
        let stamps = deletes && batch.delete_horizon().is_none();
        let all = kept.len() == usize::try_from(batch.count()).unwrap_or(0);
        let verdict = if kept.is_empty() {
            self.emptied(batch, edge)
        } else if all && !stamps {
            Kept::Whole
        } else {
            Kept::Rewritten(rebuilt(batch, &kept, stamps.then_some(self.horizon))?)
        };
        if batch.is_transactional() && verdict != Kept::Gone {
            self.open.insert(batch.producer_id());
        }
        Ok(verdict)
    }

    fn keeps(&self, batch: &Batch, record: &Record) -> bool {
        let Some(key) = &record.key else { return false };
        let newest = self.newest.get(key);
        let superseded = match planted::is(Bug::NewestDropped) {
            true => newest.is_some_and(|newest| newest >= record.offset),
            false => newest.is_some_and(|newest| newest > record.offset),
        };
        let over = || batch.delete_horizon().is_some_and(|horizon| horizon <= self.now);
        !superseded && (record.value.is_some() || !over())
    }

    fn judge_marker(&mut self, batch: &Batch, edge: bool) -> Result<Kept, BatchError> {
        if batch.count() == 0 {
            return Ok(self.emptied(batch, edge));
        }
        let Some(marker) = EndMarker::read(batch)? else { return Ok(Kept::Whole) };
        let spent = !self.open.remove(&batch.producer_id());
        if marker.outcome == Outcome::Abort || !spent {
            return Ok(Kept::Whole);
        }
        match batch.delete_horizon() {
            None => {
                let records = Records::new(batch)?.collect::<Result<Vec<_>, _>>()?;
                Ok(Kept::Rewritten(rebuilt(batch, &records, Some(self.horizon))?))
            }
            Some(horizon) if horizon <= self.now => Ok(self.emptied(batch, edge)),
            Some(_) => Ok(Kept::Whole),
        }
    }

    /// A batch without records: it stays where somebody counts on its offsets.
    fn emptied(&self, batch: &Batch, edge: bool) -> Kept {
        let last = batch.has_producer_id()
            && self.last_of.get(&batch.producer_id()).is_some_and(|last| *last == batch.last_offset());
        match (edge || last, batch.count()) {
            (false, _) => Kept::Gone,
            (true, 0) => Kept::Whole,
            (true, _) => Kept::Rewritten(empty(batch)),
        }
    }

    fn is_aborted(&self, batch: &Batch) -> bool {
        let Some(txns) = self.aborted.get(&batch.producer_id()).filter(|_| batch.is_transactional()) else {
            return false;
        };
        let next = txns.partition_point(|(_, marker)| *marker < batch.base_offset());
        !batch.is_control() && txns.get(next).is_some_and(|(first, _)| *first <= batch.base_offset())
    }
}

/// A batch over the same offsets, of the same producer, under the same leader epoch.
fn like(batch: &Batch) -> Builder {
    let builder =
        Builder::new().base_offset(batch.base_offset()).leader_epoch(batch.partition_leader_epoch());
    let producer = (batch.producer_id(), batch.producer_epoch(), batch.base_sequence());
    let builder = builder.producer(producer.0, producer.1, producer.2);
    let builder = if batch.is_transactional() { builder.transactional() } else { builder };
    if batch.is_control() { builder.control() } else { builder }
}

fn rebuilt(batch: &Batch, records: &[Record], horizon: Option<Millis>) -> Result<Batch, BatchError> {
    let mut builder = like(batch).compression(batch.compression()?);
    builder = match horizon.or(batch.delete_horizon()) {
        Some(horizon) => builder.delete_horizon(horizon),
        None => builder.base_timestamp(batch.base_timestamp()),
    };
    if batch.timestamp_type() == TimestampType::LogAppendTime {
        builder = builder.append_time(batch.max_timestamp());
    }
    for record in records {
        builder.keep(record);
    }
    builder.span_to(batch.last_offset());
    Ok(builder.build())
}

/// It tells no time: look-ups by time find records.
fn empty(batch: &Batch) -> Batch {
    let mut builder = like(batch);
    builder.span_to(batch.last_offset());
    builder.build()
}
