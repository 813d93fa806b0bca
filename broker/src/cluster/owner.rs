//! One ownership of one generation: the controller (E3, E4, E8).
//!
//! Keeps the durable image and, apart, the one that includes its pending records; decides on the second, and
//! lets effects (replies, the published image, the stream, snapshots) out only from the contiguous durable
//! prefix. It ends for ever at the first object at one of its keys that is not its own; then the pending
//! records are dropped and the member reads on at the commit.

mod balancer;
mod course;
mod followers;
mod overdue;
mod proof;
mod snapshots;

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use bytes::Bytes;
use tidemark_proto::id::{Generation, Life, Nonce, Position, Seq};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_tiering::bucket::{Body, Kind};
use tidemark_tiering::format::HEADER_LEN;
use tidemark_tiering::keys;
use tidemark_tiering::log::{Appender, Committed, Event, Options};
use tidemark_tiering::planted::{self, Bug};
use tidemark_tiering::witness::{Sight, saw, saw_many};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::command::{Command, Outcome, Reply};
use super::image::{Image, Link};
use super::level;
use super::log;
use super::peers::Beat;
use super::record::Record;
use super::roll::Roll;
use super::shared::{Ask, QUEUE, Shared};
use super::wire::Entry;

use balancer::Balancer;
use course::{Course, Then};
use followers::Followers;
use overdue::Overdue;
use proof::Proof;
use snapshots::Snapshots;

pub(super) use snapshots::Kept;

/// Objects in flight; commands that arrive meanwhile share the next one.
const DEPTH: usize = 4;

/// How an ownership begins.
pub(super) struct Won {
    /// The image, in the generation owned, at (g, 0).
    pub image: Image,
    /// The ownership.
    pub nonce: Nonce,
    /// Where its seal stands, and its bytes.
    pub seal: (Position, Bytes),
    /// When the seal was known to stand.
    pub sealed: Instant,
    /// The life before, if it is proven dead.
    pub dead: Option<Life>,
    /// What is known of the log's objects.
    pub kept: Kept,
}

/// What the owner's own tasks tell it.
enum Inner {
    /// A proof of ownership was tried (E15).
    Proof(proof::Tried),
    /// A silent broker was asked whether it is dead.
    Probed { course: Course, dead: bool },
    /// A node's lanes are sealed and its session has lapsed.
    Sealed(Course, Vec<super::command::Sealed>),
    /// A node's lanes are sealed; may its old session still serve?
    Lapse(Course, Vec<super::command::Sealed>),
    /// A snapshot is durable.
    Snapshot(snapshots::Written),
    /// What lay below a snapshot is deleted.
    Swept(Position),
}

type Tell = oneshot::Sender<(Result<Reply, ErrorCode>, Position)>;

/// A reply that waits for its records, and those it was decided after, to be durable.
struct Waiting {
    reply: Result<Reply, ErrorCode>,
    tell: Tell,
}

/// An object that is sent and not committed.
struct Sent {
    entry: Entry,
    link: Link,
    bytes: Bytes,
    waiting: Vec<Waiting>,
}

