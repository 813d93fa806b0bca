//! Partitions as the coordinators' log: appends that answer when durable, reads of whole batches for replay.

use async_trait::async_trait;
use bytes::Bytes;
use tidemark_proto::id::{LeaderEpoch, Offset, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::record::view::Batch;
use tokio::sync::oneshot;

use super::{Ask, Partitions, Write};
use crate::cluster::Cluster;
use crate::ledger::Log;
use crate::partition::fetching::{Asker, Fetching};

/// See the module.
#[derive(Clone)]
pub struct CoordinatorLog {
    partitions: Partitions,
    cluster: Cluster,
    fetching: Fetching,
}

impl CoordinatorLog {
    /// The coordinators' view of `partitions`.
    pub fn new(partitions: Partitions, cluster: Cluster, fetching: Fetching) -> CoordinatorLog {
        CoordinatorLog { partitions, cluster, fetching }
    }
}

#[async_trait]
impl Log for CoordinatorLog {
    async fn append(
        &self,
        tp: TopicPartition,
        leader_epoch: LeaderEpoch,
        batch: Bytes,
    ) -> Result<oneshot::Receiver<Result<Offset, ErrorCode>>, ErrorCode> {
        let batch = Batch::parse(batch).map_err(|_| ErrorCode::CorruptMessage)?;
        let write = Write { tp, batch, leader_epoch: Some(leader_epoch) };
        let written = self.partitions.produce(vec![write], false, false).await?;
        let (reply, answer) = oneshot::channel();
        self.fetching.seams().tasks.spawn(async move {
            let first = written.await.ok().and_then(|results| results.into_iter().next());
            let result = first.unwrap_or(Err(ErrorCode::NotLeaderOrFollower));
            reply.send(result.map(|w| w.base)).ok();
        });
        Ok(answer)
    }

    async fn read(
        &self,
        tp: TopicPartition,
        offset: Offset,
        max_bytes: usize,
    ) -> Result<(Bytes, Offset), ErrorCode> {
        let ask = Ask { tp, offset, bytes_max: max_bytes, leader_epoch: None, committed: false };
        let mut looks = self.partitions.plan(vec![ask], max_bytes, None).await?;
        let look = looks.pop().unwrap_or(Err(ErrorCode::NotLeaderOrFollower))?;
        let hw = look.bounds.hw;
        let image = self.cluster.image();
        let pieces = self.fetching.pieces(Asker(0), tp, &image, look.sources).await?;
        let bytes = self.fetching.seams().tasks.blocking(move || pieces.into_bytes()).await;
        let bytes = bytes.map_err(|_| ErrorCode::KafkaStorageError)?;
        Ok((bytes, hw))
    }

    async fn log_start(&self, tp: TopicPartition) -> Result<Offset, ErrorCode> {
        let mut bounds = self.partitions.bounds(vec![(tp, None)]).await?;
        Ok(bounds.pop().unwrap_or(Err(ErrorCode::NotLeaderOrFollower))?.log_start)
    }
}
