//! The one task: takes commands, events and timers, in that order, and carries out what groups decide.
//!
//! It never waits for anything but its inputs. Commands that arrive together share a batch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidemark_proto::id::{LeaderEpoch, PartitionIndex, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::text::Text;
use tidemark_tiering::seam::Seams;
use tidemark_tiering::watch;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::appender::{Append, Appender, FLYING_MAX};
use super::load::{Loaded, load};
use super::shard::Shard;
use super::timers::Timers;
use super::{Asked, Catalogue, Counts, Listed, Log, MAILBOX, Message, Options};
use crate::group::command::{Change, Command, Outcome, Record, Reply, Soft, Timer, TimerOp, Token};
use crate::group::record::{self, KeyValue};
use crate::group::state::Group;

/// Pause before groups are read back again after that failed.
const LOAD_PAUSE: Duration = Duration::from_millis(250);

/// Counts for metrics are made no more often.
const COUNT_PAUSE: Duration = Duration::from_secs(1);

/// Pause before a timer that could not be carried out is tried again.
const BUSY_PAUSE: Duration = Duration::from_secs(1);

type ReplyTo = oneshot::Sender<Result<Reply, ErrorCode>>;

/// What the task's helpers tell it. `life` tells a partition's present from its past.
pub enum Event {
    /// Groups were read back.
    Loaded { at: PartitionIndex, life: u64, result: Result<Loaded, ErrorCode> },
    /// A batch is in the bucket, and all before it.
    Durable { at: PartitionIndex, life: u64, ticket: u64 },
    /// A batch was refused.
    Failed { at: PartitionIndex, life: u64, code: ErrorCode },
    /// After a failure: nothing is on its way any more.
    Ended { at: PartitionIndex, life: u64 },
}

struct Slot {
    tp: TopicPartition,
    leader_epoch: LeaderEpoch,
    life: u64,
    /// None while groups are being read back, or wait to be.
    shard: Option<Shard>,
}

struct Waiter {
    at: PartitionIndex,
    reply: ReplyTo,
}

/// See the module.
pub struct Task {
    log: Arc<dyn Log>,
    options: Options,
    seams: Seams,
    slots: BTreeMap<PartitionIndex, Slot>,
    timers: Timers,
    waiting: BTreeMap<Token, Waiter>,
    exists: Option<Catalogue>,
    tokens: u64,
    lives: u64,
    rebalances: u64,
    commits: u64,
    counts: watch::Sender<Counts>,
    /// Something has changed since the counts were made.
    changed: bool,
    events_in: mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
}

impl Task {
    pub fn new(log: Arc<dyn Log>, options: Options, seams: Seams) -> (Task, watch::Receiver<Counts>) {
        let (events_in, events) = mpsc::channel(256);
        let (counts, seen) = watch::channel(Counts::default());
        let task = Task {
            log,
            options,
            seams,
            slots: BTreeMap::new(),
            timers: Timers::default(),
            waiting: BTreeMap::new(),
            exists: None,
            tokens: 0,
            lives: 0,
            rebalances: 0,
            commits: 0,
            counts,
            changed: false,
            events_in,
            events,
        };
        (task, seen)
    }

    pub async fn run(mut self, mut inbox: mpsc::Receiver<Message>) {
        let mut retire = Instant::now() + self.options.retention_check;
        let mut count = Instant::now();
        loop {
            let mut next = self.timers.next().map_or(retire, |at| at.min(retire));
            if self.changed {
                next = next.min(count);
            }
            tokio::select! {
                biased;
                Some(event) = self.events.recv() => self.hear(event),
                message = inbox.recv() => {
                    let Some(message) = message else { return };
                    self.take(message);
                    // A turn takes all that waits: what it writes shares batches, and after a pause of
                    // the whole process heartbeats come before the timers they should have stopped.
                    for _ in 1..MAILBOX {
                        let Ok(message) = inbox.try_recv() else { break };
                        self.take(message);
                    }
                }
                () = tokio::time::sleep_until(next) => {}
            }
            let now = Instant::now();
            if now >= retire {
                self.retire();
                retire = now + self.options.retention_check;
            }
            self.fire(now);
            if self.changed && now >= count {
                self.counts.send_replace(self.count());
                self.changed = false;
                count = now + COUNT_PAUSE;
            }
            self.slots.values_mut().filter_map(|s| s.shard.as_mut()).for_each(Shard::flush);
        }
    }

