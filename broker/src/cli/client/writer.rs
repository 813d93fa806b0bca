//! Writes records to partitions of one topic: batches fill, a wave of them goes out, each is resent until it is acked.
//!
//! One wave at a time, so that order within a partition holds. An idempotent writer resends under the same sequences.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use tidemark_proto::id::{Millis, ProducerEpoch, ProducerId};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::{InitProducerIdRequest, ProduceRequest, produce_request};
use tidemark_proto::kafka::pieces::Pieces;
use tidemark_proto::record::Compression;
use tidemark_proto::record::build::Builder;
use tidemark_proto::record::records::Header;
use tidemark_proto::record::view::{Batch, sequence_plus};

use super::{Cluster, Purpose, Trouble, refused};

/// The last version that names topics by name.
const VERSION_MAX: i16 = 12;
const TIMEOUT_MS: i32 = 30_000;

/// Whose word a record needs to count as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// Every replica in sync.
    All,
    /// The leader's.
    Leader,
    /// Nobody's.
    None,
}

/// What became of the records of a partition.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// How many.
    pub records: u64,
    /// The first offset; -1 where the broker does not say.
    pub first: i64,
    /// The last.
    pub last: i64,
}

/// A producer.
pub struct Writer {
    cluster: Arc<Cluster>,
    topic: String,
    acks: Acks,
    codec: Compression,
    producer: Option<(ProducerId, ProducerEpoch)>,
    sequences: BTreeMap<i32, i32>,
    open: BTreeMap<i32, Builder>,
    leaders: BTreeMap<i32, i32>,
    /// Results by partition.
    pub sent: BTreeMap<i32, Sent>,
}

impl Writer {
    /// A writer to `topic`, which must exist. An idempotent one asks for a producer id.
    pub async fn open(
        cluster: Arc<Cluster>,
        topic: &str,
        acks: Acks,
        codec: Compression,
        idempotent: bool,
    ) -> Result<Writer, Trouble> {
        let mut writer = Writer {
            cluster,
            topic: topic.to_owned(),
            acks,
            codec,
            producer: None,
            sequences: BTreeMap::new(),
            open: BTreeMap::new(),
            leaders: BTreeMap::new(),
            sent: BTreeMap::new(),
        };
        writer.find_leaders().await?;
        if idempotent {
            writer.producer = Some(writer.producer_id().await?);
        }
        Ok(writer)
    }

    /// How many partitions the topic has.
    pub fn partitions(&self) -> u32 {
        self.leaders.len() as u32
    }

