use std::time::Duration;

use super::*;
use crate::bucket::faults::{Fault, Faulty, Latency, Weather};
use crate::bucket::{Body, Config, Memory, Options, Outcome, Placed, Verb};
use crate::hot::chunks::MemoryChunks;

const MIB: u64 = 1 << 20;

struct World {
    bucket: Bucket,
    faulty: Faulty,
    reader: Reader,
}

fn pattern(len: u64) -> Bytes {
    (0..len).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect::<Vec<u8>>().into()
}

async fn world(size: u64, cache: usize) -> World {
    let seams = Seams::seeded(9);
    let latency =
        Latency { p50: Duration::from_millis(20), p99: Duration::from_millis(60), ..Latency::default() };
    let memory = Memory::new(seams.clock.clone());
    memory.overwrite("run/a", pattern(size));
    let weather = Weather { latency, ..Weather::default() };
    let faulty = Faulty::new(Arc::new(memory), weather, seams.entropy.fork());
    let bucket = Bucket::new(Arc::new(faulty.clone()), Options::default(), &seams);
    let reader = Reader::new(&bucket, Arc::new(MemoryChunks::new(cache)), ReadConfig::default(), &seams);
    World { bucket, faulty, reader }
}

impl World {
    fn gets(&self) -> u64 {
        let rows = self.bucket.meter().into_iter();
        rows.filter(|r| r.verb == Verb::Get && r.outcome == Outcome::Done).map(|r| r.attempts).sum()
    }

