use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use tidemark_proto::id::{
    BrokerEpoch, BrokerId, LeaderEpoch, Millis, Offset, PartitionIndex, ProducerEpoch, ProducerId, TopicId,
};
use tidemark_proto::record::build;
use tidemark_proto::record::control::{EndMarker, Outcome};
use tidemark_proto::record::view::{Batch, Batches};
use uuid::Uuid;

use super::producers::{encode_aborted, parse_aborted};
use super::read::Segment;
use super::*;
use crate::bucket::{Bucket, Kind, Patience, Span};
use crate::error::Error;
use crate::hot::chunks::MemoryChunks;
use crate::keys::{self, Name, SegmentName, SegmentPart};
use crate::read::{ReadConfig, Reader as Bytewise};
use crate::run::Want;
use crate::seam::Seams;

const NOW: Millis = Millis(1_767_225_600_000);

fn name(base: i64, seams: &Seams) -> SegmentName {
    SegmentName {
        topic: "orders".into(),
        topic_id: TopicId(Uuid::from_u128(7)),
        partition: PartitionIndex(3),
        base: Offset(base),
        id: keys::fresh_id(BrokerEpoch(5), &seams.entropy),
    }
}

fn plain(base: i64, records: i64, time: i64, size: usize) -> Batch {
    let mut builder = build::Builder::new().base_offset(Offset(base)).leader_epoch(LeaderEpoch(2));
    for at in 0..records {
        builder.append(Millis(time + at), None, Some(&vec![at as u8; size]));
    }
    builder.build()
}

fn in_txn(producer: i64, base: i64, sequence: i32) -> Batch {
    build::Builder::new()
        .base_offset(Offset(base))
        .leader_epoch(LeaderEpoch(2))
        .producer(ProducerId(producer), ProducerEpoch(1), sequence)
        .transactional()
        .append(NOW, None, Some(b"maybe"))
        .build()
}

fn marker(producer: i64, base: i64, outcome: Outcome) -> Batch {
    let (producer, epoch) = (ProducerId(producer), ProducerEpoch(1));
    let batch = EndMarker { outcome, producer, epoch, coordinator_epoch: 9 }.to_batch(NOW);
    tidemark_proto::record::stamp::Stamped::new(&batch, Offset(base), LeaderEpoch(2)).to_batch()
}

fn built(name: &SegmentName, start: Start, batches: &[Batch]) -> (Vec<Bytes>, Built) {
    let mut builder = Builder::new(name.base, start);
    batches.iter().for_each(|batch| builder.add(batch).unwrap());
    (batches.iter().map(|batch| batch.bytes().clone()).collect(), builder.finish(name, BrokerId(1), NOW))
}

struct World {
    seams: Seams,
    bucket: Bucket,
    bytewise: Bytewise,
    reader: Reader,
}

impl World {
    fn new() -> World {
        let seams = Seams::seeded(1);
        let bucket = Bucket::memory(&seams);
        let chunks = Arc::new(MemoryChunks::new(64 << 20));
        let bytewise = Bytewise::new(&bucket, chunks, ReadConfig::default(), &seams);
        World { reader: Reader::new(bucket.clone()), seams, bucket, bytewise }
    }

    async fn put(&self, batches: &[Batch]) -> Segment {
        let name = name(batches[0].base_offset().0, &self.seams);
        let (log, built) = built(&name, Start::default(), batches);
        upload::put(&self.bucket, &name, log, &built).await.unwrap();
        self.reader.open(&name, &built.row).await.unwrap()
    }

    /// All that a reader gets, look by look.
    async fn read(&self, segment: &Segment, row_last: Offset, mut want: Want) -> Vec<Offset> {
        let handle = self.bytewise.handle();
        let mut got = Vec::new();
        while want.from <= row_last && want.from < want.until {
            let taken = segment.take(&handle, want).await.unwrap();
            for batch in Batches::new(taken.pieces.into_bytes().unwrap()) {
                got.push(batch.unwrap().base_offset());
            }
            assert!(taken.next > want.from || taken.full, "no way on from {}", want.from);
            assert!(taken.next > want.from || !want.at_least_one, "nothing at {}", want.from);
            want.from = taken.next.max(got.last().map_or(Offset(0), |base| base.plus(1)));
        }
        got
    }
}

