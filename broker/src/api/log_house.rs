//! A broker whose bucket is in memory and a client on a connection to it: what tests of logs live in.

use bytes::Bytes;
use tidemark_proto::client::{Client, Options};
use tidemark_proto::id::{Millis, ProducerEpoch, ProducerId, TopicId};
use tidemark_proto::kafka::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use tidemark_proto::kafka::messages::fetch_request::{FetchPartition, FetchTopic};
use tidemark_proto::kafka::messages::fetch_response::PartitionData;
use tidemark_proto::kafka::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use tidemark_proto::kafka::messages::list_offsets_response::ListOffsetsPartitionResponse;
use tidemark_proto::kafka::messages::produce_request::{PartitionProduceData, TopicProduceData};
use tidemark_proto::kafka::messages::produce_response::PartitionProduceResponse;
use tidemark_proto::kafka::messages::{
    DeleteRecordsRequest, FetchRequest, ListOffsetsRequest, ProduceRequest, ProduceResponse,
};
use tidemark_proto::kafka::pieces::Pieces;
use tidemark_proto::kafka::text::Text;
use tidemark_proto::record::build::Builder;
use tidemark_proto::record::view::Batch;
use tidemark_tiering::bucket::faults::{Faulty, Weather};
use tidemark_tiering::bucket::{self, Bucket, Memory};
use tidemark_tiering::seam::Seams;
use tokio::io::duplex;

use super::testing::{again, over, running, running_with};
use super::*;
use crate::cluster::command::NewTopic;
use crate::cluster::{Command, Reply};
use crate::node::Running;
use crate::server::{Limits, Server, Transport};

/// See the module.
pub struct House {
    /// The broker.
    pub running: Running,
    /// The client.
    pub client: Client,
    topics: u128,
    server: Server,
}

impl House {
    /// A fresh one.
    pub async fn open() -> House {
        House::around(running().await)
    }

    /// A fresh one with settings.
    pub async fn with(sets: &[&str]) -> House {
        House::around(running_with(sets).await)
    }

    /// A fresh one, and its store: good until a test says otherwise.
    pub async fn over_faulty_store() -> (House, Faulty) {
        let seams = Seams::seeded(1);
        let memory = Arc::new(Memory::new(seams.clock.clone()));
        let store = Faulty::new(memory, Weather::default(), seams.entropy.fork());
        let bucket = Bucket::new(Arc::new(store.clone()), bucket::Options::default(), &seams);
        (House::around(over(bucket, seams).await), store)
    }

    fn around(running: Running) -> House {
        let node = running.node.clone();
        let server = Server::new(Arc::new(Dispatch::new(node.clone())), Limits::default(), &node.seams);
        let client = connect(&server, &node.seams, Options::default());
        House { running, client, topics: 0, server }
    }

    /// Another connection, of a client that goes by `name`.
    pub fn client_named(&self, name: &str) -> Client {
        let options = Options { client_id: name.into(), ..Options::default() };
        connect(&self.server, &self.running.node.seams, options)
    }

    /// The broker ends without a word and its node id comes back as another life.
    pub async fn restart(self) -> House {
        let node = self.running.node.clone();
        let topics = self.topics;
        assert!(self.running.close(Duration::from_secs(30)).await);
        let house = House { topics, ..House::around(again(&node).await) };
        while house.list("", 0, -2, 0).await.error_code == 6 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        house
    }

    /// Creates a topic of one partition.
    pub async fn topic(&mut self, name: &str, configs: &[(&str, &str)]) -> TopicId {
        self.topics += 1;
        let id = TopicId(uuid::Uuid::from_u128(100 + self.topics));
        let configs = configs.iter().map(|(k, v)| ((*k).to_owned(), Some((*v).to_owned()))).collect();
        let new =
            NewTopic { name: name.into(), id, partitions: 1, replication: 1, configs, ..NewTopic::default() };
        let create = Command::CreateTopics { topics: vec![new], validate_only: false };
        match self.running.node.cluster.submit(create).await {
            Ok(Reply::Created(rows)) => assert!(rows[0].1.is_ok(), "{rows:?}"),
            other => panic!("{other:?}"),
        }
        while self.list(name, 0, -2, 0).await.error_code != 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        id
    }

    /// Produces one batch to partition 0.
    pub async fn produce(&self, version: i16, topic: &str, batch: &Batch) -> PartitionProduceResponse {
        self.produce_as(version, None, topic, batch).await
    }

    /// The same with a transactional id in the request.
    pub async fn produce_as(
        &self,
        version: i16,
        transactional_id: Option<&str>,
        topic: &str,
        batch: &Batch,
    ) -> PartitionProduceResponse {
        let response = self.send(version, transactional_id, topic, batch).await;
        response.responses[0].partition_responses[0].clone()
    }

    /// The same with these acks: the code, `None` where nothing is answered.
    pub async fn produce_with_acks(&self, acks: i16, topic: &str, batch: &Batch) -> Option<i16> {
        let request = self.request(None, acks, topic, batch);
        if acks == 0 {
            self.client.send(9, &request).await.unwrap();
            return None;
        }
        let response = self.client.call(9, &request).await.unwrap();
        Some(response.responses[0].partition_responses[0].error_code)
    }

    /// The same, answered whole.
    pub async fn produce_whole(&self, version: i16, topic: &str, batch: &Batch) -> ProduceResponse {
        self.send(version, None, topic, batch).await
    }

