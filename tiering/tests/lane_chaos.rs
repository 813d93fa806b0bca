//! A lane on a store in bad weather, with its writer killed, frozen or left as a zombie, and two sealers at once.
//! Whatever happens: what was acked is recovered at its offset, the recovered prefix never changes, nobody acks
//! at or above the seal, and the same seed gives the same history.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use tidemark_proto::id::{
    BrokerEpoch, ClusterId, LaneId, LeaderEpoch, Life, Millis, Nonce, Offset, PartitionIndex, Seq, TopicId,
    TopicPartition,
};
use tidemark_proto::record::build::Builder;
use tidemark_proto::record::stamp::Stamped;
use tidemark_tiering::bucket::faults::{Faulty, Weather};
use tidemark_tiering::bucket::{self, Bucket, Memory};
use tidemark_tiering::keys;
use tidemark_tiering::lane::{self, Event, Options, Sealer, Writer};
use tidemark_tiering::parcel::{BatchEntry, Entry};
use tidemark_tiering::seam::{Entropy, Seams};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(0xC1));
const LANE: LaneId = LaneId { epoch: BrokerEpoch(3), lane: 0, life: Life(0x11FE) };
const PARTITIONS: u64 = 3;

/// How the writer ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Killed,
    Frozen,
    Zombie,
}

#[derive(Debug, Default, PartialEq)]
struct History {
    /// By partition: offsets that were acked, and the seq that carried each.
    acked: BTreeMap<TopicPartition, Vec<(Offset, Seq)>>,
    told: Seq,
    fenced: Option<Seq>,
    sealed: Seq,
    recovered: BTreeMap<TopicPartition, Vec<(Offset, u32)>>,
    faults: BTreeMap<&'static str, u64>,
}

fn partition(at: u64) -> TopicPartition {
    TopicPartition { topic: TopicId(Uuid::from_u128(1)), partition: PartitionIndex(at as i32) }
}

fn entry(of: TopicPartition, base: Offset, entropy: &Entropy) -> Entry {
    let value = vec![base.0 as u8; 1 + entropy.below(3000) as usize];
    let batch = Builder::new().append(Millis(base.0), None, Some(&value)).build();
    let meta = BatchEntry::of(&batch, base, LeaderEpoch(1)).expect("a batch");
    let batch = Stamped::new(&batch, base, LeaderEpoch(1));
    Entry { topic: of.topic, partition: of.partition, internal: false, batch, meta }
}

/// What the owner of the lane sees: batches in, acks out.
struct Owner {
    writer: Writer,
    ends: BTreeMap<TopicPartition, Offset>,
    parked: BTreeMap<Seq, Vec<(TopicPartition, Offset)>>,
    shared: Arc<parking_lot::Mutex<History>>,
    entropy: Entropy,
}

impl Owner {
    async fn run(mut self) {
        loop {
            for _ in 0..self.entropy.below(4) {
                let of = partition(self.entropy.below(PARTITIONS));
                let end = self.ends.entry(of).or_default();
                let base = *end;
                *end = end.plus(1);
                let seq = self.writer.add(entry(of, base, &self.entropy));
                self.parked.entry(seq).or_default().push((of, base));
            }
            let patience = Duration::from_millis(1 + self.entropy.below(40));
            match timeout(patience, self.writer.next()).await {
                Ok(Event::Committed(moved)) => self.release(moved.upto),
                Ok(Event::Fenced { seq, by }) => {
                    assert!(by.is_some(), "only a seal can stand in this lane");
                    self.shared.lock().fenced = Some(seq);
                    return;
                }
                Ok(Event::Stuck { .. }) => return,
                Err(_) => {}
            }
        }
    }

    fn release(&mut self, upto: Seq) {
        let mut history = self.shared.lock();
        assert!(upto > history.told, "commits rise");
        history.told = upto;
        let rest = self.parked.split_off(&upto);
        for (seq, batches) in std::mem::replace(&mut self.parked, rest) {
            for (of, offset) in batches {
                history.acked.entry(of).or_default().push((offset, seq));
            }
        }
    }
}

async fn recovered(bucket: &Bucket, sealed: Seq) -> BTreeMap<TopicPartition, Vec<(Offset, u32)>> {
    let mut found: BTreeMap<_, Vec<(Offset, u32)>> = BTreeMap::new();
    let mut footers = Box::pin(lane::footers(bucket, CLUSTER, LANE, Seq(0)..sealed));
    while let Some((seq, footer, _)) = footers.try_next().await.expect("R13: no gap, no damage") {
        for part in &footer.parts {
            lane::batches(bucket, LANE, seq, part.position, &part.batches).await.expect("R27");
            for batch in &part.batches {
                found.entry(part.of).or_default().push((batch.base_offset, batch.crc));
            }
        }
    }
    for (of, batches) in &found {
        let offsets: Vec<i64> = batches.iter().map(|(offset, _)| offset.0).collect();
        assert_eq!(offsets, (0..offsets.len() as i64).collect::<Vec<_>>(), "{of}: dense");
    }
    found
}

