//! The lane's rules against a scripted store: writer, seal and recovery together.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tidemark_proto::id::{
    BrokerEpoch, ClusterId, LaneId, LeaderEpoch, Life, Millis, Nonce, Offset, PartitionIndex, Seq, TopicId,
    TopicPartition,
};
use tidemark_proto::record::build::Builder;
use tidemark_proto::record::stamp::Stamped;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::*;
use crate::bucket::Bucket;
use crate::error::Error;
use crate::keys;
use crate::log::script::{Act, Script};
use crate::parcel::{self, BatchEntry, Entry, Fact, Footer};
use crate::seam::Seams;

const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(0xC1));
const LANE: LaneId = LaneId { epoch: BrokerEpoch(3), lane: 0, life: Life(0x11FE) };

fn partition(topic: u128, partition: i32) -> TopicPartition {
    TopicPartition { topic: TopicId(Uuid::from_u128(topic)), partition: PartitionIndex(partition) }
}

fn entry(of: TopicPartition, base: i64, bytes: usize) -> Entry {
    let value = vec![b'v'; bytes];
    let batch = Builder::new().append(Millis(1000 + base), Some(b"k"), Some(&value)).build();
    let (base, epoch) = (Offset(base), LeaderEpoch(4));
    let meta = BatchEntry::of(&batch, base, epoch).unwrap();
    let batch = Stamped::new(&batch, base, epoch);
    Entry { topic: of.topic, partition: of.partition, internal: of.topic.0.as_u128() > 100, batch, meta }
}

fn sealer() -> Sealer {
    Sealer { life: Life(9), nonce: Nonce(10), next: 4, address: "127.0.0.1:1".into() }
}

struct World {
    seams: Seams,
    script: Script,
    bucket: Bucket,
}

fn world() -> World {
    let seams = Seams::seeded(7);
    let script = Script::new(&seams);
    let bucket = script.bucket();
    World { seams, script, bucket }
}

impl World {
    fn writer(&self) -> Writer {
        let options = Options::for_bucket(&self.bucket);
        Writer::open(LANE, CLUSTER, self.bucket.clone(), &self.seams, options)
    }

    fn key(&self, seq: u64) -> String {
        keys::parcel(&LANE, Seq(seq))
    }

    async fn seal(&self, low: u64) -> Result<Seq, Error> {
        seal(&self.bucket, CLUSTER, LANE, Seq(low), &sealer(), &self.seams).await
    }

    async fn footers(&self, from: u64, to: u64) -> Result<Vec<(Seq, Arc<Footer>)>, Error> {
        let read = footers(&self.bucket, CLUSTER, LANE, Seq(from)..Seq(to));
        let read: Vec<_> = read.collect().await;
        read.into_iter().map(|item| item.map(|(seq, footer, _)| (seq, footer))).collect()
    }

    fn damage(&self, seq: u64, how: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.script.stored(&self.key(seq)).unwrap().to_vec();
        how(&mut bytes);
        self.script.memory.overwrite(&self.key(seq), Bytes::from(bytes));
    }
}

async fn drain(writer: &mut Writer) {
    let drained = async {
        while let Some(event) = writer.drain().await {
            assert!(matches!(event, Event::Committed(_)), "{event:?}");
        }
    };
    timeout(Duration::from_secs(600), drained).await.expect("drains in time");
}

/// `n` parcels of one batch each.
async fn filled(world: &World, n: u64) -> Writer {
    let mut writer = world.writer();
    for i in 0..n {
        assert_eq!(writer.add(entry(partition(1, 0), i as i64, 100)), Seq(i));
        drain(&mut writer).await;
    }
    writer
}

