mod compacted;

use tidemark_proto::id::{
    BrokerEpoch, BrokerId, LaneId, LeaderEpoch, Life, Nonce, PartitionIndex, Seq, TopicId,
};
use tidemark_proto::record::build::Builder;
use tidemark_proto::record::stamp::Stamped;
use tidemark_tiering::bucket::{Kind, Patience, Span, Verb};
use tidemark_tiering::format::HEADER_LEN;
use tidemark_tiering::hot::chunks::MemoryChunks;
use tidemark_tiering::keys;
use tidemark_tiering::parcel::{BatchEntry, Entry, build};
use tidemark_tiering::read::{self as reads, ReadConfig};
use tidemark_tiering::seam::Seams;
use tidemark_tiering::upkeep::cut::{self, BucketOnly};
use tidemark_tiering::upkeep::merge::{self, Job, Judge, Merger};

use super::*;
use crate::cluster::command::Command;
use crate::cluster::image::{Broker, CheckpointRow};
use crate::cluster::record::{Carried, Closed, Placed, Record};
use crate::cluster::state::Rules;

const NODE: BrokerId = BrokerId(1);

fn lane(epoch: u64) -> LaneId {
    LaneId { epoch: BrokerEpoch(epoch), lane: 0, life: Life(epoch.into()) }
}

pub(crate) fn tp(topic: u128, partition: i32) -> TopicPartition {
    TopicPartition { topic: TopicId(Uuid::from_u128(topic << 96)), partition: PartitionIndex(partition) }
}

/// One broker's history in the metadata and in the bucket, made without a broker.
pub(crate) struct History {
    pub seams: Seams,
    pub bucket: Bucket,
    pub image: Image,
    pub lane: LaneId,
    pub seq: Seq,
    leader_epoch: LeaderEpoch,
    known: BTreeMap<TopicPartition, Base>,
    value: Vec<u8>,
}

impl History {
    pub fn new(topics: u128) -> History {
        let seams = Seams::seeded(5);
        let bucket = Bucket::memory(&seams);
        let mut history = History {
            bucket,
            seams,
            image: Image::default(),
            lane: lane(1),
            seq: Seq(0),
            leader_epoch: LeaderEpoch(0),
            known: BTreeMap::new(),
            value: b"value".to_vec(),
        };
        history.register(1);
        for topic in 1..=topics {
            history.create(topic);
        }
        history
    }

    fn register(&mut self, epoch: u64) {
        let life = Life(epoch.into());
        let broker = Broker { node: NODE, epoch: BrokerEpoch(epoch), life, alive: true, ..Broker::default() };
        self.image.apply(&Record::BrokerRegistered { broker, lanes: 1 });
    }

    fn create(&mut self, topic: u128) {
        let placed = Some(Placed { node: NODE, lane: self.lane, from: self.seq });
        self.image.apply(&Record::TopicCreated {
            id: tp(topic, 0).topic,
            name: format!("t{topic}"),
            replication: 1,
            configs: BTreeMap::new(),
            placed: vec![placed],
        });
        self.known.insert(tp(topic, 0), Base::default());
    }

    /// The broker restarts: a new lane takes over.
    pub fn restart(&mut self) {
        let (old, at) = (self.lane, self.seq);
        (self.lane, self.seq) = (lane(old.epoch.0 + 1), Seq(0));
        self.register(self.lane.epoch.0);
        self.image.apply(&Record::LaneSealed { lane: old, at, recoverer: Some(NODE) });
        self.image.apply(&Record::PartitionsMoved {
            from: Some(Closed { lane: old, to: at }),
            to: Some(Placed { node: NODE, lane: self.lane, from: Seq(0) }),
            partitions: self.known.keys().map(|tp| (tp.topic, vec![tp.partition])).collect(),
        });
        self.leader_epoch.0 += 1;
    }

    /// A parcel with one batch for each of `of`, cut at once.
    pub async fn cut(&mut self, of: &[TopicPartition], checkpoint: bool) {
        let batches: Vec<_> = of.iter().map(|tp| (*tp, self.known[tp].end.0)).collect();
        self.cut_batches(&batches, checkpoint).await;
    }

