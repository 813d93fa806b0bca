//! Decides on replacing runs: of two who work on the same ones, one wins; the other's objects are never named (R18).

use std::collections::BTreeSet;

use tidemark_proto::id::{BrokerEpoch, Offset, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;
use uuid::Uuid;

use super::super::command::{Outcome, Reply};
use super::super::image::{Image, RunRow};
use super::super::record::{Carried, Record};

impl Image {
    /// Ids are never used again, so a command whose dropped runs are all named has not been carried out before; one
    /// that is sent twice is refused, and its sender looks at what the image names. Starts and states of partitions that
    /// are gone are left out.
    pub(super) fn replace_runs(
        &self,
        by: BrokerEpoch,
        (drop, add): (&[Uuid], &[RunRow]),
        starts: &[(TopicPartition, Offset)],
        carried: Option<&Carried>,
        cleaned: &[(TopicPartition, Offset)],
    ) -> Result<Outcome, ErrorCode> {
        self.sender(by)?;
        let distinct: BTreeSet<&Uuid> = drop.iter().collect();
        if distinct.len() != drop.len() || !drop.iter().all(|id| self.runs.contains_key(id)) {
            return Err(ErrorCode::InvalidUpdateVersion);
        }
        // What is added stands for what is dropped: it covers no later version and adds nothing of its own.
        let covers = drop.iter().filter_map(|id| self.run(*id)).map(|run| run.committed).max();
        let known = add.iter().any(|run| self.runs.contains_key(&run.id) || Some(run.committed) != covers);
        if known || carried.is_some_and(|c| c.row.committed > self.version()) {
            return Err(ErrorCode::InvalidRequest);
        }
        let lives = |tp: &TopicPartition| self.partition(*tp);
        let rises = |(tp, to): &&(TopicPartition, Offset)| lives(tp).is_some_and(|p| p.log_start < *to);
        let starts: Vec<_> = starts.iter().filter(rises).copied().collect();
        let further = |(tp, to): &&(TopicPartition, Offset)| lives(tp).is_some_and(|p| p.cleaned < *to);
        let cleaned: Vec<_> = cleaned.iter().filter(further).copied().collect();
        if drop.is_empty() && starts.is_empty() {
            return Ok(Outcome::reply(Reply::Done));
        }
        let record = Record::RunsReplaced {
            drop: drop.to_vec(),
            add: add.to_vec(),
            starts,
            carried: carried.cloned(),
            cleaned,
        };
        Ok(Outcome { records: vec![record], reply: Reply::Done })
    }
}
