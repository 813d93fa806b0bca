//! Reading a partition's groups back: its records from the start of the log to the high watermark, replayed.
//!
//! A batch that is damaged, or a gap, ends it with an error: nothing is served from half a log. A record
//! whose key or value does not parse is passed over with an alarm, as one whose kind is not known is without.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidemark_proto::id::{Offset, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::text::Text;
use tidemark_proto::record::records::Records;
use tidemark_proto::record::view::{Batch, Batches};

use super::Log;
use crate::group::record;
use crate::group::state::Group;

/// Groups by id.
pub type Loaded = BTreeMap<Text, Group>;

/// Reads all of a partition.
pub async fn load(log: &dyn Log, tp: TopicPartition, bytes_max: usize) -> Result<Loaded, ErrorCode> {
    let mut groups = Loaded::new();
    let mut at = log.log_start(tp).await?;
    loop {
        let (bytes, end) = log.read(tp, at, bytes_max).await?;
        let next = replay(&mut groups, tp, at, bytes)?;
        if next >= end {
            groups.retain(|_, group| !group.is_nothing());
            return Ok(groups);
        }
        if next == at {
            tracing::error!(%tp, offset = %at, %end, "groups cannot be read back: the log does not go on here");
            return Err(ErrorCode::KafkaStorageError);
        }
        at = next;
    }
}

/// Replays the batches and returns the offset behind the last one.
fn replay(groups: &mut Loaded, tp: TopicPartition, from: Offset, bytes: Bytes) -> Result<Offset, ErrorCode> {
    let mut next = from;
    for batch in Batches::new(bytes) {
        let replayed = batch.and_then(|batch| {
            batch.verify_crc()?;
            let end = batch.next_offset();
            // Offsets of a transaction count when it commits; none are written yet.
            if !batch.is_control() && !batch.is_transactional() {
                replay_batch(groups, tp, from, &batch)?;
            }
            Ok(end)
        });
        next = replayed.map_err(|error| {
            tracing::error!(%tp, offset = %next, %error, "groups cannot be read back: a batch is damaged");
            ErrorCode::CorruptMessage
        })?;
    }
    Ok(next)
}

fn replay_batch(
    groups: &mut Loaded,
    tp: TopicPartition,
    from: Offset,
    batch: &Batch,
) -> Result<(), tidemark_proto::record::BatchError> {
    for record in Records::new(batch)? {
        let record = record?;
        let Some(key) = record.key.filter(|_| record.offset >= from) else { continue };
        match record::decode(key, record.value) {
            Ok(Some((group, change))) => groups.entry(group).or_default().replay(&change),
            Ok(None) => {}
            Err(error) => {
                tracing::error!(%tp, offset = %record.offset, %error, "a group record is passed over: it does not parse");
            }
        }
    }
    Ok(())
}
