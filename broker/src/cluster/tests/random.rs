//! Random commands: the invariants hold after every commit, and what only grows, grows.

use proptest::prelude::*;
use tidemark_proto::id::ClusterId;
use tidemark_proto::id::{
    BrokerEpoch, BrokerId, LaneId, Life, Millis, Offset, PartitionIndex, Position, Seq, TopicId,
};
use tidemark_tiering::segment;
use uuid::Uuid;

use super::super::command::{Command, NewTopic, Sealed, TopicRef};
use super::super::image::{CheckpointRow, Image, RunRow};
use super::super::quota::{Entity, Part, Rate};
use super::super::record::Carried;
use super::super::state::Rules;
use super::super::wire::{Entry, snapshot_from, snapshot_of};

/// A command as small numbers, made meaningful against the image it meets.
#[derive(Clone, Copy, Debug)]
struct Act {
    verb: u8,
    a: u8,
    b: u8,
    c: u8,
}

fn act() -> impl Strategy<Value = Act> {
    (0u8..27, 0u8..6, 0u8..8, any::<u8>()).prop_map(|(verb, a, b, c)| Act { verb, a, b, c })
}

fn command(image: &Image, step: u128, act: Act) -> Command {
    let Act { verb, a, b, c } = act;
    let node = BrokerId(i32::from(a % 4));
    let lanes: Vec<(LaneId, Seq, Option<Seq>)> =
        image.lanes().map(|(id, row)| (id, row.low, row.sealed)).collect();
    // Mostly what a careful driver would say, sometimes not.
    let seals = |node: BrokerId| -> Vec<Sealed> {
        let open = image.open_lanes(node);
        let at = |low: Seq| Seq((low.0 + u64::from(b)).saturating_sub(u64::from(c < 16)));
        // A bound was committed in the lane: a seal stands above it.
        let chains = || image.topics().flat_map(|t| t.partitions()).flat_map(|(_, p)| p.chain.clone());
        let bound = |lane| chains().filter(|e| e.lane == lane).filter_map(|e| e.to).max().unwrap_or_default();
        let open = open.filter(|_| c < 240);
        open.map(|(lane, row)| Sealed { lane, at: at(row.low).max(bound(lane)) }).collect()
    };
    let epoch = image.broker(node).map_or(BrokerEpoch(0), |row| row.epoch);
    match verb {
        0 | 1 => Command::RegisterBroker {
            node: (c < 250).then_some(node),
            life: Life(step + 1),
            endpoints: vec![],
            rack: (b < 4).then(|| b.to_string()),
            peer: String::new(),
            sealed: seals(node),
        },
        2 => Command::TakeOver { node, epoch, sealed: seals(node) },
        3 => Command::CreateTopics {
            topics: vec![NewTopic {
                name: format!("t{a}{}x", ['.', '_', '-'][usize::from(c % 3)]),
                id: TopicId(Uuid::from_u128(step + 1)),
                partitions: i32::from(b),
                replication: i16::from(c % 4),
                ..NewTopic::default()
            }],
            validate_only: c > 230,
        },
        4 => Command::CreatePartitions {
            topic: format!("t{a}.x"),
            count: i32::from(b),
            assignments: Vec::new(),
            validate_only: false,
        },
        5 => Command::DeleteTopics { topics: vec![TopicRef::Name(format!("t{a}.x"))] },
        6 => Command::UnregisterBroker { node },
        7 => Command::AllocateProducerIds { by: epoch },
        8 => {
            let tp = image
                .topics()
                .next()
                .map(|t| (t.id, t.partitions().map(|(tp, p)| (tp, p.leader_epoch)).next()));
            let starts = tp.and_then(|(_, first)| first).map(|(tp, at)| (tp, at, Offset(i64::from(c))));
            Command::MoveLogStarts { by: epoch, starts: starts.into_iter().collect() }
        }
        9 => {
            let part = |n: u8| (n > 0).then(|| Part::from_name((n > 1).then(|| n.to_string())));
            let entity = Entity { user: part(a % 4), client: part(b % 4), ip: None };
            let rate = (c > 64).then(|| Rate::new(f64::from(c)));
            Command::SetQuotas {
                entity,
                set: vec![("producer_byte_rate".into(), rate)],
                validate_only: c > 250,
            }
        }
        10 => match image.lanes().nth(usize::from(b)) {
            Some((lane, _)) => Command::ForgetLane { lane },
            None => Command::AllocateProducerIds { by: epoch },
        },
        11 => Command::NoteSwept { below: image.position() },
        12 => Command::Drain { by: epoch },
        21..=24 => {
            let all: Vec<_> = image.topics().flat_map(|t| t.partitions()).collect();
            let Some((of, p)) = all.get(usize::from(c) % all.len().max(1)) else {
                return Command::Drain { by: epoch };
            };
            let leader = p.leader.and_then(|node| image.broker(node)).map_or(epoch, |row| row.epoch);
            let (by, leader_epoch) = (if c < 250 { leader } else { epoch }, p.leader_epoch);
            let ids: Vec<Uuid> = p.segments().iter().take(usize::from(b)).map(|row| row.id).collect();
            match verb {
                21 => {
                    let end = p.tiered().unwrap_or_default();
                    let base = if c % 16 == 0 { p.log_start } else { Offset(end.0 - i64::from(c == 15)) };
                    let (last, id) = (base.plus(i64::from(b)), Uuid::from_u128(step + 1));
                    let row = segment::Row { id, base, last, bytes: 100, ..segment::Row::default() };
                    Command::CommitSegments { by, of: *of, leader_epoch, rows: vec![row] }
                }
                22 => Command::RetireSegments { by, of: *of, leader_epoch, ids },
                23 => Command::ForgetSegments { of: *of, ids },
                _ => {
                    let start = p.tiered().unwrap_or_default().plus(-i64::from(b));
                    Command::MoveLogStarts { by, starts: vec![(*of, leader_epoch, start)] }
                }
            }
        }
        13..=18 => {
            let all: Vec<_> = image.topics().flat_map(|t| t.partitions()).collect();
            let Some((tp, p)) = all.get(usize::from(c) % all.len().max(1)) else {
                return Command::Drain { by: epoch };
            };
            let of = |node: Option<BrokerId>| {
                node.and_then(|node| image.broker(node)).map_or(epoch, |row| row.epoch)
            };
            let plan = p.successor.map_or(0, |s| s.planned);
            match verb {
                13 => Command::PlanMoves { moves: vec![(*tp, node)] },
                17 => {
                    let replicas = (0..i32::from(b % 4)).map(|n| BrokerId((i32::from(a) + n) % 4)).collect();
                    Command::AssignReplicas { assigned: vec![(*tp, replicas)] }
                }
                14 => Command::CallOff { moves: vec![(*tp, plan + u64::from(a == 0))] },
                15 => Command::CancelReassignments { partitions: vec![*tp] },
                16 => Command::ReadyToLead {
                    by: of(p.successor.map(|s| s.node)),
                    from: Seq(u64::from(b)),
                    partitions: vec![(*tp, p.leader_epoch)],
                },
                _ => Command::Release {
                    by: of(p.leader),
                    bound: p
                        .chain
                        .last()
                        .and_then(|e| image.lane(e.lane))
                        .map_or(Seq(0), |l| Seq(l.low.0 + u64::from(b))),
                    partitions: vec![(*tp, p.leader_epoch, plan)],
                },
            }
        }
        19 | 20 => {
            let runs = image.runs().skip(usize::from(b)).take(usize::from(c % 4));
            let drop: Vec<_> = runs.map(|run| (run.id, run.committed)).collect();
            let (id, covers) = (Uuid::from_u128(step + 1), drop.iter().map(|(_, at)| *at).max());
            let add = covers.filter(|_| a < 4).map(|at| RunRow {
                id,
                key: "run".into(),
                level: 1,
                ranges: vec![(0, u32::from(c) << 24)],
                committed: at + u64::from(c > 250),
                ..RunRow::default()
            });
            let of: Vec<_> = image.partitions().map(|(tp, _)| tp).take(3).collect();
            let committed = image.version().saturating_sub(u64::from(b)) + u64::from(c > 250);
            let row = CheckpointRow { id, key: "check".into(), committed, ..CheckpointRow::default() };
            let homes = of.iter().map(|tp| (tp.topic, vec![tp.partition])).collect();
            Command::ReplaceRuns {
                by: epoch,
                drop: drop.into_iter().map(|(id, _)| id).collect(),
                add: add.into_iter().collect(),
                starts: of.iter().map(|tp| (*tp, Offset(i64::from(c)))).collect(),
                carried: (a % 2 == 0).then(|| Box::new(Carried { row, of: homes })),
                cleaned: of.iter().map(|tp| (*tp, Offset(i64::from(c / 2)))).collect(),
            }
        }
        _ => {
            let pick = lanes.get(usize::from(c) % lanes.len().max(1));
            let (lane, low, sealed) = pick.copied().unwrap_or_default();
            let low =
                Seq((low.0 + u64::from(b)).min(sealed.map_or(u64::MAX, |at| at.0 + u64::from(c > 250))));
            let by = match image.lane(lane).and_then(|row| row.recoverer) {
                Some(node) => image.broker(node).map_or(BrokerEpoch(0), |row| row.epoch),
                None => lane.epoch,
            };
            let id = Uuid::from_u128(step + 1);
            let run =
                RunRow { id, key: "run".into(), ranges: vec![(0, u32::from(c) << 24)], ..RunRow::default() };
            let checkpoint =
                CheckpointRow { id, key: "check".into(), lane, upto: low, ..CheckpointRow::default() };
            let checkpoint = (a < 4).then_some(checkpoint);
            let version = image.version().saturating_sub(u64::from(a));
            Command::CommitCut { by, lane, low, runs: vec![run], checkpoint, version }
        }
    }
}

