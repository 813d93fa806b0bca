//! The end of a task: drained and sealed as ordered, or refused as it stands.

use tidemark_proto::kafka::error::ErrorCode;
use tidemark_tiering::lane::Sealer;
use tokio::sync::{mpsc, oneshot};

use super::super::{Produce, WriteResults};
use super::{Ended, Slot, Task};

impl Task {
    /// R12: everything open is answered, then the owner seals its lane as the last act.
    pub(super) async fn close(mut self, writes: &mut mpsc::Receiver<Produce>, by: Sealer) -> Ended {
        writes.close();
        while let Ok(request) = writes.try_recv() {
            self.on_produce(request);
        }
        let ended = self.settle().await;
        self.refuse_all();
        match ended {
            Some(ended) => ended,
            None => self.lane.seal_own(&by).await.map_or(Ended::Fenced, Ended::Sealed),
        }
    }

    /// Until everything is committed, and proven where that is due (R23); or until the lane ends otherwise.
    async fn settle(&mut self) -> Option<Ended> {
        loop {
            if let Some(doubt) = &mut self.doubt {
                let proven = (&mut doubt.proof).await;
                if !self.on_proven(proven) {
                    return Some(Ended::Fenced);
                }
                continue;
            }
            let event = self.lane.drain().await?;
            if let Some(ended) = self.on_event(event) {
                return Some(ended);
            }
        }
    }

    pub(super) fn refuse_all(&mut self) {
        for ticket in self.parked.release_all().into_iter().chain(self.tickets.take()) {
            ticket.refuse(ErrorCode::NotLeaderOrFollower);
        }
        for slot in std::mem::take(&mut self.partitions).into_values() {
            if let Slot::Open(mut open) = slot {
                open.waiters.wake_all();
            }
        }
    }
}

pub(super) fn refuse(writes: usize, reply: oneshot::Sender<WriteResults>) {
    reply.send(vec![Err(ErrorCode::NotLeaderOrFollower); writes]).ok();
}
