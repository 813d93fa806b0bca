//! Decides how far a partition's log start rises: only for its leader, never down.

use tidemark_proto::id::{BrokerEpoch, LeaderEpoch, Offset, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;

use super::super::command::{Outcome, Reply};
use super::super::image::Image;
use super::super::record::Record;

impl Image {
    /// Partitions that the sender does not lead any more, or under another epoch, are passed over: their rows say so.
    pub(super) fn move_log_starts(
        &self,
        by: BrokerEpoch,
        starts: &[(TopicPartition, LeaderEpoch, Offset)],
    ) -> Result<Outcome, ErrorCode> {
        let sender = self.sender(by)?;
        let (mut moved, mut rows) = (Vec::new(), Vec::with_capacity(starts.len()));
        for (tp, leader_epoch, offset) in starts {
            let led = self
                .partition(*tp)
                .filter(|p| p.leader == Some(sender.node) && p.leader_epoch == *leader_epoch);
            if led.is_some_and(|p| p.log_start < *offset) {
                moved.push((*tp, *offset));
            }
            rows.push(led.is_some());
        }
        let records = match moved.is_empty() {
            true => Vec::new(),
            false => vec![Record::LogStartsMoved { starts: moved }],
        };
        Ok(Outcome { records, reply: Reply::Moved(rows) })
    }
}
