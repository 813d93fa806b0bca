//! The task against a store that answers late: what is acknowledged, and when (R5, R12, R14, R23).

use std::sync::Arc;
use std::time::Duration;

use tidemark_proto::id::{
    BrokerEpoch, ClusterId, LaneId, LeaderEpoch, Life, Millis, Nonce, Offset, PartitionIndex, ProducerEpoch,
    ProducerId, Seq, TopicId, TopicPartition,
};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::record::build::Builder;
use tidemark_tiering::bucket::faults::{Fault, Faulty, Weather};
use tidemark_tiering::bucket::{self, Bucket, Memory, Verb};
use tidemark_tiering::keys;
use tidemark_tiering::lane::{Options as LaneOptions, Sealer, Writer, seal};
use tidemark_tiering::seam::Seams;
use tidemark_tiering::watch;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::super::base::Base;
use super::super::index::{Index, Source};
use super::super::opening::Opened;
use super::super::{Ask, Partitions, Write, WriteResults};
use super::{Committed, CutAsk, Ended, Lead, Options, Order, Prove, Settled, Task};

const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(0xC1));
const LANE: LaneId = LaneId { epoch: BrokerEpoch(3), lane: 0, life: Life(0x11FE) };
const TP: TopicPartition =
    TopicPartition { topic: TopicId(Uuid::from_u128(7)), partition: PartitionIndex(0) };
const T_ACK: Duration = Duration::from_secs(3);

/// A task that runs, with one open partition.
struct World {
    seams: Seams,
    store: Faulty,
    bucket: Bucket,
    doors: Partitions,
    orders: mpsc::Sender<Order>,
    task: JoinHandle<Option<Ended>>,
    /// Proofs that were asked for and wait for an answer.
    asked: mpsc::Receiver<oneshot::Sender<bool>>,
}

/// The answer to one write.
type Answer = oneshot::Receiver<WriteResults>;

impl World {
    async fn new() -> World {
        let seams = Seams::seeded(7);
        let memory = Arc::new(Memory::new(seams.clock.clone()));
        let store = Faulty::new(memory, Weather::default(), seams.entropy.fork());
        let bucket = Bucket::new(Arc::new(store.clone()), bucket::Options::default(), &seams);
        let mut options = LaneOptions::for_bucket(&bucket);
        options.limits.t_ack = T_ACK;
        options.limits.hedges = 0; // the script names each PUT
        let lane = Writer::open(LANE, CLUSTER, bucket.clone(), &seams, options);
        let (asks, asked) = mpsc::channel(8);
        let prove: Prove = Arc::new(move |lane| {
            assert_eq!(lane, LANE);
            let (tell, told) = oneshot::channel();
            asks.try_send(tell).expect("few proofs");
            Box::pin(async move { told.await.unwrap_or(false) })
        });
        let (orders, orders_in) = mpsc::channel(8);
        let (clock, commits) = (seams.clock.clone(), watch::channel(Committed::default()).0);
        let task = Task::new(lane, LANE, Seq(0), Options::default(), clock, prove, commits);
        let doors = Partitions::default();
        let task = seams.tasks.spawn(task.run(doors.clone(), orders_in));
        let world = World { seams, store, bucket, doors, orders, task, asked };
        let lead = Lead { tp: TP, leader_epoch: LeaderEpoch(1), internal: false };
        world.order(Order::Lead(vec![lead])).await;
        let result = Ok((Base::default(), Index::default()));
        let (opened, done) = oneshot::channel();
        let found = vec![Opened { tp: TP, leader_epoch: LeaderEpoch(1), result }];
        world.order(Order::Opened(found, opened)).await;
        done.await.expect("the partition opens");
        world
    }

    async fn order(&self, order: Order) {
        self.orders.send(order).await.expect("the task runs");
    }

    /// Writes a batch that goes out as parcel `seq` at once and is answered after `stall`.
    async fn write(&self, seq: u64, stall: Duration) -> Answer {
        self.store.fail_next(Verb::Put, &keys::parcel(&LANE, Seq(seq)), Fault::Stall(stall));
        self.send(Builder::new()).await
    }

    /// Writes a batch that goes out at once.
    async fn send(&self, mut batch: Builder) -> Answer {
        let batch = batch.append(Millis(1_000), None, Some(b"value")).build();
        let write = Write { tp: TP, batch, leader_epoch: None };
        let answer = self.doors.produce(vec![write], false, true).await.expect("the doors are open");
        sleep(Duration::from_millis(1)).await;
        answer
    }

