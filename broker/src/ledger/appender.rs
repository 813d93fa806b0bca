//! Batches of one partition on their way into the log: admitted in order, reported durable in order.
//!
//! After the first refusal nothing more is admitted; what was admitted before is waited for, so that when
//! the end is reported no batch of this leadership can still land behind a reader's back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tidemark_proto::id::{LeaderEpoch, Offset, PartitionIndex, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;
use tokio::sync::{mpsc, oneshot};

use super::Log;
use super::task::Event;

/// How many batches may be on their way; the shard keeps count.
pub const FLYING_MAX: usize = 16;

/// One batch and its number.
pub struct Append {
    pub ticket: u64,
    pub batch: Bytes,
}

/// Where to, and whom to tell.
pub struct Appender {
    pub log: Arc<dyn Log>,
    pub at: PartitionIndex,
    pub tp: TopicPartition,
    pub leader_epoch: LeaderEpoch,
    pub life: u64,
    pub events: mpsc::Sender<Event>,
}

type Admitted = (u64, Result<oneshot::Receiver<Result<Offset, ErrorCode>>, ErrorCode>);

impl Appender {
    /// Runs until the shard is dropped or a batch is refused.
    pub async fn run(self, batches: mpsc::Receiver<Append>) {
        let (admitted, waiting) = mpsc::channel(FLYING_MAX);
        let stop = AtomicBool::new(false);
        futures::join!(self.admit(batches, admitted, &stop), self.report(waiting, &stop));
    }

    async fn admit(
        &self,
        mut batches: mpsc::Receiver<Append>,
        admitted: mpsc::Sender<Admitted>,
        stop: &AtomicBool,
    ) {
        while let Some(Append { ticket, batch }) = batches.recv().await {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let answer = self.log.append(self.tp, self.leader_epoch, batch).await;
            let refused = answer.is_err();
            if admitted.send((ticket, answer)).await.is_err() || refused {
                return;
            }
        }
    }

    async fn report(&self, mut waiting: mpsc::Receiver<Admitted>, stop: &AtomicBool) {
        while let Some((ticket, answer)) = waiting.recv().await {
            let result = match answer {
                Ok(answer) => answer.await.unwrap_or(Err(ErrorCode::NotLeaderOrFollower)),
                Err(code) => Err(code),
            };
            // Behind a failure nothing counts: the shard is gone and will be read back.
            if stop.load(Ordering::Relaxed) {
                continue;
            }
            match result {
                Ok(_) => self.tell(Event::Durable { at: self.at, life: self.life, ticket }).await,
                Err(code) => {
                    stop.store(true, Ordering::Relaxed);
                    self.tell(Event::Failed { at: self.at, life: self.life, code }).await;
                }
            }
        }
        self.tell(Event::Ended { at: self.at, life: self.life }).await;
    }

    async fn tell(&self, event: Event) {
        self.events.send(event).await.ok();
    }
}
