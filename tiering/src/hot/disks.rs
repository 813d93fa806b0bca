//! Hot segments over several disks: each partition lies on one of them, as Kafka places logs in `log.dirs`.
//!
//! A partition goes where the fewest are when it is first led, and stays there. A disk that fails takes its own
//! partitions' files and nothing else; new partitions go elsewhere until it is back.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tidemark_proto::id::{LeaderEpoch, Offset, TopicPartition};
use tidemark_proto::record::stamp::Stamped;

use super::segments::{Disk, HotConfig, HotStats, Naming};
use crate::run::{Taken, Want};
use crate::seam::Seams;

/// Placed partitions after which those of deleted topics are looked for.
const SWEEP: usize = 1024;

/// The hot segments of a broker, or none. Clones share them.
#[derive(Clone, Default)]
pub struct Hot(Option<Arc<Disks>>);

struct Disks {
    disks: Vec<Disk>,
    naming: Naming,
    placed: Mutex<Placed>,
}

/// Which disk each partition is on, and how many each has.
struct Placed {
    on: BTreeMap<TopicPartition, usize>,
    count: Vec<usize>,
    sweep_at: usize,
}

impl Hot {
    /// No hot segments: nothing is kept, nothing found.
    pub fn none() -> Hot {
        Hot(None)
    }

    /// Hot segments in `folders`, each on a disk of its own, which together hold `bytes`; whatever they held goes.
    pub fn open(folders: Vec<PathBuf>, bytes: u64, naming: Naming, seams: &Seams) -> Hot {
        let share = bytes / folders.len().max(1) as u64;
        let open = |folder| Disk::open(HotConfig::new(folder, share), naming.clone(), seams);
        Hot::over(folders.into_iter().map(open).collect(), naming.clone())
    }

    fn over(disks: Vec<Disk>, naming: Naming) -> Hot {
        if disks.is_empty() {
            return Hot::none();
        }
        let placed = Placed { on: BTreeMap::new(), count: vec![0; disks.len()], sweep_at: SWEEP };
        Hot(Some(Arc::new(Disks { disks, naming, placed: Mutex::new(placed) })))
    }

    /// Whether there is a tier to feed.
    pub fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// See [`Disk::lead`].
    pub fn lead(&self, of: TopicPartition, epoch: LeaderEpoch) {
        if let Some(disks) = self.0.as_deref() {
            disks.home(of).lead(of, epoch);
        }
    }

    /// See [`Disk::start`].
    pub fn start(&self, of: TopicPartition, start: Offset) {
        if let Some(disks) = self.0.as_deref() {
            disks.home(of).start(of, start);
        }
    }

    /// See [`Disk::offer`].
    pub fn offer(&self, of: TopicPartition, batches: Vec<Stamped>) {
        if let Some(disks) = self.0.as_deref() {
            disks.home(of).offer(of, batches);
        }
    }

    /// See [`Disk::take`].
    pub async fn take(&self, of: TopicPartition, want: Want) -> Option<Taken> {
        let disks = self.0.as_deref()?;
        let at = disks.placed.lock().on.get(&of).copied().unwrap_or_default();
        disks.disks[at].take(of, want).await
    }

    /// Counters, of all disks together.
    pub fn stats(&self) -> HotStats {
        let disks = self.0.iter().flat_map(|disks| &disks.disks);
        disks.map(Disk::stats).fold(HotStats::default(), |sum, disk| HotStats {
            bytes: sum.bytes + disk.bytes,
            segments: sum.segments + disk.segments,
            hits: sum.hits + disk.hits,
            misses: sum.misses + disk.misses,
            written: sum.written + disk.written,
            skipped: sum.skipped + disk.skipped,
        })
    }

    /// Why a disk is off, for an alarm.
    pub fn alarm(&self) -> Option<String> {
        self.0.iter().flat_map(|disks| &disks.disks).find_map(Disk::alarm)
    }
}

impl Disks {
    /// The disk of a partition, which is placed if it is new.
    fn home(&self, of: TopicPartition) -> &Disk {
        let mut placed = self.placed.lock();
        if let Some(at) = placed.on.get(&of) {
            return &self.disks[*at];
        }
        let order = |at: &usize| (self.disks[*at].alarm().is_some(), placed.count[*at]);
        let at = (0..self.disks.len()).min_by_key(order).unwrap_or_default();
        placed.put(of, at);
        if placed.on.len() >= placed.sweep_at {
            let gone = placed.on.keys().filter(|of| (self.naming)(of.topic).is_none());
            gone.copied().collect::<Vec<_>>().into_iter().for_each(|of| placed.remove(of));
            placed.sweep_at = 2 * placed.on.len() + SWEEP;
        }
        &self.disks[at]
    }
}