/// See the module.
pub(super) struct Owner {
    shared: Arc<Shared>,
    generation: Generation,
    nonce: Nonce,
    appender: Appender,
    durable: Image,
    pending: Image,
    /// The last object sent.
    last: Link,
    batch: Vec<Record>,
    batch_waiting: Vec<Waiting>,
    sent: VecDeque<Sent>,
    roll: Roll,
    proof: Proof,
    followers: Followers,
    snapshots: Snapshots,
    balancer: Balancer,
    overdue: Overdue,
    tasks: Vec<AbortHandle>,
    inner: mpsc::Sender<Inner>,
    dead: Option<Life>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        *self.shared.owner.lock() = None;
        *self.shared.balancing.lock() = None;
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// What is left when an ownership ends.
pub(super) struct Ended {
    /// The durable image; its position is the commit (E4).
    pub image: Image,
    /// What is known of the log's objects.
    pub kept: Kept,
    /// Whether it committed anything.
    pub committed: bool,
}

impl Owner {
    /// Owns the generation until it is fenced.
    pub async fn run(shared: Arc<Shared>, won: Won) -> Ended {
        let (asks, mut asked) = mpsc::channel(QUEUE);
        let (inner, mut told) = mpsc::channel(QUEUE);
        let mut owner = Owner::new(shared, won, inner);
        *owner.shared.owner.lock() = Some(asks);
        let mut tick = Instant::now();
        loop {
            owner.flush();
            tokio::select! {
                biased;
                event = owner.appender.next() => {
                    if !owner.on_event(event) {
                        break;
                    }
                }
                Some(inner) = told.recv() => {
                    if !owner.on_inner(inner) {
                        break;
                    }
                }
                Some(ask) = asked.recv() => {
                    owner.on_ask(ask);
                    // What arrived together shares an object.
                    while let Ok(ask) = asked.try_recv() {
                        owner.on_ask(ask);
                    }
                }
                () = tokio::time::sleep_until(tick) => {
                    owner.on_tick();
                    tick = Instant::now() + owner.roll.tick();
                }
            }
        }
        let committed = owner.durable.position().seq > Seq(0);
        let (image, kept) = (mem::take(&mut owner.durable), owner.snapshots.take());
        Ended { image, kept, committed }
    }

    fn new(shared: Arc<Shared>, won: Won, inner: mpsc::Sender<Inner>) -> Owner {
        let Won { image, nonce, seal, sealed, dead, kept } = won;
        let generation = image.position().generation;
        let key = move |seq| keys::meta(Position { generation, seq });
        let options = Options { t_ack: shared.timings.ack, ..Options::default() };
        let bucket = shared.bucket.clone();
        let appender =
            Appender::new(bucket, Kind::Meta, Arc::new(key), HEADER_LEN, Seq(0), options, &shared.seams);
        let now = Instant::now();
        let mut roll = Roll::new(shared.timings, sealed);
        roll.follow(&image, now, true);
        let announced = Record::ControllerAnnounced {
            generation,
            life: shared.life,
            node: shared.registered.lock().map(|(node, _)| node),
            address: shared.peers.address(),
        };
        let mut batch = vec![announced];
        if image.version() == 0 {
            // The cluster is being made, by this build: nobody has to read less than it writes.
            batch.push(Record::FeatureLevel { name: level::FEATURE.to_owned(), level: level::NEWEST });
        }
        let mut pending = image.clone();
        batch.iter().for_each(|record| pending.apply(record));
        Owner {
            generation,
            nonce,
            appender,
            last: image.link(),
            durable: image,
            pending,
            batch,
            batch_waiting: Vec::new(),
            sent: VecDeque::new(),
            roll,
            proof: Proof::new(shared.timings),
            followers: Followers::new(seal),
            snapshots: Snapshots::new(kept),
            balancer: Balancer::default(),
            overdue: Overdue::default(),
            tasks: Vec::new(),
            inner,
            dead,
            shared,
        }
    }

    /// Sends what was decided, if there is room; else it grows until there is.
    fn flush(&mut self) {
        if self.batch.is_empty() || self.sent.len() >= DEPTH || !self.appender.has_room() {
            return;
        }
        let at = Position { generation: self.generation, seq: self.appender.next_seq() };
        let durable = self.appender.commit();
        let entry = Entry { prev: self.last, durable, records: mem::take(&mut self.batch) };
        let nonce = self.shared.seams.entropy.nonce();
        let (pieces, link) = log::data(self.durable.cluster(), at, self.shared.life, nonce, &entry);
        let bytes = Bytes::from(pieces.concat());
        self.appender.push(Body::from(vec![bytes.clone()]));
        self.last = link;
        let waiting = mem::take(&mut self.batch_waiting);
        self.sent.push_back(Sent { entry, link, bytes, waiting });
    }