fn logs() -> impl Strategy<Value = Vec<Batch>> {
    let batch = (1i64..4, 0i64..3, 0i64..2000, prop::sample::select(vec![10usize, 9_000, 40_000, 90_000]));
    (0i64..50, prop::collection::vec(batch, 1..14)).prop_map(|(base, shapes)| {
        let mut next = base;
        let mut batches = Vec::new();
        for (records, hole, time, size) in shapes {
            let base = if batches.is_empty() { next } else { next + hole };
            batches.push(plain(base, records, time, size));
            next = base + records;
        }
        batches
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_reader_gets_each_batch_once_and_in_order_wherever_it_begins(
        batches in logs(), from in 0i64..100, span in 1i64..100, bytes_max in 1usize..300_000
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let world = World::new();
            let segment = world.put(&batches).await;
            let last = batches[batches.len() - 1].last_offset();
            let from = Offset(batches[0].base_offset().0 + from % (last.0 - batches[0].base_offset().0 + 1));
            // Bounds of readers lie between batches: a high watermark, a last stable offset.
            let until = batches.iter().map(|b| b.last_offset().plus(1)).find(|end| end.0 >= from.0 + span);
            let until = until.unwrap_or(last.plus(1));
            let expected: Vec<Offset> = batches.iter()
                .filter(|b| b.last_offset() >= from && b.base_offset() < until)
                .map(Batch::base_offset).collect();
            let want = Want { from, until, bytes_max, at_least_one: true };
            assert_eq!(world.read(&segment, last, want).await, expected);
        });
    }

    #[test]
    fn a_time_is_found_where_a_walk_through_all_batches_finds_it(
        batches in logs(), target in 0i64..2100, from in 0i64..100
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let world = World::new();
            let segment = world.put(&batches).await;
            let (target, from) = (Millis(target), Offset(from));
            let expected = batches.iter().find(|b| b.max_timestamp() >= target && b.last_offset() >= from);
            let found = segment.find_time(target, from).await.unwrap();
            assert_eq!(found, expected.map(|batch| batch.bytes().clone()));
            let largest = batches.iter().filter(|b| b.last_offset() >= from).map(Batch::max_timestamp).max();
            if let Some(largest) = largest {
                assert_eq!(segment.largest(from).await.unwrap(), largest);
            }
        });
    }

    #[test]
    fn no_decoder_panics_on_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = (Epochs::parse(&bytes), Producers::parse(&bytes), parse_aborted(&bytes), Manifest::parse(&bytes));
        let parts = bytes.len() as u32 / 3;
        let crc = crc32c::crc32c(&bytes);
        let layout = Layout { offset: parts, time: parts, epochs: bytes.len() as u32 - 2 * parts, crc, ..Layout::default() };
        let _ = Indexes::parse(Bytes::from(bytes), &layout, (Offset(0), Offset(1000)), 10_000);
    }

    #[test]
    fn one_changed_byte_of_a_manifest_never_makes_one_that_lies_about_places(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let (_, built) = built(&name(0, &Seams::seeded(1)), Start::default(), &[plain(0, 3, 5, 10)]);
        let mut bytes = built.manifest.encode();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(read) = Manifest::parse(&bytes) {
            prop_assert!(read.layout().len() < 1 << 32 && read.bytes() <= i32::MAX as u64);
            prop_assert!(read.offsets().0 <= read.offsets().1);
            let again = Manifest::parse(&read.encode());
            prop_assert_eq!(again.ok(), Some(read));
        }
    }
}

#[tokio::test]
async fn the_three_objects_are_there_under_their_names_and_the_manifest_says_where_what_lies() {
    let world = World::new();
    let name = name(10, &world.seams);
    let (log, built) = built(&name, Start::default(), &[plain(10, 2, 50, 100), plain(12, 1, 40, 100)]);
    upload::put(&world.bucket, &name, log.clone(), &built).await.unwrap();
    let mut stored = Vec::new();
    for part in SegmentPart::ALL {
        let key = keys::segment(&name, part);
        assert_eq!(
            Name::parse(&key).unwrap().creator(),
            Some(BrokerEpoch(5)),
            "garbage is recognised by its name"
        );
        let found = world.bucket.get(Kind::Segment, &key, Span::All, Patience::Tries(1)).await.unwrap();
        stored.push(found.unwrap().bytes);
    }
    assert_eq!(stored[0], log.concat());
    let manifest = Manifest::parse(&stored[2]).unwrap();
    assert_eq!(Layout { crc: built.row.indexes.crc, ..manifest.layout() }, built.row.indexes);
    assert_eq!((manifest.offsets(), manifest.bytes()), ((Offset(10), Offset(12)), stored[0].len() as u64));
    assert_eq!(manifest.max_timestamp(), Millis(51));
    assert_eq!(manifest.epochs().collect::<Vec<_>>(), built.row.epochs);
    let row = &built.row;
    let indexes = Indexes::parse(stored[1].clone(), &row.indexes, (row.base, row.last), row.bytes).unwrap();
    assert_eq!(
        indexes.moments().collect::<Vec<_>>(),
        [(Millis(51), Offset(11))],
        "the greatest of a closed log"
    );
    assert_eq!(indexes.epochs().all(), [(LeaderEpoch(2), Offset(10))]);
}