    fn take(&mut self, message: Message) {
        self.changed |= !matches!(message, Message::Ask(_) | Message::List(_));
        match message {
            Message::Ask(asked) => {
                let Asked { at, group, command, reply } = *asked;
                self.give(at, &group, &command, Some(reply));
            }
            Message::List(reply) => {
                reply.send(self.list()).ok();
            }
            Message::Lead { at, tp, leader_epoch } => self.lead(at, tp, leader_epoch),
            Message::Resign(at) => {
                self.drop_shard(at);
                self.slots.remove(&at);
            }
            Message::TopicGone(topic) => {
                let reads = |g: &Group| g.offsets().iter().any(|(t, ..)| *t == topic);
                for (at, group) in self.groups(reads) {
                    self.give(at, &group, &Command::TopicGone(topic.clone()), None);
                }
            }
            Message::Catalogue(exists) => self.exists = Some(exists),
        }
    }

    fn hear(&mut self, event: Event) {
        let (Event::Loaded { at, life, .. }
        | Event::Durable { at, life, .. }
        | Event::Failed { at, life, .. }
        | Event::Ended { at, life }) = &event;
        let (at, life) = (*at, *life);
        let Some(slot) = self.slots.get_mut(&at).filter(|slot| slot.life == life) else { return };
        self.changed = true;
        match event {
            Event::Durable { ticket, .. } => {
                if let Some(shard) = &mut slot.shard {
                    shard.durable(ticket);
                }
            }
            Event::Failed { code, .. } => {
                // A partition that moves on is no news: its resignation is on its way.
                if code == ErrorCode::NotLeaderOrFollower {
                    tracing::info!(partition = %at, "the groups' log is led by another now");
                } else {
                    tracing::warn!(partition = %at, %code, "a batch of group records was refused; reading the groups back");
                }
                self.drop_shard(at);
            }
            Event::Ended { .. } => self.load(at, Duration::ZERO),
            Event::Loaded { result: Ok(groups), .. } => self.serve(at, groups),
            Event::Loaded { result: Err(code), .. } => {
                if code != ErrorCode::NotLeaderOrFollower {
                    tracing::warn!(partition = %at, %code, "groups could not be read back; trying again");
                }
                self.load(at, LOAD_PAUSE);
            }
        }
    }

    fn lead(&mut self, at: PartitionIndex, tp: TopicPartition, leader_epoch: LeaderEpoch) {
        let led = self.slots.get(&at).is_some_and(|s| s.tp == tp && s.leader_epoch == leader_epoch);
        if led {
            return;
        }
        self.drop_shard(at);
        self.slots.insert(at, Slot { tp, leader_epoch, life: 0, shard: None });
        self.load(at, Duration::ZERO);
    }

    /// Starts reading the groups of a partition back.
    fn load(&mut self, at: PartitionIndex, pause: Duration) {
        let Some(slot) = self.slots.get_mut(&at) else { return };
        self.lives += 1;
        slot.life = self.lives;
        let (life, tp, log) = (slot.life, slot.tp, self.log.clone());
        let (events, bytes_max) = (self.events_in.clone(), self.options.load_bytes);
        self.seams.tasks.spawn(async move {
            tokio::time::sleep(pause).await;
            let result = load(log.as_ref(), tp, bytes_max).await;
            events.send(Event::Loaded { at, life, result }).await.ok();
        });
    }

