//! Random commands, with every invariant asserted after each.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tidemark_proto::kafka::text::Text;

use super::bench_group::{Answer, Bench};
use crate::group::command::{
    Caller, Command, Commit, CommitOne, Join, Leaver, Protocol, Record, Reply, Sync, Token,
};
use crate::group::members::Phase;

/// One random step, by member number.
#[derive(Clone, Debug)]
enum Step {
    Join { who: usize, anew: bool, protocols: u8, version: u8 },
    Sync { who: usize, stale: bool },
    Heartbeat(usize),
    Leave(Vec<usize>),
    Commit { who: usize, stale: bool },
    DeleteOffsets,
    Delete,
    Tick(u64),
    Retire,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = 0..6usize;
    let step = prop_oneof![
        8 => (who.clone(), any::<bool>(), 0..4u8, 3..10u8)
            .prop_map(|(who, anew, protocols, version)| Step::Join { who, anew, protocols, version }),
        8 => (who.clone(), prop::bool::weighted(0.1))
            .prop_map(|(who, stale)| Step::Sync { who, stale }),
        4 => who.clone().prop_map(Step::Heartbeat),
        1 => prop::collection::vec(who.clone(), 1..4).prop_map(Step::Leave),
        3 => (who, prop::bool::weighted(0.2)).prop_map(|(who, stale)| Step::Commit { who, stale }),
        1 => Just(Step::DeleteOffsets),
        1 => Just(Step::Delete),
        6 => (0..20_000u64).prop_map(Step::Tick),
        1 => Just(Step::Retire),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..80)
}

/// The world as its clients see it.
#[derive(Default)]
struct World {
    bench: Bench,
    ids: BTreeMap<usize, Text>,
    asked: BTreeMap<Token, usize>,
    made: u32,
    /// Generation → what was assigned in it, since the last restart.
    assigned: BTreeMap<i32, Vec<Bytes>>,
    generation: i32,
}

impl World {
    /// Members 4 and 5 are static.
    fn instance(who: usize) -> Option<Text> {
        (who >= 4).then(|| Text::from(format!("instance-{who}")))
    }

    fn caller(&self, who: usize, stale: bool) -> Caller {
        let generation = self.bench.group.members().generation() - i32::from(stale);
        let member = self.ids.get(&who).cloned().unwrap_or_default();
        Caller { member, instance: World::instance(who), generation }
    }

    fn join(&mut self, who: usize, anew: bool, protocols: u8, version: u8) -> Command {
        self.made += 1;
        let all = ["sticky", "range", "robin"];
        let metadata = Bytes::from(format!("member {who}"));
        let take = usize::from(protocols).min(all.len() - 1);
        Command::Join(Join {
            member: if anew { Text::new() } else { self.ids.get(&who).cloned().unwrap_or_default() },
            instance: World::instance(who),
            client_id: Text::from(format!("client-{who}")),
            client_host: Text::from("/::1"),
            protocol_type: Text::from("consumer"),
            protocols: all[take..]
                .iter()
                .map(|name| Protocol { name: Text::from(*name), metadata: metadata.clone() })
                .collect(),
            session_timeout_ms: 6000 + 1000 * i32::try_from(who).unwrap(),
            rebalance_timeout_ms: 9000 + 1000 * i32::try_from(who).unwrap(),
            require_known: version >= 4,
            can_skip_assignment: version >= 9,
            fresh: Text::from(format!("m{who}-{}", self.made)),
        })
    }

    fn sync(&self, who: usize, stale: bool) -> Command {
        let members = self.bench.group.members().iter();
        let generation = self.bench.group.members().generation();
        let mut assignments: Vec<(Text, Bytes)> =
            members.map(|(id, _)| (id.clone(), Bytes::from(format!("{id} in {generation}")))).collect();
        assignments.push((Text::from("stranger"), Bytes::from_static(b"nothing of yours")));
        Command::Sync(Sync { caller: self.caller(who, stale), assignments, ..Sync::default() })
    }

    fn commit(&self, who: usize, stale: bool) -> Command {
        let offset = CommitOne {
            topic: Text::from(if stale { "old" } else { "new" }),
            partition: i32::try_from(who).unwrap(),
            offset: i64::from(self.made),
            leader_epoch: -1,
            metadata: Text::new(),
        };
        let caller = self.caller(who, stale);
        Command::Commit(Commit { caller, retention_ms: None, offsets: vec![offset] })
    }