    async fn send(
        &self,
        version: i16,
        transactional_id: Option<&str>,
        topic: &str,
        batch: &Batch,
    ) -> ProduceResponse {
        let request = self.request(transactional_id, -1, topic, batch);
        self.client.call(version, &request).await.unwrap()
    }

    /// The request that produces one batch to partition 0.
    pub fn request(
        &self,
        transactional_id: Option<&str>,
        acks: i16,
        topic: &str,
        batch: &Batch,
    ) -> ProduceRequest {
        let records = Some(Pieces::from(batch.bytes().clone()));
        let data = PartitionProduceData { index: 0, records, ..Default::default() };
        let image = self.running.node.cluster.image();
        let topic_id = image.topic_named(topic).map_or(uuid::Uuid::nil(), |t| t.id.0);
        let topic = TopicProduceData {
            name: topic.into(),
            topic_id,
            partition_data: vec![data],
            ..Default::default()
        };
        ProduceRequest {
            transactional_id: transactional_id.map(Text::from),
            acks,
            timeout_ms: 30_000,
            topic_data: vec![topic],
            ..Default::default()
        }
    }

    /// Fetches partition 0 from `offset`, at isolation level `isolation`, without waiting.
    pub async fn fetch(&self, topic: &str, offset: i64, isolation: i8) -> PartitionData {
        let partition = FetchPartition {
            partition: 0,
            fetch_offset: offset,
            partition_max_bytes: 1 << 20,
            ..Default::default()
        };
        let topic = FetchTopic { topic: topic.into(), partitions: vec![partition], ..Default::default() };
        let request = FetchRequest {
            replica_id: -1,
            max_wait_ms: 0,
            min_bytes: 1,
            max_bytes: 1 << 20,
            isolation_level: isolation,
            session_epoch: -1,
            topics: vec![topic],
            ..Default::default()
        };
        let response = self.client.call(12, &request).await.unwrap();
        response.responses[0].partitions[0].clone()
    }

    /// Asks for the offset at `timestamp` of partition 0.
    pub async fn list(
        &self,
        topic: &str,
        index: i32,
        timestamp: i64,
        isolation: i8,
    ) -> ListOffsetsPartitionResponse {
        let partition = ListOffsetsPartition { partition_index: index, timestamp, ..Default::default() };
        let topic =
            ListOffsetsTopic { name: topic.into(), partitions: vec![partition], ..Default::default() };
        let request = ListOffsetsRequest {
            replica_id: -1,
            isolation_level: isolation,
            topics: vec![topic],
            ..Default::default()
        };
        let response = self.client.call(9, &request).await.unwrap();
        response.topics[0].partitions[0].clone()
    }

    /// Deletes the records of a partition below `offset`: low watermark and code.
    pub async fn delete(&self, version: i16, topic: &str, index: i32, offset: i64) -> (i64, i16) {
        let partition = DeleteRecordsPartition { partition_index: index, offset, ..Default::default() };
        let topic =
            DeleteRecordsTopic { name: topic.into(), partitions: vec![partition], ..Default::default() };
        let request = DeleteRecordsRequest { topics: vec![topic], timeout_ms: 30_000, ..Default::default() };
        let response = self.client.call(version, &request).await.unwrap();
        let row = &response.topics[0].partitions[0];
        (row.low_watermark, row.error_code)
    }
}

fn connect(server: &Server, seams: &Seams, options: Options) -> Client {
    let (ours, theirs) = duplex(1 << 20);
    server.attach(Transport::stream(theirs), "PLAINTEXT", "10.0.0.1:999".parse().unwrap());
    let (client, driver) = Client::over(ours, options);
    seams.tasks.spawn(driver);
    client
}

/// A fetch without a session; `topics` are partitions 0 from their start, `most` bytes of all and of each.
pub fn fetch_of(topics: &[&str], most: i32, least: i32, wait_ms: i32) -> FetchRequest {
    let topic = |name: &&str| {
        let partition = FetchPartition { partition_max_bytes: most, ..Default::default() };
        FetchTopic { topic: (*name).into(), partitions: vec![partition], ..Default::default() }
    };
    FetchRequest {
        replica_id: -1,
        max_wait_ms: wait_ms,
        min_bytes: least,
        max_bytes: most,
        session_epoch: -1,
        topics: topics.iter().map(topic).collect(),
        ..Default::default()
    }
}

/// A batch of records with these timestamps.
pub fn batch(times: &[i64]) -> Batch {
    let mut builder = Builder::new();
    times.iter().for_each(|at| {
        builder.append(Millis(*at), Some(b"k"), Some(b"v"));
    });
    builder.build()
}

/// A batch of `count` records of producer `id`, from `sequence` on.
pub fn from_producer(id: i64, epoch: i16, sequence: i32, count: i32) -> Batch {
    let mut builder = Builder::new().producer(ProducerId(id), ProducerEpoch(epoch), sequence);
    (0..count).for_each(|_| {
        builder.append(Millis(1), Some(b"k"), Some(b"v"));
    });
    builder.build()
}

/// First and last offset of each batch.
pub fn spans(data: &PartitionData) -> Vec<(i64, i64)> {
    let bytes: Bytes = data.records.clone().unwrap_or_default().into_bytes().unwrap();
    let batches = tidemark_proto::record::view::Batches::new(bytes);
    batches.map(|b| b.unwrap()).map(|b| (b.base_offset().0, b.last_offset().0)).collect()
}
