//! Client quotas over a connection: set, shown, enforced.

use std::time::Duration;

use tidemark_proto::id::Millis;
use tidemark_proto::kafka::messages::alter_client_quotas_request::{EntityData, EntryData, OpData};
use tidemark_proto::kafka::messages::fetch_request::{FetchPartition, FetchTopic};
use tidemark_proto::kafka::messages::{
    AlterClientQuotasRequest, DescribeClientQuotasRequest, FetchRequest, FetchResponse,
};
use tidemark_proto::record::build::Builder;
use tidemark_proto::record::view::Batch;
use tokio::time::Instant;

use super::log_house::{House, batch, spans};

impl House {
    /// Sets (or with `None` removes) a quota of all client ids that have none of their own.
    async fn quota(&self, key: &str, rate: Option<f64>) -> i16 {
        let entity = EntityData { entity_type: "client-id".into(), entity_name: None, ..Default::default() };
        let op = OpData {
            key: key.into(),
            value: rate.unwrap_or(0.0),
            remove: rate.is_none(),
            ..Default::default()
        };
        let entry = EntryData { entity: vec![entity], ops: vec![op], ..Default::default() };
        let request = AlterClientQuotasRequest { entries: vec![entry], ..Default::default() };
        self.client.call(1, &request).await.unwrap().entries[0].error_code
    }

    async fn fetch_in_session(&self, session: (i32, i32), offset: i64) -> FetchResponse {
        let partition = FetchPartition {
            partition: 0,
            fetch_offset: offset,
            partition_max_bytes: 1 << 20,
            ..Default::default()
        };
        let topic = FetchTopic { topic: "t".into(), partitions: vec![partition], ..Default::default() };
        let request = FetchRequest {
            replica_id: -1,
            max_wait_ms: 0,
            min_bytes: 1,
            max_bytes: 1 << 20,
            session_id: session.0,
            session_epoch: session.1,
            topics: vec![topic],
            ..Default::default()
        };
        self.client.call(12, &request).await.unwrap()
    }
}

fn large(bytes: usize) -> Batch {
    let mut builder = Builder::new();
    builder.append(Millis(1), None, Some(&vec![7; bytes]));
    builder.build()
}

#[tokio::test(start_paused = true)]
async fn quotas_are_set_shown_and_removed_in_every_version() {
    let house = House::open().await;
    for version in 0..=1 {
        assert_eq!(house.quota("producer_byte_rate", Some(1024.0)).await, 0);
        let all = DescribeClientQuotasRequest::default();
        let shown = house.client.call(version, &all).await.unwrap().entries.unwrap();
        let row = &shown[0];
        assert_eq!(
            (row.entity[0].entity_type.as_str(), row.entity[0].entity_name.is_none()),
            ("client-id", true)
        );
        assert_eq!((row.values[0].key.as_str(), row.values[0].value), ("producer_byte_rate", 1024.0));
        assert_eq!(house.quota("producer_byte_rate", None).await, 0);
        assert!(house.client.call(version, &all).await.unwrap().entries.unwrap().is_empty());
    }
    assert_eq!(house.quota("producer_byte_rate", Some(-1.0)).await, 42);
    assert_eq!(house.quota("no_such", Some(1.0)).await, 42);
}

#[tokio::test(start_paused = true)]
async fn a_producer_over_its_quota_is_answered_at_once_and_then_not_read() {
    let mut house = House::open().await;
    house.topic("t", &[]).await;
    house.quota("producer_byte_rate", Some(1_000.0)).await;
    let begun = Instant::now();
    let answer = house.produce_whole(9, "t", &large(20_000)).await;
    assert!((9_000..12_000).contains(&answer.throttle_time_ms), "{}", answer.throttle_time_ms);
    assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
    assert!(begun.elapsed() < Duration::from_secs(2), "the answer does not wait");
    house.list("t", 0, -1, 0).await;
    let held = Duration::from_millis(u64::try_from(answer.throttle_time_ms).unwrap());
    assert!(begun.elapsed() >= held, "whatever comes next does");
    house.quota("producer_byte_rate", None).await;
    assert_eq!(house.produce_whole(9, "t", &large(20_000)).await.throttle_time_ms, 0);
}

#[tokio::test(start_paused = true)]
async fn a_producer_over_its_quota_that_wants_no_answer_is_not_read_either() {
    let mut house = House::open().await;
    house.topic("t", &[]).await;
    house.quota("producer_byte_rate", Some(1_000.0)).await;
    let begun = Instant::now();
    assert_eq!(house.produce_with_acks(0, "t", &large(20_000)).await, None);
    assert_eq!(house.list("t", 0, -1, 0).await.offset, 1);
    assert!(begun.elapsed() >= Duration::from_secs(9), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_throttled_fetch_is_empty_and_keeps_its_session() {
    let mut house = House::open().await;
    house.topic("t", &[]).await;
    for _ in 0..3 {
        house.produce(9, "t", &large(6_000)).await;
    }
    let opened = house.fetch_in_session((0, 0), 3).await;
    assert!(opened.session_id > 0 && opened.error_code == 0);
    house.quota("consumer_byte_rate", Some(1_000.0)).await;
    let first = house.fetch_in_session((opened.session_id, 1), 0).await;
    let rows = &first.responses[0].partitions[0];
    assert_eq!((first.throttle_time_ms, spans(rows)), (0, vec![(0, 0)]), "a window's worth");
    let begun = Instant::now();
    let second = house.fetch_in_session((opened.session_id, 2), 1).await;
    assert!(second.throttle_time_ms > 1_000 && second.responses.is_empty());
    assert_eq!((second.error_code, second.session_id), (0, opened.session_id));
    let third = house.fetch_in_session((opened.session_id, 3), 1).await;
    assert!(begun.elapsed() >= Duration::from_millis(u64::try_from(second.throttle_time_ms).unwrap()));
    assert_eq!((third.throttle_time_ms, spans(&third.responses[0].partitions[0])), (0, vec![(1, 1)]));
}

#[tokio::test(start_paused = true)]
async fn a_throttled_fetch_opens_no_session() {
    let mut house = House::open().await;
    house.topic("t", &[]).await;
    house.produce(9, "t", &batch(&[1])).await;
    house.quota("consumer_byte_rate", Some(5.0)).await;
    assert!(house.fetch_in_session((0, 0), 0).await.throttle_time_ms > 0);
    assert_eq!(house.running.node.fetch_sessions.lock().len(), 0);
}
