//! The membership of one classic group: who is in it, in which generation, at which point of a rebalance.
//!
//! Only [`Members::apply`] and [`Members::restore`] change it. Invariants are in [`Members::check`]. Knows
//! no offsets, no clock, no wire; what should happen next is decided in `join` and `rebalance`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidemark_proto::id::Millis;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::text::Text;

use super::command::{GroupRecord, Protocol, Put, RecordedMember, Soft, Token};

/// Where a group stands.
///
/// ```text
/// Dead ─► Empty ─► PreparingRebalance ─► CompletingRebalance ─► Stable
///           ▲            │   ▲                    │               │
///           └────────────┘   └────────────────────┴───────────────┘
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Nothing is known of it: never seen, or deleted.
    #[default]
    Dead,
    /// No members; offsets may be there.
    Empty,
    /// The join barrier is up.
    PreparingRebalance,
    /// A generation has begun, its leader has not assigned yet.
    CompletingRebalance,
    /// Everybody can have their assignment.
    Stable,
}

impl Phase {
    /// All of them, for counts by state.
    pub const ALL: [Phase; 5] =
        [Phase::Dead, Phase::Empty, Phase::PreparingRebalance, Phase::CompletingRebalance, Phase::Stable];

    /// Kafka's name of it, as DescribeGroups and ListGroups show it.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Dead => "Dead",
            Phase::Empty => "Empty",
            Phase::PreparingRebalance => "PreparingRebalance",
            Phase::CompletingRebalance => "CompletingRebalance",
            Phase::Stable => "Stable",
        }
    }
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// `group.instance.id` of a static member.
    pub instance: Option<Text>,
    /// Client id of its last JoinGroup.
    pub client_id: Text,
    /// Address it joined from.
    pub client_host: Text,
    /// How long a rebalance waits for it.
    pub rebalance_timeout_ms: i32,
    /// Silence after which it is gone.
    pub session_timeout_ms: i32,
    /// Protocols in order of preference.
    pub protocols: Vec<Protocol>,
    /// Its assignment in this generation; empty until the leader has spoken.
    pub assignment: Bytes,
    /// Its JoinGroup that waits at the barrier.
    pub joining: Option<Token>,
    /// Its SyncGroup that waits for the leader.
    pub syncing: Option<Token>,
    /// Its first join has not been answered: it cannot send heartbeats yet.
    pub is_new: bool,
}

impl Member {
    /// Metadata under a protocol; empty when it does not speak it.
    pub fn metadata(&self, protocol: &Text) -> Bytes {
        let entry = self.protocols.iter().find(|p| p.name == *protocol);
        entry.map_or_else(Bytes::new, |p| p.metadata.clone())
    }

    fn speaks(&self, protocol: &Text) -> bool {
        self.protocols.iter().any(|p| p.name == *protocol)
    }

    /// The session timeout as a duration.
    pub fn session(&self) -> Duration {
        millis(self.session_timeout_ms)
    }
}

/// A client's `i32` milliseconds; negative ones count as none.
pub fn millis(ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// The state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Members {
    phase: Phase,
    protocol_type: Option<Text>,
    generation: i32,
    protocol: Option<Text>,
    leader: Option<Text>,
    since: Millis,
    // Behind `Arc` so that a draft of a large group is cheap.
    members: BTreeMap<Text, Arc<Member>>,
    instances: BTreeMap<Text, Text>,
    pending: BTreeSet<Text>,
    unsynced: BTreeSet<Text>,
    initial: Option<Initial>,
}

/// The wait of a group that was empty, in short steps (`group.initial.rebalance.delay.ms`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initial {
    /// How much longer it may last after the running step.
    pub rest: Duration,
    /// A member came during the running step.
    pub grew: bool,
}

impl Members {
    /// Where the group stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Protocol type; none for a group of offsets only.
    pub fn protocol_type(&self) -> Option<&Text> {
        self.protocol_type.as_ref()
    }

    /// The generation.
    pub fn generation(&self) -> i32 {
        self.generation
    }

