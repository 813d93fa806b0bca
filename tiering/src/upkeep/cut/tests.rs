use std::collections::BTreeMap;

use proptest::prelude::*;
use tidemark_proto::id::{LeaderEpoch, Life, Millis, Nonce, PartitionIndex, TopicId};
use tidemark_proto::record::build::Builder;
use tidemark_proto::record::stamp::Stamped;
use uuid::Uuid;

use super::*;
use crate::parcel::{Entry, build as build_parcel};
use crate::run::{self, Reader};

const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(1));
const LANE: LaneId = LaneId { epoch: BrokerEpoch(4), lane: 0, life: Life(5) };

fn of(topic: u128, partition: i32) -> TopicPartition {
    let topic = TopicId(Uuid::from_u128(topic << 96));
    TopicPartition { topic, partition: PartitionIndex(partition) }
}

/// A lane in memory, written without a writer.
struct World {
    seams: Seams,
    bucket: Bucket,
    parcels: Vec<(Seq, Arc<Footer>)>,
    ends: BTreeMap<TopicPartition, i64>,
    epoch: LeaderEpoch,
}

impl World {
    fn new() -> World {
        let seams = Seams::seeded(3);
        let (bucket, ends) = (Bucket::memory(&seams), BTreeMap::new());
        World { seams, bucket, parcels: Vec::new(), ends, epoch: LeaderEpoch(1) }
    }

    fn entry(&mut self, of: TopicPartition, bytes: usize) -> Entry {
        let end = self.ends.entry(of).or_insert(0);
        let base = Offset(*end);
        *end += 1;
        let batch = Builder::new().append(Millis(1000 + base.0), None, Some(&vec![b'x'; bytes])).build();
        let meta = BatchEntry::of(&batch, base, self.epoch).unwrap();
        let batch = Stamped::new(&batch, base, self.epoch);
        let internal = of.topic.0.as_u128() >> 96 >= 0xF0;
        Entry { topic: of.topic, partition: of.partition, internal, batch, meta }
    }

    async fn parcel(&mut self, adds: &[(TopicPartition, usize)]) {
        let entries = adds.iter().map(|&(of, bytes)| self.entry(of, bytes)).collect();
        let seq = Seq(self.parcels.len() as u64);
        let built = build_parcel(CLUSTER, LANE, seq, Nonce(seq.0.into()), entries, vec![]);
        let key = keys::parcel(&LANE, seq);
        assert_eq!(self.bucket.place(Kind::Parcel, &key, &built.body, HEADER_LEN).await, Placed::Ours);
        self.parcels.push((seq, built.footer));
    }

    fn states(&self) -> BTreeMap<TopicPartition, State> {
        let state = |end: &i64| State {
            log_start: Offset(0),
            end: Offset(*end),
            epochs: vec![(LeaderEpoch(0), Offset(0)), (LeaderEpoch(1), Offset(0))],
            snapshot: Bytes::from(format!("producers at {end}")),
        };
        self.ends.iter().map(|(of, end)| (*of, state(end))).collect()
    }

    fn job(&self, object_bytes: u64) -> Job {
        Job {
            cluster: CLUSTER,
            lane: LANE,
            creator: BrokerEpoch(9),
            parcels: self.parcels.clone(),
            states: self.states(),
            checkpoint: true,
            object_bytes,
        }
    }

    async fn cut(&self, job: &Job, wanted: Wanted<'_>) -> Cut {
        let source = Parcels { bucket: self.bucket.clone(), lane: LANE };
        run(&self.bucket, &self.seams, &source, job, wanted).await.unwrap().unwrap()
    }

    async fn object(&self, key: &str) -> Bytes {
        let fetched = self.bucket.get(Kind::Run, key, Span::All, Patience::Tries(1)).await;
        fetched.unwrap().unwrap().bytes
    }
}

fn all(_: Seq, _: TopicPartition, _: &BatchEntry) -> bool {
    true
}

/// Every batch's base offset, read back through look-ups in the rows a metadata image would hold.
async fn read_back(world: &World, cut: &Cut, of: TopicPartition) -> Vec<i64> {
    let reader = Reader::new(world.bucket.clone(), CLUSTER);
    let range = run::range_of(of);
    let mut offsets = Vec::new();
    for row in cut.runs.iter().filter(|row| row.ranges.iter().any(|r| r.0 <= range && range <= r.1)) {
        for entry in reader.find(&row.key, of).await.unwrap() {
            for extent in entry.extents(Offset(0)) {
                let bytes = reader.bytes(&row.key, extent).await.unwrap();
                let batches = tidemark_proto::record::view::Batches::new(bytes);
                offsets.extend(batches.map(|batch| batch.unwrap().base_offset().0));
            }
        }
    }
    offsets
}