impl Placed {
    fn put(&mut self, of: TopicPartition, at: usize) {
        self.on.insert(of, at);
        self.count[at] += 1;
    }

    fn remove(&mut self, of: TopicPartition) {
        if let Some(at) = self.on.remove(&of) {
            self.count[at] -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use tidemark_proto::id::{Millis, Offset, PartitionIndex, TopicId};
    use tidemark_proto::record::build::Builder;
    use uuid::Uuid;

    use super::super::segments::Bounds;
    use super::*;

    fn of(topic: u128, partition: i32) -> TopicPartition {
        TopicPartition { topic: TopicId(Uuid::from_u128(topic)), partition: PartitionIndex(partition) }
    }

    fn batch(base: i64) -> Stamped {
        let mut builder = Builder::new();
        builder.append(Millis(1), None, Some(b"value"));
        Stamped::new(&builder.build(), Offset(base), LeaderEpoch(0))
    }

    /// Two disks; topics above 9 are gone.
    fn world(dir: &tempfile::TempDir) -> Hot {
        let seams = Seams::system();
        let bounds = Bounds { bytes: 1 << 20, ms: i64::MAX };
        let naming: Naming = Arc::new(move |topic: TopicId| {
            (topic.0.as_u128() < 10).then(|| (format!("topic-{}", topic.0.as_u128()), bounds))
        });
        let config = |name: &str| HotConfig {
            room: 0,
            retry: Duration::from_millis(30),
            ..HotConfig::new(dir.path().join(name), 1 << 20)
        };
        let open = |name| Disk::open(config(name), naming.clone(), &seams);
        Hot::over(vec![open("a"), open("b")], naming.clone())
    }

    impl Hot {
        fn disk(&self, at: usize) -> &Disk {
            &self.0.as_deref().unwrap().disks[at]
        }

        async fn put(&self, of: TopicPartition, base: i64) {
            let before = self.stats();
            self.offer(of, vec![batch(base)]);
            while self.stats().written + self.stats().skipped == before.written + before.skipped {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }

        async fn holds(&self, of: TopicPartition, offset: i64) -> bool {
            let (from, until) = (Offset(offset), Offset(offset + 1));
            self.take(of, Want { from, until, bytes_max: 9, at_least_one: true }).await.is_some()
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn partitions_are_spread_and_each_stays_on_its_disk() {
        let dir = tempfile::tempdir().unwrap();
        let hot = world(&dir);
        for partition in 0..6 {
            hot.put(of(1, partition), 0).await;
            hot.put(of(1, partition), 1).await;
        }
        let folders = |disk: &str| std::fs::read_dir(dir.path().join(disk)).unwrap().count();
        assert_eq!((folders("a"), folders("b")), (3, 3));
        for partition in 0..6 {
            assert!(hot.holds(of(1, partition), 0).await && hot.holds(of(1, partition), 1).await);
        }
        assert_eq!((hot.stats().segments, hot.stats().hits), (6, 12));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_disk_that_fails_takes_its_own_partitions_and_new_ones_go_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let hot = world(&dir);
        hot.put(of(1, 0), 0).await;
        hot.put(of(1, 1), 0).await;
        hot.disk(0).fail(Some(io::ErrorKind::StorageFull));
        hot.put(of(1, 0), 1).await;
        assert!(hot.alarm().is_some());
        assert!(!hot.holds(of(1, 0), 0).await && hot.holds(of(1, 1), 0).await);
        for partition in 2..5 {
            hot.put(of(1, partition), 0).await;
            assert!(hot.holds(of(1, partition), 0).await, "the other disk takes it");
        }
        hot.disk(0).fail(None);
        tokio::time::sleep(Duration::from_millis(40)).await;
        hot.put(of(1, 0), 2).await;
        assert_eq!(hot.alarm(), None);
        assert!(hot.holds(of(1, 0), 2).await);
    }

    #[tokio::test]
    async fn places_of_deleted_topics_are_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let hot = world(&dir);
        for partition in 0..5_000 {
            hot.lead(of(11, partition), LeaderEpoch(0));
        }
        hot.lead(of(1, 0), LeaderEpoch(0));
        let placed = hot.0.as_deref().unwrap().placed.lock();
        assert!(placed.on.len() <= SWEEP + 2, "{}", placed.on.len());
        assert_eq!(placed.count.iter().sum::<usize>(), placed.on.len());
        assert!(placed.on.contains_key(&of(1, 0)));
    }
}