    /// The protocol chosen by vote.
    pub fn protocol(&self) -> Option<&Text> {
        self.protocol.as_ref()
    }

    /// The leader's member id.
    pub fn leader(&self) -> Option<&Text> {
        self.leader.as_ref()
    }

    /// Since when the group is in its phase, as far as the log knows.
    pub fn since(&self) -> Millis {
        self.since
    }

    /// The short-step wait, while it lasts.
    pub fn initial(&self) -> Option<Initial> {
        self.initial
    }

    /// Members by id.
    pub fn iter(&self) -> impl Iterator<Item = (&Text, &Member)> {
        self.members.iter().map(|(id, member)| (id, member.as_ref()))
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// A member.
    pub fn get(&self, id: &Text) -> Option<&Member> {
        self.members.get(id).map(Arc::as_ref)
    }

    /// The member id behind a `group.instance.id`.
    pub fn of_instance(&self, instance: &Text) -> Option<&Text> {
        self.instances.get(instance)
    }

    /// Whether this id was given out and not used yet.
    pub fn is_pending(&self, id: &Text) -> bool {
        self.pending.contains(id)
    }

    /// Ids given out and not used yet.
    pub fn pending(&self) -> &BTreeSet<Text> {
        &self.pending
    }

    /// Members of this generation that have not asked for their assignment.
    pub fn unsynced(&self) -> &BTreeSet<Text> {
        &self.unsynced
    }

    /// How many members wait at the barrier.
    pub fn joining(&self) -> usize {
        self.members.values().filter(|m| m.joining.is_some()).count()
    }

    /// Whether the barrier may fall.
    pub fn all_joined(&self) -> bool {
        self.pending.is_empty() && self.members.values().all(|m| m.joining.is_some())
    }

    /// Whether this is the leader.
    pub fn leads(&self, id: &Text) -> bool {
        self.leader.as_ref() == Some(id)
    }

    /// The longest rebalance timeout of the members.
    pub fn rebalance_timeout(&self) -> Duration {
        millis(self.members.values().map(|m| m.rebalance_timeout_ms).max().unwrap_or(0))
    }

    /// Whether somebody with this type and these protocols may join (23).
    pub fn supports(&self, protocol_type: &Text, protocols: &[Protocol]) -> bool {
        if self.members.is_empty() {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        self.protocol_type.as_ref() == Some(protocol_type)
            && protocols.iter().any(|p| self.members.values().all(|m| m.speaks(&p.name)))
    }

    /// The protocol the next generation would use: each member votes for the first of its list that all
    /// speak; a tie goes to the earlier one in the first member's list.
    pub fn vote(&self) -> Option<Text> {
        let first = self.members.values().next()?;
        let common: Vec<&Text> = first
            .protocols
            .iter()
            .map(|p| &p.name)
            .filter(|name| self.members.values().all(|m| m.speaks(name)))
            .collect();
        let mut votes: BTreeMap<&Text, usize> = BTreeMap::new();
        for member in self.members.values() {
            let vote = member.protocols.iter().find(|p| common.contains(&&p.name))?;
            *votes.entry(&vote.name).or_default() += 1;
        }
        let most = votes.values().copied().max()?;
        common.into_iter().find(|name| votes.get(name) == Some(&most)).cloned()
    }

    /// Whether the member is who it says it is: 25 when unknown, 82 when another process has its instance id.
    pub fn validate(&self, member: &Text, instance: Option<&Text>) -> Result<&Member, ErrorCode> {
        if let Some(instance) = instance {
            match self.instances.get(instance) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(current) if current != member => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        self.get(member).ok_or(ErrorCode::UnknownMemberId)
    }

    /// The group as the log is to keep it.
    pub fn record(&self, since: Millis) -> GroupRecord {
        let protocol = self.protocol.clone();
        let members = self.members.iter().map(|(id, m)| RecordedMember {
            member: id.clone(),
            instance: m.instance.clone(),
            client_id: m.client_id.clone(),
            client_host: m.client_host.clone(),
            rebalance_timeout_ms: m.rebalance_timeout_ms,
            session_timeout_ms: m.session_timeout_ms,
            subscription: protocol.as_ref().map_or_else(Bytes::new, |p| m.metadata(p)),
            assignment: m.assignment.clone(),
        });
        GroupRecord {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            leader: self.leader.clone(),
            since,
            members: members.collect(),
            protocol,
        }
    }

    /// A group that was written to exists, though it may have no members.
    pub fn exist(&mut self) {
        if self.phase == Phase::Dead {
            self.phase = Phase::Empty;
        }
    }

    /// Takes over what the log keeps; live this ends a rebalance, at replay it is all there is.
    pub fn restore(&mut self, record: &GroupRecord) {
        let protocol = record.protocol.clone().unwrap_or_default();
        let mut before = std::mem::take(&mut self.members);
        self.instances.clear();
        for recorded in &record.members {
            let chosen = Protocol { name: protocol.clone(), metadata: recorded.subscription.clone() };
            // Live, the member's whole list of protocols is known; the log has the chosen one only.
            let known = before.remove(&recorded.member).map(|m| m.protocols.clone());
            let protocols = known.filter(|list| list.contains(&chosen)).unwrap_or_else(|| vec![chosen]);
            let member = Member {
                instance: recorded.instance.clone(),
                client_id: recorded.client_id.clone(),
                client_host: recorded.client_host.clone(),
                rebalance_timeout_ms: recorded.rebalance_timeout_ms,
                session_timeout_ms: recorded.session_timeout_ms,
                protocols,
                assignment: recorded.assignment.clone(),
                joining: None,
                syncing: None,
                is_new: false,
            };
            if let Some(instance) = &member.instance {
                self.instances.insert(instance.clone(), recorded.member.clone());
            }
            self.members.insert(recorded.member.clone(), Arc::new(member));
        }
        self.protocol_type = Some(record.protocol_type.clone()).filter(|t| !t.is_empty());
        self.generation = record.generation;
        self.protocol.clone_from(&record.protocol);
        self.leader.clone_from(&record.leader);
        self.since = record.since;
        self.initial = None;
        self.unsynced.retain(|id| self.members.contains_key(id));
        self.phase = if self.members.is_empty() { Phase::Empty } else { Phase::Stable };
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Members::default();
    }

    /// One step of a rebalance.
    pub fn apply(&mut self, step: &Soft) {
        self.exist();
        match step {
            Soft::Pend(id) => {
                self.pending.insert(id.clone());
            }
            Soft::Unpend(id) => {
                self.pending.remove(id);
            }
            Soft::Put(put) => self.put(put),
            Soft::Remove(id) => self.remove(id),
            Soft::Rename { old, new } => self.rename(old, new),
            Soft::Prepare(rest) => self.prepare(*rest),
            Soft::Extend(rest) => {
                self.initial = Some(Initial { rest: *rest, grew: false });
            }
            Soft::Generation { number, protocol, leader, since } => {
                self.phase = Phase::CompletingRebalance;
                self.generation = *number;
                self.protocol = Some(protocol.clone());
                self.leader = Some(leader.clone());
                self.since = *since;
                self.initial = None;
                self.unsynced = self.members.keys().cloned().collect();
                self.each(|member| {
                    member.joining = None;
                    member.is_new = false;
                });
            }
            Soft::Sync(id, token) => {
                self.unsynced.remove(id);
                if let Some(member) = self.members.get_mut(id) {
                    Arc::make_mut(member).syncing = *token;
                }
            }
        }
    }

    fn put(&mut self, Put { protocol_type, id, member }: &Put) {
        if self.members.is_empty() {
            self.protocol_type = Some(protocol_type.clone());
        }
        if self.leader.is_none() {
            self.leader = Some(id.clone());
        }
        if let Some(instance) = &member.instance {
            self.instances.insert(instance.clone(), id.clone());
        }
        let came = self.members.insert(id.clone(), Arc::new(member.clone())).is_none();
        if let Some(initial) = self.initial.as_mut().filter(|_| came) {
            initial.grew = true;
        }
    }

    fn remove(&mut self, id: &Text) {
        let Some(member) = self.members.remove(id) else { return };
        if let Some(instance) = &member.instance {
            self.instances.remove(instance);
        }
        self.unsynced.remove(id);
        if self.leads(id) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    fn rename(&mut self, old: &Text, new: &Text) {
        let Some(mut member) = self.members.remove(old) else { return };
        // Whoever waited under the old id has been told that it is fenced (82).
        let changed = Arc::make_mut(&mut member);
        changed.joining = None;
        changed.syncing = None;
        if let Some(instance) = &member.instance {
            self.instances.insert(instance.clone(), new.clone());
        }
        if self.leads(old) {
            self.leader = Some(new.clone());
        }
        if self.unsynced.remove(old) {
            self.unsynced.insert(new.clone());
        }
        self.members.insert(new.clone(), member);
    }

    fn prepare(&mut self, rest: Option<Duration>) {
        self.phase = Phase::PreparingRebalance;
        self.initial = rest.map(|rest| Initial { rest, grew: false });
        self.unsynced.clear();
        self.each(|member| {
            member.syncing = None;
            member.assignment = Bytes::new();
        });
    }

    fn each(&mut self, mut change: impl FnMut(&mut Member)) {
        self.members.values_mut().for_each(|member| change(Arc::make_mut(member)));
    }

    /// Asserts the invariants.
    pub fn check(&self) {
        let all = |test: fn(&Member) -> bool| self.members.values().all(|m| test(m));
        match self.phase {
            Phase::Dead => assert_eq!(*self, Members::default(), "a dead group knows nothing"),
            Phase::Empty => {
                assert!(self.members.is_empty(), "an empty group has no members");
                assert!(self.protocol.is_none() && self.leader.is_none());
            }
            Phase::PreparingRebalance => {
                assert!(all(|m| m.syncing.is_none()), "nobody syncs at the barrier");
                assert!(all(|m| m.assignment.is_empty()), "an assignment ends with its generation");
                assert!(self.unsynced.is_empty());
            }
            Phase::CompletingRebalance => {
                assert!(!self.members.is_empty(), "a generation has members");
                assert!(all(|m| m.joining.is_none()), "everybody was answered at the barrier");
                assert!(all(|m| m.assignment.is_empty()), "the leader has not spoken");
                let leader = self.leader.as_ref().and_then(|id| self.get(id));
                assert!(leader.is_some_and(|m| m.syncing.is_none()), "the leader never waits");
            }
            Phase::Stable => {
                assert!(!self.members.is_empty(), "a stable group has members");
                assert!(all(|m| m.joining.is_none() && m.syncing.is_none()), "nobody waits");
                assert!(all(|m| !m.is_new));
            }
        }
        if matches!(self.phase, Phase::CompletingRebalance | Phase::Stable) {
            let protocol = self.protocol.as_ref().expect("a generation has a protocol");
            assert!(self.members.values().all(|m| m.speaks(protocol)), "everybody speaks it");
            assert!(self.protocol_type.is_some() && self.generation > 0);
        }
        assert!(self.initial.is_none() || self.phase == Phase::PreparingRebalance);
        assert!(self.members.is_empty() || self.vote().is_some(), "members share a protocol");
        let leads = self.leader.as_ref().is_none_or(|id| self.members.contains_key(id));
        assert!(leads, "the leader is a member");
        assert!(self.members.is_empty() || self.leader.is_some(), "members have a leader");
        assert!(self.pending.iter().all(|id| !self.members.contains_key(id)), "used once");
        assert!(self.unsynced.iter().all(|id| self.members.contains_key(id)));
        for (instance, id) in &self.instances {
            let member = self.get(id).expect("an instance id names a member");
            assert_eq!(member.instance.as_ref(), Some(instance), "instance ids agree");
        }
        let fixed = self.members.values().filter(|m| m.instance.is_some()).count();
        assert_eq!(fixed, self.instances.len(), "every static member is found by its instance id");
    }
}
