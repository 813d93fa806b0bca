//! One classic group: its membership and its offsets. Pure: no clock, no randomness, no store.
//!
//! [`Group::decide`] says what follows from a command, [`Group::apply`] is the only mutation, live and at
//! replay. The log keeps completed generations and offsets; a rebalance that is under way is [`Soft`] and
//! lost with its coordinator, whose members then join anew: so it is in Kafka, too.
//!
//! [`Soft`]: super::command::Soft

use std::time::Duration;

use bytes::Bytes;
use tidemark_proto::id::Millis;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::text::Text;

use super::command::{
    Caller, Change, Command, DescribedMember, Description, Outcome, Record, Reply, Timer, TimerOp, Token,
};
use super::members::{Members, Phase};
use super::offsets::{self, Offsets};
use super::rebalance::Draft;

/// What a broker's configuration says about groups.
#[derive(Clone, Debug)]
pub struct Rules {
    /// `group.min.session.timeout.ms`.
    pub session_timeout_min_ms: i32,
    /// `group.max.session.timeout.ms`.
    pub session_timeout_max_ms: i32,
    /// `group.max.size`; [`Rules::SIZE_LIMIT`] holds besides.
    pub size_max: usize,
    /// `group.initial.rebalance.delay.ms`.
    pub initial_rebalance_delay: Duration,
    /// `offset.metadata.max.bytes`.
    pub offset_metadata_max: usize,
    /// `offsets.retention.minutes`, in milliseconds.
    pub offsets_retention_ms: i64,
    /// How long a first join may wait; Kafka's five minutes.
    pub new_member_timeout: Duration,
    /// Bytes of names and metadata in one member's list of protocols.
    pub member_metadata_max: usize,
}

impl Rules {
    /// No group is larger, whatever is configured: the leader is sent all of it, and the log keeps it.
    pub const SIZE_LIMIT: usize = 65_536;
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            session_timeout_min_ms: 6_000,
            session_timeout_max_ms: 1_800_000,
            size_max: Rules::SIZE_LIMIT,
            initial_rebalance_delay: Duration::from_secs(3),
            offset_metadata_max: 4096,
            offsets_retention_ms: 7 * 24 * 60 * 60 * 1000,
            new_member_timeout: Duration::from_secs(300),
            member_metadata_max: 4 << 20,
        }
    }
}

/// One group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    members: Members,
    offsets: Offsets,
}

impl Group {
    /// What follows from a command. An error answers the caller and changes nothing.
    pub fn decide(
        &self,
        rules: &Rules,
        now: Millis,
        token: Token,
        command: &Command,
    ) -> Result<Outcome, ErrorCode> {
        let draft = || Draft::of(&self.members, rules, now);
        match command {
            Command::Join(join) => draft().join(token, join),
            Command::Sync(sync) => draft().sync(token, sync),
            Command::Heartbeat(caller) => self.heartbeat(token, caller),
            Command::Leave(leavers) => Ok(draft().leave(token, leavers)),
            Command::Commit(commit) => offsets::commit(&self.members, rules, now, token, commit),
            Command::FetchOffsets(wanted) => Ok(Outcome::reply(token, self.offsets.fetch(wanted.as_deref()))),
            Command::Describe => Ok(Outcome::reply(token, Reply::Described(self.describe()))),
            Command::Delete => self.delete(token),
            Command::DeleteOffsets(wanted) => self.offsets.delete(&self.members, token, wanted),
            Command::Fire(timer) => Ok(draft().fire(timer)),
            Command::Retire => Ok(self.retire(rules, now)),
            Command::TopicGone(topic) => {
                Ok(Outcome { changes: self.offsets.tombstones(Some(topic)), ..Outcome::default() })
            }
        }
    }

    /// A member says that it lives and learns whether to rejoin.
    fn heartbeat(&self, token: Token, caller: &Caller) -> Result<Outcome, ErrorCode> {
        let member = self.members.validate(&caller.member, caller.instance.as_ref())?;
        if caller.generation != self.members.generation() {
            return Err(ErrorCode::IllegalGeneration);
        }
        let verdict = match self.members.phase() {
            Phase::Dead | Phase::Empty => return Err(ErrorCode::UnknownMemberId),
            Phase::PreparingRebalance => Err(ErrorCode::RebalanceInProgress),
            Phase::CompletingRebalance | Phase::Stable => Ok(Reply::Alive),
        };
        // A member that waits for its first join cannot know its id: this is a forgery, or harmless.
        let session = TimerOp::Set(Timer::Session(caller.member.clone()), member.session());
        let timers = if member.is_new { Vec::new() } else { vec![session] };
        Ok(Outcome { replies: vec![(token, verdict)], timers, ..Outcome::default() })
    }

