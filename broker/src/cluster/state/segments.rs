//! Decides the life of segments: who may name them, and when they may go (R18, R20).

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemark_proto::id::{BrokerEpoch, LeaderEpoch, Offset, TopicId, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_tiering::segment::{self, State};
use uuid::Uuid;

use super::super::command::{Outcome, Reply};
use super::super::image::{Image, Partition};
use super::super::record::Record;
use super::done;

/// Whether a topic may be configured like this. Compaction sees nothing of what lies in segments: a tombstone that it
/// drops above them would bring back what it deleted there.
pub(super) fn check_tiered(configs: &BTreeMap<String, String>, has_segments: bool) -> Result<(), String> {
    let is_tiered = has_segments || configs.get("remote.storage.enable").is_some_and(|v| v == "true");
    match is_tiered && is_compacted(configs) {
        true if has_segments => Err("cleanup.policy: what lies in segments cannot be compacted".to_owned()),
        true => Err("remote.storage.enable=true goes with cleanup.policy=delete only".to_owned()),
        false => Ok(()),
    }
}

fn is_compacted(configs: &BTreeMap<String, String>) -> bool {
    configs.get("cleanup.policy").is_some_and(|policy| policy.contains("compact"))
}

impl Image {
    /// The same of a topic whose settings become `set`.
    pub(super) fn check_tiered_with(
        &self,
        topic: TopicId,
        set: &[(String, Option<String>)],
    ) -> Result<(), String> {
        let Some(topic) = self.topic(topic) else { return Ok(()) };
        let mut configs = topic.configs.clone();
        for (key, value) in set {
            match value {
                Some(value) => configs.insert(key.clone(), value.clone()),
                None => configs.remove(key),
            };
        }
        check_tiered(&configs, topic.partitions.iter().any(|p| p.segments.is_some()))
    }

    /// Only the partition's leader, under its epoch; only what goes on where the last one ends: so no two overlap, and
    /// none is of a log that somebody else went on with.
    pub(super) fn commit_segments(
        &self,
        by: BrokerEpoch,
        of: TopicPartition,
        leader_epoch: LeaderEpoch,
        rows: &[segment::Row],
    ) -> Result<Outcome, ErrorCode> {
        let partition = self.led_partition(by, of, leader_epoch)?;
        if self.topic(of.topic).is_some_and(|topic| is_compacted(&topic.configs)) {
            return Err(ErrorCode::InvalidConfig); // since it was read
        }
        if !rows.is_empty()
            && rows.iter().all(|row| partition.segments().iter().any(|known| known.id == row.id))
        {
            return Ok(Outcome::reply(Reply::Done)); // sent twice
        }
        let mut end = partition.tiered();
        for row in rows {
            // Between segments nothing may lie that can be read.
            let end_or_start = end.unwrap_or_default().max(partition.log_start);
            let follows =
                end == Some(row.base) || (row.base <= end_or_start && end.is_none_or(|end| row.base > end));
            // What lies below the log start may have been forgotten already: it is not named again.
            let wanted = row.last >= row.base.max(partition.log_start) && row.base >= Offset(0);
            let whole = wanted && row.bytes > 0 && row.state == State::CopyFinished;
            if !follows || !whole || row.epochs.iter().any(|(epoch, _)| *epoch > leader_epoch) {
                return Err(ErrorCode::InvalidRequest);
            }
            end = Some(row.last.plus(1));
        }
        Ok(done(vec![Record::SegmentsCommitted { of, rows: rows.to_vec() }]))
    }

    /// Only what lies whole below the log start: nothing that can be read is ever deleted.
    pub(super) fn retire_segments(
        &self,
        by: BrokerEpoch,
        of: TopicPartition,
        leader_epoch: LeaderEpoch,
        ids: &[Uuid],
    ) -> Result<Outcome, ErrorCode> {
        let partition = self.led_partition(by, of, leader_epoch)?;
        let mut retired = Vec::new();
        for row in partition.segments().iter().filter(|row| ids.contains(&row.id)) {
            if row.last >= partition.log_start {
                return Err(ErrorCode::InvalidRequest);
            }
            if row.state.is_readable() {
                retired.push(row.id);
            }
        }
        let record = (!retired.is_empty()).then_some(Record::SegmentsRetired { of, ids: retired });
        Ok(done(record.into_iter().collect()))
    }

    /// Whoever saw the last object go may say so; of a segment whose deletion has not begun nobody can have.
    pub(super) fn forget_segments(&self, of: TopicPartition, ids: &[Uuid]) -> Vec<Record> {
        let gone = |row: &&Arc<segment::Row>| ids.contains(&row.id) && row.state == State::DeleteStarted;
        let ids: Vec<Uuid> = self.segments(of).iter().filter(gone).map(|row| row.id).collect();
        (!ids.is_empty()).then_some(Record::SegmentsForgotten { of, ids }).into_iter().collect()
    }

    fn led_partition(
        &self,
        by: BrokerEpoch,
        of: TopicPartition,
        leader_epoch: LeaderEpoch,
    ) -> Result<&Partition, ErrorCode> {
        let sender = self.sender(by)?;
        let partition = self.partition(of).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        match partition.leader == Some(sender.node) && partition.leader_epoch == leader_epoch {
            true => Ok(partition),
            false => Err(ErrorCode::FencedLeaderEpoch),
        }
    }
}
