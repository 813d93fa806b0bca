//! The driver over a log in memory whose durability the test decides.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidemark_proto::id::{LeaderEpoch, Millis, PartitionIndex, TopicId, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::text::Text;
use tidemark_proto::record::build::Builder;
use tidemark_proto::record::records::Records;
use tidemark_tiering::seam::Seams;

use super::memory::Memory;
use super::*;
use crate::group::command::{Caller, Commit, CommitOne, Join, Joined, Leaver, Protocol, Sync};

const AT: PartitionIndex = PartitionIndex(7);

fn tp() -> TopicPartition {
    TopicPartition { topic: TopicId::default(), partition: AT }
}

/// A coordinator that leads one partition.
struct House {
    log: Memory,
    groups: Groups,
    seams: Seams,
}

impl House {
    async fn open() -> House {
        House::with(Options::default()).await
    }

    async fn with(options: Options) -> House {
        let (log, seams) = (Memory::default(), Seams::seeded(1));
        let groups = Groups::start(Arc::new(log.clone()), options, &seams);
        let house = House { log, groups, seams };
        house.lead(1).await;
        house
    }

    async fn lead(&self, epoch: i32) {
        self.log.lead(tp(), LeaderEpoch(epoch));
        self.groups.lead(AT, tp(), LeaderEpoch(epoch)).await;
        settle().await;
    }

    async fn ask(&self, group: &str, command: Command) -> Result<Reply, ErrorCode> {
        self.groups.ask(AT, &Text::from(group), command).await
    }

    /// Asks in the background.
    fn asking(&self, group: &str, command: Command) -> Asking {
        let (groups, group) = (self.groups.clone(), Text::from(group));
        Asking(self.seams.tasks.spawn(async move { groups.ask(AT, &group, command).await }))
    }

    async fn offset(&self, group: &str, topic: &str) -> Option<i64> {
        let wanted = vec![(Text::from(topic), vec![0])];
        match self.ask(group, Command::FetchOffsets(Some(wanted))).await.unwrap() {
            Reply::Offsets(offsets) => offsets[0].2.as_ref().map(|c| c.offset),
            other => panic!("{other:?}"),
        }
    }

    async fn counts(&self) -> Counts {
        tokio::time::sleep(Duration::from_millis(1100)).await;
        self.groups.counts()
    }

    /// A group of one member, stable.
    async fn stable(&self, group: &str) -> Joined {
        let Ok(Reply::Joined(joined)) = self.ask(group, join("")).await else { panic!("joins") };
        let synced = self.ask(group, sync(&joined, b"all")).await;
        assert!(matches!(synced, Ok(Reply::Synced(_))), "{synced:?}");
        joined
    }
}

struct Asking(tokio::task::JoinHandle<Option<Result<Reply, ErrorCode>>>);

impl Asking {
    async fn answer(self) -> Result<Reply, ErrorCode> {
        self.0.await.unwrap().unwrap()
    }

    fn waits(&self) -> bool {
        !self.0.is_finished()
    }
}

/// Lets every task run as far as it can.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

fn commit(topic: &str, offset: i64) -> Command {
    commit_as(&Caller { generation: -1, ..Caller::default() }, topic, offset)
}

fn commit_as(caller: &Caller, topic: &str, offset: i64) -> Command {
    let topic = Text::from(topic);
    let one = CommitOne { topic, partition: 0, offset, leader_epoch: -1, metadata: Text::new() };
    Command::Commit(Commit { caller: caller.clone(), retention_ms: None, offsets: vec![one] })
}

fn join(member: &str) -> Command {
    Command::Join(joining(member, "m-1"))
}

fn joining(member: &str, fresh: &str) -> Join {
    Join {
        member: Text::from(member),
        instance: None,
        client_id: Text::from("client"),
        client_host: Text::from("/127.0.0.1"),
        protocol_type: Text::from("consumer"),
        protocols: vec![Protocol {
            name: Text::from("range"),
            metadata: Bytes::from_static(b"\0\0\0\0\0\0"),
        }],
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        require_known: false,
        can_skip_assignment: true,
        fresh: Text::from(fresh),
    }
}

fn caller(joined: &Joined) -> Caller {
    Caller { member: joined.member.clone(), instance: None, generation: joined.generation }
}

fn sync(joined: &Joined, assignment: &'static [u8]) -> Command {
    let assignments = vec![(joined.member.clone(), Bytes::from_static(assignment))];
    Command::Sync(Sync { caller: caller(joined), assignments, ..Sync::default() })
}

