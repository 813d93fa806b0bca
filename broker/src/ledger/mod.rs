//! The driver of the coordinators: decide → append → apply → hold replies until durable; timers.
//!
//! One task owns every group whose partition of `__consumer_offsets` this broker leads. State is applied at
//! once, a reply waits until what it tells is in the bucket; a failed append drops the partition's groups
//! whole and reads them back (there is no undo). Knows no wire message and no rule about groups.

mod appender;
mod load;
#[cfg(test)]
mod memory;
mod shard;
mod task;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tidemark_proto::id::{LeaderEpoch, Offset, PartitionIndex, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::text::Text;
use tidemark_tiering::seam::Seams;
use tidemark_tiering::watch;
use tokio::sync::{mpsc, oneshot};

use crate::group::command::{Command, Reply};
use crate::group::members::Phase;
use crate::group::state::Rules;

/// Commands that may wait for the task; past that, whoever asks waits to be let in.
const MAILBOX: usize = 1024;

/// The partition log under a coordinator.
#[async_trait]
pub trait Log: Send + Sync {
    /// Admits one v2 batch, in call order; the receiver resolves when it is durable (its base offset) or
    /// refused. Refused unless this broker leads under `leader_epoch`.
    async fn append(
        &self,
        tp: TopicPartition,
        leader_epoch: LeaderEpoch,
        batch: Bytes,
    ) -> Result<oneshot::Receiver<Result<Offset, ErrorCode>>, ErrorCode>;

    /// Whole batches from `offset` up to the high watermark, which is given too; empty at the end.
    async fn read(
        &self,
        tp: TopicPartition,
        offset: Offset,
        max_bytes: usize,
    ) -> Result<(Bytes, Offset), ErrorCode>;

    /// Where the log begins.
    async fn log_start(&self, tp: TopicPartition) -> Result<Offset, ErrorCode>;
}

/// Whether a topic of this name exists; asked before offsets are kept and when groups are read back.
pub type Catalogue = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Rules about groups.
    pub rules: Rules,
    /// `offsets.retention.check.interval.ms`.
    pub retention_check: Duration,
    /// `offsets.load.buffer.size`: bytes of one read while loading.
    pub load_bytes: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { rules: Rules::default(), retention_check: Duration::from_secs(600), load_bytes: 5 << 20 }
    }
}

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Group id.
    pub group: Text,
    /// Where it stands.
    pub phase: Phase,
    /// Protocol type; empty for a group of offsets only.
    pub protocol_type: Text,
}

/// What the coordinators hold, for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Groups by phase.
    pub groups: BTreeMap<Phase, u64>,
    /// Committed offsets.
    pub offsets: u64,
    /// Partitions that are served.
    pub active: u64,
    /// Partitions that are being read back.
    pub loading: u64,
    /// Generations begun since the start.
    pub rebalances: u64,
    /// Offsets committed since the start.
    pub commits: u64,
}

/// A command on its way to a group.
struct Asked {
    at: PartitionIndex,
    group: Text,
    command: Command,
    reply: oneshot::Sender<Result<Reply, ErrorCode>>,
}

/// What reaches the task.
enum Message {
    Ask(Box<Asked>),
    List(oneshot::Sender<Result<Vec<Listed>, ErrorCode>>),
    Lead { at: PartitionIndex, tp: TopicPartition, leader_epoch: LeaderEpoch },
    Resign(PartitionIndex),
    TopicGone(Text),
    Catalogue(Catalogue),
}

/// The coordinators of this broker. Cheap to clone; the task ends with the last clone.
#[derive(Clone)]
pub struct Groups {
    mailbox: mpsc::Sender<Message>,
    counts: watch::Receiver<Counts>,
}

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Groups")
    }
}

impl Groups {
    /// Starts the task. It leads nothing until told to.
    pub fn start(log: Arc<dyn Log>, options: Options, seams: &Seams) -> Groups {
        let (mailbox, inbox) = mpsc::channel(MAILBOX);
        let (task, counts) = task::Task::new(log, options, seams.clone());
        seams.tasks.spawn(task.run(inbox));
        Groups { mailbox, counts }
    }

    /// From now on offsets of topics that do not exist are dropped when groups are read back.
    pub async fn catalogue(&self, exists: Catalogue) {
        self.tell(Message::Catalogue(exists)).await;
    }

    /// This broker leads a partition: its groups are read back, then served. Returns at once.
    pub async fn lead(&self, at: PartitionIndex, tp: TopicPartition, leader_epoch: LeaderEpoch) {
        self.tell(Message::Lead { at, tp, leader_epoch }).await;
    }

    /// This broker leads a partition no more: its groups are dropped, who waits is sent away (16).
    pub async fn resign(&self, at: PartitionIndex) {
        self.tell(Message::Resign(at)).await;
    }

    /// A topic was deleted: its offsets are dropped.
    pub async fn topic_deleted(&self, topic: &str) {
        self.tell(Message::TopicGone(Text::from(topic))).await;
    }

    /// Gives a command to a group and waits for the answer, which may take as long as a rebalance.
    ///
    /// # Errors
    /// What Kafka would answer: 16 where this broker does not coordinate the group, 14 while it is read back.
    pub async fn ask(&self, at: PartitionIndex, group: &Text, command: Command) -> Result<Reply, ErrorCode> {
        self.submit(at, group, command).await.await.unwrap_or(Err(ErrorCode::NotCoordinator))
    }

    /// The same in two steps: commands reach the groups in the order in which this is awaited. A channel that
    /// closes without an answer means 16.
    pub async fn submit(
        &self,
        at: PartitionIndex,
        group: &Text,
        command: Command,
    ) -> oneshot::Receiver<Result<Reply, ErrorCode>> {
        let (reply, answer) = oneshot::channel();
        self.tell(Message::Ask(Box::new(Asked { at, group: group.clone(), command, reply }))).await;
        answer
    }

    /// Every group this broker coordinates, in order.
    ///
    /// # Errors
    /// 14 while some are being read back.
    pub async fn list(&self) -> Result<Vec<Listed>, ErrorCode> {
        let (reply, answer) = oneshot::channel();
        self.tell(Message::List(reply)).await;
        answer.await.unwrap_or(Err(ErrorCode::CoordinatorNotAvailable))
    }

    /// Numbers for metrics, at most a second old.
    pub fn counts(&self) -> Counts {
        self.counts.borrow().clone()
    }

    async fn tell(&self, message: Message) {
        // The task is gone only when its process is being killed; who waits finds its answer dropped.
        self.mailbox.send(message).await.ok();
    }
}
