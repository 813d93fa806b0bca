//! The committed offsets of one group: commit, fetch, delete, expire.
//!
//! Invariant: no topic without a partition. Knows no clock and no catalogue of topics: whether a topic exists
//! is asked before a commit comes here.

use std::collections::{BTreeMap, BTreeSet};

use tidemark_proto::id::Millis;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::text::Text;

use super::command::{Change, Commit, CommitOne, Committed, Outcome, Record, Reply, Timer, TimerOp, Token};
use super::members::{Members, Phase};
use super::state::Rules;
use super::subscription;

/// Positions by topic and partition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Offsets {
    committed: BTreeMap<Text, BTreeMap<i32, Committed>>,
}

impl Offsets {
    /// The position of a partition.
    pub fn get(&self, topic: &Text, partition: i32) -> Option<&Committed> {
        self.committed.get(topic)?.get(&partition)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.committed.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.committed.values().map(BTreeMap::len).sum()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Text, i32, &Committed)> {
        self.committed.iter().flat_map(|(topic, of)| of.iter().map(move |(p, c)| (topic, *p, c)))
    }

    /// Takes over a position.
    pub fn put(&mut self, topic: &Text, partition: i32, committed: &Committed) {
        let of = self.committed.entry(topic.clone()).or_default();
        of.insert(partition, committed.clone());
    }

    /// Forgets a position.
    pub fn remove(&mut self, topic: &Text, partition: i32) {
        if let Some(of) = self.committed.get_mut(topic) {
            of.remove(&partition);
            if of.is_empty() {
                self.committed.remove(topic);
            }
        }
    }

    /// Asserts the invariant.
    pub fn check(&self) {
        assert!(self.committed.values().all(|of| !of.is_empty()), "no topic without a partition");
    }

    /// The answer to a fetch: the partitions asked for, or all.
    pub fn fetch(&self, wanted: Option<&[(Text, Vec<i32>)]>) -> Reply {
        let all = || self.iter().map(|(t, p, c)| (t.clone(), p, Some(c.clone()))).collect();
        Reply::Offsets(wanted.map_or_else(all, |wanted| {
            let each = wanted.iter().flat_map(|(topic, of)| of.iter().map(move |p| (topic, *p)));
            each.map(|(topic, p)| (topic.clone(), p, self.get(topic, p).cloned())).collect()
        }))
    }

    /// Tombstones for what OffsetDelete names and the group no longer reads.
    pub fn delete(
        &self,
        members: &Members,
        token: Token,
        wanted: &[(Text, i32)],
    ) -> Result<Outcome, ErrorCode> {
        let reads = match members.phase() {
            Phase::Dead => return Err(ErrorCode::GroupIdNotFound),
            Phase::Empty => Some(BTreeSet::new()),
            _ if !uses_consumer_protocol(members) => return Err(ErrorCode::NonEmptyGroup),
            _ => subscribed(members),
        };
        let mut outcome = Outcome::default();
        let mut codes = Vec::with_capacity(wanted.len());
        for (topic, partition) in wanted {
            if reads.as_ref().is_none_or(|topics| topics.contains(topic)) {
                codes.push(ErrorCode::GroupSubscribedToTopic);
                continue;
            }
            codes.push(ErrorCode::None);
            if self.get(topic, *partition).is_some() {
                outcome.changes.push(gone(topic, *partition));
            }
        }
        outcome.replies.push((token, Ok(Reply::OffsetsDeleted(codes))));
        Ok(outcome)
    }

    /// Tombstones for every position of a topic, or of all.
    pub fn tombstones(&self, topic: Option<&Text>) -> Vec<Change> {
        let named = self.iter().filter(|(t, ..)| topic.is_none_or(|topic| topic == *t));
        named.map(|(topic, partition, _)| gone(topic, partition)).collect()
    }

