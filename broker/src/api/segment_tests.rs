//! Tiered topics over a connection: answers are the same before and after what was asked about lies in segments.

use tidemark_proto::id::{Millis, PartitionIndex, TopicId, TopicPartition};
use tidemark_proto::kafka::messages::ListOffsetsRequest;
use tidemark_proto::kafka::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use tidemark_proto::record::build::Builder;
use tidemark_proto::record::view::Batch;
use tidemark_tiering::bucket::{Kind, Patience};
use tidemark_tiering::keys;
use tidemark_tiering::witness;
use tokio::time::{Duration, sleep};

use super::log_house::{House, spans};
use super::txn_tests::aborted;
use crate::cluster::command::{Command, Reply, TopicRef};
use crate::cluster::record::Scope;

const COMMITTED: i8 = 1;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;
const PENDING: i64 = -6;
/// Deletions wait ten minutes.
const GRACE: Duration = Duration::from_secs(1200);
/// Little memory, quick cuts, small segments.
const SETS: [&str; 4] = [
    "tidemark.offload.bytes=30000",
    "tidemark.offload.check.ms=500",
    "tidemark.cut.ms=1000",
    "tidemark.hot.memory.bytes=0",
];

fn big(time: i64) -> Batch {
    Builder::new().append(Millis(time), Some(b"key"), Some(&[7; 4000])).build()
}

impl House {
    async fn tiered(sets: &[&str]) -> (House, TopicId) {
        let mut house = House::with(sets).await;
        // The records' own times are long over.
        let id = house.topic("t", &[("remote.storage.enable", "true"), ("retention.ms", "-1")]).await;
        (house, id)
    }

    /// The runs that hold something of the partition: where each share ends.
    async fn in_runs(&self, topic: TopicId) -> Vec<i64> {
        let tp = TopicPartition { topic, partition: PartitionIndex(0) };
        let node = &self.running.node;
        let shares = node.archive.shares(&node.cluster.image(), tp).await.unwrap();
        shares.iter().map(|share| share.last.0).collect()
    }

    /// So long that the client is cut off for doing nothing.
    async fn later(&mut self, wait: Duration) {
        sleep(wait).await;
        self.client = self.client_named("later");
    }

    async fn submit(&self, command: Command) {
        self.running.node.cluster.submit(command).await.unwrap();
    }

    async fn set_config(&self, topic: &str, key: &str, value: &str) {
        let id = self.running.node.cluster.image().topic_named(topic).unwrap().id;
        let set = vec![(key.to_owned(), Some(value.to_owned()))];
        self.submit(Command::SetConfig { scope: Scope::Topic(id), set, validate_only: false }).await;
    }

    /// Why the topic cannot be configured so.
    async fn refuses(&self, topic: TopicId, set: &[(&str, Option<&str>)]) -> Option<String> {
        let set = set.iter().map(|(key, value)| ((*key).to_owned(), value.map(str::to_owned))).collect();
        let command = Command::SetConfig { scope: Scope::Topic(topic), set, validate_only: true };
        match self.running.node.cluster.submit(command).await.unwrap() {
            Reply::Row(row) => row.err().map(|refusal| refusal.why),
            other => panic!("{other:?}"),
        }
    }

    async fn drop_topic(&self, topic: &str) {
        self.submit(Command::DeleteTopics { topics: vec![TopicRef::Name(topic.into())] }).await;
    }

    async fn run_objects(&self) -> usize {
        let bucket = &self.running.node.bucket;
        bucket.list(Kind::Run, keys::RUNS, None, Patience::Tries(1)).await.unwrap().len()
    }

    /// The log as a reader sees it, batch by batch, and the transactions that it was told are aborted.
    async fn walk(&self, isolation: i8) -> (Vec<(i64, i64)>, Vec<(i64, i64)>) {
        let (mut seen, mut told) = (Vec::new(), Vec::new());
        let mut next = self.list("t", 0, -2, 0).await.offset;
        loop {
            let data = self.fetch("t", next, isolation).await;
            assert_eq!(data.error_code, 0, "at {next}");
            let batches = spans(&data);
            let Some((_, last)) = batches.last() else { break };
            told.extend(aborted(&data).unwrap_or_default());
            next = last + 1;
            seen.extend(batches);
        }
        told.sort_unstable();
        told.dedup();
        (seen, told)
    }

    async fn times(&self) -> Vec<(i64, i64)> {
        let mut found = Vec::new();
        for time in [0, 1, 105, 117, 118, 129, 1000, -3] {
            let row = self.list("t", 0, time, 0).await;
            found.push((row.offset, row.timestamp));
        }
        found
    }

    async fn pending(&self) -> i64 {
        let partition = ListOffsetsPartition { timestamp: PENDING, ..Default::default() };
        let topic = ListOffsetsTopic { name: "t".into(), partitions: vec![partition], ..Default::default() };
        let request = ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
        let response = self.client.call(11, &request).await.unwrap();
        response.topics[0].partitions[0].offset
    }

