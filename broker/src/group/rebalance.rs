//! How a rebalance begins, waits and ends; leaving, timers, syncing.
//!
//! A [`Draft`] is a copy of the membership on which a decision is worked out: each step is applied to the
//! copy by the same `apply` that the driver will use, and noted in the outcome.

use std::time::Duration;

use bytes::Bytes;
use tidemark_proto::id::Millis;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::text::Text;

use super::command::{
    Change, GroupRecord, Joined, JoinedMember, Leaver, Outcome, Record, Reply, Soft, Sync, Synced, Timer,
    TimerOp, Token,
};
use super::members::{Members, Phase};
use super::state::Rules;

/// A decision being worked out.
pub(super) struct Draft<'a> {
    pub(super) members: Members,
    pub(super) rules: &'a Rules,
    pub(super) now: Millis,
    pub(super) outcome: Outcome,
}

impl<'a> Draft<'a> {
    pub(super) fn of(members: &Members, rules: &'a Rules, now: Millis) -> Draft<'a> {
        Draft { members: members.clone(), rules, now, outcome: Outcome::default() }
    }

    pub(super) fn soft(&mut self, step: Soft) {
        self.members.apply(&step);
        self.outcome.changes.push(Change::Soft(step));
    }

    pub(super) fn store(&mut self, record: GroupRecord) {
        self.members.restore(&record);
        self.outcome.changes.push(Change::Stored(Record::Group(record)));
    }

    pub(super) fn answer(&mut self, to: Token, reply: Result<Reply, ErrorCode>) {
        self.outcome.replies.push((to, reply));
    }

    pub(super) fn set(&mut self, timer: Timer, after: Duration) {
        self.outcome.timers.push(TimerOp::Set(timer, after));
    }

    pub(super) fn cancel(&mut self, timer: Timer) {
        self.outcome.timers.push(TimerOp::Cancel(timer));
    }

    /// The session of a member starts anew.
    pub(super) fn touch(&mut self, id: &Text) {
        let Some(member) = self.members.get(id) else { return };
        // A new member cannot send heartbeats before its join is answered; a client that gave up
        // and joined again would leave it behind for ever, hence a long limit, not none.
        let after = if member.is_new { self.rules.new_member_timeout } else { member.session() };
        self.set(Timer::Session(id.clone()), after);
    }

    /// Members came or changed: a rebalance begins, or the running one may be complete.
    pub(super) fn rebalance(&mut self) {
        match self.members.phase() {
            Phase::PreparingRebalance => self.complete_if_all_joined(),
            _ => self.prepare(),
        }
    }

    /// Members are gone.
    fn shrunk(&mut self) {
        match self.members.phase() {
            Phase::Stable | Phase::CompletingRebalance => self.prepare(),
            Phase::PreparingRebalance => self.complete_if_all_joined(),
            Phase::Dead | Phase::Empty => {}
        }
    }

    /// A group that was empty waits for its short steps to end, even if everybody known is there.
    fn complete_if_all_joined(&mut self) {
        let waits = self.members.phase() == Phase::PreparingRebalance;
        if waits && self.members.initial().is_none() && self.members.all_joined() {
            self.complete();
        }
    }

    /// The barrier goes up.
    pub(super) fn prepare(&mut self) {
        let phase = self.members.phase();
        for (id, token) in waiting(&self.members, |m| m.syncing) {
            self.answer(token, Err(ErrorCode::RebalanceInProgress));
            self.touch(&id);
        }
        if matches!(phase, Phase::CompletingRebalance | Phase::Stable) {
            self.cancel(Timer::Sync);
        }
        let patience = self.members.rebalance_timeout();
        if matches!(phase, Phase::Dead | Phase::Empty) {
            let delay = self.rules.initial_rebalance_delay;
            self.soft(Soft::Prepare(Some(patience.saturating_sub(delay))));
            self.set(Timer::Rebalance, delay);
            return;
        }
        self.soft(Soft::Prepare(None));
        if self.members.all_joined() {
            self.complete();
        } else {
            self.set(Timer::Rebalance, patience);
        }
    }

    /// The barrier falls: whoever did not come is out, the others are the next generation.
    fn complete(&mut self) {
        let absent: Vec<Text> = self
            .members
            .iter()
            .filter(|(_, m)| m.joining.is_none() && m.instance.is_none())
            .map(|(id, _)| id.clone())
            .collect();
        for id in absent {
            self.remove(&id);
        }
        let number = self.members.generation().checked_add(1).unwrap_or(1);
        if self.members.is_empty() {
            self.cancel(Timer::Rebalance);
            let record = GroupRecord {
                generation: number,
                protocol: None,
                leader: None,
                ..self.members.record(self.now)
            };
            self.store(record);
            return;
        }
        let joined = waiting(&self.members, |m| m.joining);
        let current = self.members.leader().filter(|id| joined.iter().any(|(j, _)| j == *id));
        let Some(leader) = current.or(joined.first().map(|(id, _)| id)).cloned() else {
            // Static members only, and none came: wait for one that can lead.
            let patience = self.members.rebalance_timeout();
            return self.set(Timer::Rebalance, patience);
        };
        self.cancel(Timer::Rebalance);
        let protocol = self.members.vote().expect("members share a protocol: `supports` let them in");
        self.soft(Soft::Generation { number, protocol, leader, since: self.now });
        for (id, token) in joined {
            let reply = joined_reply(&self.members, &id, false);
            self.answer(token, Ok(Reply::Joined(reply)));
        }
        let everybody: Vec<Text> = self.members.iter().map(|(id, _)| id.clone()).collect();
        for id in everybody {
            self.touch(&id);
        }
        let patience = self.members.rebalance_timeout();
        self.set(Timer::Sync, patience);
    }

    fn remove(&mut self, id: &Text) {
        if let Some(member) = self.members.get(id) {
            for token in [member.joining, member.syncing].into_iter().flatten() {
                self.answer(token, Err(ErrorCode::UnknownMemberId));
            }
        }
        self.soft(Soft::Remove(id.clone()));
        self.cancel(Timer::Session(id.clone()));
    }

    /// LeaveGroup: each leaver has a code of its own; the rest rebalances once.
    pub(super) fn leave(mut self, token: Token, leavers: &[Leaver]) -> Outcome {
        let codes = leavers.iter().map(|leaver| self.leave_one(leaver)).collect::<Vec<_>>();
        self.answer(token, Ok(Reply::Left(codes)));
        if self.outcome.changes.is_empty() {
            return self.outcome;
        }
        let removed = |c: &Change| matches!(c, Change::Soft(Soft::Remove(_)));
        if self.outcome.changes.iter().any(removed) {
            self.shrunk();
        } else {
            self.complete_if_all_joined();
        }
        self.outcome
    }

    fn leave_one(&mut self, Leaver { member, instance }: &Leaver) -> ErrorCode {
        let id = match instance {
            Some(instance) if member.is_empty() => match self.members.of_instance(instance) {
                Some(id) => id.clone(),
                None => return ErrorCode::UnknownMemberId,
            },
            _ => member.clone(),
        };
        if self.members.is_pending(&id) {
            self.soft(Soft::Unpend(id.clone()));
            self.cancel(Timer::Session(id));
            return ErrorCode::None;
        }
        match self.members.validate(&id, instance.as_ref()).err() {
            Some(error) => error,
            None => {
                self.remove(&id);
                ErrorCode::None
            }
        }
    }

    /// A timer fired. One that came late finds nothing to do.
    pub(super) fn fire(mut self, timer: &Timer) -> Outcome {
        match timer {
            Timer::Session(id) => self.session_ended(id),
            Timer::Rebalance => self.patience_ended(),
            Timer::Sync => self.sync_ended(),
        }
        self.outcome
    }

    fn session_ended(&mut self, id: &Text) {
        if self.members.is_pending(id) {
            self.soft(Soft::Unpend(id.clone()));
            return self.complete_if_all_joined();
        }
        let Some(member) = self.members.get(id) else { return };
        // Who waits for us cannot be blamed for silence; its session starts anew with the answer.
        let waits = member.joining.is_some() || member.syncing.is_some();
        if member.is_new || !waits {
            self.remove(id);
            self.shrunk();
        }
    }

    fn patience_ended(&mut self) {
        if self.members.phase() != Phase::PreparingRebalance {
            return;
        }
        match self.members.initial() {
            Some(initial) if initial.grew && !initial.rest.is_zero() => {
                let step = self.rules.initial_rebalance_delay.min(initial.rest);
                self.soft(Soft::Extend(initial.rest - step));
                self.set(Timer::Rebalance, step);
            }
            _ => self.complete(),
        }
    }

    fn sync_ended(&mut self) {
        if !matches!(self.members.phase(), Phase::CompletingRebalance | Phase::Stable) {
            return;
        }
        let late: Vec<Text> = self.members.unsynced().iter().cloned().collect();
        if late.is_empty() {
            return;
        }
        for id in late {
            self.remove(&id);
        }
        self.prepare();
    }

    /// SyncGroup: followers wait until the leader's assignment is there.
    pub(super) fn sync(mut self, token: Token, sync: &Sync) -> Result<Outcome, ErrorCode> {
        let id = &sync.caller.member;
        let member = self.members.validate(id, sync.caller.instance.as_ref())?;
        if sync.caller.generation != self.members.generation() {
            return Err(ErrorCode::IllegalGeneration);
        }
        let differs = |said: &Option<Text>, is: Option<&Text>| said.is_some() && said.as_ref() != is;
        if differs(&sync.protocol_type, self.members.protocol_type())
            || differs(&sync.protocol, self.members.protocol())
        {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        match self.members.phase() {
            Phase::Dead | Phase::Empty => return Err(ErrorCode::UnknownMemberId),
            Phase::PreparingRebalance => return Err(ErrorCode::RebalanceInProgress),
            Phase::CompletingRebalance => {
                // The same member asked before, on a connection that is gone by now.
                if let Some(before) = member.syncing {
                    self.answer(before, Err(ErrorCode::RebalanceInProgress));
                }
                self.soft(Soft::Sync(id.clone(), Some(token)));
                if self.members.leads(id) {
                    self.assign(&sync.assignments);
                }
            }
            Phase::Stable => {
                self.soft(Soft::Sync(id.clone(), None));
                self.answer_sync(id, token);
            }
        }
        if self.members.unsynced().is_empty() {
            self.cancel(Timer::Sync);
        }
        Ok(self.outcome)
    }

    /// Everybody gets what the leader gave them, or nothing; names that are no members are ignored.
    fn assign(&mut self, assignments: &[(Text, Bytes)]) {
        let mut record = self.members.record(self.now);
        for member in &mut record.members {
            let given = assignments.iter().find(|(id, _)| *id == member.member);
            member.assignment = given.map(|(_, bytes)| bytes.clone()).unwrap_or_default();
        }
        let waiting = waiting(&self.members, |m| m.syncing);
        self.store(record);
        for (id, token) in waiting {
            self.answer_sync(&id, token);
        }
    }

    fn answer_sync(&mut self, id: &Text, token: Token) {
        let member = self.members.get(id).expect("only members wait for an assignment");
        let reply = Synced {
            protocol_type: self.members.protocol_type().cloned(),
            protocol: self.members.protocol().cloned(),
            assignment: member.assignment.clone(),
        };
        self.answer(token, Ok(Reply::Synced(reply)));
        self.touch(id);
    }
}

/// Members with a waiting request, and its token.
fn waiting(
    members: &Members,
    which: impl Fn(&super::members::Member) -> Option<Token>,
) -> Vec<(Text, Token)> {
    members.iter().filter_map(|(id, m)| Some((id.clone(), which(m)?))).collect()
}

/// What a member of the running generation is told when it joins.
pub(super) fn joined_reply(members: &Members, id: &Text, skip_assignment: bool) -> Joined {
    let protocol = members.protocol().cloned();
    let everybody = || {
        members.iter().map(|(id, m)| JoinedMember {
            member: id.clone(),
            instance: m.instance.clone(),
            metadata: protocol.as_ref().map_or_else(Bytes::new, |p| m.metadata(p)),
        })
    };
    Joined {
        generation: members.generation(),
        protocol_type: members.protocol_type().cloned(),
        leader: members.leader().cloned().unwrap_or_default(),
        member: id.clone(),
        members: if members.leads(id) { everybody().collect() } else { Vec::new() },
        skip_assignment,
        protocol,
    }
}