    /// A parcel with a batch of one record for each of `batches`, of that time, cut at once.
    async fn cut_batches(&mut self, batches: &[(TopicPartition, i64)], checkpoint: bool) {
        let mut of: Vec<_> = batches.iter().map(|(tp, _)| *tp).collect();
        of.dedup();
        let entries = batches.iter().map(|(tp, time)| {
            let base = self.known.get_mut(tp).expect("created");
            let batch = Builder::new().append(Millis(*time), None, Some(&self.value)).build();
            let meta = BatchEntry::of(&batch, base.end, self.leader_epoch).expect("a batch");
            let batch = Stamped::new(&batch, base.end, self.leader_epoch);
            base.replay(&meta).expect("follows on");
            Entry { topic: tp.topic, partition: tp.partition, internal: false, batch, meta }
        });
        let (cluster, lane, seq) = (self.image.cluster(), self.lane, self.seq);
        let built = build(cluster, lane, seq, Nonce(seq.0.into()), entries.collect(), vec![]);
        self.bucket.place(Kind::Parcel, &keys::parcel(&lane, seq), &built.body, HEADER_LEN).await;
        self.seq = seq.next();
        let states = |of: &mut dyn Iterator<Item = &TopicPartition>| -> BTreeMap<_, _> {
            of.map(|tp| (*tp, self.known[tp].to_state())).collect()
        };
        let parcels = vec![(seq, built.footer)];
        let job = cut::Job { cluster, lane, creator: lane.epoch, parcels, states: states(&mut of.iter()) };
        let run = cut::object(&self.bucket, &self.seams, &BucketOnly, &job, &|_, _, _| true).await;
        let checkpoint = match checkpoint {
            true => {
                let (all, at) = (states(&mut self.known.keys()), (lane, self.seq));
                Some(cut::checkpoint(&self.bucket, &self.seams, cluster, lane.epoch, at, &all).await)
            }
            false => None,
        };
        let (runs, checkpoint) =
            (vec![run.expect("placed").expect("wanted")], checkpoint.map(|c| c.expect("placed")));
        let (low, version) = (self.seq, self.image.version());
        self.image.apply(&Record::CutCommitted { lane, low, runs, checkpoint, version });
        self.image.check();
    }

    fn archive(&self) -> Archive {
        Archive::new(self.bucket.clone(), self.image.cluster())
    }

    fn gets(&self) -> u64 {
        let reads = |verb| matches!(verb, Verb::Get | Verb::Head | Verb::List);
        self.bucket.meter().iter().filter(|row| reads(row.verb)).map(|row| row.attempts).sum()
    }
}

/// Requests that opening all partitions takes, after a history of so many runs before the last checkpoint.
async fn opening(runs_before: usize) -> u64 {
    let mut history = History::new(3);
    let all = [tp(1, 0), tp(2, 0), tp(3, 0)];
    for i in 0..runs_before {
        history.cut(&all[..1 + i % 3], i == 0).await;
    }
    history.restart();
    history.cut(&all[..1], true).await;
    for of in [&all[..2], &all[1..2]] {
        history.cut(of, false).await;
    }
    history.restart();
    let before = history.gets();
    let bases = history.archive().bases(&history.image, &all).await;
    for (tp, base) in bases {
        assert_eq!(base.expect("readable"), history.known[&tp], "{tp}");
    }
    history.gets() - before
}

#[tokio::test]
async fn opening_takes_as_many_requests_after_a_long_history_as_after_a_short_one() {
    let short = opening(2).await;
    assert_eq!(short, 3, "the checkpoint, and one request for each run named after it");
    assert_eq!(opening(150).await, short);
}

#[tokio::test]
async fn a_new_topic_and_a_topic_elsewhere_are_opened_without_looking_at_runs() {
    let mut history = History::new(2);
    for _ in 0..20 {
        history.cut(&[tp(1, 0)], false).await;
    }
    history.create(9);
    let before = history.gets();
    let bases = history.archive().bases(&history.image, &[tp(9, 0)]).await;
    assert!(bases.is_empty() && history.gets() == before, "led for the first time");
    history.restart();
    let bases = history.archive().bases(&history.image, &[tp(2, 0), tp(9, 0)]).await;
    assert!(bases.is_empty() && history.gets() == before, "no run holds their ranges");
}

#[tokio::test]
async fn a_late_cut_of_an_older_lane_does_not_take_a_partition_back() {
    let mut history = History::new(1);
    let tp = tp(1, 0);
    history.cut(&[tp], true).await;
    let old = history.image.clone();
    history.restart();
    history.cut(&[tp], true).await;
    // The older lane's run is named again, as if its recoverer had been slow.
    let late = old.runs().next().expect("a run").as_ref().clone();
    let late = RunRow { id: Uuid::from_u128(7), ..late };
    let (lane, low, version) = (lane(1), Seq(1), history.image.version());
    history.image.apply(&Record::CutCommitted { lane, low, runs: vec![late], checkpoint: None, version });
    let bases = history.archive().bases(&history.image, &[tp]).await;
    assert_eq!(bases[&tp].as_ref().expect("readable"), &history.known[&tp]);
}