    /// Tombstones for what has expired: without members, from when the last one left; while members read,
    /// only topics they do not read, from the commit; in a group of offsets only, from the commit; during a
    /// rebalance, nothing (KAFKA-13636).
    pub fn expired(&self, members: &Members, rules: &Rules, now: Millis) -> Vec<Change> {
        let keeps = match members.phase() {
            Phase::Dead => return Vec::new(),
            Phase::Empty => Some(BTreeSet::new()),
            Phase::Stable if uses_consumer_protocol(members) => subscribed(members),
            _ => None,
        };
        let Some(keeps) = keeps else { return Vec::new() };
        // A commit by an admin into a long empty group counts from the commit.
        let floor =
            if members.protocol_type().is_some() && members.is_empty() { members.since() } else { Millis(0) };
        let is_due = |committed: &Committed| match committed.expires {
            Some(at) => now >= at,
            None => now.0.saturating_sub(committed.at.max(floor).0) >= rules.offsets_retention_ms,
        };
        let due = self.iter().filter(|(topic, _, c)| !keeps.contains(*topic) && is_due(c));
        due.map(|(topic, partition, _)| gone(topic, partition)).collect()
    }
}

/// OffsetCommit: who may, and which positions are kept.
pub(super) fn commit(
    members: &Members,
    rules: &Rules,
    now: Millis,
    token: Token,
    commit: &Commit,
) -> Result<Outcome, ErrorCode> {
    may_commit(members, commit)?;
    let mut outcome = Outcome::default();
    let mut codes = Vec::with_capacity(commit.offsets.len());
    let expires = commit.retention_ms.map(|ms| Millis(now.0.saturating_add(ms)));
    for one in &commit.offsets {
        if one.metadata.len() > rules.offset_metadata_max {
            codes.push(ErrorCode::OffsetMetadataTooLarge);
            continue;
        }
        codes.push(ErrorCode::None);
        let CommitOne { topic, partition, offset, leader_epoch, metadata } = one.clone();
        let committed = Committed { offset, leader_epoch, metadata, at: now, expires };
        let record = Record::Offset(topic, partition, committed);
        outcome.changes.push(Change::Stored(record));
    }
    outcome.replies.push((token, Ok(Reply::Committed(codes))));
    let caller = &commit.caller.member;
    if let Some(member) = members.get(caller).filter(|_| members.phase() == Phase::Stable) {
        outcome.timers.push(TimerOp::Set(Timer::Session(caller.clone()), member.session()));
    }
    Ok(outcome)
}

/// A commit comes from a member of the running generation, or from outside into a group without members. (69 for
/// a group that is not there came with OffsetCommit v9; older versions are told 22 instead.)
fn may_commit(members: &Members, commit: &Commit) -> Result<(), ErrorCode> {
    let caller = &commit.caller;
    match members.phase() {
        Phase::Dead if caller.generation >= 0 => return Err(ErrorCode::GroupIdNotFound),
        Phase::Dead | Phase::Empty if caller.generation < 0 => return Ok(()),
        _ => {}
    }
    members.validate(&caller.member, caller.instance.as_ref())?;
    if caller.generation != members.generation() {
        return Err(ErrorCode::IllegalGeneration);
    }
    if members.phase() == Phase::CompletingRebalance {
        return Err(ErrorCode::RebalanceInProgress);
    }
    Ok(())
}

fn gone(topic: &Text, partition: i32) -> Change {
    Change::Stored(Record::OffsetGone(topic.clone(), partition))
}

fn uses_consumer_protocol(members: &Members) -> bool {
    members.protocol_type().is_some_and(|t| *t == subscription::PROTOCOL_TYPE)
}

/// The topics the members read; none when that cannot be told.
fn subscribed(members: &Members) -> Option<BTreeSet<Text>> {
    let protocol = members.protocol()?;
    let mut topics = BTreeSet::new();
    for (_, member) in members.iter() {
        topics.extend(subscription::topics(&member.metadata(protocol))?);
    }
    Some(topics)
}
