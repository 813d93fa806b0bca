//! Bad inputs to a whole broker (rows of `broker/tests/BAD_INPUTS.md`): the code each is answered with, what it may hold,
//! and that another connection is none the worse.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidemark_proto::client::{Client, Options};
use tidemark_proto::id::{Millis, ProducerEpoch, ProducerId};
use tidemark_proto::kafka::messages::create_topics_request::CreatableTopic;
use tidemark_proto::kafka::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use tidemark_proto::kafka::messages::fetch_request::{FetchPartition, FetchTopic};
use tidemark_proto::kafka::messages::produce_request::{PartitionProduceData, TopicProduceData};
use tidemark_proto::kafka::messages::{
    CreateTopicsRequest, DeleteRecordsRequest, FetchRequest, FetchResponse, ProduceRequest,
};
use tidemark_proto::kafka::pieces::Pieces;
use tidemark_proto::record::build::Builder;
use tidemark_tiering::bucket::{self, Bucket, Memory};
use tidemark_tiering::seam::Seams;
use tokio::io::duplex;
use tokio::time::Instant;

use super::Dispatch;
use super::testing::{again, over, running};
use crate::node::{Node, Running};
use crate::server::{Limits, Server, Transport};

const NOT_LEADER: i16 = 6;

/// A broker with the topic `t` of two partitions, and its edge.
struct Rig {
    running: Running,
    server: Server,
}

fn edge(node: &Arc<Node>) -> Server {
    Server::new(Arc::new(Dispatch::new(node.clone())), Limits::default(), &node.seams)
}

impl Rig {
    async fn new() -> Rig {
        Rig::with(running().await).await
    }

    async fn with(running: Running) -> Rig {
        let rig = Rig { server: edge(&running.node), running };
        let topic = CreatableTopic {
            name: "t".into(),
            num_partitions: 2,
            replication_factor: 1,
            ..Default::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 5_000, ..Default::default() };
        assert_eq!(rig.client().call(7, &request).await.unwrap().topics[0].error_code, 0);
        rig.unharmed().await;
        rig
    }

    fn client(&self) -> Client {
        let (ours, theirs) = duplex(1 << 20);
        self.server.attach(Transport::stream(theirs), "PLAINTEXT", "10.0.0.1:999".parse().unwrap());
        let (client, driver) = Client::over(ours, Options::default());
        self.running.node.seams.tasks.spawn(driver);
        client
    }

    /// Another connection produces and is answered; nothing of earlier requests is held.
    async fn unharmed(&self) {
        let code = retried(&self.client(), &produce(-1, vec![(1, batch(10))])).await[0].1;
        assert_eq!(code, 0, "another connection is harmed");
        assert_eq!((self.server.queued_bytes(), self.server.unread_bytes()), (0, 0));
    }
}

/// One record of `bytes`.
fn batch(bytes: usize) -> Bytes {
    numbered(bytes, None)
}

/// The same with producer id, epoch and sequence.
fn numbered(bytes: usize, producer: Option<(i64, i16, i32)>) -> Bytes {
    let mut builder = Builder::new();
    if let Some((id, epoch, sequence)) = producer {
        builder = builder.producer(ProducerId(id), ProducerEpoch(epoch), sequence);
    }
    // The seeded world's date.
    builder.append(Millis(1_767_225_600_000), None, Some(&vec![7; bytes])).build().bytes().clone()
}

fn produce(acks: i16, entries: Vec<(i32, Bytes)>) -> ProduceRequest {
    let data = entries
        .into_iter()
        .map(|(index, records)| PartitionProduceData { index, records: Some(Pieces::from(records)) })
        .collect();
    let topic = TopicProduceData { name: "t".into(), partition_data: data, ..Default::default() };
    ProduceRequest { acks, timeout_ms: 10_000, topic_data: vec![topic], ..Default::default() }
}

/// Partition, code and offset of each entry.
async fn sent(client: &Client, request: &ProduceRequest) -> Vec<(i32, i16, i64)> {
    let answer = client.call(9, request).await.unwrap();
    let rows = answer.responses.into_iter().flat_map(|topic| topic.partition_responses);
    rows.map(|row| (row.index, row.error_code, row.base_offset)).collect()
}