#[tokio::test]
async fn what_runs_hold_of_a_partition_is_counted_once_each_and_less_what_is_deleted() {
    let mut history = History::new(2);
    let (first, second) = (tp(1, 0), tp(2, 0));
    for _ in 0..3 {
        history.cut(&[first, second], false).await;
    }
    let archive = history.archive();
    let size = async |history: &History, tp, from| {
        archive.size(&history.image, tp, Offset(from)).await.expect("readable")
    };
    let all = size(&history, first, 0).await;
    assert!(all > 0 && all % 3 == 0, "three batches alike, not {all} bytes");
    assert_eq!((size(&history, first, 1).await, size(&history, first, 3).await), (all / 3 * 2, 0));
    history.cut(&[first], false).await;
    assert_eq!((size(&history, first, 0).await, size(&history, second, 0).await), (all / 3 * 4, all));
    assert_eq!(size(&history, tp(9, 0), 0).await, 0, "not there");
}

#[tokio::test]
async fn where_offsets_lie_is_looked_up_once() {
    let mut history = History::new(1);
    let tp = tp(1, 0);
    for _ in 0..30 {
        history.cut(&[tp], false).await;
    }
    let archive = history.archive();
    let before = history.gets();
    let chunks = Arc::new(MemoryChunks::new(0));
    let config = ReadConfig { window: 0, ..ReadConfig::default() };
    let handle = reads::Reader::new(&history.bucket, chunks, config, &history.seams).handle();
    let appetite = Appetite { bytes_max: 1 << 20, at_least_one: true };
    let read = async |history: &History, from: i64, until: i64| {
        let offsets = (Offset(from), Offset(until));
        let pieces = archive.read(&handle, &history.image, tp, offsets, appetite).await;
        Batches::new(pieces.expect("readable").into_bytes().expect("in memory")).count() as i64
    };
    assert_eq!(read(&history, 3, 5).await, 2);
    assert_eq!(history.gets() - before, 30 + 2, "each run's end, and two batches");
    assert_eq!(read(&history, 0, 30).await, 30);
    assert_eq!(history.gets() - before, 30 + 2 + 30, "batches only");
    history.cut(&[tp], false).await;
    let before = history.gets();
    assert_eq!(read(&history, 30, 31).await, 1);
    assert_eq!(history.gets() - before, 2, "the new run's end, and its batch");
}

#[tokio::test]
async fn the_largest_time_is_looked_for_above_the_start_of_the_log_only() {
    let mut history = History::new(1);
    let tp = tp(1, 0);
    history.cut_batches(&[(tp, 900), (tp, 20), (tp, 40), (tp, 30)], false).await;
    history.cut_batches(&[(tp, 25)], false).await;
    let (archive, end) = (history.archive(), Offset(5));
    let mut found = Vec::new();
    for start in 0..5 {
        let largest = archive
            .find_time(&history.image, tp, Instant::Largest, Offset(start), end)
            .await
            .expect("readable");
        let batch = Batches::new(largest.expect("found")).next().expect("one").expect("whole");
        found.push((batch.base_offset().0, batch.max_timestamp().0));
    }
    assert_eq!(found, [(0, 900), (2, 40), (2, 40), (3, 30), (4, 25)]);
    assert!(archive.size(&history.image, tp, Offset(0)).await.expect("readable") > 5 * 61);
}

impl History {
    /// What these runs become: merged, or with `level` 0 only let go.
    async fn replace(&mut self, inputs: &[Uuid], level: u32) -> Vec<Uuid> {
        let image = self.image.clone();
        self.replace_by(inputs, level, &ByStarts(&image)).await
    }