    /// The next proof that is asked for.
    async fn asked(&mut self) -> oneshot::Sender<bool> {
        timeout(Duration::from_secs(60), self.asked.recv()).await.expect("a proof is due").expect("it runs")
    }

    /// Nothing more is asked for, nor anything else done, for some time.
    async fn quiet(&mut self) {
        sleep(Duration::from_secs(20)).await;
        assert!(self.asked.try_recv().is_err(), "nothing is left to prove");
    }

    async fn hw(&self) -> Offset {
        self.doors.bounds(vec![(TP, None)]).await.expect("the doors are open")[0].expect("it is open").hw
    }

    async fn ended(self) -> Ended {
        timeout(Duration::from_secs(60), self.task)
            .await
            .expect("it ends")
            .expect("it lives")
            .expect("a reason")
    }

    fn close(&self) -> Order {
        let by =
            Sealer { life: LANE.life, nonce: self.seams.entropy.nonce(), next: 3, address: String::new() };
        Order::Close { by }
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn waits(answer: &mut Answer) -> bool {
    matches!(answer.try_recv(), Err(oneshot::error::TryRecvError::Empty))
}

/// The base offset it was written at, or the refusal.
async fn told(answer: Answer) -> Result<Offset, ErrorCode> {
    let results = timeout(60 * SECOND, answer).await.expect("an answer is due").expect("it is answered");
    results[0].map(|written| written.base)
}

#[tokio::test(start_paused = true)]
async fn a_log_start_that_rises_while_a_partition_is_opened_is_kept() {
    let world = World::new().await;
    let tp = TopicPartition { partition: PartitionIndex(9), ..TP };
    let lead = Lead { tp, leader_epoch: LeaderEpoch(4), internal: false };
    world.order(Order::Lead(vec![lead])).await;
    world.order(Order::LogStarts(vec![(tp, Offset(12))])).await;
    world.order(Order::LogStarts(vec![(tp, Offset(11))])).await;
    // Recovery began before that.
    let base = Base { log_start: Offset(3), end: Offset(20), ..Base::default() };
    let (opened, done) = oneshot::channel();
    let result = Ok((base, Index::default()));
    world.order(Order::Opened(vec![Opened { tp, leader_epoch: LeaderEpoch(4), result }], opened)).await;
    done.await.expect("it opens");
    let bounds = world.doors.bounds(vec![(tp, None)]).await.expect("the doors are open");
    assert_eq!(bounds[0].expect("it is open").log_start, Offset(12));
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_time_is_acknowledged_without_a_proof() {
    let mut world = World::new().await;
    let answer = world.write(0, T_ACK - SECOND).await;
    assert_eq!(told(answer).await, Ok(Offset(0)));
    assert_eq!(world.hw().await, Offset(1));
    world.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn r23_a_slow_answer_is_not_acknowledged_before_its_proof() {
    let mut world = World::new().await;
    let mut answer = world.write(0, T_ACK + SECOND).await;
    let proof = world.asked().await;
    sleep(5 * SECOND).await;
    assert!(waits(&mut answer), "nothing is known yet");
    assert_eq!(world.hw().await, Offset(0));
    proof.send(true).expect("somebody waits");
    assert_eq!(told(answer).await, Ok(Offset(0)));
    assert_eq!(world.hw().await, Offset(1));
    world.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn r23_a_slow_answer_that_comes_during_a_proof_needs_another() {
    let mut world = World::new().await;
    let first = world.write(0, T_ACK + SECOND).await;
    let mut second = world.write(1, T_ACK + 3 * SECOND).await;
    let proof = world.asked().await;
    sleep(5 * SECOND).await;
    proof.send(true).expect("somebody waits");
    assert_eq!(told(first).await, Ok(Offset(0)));
    let proof = world.asked().await;
    assert!(waits(&mut second), "it came after the first proof was asked for");
    assert_eq!(world.hw().await, Offset(1));
    proof.send(true).expect("somebody waits");
    assert_eq!(told(second).await, Ok(Offset(1)));
    world.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn r23_an_answer_in_time_during_a_proof_is_set_free_by_it() {
    let mut world = World::new().await;
    let first = world.write(0, T_ACK + SECOND).await;
    sleep(2 * SECOND).await;
    let mut second = world.write(1, T_ACK - SECOND / 2).await;
    let proof = world.asked().await;
    sleep(5 * SECOND).await;
    assert!(waits(&mut second), "what it rests on is not proven");
    proof.send(true).expect("somebody waits");
    assert_eq!((told(first).await, told(second).await), (Ok(Offset(0)), Ok(Offset(1))));
    world.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn r23_without_proof_the_lane_is_given_up_and_nothing_acknowledged() {
    let mut world = World::new().await;
    let first = world.write(0, T_ACK + SECOND).await;
    let second = world.write(1, T_ACK + 9 * SECOND).await;
    world.asked().await.send(false).expect("somebody waits");
    let refused = Err(ErrorCode::NotLeaderOrFollower);
    assert_eq!((told(first).await, told(second).await), (refused, refused));
    let doors = world.doors.clone();
    assert_eq!(world.ended().await, Ended::Fenced);
    assert!(doors.bounds(vec![(TP, None)]).await.is_err(), "nobody is served any more");
}

#[tokio::test(start_paused = true)]
async fn r23_a_close_waits_for_the_proof_under_way() {
    let mut world = World::new().await;
    let mut answer = world.write(0, T_ACK + SECOND).await;
    let proof = world.asked().await;
    world.order(world.close()).await;
    sleep(5 * SECOND).await;
    assert!(waits(&mut answer), "all is durable and nothing proven");
    proof.send(true).expect("somebody waits");
    assert_eq!(told(answer).await, Ok(Offset(0)));
    assert_eq!(world.ended().await, Ended::Sealed(Seq(1)));
}

#[tokio::test(start_paused = true)]
async fn r23_a_close_whose_proof_is_denied_acknowledges_nothing() {
    let mut world = World::new().await;
    let answer = world.write(0, T_ACK + SECOND).await;
    let proof = world.asked().await;
    world.order(world.close()).await;
    sleep(SECOND).await;
    proof.send(false).expect("somebody waits");
    assert_eq!(told(answer).await, Err(ErrorCode::NotLeaderOrFollower));
    assert_eq!(world.ended().await, Ended::Fenced);
}

#[tokio::test(start_paused = true)]
async fn r12_a_close_answers_what_is_open_and_seals_behind_it() {
    let world = World::new().await;
    let (first, second) = (world.write(0, SECOND).await, world.write(1, SECOND).await);
    world.order(world.close()).await;
    assert_eq!((told(first).await, told(second).await), (Ok(Offset(0)), Ok(Offset(1))));
    assert_eq!(world.ended().await, Ended::Sealed(Seq(2)));
}

#[tokio::test(start_paused = true)]
async fn r14_a_write_that_meets_a_seal_is_refused_and_so_is_all_behind_it() {
    let world = World::new().await;
    assert_eq!(told(world.write(0, Duration::ZERO).await).await, Ok(Offset(0)));
    let by = Sealer { life: Life(9), nonce: Nonce(10), next: 4, address: String::new() };
    let sealed = seal(&world.bucket, CLUSTER, LANE, Seq(0), &by, &world.seams).await;
    assert!(matches!(sealed, Ok(Seq(1))), "{sealed:?}");
    let (first, second) = (world.write(1, SECOND).await, world.write(2, Duration::ZERO).await);
    let refused = Err(ErrorCode::NotLeaderOrFollower);
    assert_eq!((told(second).await, told(first).await), (refused, refused));
    assert_eq!(world.ended().await, Ended::Fenced);
}

#[tokio::test(start_paused = true)]
async fn r5_an_answer_out_of_order_waits_for_the_parcel_before_it() {
    let world = World::new().await;
    let first = world.write(0, 2 * SECOND).await;
    let mut second = world.write(1, Duration::ZERO).await;
    sleep(SECOND).await;
    assert!(waits(&mut second));
    let ask = Ask { tp: TP, offset: Offset(0), bytes_max: 1_000, leader_epoch: None, committed: false };
    let looks = world.doors.plan(vec![ask], 1_000, None).await.expect("the doors are open");
    assert_eq!(looks[0].as_ref().expect("it is open").bytes, 0, "nothing is visible");
    assert_eq!((told(first).await, told(second).await), (Ok(Offset(0)), Ok(Offset(1))));
    world.seams.tasks.kill();
}

#[tokio::test(start_paused = true)]
async fn what_compaction_has_been_over_is_not_read_from_memory() {
    let world = World::new().await;
    for at in 0..3 {
        assert_eq!(told(world.write(at, Duration::ZERO).await).await, Ok(Offset(at as i64)));
    }
    let in_memory = async || {
        let ask = Ask { tp: TP, offset: Offset(0), bytes_max: 1_000, leader_epoch: None, committed: false };
        let looks = world.doors.plan(vec![ask], 1_000, None).await.expect("the doors are open");
        let sources = &looks[0].as_ref().expect("it is open").sources;
        let memory = |source: &Source| match source {
            Source::Memory(batches) => batches.len(),
            Source::Stored(_) | Source::Archived { .. } => 0,
        };
        sources.iter().map(memory).sum::<usize>()
    };
    assert_eq!(in_memory().await, 3);
    world.order(Order::Cleaned(vec![(TP, Offset(2))])).await;
    assert_eq!(in_memory().await, 1);
    world.seams.tasks.kill();
}

impl World {
    async fn release(&self) -> oneshot::Receiver<Settled> {
        let (settled, answer) = oneshot::channel();
        self.order(Order::Release { partitions: vec![TP], settled }).await;
        sleep(Duration::from_millis(1)).await;
        answer
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_names_its_bound_when_all_that_was_appended_is_durable() {
    let world = World::new().await;
    let first = world.write(0, 2 * SECOND).await;
    let mut settled = world.release().await;
    let mut held = world.write(1, Duration::ZERO).await;
    assert!(settled.try_recv().is_err() && waits(&mut held), "R17: a batch is in flight");
    assert_eq!(world.hw().await, Offset(0), "it is still read here");
    assert_eq!(told(first).await, Ok(Offset(0)));
    let settled = timeout(SECOND, settled).await.expect("drained").expect("answered");
    assert_eq!(settled, Settled { bound: Seq(1), partitions: vec![TP] });
    let bounds = world.doors.bounds(vec![(TP, None)]).await.expect("the doors are open");
    assert_eq!(bounds[0], Err(ErrorCode::NotLeaderOrFollower), "R24: another may lead it from now on");
    assert!(waits(&mut held));
    world.order(Order::Resign(vec![TP])).await;
    assert_eq!(told(held).await, Err(ErrorCode::NotLeaderOrFollower));
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_stays_goes_on_with_what_was_held() {
    let world = World::new().await;
    world.release().await.await.expect("nothing is in flight");
    let held = world.write(0, Duration::ZERO).await;
    world.order(Order::Keep(vec![TP])).await;
    assert_eq!(told(held).await, Ok(Offset(0)));
    assert_eq!(world.hw().await, Offset(1));
}

#[tokio::test(start_paused = true)]
async fn nobody_is_held_for_longer_than_the_move_is_worth() {
    let world = World::new().await;
    world.release().await.await.expect("nothing is in flight");
    let held = world.write(0, Duration::ZERO).await;
    world.order(Order::Stall(vec![TP])).await;
    assert_eq!(told(held).await, Err(ErrorCode::NotLeaderOrFollower));
    let late = world.write(0, Duration::ZERO).await;
    assert_eq!(told(late).await, Err(ErrorCode::NotLeaderOrFollower), "the release may be in force");
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_stays_takes_no_second_batch_before_the_first_that_it_refused() {
    let world = World::new().await;
    sleep(10 * SECOND).await; // long open
    world.release().await.await.expect("nothing is in flight");
    let numbered = |sequence| world.send(Builder::new().producer(ProducerId(7), ProducerEpoch(0), sequence));
    let first = numbered(0).await;
    world.order(Order::Stall(vec![TP])).await;
    assert_eq!(told(first).await, Err(ErrorCode::NotLeaderOrFollower));
    world.order(Order::Keep(vec![TP])).await;
    sleep(Duration::from_millis(1)).await;
    assert_eq!(told(numbered(1).await).await, Err(ErrorCode::NotLeaderOrFollower), "its first is not back");
    assert_eq!(told(numbered(0).await).await, Ok(Offset(0)));
}

#[tokio::test(start_paused = true)]
async fn a_cut_still_knows_a_partition_that_has_left() {
    let world = World::new().await;
    told(world.write(0, Duration::ZERO).await).await.expect("written");
    world.release().await.await.expect("nothing is in flight");
    world.order(Order::Resign(vec![TP])).await;
    let bases = async |from| {
        let (reply, input) = oneshot::channel();
        world.order(Order::CutInput { ask: CutAsk { from, bytes: 1, whole: false }, reply }).await;
        input.await.expect("the task runs").bases
    };
    assert_eq!(bases(Seq(0)).await, [(TP, LeaderEpoch(1), Base::default())], "as of the low mark");
    world.order(Order::Cut { upto: Seq(1), bases: Vec::new() }).await;
    assert_eq!(bases(Seq(1)).await, [], "its last batch is in a run");
}