    fn delete(&self, token: Token) -> Result<Outcome, ErrorCode> {
        match self.members.phase() {
            Phase::Dead => Err(ErrorCode::GroupIdNotFound),
            Phase::Empty => {
                let mut outcome = self.end(self.offsets.tombstones(None));
                outcome.replies.push((token, Ok(Reply::Done)));
                Ok(outcome)
            }
            _ => Err(ErrorCode::NonEmptyGroup),
        }
    }

    /// Drops what has expired. A group without members goes with its last offset.
    fn retire(&self, rules: &Rules, now: Millis) -> Outcome {
        let expired = self.offsets.expired(&self.members, rules, now);
        let idle = self.members.phase() == Phase::Empty && self.members.pending().is_empty();
        if idle && expired.len() == self.offsets.len() {
            return self.end(expired);
        }
        Outcome { changes: expired, ..Outcome::default() }
    }

    fn end(&self, mut changes: Vec<Change>) -> Outcome {
        changes.push(Change::Stored(Record::GroupGone));
        let pending = self.members.pending().iter();
        let timers = pending.map(|id| TimerOp::Cancel(Timer::Session(id.clone()))).collect();
        Outcome { changes, timers, ..Outcome::default() }
    }

    /// The only mutation.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Soft(step) => self.members.apply(step),
            Change::Stored(record) => self.replay(record),
        }
    }

    /// A record of the log, just appended or read back.
    pub fn replay(&mut self, record: &Record) {
        match record {
            Record::Group(group) => self.members.restore(group),
            Record::GroupGone => self.members.clear(),
            Record::Offset(topic, partition, committed) => {
                self.members.exist();
                self.offsets.put(topic, *partition, committed);
            }
            Record::OffsetGone(topic, partition) => self.offsets.remove(topic, *partition),
        }
    }

    /// Where the group stands.
    pub fn phase(&self) -> Phase {
        self.members.phase()
    }

    /// The membership.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// The offsets.
    pub fn offsets(&self) -> &Offsets {
        &self.offsets
    }

    /// Nothing is known, in memory or in the log, that a group which never was would not have.
    pub fn is_nothing(&self) -> bool {
        let blank = matches!(self.phase(), Phase::Dead | Phase::Empty)
            && self.members.pending().is_empty()
            && self.members.generation() == 0;
        blank && self.offsets.is_empty()
    }

    /// The timers of a group that was just read back: every member gets one session to be heard in.
    pub fn timers(&self) -> Vec<TimerOp> {
        let each = self.members.iter();
        each.map(|(id, m)| TimerOp::Set(Timer::Session(id.clone()), m.session())).collect()
    }

    /// The group as DescribeGroups shows it: metadata and assignments of a stable group only.
    pub fn describe(&self) -> Description {
        let protocol = self.members.protocol().filter(|_| self.phase() == Phase::Stable);
        let members = self.members.iter().map(|(id, m)| DescribedMember {
            member: id.clone(),
            instance: m.instance.clone(),
            client_id: m.client_id.clone(),
            client_host: m.client_host.clone(),
            metadata: protocol.map_or_else(Bytes::new, |p| m.metadata(p)),
            assignment: protocol.map_or_else(Bytes::new, |_| m.assignment.clone()),
        });
        Description {
            phase: self.phase(),
            protocol_type: self.members.protocol_type().cloned().unwrap_or_default(),
            protocol: protocol.cloned().unwrap_or_else(Text::new),
            members: members.collect(),
        }
    }

    /// Asserts the invariants.
    pub fn check(&self) {
        self.members.check();
        self.offsets.check();
        let dead = self.phase() == Phase::Dead;
        assert!(!dead || self.offsets.is_empty(), "a dead group has no offsets");
    }
}