    async fn read(&self, range: Range<u64>, size: Option<u64>) -> Bytes {
        let pieces = self.reader.read(Kind::Run, "run/a", range, size).await.unwrap();
        pieces.into_bytes().unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn any_range_comes_back_exactly_with_and_without_the_size() {
    let size = 5 * MIB + 12_345;
    let world = world(size, 64 << 20).await;
    let whole = pattern(size);
    for known in [None, Some(size)] {
        for range in [0..1, 0..size, MIB - 1..MIB + 1, 5 * MIB..size, size - 1..size, 3..3, 2 * MIB..3 * MIB]
        {
            let due = whole.slice(range.start as usize..range.end as usize);
            assert!(world.read(range.clone(), known).await == due, "{range:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn fifty_readers_of_one_chunk_make_one_request() {
    let world = world(3 * MIB, 64 << 20).await;
    let reads = (0..50).map(|i| world.read(i * 100..i * 100 + 1000, Some(3 * MIB)));
    futures::future::join_all(reads).await;
    assert_eq!(world.gets(), 1);
    world.read(0..MIB, None).await;
    assert_eq!(world.gets(), 1, "cached");
}

#[tokio::test(start_paused = true)]
async fn neighbours_are_fetched_by_one_request_of_at_most_eight_chunks() {
    let world = world(20 * MIB, 64 << 20).await;
    world.read(3 * MIB..4 * MIB, None).await;
    assert_eq!(world.gets(), 1);
    world.read(0..20 * MIB, Some(20 * MIB)).await;
    assert_eq!(world.gets(), 1 + 3, "chunks 0-2, 4-11, 12-19");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_goes_away_takes_nothing_from_the_others() {
    let world = world(2 * MIB, 64 << 20).await;
    let gone = tokio::time::timeout(Duration::from_millis(1), world.read(0..100, None)).await;
    assert!(gone.is_err());
    assert_eq!(world.read(0..100, None).await, pattern(100));
    assert_eq!(world.gets(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_an_error_that_names_it_and_is_not_kept() {
    let world = world(MIB, 64 << 20).await;
    let gone = world.reader.read(Kind::Run, "run/none", 0..10, None).await;
    assert_eq!(gone, Err(Error::Gone { key: "run/none".into() }));
    let short = world.reader.read(Kind::Run, "run/a", 10..2 * MIB, None).await;
    assert!(matches!(short, Err(Error::Corrupt { .. })), "{short:?}");
    for _ in 0..6 {
        world.faulty.fail_next(Verb::Get, "run/a", Fault::Error);
    }
    let world2 = World {
        reader: Reader::new(
            &world.bucket,
            Arc::new(MemoryChunks::new(1 << 30)),
            ReadConfig::default(),
            &Seams::seeded(1),
        ),
        ..world
    };
    let tried = world2.reader.read(Kind::Run, "run/a", 0..10, None).await;
    assert!(matches!(tried, Err(Error::Retry(_))), "{tried:?}");
    assert_eq!(world2.read(0..10, None).await, pattern(10));
}

#[tokio::test(start_paused = true)]
async fn a_handle_that_reads_on_waits_less_and_fetches_nothing_twice() {
    let size = 64 * MIB;
    let (whole, mut took) = (pattern(size), Vec::new());
    for ahead in [false, true] {
        let world = world(size, 128 << 20).await;
        let handle = world.reader.handle();
        let start = tokio::time::Instant::now();
        for at in 0..64 {
            let range = at * MIB..(at + 1) * MIB;
            let pieces = match ahead {
                true => handle.read(Kind::Run, "run/a", range.clone(), Some(size), &[]).await,
                false => world.reader.read(Kind::Run, "run/a", range.clone(), Some(size)).await,
            };
            let due = whole.slice(range.start as usize..range.end as usize);
            assert!(pieces.unwrap().into_bytes().unwrap() == due, "{range:?}");
        }
        took.push(start.elapsed());
        let bytes: u64 = world.bucket.meter().iter().filter(|r| r.verb == Verb::Get).map(|r| r.bytes).sum();
        assert_eq!(bytes, size);
    }
    assert!(took[1] * 4 < took[0], "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn read_ahead_keeps_to_its_budget_until_it_has_landed() {
    let size = 64 * MIB;
    let world = world(size, 128 << 20).await;
    let config = ReadConfig { chunks_ahead: 3, ..ReadConfig::default() };
    let seams = Seams::seeded(2);
    let reader = Reader::new(&world.bucket, Arc::new(MemoryChunks::new(128 << 20)), config, &seams);
    let handle = reader.handle();
    for _ in 0..40 {
        world.faulty.fail_next(Verb::Get, "run/a", Fault::Hang);
    }
    for at in 0..8 {
        let range = at * MIB..(at + 1) * MIB;
        let read = handle.read(Kind::Run, "run/a", range, Some(size), &[]);
        assert!(tokio::time::timeout(Duration::from_millis(100), read).await.is_err());
    }
    assert!(reader.0.flights.flying() <= 8 + 3, "{}", reader.0.flights.flying());
}

#[tokio::test(start_paused = true)]
async fn a_cache_too_small_for_the_read_still_answers() {
    let world = world(12 * MIB, 2 << 20).await;
    assert!(world.read(0..12 * MIB, Some(12 * MIB)).await == pattern(12 * MIB));
    assert!(world.reader.cache().stats().memory_bytes <= 2 << 20);
}

#[tokio::test]
async fn a_directory_bucket_gives_slices_of_its_files() {
    use tidemark_proto::kafka::pieces::Piece;
    let (dir, seams) = (tempfile::tempdir().unwrap(), Seams::system());
    let bucket = Bucket::open(&Config::new(format!("file://{}", dir.path().display())), &seams).unwrap();
    let config = ReadConfig { open_files: 2, ..ReadConfig::default() };
    let reader = Reader::new(&bucket, Arc::new(MemoryChunks::new(0)), config, &seams);
    for key in ["wal/a", "wal/b", "wal/c"] {
        let body = Body::from(pattern(100_000));
        assert_eq!(bucket.place(Kind::Parcel, key, &body, 16).await, Placed::Ours);
        let pieces = reader.read(Kind::Parcel, key, 500..90_000, None).await.unwrap();
        assert!(matches!(&pieces.0[..], [Piece::File(slice)] if slice.offset == 500));
        assert!(pieces.into_bytes().unwrap() == pattern(100_000).slice(500..90_000));
    }
    assert_eq!(reader.0.files.count(), 2);
    let short = reader.read(Kind::Parcel, "wal/c", 0..100_001, None).await;
    assert!(matches!(short, Err(Error::Corrupt { .. })));
    let gone = reader.read(Kind::Parcel, "wal/d", 0..1, None).await;
    assert_eq!(gone, Err(Error::Gone { key: "wal/d".into() }));
    bucket.delete(Kind::Parcel, vec!["wal/c".into()], crate::bucket::Patience::Tries(1)).await.unwrap();
    reader.forget("wal/c");
    assert!(reader.read(Kind::Parcel, "wal/c", 0..1, None).await.is_err());
}

fn only(first: u8) -> impl Fn(&Pieces) -> Result<(), crate::format::Damage> + Send + 'static {
    move |pieces: &Pieces| match pieces.clone().into_bytes().unwrap()[0] {
        found if found == first => Ok(()),
        found => Err(crate::format::Damage::new(format!("begins with {found}"))),
    }
}

#[tokio::test(start_paused = true)]
async fn a_chunk_damaged_on_its_way_is_read_again_past_the_cache() {
    let world = world(3 * MIB, 64 << 20).await;
    let key = ChunkKey { object: "run/a".into(), number: 0 };
    let mut damaged = pattern(MIB).to_vec();
    damaged[7] ^= 1;
    world.reader.cache().insert(key, damaged.into());
    let range = 7..MIB + 5;
    let read = world.reader.read_checked(Kind::Run, "run/a", range.clone(), None, only(7)).await.unwrap();
    assert!(read.into_bytes().unwrap() == pattern(3 * MIB).slice(7..MIB as usize + 5));
    let read = world.reader.read_checked(Kind::Run, "run/a", range, None, only(9)).await;
    assert!(matches!(read, Err(Error::Corrupt { .. })), "{read:?}");
}

#[tokio::test]
async fn a_file_is_verified_once_and_again_when_it_was_touched() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let (dir, seams) = (tempfile::tempdir().unwrap(), Seams::system());
    let bucket = Bucket::open(&Config::new(format!("file://{}", dir.path().display())), &seams).unwrap();
    let reader = Reader::new(&bucket, Arc::new(MemoryChunks::new(0)), ReadConfig::default(), &seams);
    assert_eq!(bucket.place(Kind::Run, "run/a", &Body::from(pattern(9000)), 16).await, Placed::Ours);
    let looks = Arc::new(AtomicUsize::new(0));
    let read = |range: Range<u64>| {
        let (looks, check) = (looks.clone(), only(pattern(9000)[range.start as usize]));
        let check = move |p: &Pieces| {
            looks.fetch_add(1, Ordering::Relaxed);
            check(p)
        };
        reader.read_checked(Kind::Run, "run/a", range, None, check)
    };
    for range in [3..500, 500..700, 3..700, 10..20] {
        let pieces = read(range.clone()).await.unwrap();
        assert!(
            pieces.into_bytes().unwrap() == pattern(9000).slice(range.start as usize..range.end as usize)
        );
    }
    assert_eq!(looks.load(Ordering::Relaxed), 2);
    let path = bucket.local_path("run/a").unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[10] ^= 1;
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let damaged = read(10..20).await;
    assert!(matches!(damaged, Err(Error::Corrupt { .. })), "{damaged:?}");
}
