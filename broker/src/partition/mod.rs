//! Partitions: what this broker owns, appends to and reads from.
//!
//! One task (`task`) owns a lane and every partition whose log runs in it; everyone else holds a [`Partitions`]
//! and sends messages. So a parcel's commit reaches all its partitions without a lock, and the order of appends
//! is the order of messages. Knows no Kafka request, no group and no metadata record.

pub mod base;

pub mod fetching;
pub mod index;
pub mod log;
pub mod opening;
pub mod parked;
pub mod producer;
pub mod state;
pub mod task;
mod ticket;
pub mod waiters;

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tidemark_proto::id::{LeaderEpoch, Millis, Offset, ProducerId, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::record::view::Batch;
use tidemark_tiering::lane::Gauges;
use tokio::sync::{mpsc, oneshot};

use crate::partition::index::Source;
use crate::partition::producer::{Aborted, Producer};
use crate::partition::waiters::Waiter;

/// A validated batch for one partition.
#[derive(Debug)]
pub struct Write {
    /// Where it goes.
    pub tp: TopicPartition,
    /// The batch as the producer sent it, or as it was rewritten.
    pub batch: Batch,
    /// Epoch the sender believes in; another one is refused (coordinators).
    pub leader_epoch: Option<LeaderEpoch>,
}

/// A batch that is in the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Offset of its first record.
    pub base: Offset,
    /// First offset of the partition that can be read.
    pub log_start: Offset,
}

/// The answer to each write of a request, in its order.
pub type WriteResults = Vec<Result<Written, ErrorCode>>;

/// A set of writes that is answered together, once all of it is durable or refused.
#[derive(Debug)]
pub struct Produce {
    /// The batches; at most one per partition.
    pub writes: Vec<Write>,
    /// Answer on admission, before anything is durable (R8: `tidemark.acks.one=leader`).
    pub early: bool,
    /// Close the parcel at once (transaction markers).
    pub flush: bool,
    /// Answered when durable.
    pub reply: oneshot::Sender<WriteResults>,
}

/// Which bytes of a partition a fetch wants.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// The partition.
    pub tp: TopicPartition,
    /// First offset wanted.
    pub offset: Offset,
    /// Bytes at most for this partition.
    pub bytes_max: usize,
    /// Leader epoch the client believes in (KIP-320).
    pub leader_epoch: Option<LeaderEpoch>,
    /// Only below the last stable offset.
    pub committed: bool,
}

/// A partition's bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// First offset that can be read.
    pub log_start: Offset,
    /// High watermark.
    pub hw: Offset,
    /// Last stable offset.
    pub lso: Offset,
    /// Epoch under which this broker owns it.
    pub leader_epoch: LeaderEpoch,
}

/// What a fetch may read of one partition.
#[derive(Clone, Debug)]
pub struct Look {
    /// The partition's bounds at the time.
    pub bounds: Bounds,
    /// Where the bytes are.
    pub sources: Vec<Source>,
    /// How many bytes they are; an archived source counts as the whole appetite.
    pub bytes: usize,
    /// For readers of committed data: the aborted transactions among these bytes.
    pub aborted: Option<Vec<Aborted>>,
}

impl Look {
    /// Leaves the bounds only.
    pub fn empty(&mut self) {
        self.sources.clear();
        self.bytes = 0;
        self.aborted.iter_mut().for_each(Vec::clear);
    }
}

/// A time look-up (ListOffsets).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instant {
    /// The first record at or after this time.
    AtOrAfter(Millis),
    /// The record with the largest timestamp (KIP-734).
    Largest,
}

/// Everything that the task is asked apart from writes.
#[derive(Debug)]
pub enum Query {
    /// Plan a fetch; `bytes_max` bounds the whole answer.
    Plan {
        /// In the order in which bytes are handed out.
        asks: Vec<Ask>,
        /// Bytes at most for all.
        bytes_max: usize,
        /// Only from the bucket: the answer is for another broker, which has not what is in memory here.
        in_bucket: bool,
        /// Woken when any of the partitions has news, unless the answer already shows it.
        waiter: Option<Arc<Waiter>>,
        /// One look per ask, in order.
        reply: oneshot::Sender<Vec<Result<Look, ErrorCode>>>,
    },
    /// Bounds of partitions.
    Bounds {
        /// Which, with the client's leader epoch.
        of: Vec<(TopicPartition, Option<LeaderEpoch>)>,
        /// In order.
        reply: oneshot::Sender<Vec<Result<Bounds, ErrorCode>>>,
    },
    /// Where to look for a timestamp: the batch that holds the answer, or where older data must be searched first.
    Time {
        /// Which partition.
        tp: TopicPartition,
        /// What to look for.
        instant: Instant,
        /// Only from this offset on.
        from: Offset,
        /// Only below this offset.
        until: Offset,
        /// `None`: no such record outside the runs.
        reply: oneshot::Sender<Result<Option<Source>, ErrorCode>>,
    },
    /// The end of a leader epoch (KIP-320), and the epoch at an offset.
    EpochEnd {
        /// Which partition.
        tp: TopicPartition,
        /// The client's view of the current epoch.
        current: Option<LeaderEpoch>,
        /// Epoch asked for.
        asked: LeaderEpoch,
        /// `None`: the epoch is unknown.
        reply: oneshot::Sender<Result<Option<(LeaderEpoch, Offset)>, ErrorCode>>,
    },
    /// Leader epoch of the record at an offset.
    EpochAt {
        /// Which partition.
        tp: TopicPartition,
        /// Offset.
        offset: Offset,
        /// The epoch.
        reply: oneshot::Sender<Result<LeaderEpoch, ErrorCode>>,
    },
    /// Log starts that the metadata has raised; those of partitions that are not open are passed over.
    LogStarts {
        /// Which, and to where.
        to: Vec<(TopicPartition, Offset)>,
        /// Answered once they are in force.
        reply: oneshot::Sender<()>,
    },
    /// What is known of a partition's producers.
    Producers {
        /// Which partition.
        tp: TopicPartition,
        /// By id.
        reply: oneshot::Sender<Result<Vec<(ProducerId, Producer)>, ErrorCode>>,
    },
    /// Numbers of the lane and of everything together, for metrics.
    Vitals {
        /// The numbers.
        reply: oneshot::Sender<Vitals>,
    },
    /// Numbers of each partition, for metrics.
    Survey {
        /// One row per open partition.
        reply: oneshot::Sender<Vec<Row>>,
    },
}