async fn story(seed: u64, end: End) -> History {
    let world = Seams::seeded(seed);
    let memory = Memory::new(world.clock.clone());
    let faulty = Faulty::new(Arc::new(memory), Weather::rough(), world.entropy.fork());
    let faulty = Arc::new(faulty);
    let bucket_of = |seams: &Seams| Bucket::new(faulty.clone(), bucket::Options::default(), seams);

    let mine = Seams { entropy: world.entropy.fork(), tasks: Default::default(), ..world.clone() };
    let bucket = bucket_of(&mine);
    let options = Options::for_bucket(&bucket);
    let writer = Writer::open(LANE, CLUSTER, bucket, &mine, options);
    let shared = Arc::new(parking_lot::Mutex::new(History::default()));
    let owner = Owner {
        writer,
        ends: BTreeMap::new(),
        parked: BTreeMap::new(),
        shared: shared.clone(),
        entropy: mine.entropy.fork(),
    };
    mine.tasks.spawn(owner.run());
    sleep(Duration::from_millis(50 + world.entropy.below(4_000))).await;
    match end {
        End::Killed => mine.tasks.kill(),
        End::Frozen => mine.tasks.freeze(),
        End::Zombie => {}
    }

    let sealers = [1u128, 2].map(|id| {
        let seams = Seams { entropy: world.entropy.fork(), tasks: Default::default(), ..world.clone() };
        let (bucket, tasks) = (bucket_of(&seams), seams.tasks.clone());
        let pause = Duration::from_millis(world.entropy.below(200));
        tasks.spawn(async move {
            sleep(pause).await;
            let by = Sealer { life: Life(id), nonce: Nonce(id), next: 9, address: "peer".into() };
            let seal = lane::seal(&bucket, CLUSTER, LANE, Seq(0), &by, &seams);
            timeout(Duration::from_secs(600), seal).await.expect("ends").expect("no damage")
        })
    });
    let [one, two] = sealers;
    let sealed = one.await.expect("no panic").expect("not killed");
    let bucket = bucket_of(&world);
    let first = recovered(&bucket, sealed).await;
    assert_eq!(two.await.expect("no panic"), Some(sealed), "all sealers agree");

    mine.tasks.thaw();
    sleep(Duration::from_secs(900)).await; // whatever was late has landed, and the zombie has met the seal
    assert_eq!(recovered(&bucket, sealed).await, first, "the recovered prefix never changes");
    let by = Sealer::default();
    let again = lane::seal(&bucket, CLUSTER, LANE, Seq(0), &by, &world).await;
    assert_eq!(again, Ok(sealed), "a lane is sealed once");

    let mut history = std::mem::take(&mut *shared.lock());
    assert!(history.told <= sealed, "acked up to {} beyond the seal {sealed}", history.told);
    if end != End::Killed {
        assert_eq!(history.fenced.map(|seq| seq >= history.told), Some(true), "the zombie met the seal");
    }
    for (of, acked) in &history.acked {
        for (offset, seq) in acked {
            assert!(*seq < sealed);
            let there = first.get(of).is_some_and(|found| found.iter().any(|(o, _)| o == offset));
            assert!(there, "seed {seed}: {of} offset {offset} was acked in {seq} and is lost");
        }
    }
    history.sealed = sealed;
    history.recovered = first;
    history.faults = faulty.counts();
    history
}

fn run(seed: u64, end: End) -> History {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(story(seed, end))
}

fn seeds() -> std::ops::Range<u64> {
    let count = std::env::var("CHAOS_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(15);
    let from = std::env::var("CHAOS_FROM").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    from..from + count
}

fn many(end: End) {
    let (mut acked, mut faults) = (0, BTreeMap::<&str, u64>::new());
    for seed in seeds() {
        eprintln!("seed {seed} {end:?}");
        let history = run(seed, end);
        acked += history.acked.values().map(Vec::len).sum::<usize>();
        for (fault, count) in history.faults {
            *faults.entry(fault).or_default() += count;
        }
    }
    eprintln!("{acked} batches acked; {faults:?}");
    assert!(acked > 1000, "a run without acks proves nothing: {acked}");
    assert!(faults.values().filter(|count| **count > 0).count() >= 5, "{faults:?}");
}

#[test]
fn a_killed_writer_loses_nothing_it_acked() {
    many(End::Killed);
}

#[test]
fn a_frozen_writer_wakes_up_to_a_seal() {
    many(End::Frozen);
}

#[test]
fn a_zombie_acks_nothing_beyond_the_seal() {
    many(End::Zombie);
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in seeds().take(4) {
        assert_eq!(run(seed, End::Zombie), run(seed, End::Zombie), "seed {seed}");
    }
}

#[test]
fn keys_of_the_lane_sort_by_sequence() {
    assert!(keys::parcel(&LANE, Seq(9)) < keys::parcel(&LANE, Seq(10)));
}
