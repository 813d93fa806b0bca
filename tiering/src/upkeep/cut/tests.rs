use std::collections::BTreeMap;

use async_trait::async_trait;
use proptest::prelude::*;
use tidemark_proto::id::{LeaderEpoch, Life, Millis, Nonce, Offset, PartitionIndex, TopicId};
use tidemark_proto::record::build::Builder;
use tidemark_proto::record::stamp::Stamped;
use uuid::Uuid;

use super::*;
use crate::bucket::Verb;
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
        self.place(entries).await;
    }

    async fn place(&mut self, entries: Vec<Entry>) {
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

    fn job(&self, parcels: &[(Seq, Arc<Footer>)]) -> Job {
        let (parcels, states) = (parcels.to_vec(), self.states());
        Job { cluster: CLUSTER, lane: LANE, creator: BrokerEpoch(9), parcels, states }
    }

    /// All parcels, stretch by stretch.
    async fn cut(&self, object_bytes: u64, source: &dyn Source, wanted: Wanted<'_>) -> Vec<RunRow> {
        let (mut rows, mut rest) = (Vec::new(), &self.parcels[..]);
        while !rest.is_empty() {
            let next = stretch(rest.iter().map(|(_, footer)| footer.batch_bytes()), object_bytes);
            let job = self.job(&rest[..next]);
            rows.extend(object(&self.bucket, &self.seams, source, &job, wanted).await.unwrap());
            rest = &rest[next..];
        }
        rows
    }

    fn gets(&self) -> u64 {
        let meter = self.bucket.meter();
        meter.iter().filter(|r| (r.kind, r.verb) == (Kind::Parcel, Verb::Get)).map(|r| r.attempts).sum()
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
async fn read_back(world: &World, runs: &[RunRow], of: TopicPartition) -> Vec<i64> {
    let reader = Reader::new(world.bucket.clone(), CLUSTER);
    let range = run::range_of(of);
    let mut offsets = Vec::new();
    for row in runs.iter().filter(|row| row.ranges.iter().any(|r| r.0 <= range && range <= r.1)) {
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
    let runs = world.cut(OBJECT_BYTES, &BucketOnly, &all).await;
    assert_eq!(runs.len(), 1);
    let row = &runs[0];
    assert_eq!(row.lanes, [(LANE, Seq(0), Seq(10))]);
    assert_eq!(row.ranges, [(1, 1), (2, 2), (0xF1, 0xF1)], "user topics, then internal ones");
    assert_eq!(row.max_timestamp, Millis(1019));
    let object = world.object(&row.key).await;
    assert_eq!(object.len() as u64, row.bytes);
    run::open(&object).unwrap();
    for (of, end) in &world.ends {
        assert_eq!(read_back(&world, &runs, *of).await, (0..*end).collect::<Vec<_>>(), "{of}");
    }
}

#[tokio::test]
async fn look_ups_land_in_the_slice_that_holds_the_offset_or_the_time() {
    let mut world = World::new();
    let tp = of(1, 0);
    for _ in 0..20 {
        world.parcel(&[(tp, 30_000)]).await;
    }
    let runs = world.cut(OBJECT_BYTES, &BucketOnly, &all).await;
    let reader = Reader::new(world.bucket.clone(), CLUSTER);
    let entry = reader.find(&runs[0].key, tp).await.unwrap().remove(0);
    assert!(entry.slices.len() >= 6);
    for offset in 0..20 {
        let extent = entry.extents(Offset(offset)).next().unwrap();
        assert!((extent.base_offset.0..=extent.last_offset.0).contains(&offset));
        let since = entry.extents_since(Millis(1000 + offset), Offset(0)).next().unwrap();
        assert_eq!(since, extent);
    }
    assert_eq!(entry.extents(Offset(20)).count(), 0);
    assert_eq!(entry.extents_since(Millis(1020), Offset(0)).count(), 0);
    assert_eq!(reader.find(&runs[0].key, of(1, 1)).await.unwrap(), []);
}

#[tokio::test]
async fn objects_are_bounded_stretches_and_every_parcel_is_read_once() {
    let mut world = World::new();
    for _ in 0..8 {
        world.parcel(&[(of(1, 0), 1000), (of(2, 0), 40_000), (of(3, 0), 1000)]).await;
    }
    let runs = world.cut(100_000, &BucketOnly, &all).await;
    assert_eq!(runs.len(), 4);
    assert!(runs.iter().all(|row| row.bytes < 110_000), "{runs:?}");
    let lanes: Vec<_> = runs.iter().flat_map(|row| row.lanes.clone()).collect();
    assert_eq!(lanes, [0, 2, 4, 6].map(|from| (LANE, Seq(from), Seq(from + 2))));
    assert_eq!(world.gets(), 8, "one request a parcel");
    let reader = Reader::new(world.bucket.clone(), CLUSTER);
    for row in &runs {
        for found in reader.find(&row.key, of(2, 0)).await.unwrap() {
            assert!(found.state.is_some(), "any object may be the newest that holds the partition");
        }
    }
    for (of, end) in &world.ends {
        assert_eq!(read_back(&world, &runs, *of).await, (0..*end).collect::<Vec<_>>(), "{of}");
    }
}

#[test]
fn a_stretch_fits_an_object_and_is_never_empty() {
    let of = |sizes: &[u64]| stretch(sizes.iter().copied(), 100);
    assert_eq!((of(&[]), of(&[500]), of(&[500, 1]), of(&[0, 500])), (0, 1, 1, 1));
    assert_eq!((of(&[50, 50]), of(&[50, 50, 1]), of(&[50, 51])), (2, 2, 1));
}

/// The batches as the lane's owner has them, for some parcels.
struct InMemory(BTreeMap<(Seq, TopicPartition), Vec<Stamped>>);

impl Source for InMemory {
    fn at_hand(&self, seq: Seq, part: &Part) -> Option<Vec<Stamped>> {
        self.0.get(&(seq, part.of)).cloned()
    }
}

#[tokio::test]
async fn what_is_at_hand_is_not_read_and_gives_the_same_object() {
    let mut world = World::new();
    let mut memory = BTreeMap::new();
    for seq in 0..6u64 {
        let entries: Vec<_> =
            [(of(1, 0), 100), (of(2, 0), 9_000), (of(1, 0), 100)].map(|(of, n)| world.entry(of, n)).into();
        for entry in &entries {
            memory.entry((Seq(seq), entry.of())).or_insert_with(Vec::new).push(entry.batch.clone());
        }
        world.place(entries).await;
    }
    let whole = InMemory(memory.clone());
    let first = world.cut(OBJECT_BYTES, &whole, &all).await;
    assert_eq!(world.gets(), 0, "all is at hand");
    memory.retain(|(seq, _), _| seq.0 >= 4);
    memory.remove(&(Seq(5), of(2, 0)));
    if let Some(other) = memory.get_mut(&(Seq(4), of(2, 0))) {
        other[0] = Stamped::new(&other[0].to_batch(), Offset(77), LeaderEpoch(1));
    }
    let part = InMemory(memory);
    let second = world.cut(OBJECT_BYTES, &part, &all).await;
    assert_eq!(world.gets(), 6, "parcels, each once: gone, or not what the footer says, or partly at hand");
    let body = async |row: &RunRow| {
        let object = world.object(&row.key).await;
        run::open(&object).unwrap();
        object.slice(HEADER_LEN..)
    };
    let end = row_data_end(&first[0], &world).await;
    let (a, b) = (body(&first[0]).await, body(&second[0]).await);
    assert_eq!(a.slice(..end), b.slice(..end), "the same batches, byte for byte");
    for (of, end) in &world.ends {
        assert_eq!(read_back(&world, &first, *of).await, (0..*end).collect::<Vec<_>>(), "{of}");
    }
}

async fn row_data_end(row: &RunRow, world: &World) -> usize {
    let root = Reader::new(world.bucket.clone(), CLUSTER).root(&row.key).await.unwrap();
    root.data_end() as usize - HEADER_LEN
}

/// Counts the bytes of parcels that are held by whoever read them.
#[derive(Clone, Default)]
struct Held(Arc<parking_lot::Mutex<(usize, usize)>>);

struct Holding(Vec<u8>, Held);

impl Holding {
    fn bytes(bytes: &Bytes, held: &Held) -> Bytes {
        let mut count = held.0.lock();
        count.0 += bytes.len();
        count.1 = count.1.max(count.0);
        drop(count);
        Bytes::from_owner(Holding(bytes.to_vec(), held.clone()))
    }
}

impl AsRef<[u8]> for Holding {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.1.0.lock().0 -= self.0.len();
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("held")
    }
}

#[derive(Debug)]
struct Counting(crate::bucket::Memory, Held);

impl std::fmt::Display for Counting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

mod counting {
    use futures::stream::{self, BoxStream};
    use futures::{StreamExt, TryStreamExt};
    use object_store::path::Path;
    use object_store::*;

    use super::{Bytes, Counting, Holding, async_trait};

    #[async_trait]
    impl ObjectStore for Counting {
        async fn put_opts(&self, at: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
            let copy: Vec<u8> = payload.iter().flat_map(|part| part.iter().copied()).collect();
            self.0.put_opts(at, Bytes::from(copy).into(), opts).await
        }

        async fn put_multipart_opts(
            &self,
            at: &Path,
            opts: PutMultipartOptions,
        ) -> Result<Box<dyn MultipartUpload>> {
            self.0.put_multipart_opts(at, opts).await
        }

        async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
            let got = self.0.get_opts(at, options).await?;
            let (meta, range, attributes) = (got.meta.clone(), got.range.clone(), got.attributes.clone());
            let extensions = got.extensions.clone();
            let bytes = Holding::bytes(&got.bytes().await?, &self.1);
            let payload = GetResultPayload::Stream(stream::once(async { Ok(bytes) }).boxed());
            Ok(GetResult { payload, meta, range, attributes, extensions })
        }

        fn delete_stream(&self, at: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
            self.0.delete_stream(at)
        }

        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
            self.0.list(prefix).map_ok(|meta| meta).boxed()
        }

        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
            self.0.list_with_delimiter(prefix).await
        }

        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
            self.0.copy_opts(from, to, options).await
        }
    }
}