#[tokio::test]
async fn every_batch_of_a_cut_is_found_again() {
    let mut world = World::new();
    for i in 0..10 {
        world.parcel(&[(of(1, 0), 100), (of(2, i % 3), 50), (of(0xF1, 4), 10), (of(1, 0), 30_000)]).await;
    }
    let cut = world.cut(&world.job(OBJECT_BYTES), &all).await;
    assert_eq!((cut.upto, cut.runs.len()), (Seq(10), 1));
    let row = &cut.runs[0];
    assert_eq!(row.lanes, [(LANE, Seq(0), Seq(10))]);
    assert_eq!(row.ranges, [(1, 2), (0xF1, 0xF1)], "user topics, then internal ones");
    assert_eq!(row.max_timestamp, Millis(1019));
    let object = world.object(&row.key).await;
    assert_eq!(object.len() as u64, row.bytes);
    run::open(&object).unwrap();
    for (of, end) in &world.ends {
        assert_eq!(read_back(&world, &cut, *of).await, (0..*end).collect::<Vec<_>>(), "{of}");
    }
}

#[tokio::test]
async fn look_ups_land_in_the_slice_that_holds_the_offset_or_the_time() {
    let mut world = World::new();
    let tp = of(1, 0);
    for _ in 0..20 {
        world.parcel(&[(tp, 30_000)]).await;
    }
    let cut = world.cut(&world.job(OBJECT_BYTES), &all).await;
    let reader = Reader::new(world.bucket.clone(), CLUSTER);
    let entry = reader.find(&cut.runs[0].key, tp).await.unwrap().remove(0);
    assert!(entry.slices.len() >= 6);
    for offset in 0..20 {
        let extent = entry.extents(Offset(offset)).next().unwrap();
        assert!((extent.base_offset.0..=extent.last_offset.0).contains(&offset));
        let since = entry.extents_since(Millis(1000 + offset), Offset(0)).next().unwrap();
        assert_eq!(since, extent);
    }
    assert_eq!(entry.extents(Offset(20)).count(), 0);
    assert_eq!(entry.extents_since(Millis(1020), Offset(0)).count(), 0);
    assert_eq!(reader.find(&cut.runs[0].key, of(1, 1)).await.unwrap(), []);
}

#[tokio::test]
async fn objects_are_bounded_and_a_big_partition_goes_on_in_the_next() {
    let mut world = World::new();
    for _ in 0..8 {
        world.parcel(&[(of(1, 0), 1000), (of(2, 0), 40_000), (of(3, 0), 1000)]).await;
    }
    let cut = world.cut(&world.job(100_000), &all).await;
    assert!(cut.runs.len() >= 4);
    assert!(cut.runs.iter().all(|row| row.bytes < 110_000), "{:?}", cut.runs);
    let reader = Reader::new(world.bucket.clone(), CLUSTER);
    let mut with_state = Vec::new();
    for row in &cut.runs {
        let found = reader.find(&row.key, of(2, 0)).await.unwrap();
        with_state.extend(found.iter().map(|entry| entry.state.is_some()));
    }
    assert_eq!(with_state.iter().filter(|state| **state).count(), 1);
    assert_eq!(with_state.last(), Some(&true), "the newest share tells the state");
    for (of, end) in &world.ends {
        assert_eq!(read_back(&world, &cut, *of).await, (0..*end).collect::<Vec<_>>(), "{of}");
    }
}

#[tokio::test]
async fn states_come_back_from_the_run_and_from_the_checkpoint() {
    let mut world = World::new();
    world.parcel(&[(of(1, 0), 10), (of(2, 0), 10)]).await;
    world.ends.insert(of(7, 7), 55); // led, but silent
    let cut = world.cut(&world.job(OBJECT_BYTES), &all).await;
    let row = cut.checkpoint.clone().unwrap();
    let found = run::checkpoint::read(&world.bucket, CLUSTER, &row.key).await.unwrap();
    assert_eq!((found.lane, found.upto, &found.states), (LANE, Seq(1), &world.states()));
    let reader = Reader::new(world.bucket.clone(), CLUSTER);
    let entry = reader.find(&cut.runs[0].key, of(2, 0)).await.unwrap().remove(0);
    assert_eq!(entry.state.as_ref(), world.states().get(&of(2, 0)));
    assert_eq!(keys::creator(row.id), Some(BrokerEpoch(9)));
    let foreign = run::checkpoint::read(&world.bucket, ClusterId::default(), &row.key).await;
    assert!(matches!(foreign, Err(Error::Corrupt { .. })));
}

#[tokio::test]
async fn what_is_not_wanted_stays_behind() {
    let mut world = World::new();
    for _ in 0..3 {
        world.parcel(&[(of(1, 0), 10), (of(1, 0), 10), (of(2, 0), 10)]).await;
    }
    let wanted = |seq: Seq, tp: TopicPartition, batch: &BatchEntry| {
        tp == of(1, 0) && batch.base_offset.0 >= 1 && seq < Seq(2)
    };
    let cut = world.cut(&world.job(OBJECT_BYTES), &wanted).await;
    assert_eq!(read_back(&world, &cut, of(1, 0)).await, [1, 2, 3]);
    assert!(read_back(&world, &cut, of(2, 0)).await.is_empty());
    let none = world.cut(&world.job(OBJECT_BYTES), &|_, _, _| false).await;
    assert!(none.runs.is_empty() && none.checkpoint.is_some() && none.upto == Seq(3));
}

