//! A log in memory, for tests: durability comes when the test says so.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tidemark_proto::id::{LeaderEpoch, Offset, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::record::stamp::Stamped;
use tidemark_proto::record::view::Batch;
use tokio::sync::oneshot;

use super::Log;

/// See the module.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<Partitions>>);

#[derive(Default)]
struct Partitions {
    partitions: BTreeMap<TopicPartition, Partition>,
    /// Batches stay in doubt until [`Memory::release`].
    held: bool,
}

#[derive(Default)]
struct Partition {
    leader_epoch: LeaderEpoch,
    /// Durable batches, by base offset.
    batches: BTreeMap<i64, Bytes>,
    end: i64,
    open: Vec<(Batch, oneshot::Sender<Result<Offset, ErrorCode>>)>,
    reads_refused: usize,
}

impl Memory {
    /// Appends stay in doubt from now on, or become durable at once.
    pub fn hold(&self, held: bool) {
        self.0.lock().held = held;
    }

    /// The partition is led under this epoch from now on; what is in doubt is lost.
    pub fn lead(&self, tp: TopicPartition, leader_epoch: LeaderEpoch) {
        let mut all = self.0.lock();
        let partition = all.partitions.entry(tp).or_default();
        partition.leader_epoch = leader_epoch;
        partition.open.clear();
    }

    /// The first `count` batches in doubt become durable.
    pub fn release(&self, tp: TopicPartition, count: usize) {
        let mut all = self.0.lock();
        let partition = all.partitions.get_mut(&tp).expect("it is led");
        let count = count.min(partition.open.len());
        for (batch, answer) in partition.open.drain(..count).collect::<Vec<_>>() {
            let base = partition.write(&batch);
            answer.send(Ok(base)).ok();
        }
    }

    /// The first batch in doubt is refused, the others stay.
    pub fn refuse(&self, tp: TopicPartition, code: ErrorCode) {
        let mut all = self.0.lock();
        let partition = all.partitions.get_mut(&tp).expect("it is led");
        let (_, answer) = partition.open.remove(0);
        answer.send(Err(code)).ok();
    }

    /// How many batches are in doubt.
    pub fn open(&self, tp: TopicPartition) -> usize {
        self.0.lock().partitions.get(&tp).map_or(0, |p| p.open.len())
    }

    /// The durable batches.
    pub fn batches(&self, tp: TopicPartition) -> Vec<Batch> {
        let all = self.0.lock();
        let batches = all.partitions.get(&tp).into_iter().flat_map(|p| p.batches.values());
        batches.map(|bytes| Batch::parse(bytes.clone()).unwrap()).collect()
    }

    /// A bit of the first batch flips.
    pub fn damage(&self, tp: TopicPartition) {
        let mut all = self.0.lock();
        let partition = all.partitions.get_mut(&tp).expect("it is led");
        let bytes = partition.batches.values_mut().next().expect("there is a batch");
        let mut damaged = bytes.to_vec();
        *damaged.last_mut().expect("a batch has bytes") ^= 1;
        *bytes = damaged.into();
    }

    /// The next reads fail.
    pub fn refuse_reads(&self, tp: TopicPartition, count: usize) {
        self.0.lock().partitions.entry(tp).or_default().reads_refused = count;
    }
}

impl Partition {
    fn write(&mut self, batch: &Batch) -> Offset {
        let base = Offset(self.end);
        let stamped = Stamped::new(batch, base, self.leader_epoch).to_bytes();
        self.end += i64::from(batch.last_offset_delta()) + 1;
        self.batches.insert(base.0, stamped);
        base
    }
}

#[async_trait]
impl Log for Memory {
    async fn append(
        &self,
        tp: TopicPartition,
        leader_epoch: LeaderEpoch,
        batch: Bytes,
    ) -> Result<oneshot::Receiver<Result<Offset, ErrorCode>>, ErrorCode> {
        let mut all = self.0.lock();
        let held = all.held;
        let partition = all.partitions.get_mut(&tp).ok_or(ErrorCode::NotLeaderOrFollower)?;
        if partition.leader_epoch != leader_epoch {
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        let batch = Batch::parse(batch).map_err(|_| ErrorCode::CorruptMessage)?;
        batch.verify_crc().map_err(|_| ErrorCode::CorruptMessage)?;
        let (answer, receiver) = oneshot::channel();
        if held {
            partition.open.push((batch, answer));
        } else {
            let base = partition.write(&batch);
            answer.send(Ok(base)).ok();
        }
        Ok(receiver)
    }

    async fn read(
        &self,
        tp: TopicPartition,
        offset: Offset,
        max_bytes: usize,
    ) -> Result<(Bytes, Offset), ErrorCode> {
        let mut all = self.0.lock();
        let partition = all.partitions.get_mut(&tp).ok_or(ErrorCode::NotLeaderOrFollower)?;
        if partition.reads_refused > 0 {
            partition.reads_refused -= 1;
            return Err(ErrorCode::KafkaStorageError);
        }
        let mut out = Vec::new();
        for bytes in partition.batches.range(offset.0..).map(|(_, bytes)| bytes) {
            if !out.is_empty() && out.len() + bytes.len() > max_bytes {
                break;
            }
            out.extend_from_slice(bytes);
        }
        Ok((out.into(), Offset(partition.end)))
    }

    async fn log_start(&self, tp: TopicPartition) -> Result<Offset, ErrorCode> {
        let all = self.0.lock();
        let partition = all.partitions.get(&tp).ok_or(ErrorCode::NotLeaderOrFollower)?;
        Ok(Offset(partition.batches.keys().next().copied().unwrap_or(partition.end)))
    }
}
