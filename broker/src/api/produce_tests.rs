//! What Produce takes, refuses and rewrites, over a connection.

use tidemark_proto::id::{Millis, ProducerEpoch, ProducerId};
use tidemark_proto::record::Compression;
use tidemark_proto::record::build::Builder;
use tidemark_proto::record::records::Records;
use tidemark_proto::record::view::{Batch, Batches};

use tidemark_proto::kafka::messages::{ApiVersionsRequest, ProduceRequest};
use tidemark_tiering::bucket::faults::Weather;
use tokio::time::{Duration, Instant, sleep};

use super::log_house::{House, batch, from_producer};

impl House {
    async fn first_stored(&self, topic: &str) -> Batch {
        let bytes = self.fetch(topic, 0, 0).await.records.unwrap().into_bytes().unwrap();
        Batches::new(bytes).next().unwrap().unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn the_topics_codec_is_what_is_stored_whatever_the_producer_chose() {
    let mut house = House::open().await;
    let codecs = [
        ("uncompressed", Compression::None),
        ("gzip", Compression::Gzip),
        ("snappy", Compression::Snappy),
        ("lz4", Compression::Lz4),
        ("zstd", Compression::Zstd),
    ];
    for (name, stored) in codecs {
        for (_, sent) in codecs {
            let topic = format!("{name}-{}", sent.id());
            house.topic(&topic, &[("compression.type", name)]).await;
            let mut builder = Builder::new().compression(sent).producer(ProducerId(5), ProducerEpoch(0), 0);
            (0..50).for_each(|n| {
                builder.append(Millis(n), Some(b"key"), Some(&[b'v'; 100]));
            });
            let sent = builder.build();
            assert_eq!(house.produce(9, &topic, &sent).await.error_code, 0);
            let found = house.first_stored(&topic).await;
            assert_eq!(found.compression(), Ok(stored));
            assert_eq!((found.count(), found.base_sequence(), found.max_timestamp()), (50, 0, Millis(49)));
            found.verify_crc().unwrap();
            let (a, b) = (Records::new(&sent).unwrap(), Records::new(&found).unwrap());
            assert!(a.map(Result::unwrap).eq(b.map(Result::unwrap)), "the records are the same");
        }
    }
    house.topic("as-sent", &[]).await;
    let sent = Builder::new().compression(Compression::Lz4).append(Millis(1), None, Some(b"v")).build();
    house.produce(9, "as-sent", &sent).await;
    assert_eq!(house.first_stored("as-sent").await.compression(), Ok(Compression::Lz4));
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_grows_beyond_the_topics_bound_is_refused() {
    let mut house = House::open().await;
    house.topic("t", &[("compression.type", "uncompressed"), ("max.message.bytes", "1000")]).await;
    let large = |codec| Builder::new().compression(codec).append(Millis(1), None, Some(&[7; 5000])).build();
    assert_eq!(house.produce(9, "t", &large(Compression::None)).await.error_code, 10);
    assert_eq!(house.produce(9, "t", &large(Compression::Zstd)).await.error_code, 10, "as stored");
    assert_eq!(house.produce(9, "t", &batch(&[1])).await.error_code, 0);
}

#[tokio::test(start_paused = true)]
async fn under_the_brokers_clock_times_of_producers_are_not_judged_and_the_batch_has_one() {
    let mut house = House::open().await;
    house.topic("t", &[("message.timestamp.type", "LogAppendTime")]).await;
    let answer = house.produce(9, "t", &batch(&[i64::MAX / 2])).await;
    let stored = house.first_stored("t").await;
    assert_eq!((answer.error_code, stored.max_timestamp().0), (0, answer.log_append_time_ms));
    stored.verify_crc().unwrap();
}

#[tokio::test(start_paused = true)]
async fn times_out_of_the_topics_bounds_are_refused_record_by_record() {
    let mut house = House::open().await;
    house
        .topic(
            "t",
            &[("message.timestamp.before.max.ms", "1000"), ("message.timestamp.after.max.ms", "1000")],
        )
        .await;
    let now = house.running.node.seams.clock.wall().0;
    assert_eq!(house.produce(9, "t", &batch(&[now - 900, now + 900])).await.error_code, 0);
    for at in [now - 10_000, now + 10_000] {
        let refused = house.produce(9, "t", &batch(&[now, at])).await;
        let at_fault: Vec<i32> = refused.record_errors.iter().map(|e| e.batch_index).collect();
        assert_eq!((refused.error_code, at_fault), (32, vec![1]));
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_five_batches_of_a_producer_are_answered_with_their_first_offset_again() {
    let mut house = House::open().await;
    house.topic("t", &[]).await;
    // Right after its opening a partition takes an unknown producer from its first batch on only.
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    for n in 0..7 {
        let sent = house.produce(9, "t", &from_producer(7, 0, n * 2, 2)).await;
        assert_eq!((sent.error_code, sent.base_offset), (0, i64::from(n) * 2));
    }
    for n in 2..7 {
        let again = house.produce(9, "t", &from_producer(7, 0, n * 2, 2)).await;
        assert_eq!((again.error_code, again.base_offset), (0, i64::from(n) * 2), "batch {n}");
    }
    assert_eq!(house.produce(9, "t", &from_producer(7, 0, 0, 2)).await.error_code, 46);
    assert_eq!(house.produce(9, "t", &from_producer(7, 0, 12, 1)).await.error_code, 45, "not the same batch");
    assert_eq!(house.produce(9, "t", &from_producer(7, 0, 16, 1)).await.error_code, 45, "a gap");
    assert_eq!(
        house.produce(9, "t", &from_producer(7, 1, 1, 1)).await.error_code,
        45,
        "a new epoch begins at 0"
    );
    assert_eq!(house.produce(9, "t", &from_producer(7, 1, 0, 1)).await.error_code, 0);
    assert_eq!(house.produce(9, "t", &from_producer(7, 0, 14, 1)).await.error_code, 47);
    assert_eq!(
        house.produce(9, "t", &from_producer(9, 0, 5, 1)).await.error_code,
        0,
        "an unknown one starts anywhere"
    );
    assert_eq!(house.list("t", 0, -1, 0).await.offset, 16);
    house = house.restart().await;
    let again = house.produce(9, "t", &from_producer(7, 1, 0, 1)).await;
    assert_eq!((again.error_code, again.base_offset), (0, 14), "over a restart too");
}

#[tokio::test(start_paused = true)]
async fn compacted_topics_take_no_record_without_a_key_and_internal_ones_no_client() {
    let mut house = House::open().await;
    house.topic("t", &[("cleanup.policy", "compact")]).await;
    let mut mixed = Builder::new();
    mixed.append(Millis(1), Some(b"k"), None).append(Millis(1), None, Some(b"v"));
    let refused = house.produce(9, "t", &mixed.build()).await;
    assert_eq!((refused.error_code, refused.record_errors[0].batch_index), (87, 1));
    assert_eq!(house.list("t", 0, -1, 0).await.offset, 0, "a batch is taken whole or not at all");
    house.topic("__consumer_offsets", &[]).await;
    assert_eq!(house.produce(9, "__consumer_offsets", &batch(&[1])).await.error_code, 17);
}

#[tokio::test(start_paused = true)]
async fn the_level_of_the_topics_codec_is_used() {
    let mut house = House::open().await;
    let mut builder = Builder::new();
    (0..2_000_u32).for_each(|n| {
        let value = n.wrapping_mul(2_654_435_761).to_string();
        builder.append(Millis(1), None, Some(value.as_bytes()));
    });
    let sent = builder.build();
    for (codec, low, high) in [("gzip", "1", "9"), ("zstd", "1", "22")] {
        let mut sizes = Vec::new();
        for level in [low, high] {
            let (topic, key) = (format!("{codec}{level}"), format!("compression.{codec}.level"));
            house.topic(&topic, &[("compression.type", codec), (&key, level)]).await;
            assert_eq!(house.produce(9, &topic, &sent).await.error_code, 0);
            let stored = house.first_stored(&topic).await;
            assert_eq!(Records::new(&stored).unwrap().count(), 2_000);
            sizes.push(stored.size());
        }
        assert!(sizes[1] < sizes[0], "{codec}: {sizes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn acks_are_none_one_or_all_and_none_is_never_answered() {
    let mut house = House::open().await;
    house.topic("t", &[]).await;
    for (acks, code) in [(1, 0), (-1, 0), (2, 21), (-2, 21)] {
        assert_eq!(house.produce_with_acks(acks, "t", &batch(&[1])).await, Some(code), "acks={acks}");
    }
    assert_eq!(house.produce_with_acks(0, "t", &batch(&[1])).await, None);
    assert_eq!(house.list("t", 0, -1, 0).await.offset, 3, "it was taken, and the connection goes on");
}

/// A store that takes so long for each parcel.
fn slow_parcels(by: Duration) -> Weather {
    Weather { slow: vec![("wal/".into(), by)], ..Weather::default() }
}

#[tokio::test(start_paused = true)]
async fn pipelined_batches_wait_for_the_bucket_together_and_keep_their_order() {
    let (mut house, store) = House::over_faulty_store().await;
    house.topic("t", &[]).await;
    store.set_weather(slow_parcels(Duration::from_secs(2)));
    let begun = Instant::now();
    let send = async |n: u32| {
        sleep(Duration::from_millis(200) * n).await;
        let sent = house.produce(9, "t", &batch(&[1])).await;
        (sent.error_code, sent.base_offset)
    };
    let sent = futures::future::join_all((0..6).map(send)).await;
    assert_eq!(sent, (0..6).map(|n| (0, n)).collect::<Vec<_>>());
    assert!(begun.elapsed() >= Duration::from_secs(2), "the bucket is waited for");
    assert!(begun.elapsed() < Duration::from_secs(6), "not one after the other: {:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_produce_out_of_time_is_told_so_and_its_retry_where_it_landed_all_the_same() {
    let (mut house, store) = House::over_faulty_store().await;
    house.topic("t", &[]).await;
    store.set_weather(slow_parcels(Duration::from_secs(3)));
    let sent = from_producer(7, 0, 0, 2);
    let request = ProduceRequest { timeout_ms: 500, ..house.request(None, -1, "t", &sent) };
    let answer = house.client.call(9, &request).await.unwrap();
    assert_eq!(answer.responses[0].partition_responses[0].error_code, 7);
    assert_eq!(house.list("t", 0, -1, 0).await.offset, 0, "nobody sees it before the bucket has it");
    let again = house.produce(9, "t", &sent).await;
    assert_eq!((again.error_code, again.base_offset), (0, 0));
    assert_eq!(house.list("t", 0, -1, 0).await.offset, 2, "once");
}

#[tokio::test(start_paused = true)]
async fn a_batch_without_acks_that_is_refused_closes_its_connection() {
    for (topic, batch) in [("nope", batch(&[1])), ("t", from_producer(7, 0, 0, 1))] {
        let mut house = House::open().await;
        house.topic("t", &[]).await;
        assert_eq!(house.produce(9, "t", &from_producer(7, 1, 0, 1)).await.error_code, 0);
        assert_eq!(house.produce_with_acks(0, topic, &batch).await, None);
        assert!(house.client.call(0, &ApiVersionsRequest::default()).await.is_err(), "{topic}");
    }
}

#[tokio::test(start_paused = true)]
async fn records_at_fault_are_named_to_those_who_can_read_it() {
    let mut house = House::open().await;
    house.topic("t", &[("cleanup.policy", "compact")]).await;
    let keyless = Builder::new().append(Millis(1), None, Some(b"v")).build();
    for version in 3..=13 {
        let row = house.produce(version, "t", &keyless).await;
        assert_eq!(row.error_code, 87, "v{version}");
        let told = (row.record_errors.len(), row.error_message.is_some());
        assert_eq!(told, if version < 8 { (0, false) } else { (1, true) }, "v{version}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_larger_than_a_segment_is_refused() {
    let mut house = House::open().await;
    house.topic("t", &[("segment.bytes", "1048576"), ("max.message.bytes", "4194304")]).await;
    let of = |bytes: usize| Builder::new().append(Millis(1), None, Some(&vec![7; bytes])).build();
    assert_eq!(house.produce(9, "t", &of(2 << 20)).await.error_code, 18);
    assert_eq!(house.produce(9, "t", &of(5 << 20)).await.error_code, 10, "the topic's bound comes first");
    assert_eq!(house.produce(9, "t", &of(1 << 19)).await.error_code, 0);
}

#[tokio::test(start_paused = true)]
async fn no_write_ever_waits_for_replicas() {
    let mut house = House::open().await;
    house.topic("t", &[("min.insync.replicas", "3")]).await;
    assert_eq!(house.produce_with_acks(-1, "t", &batch(&[1])).await, Some(0));
}

#[tokio::test(start_paused = true)]
async fn internal_topics_are_written_by_the_admin_client_alone() {
    let mut house = House::open().await;
    house.topic("__consumer_offsets", &[]).await;
    let request = house.request(None, -1, "__consumer_offsets", &batch(&[1]));
    for (name, code) in [("consumer-1", 17), ("__admin_client", 0)] {
        let answer = house.client_named(name).call(9, &request).await.unwrap();
        assert_eq!(answer.responses[0].partition_responses[0].error_code, code, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_for_a_topic_id_that_is_not_there_is_told_with_the_id_it_named() {
    let mut house = House::open().await;
    let id = house.topic("t", &[]).await;
    let mut request = house.request(None, -1, "t", &batch(&[1]));
    let other = uuid::Uuid::from_u128(999);
    for (named, code) in [(id.0, 0), (other, 100)] {
        request.topic_data[0].topic_id = named;
        let answer = house.client.call(13, &request).await.unwrap();
        let row = &answer.responses[0];
        assert_eq!((row.topic_id, row.partition_responses[0].error_code), (named, code));
    }
}
