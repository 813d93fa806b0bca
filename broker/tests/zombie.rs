//! Row 54 with real processes: a leader is stopped longer than its session, another takes over, and it goes on.

// Processes are watched from the real world.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tidemark_proto::client::{Client, Options};
use tidemark_proto::id::{Millis, ProducerEpoch, ProducerId};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::create_topics_request::CreatableTopic;
use tidemark_proto::kafka::messages::fetch_request::{FetchPartition, FetchTopic};
use tidemark_proto::kafka::messages::metadata_request::MetadataRequestTopic;
use tidemark_proto::kafka::messages::produce_request::{PartitionProduceData, TopicProduceData};
use tidemark_proto::kafka::messages::{
    CreateTopicsRequest, FetchRequest, InitProducerIdRequest, MetadataRequest, ProduceRequest,
};
use tidemark_proto::kafka::pieces::Pieces;
use tidemark_proto::record::build::Builder;
use tidemark_proto::record::records::Records;
use tidemark_proto::record::view::Batches;
use tokio::time::{sleep, timeout};

const TOPIC: &str = "zombie";
/// Longer than a session (2.5 s) and its detection.
const STOPPED: Duration = Duration::from_secs(9);

/// A broker process; killed when dropped.
struct Broker {
    child: Child,
    kafka: String,
    said: Arc<Mutex<Vec<String>>>,
}