const OK: Result<Reply, ErrorCode> = Ok(Reply::Done);

fn committed() -> Result<Reply, ErrorCode> {
    Ok(Reply::Committed(vec![ErrorCode::None]))
}

#[tokio::test(start_paused = true)]
async fn a_commit_is_answered_when_it_is_durable_and_read_no_sooner() {
    let house = House::open().await;
    house.log.hold(true);
    let write = house.asking("g", commit("t", 5));
    let read = house.asking("g", Command::FetchOffsets(None));
    settle().await;
    assert!(write.waits() && read.waits());
    assert_eq!(house.offset("another", "t").await, None);
    house.log.release(tp(), 1);
    assert_eq!(write.answer().await, committed());
    let Ok(Reply::Offsets(offsets)) = read.answer().await else { panic!("offsets") };
    assert_eq!(offsets[0].2.as_ref().unwrap().offset, 5);
}

#[tokio::test(start_paused = true)]
async fn heartbeats_and_joins_do_not_wait_for_the_bucket() {
    let house = House::open().await;
    let joined = house.stable("g").await;
    house.log.hold(true);
    let write = house.asking("g", commit_as(&caller(&joined), "t", 5));
    settle().await;
    assert_eq!(house.ask("g", Command::Heartbeat(caller(&joined))).await, Ok(Reply::Alive));
    let stale = Caller { generation: 9, ..caller(&joined) };
    assert_eq!(house.ask("g", Command::Heartbeat(stale)).await, Err(ErrorCode::IllegalGeneration));
    assert!(matches!(house.ask("g", join("m-1")).await, Ok(Reply::Joined(_))));
    assert!(write.waits());
}

#[tokio::test(start_paused = true)]
async fn an_assignment_is_told_when_it_is_durable() {
    let house = House::open().await;
    let Ok(Reply::Joined(joined)) = house.ask("g", join("")).await else { panic!("joins") };
    house.log.hold(true);
    let leader = house.asking("g", sync(&joined, b"all"));
    settle().await;
    let again = house.asking("g", sync(&joined, b"other"));
    let described = house.asking("g", Command::Describe);
    settle().await;
    assert!(leader.waits() && again.waits() && described.waits());
    house.log.release(tp(), 1);
    for asking in [leader, again] {
        let Ok(Reply::Synced(synced)) = asking.answer().await else { panic!("syncs") };
        assert_eq!(synced.assignment, "all");
    }
}

#[tokio::test(start_paused = true)]
async fn commits_that_arrive_together_share_a_batch() {
    let house = House::open().await;
    house.log.hold(true);
    let first = house.asking("g0", commit("t", 0));
    settle().await;
    let rest: Vec<_> = (1..200).map(|n| house.asking(&format!("g{n}"), commit("t", n))).collect();
    settle().await;
    assert!(house.log.open(tp()) <= 5, "{} batches", house.log.open(tp()));
    house.log.release(tp(), 100);
    assert_eq!(first.answer().await, committed());
    for asking in rest {
        assert_eq!(asking.answer().await, committed());
    }
    let records: i32 = house.log.batches(tp()).iter().map(|b| b.count()).sum();
    assert_eq!(records, 200);
}

#[tokio::test(start_paused = true)]
async fn no_more_than_a_window_of_batches_flies_and_the_rest_gathers() {
    let house = House::open().await;
    house.log.hold(true);
    let mut asked = Vec::new();
    for n in 0..40 {
        asked.push(house.asking("g", commit("t", n)));
        settle().await;
    }
    assert_eq!(house.log.open(tp()), appender::FLYING_MAX);
    house.log.release(tp(), 100);
    settle().await;
    assert_eq!(house.log.open(tp()), 1, "what gathered went as one");
    house.log.release(tp(), 100);
    for asking in asked {
        assert_eq!(asking.answer().await, committed());
    }
    assert_eq!(house.offset("g", "t").await, Some(39));
}