#[test]
fn aborted_transactions_and_producers_are_as_kafka_keeps_them() {
    let start = Start { epochs: Epochs::new(vec![(LeaderEpoch(0), Offset(0))]), ..Start::default() };
    let first = [in_txn(1, 100, 0), in_txn(2, 101, 0), in_txn(1, 102, 1), marker(1, 103, Outcome::Abort)];
    let seams = Seams::seeded(1);
    let (_, one) = built(&name(100, &seams), start, &first);
    let aborted = Aborted {
        producer: ProducerId(1),
        first: Offset(100),
        marker: Offset(103),
        stable: Offset(101), // the other one is still open
    };
    let indexes = |built: &Built| {
        let row = &built.row;
        Indexes::parse(built.indexes.clone(), &row.indexes, (row.base, row.last), row.bytes).unwrap()
    };
    assert_eq!(indexes(&one).aborted(), [aborted]);
    assert_eq!(one.row.epochs, [(LeaderEpoch(2), Offset(100))]);
    let open = indexes(&one).producers().unwrap();
    assert_eq!(
        open.all().map(|(id, p)| (id.0, p.open_txn, p.last_sequence)).collect::<Vec<_>>(),
        [(1, None, 1), (2, Some(Offset(101)), 0)]
    );

    // The next segment goes on from there.
    let start = Start { epochs: indexes(&one).epochs().clone(), producers: open };
    assert_eq!(start, one.end);
    let (_, two) =
        built(&name(104, &seams), start, &[marker(2, 104, Outcome::Abort), marker(1, 105, Outcome::Commit)]);
    let aborted =
        Aborted { producer: ProducerId(2), first: Offset(101), marker: Offset(104), stable: Offset(105) };
    assert_eq!(indexes(&two).aborted(), [aborted]);
    assert_eq!(indexes(&two).epochs().all(), [(LeaderEpoch(0), Offset(0)), (LeaderEpoch(2), Offset(100))]);
}

#[test]
fn kafkas_files_survive_their_bytes() {
    let aborted =
        [Aborted { producer: ProducerId(4), first: Offset(1), marker: Offset(9), stable: Offset(10) }];
    assert_eq!(parse_aborted(&encode_aborted(&aborted)).unwrap(), aborted);
    assert!(parse_aborted(&encode_aborted(&[aborted[0], aborted[0]])).is_err(), "markers rise");
    let epochs = Epochs::new(vec![(LeaderEpoch(0), Offset(0)), (LeaderEpoch(7), Offset(80))]);
    assert_eq!(epochs.encode(), b"0\n2\n0 0\n7 80\n");
    assert_eq!(Epochs::parse(&epochs.encode()).unwrap(), epochs);
    for bad in ["", "0\n", "0\n2\n0 0\n", "1\n0\n", "0\n1\n0 0", "0\n2\n1 0\n1 5\n", "0\n1\n-1 0\n"] {
        assert!(Epochs::parse(bad.as_bytes()).is_err(), "{bad:?}");
    }
}

#[test]
fn producers_that_are_idle_for_long_are_forgotten_unless_a_transaction_of_theirs_is_open() {
    let mut producers = Producers::default();
    for (producer, time) in [(1, 10), (2, 20), (3, 30)] {
        let batch = build::Builder::new()
            .producer(ProducerId(producer), ProducerEpoch(0), 0)
            .append(Millis(time), None, Some(b"x"))
            .build();
        producers.apply(&batch).unwrap();
    }
    producers.apply(&in_txn(4, 3, 0)).unwrap();
    let left = |producers: &Producers| producers.all().map(|(id, _)| id.0).collect::<Vec<_>>();
    producers.expire(Millis(20), 100);
    assert_eq!(left(&producers), [2, 3, 4]);
    producers.expire(Millis(0), 2);
    assert_eq!(left(&producers), [3, 4]);
    producers.expire(Millis(i64::MAX), 0);
    assert_eq!(left(&producers), [4]);
}

