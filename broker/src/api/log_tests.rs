//! Logs over a connection: where they start, who wrote to them, which offset a time has.

use tidemark_proto::kafka::messages::DescribeProducersRequest;
use tidemark_proto::kafka::messages::describe_producers_request::TopicRequest;

use super::log_house::{House, batch, from_producer, spans};

const EARLIEST: i64 = -2;
const LATEST: i64 = -1;

#[tokio::test(start_paused = true)]
async fn records_below_a_deleted_offset_are_gone_and_stay_gone_over_restarts() {
    let mut house = House::open().await;
    house.topic("t", &[]).await;
    for times in [[1, 2, 3], [4, 5, 6]] {
        assert_eq!(house.produce(9, "t", &batch(&times)).await.error_code, 0);
    }
    assert_eq!(house.delete(2, "t", 0, 4).await, (4, 0), "in the middle of a batch");
    for _ in 0..3 {
        assert_eq!(house.list("t", 0, EARLIEST, 0).await.offset, 4);
        assert_eq!(house.list("t", 0, LATEST, 0).await.offset, 6);
        assert_eq!(house.fetch("t", 3, 0).await.error_code, 1);
        let rest = house.fetch("t", 4, 0).await;
        assert_eq!((rest.error_code, rest.log_start_offset, spans(&rest)), (0, 4, vec![(3, 5)]));
        assert_eq!(house.list("t", 0, 1, 0).await.offset, 4, "the first that is left, within its batch");
        house = house.restart().await;
    }
    assert_eq!(house.produce(9, "t", &batch(&[7])).await.log_start_offset, 4);
    assert_eq!(house.delete(0, "t", 0, -1).await, (7, 0), "-1 is the high watermark");
    assert_eq!(house.list("t", 0, EARLIEST, 0).await.offset, 7);
    assert_eq!(house.delete(1, "t", 0, 2).await, (7, 0), "the start never falls");
    assert_eq!(house.list("t", 0, 0, 0).await.offset, -1);
}

#[tokio::test(start_paused = true)]
async fn deletions_that_cannot_be_are_refused_row_by_row() {
    let mut house = House::open().await;
    house.topic("t", &[]).await;
    house.topic("compacted", &[("cleanup.policy", "compact")]).await;
    house.produce(9, "t", &batch(&[1])).await;
    assert_eq!(house.delete(2, "t", 0, 2).await, (-1, 1), "beyond the high watermark");
    assert_eq!(house.delete(2, "t", 0, -2).await, (-1, 1));
    assert_eq!(house.delete(2, "t", 1, 0).await, (-1, 3));
    assert_eq!(house.delete(2, "nope", 0, 0).await, (-1, 3));
    assert_eq!(house.delete(2, "compacted", 0, 0).await, (-1, 44));
}

#[tokio::test(start_paused = true)]
async fn offsets_by_time_are_exact_to_the_record_and_nothing_found_is_no_error() {
    let mut house = House::open().await;
    house.topic("t", &[]).await;
    for times in [&[10, 30, 20][..], &[25, 40], &[5, 40]] {
        house.produce(9, "t", &batch(times)).await;
    }
    for (at, offset, time) in [(0, 0, 10), (10, 0, 10), (11, 1, 30), (31, 4, 40), (40, 4, 40)] {
        let found = house.list("t", 0, at, 0).await;
        assert_eq!((found.offset, found.timestamp, found.leader_epoch), (offset, time, 0), "at {at}");
    }
    let none = house.list("t", 0, 41, 0).await;
    assert_eq!((none.error_code, none.offset, none.timestamp, none.leader_epoch), (0, -1, -1, -1));
    let largest = house.list("t", 0, -3, 0).await;
    assert_eq!((largest.offset, largest.timestamp), (4, 40), "the first of the largest");
    house.delete(2, "t", 0, 5).await;
    assert_eq!(house.list("t", 0, -3, 0).await.offset, 6);
    assert_eq!(house.list("t", 0, 25, 0).await.offset, 6);
    house.delete(2, "t", 0, 7).await;
    assert_eq!(house.list("t", 0, -3, 0).await.offset, -1);
}

#[tokio::test(start_paused = true)]
async fn special_times_have_their_first_versions() {
    let mut house = House::open().await;
    house.topic("t", &[]).await;
    house.produce(9, "t", &batch(&[1, 2])).await;
    house.delete(2, "t", 0, 1).await;
    for (at, offset) in [(-4, 1), (-5, -1), (-2, 1), (-1, 2)] {
        assert_eq!(house.list("t", 0, at, 0).await.offset, offset, "{at}");
    }
    assert_eq!(house.list("t", 0, -6, 0).await.error_code, 35, "v9 does not know it");
    assert_eq!(house.list("t", 0, -7, 0).await.error_code, 35);
}

#[tokio::test(start_paused = true)]
async fn under_the_brokers_clock_a_batch_has_one_time_and_its_first_record_answers() {
    let mut house = House::open().await;
    house.topic("t", &[("message.timestamp.type", "LogAppendTime")]).await;
    let sent = house.produce(9, "t", &batch(&[1, 2, 3])).await;
    assert!(sent.log_append_time_ms > 3, "the answer has the broker's time");
    let largest = house.list("t", 0, -3, 0).await;
    assert_eq!((largest.offset, largest.timestamp), (0, sent.log_append_time_ms));
    assert_eq!(house.list("t", 0, 3, 0).await.offset, 0);
    assert_eq!(house.list("t", 0, sent.log_append_time_ms + 1, 0).await.offset, -1);
}

#[tokio::test(start_paused = true)]
async fn producers_of_a_partition_are_described_with_their_last_sequence() {
    let mut house = House::open().await;
    house.topic("t", &[]).await;
    house.produce(9, "t", &from_producer(7, 1, 0, 3)).await;
    house.produce(9, "t", &from_producer(8, 0, 0, 1)).await;
    let topic =
        |name: &str| TopicRequest { name: name.into(), partition_indexes: vec![0], ..Default::default() };
    let request = DescribeProducersRequest { topics: vec![topic("t"), topic("nope")], ..Default::default() };
    let answer = house.client.call(0, &request).await.unwrap();
    let row = &answer.topics[0].partitions[0];
    let producers = row.active_producers.iter();
    let producers: Vec<_> = producers
        .map(|p| (p.producer_id, p.producer_epoch, p.last_sequence, p.current_txn_start_offset))
        .collect();
    assert_eq!((row.error_code, producers), (0, vec![(7, 1, 2, -1), (8, 0, 0, -1)]));
    assert_eq!(answer.topics[1].partitions[0].error_code, 3);
}