fn corrupt(result: Result<impl Sized, Error>, key: &str) -> String {
    match result {
        Err(Error::Corrupt { key: named, why }) if named == key => why,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("no error"),
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_added_is_recovered_batch_by_batch() {
    let world = world();
    let mut writer = world.writer();
    let (a, b, system) = (partition(1, 0), partition(1, 1), partition(200, 0));
    assert_eq!(writer.add(entry(a, 0, 10)), Seq(0));
    let together = vec![entry(system, 0, 30), entry(b, 5, 10), entry(a, 1, 200), entry(b, 6, 10)];
    assert_eq!(writer.add_together(together), Seq(1));
    let fact = Fact::LogStart { of: a, leader_epoch: LeaderEpoch(4), offset: Offset(1) };
    assert_eq!(writer.fact(fact.clone()), Seq(1));
    drain(&mut writer).await;
    assert_eq!(writer.commit(), Seq(2));
    let read = world.footers(0, 2).await.unwrap();
    let parts: Vec<_> = read[1].1.parts.iter().map(|part| (part.of, part.batches.len())).collect();
    assert_eq!(parts, [(a, 1), (b, 2), (system, 1)], "internal topics last, beside the footer");
    assert_eq!(read[1].1.facts, [fact]);
    let own: Vec<_> = writer.parcels().map(|(seq, own)| (seq, own.footer.clone())).collect();
    assert_eq!(own, read);
    let part = read[1].1.part(b).unwrap();
    let bytes = batches(&world.bucket, LANE, Seq(1), part.position, &part.batches).await.unwrap();
    assert_eq!(bytes.len() as u64, part.length);
    let whole = world.script.stored(&world.key(1)).unwrap();
    assert_eq!(writer.parcel(Seq(1)).unwrap().size, whole.len() as u64);
    parcel::read::open(&whole).unwrap();
}

#[tokio::test(start_paused = true)]
async fn while_a_put_runs_all_that_arrives_shares_the_next() {
    let world = world();
    world.script.usual(Duration::from_millis(3));
    let mut writer = world.writer();
    let seqs: Vec<u64> = (0..100).map(|i| writer.add(entry(partition(1, 0), i, 10)).0).collect();
    assert_eq!((seqs[0], seqs[1], seqs[99]), (0, 1, 1));
    drain(&mut writer).await;
    assert_eq!(world.script.puts().len(), 2);
    assert_eq!(writer.unacked_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_idle_lane_sends_nothing() {
    let world = world();
    let mut writer = world.writer();
    assert!(timeout(Duration::from_secs(3600), writer.next()).await.is_err());
    assert!(writer.is_drained() && world.script.puts().is_empty());
}

#[tokio::test(start_paused = true)]
async fn full_parcels_go_out_side_by_side() {
    let world = world();
    world.script.usual(Duration::from_millis(100));
    let mut writer = world.writer();
    let start = Instant::now();
    (0..64).for_each(|i| {
        writer.add(entry(partition(1, 0), i, 1 << 20));
    });
    drain(&mut writer).await;
    assert!(start.elapsed() < Duration::from_millis(450), "{:?}", start.elapsed());
    assert!(world.script.puts().len() <= 18);
}

#[tokio::test(start_paused = true)]
async fn unacked_bytes_are_bounded() {
    let world = world();
    world.script.usual(Duration::from_secs(2));
    let mut writer = world.writer();
    let mut at = 0;
    while !writer.is_full() {
        writer.add(entry(partition(1, 0), at, 8 << 20));
        at += 1;
    }
    assert_eq!(at, 32);
    drain(&mut writer).await;
    assert!(!writer.is_full());
}

#[tokio::test(start_paused = true)]
async fn r10_the_seal_stands_at_the_first_hole_not_behind_what_is_seen() {
    let world = world();
    let mut writer = filled(&world, 3).await;
    world.script.script(&world.key(3), &[Act::Hang; 100]);
    writer.add(entry(partition(1, 0), 3, 10));
    assert!(timeout(Duration::from_millis(20), writer.next()).await.is_err());
    writer.add(entry(partition(1, 0), 4, 10));
    assert!(timeout(Duration::from_millis(50), writer.next()).await.is_err());
    assert!(world.script.stored(&world.key(4)).is_some(), "4 is there, 3 is not");
    assert_eq!(world.seal(0).await, Ok(Seq(3)));
    assert_eq!(world.seal(0).await, Ok(Seq(3)), "a second sealer finds the first's seal");
    let seal = world.script.stored(&world.key(3)).unwrap();
    assert_eq!(seal::of_lane(CLUSTER, LANE, Seq(3), &seal), Some(sealer()));
}

#[tokio::test(start_paused = true)]
async fn r10_the_scan_finds_the_hole_without_a_listing() {
    let world = world();
    filled(&world, 5).await;
    assert_eq!(world.seal(2).await, Ok(Seq(5)));
    assert_eq!(world.seal(0).await, Ok(Seq(5)));
}

#[tokio::test(start_paused = true)]
async fn r10_a_seal_that_lost_the_key_to_data_moves_up() {
    let world = world();
    let mut writer = filled(&world, 2).await;
    world.script.script(&world.key(2), &[Act::Late(Duration::from_millis(500)), Act::Hang]);
    writer.add(entry(partition(1, 0), 2, 10));
    tokio::time::sleep(Duration::from_millis(5)).await;
    drop(writer);
    // The seal's own create is slower than the late parcel.
    world.script.usual(Duration::from_secs(1));
    world.script.script(&world.key(2), &[Act::After(Duration::from_secs(1))]);
    let sealed = world.seal(0).await.unwrap();
    assert!(sealed == Seq(2) || sealed == Seq(3));
    let kind = crate::format::Header::parse(&world.script.stored(&world.key(sealed.0)).unwrap());
    assert_eq!(kind.unwrap().kind, crate::format::Kind::Seal);
}

#[tokio::test(start_paused = true)]
async fn r10_a_writer_that_outruns_the_scan_is_walled_in() {
    let world = world();
    let mut writer = world.writer();
    let script = world.script.clone();
    let zombie = world.seams.tasks.spawn(async move {
        for at in 0.. {
            writer.add(entry(partition(1, 0), at, 10));
            match writer.next().await {
                Event::Committed(_) => {}
                other => return (other, writer.commit()),
            }
        }
        unreachable!("the seal ends it")
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Each key the sealer tries is the writer's by then.
    (0..10_000).for_each(|seq| script.script(&world.key(seq), &[Act::After(Duration::from_millis(2))]));
    let sealed = timeout(Duration::from_secs(60), world.seal(0)).await.expect("ends").unwrap();
    let (event, commit) = zombie.await.unwrap().unwrap();
    assert!(matches!(event, Event::Fenced { by: Some(_), .. }), "{event:?}");
    assert!(commit <= sealed);
    assert_eq!(world.footers(0, sealed.0).await.unwrap().len() as u64, sealed.0);
    assert_eq!(world.seal(0).await, Ok(sealed));
}

#[tokio::test(start_paused = true)]
async fn zombie_put_after_seal_is_refused() {
    let world = world();
    let mut zombie = filled(&world, 2).await;
    world.script.script(&world.key(2), &[Act::Hang, Act::Fail]);
    zombie.add(entry(partition(1, 0), 2, 10));
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(world.seal(0).await, Ok(Seq(2)));
    let event = timeout(Duration::from_secs(60), zombie.next()).await.unwrap();
    assert_eq!(event, Event::Fenced { seq: Seq(2), by: Some(sealer()) });
    assert_eq!(zombie.commit(), Seq(2), "R14");
    assert!(zombie.is_fenced());
    zombie.add(entry(partition(1, 0), 3, 10));
    zombie.flush();
    assert!(timeout(Duration::from_secs(60), zombie.next()).await.is_err());
    assert_eq!(world.script.stored(&world.key(3)), None);
}

#[tokio::test(start_paused = true)]
async fn a_seal_met_by_a_full_pipeline_stops_every_ack_behind_it() {
    let world = world();
    let mut writer = world.writer();
    for seq in 0..16 {
        world.script.script(&world.key(seq), &[Act::After(Duration::from_millis(100 + 10 * (16 - seq)))]);
        writer.add(entry(partition(1, 0), seq as i64, 5 << 20));
    }
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(world.seal(0).await, Ok(Seq(0)), "nothing had landed yet");
    let event = timeout(Duration::from_secs(60), writer.next()).await.unwrap();
    assert!(matches!(event, Event::Fenced { seq: Seq(0), by: Some(_) }), "{event:?}");
    assert_eq!(writer.commit(), Seq(0));
}

#[tokio::test(start_paused = true)]
async fn a_foreign_object_is_an_alarm_and_a_fence() {
    let world = world();
    let mut writer = world.writer();
    world.script.memory.overwrite(&world.key(0), Bytes::from_static(b"what is this"));
    writer.add(entry(partition(1, 0), 0, 10));
    let event = timeout(Duration::from_secs(60), writer.next()).await.unwrap();
    assert_eq!(event, Event::Fenced { seq: Seq(0), by: None });
    corrupt(world.seal(0).await, &world.key(0));
}

#[tokio::test(start_paused = true)]
async fn r12_the_owner_seals_last_and_stuck_objects_are_void() {
    let world = world();
    let mut writer = filled(&world, 4).await;
    world.script.script(&world.key(4), &[Act::Hang; 100]);
    writer.add(entry(partition(1, 0), 4, 10));
    tokio::time::sleep(Duration::from_millis(50)).await;
    let sealed = world.seams.tasks.spawn(async move { writer.seal_own(&sealer()).await });
    assert_eq!(sealed.await.unwrap(), Some(Ok(Seq(4))));
}

#[tokio::test(start_paused = true)]
async fn r13_damage_is_named_and_never_skipped() {
    let world = world();
    filled(&world, 5).await;
    world.damage(2, |bytes| {
        let at = bytes.len() - 150;
        bytes[at] ^= 1;
    });
    let why = corrupt(world.footers(0, 5).await, &world.key(2));
    assert!(why.contains("CRC32C"), "{why}");
    assert_eq!(world.footers(0, 2).await.unwrap().len(), 2);
    assert_eq!(world.footers(3, 5).await.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn r13_truncated_and_swapped_objects_are_damage() {
    let world = world();
    filled(&world, 3).await;
    let (one, two) =
        (world.script.stored(&world.key(1)).unwrap(), world.script.stored(&world.key(2)).unwrap());
    world.script.memory.overwrite(&world.key(1), one.slice(..one.len() - 7));
    corrupt(world.footers(0, 3).await, &world.key(1));
    world.script.memory.overwrite(&world.key(1), two);
    let why = corrupt(world.footers(0, 3).await, &world.key(1));
    assert!(why.contains("is object 2"), "{why}");
    world.script.memory.overwrite(&world.key(1), Bytes::new());
    corrupt(world.footers(0, 3).await, &world.key(1));
}

#[tokio::test(start_paused = true)]
async fn r13_a_seal_inside_the_bounds_is_damage() {
    let world = world();
    filled(&world, 2).await;
    world.seal(0).await.unwrap();
    let why = corrupt(world.footers(0, 3).await, &world.key(2));
    assert!(why.contains("seal"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn r15_a_missing_object_is_gone_not_the_end() {
    let world = world();
    filled(&world, 2).await;
    assert_eq!(world.footers(0, 3).await, Err(Error::Gone { key: world.key(2) }));
}

#[tokio::test(start_paused = true)]
async fn a_flipped_batch_byte_is_found_by_the_read_that_wants_it() {
    let world = world();
    let writer = filled(&world, 1).await;
    let footer = writer.parcel(Seq(0)).unwrap().footer.clone();
    let part = footer.part(partition(1, 0)).unwrap();
    for at in part.position..part.position + part.length {
        world.damage(0, |bytes| bytes[at as usize] ^= 0x10);
        let read = batches(&world.bucket, LANE, Seq(0), part.position, &part.batches).await;
        corrupt(read, &world.key(0));
        world.damage(0, |bytes| bytes[at as usize] ^= 0x10);
    }
    assert!(batches(&world.bucket, LANE, Seq(0), part.position, &part.batches).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_long_footer_takes_a_second_read() {
    let world = world();
    let mut writer = world.writer();
    let entries = (0..3000).map(|i| entry(partition(1, i), 0, 10)).collect();
    writer.add_together(entries);
    drain(&mut writer).await;
    let read = world.footers(0, 1).await.unwrap();
    assert_eq!(read[0].1.parts.len(), 3000);
    assert!(read[0].1.encode().len() > 64 << 10);
}

#[tokio::test(start_paused = true)]
async fn the_low_mark_forgets_footers_below_it() {
    let world = world();
    let mut writer = filled(&world, 5).await;
    writer.set_low(Seq(3));
    assert_eq!(writer.parcels().map(|(seq, _)| seq.0).collect::<Vec<_>>(), [3, 4]);
}
