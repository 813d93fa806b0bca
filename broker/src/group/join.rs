//! JoinGroup: who may come in, who has to come back, and what a returning member gets.
//!
//! KIP-394 (member ids are given out first), KIP-345 (static members), KIP-814 (a returning static leader
//! does not assign anew).

use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::text::Text;

use super::command::{Join, Outcome, Put, Reply, Soft, Timer, Token};
use super::members::{Member, Phase, millis};
use super::rebalance::{Draft, joined_reply};
use super::state::Rules;

impl Draft<'_> {
    pub(super) fn join(mut self, token: Token, join: &Join) -> Result<Outcome, ErrorCode> {
        self.admit(join)?;
        if join.member.is_empty() {
            let known = join.instance.as_ref().and_then(|i| self.members.of_instance(i)).cloned();
            match known {
                Some(old) => self.replace(token, join, &old),
                None if join.require_known && join.instance.is_none() => self.pend(token, join),
                None => self.add(token, join, &join.fresh),
            }
        } else if self.members.is_pending(&join.member) {
            if join.instance.is_some() {
                return Err(ErrorCode::UnknownMemberId); // static members are never told to come back
            }
            self.add(token, join, &join.member);
        } else {
            self.rejoin(token, join)?;
        }
        Ok(self.outcome)
    }

    /// Whether this join is let in at all.
    fn admit(&self, join: &Join) -> Result<(), ErrorCode> {
        let bounds = self.rules.session_timeout_min_ms..=self.rules.session_timeout_max_ms;
        if !bounds.contains(&join.session_timeout_ms) {
            return Err(ErrorCode::InvalidSessionTimeout);
        }
        let size: usize = join.protocols.iter().map(|p| p.name.len() + p.metadata.len()).sum();
        if size > self.rules.member_metadata_max {
            return Err(ErrorCode::InvalidRequest);
        }
        if self.members.phase() == Phase::Dead && !join.member.is_empty() {
            return Err(ErrorCode::UnknownMemberId);
        }
        if !self.has_room(join) {
            return Err(ErrorCode::GroupMaxSizeReached);
        }
        if !self.members.supports(&join.protocol_type, &join.protocols) {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        Ok(())
    }

    /// `group.max.size`. At the barrier those who came first have the room.
    fn has_room(&self, join: &Join) -> bool {
        let max = self.rules.size_max.min(Rules::SIZE_LIMIT);
        let returns = join.instance.as_ref().and_then(|i| self.members.of_instance(i));
        let member = self.members.get(returns.unwrap_or(&join.member));
        match self.members.phase() {
            Phase::Dead | Phase::Empty => self.members.pending().len() < max,
            Phase::PreparingRebalance => {
                member.is_some_and(|m| m.joining.is_some()) || self.members.joining() < max
            }
            Phase::CompletingRebalance | Phase::Stable => {
                let pending = self.members.pending();
                let unused = pending.len() - usize::from(pending.contains(&join.member));
                member.is_some() || self.members.len() + unused < max
            }
        }
    }

    /// Gives out a member id to come back with.
    fn pend(&mut self, token: Token, join: &Join) {
        self.soft(Soft::Pend(join.fresh.clone()));
        self.set(Timer::Session(join.fresh.clone()), millis(join.session_timeout_ms));
        self.answer(token, Ok(Reply::MemberIdRequired(join.fresh.clone())));
    }

    fn add(&mut self, token: Token, join: &Join, id: &Text) {
        if self.members.is_pending(id) {
            self.soft(Soft::Unpend(id.clone()));
        }
        let member = Member {
            instance: join.instance.clone(),
            client_id: join.client_id.clone(),
            client_host: join.client_host.clone(),
            rebalance_timeout_ms: join.rebalance_timeout_ms,
            session_timeout_ms: join.session_timeout_ms,
            protocols: join.protocols.clone(),
            assignment: bytes::Bytes::new(),
            joining: Some(token),
            syncing: None,
            is_new: true,
        };
        self.put(join, id, member);
        self.touch(id);
        self.rebalance();
    }

    fn put(&mut self, join: &Join, id: &Text, member: Member) {
        let protocol_type = join.protocol_type.clone();
        self.soft(Soft::Put(Box::new(Put { protocol_type, id: id.clone(), member })));
    }

    /// A member that is known joins again: after a revocation, a lost answer, a new subscription.
    fn rejoin(&mut self, token: Token, join: &Join) -> Result<(), ErrorCode> {
        let id = &join.member;
        let member = self.members.validate(id, join.instance.as_ref())?;
        let same = member.protocols == join.protocols;
        let answer_was_lost = match self.members.phase() {
            Phase::Dead | Phase::Empty => return Err(ErrorCode::UnknownMemberId),
            Phase::PreparingRebalance => false,
            Phase::CompletingRebalance => same,
            Phase::Stable => same && !self.members.leads(id),
        };
        if answer_was_lost {
            let reply = joined_reply(&self.members, id, false);
            self.answer(token, Ok(Reply::Joined(reply)));
            self.touch(id);
        } else {
            self.update(token, join, id);
            self.rebalance();
        }
        Ok(())
    }

    /// The member is as this join says, and waits at the barrier under this token.
    fn update(&mut self, token: Token, join: &Join, id: &Text) {
        let member = self.members.get(id).expect("the caller found it").clone();
        // The same member asked before, on a connection that is gone by now.
        if let Some(before) = member.joining {
            self.answer(before, Err(ErrorCode::RebalanceInProgress));
        }
        self.put(join, id, Member { joining: Some(token), ..refreshed(member, join) });
        if self.members.get(id).is_some_and(|m| m.is_new) {
            self.touch(id);
        }
    }

    /// A static member came back without its member id: it gets a new one, and whoever still uses the
    /// old one is fenced (82). In a stable group that goes without a rebalance, unless the vote changes.
    fn replace(&mut self, token: Token, join: &Join, old: &Text) {
        let (new, known) = (&join.fresh, self.members.get(old).expect("instance ids name members").clone());
        let leader_before = self.members.leader().cloned();
        for fenced in [known.joining, known.syncing].into_iter().flatten() {
            self.answer(fenced, Err(ErrorCode::FencedInstanceId));
        }
        self.cancel(Timer::Session(old.clone()));
        self.soft(Soft::Rename { old: old.clone(), new: new.clone() });
        let calm = Member { joining: None, syncing: None, is_new: false, ..refreshed(known, join) };
        self.put(join, new, calm);
        let stable = self.members.phase() == Phase::Stable;
        if !stable || self.members.vote().as_ref() != self.members.protocol() {
            self.update(token, join, new);
            return self.rebalance();
        }
        let record = self.members.record(self.members.since());
        self.store(record);
        let mut reply = joined_reply(&self.members, new, false);
        if join.can_skip_assignment {
            reply.skip_assignment = self.members.leads(new);
        } else {
            // An old client that is told it leads would assign; the leader before is nobody now.
            reply.leader = leader_before.unwrap_or_default();
            reply.members = Vec::new();
        }
        self.answer(token, Ok(Reply::Joined(reply)));
        self.touch(new);
    }
}

/// The member with what this join says about it.
fn refreshed(member: Member, join: &Join) -> Member {
    Member {
        client_id: join.client_id.clone(),
        client_host: join.client_host.clone(),
        rebalance_timeout_ms: join.rebalance_timeout_ms,
        session_timeout_ms: join.session_timeout_ms,
        protocols: join.protocols.clone(),
        ..member
    }
}
