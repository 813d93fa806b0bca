//! Logs over a connection: where they start, who wrote to them, which offset a time has.

use tidemark_proto::kafka::messages::describe_producers_request::TopicRequest;
use tidemark_proto::kafka::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use tidemark_proto::kafka::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use tidemark_proto::kafka::messages::offset_for_leader_epoch_response::EpochEndOffset;
use tidemark_proto::kafka::messages::{
    DescribeLogDirsRequest, DescribeProducersRequest, FetchRequest, FetchResponse, ListOffsetsRequest,
    OffsetForLeaderEpochRequest,
};
use tokio::time::{Duration, Instant, sleep};

use super::log_house::{House, batch, fetch_of, from_producer, spans};

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
async fn the_oldest_clients_are_told_one_offset_without_a_time() {
    let mut house = House::open().await;
    house.topic("t", &[]).await;
    house.produce(9, "t", &batch(&[10, 20, 30])).await;
    house.delete(2, "t", 0, 1).await;
    for (timestamp, offsets) in [(EARLIEST, vec![1]), (LATEST, vec![3]), (25, vec![2]), (31, vec![])] {
        let partition = ListOffsetsPartition { timestamp, max_num_offsets: 9, ..Default::default() };
        let topic = ListOffsetsTopic { name: "t".into(), partitions: vec![partition], ..Default::default() };
        let request = ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
        let row = house.client.call(0, &request).await.unwrap().topics.remove(0).partitions.remove(0);
        assert_eq!((row.error_code, row.old_style_offsets), (0, offsets), "at {timestamp}");
    }
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

fn batches_of(answer: &FetchResponse) -> Vec<usize> {
    answer.responses.iter().map(|topic| spans(&topic.partitions[0]).len()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_fetch_into_a_batch_gives_the_whole_batch_and_bounds_are_told_with_it() {
    let mut house = House::open().await;
    house.topic("t", &[]).await;
    house.produce(9, "t", &batch(&[1, 2, 3])).await;
    house.produce(9, "t", &batch(&[4, 5])).await;
    for offset in 0..3 {
        assert_eq!(spans(&house.fetch("t", offset, 0).await), [(0, 2), (3, 4)], "from {offset}");
    }
    assert_eq!(spans(&house.fetch("t", 4, 1).await), [(3, 4)], "the last record of the last batch");
    let end = house.fetch("t", 5, 0).await;
    let bounds = (end.high_watermark, end.last_stable_offset, end.log_start_offset);
    assert_eq!((end.error_code, spans(&end).len(), bounds), (0, 0, (5, 5, 0)), "nothing new, and no -1");
    assert_eq!(house.fetch("t", 6, 0).await.error_code, 1);
}

#[tokio::test(start_paused = true)]
async fn the_first_partition_with_data_gives_a_batch_however_small_the_bounds_and_others_keep_to_them() {
    let mut house = House::open().await;
    for name in ["empty", "t", "u"] {
        house.topic(name, &[]).await;
    }
    for name in ["t", "t", "u"] {
        house.produce(9, name, &batch(&[1, 2, 3])).await;
    }
    let answer = house.client.call(11, &fetch_of(&["empty", "t", "u"], 1, 1, 0)).await.unwrap();
    assert_eq!(batches_of(&answer), [0, 1, 0], "one batch, of the first that has any");
    let answer = house.client.call(11, &fetch_of(&["empty", "t", "u"], 1 << 20, 1, 0)).await.unwrap();
    assert_eq!(batches_of(&answer), [0, 2, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_fetch_waits_for_its_least_bytes_and_no_longer_than_it_says_and_not_at_all_after_an_error() {
    let mut house = House::open().await;
    house.topic("t", &[]).await;
    house.topic("empty", &[]).await;
    house.produce(9, "t", &batch(&[1])).await;
    let ask = |topics: &'static [&'static str], least| {
        let (house, begun) = (&house, Instant::now());
        async move {
            let answer = house.client.call(11, &fetch_of(topics, 1 << 20, least, 5_000)).await.unwrap();
            (batches_of(&answer), begun.elapsed())
        }
    };
    let (batches, took) = ask(&["t"], 1_000).await;
    assert!(batches == [1] && took >= Duration::from_secs(5), "{batches:?} after {took:?}");
    let ((batches, took), ()) = tokio::join!(ask(&["t"], 100), async {
        sleep(Duration::from_secs(1)).await;
        house.produce(9, "t", &batch(&[2])).await;
    });
    assert!(batches == [2] && took < Duration::from_secs(3), "{batches:?} after {took:?}");
    let (_, took) = ask(&["empty"], 0).await;
    assert!(took < Duration::from_secs(1), "nothing is enough for who asks for no byte, not after {took:?}");
    let (_, took) = ask(&[], 1).await;
    assert!(took < Duration::from_secs(1), "there is nothing to wait for, not for {took:?}");
    let (_, took) = ask(&["nope"], 1).await;
    assert!(took < Duration::from_secs(1), "nor where nothing is there, not for {took:?}");
    let (_, took) = ask(&["empty", "nope"], 1).await;
    assert!(took >= Duration::from_secs(5), "who asks for what is not there is paced by what is: {took:?}");
    house.delete(2, "t", 0, 1).await;
    let (batches, took) = ask(&["empty", "t"], 1_000).await;
    assert_eq!(batches, [0, 0]);
    assert!(took < Duration::from_secs(1), "an error is told at once, not after {took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_knows_another_history_is_told_at_once_where_it_leaves_this_one() {
    let mut house = House::open().await;
    house.topic("t", &[]).await;
    house.produce(9, "t", &batch(&[1, 2])).await;
    let now = house.list("t", 0, -1, 0).await.leader_epoch;
    let house = &house;
    let ask = |offset: i64, last_fetched_epoch: i32| async move {
        let mut request = fetch_of(&["t"], 1 << 20, 1_000, 5_000);
        let asked = &mut request.topics[0].partitions[0];
        (asked.fetch_offset, asked.last_fetched_epoch) = (offset, last_fetched_epoch);
        let begun = Instant::now();
        let answer = house.client.call(12, &request).await.unwrap();
        let row = answer.responses[0].partitions[0].clone();
        let diverging = (row.diverging_epoch.epoch, row.diverging_epoch.end_offset);
        (row.error_code, diverging, spans(&row).len(), begun.elapsed() < Duration::from_secs(1))
    };
    assert_eq!(ask(0, now).await, (0, (-1, -1), 1, false), "the same history");
    assert_eq!(ask(5, now).await, (0, (now, 2), 0, true), "a longer one");
    assert_eq!(ask(0, now + 1).await, (1, (-1, -1), 0, true), "one to come");
}

#[tokio::test(start_paused = true)]
async fn the_size_of_a_partition_does_not_fall_when_its_parcels_become_a_run() {
    let mut house = House::with(&["tidemark.cut.parcels=1", "log.retention.ms=-1"]).await;
    house.topic("t", &[]).await;
    let size = async |house: &House| {
        let all = DescribeLogDirsRequest { topics: None, ..Default::default() };
        let answer = house.client.call(4, &all).await.unwrap();
        let topics = &answer.results[0].topics;
        topics.iter().find(|topic| &*topic.name == "t").unwrap().partitions[0].partition_size
    };
    for at in 1..4 {
        house.produce(9, "t", &batch(&[at])).await;
    }
    let bytes = 3 * batch(&[1]).bytes().len() as i64;
    assert_eq!(size(&house).await, bytes);
    sleep(Duration::from_secs(30)).await;
    assert!(house.running.node.cluster.image().runs().count() > 0);
    assert_eq!(size(&house).await, bytes);
    house = house.restart().await;
    assert_eq!(size(&house).await, bytes);
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_fetches_is_told_that_there_are_none() {
    let mut house = House::open().await;
    house.topic("t", &[]).await;
    let request = FetchRequest { replica_id: 2, ..fetch_of(&["t"], 1 << 20, 1, 0) };
    let answer = house.client.call(11, &request).await.unwrap();
    let code = answer.responses.first().map_or(answer.error_code, |topic| topic.partitions[0].error_code);
    assert_eq!(code, 31);
}

#[tokio::test(start_paused = true)]
async fn offsets_by_time_are_as_exact_in_runs_as_in_memory() {
    let mut house = House::with(&["tidemark.cut.parcels=1", "log.retention.ms=-1"]).await;
    house.topic("t", &[]).await;
    for times in [&[10, 30, 20][..], &[25, 40], &[5, 40]] {
        house.produce(9, "t", &batch(times)).await;
    }
    sleep(Duration::from_secs(30)).await;
    assert!(house.running.node.cluster.image().runs().count() > 0, "everything is cut");
    let house = house.restart().await;
    for (at, offset, time) in [(0, 0, 10), (11, 1, 30), (31, 4, 40), (40, 4, 40), (41, -1, -1)] {
        let found = house.list("t", 0, at, 0).await;
        assert_eq!((found.error_code, found.offset, found.timestamp), (0, offset, time), "at {at}");
    }
    assert_eq!(house.list("t", 0, -3, 0).await.offset, 4);
}

impl House {
    /// Where `asked` ends in partition `index` of `t`, to a client that believes in `current`.
    async fn epoch_end(&self, replica_id: i32, index: i32, current: i32, asked: i32) -> EpochEndOffset {
        let partition = OffsetForLeaderPartition {
            partition: index,
            current_leader_epoch: current,
            leader_epoch: asked,
            ..Default::default()
        };
        let topic =
            OffsetForLeaderTopic { topic: "t".into(), partitions: vec![partition], ..Default::default() };
        let request = OffsetForLeaderEpochRequest { replica_id, topics: vec![topic], ..Default::default() };
        self.client.call(4, &request).await.unwrap().topics[0].partitions[0].clone()
    }

    /// The leader epoch of partition 0 of `t`.
    fn leader_epoch(&self) -> i32 {
        let image = self.running.node.cluster.image();
        image.topic_named("t").expect("it is there").partitions[0].leader_epoch.0
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_epoch_ends_where_the_next_one_begins_over_restarts() {
    let mut house = House::open().await;
    house.topic("t", &[]).await;
    house.produce(9, "t", &batch(&[1, 2, 3])).await;
    house = house.restart().await;
    let second = house.leader_epoch();
    house.produce(9, "t", &batch(&[4, 5])).await;
    house = house.restart().await;
    let third = house.leader_epoch();
    assert!(0 < second && second < third);
    let end = async |asked| {
        let row = house.epoch_end(-1, 0, third, asked).await;
        (row.error_code, row.leader_epoch, row.end_offset)
    };
    assert_eq!(end(0).await, (0, 0, 3));
    assert_eq!(end(second).await, (0, second, 5));
    assert_eq!(end(third).await, (0, third, 5));
    assert_eq!(end(third + 1).await, (0, -1, -1), "still to come");
    assert_eq!(house.epoch_end(-1, 0, second, 0).await.error_code, 74, "the asker is behind");
    assert_eq!(house.epoch_end(-1, 0, third + 1, 0).await.error_code, 75, "the asker is ahead");
    assert_eq!(house.epoch_end(-1, 7, third, 0).await.error_code, 3);
    assert_eq!(house.epoch_end(1, 0, third, 0).await.error_code, 31, "there are no followers");
}

#[tokio::test(start_paused = true)]
async fn a_reader_at_the_end_of_an_empty_partition_loses_nothing_when_its_leader_moves() {
    let mut house = House::open().await;
    house.topic("t", &[]).await;
    let latest = house.list("t", 0, LATEST, 0).await;
    assert_eq!((latest.offset, latest.leader_epoch), (0, 0));
    house = house.restart().await;
    for _ in 0..2 {
        // -1 would make a consumer reset its position, and with `latest` pass over what was written since.
        let row = house.epoch_end(-1, 0, house.leader_epoch(), 0).await;
        assert_eq!((row.error_code, row.leader_epoch, row.end_offset), (0, 0, 0));
        house.produce(9, "t", &batch(&[1])).await;
    }
}
