//! Decides a cut: who may raise a lane's low mark, and how far (R18, R19); and when a lane's row may go.

use tidemark_proto::id::{BrokerEpoch, LaneId, Seq};
use tidemark_proto::kafka::error::ErrorCode;

use super::super::command::{Outcome, Reply};
use super::super::image::{CheckpointRow, Image, RunRow};
use super::super::record::Record;

pub(super) struct Cut {
    pub by: BrokerEpoch,
    pub lane: LaneId,
    pub low: Seq,
    pub version: u64,
}

impl Image {
    pub(super) fn commit_cut(
        &self,
        cut: Cut,
        runs: &[RunRow],
        checkpoint: Option<&CheckpointRow>,
    ) -> Result<Outcome, ErrorCode> {
        let Cut { by, lane, low, version } = cut;
        let row = self.lane(lane).ok_or(ErrorCode::StaleBrokerEpoch)?;
        // A zombie's cut: its lane is sealed, or its epoch is not the recoverer's (R14, R18).
        let sender = self.sender(by)?;
        let allowed = match row.sealed {
            None => lane.epoch == by,
            Some(_) => row.recoverer == Some(sender.node),
        };
        if !allowed {
            return Err(ErrorCode::StaleBrokerEpoch);
        }
        if low < row.low || row.sealed.is_some_and(|at| low > at) || version > self.version() {
            return Err(ErrorCode::InvalidUpdateVersion);
        }
        let known = runs.iter().any(|run| self.runs.contains_key(&run.id));
        // What it named may be replaced by now; nobody but its owner raises the mark of a lane that lives.
        let own = row.sealed.is_none() && low > Seq(0);
        if (known || runs.is_empty() || own) && low == row.low {
            return Ok(Outcome::reply(Reply::Done)); // sent twice
        }
        let foreign = checkpoint.is_some_and(|c| c.lane != lane || c.upto != low);
        // Parcels below the low mark are in runs already: a cut of them again would double them.
        let again =
            runs.iter().flat_map(|run| &run.lanes).any(|(of, from, _)| *of == lane && *from < row.low);
        if low == row.low || known || foreign || again {
            return Err(ErrorCode::InvalidRequest);
        }
        let (runs, checkpoint) = (runs.to_vec(), checkpoint.cloned());
        let record = Record::CutCommitted { lane, low, runs, checkpoint, version };
        Ok(Outcome { records: vec![record], reply: Reply::Done })
    }

    /// Whether a lane's row serves nobody: it is sealed, all it held is in runs, and no chain names it. Its epoch is
    /// never allocated again (R1), its seal stays where it is (R21), so it needs no row to stay dead.
    pub fn is_forgettable(&self, lane: LaneId) -> bool {
        let Some(row) = self.lane(lane) else { return false };
        let named = || self.partitions().any(|(_, p)| p.chain.iter().any(|e| e.lane == lane));
        row.sealed == Some(row.low) && row.recoverer.is_none() && !named()
    }

    pub(super) fn forget_lane(&self, lane: LaneId) -> Outcome {
        let records = match self.is_forgettable(lane) {
            true => vec![Record::LaneForgotten { lane }],
            false => Vec::new(),
        };
        Outcome { records, reply: Reply::Done }
    }
}