#[tokio::test]
async fn a_cut_holds_one_stretch_whatever_the_lane_holds() {
    let (mut world, held) = (World::new(), Held::default());
    let store = Counting(crate::bucket::Memory::new(world.seams.clock.clone()), held.clone());
    world.bucket = Bucket::new(Arc::new(store), crate::bucket::Options::default(), &world.seams);
    for i in 0..60 {
        world.parcel(&[(of(1, 0), 30_000), (of(2, i % 5), 20_000), (of(3, 0), 500)]).await;
    }
    let object_bytes = 200_000;
    let runs = world.cut(object_bytes, &BucketOnly, &all).await;
    assert_eq!((runs.len(), world.gets()), (20, 60));
    let (now, most) = *held.0.lock();
    assert_eq!(now, 0, "nothing is kept");
    assert!(most as u64 <= object_bytes, "{most} bytes were held at once of {}", 60 * 50_500);
    assert!(most > 100_000, "the count counts");
}

#[tokio::test]
async fn states_come_back_from_the_run_and_from_the_checkpoint() {
    let mut world = World::new();
    world.parcel(&[(of(1, 0), 10), (of(2, 0), 10)]).await;
    world.ends.insert(of(7, 7), 55); // led, but silent
    let runs = world.cut(OBJECT_BYTES, &BucketOnly, &all).await;
    let states = world.states();
    let row = checkpoint(&world.bucket, &world.seams, CLUSTER, BrokerEpoch(9), (LANE, Seq(1)), &states).await;
    let row = row.unwrap();
    let found = run::checkpoint::read(&world.bucket, CLUSTER, &row.key).await.unwrap();
    assert_eq!((found.lane, found.upto, &found.states), (LANE, Seq(1), &states));
    let reader = Reader::new(world.bucket.clone(), CLUSTER);
    let entry = reader.find(&runs[0].key, of(2, 0)).await.unwrap().remove(0);
    assert_eq!(entry.state.as_ref(), states.get(&of(2, 0)));
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
    let runs = world.cut(OBJECT_BYTES, &BucketOnly, &wanted).await;
    assert_eq!(read_back(&world, &runs, of(1, 0)).await, [1, 2, 3]);
    assert!(read_back(&world, &runs, of(2, 0)).await.is_empty());
    let before = world.gets();
    assert!(world.cut(OBJECT_BYTES, &BucketOnly, &|_, _, _| false).await.is_empty());
    assert_eq!(world.gets(), before, "what is not wanted is not read");
}

