//! What Produce takes, refuses and rewrites, over a connection.

use tidemark_proto::id::{Millis, ProducerEpoch, ProducerId};
use tidemark_proto::record::Compression;
use tidemark_proto::record::build::Builder;
use tidemark_proto::record::records::Records;
use tidemark_proto::record::view::{Batch, Batches};

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
