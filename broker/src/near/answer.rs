//! The leader's side: gives a replica the plan of what it may serve, now or when there is news.
//!
//! Given only while this broker's session is fresh, looked at again after every wait (R24): a leader that has been fenced
//! or stands alone gives nothing. Everything in a plan is in the bucket and committed (R5).

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use tidemark_proto::kafka::error::ErrorCode;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::{Question, WAIT, has_news_in, wire};
use crate::cluster::peers::Readable;
use crate::node::Node;
use crate::partition::waiters::Waiter;

/// Questions that wait here at a time.
const WAITING: usize = 4_096;

/// See the module.
pub struct Answers {
    node: Weak<Node>,
    seats: Semaphore,
}

impl Answers {
    /// Answers for `node`, for as long as there is one.
    pub fn new(node: &Arc<Node>) -> Answers {
        Answers { node: Arc::downgrade(node), seats: Semaphore::new(WAITING) }
    }

    async fn answer(&self, question: Question) -> Option<wire::Answer> {
        let deadline = Instant::now() + question.wait.min(WAIT);
        let seat = self.seats.try_acquire().ok();
        loop {
            // Not held over a wait: the node may end meanwhile.
            let node = self.node.upgrade()?;
            let waiter = Arc::new(Waiter::default());
            let rows = look(&node, &question, waiter.clone()).await;
            let crowded = seat.is_none();
            if crowded || has_news_in(&rows, question.hunger) || Instant::now() >= deadline {
                node.near.answered();
                // Read after the plan: what runs took over by then is in it.
                let at = node.cluster.image().position();
                return Some(wire::Answer { rows, at, crowded });
            }
            drop(node);
            timeout_at(deadline, waiter.woken()).await.ok();
        }
    }
}

async fn look(node: &Node, question: &Question, waiter: Arc<Waiter>) -> wire::Rows {
    let (asks, bytes_max) = (question.asks.clone(), question.hunger.bytes_max);
    let planned = match node.may_serve_reads().await {
        true => node.partitions.plan_for_peer(asks, bytes_max, Some(waiter)).await,
        false => Err(ErrorCode::NotLeaderOrFollower),
    };
    planned.unwrap_or_else(|code| question.asks.iter().map(|_| Err(code)).collect())
}

#[async_trait]
impl Readable for Answers {
    async fn read(&self, question: Bytes) -> Bytes {
        let question = match wire::question_from(question) {
            Ok(question) => question,
            Err(why) => {
                tracing::warn!(why, "a peer asked for a plan that is not to be given");
                return Bytes::new();
            }
        };
        self.answer(question).await.map_or_else(Bytes::new, wire::answer_to)
    }
}