#[test]
fn nothing_is_built_of_batches_that_are_damaged_or_do_not_follow() {
    let mut builder = Builder::new(Offset(5), Start::default());
    assert!(builder.add(&plain(4, 1, 0, 1)).is_err());
    builder.add(&plain(5, 2, 0, 1)).unwrap();
    assert!(builder.add(&plain(6, 1, 0, 1)).is_err());
    let mut bad = plain(7, 1, 0, 10).bytes().to_vec();
    *bad.last_mut().unwrap() ^= 1;
    assert!(builder.add(&Batch::parse(Bytes::from(bad)).unwrap()).is_err());
    let older = build::Builder::new()
        .base_offset(Offset(7))
        .leader_epoch(LeaderEpoch(1))
        .append(NOW, None, None)
        .build();
    assert!(builder.add(&older).is_err(), "leader epochs do not fall");
    builder.add(&plain(9, 1, 0, 1)).unwrap();
    assert_eq!(builder.next(), Offset(10));
}

#[test]
fn every_flipped_bit_and_every_missing_byte_of_the_indexes_is_refused() {
    let batches: Vec<Batch> = (0..6).map(|at| plain(at * 2, 2, at * 10, 40_000)).collect();
    let (_, built) = built(&name(0, &Seams::seeded(1)), Start::default(), &batches);
    let row = &built.row;
    let parse =
        |bytes: Vec<u8>| Indexes::parse(Bytes::from(bytes), &row.indexes, (row.base, row.last), row.bytes);
    assert!(parse(built.indexes.to_vec()).unwrap().slices() > 2);
    for at in 0..built.indexes.len() {
        assert!(parse(built.indexes[..at].to_vec()).is_err(), "truncated to {at}");
        for bit in 0..8 {
            let mut bytes = built.indexes.to_vec();
            bytes[at] ^= 1 << bit;
            assert!(parse(bytes).is_err(), "bit {bit} of byte {at}");
        }
    }
}

#[tokio::test]
async fn a_log_that_was_damaged_or_cut_short_is_never_served() {
    let batches: Vec<Batch> = (0..8).map(|at| plain(at, 1, at, 40_000)).collect();
    for (what, at) in [("flipped", 5000usize), ("flipped", 310_000), ("short", 1), ("gone", 0)] {
        let world = World::new();
        let name = name(0, &world.seams);
        let (log, built) = built(&name, Start::default(), &batches);
        let mut bytes = log.concat();
        match what {
            "flipped" => bytes[at] ^= 4,
            _ => bytes.truncate(bytes.len() - at),
        }
        upload::put(&world.bucket, &name, vec![Bytes::from(bytes)], &built).await.unwrap();
        if what == "gone" {
            let key = keys::segment(&name, SegmentPart::Log);
            world.bucket.delete(Kind::Segment, vec![key], Patience::Tries(1)).await.unwrap();
        }
        let segment = world.reader.open(&name, &built.row).await.unwrap();
        let want = Want { from: Offset(0), until: Offset(8), bytes_max: usize::MAX, at_least_one: true };
        let taken = segment.take(&world.bytewise.handle(), want).await;
        match what {
            "gone" => assert!(matches!(taken, Err(Error::Gone { .. })), "{taken:?}"),
            _ => assert!(matches!(taken, Err(Error::Corrupt { .. })), "{what}: {taken:?}"),
        }
    }
}

#[tokio::test]
async fn indexes_are_read_from_the_bucket_once() {
    let world = World::new();
    let name = name(0, &world.seams);
    let (log, built) = built(&name, Start::default(), &[plain(0, 1, 1, 10)]);
    upload::put(&world.bucket, &name, log, &built).await.unwrap();
    for _ in 0..3 {
        world.reader.open(&name, &built.row).await.unwrap();
    }
    let gets: u64 = world
        .bucket
        .meter()
        .iter()
        .filter(|row| row.verb == crate::bucket::Verb::Get)
        .map(|row| row.attempts)
        .sum();
    assert_eq!(gets, 1);
}