impl Broker {
    /// Starts node `node` on the bucket in `dir` and waits until it says where it is.
    fn start(dir: &Path, node: i32) -> Broker {
        let sets = [
            format!("tidemark.bucket=file://{}", dir.display()),
            format!("node.id={node}"),
            "listeners=PLAINTEXT://127.0.0.1:0".to_owned(),
            "tidemark.http.listen=127.0.0.1:0".to_owned(),
        ];
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemark"));
        command.arg("serve").env("RUST_LOG", "warn").stdout(Stdio::piped()).stderr(Stdio::piped());
        for set in sets {
            command.args(["--set", &set]);
        }
        let said = Arc::new(Mutex::new(Vec::new()));
        let mut broker = Broker { child: command.spawn().unwrap(), kafka: String::new(), said };
        let errors = BufReader::new(broker.child.stderr.take().unwrap());
        let heard = broker.said.clone();
        std::thread::spawn(move || {
            errors.lines().map_while(Result::ok).for_each(|line| heard.lock().unwrap().push(line));
        });
        for line in BufReader::new(broker.child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some(address) = line.trim().strip_prefix("PLAINTEXT") {
                broker.kafka = address.split_whitespace().next().unwrap().to_owned();
            }
            if line.contains("/metrics") {
                return broker;
            }
        }
        panic!("it ended before it was ready: {:?}", broker.said.lock().unwrap());
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([format!("-{name}"), id]).status().unwrap().success());
    }

    fn says(&self, words: &str) -> bool {
        self.said.lock().unwrap().iter().any(|line| line.contains(words))
    }

    async fn connect(&self) -> Client {
        let (client, driver) = Client::connect(self.kafka.clone(), Options::default()).await.unwrap();
        tokio::spawn(driver);
        client
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks again until there is an answer that will do.
async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// The node that leads the partition and how many brokers there are, as this broker knows it.
async fn leader(client: &Client) -> Option<(i32, usize)> {
    let topic = MetadataRequestTopic { name: Some(TOPIC.into()), ..Default::default() };
    let request = MetadataRequest { topics: Some(vec![topic]), ..Default::default() };
    let answer = client.call(12, &request).await.ok()?;
    let partition = answer.topics.first()?.partitions.first()?;
    (partition.error_code == 0).then_some((partition.leader_id, answer.brokers.len()))
}

/// A batch of one record, whose value is its sequence.
fn batch(producer: ProducerId, sequence: i32) -> ProduceRequest {
    let at = Millis(1_767_225_600_000);
    let mut builder = Builder::new().producer(producer, ProducerEpoch(0), sequence).base_timestamp(at);
    builder.append(at, None, Some(&sequence.to_be_bytes()));
    let records = Some(Pieces::from(builder.build().bytes().clone()));
    let data = PartitionProduceData { index: 0, records };
    let topic = TopicProduceData { name: TOPIC.into(), partition_data: vec![data], ..Default::default() };
    ProduceRequest { acks: -1, timeout_ms: 20_000, topic_data: vec![topic], ..Default::default() }
}

/// Sends the batch of `sequence`; its offset, or why not.
async fn produce(client: &Client, producer: ProducerId, sequence: i32) -> Result<i64, ErrorCode> {
    let request = batch(producer, sequence);
    let answer = timeout(Duration::from_secs(20), client.call(9, &request)).await;
    let Ok(Ok(answer)) = answer else { return Err(ErrorCode::NetworkException) };
    let row = &answer.responses[0].partition_responses[0];
    match ErrorCode::from_code(row.error_code) {
        ErrorCode::None => Ok(row.base_offset),
        code => Err(code),
    }
}

/// Everything that can be read, by offset.
async fn read_all(client: &Client) -> Option<BTreeMap<i64, i32>> {
    let mut all = BTreeMap::new();
    loop {
        let next = all.last_key_value().map_or(0, |(offset, _)| offset + 1);
        let partition =
            FetchPartition { fetch_offset: next, partition_max_bytes: 1 << 20, ..Default::default() };
        let topic = FetchTopic { topic: TOPIC.into(), partitions: vec![partition], ..Default::default() };
        let request = FetchRequest {
            replica_id: -1,
            max_wait_ms: 100,
            min_bytes: 1,
            max_bytes: 1 << 20,
            topics: vec![topic],
            ..Default::default()
        };
        let answer = client.call(12, &request).await.ok()?;
        let row = answer.responses.first()?.partitions.first()?.clone();
        if row.error_code != 0 {
            return None;
        }
        if next >= row.high_watermark {
            return Some(all);
        }
        for batch in Batches::new(row.records?.into_bytes().ok()?) {
            for record in Records::new(&batch.unwrap()).unwrap() {
                let record = record.unwrap();
                let value = i32::from_be_bytes(record.value.unwrap()[..].try_into().unwrap());
                all.insert(record.offset.0, value);
            }
        }
    }
}

#[tokio::test]
async fn row_54_a_stopped_leader_that_goes_on_is_refused_says_so_and_nothing_acked_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let brokers = BTreeMap::from([(1, Broker::start(dir.path(), 1)), (2, Broker::start(dir.path(), 2))]);
    let client = brokers[&1].connect().await;
    let topic = CreatableTopic {
        name: TOPIC.into(),
        num_partitions: 1,
        replication_factor: -1,
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, ..Default::default() };
    assert_eq!(client.call(7, &request).await.unwrap().topics[0].error_code, 0);
    let both = until("both brokers are there", async || leader(&client).await.filter(|(_, n)| *n == 2));
    let (first, _) = both.await;
    let second = 3 - first;
    let (zombie, other) = (brokers[&first].connect().await, brokers[&second].connect().await);
    let request = InitProducerIdRequest { transactional_id: None, ..Default::default() };
    let producer = ProducerId(zombie.call(4, &request).await.unwrap().producer_id);

    let mut acked: BTreeMap<i32, i64> = BTreeMap::new();
    for sequence in 0..20 {
        acked
            .insert(sequence, until("acked", async || produce(&zombie, producer, sequence).await.ok()).await);
    }
    // Some are on their way when it stops.
    let flying: Vec<_> = (20..23)
        .map(|sequence| {
            let zombie = zombie.clone();
            tokio::spawn(async move { (sequence, produce(&zombie, producer, sequence).await) })
        })
        .collect();
    tokio::task::yield_now().await;
    brokers[&first].signal("STOP");
    let stopped = Instant::now();
    let moved = until("the other took over", async || leader(&other).await.filter(|(l, _)| *l == second));
    moved.await;
    for sequence in 20..40 {
        acked.insert(sequence, until("acked", async || produce(&other, producer, sequence).await.ok()).await);
    }
    sleep(STOPPED.saturating_sub(stopped.elapsed())).await;
    brokers[&first].signal("CONT");

    // It may learn that what it sent in time counts; all else it refuses.
    for answer in flying {
        let (sequence, answer) = answer.await.unwrap();
        match answer {
            Ok(offset) => assert_eq!(acked[&sequence], offset, "sequence {sequence}"),
            Err(code) => assert!(code.is_retriable(), "sequence {sequence}: {code}"),
        }
    }
    let late = produce(&zombie, producer, 40).await;
    assert_eq!(late, Err(ErrorCode::NotLeaderOrFollower));
    let fenced = "fenced: somebody has sealed this broker's lane; registering anew";
    until("it says that it was fenced", async || brokers[&first].says(fenced).then_some(())).await;
    // Its node id is its own: it is back under a new epoch, and leads nothing that was taken from it.
    let back = until("it is back", async || leader(&other).await.filter(|(_, n)| *n == 2));
    assert_eq!(back.await.0, second);

    let read = until("all is read", async || read_all(&other).await).await;
    let expected: BTreeMap<i64, i32> = acked.iter().map(|(sequence, offset)| (*offset, *sequence)).collect();
    assert_eq!(read, expected, "what was acknowledged is there once, in order, and nothing else");
    assert_eq!(read.keys().copied().collect::<Vec<_>>(), (0..40).collect::<Vec<_>>());
}
