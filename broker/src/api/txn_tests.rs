//! Transactions as partitions see them: batches, markers, the last stable offset, the aborted list.

use tidemark_proto::id::{Millis, ProducerEpoch, ProducerId};
use tidemark_proto::kafka::messages::fetch_response::PartitionData;
use tidemark_proto::kafka::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use tidemark_proto::kafka::messages::{FetchRequest, WriteTxnMarkersRequest};
use tidemark_proto::record::build::Builder;
use tidemark_proto::record::control::{EndMarker, Outcome};
use tidemark_proto::record::view::Batch;

use tokio::time::{Duration, Instant, sleep};

use super::log_house::{House, batch, fetch_of, from_producer, spans};

const COMMITTED: i8 = 1;

fn in_txn(id: i64, epoch: i16, sequence: i32) -> Batch {
    Builder::new()
        .producer(ProducerId(id), ProducerEpoch(epoch), sequence)
        .transactional()
        .append(Millis(1), None, Some(b"v"))
        .build()
}

pub(super) fn aborted(data: &PartitionData) -> Option<Vec<(i64, i64)>> {
    let list = data.aborted_transactions.as_ref()?;
    Some(list.iter().map(|t| (t.producer_id, t.first_offset)).collect())
}

impl House {
    pub(super) async fn write(&self, id: i64, epoch: i16, sequence: i32) -> i16 {
        self.produce_as(9, Some("txn"), "t", &in_txn(id, epoch, sequence)).await.error_code
    }

