use tidemark_proto::id::{
    BrokerEpoch, BrokerId, LaneId, LeaderEpoch, Life, Nonce, PartitionIndex, Seq, TopicId,
};
use tidemark_proto::record::build::Builder;
use tidemark_proto::record::stamp::Stamped;
use tidemark_tiering::bucket::{Kind, Verb};
use tidemark_tiering::format::HEADER_LEN;
use tidemark_tiering::hot::chunks::MemoryChunks;
use tidemark_tiering::keys;
use tidemark_tiering::parcel::{BatchEntry, Entry, build};
use tidemark_tiering::read::{self as reads, ReadConfig};
use tidemark_tiering::seam::Seams;
use tidemark_tiering::upkeep::cut::{self, BucketOnly};

use super::*;
use crate::cluster::image::Broker;
use crate::cluster::record::{Closed, Placed, Record};

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
            let batch = Builder::new().append(Millis(*time), None, Some(b"value")).build();
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
    let handle = reads::Reader::new(&history.bucket, chunks, ReadConfig::default(), &history.seams).handle();
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