#[tokio::test]
async fn damage_in_a_parcel_stops_the_cut() {
    let mut world = World::new();
    let store = crate::bucket::Memory::new(world.seams.clock.clone());
    world.bucket = Bucket::new(Arc::new(store.clone()), crate::bucket::Options::default(), &world.seams);
    world.parcel(&[(of(1, 0), 1000)]).await;
    let key = keys::parcel(&LANE, Seq(0));
    let mut bytes = store.dump().into_iter().find(|(at, _)| *at == key).unwrap().1.to_vec();
    bytes[500] ^= 1;
    store.overwrite(&key, bytes.into());
    let job = world.job(&world.parcels);
    let found = object(&world.bucket, &world.seams, &BucketOnly, &job, &all).await;
    assert!(matches!(found, Err(Error::Corrupt { key: at, .. }) if at == key));
}

#[tokio::test]
async fn overlapping_offsets_and_gaps_between_parcels_are_refused() {
    let mut world = World::new();
    world.parcel(&[(of(1, 0), 10)]).await;
    world.ends.insert(of(1, 0), 0);
    world.parcel(&[(of(1, 0), 10)]).await;
    let cut = async |parcels: &[(Seq, Arc<Footer>)]| {
        object(&world.bucket, &world.seams, &BucketOnly, &world.job(parcels), &all).await
    };
    let found = cut(&world.parcels).await;
    assert!(matches!(found, Err(Error::Corrupt { key, .. }) if key == keys::parcel(&LANE, Seq(1))));
    let mut gap = world.parcels.clone();
    gap[1].0 = Seq(2);
    assert!(cut(&gap).await.is_err());
    assert_eq!(cut(&[]).await, Ok(None));
}

#[tokio::test]
async fn every_bit_flip_in_an_object_of_a_run_is_refused() {
    let mut world = World::new();
    world.parcel(&[(of(1, 0), 20), (of(2, 0), 20), (of(0xF1, 0), 20)]).await;
    let runs = world.cut(OBJECT_BYTES, &BucketOnly, &all).await;
    let bytes = world.object(&runs[0].key).await;
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
    let runs = world.cut(OBJECT_BYTES, &BucketOnly, &all).await;
    let reader = Reader::new(world.bucket.clone(), CLUSTER);
    let root = reader.root(&runs[0].key).await.unwrap();
    assert!(root.pages.len() >= 5 && root.pages.iter().all(|page| page.length < 70_000));
    for of in world.ends.keys() {
        assert_eq!(reader.find(&runs[0].key, *of).await.unwrap().len(), 1);
    }
    assert_eq!(reader.entries(&runs[0].key).await.unwrap().len(), 3000);
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
            let runs = world.cut(object_bytes, &BucketOnly, &all).await;
            for row in &runs {
                run::open(&world.object(&row.key).await).unwrap();
            }
            for (of, end) in &world.ends {
                assert_eq!(read_back(&world, &runs, *of).await, (0..*end).collect::<Vec<_>>());
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