    fn segments(&self, topic: TopicId) -> Vec<(i64, i64, bool)> {
        let image = self.running.node.cluster.image();
        let rows = image.topic(topic).map(|t| t.partitions[0].segments().to_vec()).unwrap_or_default();
        rows.iter().map(|row| (row.base.0, row.last.0, row.state.is_readable())).collect()
    }

    async fn objects(&self) -> usize {
        let bucket = &self.running.node.bucket;
        bucket.list(Kind::Segment, keys::SEGMENTS, None, Patience::Tries(1)).await.unwrap().len()
    }
}

#[tokio::test(start_paused = true)]
async fn answers_are_the_same_whether_data_is_in_parcels_runs_or_segments() {
    let (mut house, id) = House::tiered(&SETS).await;
    assert_eq!(house.list("t", 0, LATEST_TIERED, 0).await.offset, -1);
    assert_eq!(house.pending().await, 0);
    for time in 100..110 {
        house.produce(9, "t", &big(time)).await;
    }
    assert_eq!(house.write(7, 0, 0).await, 0);
    assert_eq!(house.write(8, 0, 0).await, 0);
    for time in 110..120 {
        house.produce(9, "t", &big(time)).await;
    }
    house.end(7, 0, false, 1).await;
    house.end(8, 0, true, 1).await;
    for time in 120..130 {
        house.produce(9, "t", &big(time)).await;
    }
    let before = (house.walk(0).await, house.walk(COMMITTED).await, house.times().await);
    assert_eq!(before.0.0.len(), 34);
    assert_eq!(before.1.1, [(7, 10)], "the one that was aborted");
    sleep(Duration::from_secs(60)).await;

    let segments = house.segments(id);
    assert!(segments.len() >= 3, "{segments:?}");
    assert_eq!(segments[0].0, 0);
    assert!(segments.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0), "no hole: {segments:?}");
    assert_eq!(house.objects().await, 3 * segments.len(), "and nothing else was written");
    let end = segments[segments.len() - 1].1;
    assert_eq!(house.list("t", 0, LATEST_TIERED, 0).await.offset, end);
    assert_eq!(house.pending().await, end + 1);
    witness::take();
    for _ in 0..2 {
        let now = (house.walk(0).await, house.walk(COMMITTED).await, house.times().await);
        assert_eq!(now, before);
        assert!(witness::take().get("R27 segment read").is_some_and(|times| *times > 5), "they were asked");
        house = house.restart().await;
    }
    let rows = house.segments(id);
    assert_eq!(rows[..segments.len()], segments, "they outlive the broker");
}

#[tokio::test(start_paused = true)]
async fn what_an_open_transaction_may_yet_abort_is_in_no_segment() {
    let (house, id) = House::tiered(&SETS).await;
    for time in 100..110 {
        house.produce(9, "t", &big(time)).await;
    }
    assert_eq!(house.write(7, 0, 0).await, 0);
    for time in 110..130 {
        house.produce(9, "t", &big(time)).await;
    }
    sleep(Duration::from_secs(60)).await;
    let segments = house.segments(id);
    assert!(!segments.is_empty() && segments.iter().all(|(_, last, _)| *last < 10), "{segments:?}");
    house.end(7, 0, true, 1).await;
    sleep(Duration::from_secs(60)).await;
    assert!(house.segments(id).last().is_some_and(|(_, last, _)| *last > 20));
}

#[tokio::test(start_paused = true)]
async fn segments_below_the_log_start_go_and_the_next_one_follows_on() {
    let (mut house, id) = House::tiered(&SETS).await;
    for time in 100..130 {
        house.produce(9, "t", &big(time)).await;
    }
    sleep(Duration::from_secs(60)).await;
    let before = house.segments(id);
    let inside = before[1].0 + 1;
    house.delete(2, "t", 0, inside).await;
    house.later(GRACE).await;
    let after = house.segments(id);
    assert_eq!(after, before[1..], "only what lies whole below it");
    assert_eq!(house.objects().await, 3 * after.len());
    assert_eq!(house.fetch("t", inside - 1, 0).await.error_code, 1);
    assert_eq!(house.walk(0).await.0[0].0, inside);
    // All of it goes: the next segment begins where the log does.
    let end = house.list("t", 0, -1, 0).await.offset;
    house.delete(2, "t", 0, end).await;
    house.later(GRACE).await;
    assert_eq!(house.list("t", 0, LATEST_TIERED, 0).await.offset, -1);
    assert_eq!(house.segments(id), []);
    house = house.restart().await;
    for time in 130..145 {
        house.produce(9, "t", &big(time)).await;
    }
    sleep(Duration::from_secs(60)).await;
    let fresh = house.segments(id);
    assert_eq!(fresh[0].0, end, "{fresh:?}");
    assert_eq!(house.walk(0).await.0.len(), 15);
}