#[tokio::test]
async fn damage_in_a_parcel_stops_the_cut() {
    let mut world = World::new();
    world.parcel(&[(of(1, 0), 1000)]).await;
    struct Flipped(Parcels);
    #[async_trait]
    impl Source for Flipped {
        async fn read(&self, seq: Seq, range: Range<u64>) -> Result<Bytes, Error> {
            let mut bytes = self.0.read(seq, range).await?.to_vec();
            bytes[500] ^= 1;
            Ok(bytes.into())
        }
    }
    let source = Flipped(Parcels { bucket: world.bucket.clone(), lane: LANE });
    let found = run(&world.bucket, &world.seams, &source, &world.job(OBJECT_BYTES), &all).await;
    assert!(matches!(found, Err(Error::Corrupt { key, .. }) if key == keys::parcel(&LANE, Seq(0))));
}

#[tokio::test]
async fn overlapping_offsets_and_gaps_between_parcels_are_refused() {
    let mut world = World::new();
    world.parcel(&[(of(1, 0), 10)]).await;
    world.ends.insert(of(1, 0), 0);
    world.parcel(&[(of(1, 0), 10)]).await;
    let source = Parcels { bucket: world.bucket.clone(), lane: LANE };
    let job = world.job(OBJECT_BYTES);
    let found = run(&world.bucket, &world.seams, &source, &job, &all).await;
    assert!(matches!(found, Err(Error::Corrupt { .. })));
    let mut gap = world.job(OBJECT_BYTES);
    gap.parcels[1].0 = Seq(2);
    assert!(run(&world.bucket, &world.seams, &source, &gap, &all).await.is_err());
    let nothing = Job { parcels: vec![], ..job };
    assert_eq!(run(&world.bucket, &world.seams, &source, &nothing, &all).await, Ok(None));
}

#[tokio::test]
async fn every_bit_flip_in_an_object_of_a_run_is_refused() {
    let mut world = World::new();
    world.parcel(&[(of(1, 0), 20), (of(2, 0), 20), (of(0xF1, 0), 20)]).await;
    let cut = world.cut(&world.job(OBJECT_BYTES), &all).await;
    let bytes = world.object(&cut.runs[0].key).await;
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut bad = bytes.to_vec();
            bad[at] ^= 1 << bit;
            assert!(run::open(&Bytes::from(bad)).is_err(), "bit {bit} of byte {at}");
        }
        assert!(run::open(&bytes.slice(..at)).is_err(), "truncated to {at}");
    }
}

#[tokio::test]
async fn many_partitions_take_many_pages() {
    let mut world = World::new();
    let adds: Vec<_> = (0..3000).map(|i| (of(1 + i as u128 % 7, i / 7), 10)).collect();
    world.parcel(&adds).await;
    let cut = world.cut(&world.job(OBJECT_BYTES), &all).await;
    let reader = Reader::new(world.bucket.clone(), CLUSTER);
    let root = reader.root(&cut.runs[0].key).await.unwrap();
    assert!(root.pages.len() >= 5 && root.pages.iter().all(|page| page.length < 70_000));
    for of in world.ends.keys() {
        assert_eq!(reader.find(&cut.runs[0].key, *of).await.unwrap().len(), 1);
    }
    assert_eq!(reader.entries(&cut.runs[0].key).await.unwrap().len(), 3000);
}

#[test]
fn a_cut_is_due_by_number_bytes_or_age_and_never_over_nothing() {
    let start = Instant::now();
    let due = Thresholds { parcels: 4, bytes: 1000, age: Duration::from_secs(60) };
    let parcels = |n: u64, size| (7..7 + n).map(move |seq| (Seq(seq), size, start));
    assert_eq!(plan(start, parcels(3, 1), due), None);
    assert_eq!(plan(start, parcels(4, 1), due), Some(Seq(11)));
    assert_eq!(plan(start, parcels(2, 500), due), Some(Seq(9)));
    let later = start + Duration::from_secs(60);
    assert_eq!(plan(later, parcels(1, 1), due), Some(Seq(8)));
    assert_eq!(plan(later, parcels(0, 1), due), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn no_batch_is_lost_doubled_or_out_of_order(
        parcels in proptest::collection::vec(
            proptest::collection::vec((0u128..5, 0i32..3, 1usize..20_000), 1..12), 1..12),
        object_bytes in 1_000u64..200_000,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            for adds in &parcels {
                let topic = |t: u128| if t == 4 { 0xF4 } else { t };
                let adds: Vec<_> = adds.iter().map(|&(t, p, n)| (of(topic(t), p), n)).collect();
                world.parcel(&adds).await;
            }
            let cut = world.cut(&world.job(object_bytes), &all).await;
            for row in &cut.runs {
                run::open(&world.object(&row.key).await).unwrap();
            }
            for (of, end) in &world.ends {
                assert_eq!(read_back(&world, &cut, *of).await, (0..*end).collect::<Vec<_>>());
            }
        });
    }

    #[test]
    fn parsers_of_runs_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let bytes = Bytes::from(bytes);
        let _ = run::open(&bytes);
        let _ = run::checkpoint::parse(&bytes);
    }
}