    /// The groups are there: from now on they are served.
    fn serve(&mut self, at: PartitionIndex, groups: Loaded) {
        let Some(slot) = self.slots.get_mut(&at) else { return };
        let (batches, queue) = mpsc::channel::<Append>(FLYING_MAX);
        let appender = Appender {
            log: self.log.clone(),
            at,
            tp: slot.tp,
            leader_epoch: slot.leader_epoch,
            life: slot.life,
            events: self.events_in.clone(),
        };
        self.seams.tasks.spawn(appender.run(queue));
        tracing::debug!(partition = %at, groups = groups.len(), "groups are read back");
        for (id, group) in &groups {
            for op in group.timers() {
                carry_out(&mut self.timers, at, id, op);
            }
        }
        let exists = self.exists.clone();
        let gone = |group: &Group| -> Vec<Text> {
            let Some(exists) = &exists else { return Vec::new() };
            let mut topics: Vec<Text> = group.offsets().iter().map(|(topic, ..)| topic.clone()).collect();
            topics.dedup();
            topics.retain(|topic| !exists(topic));
            topics
        };
        let gone: Vec<(Text, Vec<Text>)> =
            groups.iter().map(|(id, group)| (id.clone(), gone(group))).collect();
        slot.shard = Some(Shard::new(groups, batches));
        for (id, topics) in gone {
            for topic in topics {
                self.give(at, &id, &Command::TopicGone(topic), None);
            }
        }
    }

    /// Whatever was in memory is gone, and whoever waits is sent away (there is no undo).
    fn drop_shard(&mut self, at: PartitionIndex) {
        self.timers.forget(at);
        if let Some(shard) = self.slots.get_mut(&at).and_then(|slot| slot.shard.take()) {
            shard.refuse_all(ErrorCode::NotCoordinator);
        }
        let tokens: Vec<Token> =
            self.waiting.iter().filter(|(_, w)| w.at == at).map(|(token, _)| *token).collect();
        for token in tokens {
            if let Some(waiter) = self.waiting.remove(&token) {
                waiter.reply.send(Err(ErrorCode::NotCoordinator)).ok();
            }
        }
    }

    /// Gives a command to a group and carries out what follows.
    fn give(&mut self, at: PartitionIndex, id: &Text, command: &Command, reply: Option<ReplyTo>) {
        let refuse = |reply: Option<ReplyTo>, code| reply.map(|reply| reply.send(Err(code)).ok());
        let Some(slot) = self.slots.get_mut(&at) else {
            refuse(reply, ErrorCode::NotCoordinator);
            return;
        };
        let Some(shard) = &mut slot.shard else {
            refuse(reply, ErrorCode::CoordinatorLoadInProgress);
            return;
        };
        if shard.is_full() && may_write(command) {
            if let Command::Fire(timer) = command {
                self.timers.set(at, id, timer.clone(), Instant::now() + BUSY_PAUSE);
            }
            refuse(reply, ErrorCode::CoordinatorNotAvailable);
            return;
        }
        self.tokens += 1;
        let token = Token(self.tokens);
        let now = self.seams.clock.wall();
        let unknown = Group::default();
        let known = shard.groups.get(id);
        let decided = known.map_or(&unknown, |e| &e.group).decide(&self.options.rules, now, token, command);
        let said = known.map_or(0, |e| e.ticket);
        let decided = decided.and_then(|outcome| Ok((encode(id, &outcome)?, outcome)));
        let (records, outcome) = match decided {
            Ok(decided) => decided,
            Err(code) => {
                if let Some(reply) = reply {
                    let ticket = if matches!(command, Command::Heartbeat(_)) { 0 } else { said };
                    shard.hold(ticket, (reply, Err(code)));
                }
                return;
            }
        };
        if let Some(reply) = reply {
            self.waiting.insert(token, Waiter { at, reply });
        }
        let ticket = if records.is_empty() { said } else { shard.push(&records, now) };
        if !outcome.changes.is_empty() {
            self.changed = true;
            let entry = shard.groups.entry(id.clone()).or_default();
            entry.ticket = ticket;
            for change in &outcome.changes {
                entry.group.apply(change);
                match change {
                    Change::Soft(Soft::Generation { .. }) => self.rebalances += 1,
                    Change::Stored(Record::Offset(..)) => self.commits += 1,
                    _ => {}
                }
            }
            if cfg!(debug_assertions) {
                entry.group.check();
            }
            shard.forget_if_nothing(id);
        }
        for (to, result) in outcome.replies {
            if let Some(waiter) = self.waiting.remove(&to) {
                let ticket = if records.is_empty() && is_soft(command, &result) { 0 } else { ticket };
                shard.hold(ticket, (waiter.reply, result));
            }
        }
        for op in outcome.timers {
            carry_out(&mut self.timers, at, id, op);
        }
    }