    /// `false` ends the ownership.
    fn on_event(&mut self, event: Event) -> bool {
        match event {
            Event::Committed(moved) => self.committed(moved),
            Event::Fenced { seq, .. } => {
                let (generation, nonce) = (self.generation, self.nonce);
                saw(Sight::Deposed);
                tracing::info!(%generation, %seq, ?nonce, "another controller took over");
                false
            }
            Event::Stuck { seq } => {
                tracing::error!(generation = %self.generation, %seq, "the metadata log is stuck: the bucket does not answer");
                true
            }
        }
    }

    fn committed(&mut self, moved: Committed) -> bool {
        let mut replies = Vec::new();
        while self.durable.position().seq < moved.upto {
            let Some(sent) = self.sent.pop_front() else { break };
            let at = self.durable.position();
            sent.entry.records.iter().for_each(witness);
            sent.entry.records.iter().for_each(|record| self.durable.apply(record));
            self.durable.advance(sent.link);
            let weight = sent.bytes.len() as u64 + self.shared.timings.request_weight;
            self.snapshots.wrote(at, weight);
            self.followers.object(at, sent.bytes);
            replies.extend(sent.waiting);
        }
        if moved.slow {
            // R23: so late that it proves nothing by itself; reading on from here does.
            saw(Sight::SlowCommit);
            tracing::warn!(generation = %self.generation, "a commit was answered after T_ack: this ownership ends");
            return false;
        }
        let now = Instant::now();
        self.roll.follow(&self.durable, now, false);
        self.shared.images.send_replace(Arc::new(self.durable.clone()));
        let at = self.durable.position();
        for Waiting { reply, tell } in replies {
            let _ = tell.send((reply, at)); // whoever asked may have given up
        }
        self.proof.proven(moved.first_sent);
        self.grant(now);
        self.follow_up();
        true
    }

    /// After the first commit, and whenever the image moved: work that it calls for.
    fn follow_up(&mut self) {
        if let Some(dead) = self.dead.take() {
            let gone = self.durable.live().find(|b| b.life == dead).map(|b| (b.node, b.epoch, b.life));
            if let Some((node, epoch, life)) = gone {
                self.start(Course { node, epoch, life, dead: true, then: Then::TakeOver });
            }
        }
        self.snapshot_if_due();
    }

    fn on_ask(&mut self, ask: Ask) {
        match ask {
            Ask::Submit(command, tell) => self.submit(command, tell),
            Ask::Heartbeat(heartbeat, tell) => self.heartbeat(heartbeat, tell),
            Ask::Follow(from, tell) => {
                let _ = tell.send(self.followers.add(&self.durable, from, self.shared.life));
            }
        }
    }

    fn submit(&mut self, mut command: Command, tell: Tell) {
        if let Command::FinalizeVersion { known, .. } = &mut command {
            *known = self.roll.levels();
        }
        let decided = self.pending.decide(&self.shared.rules, self.shared.seams.clock.wall(), &command);
        if let (
            Ok(Outcome { reply: Reply::SealFirst { .. }, .. }),
            Command::RegisterBroker { node, life, .. },
        ) = (&decided, &command)
        {
            let old = node.and_then(|node| self.pending.broker(node));
            if let Some((node, epoch, old)) = old.map(|b| (b.node, b.epoch, b.life)) {
                // A life that starts another epoch has dropped the old one's state itself.
                let (dead, then) = (old == *life, Then::Register(Box::new(command), tell));
                return self.start(Course { node, epoch, life: old, dead, then });
            }
        }
        let (records, reply) = match decided {
            // The brokers that would have to read it may not know it yet.
            Ok(Outcome { records, .. }) if !level::admits(self.pending.level(), &records) => {
                (Vec::new(), Err(ErrorCode::UnsupportedVersion))
            }
            Ok(Outcome { records, reply }) => (records, Ok(reply)),
            Err(code) => {
                if matches!(command, Command::CommitCut { .. }) {
                    saw(Sight::ZombieCut);
                }
                (Vec::new(), Err(code))
            }
        };
        records.iter().for_each(|record| self.pending.apply(record));
        #[cfg(test)]
        self.pending.check();
        let waiting = Waiting { reply, tell };
        // What was refused, or is done already, may rest on records that are not durable yet (E3).
        if planted::is(Bug::MetadataAckedEarly) {
            self.batch.extend(records);
            let _ = waiting.tell.send((waiting.reply, self.durable.position()));
        } else if !records.is_empty() || !self.batch.is_empty() {
            self.batch.extend(records);
            self.batch_waiting.push(waiting);
        } else if let Some(sent) = self.sent.back_mut() {
            sent.waiting.push(waiting);
        } else {
            let _ = waiting.tell.send((waiting.reply, self.durable.position()));
        }
    }