/// What never goes back.
fn grows(old: &Image, new: &Image) {
    assert!(new.next_epoch() >= old.next_epoch() && new.next_producer() >= old.next_producer());
    for (id, lane) in old.lanes() {
        let Some(now) = new.lane(id) else {
            assert_eq!(lane.sealed, Some(lane.low), "a lane goes only when all it held is in runs");
            continue;
        };
        assert!(now.low >= lane.low, "R19: monotone");
        assert!(lane.sealed.is_none() || lane.sealed == now.sealed, "a seal stays where it is");
    }
    for topic in old.topics() {
        let Some(now) = new.topic(topic.id) else { continue };
        for (n, (was, is)) in (0..).zip(topic.partitions.iter().zip(&now.partitions)) {
            assert!(is.leader_epoch >= was.leader_epoch, "leader epochs never fall");
            assert!(is.log_start >= was.log_start, "log starts never fall");
            for row in was.segments().iter().filter(|row| row.last >= is.log_start) {
                let kept = is.segments().iter().any(|now| now == row);
                assert!(kept, "what can be read stays: {row:?}");
            }
            let same = is.leader_epoch == was.leader_epoch;
            assert!(!same || is.leader.is_none() || is.leader == was.leader, "one leader an epoch");
            let replicas = new.replicas(now, PartitionIndex(n));
            assert!(is.leader.is_none_or(|leader| replicas.contains(&leader)), "a leader is a replica");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn invariants_hold_after_every_commit(acts in proptest::collection::vec(act(), 1..60)) {
        let rules = Rules::default();
        let mut image = Image::default();
        for (step, act) in (0u128..).zip(acts) {
            let command = command(&image, step, act);
            let Ok(outcome) = image.decide(&rules, Millis(0), &command) else { continue };
            let entry = Entry { records: outcome.records, ..Entry::default() };
            prop_assert_eq!(&Entry::decode(entry.encode()).unwrap(), &entry);
            let old = image.clone();
            entry.records.iter().for_each(|record| image.apply(record));
            image.check();
            grows(&old, &image);
        }
        let again = snapshot_from(ClusterId::default(), Position::default(), snapshot_of(&image)).unwrap();
        prop_assert_eq!(again, image);
    }

    #[test]
    fn no_bytes_make_reading_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let bytes = bytes::Bytes::from(bytes);
        let _ = Entry::decode(bytes.clone());
        let _ = snapshot_from(ClusterId::default(), Position::default(), bytes);
    }
}
