use tidemark_proto::id::{Millis, Offset, PartitionIndex};
use tidemark_proto::record::build::Builder;
use tidemark_proto::record::view::Batches;
use uuid::Uuid;

use super::*;

struct World {
    dir: tempfile::TempDir,
    hot: Disk,
    limit: Arc<AtomicU64>,
}

fn of(partition: i32) -> TopicPartition {
    TopicPartition { topic: TopicId(Uuid::from_u128(7)), partition: PartitionIndex(partition) }
}

/// A batch of two records.
fn batch(base: i64, size: usize) -> Stamped {
    let mut builder = Builder::new();
    builder.append(Millis(1000 + base), None, Some(&vec![base as u8; size])).append(Millis(5), None, None);
    Stamped::new(&builder.build(), Offset(base), LeaderEpoch(2))
}

fn world(change: impl FnOnce(&mut HotConfig)) -> World {
    let dir = tempfile::tempdir().unwrap();
    let mut config = HotConfig { room: 0, ..HotConfig::new(dir.path().join("hot"), 1 << 30) };
    config.retry = Duration::from_millis(30);
    change(&mut config);
    let limit = Arc::new(AtomicU64::new(1 << 20));
    let segment_bytes = limit.clone();
    let naming: Naming = Arc::new(move |topic: TopicId| {
        let bounds = || Bounds { bytes: segment_bytes.load(Ordering::Relaxed), ms: 100_000 };
        (topic.0.as_u128() == 7).then(|| ("orders".to_owned(), bounds()))
    });
    World { dir, hot: Disk::open(config, naming, &Seams::system()), limit }
}

impl World {
    fn inner(&self) -> &Inner {
        &self.hot.0.inner
    }