    fn fire(&mut self, now: Instant) {
        while let Some((at, group, timer)) = self.timers.take_due(now) {
            self.give(at, &group, &Command::Fire(timer), None);
        }
    }

    fn retire(&mut self) {
        for (at, group) in self.groups(|_| true) {
            self.give(at, &group, &Command::Retire, None);
        }
    }

    fn groups(&self, which: impl Fn(&Group) -> bool) -> Vec<(PartitionIndex, Text)> {
        let shards = self.slots.iter().filter_map(|(at, slot)| Some((*at, slot.shard.as_ref()?)));
        let each = shards.flat_map(|(at, shard)| shard.groups.iter().map(move |(id, e)| (at, id, &e.group)));
        each.filter(|(.., group)| which(group)).map(|(at, id, _)| (at, id.clone())).collect()
    }

    fn list(&self) -> Result<Vec<Listed>, ErrorCode> {
        if self.slots.values().any(|slot| slot.shard.is_none()) {
            return Err(ErrorCode::CoordinatorLoadInProgress);
        }
        let shards = self.slots.values().filter_map(|slot| slot.shard.as_ref());
        let groups = shards.flat_map(|shard| &shard.groups).filter(|(_, e)| !e.group.is_nothing());
        let mut listed: Vec<Listed> = groups
            .map(|(id, e)| Listed {
                group: id.clone(),
                phase: e.group.phase(),
                protocol_type: e.group.members().protocol_type().cloned().unwrap_or_default(),
            })
            .collect();
        listed.sort_by(|a, b| a.group.cmp(&b.group));
        Ok(listed)
    }

    fn count(&self) -> Counts {
        let mut counts = Counts { rebalances: self.rebalances, commits: self.commits, ..Counts::default() };
        for slot in self.slots.values() {
            let Some(shard) = &slot.shard else {
                counts.loading += 1;
                continue;
            };
            counts.active += 1;
            for entry in shard.groups.values() {
                *counts.groups.entry(entry.group.phase()).or_default() += 1;
                counts.offsets += entry.group.offsets().len() as u64;
            }
        }
        counts
    }
}

fn carry_out(timers: &mut Timers, at: PartitionIndex, group: &Text, op: TimerOp) {
    match op {
        TimerOp::Set(timer, after) => timers.set(at, group, timer, Instant::now() + after),
        TimerOp::Cancel(timer) => timers.cancel(at, group, timer),
    }
}

fn encode(group: &Text, outcome: &Outcome) -> Result<Vec<KeyValue>, ErrorCode> {
    let records = outcome.records().map(|record| record::encode(group, record));
    records.collect::<Result<_, _>>().map_err(|error| {
        tracing::warn!(%error, "a group record cannot be written");
        ErrorCode::InvalidRequest
    })
}

/// What a rebalance under way tells is in no log and waits for none; nor does a heartbeat.
fn is_soft(command: &Command, result: &Result<Reply, ErrorCode>) -> bool {
    let told = matches!(result, Ok(Reply::Joined(_) | Reply::MemberIdRequired(_) | Reply::Alive));
    told || matches!(command, Command::Heartbeat(_))
}

fn may_write(command: &Command) -> bool {
    match command {
        Command::Heartbeat(_) | Command::FetchOffsets(_) | Command::Describe => false,
        Command::Fire(Timer::Session(_) | Timer::Rebalance | Timer::Sync) => true,
        Command::Join(_) | Command::Sync(_) | Command::Leave(_) | Command::Commit(_) => true,
        Command::Delete | Command::DeleteOffsets(_) | Command::Retire | Command::TopicGone(_) => true,
    }
}
