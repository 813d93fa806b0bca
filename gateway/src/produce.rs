//! Produce: records to batches, batches to the leaders of their partitions, offsets back.
//!
//! A refusal that leaves the log untouched is tried again with fresh metadata; a lost answer never is,
//! for nobody knows whether the records were appended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::try_join_all;
use tidemark_proto::id::Millis;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::ProduceRequest as KafkaProduce;
use tidemark_proto::kafka::messages::produce_request::{PartitionProduceData, TopicProduceData};
use tidemark_proto::kafka::messages::produce_response::PartitionProduceResponse;
use tidemark_proto::kafka::pieces::Pieces;
use tidemark_proto::kafka::text::Text;
use tidemark_proto::record::Compression;
use tidemark_proto::record::build::Builder;
use tidemark_proto::record::records::Header;
use tidemark_proto::rpc::gateway::v1::{Placement, ProduceRequest, ProduceResponse, Record};
use tonic::Status;

use crate::connect::{Connect, Node, Surroundings};
use crate::pool::{Pool, Topic};
use crate::{partition, status};

const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_millis(50);
/// How long a broker may take to make a batch durable.
const TIMEOUT_MS: i32 = 30_000;

/// The gateway's one service, whatever door it is asked through. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    pool: Arc<Pool>,
    turn: Arc<AtomicU32>,
}

/// Records of one call for one partition: their places in the call, and the batch.
struct Share {
    partition: i32,
    places: Vec<usize>,
    batch: Bytes,
}

impl Gateway {
    /// A gateway over the brokers that `connect` reaches.
    pub fn new(connect: Arc<dyn Connect>, surroundings: Surroundings) -> Gateway {
        Gateway { pool: Arc::new(Pool::new(connect, surroundings)), turn: Arc::default() }
    }

    /// Appends the records; answers when they are durable.
    pub async fn produce(&self, request: ProduceRequest) -> Result<ProduceResponse, Status> {
        if request.topic.is_empty() || request.records.is_empty() {
            return Err(Status::invalid_argument("a call names a topic and has at least one record"));
        }
        let codec = u8::try_from(request.compression).ok().and_then(Compression::from_id);
        let codec = codec.ok_or_else(|| Status::invalid_argument("unknown compression"))?;
        let topic = self.topic(&request.topic).await?;
        let shares = self.share_out(&request, codec, &topic)?;
        let offsets = try_join_all(shares.iter().map(|share| self.append(&request.topic, share))).await?;
        let mut placements = vec![Placement::default(); request.records.len()];
        for (share, base) in shares.iter().zip(offsets) {
            for (place, offset) in share.places.iter().zip(base..) {
                placements[*place] = Placement { partition: share.partition, offset };
            }
        }
        Ok(ProduceResponse { placements })
    }

    /// The topic, waiting a little for one that is just being created.
    async fn topic(&self, name: &str) -> Result<Arc<Topic>, Status> {
        for attempt in 0..TRIES {
            match self.pool.topic(name).await {
                Err(refused) if refused.code() == tonic::Code::Unavailable && attempt + 1 < TRIES => {}
                Ok(topic) if topic.leaders.is_empty() && attempt + 1 < TRIES => self.pool.forget(name).await,
                Ok(topic) if topic.leaders.is_empty() => {
                    return Err(Status::unavailable(format!("topic {name:?} has no partitions yet")));
                }
                other => return other,
            }
            tokio::time::sleep(PAUSE * 2u32.pow(attempt)).await;
        }
        Err(Status::unavailable(format!("nothing is known of topic {name:?} yet")))
    }

    fn share_out(
        &self,
        request: &ProduceRequest,
        codec: Compression,
        topic: &Topic,
    ) -> Result<Vec<Share>, Status> {
        let count = topic.leaders.len() as u32;
        let keyless = self.turn.fetch_add(1, Ordering::Relaxed) % count;
        let mut places: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (place, record) in request.records.iter().enumerate() {
            let partition = match (request.partition, &record.key) {
                (Some(asked), _) => {
                    u32::try_from(asked).ok().filter(|asked| *asked < count).ok_or_else(|| {
                        Status::out_of_range(format!(
                            "topic {:?} has partitions 0 to {}",
                            request.topic,
                            count - 1
                        ))
                    })?
                }
                (None, Some(key)) => partition::of_key(key, count),
                (None, None) => keyless,
            };
            places.entry(partition).or_default().push(place);
        }
        let now = self.pool.now();
        let share = |(partition, places): (u32, Vec<usize>)| {
            let mut builder = Builder::new().compression(codec);
            for place in &places {
                put(&mut builder, &request.records[*place], now);
            }
            Share { partition: partition as i32, places, batch: builder.build().bytes().clone() }
        };
        Ok(places.into_iter().map(share).collect())
    }

    /// Appends one share. Answers the offset of its first record.
    async fn append(&self, name: &str, share: &Share) -> Result<i64, Status> {
        let mut refused = None;
        for attempt in 0..TRIES {
            if attempt > 0 {
                tokio::time::sleep(PAUSE * 2u32.pow(attempt - 1)).await;
                self.pool.forget(name).await;
            }
            let topic = self.pool.topic(name).await?;
            let leader = usize::try_from(share.partition).ok().and_then(|index| topic.leaders.get(index));
            let Some(Some(leader)) = leader else {
                refused = Some((ErrorCode::LeaderNotAvailable, String::new()));
                continue;
            };
            let answer = self.append_at(leader, name, &topic, share).await?;
            match ErrorCode::from_code(answer.error_code) {
                ErrorCode::None => return Ok(answer.base_offset),
                code => {
                    let said = answer.error_message.as_deref().unwrap_or_default().to_owned();
                    refused = Some((code, said));
                    if !status::may_retry(code) {
                        break;
                    }
                }
            }
        }
        let (code, said) = refused.expect("every try but a successful one leaves a refusal");
        let text = format!("partition {} of topic {name:?}: {code} {said}", share.partition);
        Err(Status::new(status::of_code(code), text.trim_end()))
    }

    async fn append_at(
        &self,
        leader: &Node,
        name: &str,
        topic: &Topic,
        share: &Share,
    ) -> Result<PartitionProduceResponse, Status> {
        let link = self.pool.link(leader).await?;
        let version = link.versions.newest::<KafkaProduce>();
        let version = version.map_err(|error| status::of_lost_answer(&error))?;
        let records = Some(Pieces::from(share.batch.clone()));
        let data = PartitionProduceData { index: share.partition, records };
        let data =
            TopicProduceData { name: Text::from(name), topic_id: topic.id.0, partition_data: vec![data] };
        let request =
            KafkaProduce { transactional_id: None, acks: -1, timeout_ms: TIMEOUT_MS, topic_data: vec![data] };
        let answer = link.client.call(version, &request).await;
        let answer = answer.map_err(|error| status::of_lost_answer(&error))?;
        let rows = answer.responses.into_iter().flat_map(|topic| topic.partition_responses);
        let mut rows = rows.filter(|row| row.index == share.partition);
        rows.next().ok_or_else(|| Status::unknown("the broker's answer leaves out the partition asked for"))
    }
}

fn put(builder: &mut Builder, record: &Record, now: Millis) {
    let headers: Vec<Header> = record
        .headers
        .iter()
        .map(|header| Header { key: Bytes::from(header.key.clone()), value: header.value.clone() })
        .collect();
    let timestamp = record.timestamp_ms.map_or(now, Millis);
    builder.append_with(timestamp, record.key.as_deref(), record.value.as_deref(), &headers);
}