    /// Adds a record; it goes out with the next [`Self::flush`].
    pub fn add(
        &mut self,
        partition: i32,
        at: Millis,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header],
    ) {
        let (codec, producer) = (self.codec, self.producer);
        let sequence = self.sequences.get(&partition).copied().unwrap_or(0);
        let builder = self.open.entry(partition).or_insert_with(|| {
            let builder = Builder::new().compression(codec);
            match producer {
                Some((id, epoch)) => builder.producer(id, epoch, sequence),
                None => builder,
            }
        });
        builder.append_with(at, key, value, headers);
    }

    /// Bytes that wait in the fullest batch, uncompressed.
    pub fn fullest(&self) -> usize {
        self.open.values().map(Builder::size).max().unwrap_or(0)
    }

    /// Sends what waits, and waits until all of it is acked.
    pub async fn flush(&mut self) -> Result<(), Trouble> {
        let mut wave: BTreeMap<i32, Batch> = BTreeMap::new();
        for (partition, builder) in std::mem::take(&mut self.open) {
            let sequence = self.sequences.entry(partition).or_insert(0);
            *sequence = sequence_plus(*sequence, builder.count());
            wave.insert(partition, builder.build());
        }
        let mut patience = self.cluster.patience();
        while !wave.is_empty() {
            let Some(trouble) = self.wave(&mut wave).await else { continue };
            if !trouble.passes() || !patience.pause().await {
                return Err(trouble);
            }
            match self.find_leaders().await {
                Err(trouble) if !trouble.passes() => return Err(trouble),
                _ => {}
            }
        }
        Ok(())
    }

    /// Sends `wave` to its leaders and takes out what was acked; the worst trouble of the rest.
    async fn wave(&mut self, wave: &mut BTreeMap<i32, Batch>) -> Option<Trouble> {
        let mut by_leader: BTreeMap<i32, Vec<produce_request::PartitionProduceData>> = BTreeMap::new();
        for (partition, batch) in wave.iter() {
            let leader = self.leaders.get(partition).copied().unwrap_or(-1);
            let records = Some(Pieces::from(batch.bytes().clone()));
            by_leader
                .entry(leader)
                .or_default()
                .push(produce_request::PartitionProduceData { index: *partition, records });
        }
        let calls = by_leader.into_iter().map(|(leader, data)| self.send(leader, data));
        let mut worst: Option<Trouble> = None;
        for answer in join_all(calls).await {
            let results = match answer {
                Ok(results) => results,
                Err(trouble) => {
                    worst = Some(trouble);
                    continue;
                }
            };
            for (partition, code, offset) in results {
                let written = match code {
                    // It was written before, by an attempt whose answer was lost.
                    ErrorCode::DuplicateSequenceNumber => Ok(()),
                    code => refused(&format!("partition {partition} of {}", self.topic), code.code(), None),
                };
                match written {
                    Ok(()) => {
                        if let Some(batch) = wave.remove(&partition) {
                            self.count(partition, &batch, offset);
                        }
                    }
                    Err(trouble) if worst.as_ref().is_none_or(Trouble::passes) => worst = Some(trouble),
                    Err(_) => {}
                }
            }
        }
        worst
    }

    async fn send(
        &self,
        leader: i32,
        data: Vec<produce_request::PartitionProduceData>,
    ) -> Result<Vec<(i32, ErrorCode, i64)>, Trouble> {
        let partitions: Vec<i32> = data.iter().map(|data| data.index).collect();
        let request = ProduceRequest {
            transactional_id: None,
            acks: match self.acks {
                Acks::All => -1,
                Acks::Leader => 1,
                Acks::None => 0,
            },
            timeout_ms: TIMEOUT_MS,
            topic_data: vec![produce_request::TopicProduceData {
                name: self.topic.as_str().into(),
                partition_data: data,
                ..Default::default()
            }],
        };
        let link = self.cluster.node(leader, Purpose::Ask).await?;
        if self.acks == Acks::None {
            link.send(VERSION_MAX, &request).await?;
            return Ok(partitions.into_iter().map(|p| (p, ErrorCode::None, -1)).collect());
        }
        let answer = link.call(VERSION_MAX, &request).await?;
        let results = answer.responses.into_iter().flat_map(|topic| topic.partition_responses);
        Ok(results.map(|p| (p.index, ErrorCode::from_code(p.error_code), p.base_offset)).collect())
    }

    fn count(&mut self, partition: i32, batch: &Batch, offset: i64) {
        let new = Sent { records: 0, first: offset, last: offset };
        let sent = self.sent.entry(partition).or_insert(new);
        sent.records += u64::from(batch.count().unsigned_abs());
        sent.last = if offset < 0 { offset } else { offset + i64::from(batch.last_offset_delta()) };
    }

    async fn find_leaders(&mut self) -> Result<(), Trouble> {
        let topic = self.cluster.topic(&self.topic).await?;
        self.leaders = topic.partitions.iter().map(|p| (p.partition_index, p.leader_id)).collect();
        Ok(())
    }

    async fn producer_id(&self) -> Result<(ProducerId, ProducerEpoch), Trouble> {
        let request = InitProducerIdRequest {
            transactional_id: None,
            transaction_timeout_ms: 60_000,
            producer_id: -1,
            producer_epoch: -1,
        };
        let cluster = &self.cluster;
        cluster
            .retry(async || {
                let answer = cluster.any().await?.call(i16::MAX, &request).await?;
                refused("a producer id", answer.error_code, None)?;
                Ok((ProducerId(answer.producer_id), ProducerEpoch(answer.producer_epoch)))
            })
            .await
    }
}