/// The lane, and all its partitions together.
#[derive(Clone, Copy, Debug)]
pub struct Vitals {
    /// The lane.
    pub lane: Gauges,
    /// Produce requests that wait to be durable.
    pub parked: usize,
    /// Partitions being recovered.
    pub opening: usize,
    /// Partitions whose log is damaged.
    pub offline: usize,
}

/// One partition in a survey.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The partition.
    pub tp: TopicPartition,
    /// Its bounds.
    pub bounds: Bounds,
    /// Log end offset, durable or not.
    pub end: Offset,
    /// Producers remembered.
    pub producers: usize,
    /// Bytes that lie in parcels.
    pub stored_bytes: u64,
    /// Ranges of parcels that hold them.
    pub extents: usize,
    /// Long polls that wait.
    pub waiting: usize,
}

#[derive(Debug)]
pub(crate) struct Doors {
    pub(crate) writes: mpsc::Sender<Produce>,
    pub(crate) queries: mpsc::Sender<Query>,
}

/// The way to this broker's partitions; while the broker owns no lane everything is `NotLeaderOrFollower`.
#[derive(Clone, Debug, Default)]
pub struct Partitions {
    doors: Arc<ArcSwapOption<Doors>>,
}

impl Partitions {
    pub(crate) fn open(&self, doors: Doors) {
        self.doors.store(Some(Arc::new(doors)));
    }

    pub(crate) fn close(&self) {
        self.doors.store(None);
    }

    /// Hands over writes. Calls made one after the other are admitted in that order; the receiver resolves when
    /// everything is durable or refused.
    ///
    /// # Errors
    /// `NotLeaderOrFollower` when this broker owns no lane now.
    pub async fn produce(
        &self,
        writes: Vec<Write>,
        early: bool,
        flush: bool,
    ) -> Result<oneshot::Receiver<WriteResults>, ErrorCode> {
        let doors = self.doors.load_full().ok_or(ErrorCode::NotLeaderOrFollower)?;
        let (reply, answer) = oneshot::channel();
        let request = Produce { writes, early, flush, reply };
        doors.writes.send(request).await.map_err(|_| ErrorCode::NotLeaderOrFollower)?;
        Ok(answer)
    }

    /// Plans a fetch.
    ///
    /// # Errors
    /// `NotLeaderOrFollower` when this broker owns no lane now.
    pub async fn plan(
        &self,
        asks: Vec<Ask>,
        bytes_max: usize,
        waiter: Option<Arc<Waiter>>,
    ) -> Result<Vec<Result<Look, ErrorCode>>, ErrorCode> {
        self.ask(|reply| Query::Plan { asks, bytes_max, in_bucket: false, waiter, reply }).await
    }

    /// The same for another broker: nothing from memory.
    ///
    /// # Errors
    /// `NotLeaderOrFollower` when this broker owns no lane now.
    pub async fn plan_for_peer(
        &self,
        asks: Vec<Ask>,
        bytes_max: usize,
        waiter: Option<Arc<Waiter>>,
    ) -> Result<Vec<Result<Look, ErrorCode>>, ErrorCode> {
        self.ask(|reply| Query::Plan { asks, bytes_max, in_bucket: true, waiter, reply }).await
    }

    /// Bounds of partitions, in order.
    ///
    /// # Errors
    /// `NotLeaderOrFollower` when this broker owns no lane now.
    pub async fn bounds(
        &self,
        of: Vec<(TopicPartition, Option<LeaderEpoch>)>,
    ) -> Result<Vec<Result<Bounds, ErrorCode>>, ErrorCode> {
        self.ask(|reply| Query::Bounds { of, reply }).await
    }

    /// Sends a query and waits for its answer.
    ///
    /// # Errors
    /// `NotLeaderOrFollower` when this broker owns no lane now.
    pub async fn ask<T>(&self, query: impl FnOnce(oneshot::Sender<T>) -> Query) -> Result<T, ErrorCode> {
        let doors = self.doors.load_full().ok_or(ErrorCode::NotLeaderOrFollower)?;
        let (reply, answer) = oneshot::channel();
        doors.queries.send(query(reply)).await.map_err(|_| ErrorCode::NotLeaderOrFollower)?;
        answer.await.map_err(|_| ErrorCode::NotLeaderOrFollower)
    }
}