    /// What the reply to `command` would be now.
    fn would(&self, command: &Command) -> Option<Reply> {
        let now = self.shared.seams.clock.wall();
        self.pending.decide(&self.shared.rules, now, command).ok().map(|outcome| outcome.reply)
    }

    fn on_inner(&mut self, inner: Inner) -> bool {
        match inner {
            Inner::Proof(tried) => return self.proof_tried(tried),
            Inner::Probed { course, dead } => {
                if dead && !self.roll_ended(&course) {
                    self.start(Course { dead: true, ..course });
                }
            }
            Inner::Lapse(course, sealed) => self.lapse(course, sealed),
            Inner::Sealed(course, sealed) => self.sealed(course, sealed),
            Inner::Snapshot(written) => self.snapshot_written(&written),
            Inner::Swept(below) => self.submit(Command::NoteSwept { below }, oneshot::channel().0),
        }
        true
    }

    fn on_tick(&mut self) {
        let now = Instant::now();
        self.tasks.retain(|task| !task.is_finished());
        self.followers.alive();
        self.grant(now);
        self.call_off_if_due(now);
        self.balance_if_due(now);
        for silent in self.roll.silent(now) {
            let Some(life) = self.durable.broker(silent.node).map(|b| b.life) else { continue };
            let (node, epoch, then) = (silent.node, silent.epoch, Then::TakeOver);
            if silent.over {
                saw(Sight::Lapsed);
            }
            let course = Course { node, epoch, life, dead: false, then };
            match silent.over {
                true => self.start(course),
                false => self.probe(course),
            }
        }
    }

    fn heartbeat(&mut self, heartbeat: super::peers::Heartbeat, tell: oneshot::Sender<Beat>) {
        if heartbeat.applied > self.durable.position() {
            let _ = tell.send(Beat::NotController); // it knows more than we do
            return;
        }
        let lives = |b: &super::image::Broker| b.alive && b.epoch == heartbeat.epoch;
        if !self.durable.broker(heartbeat.node).is_some_and(lives) {
            let _ = tell.send(Beat::Fenced);
            return;
        }
        let now = Instant::now();
        self.roll.heard(heartbeat.epoch, heartbeat.level, now);
        if let Some(load) = heartbeat.load {
            self.balancer.heard(heartbeat.epoch, load, now);
        }
        if !heartbeat.has_readers {
            let _ = tell.send(Beat::Alive);
            return;
        }
        self.proof.park(heartbeat.epoch, tell, now);
        self.grant(now);
    }
}

/// Counts what a record that became durable says about the protocol.
fn witness(record: &Record) {
    match record {
        Record::BrokerRegistered { .. } => saw(Sight::Registered),
        Record::LaneSealed { .. } => saw(Sight::LaneEnded),
        Record::PartitionsMoved { to: Some(_), partitions, .. } => {
            saw_many(Sight::ChainEntry, partitions.iter().map(|(_, indexes)| indexes.len()).sum());
        }
        Record::CutCommitted { runs, .. } => {
            saw(Sight::LowRaised);
            saw_many(Sight::Cut, usize::from(!runs.is_empty()));
        }
        Record::RunsReplaced { drop, starts, carried, cleaned, .. } => {
            saw_many(Sight::Compacted, usize::from(!cleaned.is_empty()));
            saw_many(Sight::RunsReplaced, drop.len());
            saw_many(Sight::Expired, starts.len());
            saw_many(Sight::Carried, usize::from(carried.is_some()));
        }
        _ => {}
    }
}