    /// Offers, and waits until that is written or skipped.
    async fn put(&self, partition: i32, batches: Vec<Stamped>) {
        self.hot.offer(of(partition), batches);
        while self.inner().queued.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn take(&self, partition: i32, from: i64, until: i64, bytes_max: usize) -> Option<Vec<Stamped>> {
        let want = Want { from: Offset(from), until: Offset(until), bytes_max, at_least_one: true };
        let taken = self.hot.take(of(partition), want).await?;
        let batches = Batches::new(taken.pieces.into_bytes().unwrap()).map(Result::unwrap);
        Some(batches.map(|b| Stamped::new(&b, b.base_offset(), LeaderEpoch(2))).collect())
    }

    fn files(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.dir.path().join("hot").join(folder)) else { return vec![] };
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_offered_comes_back_from_segments_named_as_kafkas() {
    let world = world(|_| {});
    world.limit.store(3000, Ordering::Relaxed);
    let all: Vec<_> = (0..40).map(|i| batch(2 * i, 100 + (i as usize * 37) % 900)).collect();
    for some in all.chunks(7) {
        world.put(3, some.to_vec()).await;
    }
    let files = world.files("orders-3");
    assert!(files.len() > 9 && files.len().is_multiple_of(3), "{files:?}");
    assert_eq!(
        files[..3],
        ["00000000000000000000.index", "00000000000000000000.log", "00000000000000000000.timeindex"]
    );
    for bytes_max in [0, 700, 1 << 20] {
        let mut next = 0;
        while next < 80 {
            let found = world.take(3, next, 75, bytes_max).await;
            let Some(found) = found.filter(|_| next < 76) else { break };
            for (at, batch) in found.iter().enumerate() {
                assert!(*batch == all[next as usize / 2 + at], "{next}");
            }
            next = found.last().unwrap().last_offset().0 + 1;
        }
        assert_eq!(next, 76, "all batches that begin below 75");
    }
    assert_eq!(world.take(3, 79, 100, 9).await.unwrap(), [all[39].clone()], "a record within a batch");
    assert!(world.take(3, 80, 100, 9).await.is_none() && world.take(4, 0, 100, 9).await.is_none());
    let stats = world.hot.stats();
    assert_eq!((stats.skipped, stats.written), (0, all.iter().map(|b| b.len() as u64).sum()));
    assert_eq!(stats.bytes, stats.written);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_indexes_name_batches_by_their_last_offset_and_place() {
    let world = world(|_| {});
    let all: Vec<_> = (0..30).map(|i| batch(2 * i, 1500)).collect();
    world.put(0, all.clone()).await;
    let at = world.dir.path().join("hot/orders-0/00000000000000000000.log");
    let log = Bytes::from(std::fs::read(&at).unwrap());
    assert!(log == all.iter().flat_map(|b| b.to_bytes()).collect::<Vec<u8>>());
    let index = std::fs::read(at.with_extension("index")).unwrap();
    assert_eq!(index.len(), 8 * 9, "one entry about every three batches");
    for entry in index.chunks(8) {
        let number = |i: usize| u32::from_be_bytes(entry[i..i + 4].try_into().unwrap());
        let found = Batches::new(log.slice(number(4) as usize..)).next().unwrap().unwrap();
        assert_eq!(found.last_offset().0, i64::from(number(0)));
    }
    let times = std::fs::read(at.with_extension("timeindex")).unwrap();
    let last = &times[times.len() - 12..];
    let offset = u32::from_be_bytes(last[8..].try_into().unwrap());
    let time = i64::from_be_bytes(last[..8].try_into().unwrap());
    assert_eq!(time, 1000 + i64::from(offset) - 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_disk_is_too_slow_for_leaves_a_hole_between_segments_and_none_inside() {
    let world = world(|config| config.queue = 5000);
    world.put(0, vec![batch(0, 100), batch(2, 100)]).await;
    world.put(0, (2..9).map(|i| batch(2 * i, 1000)).collect()).await;
    world.put(0, vec![batch(18, 100)]).await;
    assert_eq!(world.hot.stats().skipped, 7);
    assert_eq!(world.files("orders-0").len(), 6);
    assert_eq!(world.take(0, 0, 100, 1 << 20).await.unwrap().len(), 2);
    assert!(world.take(0, 4, 100, 1 << 20).await.is_none());
    assert_eq!(world.take(0, 18, 100, 1 << 20).await.unwrap(), [batch(18, 100)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_segments_make_room_for_the_newest() {
    let world = world(|config| config.bytes = 10_000);
    world.limit.store(2000, Ordering::Relaxed);
    for i in 0..30 {
        world.put(i as i32 % 2, vec![batch(2 * (i / 2), 900)]).await;
    }
    assert!(world.hot.stats().bytes <= 10_000, "{:?}", world.hot.stats());
    assert!(world.take(0, 0, 100, 9).await.is_none() && world.take(1, 0, 100, 9).await.is_none());
    assert!(world.take(0, 28, 100, 9).await.is_some() && world.take(1, 28, 100, 9).await.is_some());
    assert_eq!(
        world.files("orders-0").len() + world.files("orders-1").len(),
        3 * world.hot.stats().segments as usize
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_or_read_only_disk_switches_the_tier_off_and_it_comes_back() {
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::ReadOnlyFilesystem] {
        let world = world(|_| {});
        world.put(0, vec![batch(0, 100)]).await;
        *world.inner().fault.lock() = Some(kind);
        world.put(0, vec![batch(2, 100)]).await;
        assert!(world.hot.alarm().is_some(), "{kind}");
        assert!(world.take(0, 0, 100, 9).await.is_none(), "the bucket is read");
        tokio::time::sleep(Duration::from_millis(40)).await;
        world.put(0, vec![batch(4, 100)]).await;
        assert!(world.hot.alarm().is_some(), "still {kind}");
        *world.inner().fault.lock() = None;
        tokio::time::sleep(Duration::from_millis(40)).await;
        world.put(0, vec![batch(6, 100)]).await;
        assert_eq!(world.hot.alarm(), None);
        assert_eq!(world.take(0, 6, 100, 9).await.unwrap(), [batch(6, 100)]);
        assert!(world.take(0, 4, 100, 9).await.is_none());
        assert_eq!(world.hot.stats().skipped, 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_wiped_under_load_costs_the_files_and_nothing_else() {
    let world = world(|_| {});
    world.limit.store(1500, Ordering::Relaxed);
    world.put(0, vec![batch(0, 1000)]).await;
    std::fs::remove_dir_all(world.dir.path().join("hot")).unwrap();
    let mut base = 2;
    while world.hot.alarm().is_none() {
        world.put(0, vec![batch(base, 1000)]).await;
        base += 2;
        assert!(base < 20, "it is found out when the next segment is closed or created");
    }
    tokio::time::sleep(Duration::from_millis(40)).await;
    world.put(0, vec![batch(base, 1000)]).await;
    assert_eq!(world.hot.alarm(), None);
    assert_eq!(world.take(0, base, 100, 9).await.unwrap(), [batch(base, 1000)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_or_truncated_segment_is_not_served() {
    let world = world(|_| {});
    world.put(0, vec![batch(0, 1000)]).await;
    world.put(1, vec![batch(0, 1000)]).await;
    let log = |p: i32| world.dir.path().join(format!("hot/orders-{p}/00000000000000000000.log"));
    let mut bytes = std::fs::read(log(0)).unwrap();
    bytes[500] ^= 1;
    std::fs::write(log(0), bytes).unwrap();
    assert!(world.take(0, 0, 100, 9).await.is_none());
    world.put(0, vec![batch(2, 1000)]).await;
    assert!(world.take(0, 2, 100, 9).await.is_some(), "it goes on in another segment");
    assert!(world.take(1, 0, 100, 9).await.is_some());
    File::options().write(true).open(log(1)).unwrap().set_len(100).unwrap();
    assert!(world.take(1, 0, 100, 9).await.is_none());
    assert!(world.hot.alarm().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_folder_held_before_is_wiped() {
    let dir = tempfile::tempdir().unwrap();
    let old = dir.path().join("hot/orders-0/00000000000000000000.log");
    std::fs::create_dir_all(old.parent().unwrap()).unwrap();
    std::fs::write(&old, b"of another life").unwrap();
    let naming: Naming = Arc::new(|_| Some(("orders".into(), Bounds { bytes: 1 << 20, ms: i64::MAX })));
    let hot = Disk::open(HotConfig::new(dir.path().join("hot"), 1 << 20), naming, &Seams::system());
    hot.offer(of(1), vec![batch(0, 10)]);
    while hot.stats().written + hot.stats().skipped == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!old.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r13_what_an_older_ownership_left_is_not_served_under_a_new_one() {
    let world = world(|_| {});
    world.put(0, vec![batch(0, 100), batch(2, 100)]).await;
    world.put(1, vec![batch(0, 100)]).await;
    world.hot.lead(of(0), LeaderEpoch(3));
    assert!(world.take(0, 0, 100, 9).await.is_none());
    world.put(0, vec![batch(4, 100)]).await;
    assert!(world.take(0, 4, 100, 9).await.is_none(), "a late one of the old ownership");
    assert!(world.files("orders-0").is_empty());
    world.hot.lead(of(0), LeaderEpoch(2));
    world.put(0, vec![batch(2, 300)]).await;
    assert_eq!(world.take(0, 2, 100, 9).await.unwrap(), [batch(2, 300)]);
    assert!(world.take(1, 0, 100, 9).await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_rolls_by_the_times_of_its_records_too() {
    let world = world(|_| {});
    // Their records are of 1000 + offset ms, and segments of 100 s.
    let all: Vec<_> = [0, 2, 4].map(|base| batch(base, 10)).into();
    world.put(0, all).await;
    let mut builder = Builder::new();
    builder.append(Millis(101_001), None, Some(b"late"));
    let later = Stamped::new(&builder.build(), Offset(6), LeaderEpoch(2));
    world.put(0, vec![later, batch(7, 10)]).await;
    let logs = world.files("orders-0").into_iter().filter(|name| name.ends_with("log"));
    assert_eq!(logs.collect::<Vec<_>>(), ["00000000000000000000.log", "00000000000000000006.log"]);
}