/// The same, once the partition is open.
async fn retried(client: &Client, request: &ProduceRequest) -> Vec<(i32, i16, i64)> {
    for _ in 0..500 {
        let rows = sent(client, request).await;
        if rows[0].1 != NOT_LEADER {
            return rows;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the partition never opens");
}

fn wanted(partition: i32, offset: i64) -> FetchPartition {
    FetchPartition {
        partition,
        current_leader_epoch: -1,
        fetch_offset: offset,
        partition_max_bytes: i32::MAX,
        ..Default::default()
    }
}

fn fetching(partitions: Vec<FetchPartition>) -> FetchRequest {
    let topic = FetchTopic { topic: "t".into(), partitions, ..Default::default() };
    FetchRequest { max_bytes: i32::MAX, session_epoch: -1, topics: vec![topic], ..Default::default() }
}

async fn fetch(client: &Client, request: &FetchRequest) -> FetchResponse {
    client.call(12, request).await.unwrap()
}

async fn fetched(client: &Client, partition: FetchPartition) -> i16 {
    fetch(client, &fetching(vec![partition])).await.responses[0].partitions[0].error_code
}

#[tokio::test(start_paused = true)]
async fn row_19_acks_other_than_minus_one_to_one_are_refused() {
    let rig = Rig::new().await;
    for acks in [2, -2, i16::MAX, i16::MIN] {
        assert_eq!(sent(&rig.client(), &produce(acks, vec![(0, batch(10))])).await, [(0, 21, -1)]);
    }
    rig.unharmed().await;
}

#[tokio::test(start_paused = true)]
async fn row_20_a_damaged_batch_is_refused_alone_and_its_neighbour_is_appended() {
    let rig = Rig::new().await;
    let mut flipped = batch(100).to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    let mut lying = batch(100).to_vec();
    lying[11] ^= 0x40;
    for bad in [flipped, lying] {
        let rows = sent(&rig.client(), &produce(-1, vec![(0, Bytes::from(bad)), (1, batch(10))])).await;
        assert_eq!([(rows[0].0, rows[0].1), (rows[1].0, rows[1].1)], [(0, 2), (1, 0)]);
    }
    rig.unharmed().await;
}

#[tokio::test(start_paused = true)]
async fn rows_21_to_27_refusals_of_batches_reach_the_client_with_their_code() {
    let rig = Rig::new().await;
    let with = |at: usize, value: u8| {
        let mut bytes = batch(100).to_vec();
        bytes[at] = value;
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        Bytes::from(bytes)
    };
    for (records, code, what) in [
        (with(16, 1), 43, "row 21: magic 1"),
        (with(16, 3), 87, "row 21: magic 3"),
        (with(60, 9), 87, "row 22: a count that is not so"),
        (with(22, 7), 76, "row 24: codec 7"),
        (batch(2 << 20), 10, "row 25: larger than the topic takes"),
        (with(22, 1 << 5), 87, "row 27: a control batch"),
    ] {
        assert_eq!(sent(&rig.client(), &produce(-1, vec![(0, records)])).await, [(0, code, -1)], "{what}");
    }
    rig.unharmed().await;
}

#[tokio::test(start_paused = true)]
async fn row_28_a_partition_that_comes_twice_is_taken_once() {
    let rig = Rig::new().await;
    let two = [batch(10), batch(10)].concat();
    assert_eq!(sent(&rig.client(), &produce(-1, vec![(0, Bytes::from(two))])).await, [(0, 87, -1)]);
    let rows = retried(&rig.client(), &produce(-1, vec![(0, batch(10)), (0, batch(20))])).await;
    assert_eq!(rows, [(0, 0, 0), (0, 42, -1)]);
    rig.unharmed().await;
}

#[tokio::test(start_paused = true)]
async fn row_29_sequences_are_checked_as_kafka_does() {
    let rig = Rig::new().await;
    let client = rig.client();
    for sequence in 0..7 {
        let rows = retried(&client, &produce(-1, vec![(0, numbered(10, Some((7, 1, sequence))))])).await;
        assert_eq!(rows, [(0, 0, i64::from(sequence))]);
    }
    for (producer, row, what) in [
        ((7, 1, 6), (0, 0, 6), "a repeat has its original's offset"),
        ((7, 1, 9), (0, 45, -1), "a gap"),
        ((7, 1, 0), (0, 46, -1), "older than the window"),
        ((7, 0, 7), (0, 47, -1), "an older epoch"),
    ] {
        let rows = sent(&client, &produce(-1, vec![(0, numbered(10, Some(producer)))])).await;
        assert_eq!(rows, [row], "{what}");
    }
    rig.unharmed().await;
}

#[tokio::test(start_paused = true)]
async fn row_34_offsets_outside_the_log_are_out_of_range() {
    let rig = Rig::new().await;
    let client = rig.client();
    for _ in 0..3 {
        assert_eq!(retried(&client, &produce(-1, vec![(0, batch(10))])).await[0].1, 0);
    }
    let partition = DeleteRecordsPartition { partition_index: 0, offset: 2, ..Default::default() };
    let topic = DeleteRecordsTopic { name: "t".into(), partitions: vec![partition], ..Default::default() };
    let request = DeleteRecordsRequest { topics: vec![topic], timeout_ms: 5_000, ..Default::default() };
    assert_eq!(client.call(2, &request).await.unwrap().topics[0].partitions[0].error_code, 0);
    for offset in [-1, i64::MIN, 1, 4, i64::MAX] {
        assert_eq!(fetched(&client, wanted(0, offset)).await, 1, "offset {offset}");
    }
    assert_eq!((fetched(&client, wanted(0, 2)).await, fetched(&client, wanted(0, 3)).await), (0, 0));
    rig.unharmed().await;
}

#[tokio::test(start_paused = true)]
async fn row_34_who_owns_no_lane_any_more_says_so_whatever_the_offset() {
    let rig = Rig::new().await;
    let client = rig.client();
    assert_eq!(retried(&client, &produce(-1, vec![(0, batch(10))])).await[0].1, 0);
    let _newer = again(&rig.running.node).await;
    for _ in 0..500 {
        if fetched(&client, wanted(0, 0)).await != 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for offset in [0, 99, -1] {
        assert_eq!(fetched(&client, wanted(0, offset)).await, NOT_LEADER, "offset {offset}");
    }
}

#[tokio::test(start_paused = true)]
async fn row_35_leader_epochs_behind_and_ahead_are_told_apart() {
    let rig = Rig::new().await;
    let newer = again(&rig.running.node).await;
    let rig = Rig { server: edge(&newer.node), running: newer };
    let client = rig.client();
    assert_eq!(retried(&client, &produce(-1, vec![(0, batch(10))])).await[0].1, 0);
    let image = rig.running.node.cluster.image();
    let epoch = image.topic_named("t").unwrap().partitions[0].leader_epoch.0;
    assert!(epoch > 0, "it was taken over");
    let with = |epoch| FetchPartition { current_leader_epoch: epoch, ..wanted(0, 0) };
    assert_eq!(fetched(&client, with(epoch)).await, 0);
    assert_eq!(fetched(&client, with(epoch - 1)).await, 74);
    for ahead in [epoch + 1, i32::MAX] {
        assert_eq!(fetched(&client, with(ahead)).await, 75);
    }
    rig.unharmed().await;
}

#[tokio::test(start_paused = true)]
async fn row_36_an_answer_is_bounded_by_the_broker_whatever_is_asked() {
    let rig = Rig::new().await;
    let client = rig.client();
    for _ in 0..4 {
        assert_eq!(retried(&client, &produce(-1, vec![(0, batch(1_000_000))])).await[0].1, 0);
    }
    let bound = rig.running.node.config.fetch_bytes_max;
    // The same 4 MB, forty times over.
    let answer = fetch(&client, &fetching(vec![wanted(0, 0); 40])).await;
    let rows = answer.responses.iter().flat_map(|topic| &topic.partitions);
    let bytes: usize = rows.map(|row| row.records.as_ref().map_or(0, Pieces::len)).sum();
    assert!(bytes > 1_000_000 && bytes <= bound + (2 << 20), "{bytes} of at most {bound}");
    let many: Vec<FetchPartition> = (0..100_000).map(|index| wanted(index, 0)).collect();
    let answer = fetch(&client, &fetching(many)).await;
    let rows: Vec<_> = answer.responses.iter().flat_map(|topic| &topic.partitions).collect();
    assert_eq!(rows.len(), 100_000);
    assert!(rows.iter().skip(2).all(|row| row.error_code == 3));
    rig.unharmed().await;
}

#[tokio::test(start_paused = true)]
async fn row_36_a_wait_without_end_is_clamped() {
    let rig = Rig::new().await;
    let client = rig.client();
    let begun = Instant::now();
    let end = retried(&client, &produce(-1, vec![(0, batch(10))])).await[0].2 + 1;
    let request =
        FetchRequest { max_wait_ms: i32::MAX, min_bytes: i32::MAX, ..fetching(vec![wanted(0, end)]) };
    assert_eq!(fetch(&client, &request).await.responses[0].partitions[0].error_code, 0);
    let waited = begun.elapsed().as_secs();
    assert!((59..=90).contains(&waited), "{waited} s");
    rig.unharmed().await;
}

#[tokio::test(start_paused = true)]
async fn row_37_sessions_that_are_not_there_or_not_due_are_told_and_their_number_is_bounded() {
    let rig = Rig::new().await;
    let client = rig.client();
    let session = |id, epoch| FetchRequest {
        session_id: id,
        session_epoch: epoch,
        ..fetching(if epoch == 0 { vec![wanted(0, 0)] } else { vec![] })
    };
    assert_eq!(fetch(&client, &session(12345, 5)).await.error_code, 70);
    let opened = fetch(&client, &session(0, 0)).await;
    assert!(opened.session_id > 0);
    assert_eq!(fetch(&client, &session(opened.session_id, 9)).await.error_code, 71);
    assert_eq!(fetch(&client, &session(opened.session_id, 1)).await.error_code, 0, "and it goes on");
    let slots = rig.running.node.config.fetch_sessions_max;
    for _ in 0..slots + 200 {
        assert_eq!(fetch(&client, &session(0, 0)).await.error_code, 0, "a full cache is no error");
    }
    assert!(rig.running.node.fetch_sessions.lock().len() <= slots);
    tokio::time::sleep(Duration::from_secs(150)).await;
    assert!(fetch(&client, &session(0, 0)).await.session_id > 0, "an idle one makes room");
    assert!(rig.running.node.fetch_sessions.lock().len() <= slots);
    rig.unharmed().await;
}

/// A broker over a store whose objects a test may damage, with one record in partition 0, sealed and gone.
async fn shut_down(bytes: usize) -> (Memory, Arc<Node>) {
    let seams = Seams::seeded(1);
    let store = Memory::new(seams.clock.clone());
    let bucket = Bucket::new(Arc::new(store.clone()), bucket::Options::default(), &seams);
    let rig = Rig::with(over(bucket, seams).await).await;
    assert_eq!(retried(&rig.client(), &produce(-1, vec![(0, batch(bytes))])).await[0].1, 0);
    let node = rig.running.node.clone();
    assert!(rig.running.close(Duration::from_secs(10)).await);
    (store, node)
}

/// The key and bytes of the parcel that holds the batch of `bytes`.
fn parcel(store: &Memory, bytes: usize) -> (String, Vec<u8>) {
    let parcels = store.dump().into_iter().filter(|(key, _)| key.starts_with("wal/"));
    let (key, found) = parcels.max_by_key(|(_, body)| body.len()).unwrap();
    assert!(found.len() > bytes);
    (key, found.to_vec())
}

async fn code_after(node: &Arc<Node>, what: &str) -> (i16, i16) {
    let running = again(node).await;
    let rig = Rig { server: edge(&running.node), running };
    let client = rig.client();
    let appended = retried(&client, &produce(-1, vec![(0, batch(10))])).await[0].1;
    let answer = fetch(&client, &fetching(vec![wanted(0, 0)])).await;
    let row = &answer.responses[0].partitions[0];
    assert!(row.records.as_ref().is_none_or(Pieces::is_empty), "{what}: damage is served");
    (appended, row.error_code)
}

#[tokio::test(start_paused = true)]
async fn row_50_a_damaged_lost_or_swapped_parcel_takes_its_partition_offline() {
    type Damage = fn(&Memory, &str, Vec<u8>);
    let cases: [(&str, Damage); 3] = [
        ("truncated", |store, key, bytes| {
            store.overwrite(key, Bytes::copy_from_slice(&bytes[..bytes.len() - 9]));
        }),
        ("a bit of the footer flipped", |store, key, mut bytes| {
            let at = bytes.len() - 40;
            bytes[at] ^= 4;
            store.overwrite(key, Bytes::from(bytes));
        }),
        ("swapped with another", |store, key, _| {
            let is_other = |other: &String| other.starts_with("wal/") && other != key;
            let other = store.dump().into_iter().find(|(other, _)| is_other(other));
            store.overwrite(key, other.expect("another parcel or seal").1);
        }),
    ];
    for (what, damage) in cases {
        let (store, node) = shut_down(5_000).await;
        let (key, bytes) = parcel(&store, 5_000);
        damage(&store, &key, bytes);
        assert_eq!(code_after(&node, what).await, (56, 56), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn row_50_a_flipped_bit_of_a_batch_is_never_served() {
    let (store, node) = shut_down(5_000).await;
    let (key, mut bytes) = parcel(&store, 5_000);
    let at = bytes.windows(100).position(|window| window == [7; 100]).unwrap();
    bytes[at + 50] ^= 1;
    store.overwrite(&key, Bytes::from(bytes));
    let (_, read) = code_after(&node, "a batch").await;
    assert_eq!(read, 56);
}