#[tokio::test(start_paused = true)]
async fn runs_whose_bytes_lie_in_segments_go_and_every_offset_is_still_read() {
    let (mut house, id) = House::tiered(&SETS).await;
    for time in 100..130 {
        house.produce(9, "t", &big(time)).await;
        sleep(Duration::from_secs(2)).await; // a cut for each
    }
    let (log, times) = (house.walk(0).await, house.times().await);
    assert_eq!(log.0.len(), 30);
    house.later(GRACE).await;
    let end = house.segments(id).last().map(|(_, last, _)| *last).unwrap();
    let left = house.in_runs(id).await;
    assert!(end >= 20 && left.iter().all(|last| *last > end), "{end}: {left:?}");
    assert!(house.run_objects().await <= 10, "objects too: {}", house.run_objects().await);
    for _ in 0..2 {
        assert_eq!((house.walk(0).await, house.times().await), (log.clone(), times.clone()));
        house = house.restart().await;
    }
    let next = house.produce(9, "t", &big(200)).await;
    assert_eq!(next.base_offset, 30, "the log goes on where it ended");
}

#[tokio::test(start_paused = true)]
async fn retention_takes_the_oldest_segments_and_a_deleted_topic_leaves_nothing() {
    let (mut house, id) = House::tiered(&SETS).await;
    let old = house.running.node.seams.clock.wall().0;
    for i in 0..30 {
        house.produce(9, "t", &big(old + i * 60_000)).await;
    }
    sleep(Duration::from_secs(60)).await;
    let before = house.segments(id);
    assert!(before.len() >= 3);
    house.set_config("t", "retention.bytes", "50000").await;
    house.later(GRACE).await;
    let after = house.segments(id);
    assert!(!after.is_empty() && after.len() < before.len() && before.ends_with(&after), "{after:?}");
    assert_eq!(house.list("t", 0, -2, 0).await.offset, after[0].0);
    assert_eq!(house.objects().await, 3 * after.len());
    house.set_config("t", "retention.ms", "1000").await;
    house.later(GRACE + Duration::from_secs(30 * 60)).await;
    assert_eq!((house.segments(id), house.objects().await), (vec![], 0), "by time, all of them");
    house.set_config("t", "retention.ms", "-1").await;
    house.set_config("t", "retention.bytes", "-1").await;
    for i in 0..30 {
        house.produce(9, "t", &big(old + i)).await;
    }
    sleep(Duration::from_secs(60)).await;
    assert!(house.objects().await > 0);
    house.drop_topic("t").await;
    house.later(2 * GRACE).await;
    assert_eq!(house.objects().await, 0);
    assert_eq!(house.running.node.cluster.image().deleted().count(), 0, "and the topic is done with");
}

#[tokio::test(start_paused = true)]
async fn local_retention_says_where_the_log_on_disk_starts() {
    let (house, id) = House::tiered(&SETS).await;
    for time in 100..130 {
        house.produce(9, "t", &big(time)).await;
    }
    sleep(Duration::from_secs(60)).await;
    assert_eq!(house.list("t", 0, EARLIEST_LOCAL, 0).await.offset, 0);
    let end = house.segments(id).last().map(|(_, last, _)| *last).unwrap();
    house.set_config("t", "local.retention.bytes", "1").await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(house.list("t", 0, EARLIEST_LOCAL, 0).await.offset, end + 1, "all that is in segments");
    assert_eq!(house.list("t", 0, -2, 0).await.offset, 0);
    assert_eq!(house.walk(0).await.0.len(), 30);
}

#[tokio::test(start_paused = true)]
async fn what_lies_in_segments_is_never_compacted() {
    let (mut house, id) = House::tiered(&SETS).await;
    let compact = ("cleanup.policy", Some("compact"));
    let off = ("remote.storage.enable", None);
    let why = house.refuses(id, &[compact]).await;
    assert_eq!(why.as_deref(), Some("remote.storage.enable=true goes with cleanup.policy=delete only"));
    assert_eq!(house.refuses(id, &[compact, off]).await, None);
    for time in 100..130 {
        house.produce(9, "t", &big(time)).await;
    }
    sleep(Duration::from_secs(60)).await;
    let why = house.refuses(id, &[compact, off]).await;
    assert_eq!(why.as_deref(), Some("cleanup.policy: what lies in segments cannot be compacted"));
    assert_eq!(house.refuses(id, &[off]).await, None);
    let other = house.topic("other", &[("cleanup.policy", "compact,delete")]).await;
    assert!(house.refuses(other, &[("remote.storage.enable", Some("true"))]).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_is_not_tiered_has_no_segments() {
    let mut house = House::with(&SETS).await;
    let id = house.topic("t", &[]).await;
    for time in 100..130 {
        house.produce(9, "t", &big(time)).await;
    }
    sleep(Duration::from_secs(60)).await;
    assert_eq!(house.segments(id), []);
    assert_eq!(house.objects().await, 0);
}