#[tokio::test(start_paused = true)]
async fn a_backlog_is_bounded_and_drains() {
    let house = House::open().await;
    house.log.hold(true);
    let large = || {
        let one = |partition| CommitOne {
            topic: Text::from("t"),
            partition,
            offset: 1,
            leader_epoch: -1,
            metadata: Text::from("m".repeat(4096)),
        };
        let caller = Caller { generation: -1, ..Caller::default() };
        Command::Commit(Commit { caller, retention_ms: None, offsets: (0..200).map(one).collect() })
    };
    let mut asked = Vec::new();
    for _ in 0..80 {
        asked.push(house.asking("g", large()));
        settle().await;
    }
    assert_eq!(house.ask("h", commit("t", 1)).await, Err(ErrorCode::CoordinatorNotAvailable));
    assert_eq!(house.offset("h", "t").await, None, "reads go on");
    house.log.hold(false);
    house.log.release(tp(), 100);
    settle().await;
    let mut answered = 0;
    for asking in asked {
        match asking.answer().await {
            Ok(_) => answered += 1,
            Err(code) => assert_eq!(code, ErrorCode::CoordinatorNotAvailable),
        }
    }
    assert!(answered > 20);
    assert_eq!(house.ask("h", commit("t", 1)).await, committed());
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_sent_away_when_the_partition_is_given_up() {
    let house = House::open().await;
    house.log.hold(true);
    let waiting = [house.asking("g", join("")), house.asking("h", commit("t", 1))];
    settle().await;
    house.groups.resign(AT).await;
    for asking in waiting {
        assert_eq!(asking.answer().await, Err(ErrorCode::NotCoordinator));
    }
    assert_eq!(house.ask("h", commit("t", 1)).await, Err(ErrorCode::NotCoordinator));
    assert_eq!(house.groups.list().await, Ok(Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn another_leadership_finds_generations_and_offsets_and_not_what_was_in_doubt() {
    let house = House::open().await;
    let joined = house.stable("g").await;
    let me = caller(&joined);
    assert_eq!(house.ask("g", commit_as(&me, "t", 5)).await, committed());
    house.log.hold(true);
    let lost = house.asking("g", commit_as(&me, "t", 6));
    let barrier = house.asking("g", Command::Join(joining("", "m-2")));
    settle().await;
    house.log.hold(false);
    house.lead(2).await;
    assert_eq!(lost.answer().await, Err(ErrorCode::NotCoordinator));
    assert_eq!(barrier.answer().await, Err(ErrorCode::NotCoordinator));
    assert_eq!(house.offset("g", "t").await, Some(5));
    assert_eq!(house.ask("g", Command::Heartbeat(me.clone())).await, Ok(Reply::Alive));
    // Its session runs anew, and ends.
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(house.ask("g", Command::Heartbeat(me)).await, Err(ErrorCode::UnknownMemberId));
}

#[tokio::test(start_paused = true)]
async fn while_groups_are_read_back_nobody_is_served() {
    let house = House::open().await;
    assert_eq!(house.ask("g", commit("t", 5)).await, committed());
    house.log.refuse_reads(tp(), 8);
    house.lead(2).await;
    let refused = Err(ErrorCode::CoordinatorLoadInProgress);
    assert_eq!(house.ask("g", commit("t", 6)).await, refused);
    assert_eq!(house.groups.list().await, Err(ErrorCode::CoordinatorLoadInProgress));
    assert_eq!(house.counts().await.loading, 1);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(house.offset("g", "t").await, Some(5));
}

#[tokio::test(start_paused = true)]
async fn a_refused_batch_costs_the_state_and_what_flew_behind_it_is_waited_for() {
    let house = House::open().await;
    house.log.hold(true);
    let first = house.asking("g", commit("a", 1));
    settle().await;
    let second = house.asking("g", commit("b", 2));
    settle().await;
    assert_eq!(house.log.open(tp()), 2);
    house.log.refuse(tp(), ErrorCode::KafkaStorageError);
    assert_eq!(first.answer().await, Err(ErrorCode::NotCoordinator));
    assert_eq!(second.answer().await, Err(ErrorCode::NotCoordinator));
    let read = house.ask("g", Command::FetchOffsets(None)).await;
    assert_eq!(read, Err(ErrorCode::CoordinatorLoadInProgress), "the second may still land");
    house.log.release(tp(), 1);
    settle().await;
    assert_eq!(house.offset("g", "a").await, None);
    assert_eq!(house.offset("g", "b").await, Some(2));
    house.log.hold(false);
    assert_eq!(house.ask("g", commit("a", 3)).await, committed());
}

#[tokio::test(start_paused = true)]
async fn offsets_of_topics_that_go_go_too() {
    let house = House::open().await;
    for (group, topic) in [("g", "t"), ("g", "u"), ("h", "t")] {
        assert_eq!(house.ask(group, commit(topic, 1)).await, committed());
    }
    house.groups.topic_deleted("t").await;
    assert_eq!(house.offset("g", "t").await, None);
    assert_eq!(house.offset("g", "u").await, Some(1));
    // Deleted while nobody led.
    house.groups.catalogue(Arc::new(|topic: &str| topic != "u")).await;
    house.lead(2).await;
    assert_eq!(house.offset("g", "u").await, None);
    house.groups.catalogue(Arc::new(|_: &str| true)).await;
    house.lead(3).await;
    assert_eq!(house.offset("g", "u").await, None, "the log says so, too");
}

#[tokio::test(start_paused = true)]
async fn offsets_expire_and_their_group_with_them() {
    let mut options = Options::default();
    options.rules.offsets_retention_ms = 3_600_000;
    let house = House::with(options).await;
    assert_eq!(house.ask("g", commit("t", 1)).await, committed());
    tokio::time::sleep(Duration::from_secs(3000)).await;
    assert_eq!(house.offset("g", "t").await, Some(1));
    let before = house.log.batches(tp()).len();
    tokio::time::sleep(Duration::from_secs(1300)).await;
    assert_eq!(house.groups.list().await, Ok(Vec::new()));
    let batches = house.log.batches(tp());
    assert_eq!(batches.len(), before + 1, "one batch of tombstones, and no more");
    let last = Records::new(batches.last().unwrap()).unwrap().map(Result::unwrap);
    assert!(last.map(|r| r.value).eq([None, None]), "offset and group");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_group_is_gone_when_the_log_says_so() {
    let house = House::open().await;
    assert_eq!(house.ask("g", commit("t", 1)).await, committed());
    assert_eq!(house.groups.list().await.unwrap().len(), 1);
    house.log.hold(true);
    let delete = house.asking("g", Command::Delete);
    settle().await;
    let read = house.asking("g", Command::FetchOffsets(None));
    settle().await;
    assert!(delete.waits() && read.waits());
    house.log.release(tp(), 1);
    assert_eq!(delete.answer().await, OK);
    assert_eq!(read.answer().await, Ok(Reply::Offsets(Vec::new())));
    assert_eq!(house.ask("g", Command::Delete).await, Err(ErrorCode::GroupIdNotFound));
    assert_eq!(house.counts().await.groups, BTreeMap::new());
}

#[tokio::test(start_paused = true)]
async fn strangers_leave_no_trace() {
    let house = House::open().await;
    let me = Caller { member: Text::from("stranger"), instance: None, generation: 1 };
    for n in 0..100 {
        let group = format!("g{n}");
        let beat = house.ask(&group, Command::Heartbeat(me.clone())).await;
        assert_eq!(beat, Err(ErrorCode::UnknownMemberId));
        let leaver = Leaver { member: me.member.clone(), instance: None };
        let left = house.ask(&group, Command::Leave(vec![leaver])).await;
        assert_eq!(left, Ok(Reply::Left(vec![ErrorCode::UnknownMemberId])));
        let first = Join { require_known: true, ..joining("", "m-1") };
        let asked = house.ask(&group, Command::Join(first)).await;
        assert!(matches!(asked, Ok(Reply::MemberIdRequired(_))));
    }
    assert_eq!(house.counts().await.groups.values().sum::<u64>(), 100);
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(house.counts().await.groups, BTreeMap::new());
    assert!(house.log.batches(tp()).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_foreign_record_is_passed_over_and_a_damaged_batch_is_not() {
    let house = House::open().await;
    assert_eq!(house.ask("g", commit("t", 1)).await, committed());
    let mut foreign = Builder::new();
    foreign.append(Millis(0), Some(b"\x00\x05other kind"), Some(b"x"));
    foreign.append(Millis(0), Some(b"?"), Some(b"garbage"));
    foreign.append(Millis(0), None, Some(b"no key"));
    let append = house.log.append(tp(), LeaderEpoch(1), foreign.build().bytes().clone()).await;
    append.unwrap().await.unwrap().unwrap();
    house.lead(2).await;
    assert_eq!(house.offset("g", "t").await, Some(1));
    house.log.damage(tp());
    house.lead(3).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let refused = house.ask("g", Command::FetchOffsets(None)).await;
    assert_eq!(refused, Err(ErrorCode::CoordinatorLoadInProgress), "half a log is not served");
}

#[tokio::test(start_paused = true)]
async fn a_second_call_for_the_same_leadership_changes_nothing() {
    let house = House::open().await;
    let barrier = house.asking("g", join(""));
    settle().await;
    house.groups.lead(AT, tp(), LeaderEpoch(1)).await;
    assert!(matches!(barrier.answer().await, Ok(Reply::Joined(_))));
}