    async fn replace_by(&mut self, inputs: &[Uuid], level: u32, judge: &dyn Judge) -> Vec<Uuid> {
        let drop: Vec<_> = inputs.iter().map(|id| self.image.run(*id).expect("named").clone()).collect();
        let archive = self.archive();
        let (cluster, lane) = (self.image.cluster(), self.lane);
        let (mut add, mut gone) = (Vec::new(), std::collections::BTreeSet::new());
        if level > 0 {
            let merger = Merger {
                bucket: &self.bucket,
                seams: &self.seams,
                reader: archive.runs(),
                cluster,
                lane,
                creator: lane.epoch,
            };
            let job = Job { inputs: drop.clone(), level };
            let merged = merge::merge(merger, &job, judge).await.expect("merged");
            (add, gone) = (merged.rows, merged.gone);
        } else {
            for run in &drop {
                gone.extend(archive.runs().entries(&run.key).await.expect("there").iter().map(|e| e.of));
            }
        }
        let gone: Vec<_> = gone.into_iter().collect();
        let mut states = BTreeMap::new();
        for (tp, base) in archive.states(&self.image, &gone).await {
            states.insert(tp, base.expect("readable").to_state());
        }
        let mut row =
            cut::checkpoint(&self.bucket, &self.seams, cluster, lane.epoch, (lane, Seq(0)), &states)
                .await
                .unwrap();
        row.committed = self.image.version();
        let of = states.keys().map(|tp| (tp.topic, vec![tp.partition])).collect();
        let ids: Vec<Uuid> = add.iter().map(|run| run.id).collect();
        let carried = (!states.is_empty()).then_some(Carried { row, of });
        let command = Command::ReplaceRuns {
            by: lane.epoch,
            drop: inputs.to_vec(),
            add,
            starts: Vec::new(),
            carried: carried.map(Box::new),
            cleaned: Vec::new(),
        };
        let rules = Rules::default();
        let outcome = self.image.decide(&rules, Millis(0), &command).expect("accepted");
        outcome.records.iter().for_each(|record| self.image.apply(record));
        self.image.check();
        let again = self.image.decide(&rules, Millis(0), &command);
        assert!(again.is_err(), "what is replaced cannot be replaced again");
        for run in drop {
            self.bucket.delete(Kind::Run, vec![run.key.clone()], Patience::Tries(1)).await.unwrap();
        }
        ids
    }

    fn runs(&self) -> Vec<Uuid> {
        let mut runs: Vec<_> = self.image.runs().map(|run| (run.committed, run.id)).collect();
        runs.sort();
        runs.into_iter().map(|(_, id)| id).collect()
    }

    fn start(&mut self, of: TopicPartition, at: i64) {
        self.image.apply(&Record::LogStartsMoved { starts: vec![(of, Offset(at))] });
    }

    /// Where its log is said to start, and the offsets of its batches.
    async fn read(&self, archive: &Archive, of: TopicPartition) -> Vec<i64> {
        let reader = reads::Reader::new(
            &self.bucket,
            Arc::new(MemoryChunks::new(8 << 20)),
            ReadConfig::default(),
            &self.seams,
        );
        let bounds = (self.image.partition(of).expect("there").log_start, self.known[&of].end);
        let appetite = Appetite { bytes_max: 1 << 20, at_least_one: true };
        let pieces =
            archive.read(&reader.handle(), &self.image, of, bounds, appetite).await.expect("readable");
        let batches = Batches::new(pieces.into_bytes().unwrap());
        batches.map(|batch| batch.expect("whole").base_offset().0).collect()
    }

    async fn recovers(&self) {
        let all: Vec<_> = self.known.keys().copied().collect();
        let bases = self.archive().bases(&self.image, &all).await;
        for tp in all {
            let base = bases.get(&tp).cloned().unwrap_or_else(|| Ok(Base::default()));
            assert_eq!(base.expect("readable"), self.known[&tp], "{tp}");
        }
    }
}

/// As the broker judges, in two classes.
struct ByStarts<'a>(&'a Image);

impl Judge for ByStarts<'_> {
    fn is_needed(&self, of: TopicPartition, last: Offset) -> bool {
        crate::upkeep::needed::is_needed(self.0, of, last)
    }

    fn class(&self, of: TopicPartition) -> u32 {
        1 + u32::from(of == tp(3, 0))
    }
}

#[tokio::test]
async fn merged_runs_are_read_and_recovered_from_like_those_they_stand_for() {
    let cuts: [&[u128]; 8] = [&[1], &[1, 2], &[2, 3], &[1, 2, 3], &[3], &[1, 3], &[2], &[1, 2, 3]];
    for cover in [None, Some(0), Some(4)] {
        let mut history = History::new(3);
        let all = [tp(1, 0), tp(2, 0), tp(3, 0)];
        for (i, cut) in cuts.iter().enumerate() {
            let of: Vec<_> = cut.iter().map(|topic| tp(*topic, 0)).collect();
            history.cut(&of, cover == Some(i)).await;
            if i == 5 {
                history.restart();
            }
        }
        let archive = history.archive();
        let mut before = Vec::new();
        for of in all {
            before.push(history.read(&archive, of).await);
        }
        // Not the oldest, and not the newest: offsets lie before, between and behind.
        let runs = history.runs();
        let merged = history.replace(&[runs[1], runs[2], runs[4], runs[6]], 1).await;
        assert!(merged.len() == 2 && history.runs().len() == 6, "one object a class");
        for (of, before) in all.into_iter().zip(&before) {
            assert_eq!(history.read(&archive, of).await, *before, "remembered shares are looked up again");
            assert_eq!(history.read(&history.archive(), of).await, *before);
        }
        history.restart();
        history.recovers().await;
        let runs = history.runs();
        history.replace(&runs, 2).await;
        for (of, before) in all.into_iter().zip(&before) {
            assert_eq!(history.read(&archive, of).await, *before);
            let shares = archive.shares(&history.image, of).await.unwrap();
            assert_eq!(shares.len(), 1, "shares that follow each other are one");
        }
        history.recovers().await;
        let objects = history.bucket.list(Kind::Run, keys::RUNS, None, Patience::Forever).await.unwrap();
        for object in objects {
            let whole =
                history.bucket.get(Kind::Run, &object.key, Span::All, Patience::Forever).await.unwrap();
            tidemark_tiering::dump::dump(&whole.expect("there").bytes).expect("whole and true");
        }
    }
}

