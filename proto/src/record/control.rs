//! End-of-transaction markers: the control records that commit or abort what a producer wrote.

use bytes::Bytes;

use super::BatchError;
use super::build::Builder;
use super::records::Records;
use super::view::Batch;
use crate::id::{Millis, ProducerEpoch, ProducerId};

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Its records never happened.
    Abort,
    /// Its records count.
    Commit,
}

/// A marker, as its batch tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndMarker {
    /// How it ended.
    pub outcome: Outcome,
    /// Whose transaction.
    pub producer: ProducerId,
    /// Under which producer epoch.
    pub epoch: ProducerEpoch,
    /// Epoch of the coordinator that wrote it.
    pub coordinator_epoch: i32,
}

impl EndMarker {
    /// The batch of one control record that says so.
    pub fn to_batch(self, now: Millis) -> Batch {
        let kind: i16 = match self.outcome {
            Outcome::Abort => 0,
            Outcome::Commit => 1,
        };
        let mut key = [0; 4];
        key[2..].copy_from_slice(&kind.to_be_bytes());
        let mut value = [0; 6];
        value[2..].copy_from_slice(&self.coordinator_epoch.to_be_bytes());
        Builder::new()
            .producer(self.producer, self.epoch, -1)
            .transactional()
            .control()
            .append(now, Some(&key), Some(&value))
            .build()
    }

    /// Reads a control batch; `None` when its first record is of another control type.
    pub fn read(batch: &Batch) -> Result<Option<EndMarker>, BatchError> {
        if !batch.is_control() {
            return Ok(None);
        }
        let Some(record) = Records::new(batch)?.next().transpose()? else { return Ok(None) };
        let outcome = match kind(record.key.as_ref()) {
            Some(0) => Outcome::Abort,
            Some(1) => Outcome::Commit,
            _ => return Ok(None),
        };
        // Version 0 and later both begin {version i16, coordinator epoch i32}.
        let epoch = record.value.as_ref().and_then(|value| value.get(2..6)?.try_into().ok());
        let epoch =
            epoch.ok_or(BatchError::Record { index: 0, why: "marker without a coordinator epoch" })?;
        Ok(Some(EndMarker {
            outcome,
            producer: batch.producer_id(),
            epoch: batch.producer_epoch(),
            coordinator_epoch: i32::from_be_bytes(epoch),
        }))
    }
}

/// The type in a control record's key {version i16, type i16}.
fn kind(key: Option<&Bytes>) -> Option<i16> {
    Some(i16::from_be_bytes(key?.get(2..4)?.try_into().ok()?))
}