    fn take(&mut self, step: &Step) {
        let (command, who) = match step {
            Step::Join { who, anew, protocols, version } => {
                (self.join(*who, *anew, *protocols, *version), *who)
            }
            Step::Sync { who, stale } => (self.sync(*who, *stale), *who),
            Step::Heartbeat(who) => (Command::Heartbeat(self.caller(*who, false)), *who),
            Step::Leave(all) => {
                let leaver = |who: &usize| Leaver {
                    member: self.ids.get(who).cloned().unwrap_or_default(),
                    instance: World::instance(*who),
                };
                (Command::Leave(all.iter().map(leaver).collect()), all[0])
            }
            Step::Commit { who, stale } => (self.commit(*who, *stale), *who),
            Step::DeleteOffsets => (Command::DeleteOffsets(vec![(Text::from("old"), 1)]), 0),
            Step::Delete => (Command::Delete, 0),
            Step::Retire => (Command::Retire, 0),
            Step::Tick(ms) => return self.tick(Duration::from_millis(*ms)),
            Step::Restart => return self.restart(),
        };
        self.give(&command, who);
    }

    fn tick(&mut self, step: Duration) {
        let until = self.bench.now + step;
        while let Some(timer) = self.bench.next_timer(until) {
            self.give(&Command::Fire(timer), 0);
        }
        self.bench.now = until;
    }

    fn restart(&mut self) {
        for token in self.bench.restart() {
            self.asked.remove(&token);
        }
        // A generation that was not assigned is given out again.
        self.generation = self.bench.group.members().generation();
        let last = self.generation;
        self.assigned.retain(|generation, _| *generation <= last);
    }

    fn give(&mut self, command: &Command, who: usize) {
        let (token, records, answers) = self.bench.give(command);
        self.asked.insert(token, who);
        for record in &records {
            self.logged(record);
        }
        for answer in answers {
            self.answered(answer);
        }
        self.replay_is_the_same();
    }

    /// One generation, one set of assignments, to members only.
    fn logged(&mut self, record: &Record) {
        match record {
            Record::GroupGone => {
                self.assigned.clear();
                self.generation = 0;
            }
            Record::Group(group) if !group.members.is_empty() => {
                let mut given: Vec<Bytes> = group.members.iter().map(|m| m.assignment.clone()).collect();
                given.sort();
                assert!(!given.contains(&Bytes::from_static(b"nothing of yours")));
                let before = self.assigned.entry(group.generation).or_insert(given.clone());
                assert_eq!(*before, given, "generation {} is assigned once", group.generation);
            }
            _ => {}
        }
    }

    fn answered(&mut self, (token, reply): Answer) {
        let who = self.asked.remove(&token).expect("somebody asked");
        match reply {
            Ok(Reply::MemberIdRequired(id)) => {
                self.ids.insert(who, id);
            }
            Ok(Reply::Joined(joined)) => {
                assert!(joined.generation >= self.generation, "generations rise");
                self.generation = joined.generation;
                let leads = joined.leader == joined.member;
                assert!(leads || joined.members.is_empty(), "only the leader sees the others");
                self.ids.insert(who, joined.member);
            }
            Ok(Reply::Synced(synced)) => {
                let generation = self.bench.group.members().generation();
                let given = &self.assigned[&generation];
                assert!(given.contains(&synced.assignment), "as the log has it");
            }
            _ => {}
        }
    }

    /// Between rebalances the log says all there is to say.
    fn replay_is_the_same(&self) {
        let group = &self.bench.group;
        let mut replayed = crate::group::state::Group::default();
        self.bench.log.iter().for_each(|record| replayed.replay(record));
        assert_eq!(replayed.offsets(), group.offsets());
        let settled = match group.phase() {
            Phase::Stable => true,
            Phase::Empty => group.members().generation() > 0,
            _ => false,
        };
        if settled {
            assert_eq!(replayed.describe(), group.describe());
            assert_eq!(replayed.members().generation(), group.members().generation());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_everybody_is_answered_and_nothing_is_assigned_twice(
        steps in steps(),
        delay in 0..4000u64,
    ) {
        let mut world = World::default();
        world.bench.rules.initial_rebalance_delay = Duration::from_millis(delay);
        world.bench.rules.size_max = 5;
        for step in &steps {
            world.take(step);
        }
        // Silence: nobody stays, nobody waits, no timer runs for ever.
        world.tick(Duration::from_secs(3600));
        prop_assert!(world.bench.waiting.is_empty());
        prop_assert!(matches!(world.bench.group.phase(), Phase::Dead | Phase::Empty));
        prop_assert!(world.bench.next_timer(Duration::MAX).is_none());
    }
}