    pub(super) async fn end(&self, id: i64, epoch: i16, commit: bool, coordinator: i32) -> Vec<i16> {
        let topic = |name: &str| WritableTxnMarkerTopic {
            name: name.into(),
            partition_indexes: vec![0],
            ..Default::default()
        };
        let marker = WritableTxnMarker {
            producer_id: id,
            producer_epoch: epoch,
            transaction_result: commit,
            topics: vec![topic("nope"), topic("t")],
            coordinator_epoch: coordinator,
            ..Default::default()
        };
        let request = WriteTxnMarkersRequest { markers: vec![marker], ..Default::default() };
        let answer = self.client.call(1, &request).await.unwrap();
        answer.markers[0].topics.iter().flat_map(|t| &t.partitions).map(|p| p.error_code).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn readers_of_committed_data_stop_at_the_last_stable_offset_and_are_told_what_was_aborted() {
    let mut house = House::open().await;
    house.topic("t", &[]).await;
    house.produce(9, "t", &batch(&[1])).await;
    for (id, sequence) in [(7, 0), (8, 0), (7, 1)] {
        assert_eq!(house.write(id, 0, sequence).await, 0);
    }
    let open = house.fetch("t", 0, COMMITTED).await;
    assert_eq!((open.high_watermark, open.last_stable_offset, spans(&open)), (4, 1, vec![(0, 0)]));
    assert_eq!(
        (house.list("t", 0, -1, 0).await.offset, house.list("t", 0, -1, COMMITTED).await.offset),
        (4, 1)
    );
    assert_eq!(spans(&house.fetch("t", 1, COMMITTED).await), [], "nothing more, and no error");
    assert_eq!(spans(&house.fetch("t", 1, 0).await).len(), 3, "read_uncommitted sees all");

    assert_eq!(house.end(7, 0, false, 0).await, [3, 0], "a row for every partition");
    let half = house.fetch("t", 0, COMMITTED).await;
    assert_eq!((half.last_stable_offset, aborted(&half)), (2, Some(vec![(7, 1)])));
    assert_eq!(house.end(8, 0, true, 0).await, [3, 0]);
    for _ in 0..2 {
        let all = house.fetch("t", 0, COMMITTED).await;
        assert_eq!((all.high_watermark, all.last_stable_offset), (6, 6));
        assert_eq!(spans(&all).len(), 6, "aborted batches and markers are there, so that positions move on");
        assert_eq!(aborted(&all), Some(vec![(7, 1)]));
        assert_eq!(aborted(&house.fetch("t", 5, COMMITTED).await), Some(vec![]));
        assert_eq!(aborted(&house.fetch("t", 0, 0).await), None, "no list for read_uncommitted");
        house = house.restart().await;
    }
    assert_eq!(house.delete(2, "t", 0, 5).await, (5, 0));
    assert_eq!(aborted(&house.fetch("t", 5, COMMITTED).await), Some(vec![]));
}

#[tokio::test(start_paused = true)]
async fn an_open_transaction_outlives_a_restart_and_holds_the_last_stable_offset() {
    let mut house = House::open().await;
    house.topic("t", &[]).await;
    house.write(7, 0, 0).await;
    house = house.restart().await;
    let rows = house.fetch("t", 0, COMMITTED).await;
    assert_eq!((rows.high_watermark, rows.last_stable_offset, spans(&rows)), (1, 0, vec![]));
    assert_eq!(house.write(7, 0, 1).await, 0, "and goes on");
    house.end(7, 0, true, 0).await;
    assert_eq!(house.fetch("t", 0, COMMITTED).await.last_stable_offset, 3);
}

#[tokio::test(start_paused = true)]
async fn runs_carry_open_and_aborted_transactions() {
    let mut house = House::with(&["tidemark.cut.parcels=1", "log.retention.ms=-1"]).await;
    house.topic("t", &[]).await;
    house.write(7, 0, 0).await;
    house.write(8, 0, 0).await;
    house.end(7, 0, false, 0).await;
    for life in [2, 3] {
        // Everything is cut and let go of; the next life finds it in runs alone.
        tokio::time::sleep(std::time::Duration::from_secs(30)).await;
        assert!(house.running.node.cluster.image().runs().count() > 0);
        house = house.restart().await;
        let rows = house.fetch("t", 0, COMMITTED).await;
        assert_eq!((rows.last_stable_offset, aborted(&rows)), (1, Some(vec![(7, 0)])), "life {life}");
        assert_eq!(house.fetch("t", 0, 0).await.high_watermark, 3);
    }
    house.end(8, 0, true, 0).await;
    let rows = house.fetch("t", 0, COMMITTED).await;
    assert_eq!((rows.last_stable_offset, aborted(&rows)), (4, Some(vec![(7, 0)])));
}

#[tokio::test(start_paused = true)]
async fn transactional_batches_need_an_id_and_their_producer_writes_nothing_else_meanwhile() {
    let mut house = House::open().await;
    house.topic("t", &[]).await;
    assert_eq!(house.produce(9, "t", &in_txn(7, 0, 0)).await.error_code, 53);
    assert_eq!(house.write(7, 0, 0).await, 0);
    assert_eq!(house.produce(9, "t", &from_producer(7, 0, 1, 1)).await.error_code, 48);
    let outcome = Outcome::Commit;
    let (producer, epoch) = (ProducerId(7), ProducerEpoch(0));
    let marker = EndMarker { outcome, producer, epoch, coordinator_epoch: 0 }.to_batch(Millis(1));
    assert_eq!(
        house.produce_as(9, Some("txn"), "t", &marker).await.error_code,
        87,
        "clients write no markers"
    );
}

#[tokio::test(start_paused = true)]
async fn markers_of_fenced_producers_and_coordinators_are_refused_and_a_bumped_epoch_begins_at_0() {
    let mut house = House::open().await;
    house.topic("t", &[]).await;
    house.write(7, 3, 0).await;
    assert_eq!(house.end(7, 2, true, 5).await, [3, 47]);
    assert_eq!(house.end(7, 4, false, 5).await, [3, 0], "a coordinator may end it under the next epoch");
    assert_eq!(house.end(7, 4, false, 4).await, [3, 52]);
    assert_eq!(house.write(7, 3, 1).await, 47, "the old epoch is fenced");
    assert_eq!(house.write(7, 4, 1).await, 45);
    assert_eq!(house.write(7, 4, 0).await, 0);
}

#[tokio::test(start_paused = true)]
async fn readers_of_committed_data_wait_for_what_is_stable_and_a_commit_wakes_them() {
    let mut house = House::open().await;
    house.topic("t", &[]).await;
    house.write(7, 0, 0).await;
    let ask = async || {
        let (request, begun) = (fetch_of(&["t"], 1 << 20, 1, 5_000), Instant::now());
        let answer = house.client.call(11, &FetchRequest { isolation_level: COMMITTED, ..request }).await;
        (spans(&answer.unwrap().responses[0].partitions[0]).len(), begun.elapsed())
    };
    let (batches, took) = ask().await;
    assert!(batches == 0 && took >= Duration::from_secs(5), "{batches} after {took:?}");
    let ((batches, took), codes) = tokio::join!(ask(), async {
        sleep(Duration::from_secs(1)).await;
        house.end(7, 0, true, 0).await
    });
    assert_eq!((batches, codes), (2, vec![3, 0]), "the batch and its marker");
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn times_beyond_the_last_stable_offset_are_not_found_by_readers_of_committed_data() {
    let mut house = House::open().await;
    house.topic("t", &[]).await;
    house.produce(9, "t", &batch(&[0])).await;
    house.write(7, 0, 0).await;
    let found = async |at, isolation| {
        let row = house.list("t", 0, at, isolation).await;
        (row.error_code, row.offset)
    };
    assert_eq!((found(1, 0).await, found(1, COMMITTED).await), ((0, 1), (0, -1)));
    assert_eq!((found(-3, 0).await, found(-3, COMMITTED).await), ((0, 1), (0, 0)));
    house.end(7, 0, true, 0).await;
    assert_eq!(found(1, COMMITTED).await, (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_reader_gets_past_a_tail_of_nothing_but_aborted_data() {
    let mut house = House::open().await;
    house.topic("t", &[]).await;
    for sequence in 0..3 {
        house.write(7, 0, sequence).await;
    }
    house.end(7, 0, false, 0).await;
    let end = house.list("t", 0, -1, COMMITTED).await.offset;
    let mut at = 0;
    while at < end {
        let rows = house.fetch("t", at, COMMITTED).await;
        let (_, last) = *spans(&rows).last().expect("something to move on with");
        assert_eq!(aborted(&rows), Some(vec![(7, 0)]), "at {at}");
        at = last + 1;
    }
    assert_eq!(at, 4, "behind the marker");
}