#[tokio::test]
async fn a_partition_whose_whole_log_is_gone_comes_back_with_its_end_and_its_epochs() {
    for (cover, merged) in [(None, 0), (Some(1), 0), (None, 1), (Some(3), 1)] {
        let mut history = History::new(2);
        let all = [tp(1, 0), tp(2, 0)];
        for i in 0..4 {
            history.cut(&all[..1 + i % 2], cover == Some(i)).await;
        }
        history.restart();
        history.cut(&all[..1], false).await;
        let runs = history.runs();
        let end = history.known[&tp(1, 0)].end;
        history.start(tp(1, 0), end.0);
        let home = history.image.partition(tp(1, 0)).expect("there").home;
        history.replace(&runs[..3], merged).await;
        history.replace(&history.runs(), merged).await;
        assert_ne!(history.image.partition(tp(1, 0)).expect("there").home, home, "carried");
        history.recovers().await;
        history.restart();
        history.recovers().await;
        history.cut(&all, false).await;
        history.restart();
        history.recovers().await;
        history.cut(&all, true).await;
        history.recovers().await;
    }
}

#[tokio::test]
async fn states_that_were_carried_give_way_to_a_newer_home_and_leave_newer_runs_to_be_looked_into() {
    let mut history = History::new(1);
    history.cut(&[tp(1, 0)], false).await;
    let runs = history.runs();
    let stale = history.image.clone();
    history.cut(&[tp(1, 0)], true).await;
    let home = history.image.partition(tp(1, 0)).expect("there").home;
    let row =
        CheckpointRow { id: Uuid::from_u128(9), committed: stale.version(), ..CheckpointRow::default() };
    let carried = Some(Carried { row, of: vec![(tp(1, 0).topic, vec![PartitionIndex(0)])] });
    history.image.apply(&Record::RunsReplaced {
        drop: runs,
        add: vec![],
        starts: vec![],
        carried,
        cleaned: vec![],
    });
    history.image.check();
    assert_eq!(history.image.partition(tp(1, 0)).expect("there").home, home);
    assert!(history.image.checkpoint(Uuid::from_u128(9)).is_none(), "nobody's home");
    history.recovers().await;
}

#[tokio::test]
async fn older_metadata_finds_the_runs_it_names_whatever_newer_one_asked_before_and_a_hole_is_never_passed_over()
 {
    let mut history = History::new(1);
    let tp = tp(1, 0);
    for _ in 0..3 {
        history.cut(&[tp], true).await;
    }
    let (archive, before) = (history.archive(), history.image.clone());
    let first = archive.shares(&before, tp).await.expect("readable")[0].run;
    history.image.apply(&Record::RunsReplaced {
        drop: vec![first],
        add: vec![],
        starts: vec![],
        carried: None,
        cleaned: vec![],
    });
    let bases = async |image: &Image| -> Vec<i64> {
        archive.shares(image, tp).await.expect("readable").iter().map(|share| share.base.0).collect()
    };
    assert_eq!(bases(&history.image).await, [1, 2]);
    assert_eq!(bases(&before).await, [0, 1, 2]);
    assert_eq!(bases(&history.image).await, [1, 2]);
    let chunks = Arc::new(MemoryChunks::new(0));
    let handle = reads::Reader::new(&history.bucket, chunks, ReadConfig::default(), &history.seams).handle();
    let appetite = Appetite { bytes_max: 1 << 20, at_least_one: true };
    let bounds = (Offset(0), Offset(3));
    let read = archive.read(&handle, &history.image, tp, bounds, appetite).await;
    assert!(matches!(read, Err(Error::Gone { .. })), "{read:?}");
    assert!(archive.read(&handle, &before, tp, bounds, appetite).await.is_ok());
}
