//! The owner of one lane and of every partition whose log runs in it.
//!
//! A single loop: lane events first, then what recovery found, then queries, then writes (only while the lane has
//! room). Every ack, high watermark and read follows from the lane's commit alone (R5). When the lane ends the
//! task answers everybody `NotLeaderOrFollower` and is gone; nothing is rolled back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tidemark_proto::id::{LaneId, LeaderEpoch, Millis, Offset, Seq, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::record::control::{EndMarker, Outcome};
use tidemark_proto::record::stamp::Stamped;
use tidemark_proto::record::view::Batch;
use tidemark_tiering::keys;
use tidemark_tiering::lane::{Event, Sealer, Writer};
use tidemark_tiering::parcel::{BatchEntry, Entry, Footer};
use tidemark_tiering::planted::{self, Bug};
use tidemark_tiering::watch;
use tokio::sync::{mpsc, oneshot};

use super::base::{Base, appended};
use super::index::{Appetite, Extent, Index, Parcel, Source};
use super::opening::Opened;
use super::parked::Parked;
use super::producer::{End, Origin, Producers};
use super::state::{Admission, Appended, Arrival, Ending, State};
use super::ticket::{Ticket, Tickets};
use super::waiters::Waiters;
use super::{
    Ask, Bounds, Doors, Instant, Look, Partitions, Produce, Query, Row, Write, WriteResults, Written,
};

/// Requests taken from a queue before lane events get their turn.
const BURST: usize = 64;

/// How long after its opening a partition takes an unknown producer only from its first sequence on.
const SETTLING: std::time::Duration = std::time::Duration::from_secs(5);

/// How often idle producers are looked for.
const EXPIRY: std::time::Duration = std::time::Duration::from_secs(600);

/// Settings of a task.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes of recent batches kept in memory for tail reads.
    pub recent_bytes_max: usize,
    /// Forget a producer this long after its last batch (`producer.id.expiration.ms`).
    pub producer_expiration_ms: i64,
}

impl Default for Options {
    fn default() -> Self {
        Options { recent_bytes_max: 64 << 20, producer_expiration_ms: 86_400_000 }
    }
}

/// A partition that this lane's owner is to serve.
#[derive(Clone, Debug)]
pub struct Lead {
    /// Which.
    pub tp: TopicPartition,
    /// Epoch of this ownership.
    pub leader_epoch: LeaderEpoch,
    /// Of an internal topic: its data lies beside the footer.
    pub internal: bool,
}

/// What the node tells the task.
#[derive(Debug)]
pub enum Order {
    /// These partitions are ours; recovery of them is under way and answers through [`Order::Opened`].
    Lead(Vec<Lead>),
    /// These are not ours any more.
    Resign(Vec<TopicPartition>),
    /// What recovery found; answered once it is in force.
    Opened(Vec<Opened>, oneshot::Sender<()>),
    /// A cut up to `upto` is committed: the parcels below are in runs.
    Cut {
        /// New low mark of the lane.
        upto: Seq,
        /// The partitions' bases as of it.
        bases: Vec<(TopicPartition, Base)>,
    },
    /// A dead lane's low mark rose: what lies below it is in runs.
    Low {
        /// The lane.
        lane: LaneId,
        /// Its low mark.
        low: Seq,
    },
    /// What a cut of everything durable needs: the committed end, its parcels, the bases below them.
    CutInput {
        /// Answer.
        reply: oneshot::Sender<CutInput>,
    },
    /// Settings have changed.
    Tune(Options),
    /// The metadata says that the lane is sealed, by somebody else (R14).
    Fence,
    /// Drain, seal the lane as its owner (R12), and end.
    Close {
        /// Who seals.
        by: Sealer,
    },
}

/// See [`Order::CutInput`].
#[derive(Debug)]
pub struct CutInput {
    /// Exclusive end: everything below is durable.
    pub upto: Seq,
    /// The parcels since the low mark, in order.
    pub parcels: Vec<(Seq, Arc<Footer>, u64)>,
    /// Every open partition's base as of the low mark.
    pub bases: BTreeMap<TopicPartition, (LeaderEpoch, Base)>,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The lane was sealed by somebody else, or its key space was taken (R14).
    Fenced,
    /// A parcel stayed in doubt longer than T_stuck; the owner must seal itself and register anew (R7).
    Stuck(Seq),
    /// Closed as ordered; the seal stands at this sequence.
    Sealed(Seq),
}

struct Open {
    opened: tokio::time::Instant,
    state: State,
    index: Index,
    waiters: Waiters,
    base: Base,
    internal: bool,
}

enum Slot {
    Opening { lead: Lead, deferred: Vec<(u64, usize, Write)> },
    Open(Box<Open>),
    Offline,
}

/// Asks whether the lane is still unsealed, where an answer came too late to be trusted by itself (R23).
pub type Prove = Arc<dyn Fn(LaneId) -> futures::future::BoxFuture<'static, bool> + Send + Sync>;

/// A proof under way (R23). It speaks only for answers that came before it was asked for.
struct Doubt {
    proof: futures::future::BoxFuture<'static, bool>,
    /// What the proof sets free.
    until: Seq,
    /// A slow answer came since: it needs a proof of its own.
    again: bool,
}

/// See the module.
pub struct Task {
    lane: Writer,
    id: LaneId,
    options: Options,
    clock: Arc<dyn tidemark_tiering::seam::Clock>,
    prove: Prove,
    partitions: BTreeMap<TopicPartition, Slot>,
    tickets: Tickets,
    parked: Parked<Ticket>,
    recent: VecDeque<(TopicPartition, Offset, usize)>,
    recent_bytes: usize,
    handled: Seq,
    doubt: Option<Doubt>,
    commits: watch::Sender<Seq>,
    /// Low marks of dead lanes: recovery may have begun before they rose.
    lows: BTreeMap<LaneId, Seq>,
    /// When idle producers are looked for again, at the next commit.
    expire_at: tokio::time::Instant,
}

impl Task {
    /// A task for `lane`, which was just opened at `from`.
    pub fn new(
        lane: Writer,
        id: LaneId,
        from: Seq,
        options: Options,
        clock: Arc<dyn tidemark_tiering::seam::Clock>,
        prove: Prove,
        commits: watch::Sender<Seq>,
    ) -> Task {
        Task {
            lane,
            id,
            options,
            clock,
            prove,
            partitions: BTreeMap::new(),
            tickets: Tickets::default(),
            parked: Parked::default(),
            recent: VecDeque::new(),
            recent_bytes: 0,
            handled: from,
            doubt: None,
            commits,
            lows: BTreeMap::new(),
            expire_at: tokio::time::Instant::now() + EXPIRY,
        }
    }

    /// Runs until the lane ends; `doors` is open as long.
    pub async fn run(mut self, doors: Partitions, mut orders: mpsc::Receiver<Order>) -> Ended {
        let (writes_in, mut writes) = mpsc::channel(1024);
        let (queries_in, mut queries) = mpsc::channel(1024);
        doors.open(Doors { writes: writes_in, queries: queries_in });
        let ended = loop {
            let room = !self.lane.is_full() && !self.lane.is_behind() && self.doubt.is_none();
            tokio::select! {
                biased;
                event = self.lane.next() => {
                    if let Some(ended) = self.on_event(event) {
                        break ended;
                    }
                }
                proven = async { (&mut self.doubt.as_mut().expect("guarded").proof).await }, if self.doubt.is_some() => {
                    if !self.on_proven(proven) {
                        break Ended::Fenced;
                    }
                }
                order = orders.recv() => match order {
                    None => std::future::pending().await, // the node is being dropped with us
                    Some(Order::Close { by }) => {
                        doors.close();
                        return self.close(&mut writes, by).await;
                    }
                    Some(Order::Fence) => break Ended::Fenced,
                    Some(order) => self.on_order(order),
                },
                query = queries.recv() => {
                    query.into_iter().for_each(|q| self.on_query(q));
                    for _ in 0..BURST {
                        let Ok(query) = queries.try_recv() else { break };
                        self.on_query(query);
                    }
                }
                request = writes.recv(), if room => {
                    request.into_iter().for_each(|r| self.on_produce(r));
                    for _ in 0..BURST {
                        if self.lane.is_full() {
                            break;
                        }
                        let Ok(request) = writes.try_recv() else { break };
                        self.on_produce(request);
                    }
                }
            }
        };
        doors.close();
        self.refuse_all();
        while let Ok(request) = writes.try_recv() {
            refuse(request.writes.len(), request.reply);
        }
        ended
    }

    fn on_event(&mut self, event: Event) -> Option<Ended> {
        match event {
            Event::Committed(moved) => {
                match &mut self.doubt {
                    // R23: the answer is older than T_ack; only a metadata read can tell that nobody sealed us since.
                    None if moved.slow => self.doubt = Some(self.ask(moved.upto)),
                    None => self.commit(moved.upto),
                    Some(doubt) if moved.slow => doubt.again = true,
                    Some(doubt) if !doubt.again => doubt.until = moved.upto,
                    Some(_) => {}
                }
                None
            }
            Event::Fenced { .. } => Some(Ended::Fenced),
            Event::Stuck { seq } => Some(Ended::Stuck(seq)),
        }
    }

    fn ask(&self, until: Seq) -> Doubt {
        Doubt { proof: (self.prove)(self.id), until, again: false }
    }

    /// Whether the lane is still ours: what the proof spoke for is committed, and what came too late for it is asked
    /// about anew.
    fn on_proven(&mut self, proven: bool) -> bool {
        let doubt = self.doubt.take().expect("a proof was under way");
        if proven {
            self.commit(doubt.until);
            self.doubt = doubt.again.then(|| self.ask(self.lane.commit()));
        }
        proven
    }

    /// The lane is durable below `upto`: extents, high watermarks, long polls, acks, in that order.
    fn commit(&mut self, upto: Seq) {
        if upto <= self.handled {
            return;
        }
        for (seq, footer, size) in self.parcels(self.handled, upto) {
            let key = keys::parcel(&self.id, seq);
            let parcel = Arc::new(Parcel { lane: self.id, seq, key, footer, size });
            for (at, part) in parcel.footer.parts.iter().enumerate() {
                let Some(Slot::Open(open)) = self.partitions.get_mut(&part.of) else { continue };
                open.index.push_extent(Extent::new(parcel.clone(), at, 0..part.batches.len()));
                let upto = if planted::is(Bug::WatermarkAhead) { Seq(u64::MAX) } else { upto };
                if open.state.on_durable(upto) {
                    open.waiters.wake_all();
                }
                #[cfg(any(test, debug_assertions))]
                open.state.check();
            }
        }
        self.handled = upto;
        self.commits.send_replace(upto);
        for ticket in self.parked.release(upto) {
            ticket.answer(ErrorCode::UnknownServerError);
        }
        self.forget_recent();
        if tokio::time::Instant::now() >= self.expire_at {
            self.expire_producers();
        }
    }

    fn parcels(&self, from: Seq, to: Seq) -> Vec<(Seq, Arc<Footer>, u64)> {
        let within = self.lane.parcels().filter(|(seq, _)| *seq >= from && *seq < to);
        within.map(|(seq, parcel)| (seq, parcel.footer.clone(), parcel.size)).collect()
    }

    fn on_produce(&mut self, request: Produce) {
        let Produce { writes, early, flush, reply } = request;
        if writes.is_empty() {
            reply.send(Vec::new()).ok();
            return;
        }
        let number = self.tickets.open(writes.len(), reply, early);
        for (slot, write) in writes.into_iter().enumerate() {
            self.on_write(number, slot, write);
        }
        if flush {
            self.lane.flush();
        }
    }

    fn on_write(&mut self, number: u64, slot: usize, write: Write) {
        let (result, durable_with) = match self.partitions.get_mut(&write.tp) {
            Some(Slot::Opening { deferred, .. }) => {
                deferred.push((number, slot, write));
                return;
            }
            Some(Slot::Open(_)) => self.append(write),
            Some(Slot::Offline) => (Err(ErrorCode::KafkaStorageError), None),
            None => (Err(ErrorCode::NotLeaderOrFollower), None),
        };
        if let Some((ticket, durable_with)) = self.tickets.decide(number, slot, result, durable_with) {
            match durable_with {
                Some(seq) if seq >= self.handled && !planted::is(Bug::AckBeforeDurable) => {
                    self.parked.park(seq, ticket)
                }
                _ => ticket.answer(ErrorCode::UnknownServerError),
            }
        }
    }

    /// Admits, stamps and applies one batch; the result holds once the sequence beside it is committed.
    fn append(&mut self, write: Write) -> (Result<Written, ErrorCode>, Option<Seq>) {
        let Some(Slot::Open(open)) = self.partitions.get_mut(&write.tp) else {
            return (Err(ErrorCode::NotLeaderOrFollower), None);
        };
        if write.leader_epoch.is_some_and(|e| e != open.state.leader_epoch()) {
            return (Err(ErrorCode::NotLeaderOrFollower), None);
        }
        let batch = &write.batch;
        let origin = batch.has_producer_id().then(|| Origin {
            id: batch.producer_id(),
            epoch: batch.producer_epoch(),
            first: batch.base_sequence(),
            last: batch.last_sequence(),
        });
        // A coordinator's marker and its own records carry no sequence.
        let origin = origin.filter(|o| o.first >= 0 || batch.is_control());
        let arrival = Arrival {
            origin: origin.filter(|_| !batch.is_control()),
            span: i64::from(batch.last_offset_delta()) + 1,
            transactional: batch.is_transactional(),
            settling: open.opened.elapsed() < SETTLING,
        };
        let log_start = open.state.log_start();
        let admission = match ending(batch) {
            Some(ending) => open.state.admit_end(&ending),
            None => open.state.admit(&arrival),
        };
        let (base, leader_epoch) = match admission {
            Err(code) => return (Err(code), open.state.settled_with()),
            Ok(Admission::Duplicate { mark, durable_with }) => {
                let durable_with = durable_with.filter(|_| !planted::is(Bug::DuplicateAckedEarly));
                return (Ok(Written { base: mark.base, log_start }), durable_with);
            }
            Ok(Admission::Append { base, leader_epoch }) => (base, leader_epoch),
        };
        let Ok(meta) = BatchEntry::of(batch, base, leader_epoch) else {
            return (Err(ErrorCode::CorruptMessage), None);
        };
        let stamped = Stamped::new(batch, base, leader_epoch);
        let facts = Appended { at: self.clock.wall(), ..appended(&meta) };
        let (max_timestamp, last) = (meta.max_timestamp, meta.last_offset);
        let length = stamped.len();
        open.index.push_recent(base, last, max_timestamp, stamped.clone());
        let seq = self.lane.add(Entry {
            topic: write.tp.topic,
            partition: write.tp.partition,
            internal: open.internal,
            batch: stamped,
            meta,
        });
        open.state.apply(&facts, seq);
        #[cfg(any(test, debug_assertions))]
        open.state.check();
        self.recent.push_back((write.tp, last, length));
        self.recent_bytes += length;
        (Ok(Written { base, log_start }), Some(seq))
    }

    fn forget_recent(&mut self) {
        while self.recent_bytes > self.options.recent_bytes_max
            && let Some(&(tp, last, length)) = self.recent.front()
        {
            if let Some(Slot::Open(open)) = self.partitions.get_mut(&tp) {
                if last >= open.state.hw() {
                    break;
                }
                open.index.forget_recent(last);
            }
            self.recent_bytes -= length;
            self.recent.pop_front();
        }
    }

    fn on_order(&mut self, order: Order) {
        match order {
            Order::Lead(leads) => {
                for lead in leads {
                    let slot = Slot::Opening { lead: lead.clone(), deferred: Vec::new() };
                    let before = self.partitions.insert(lead.tp, slot);
                    before.into_iter().for_each(|s| self.drop_slot(s));
                }
            }
            Order::Resign(partitions) => {
                for tp in partitions {
                    let slot = self.partitions.remove(&tp);
                    slot.into_iter().for_each(|s| self.drop_slot(s));
                }
            }
            Order::Opened(found, done) => {
                found.into_iter().for_each(|o| self.on_opened(o));
                done.send(()).ok();
            }
            Order::Cut { upto, bases } => {
                for (tp, base) in bases {
                    if let Some(Slot::Open(open)) = self.partitions.get_mut(&tp) {
                        open.base = base;
                        open.state.forget_expired(&mut open.base);
                        open.index.forget_extents(self.id, upto);
                    }
                }
                self.lane.set_low(upto);
            }
            Order::Low { lane, low } => {
                self.lows.insert(lane, low);
                for slot in self.partitions.values_mut() {
                    if let Slot::Open(open) = slot {
                        open.index.forget_extents(lane, low);
                    }
                }
            }
            Order::Tune(options) => {
                self.options = options;
                self.expire_producers();
            }
            Order::CutInput { reply } => {
                let upto = self.handled;
                let parcels = self.parcels(Seq(0), upto);
                let bases = self.partitions.iter().filter_map(|(tp, slot)| match slot {
                    Slot::Open(open) => Some((*tp, (open.state.leader_epoch(), open.base.clone()))),
                    _ => None,
                });
                reply.send(CutInput { upto, parcels, bases: bases.collect() }).ok();
            }
            Order::Fence | Order::Close { .. } => unreachable!("handled by the loop"),
        }
    }

    fn on_opened(&mut self, found: Opened) {
        let Some(Slot::Opening { lead, .. }) = self.partitions.get(&found.tp) else { return };
        if lead.leader_epoch != found.leader_epoch {
            return; // an older order's recovery; the newer one's is under way
        }
        let slot = match found.result {
            Ok((mut base, mut index)) => {
                for (lane, low) in &self.lows {
                    index.forget_extents(*lane, *low);
                }
                base.producers.refresh(self.clock.wall());
                if planted::is(Bug::ProducersForgotten) {
                    base.producers = Producers::default();
                }
                let state = State::open(base.clone(), found.leader_epoch);
                let internal = lead.internal;
                Slot::Open(Box::new(Open {
                    opened: tokio::time::Instant::now(),
                    state,
                    index,
                    waiters: Waiters::default(),
                    base,
                    internal,
                }))
            }
            Err(error) => {
                tracing::error!(partition = %found.tp, %error, "partition is offline: its log cannot be recovered");
                Slot::Offline
            }
        };
        if let Some(Slot::Opening { deferred, .. }) = self.partitions.insert(found.tp, slot) {
            for (number, at, write) in deferred {
                self.on_write(number, at, write);
            }
        }
    }

    /// Producers idle since before it are forgotten.
    fn producer_deadline(&self) -> Millis {
        Millis(self.clock.wall().0.saturating_sub(self.options.producer_expiration_ms))
    }

    fn expire_producers(&mut self) {
        self.expire_at = tokio::time::Instant::now() + EXPIRY;
        let deadline = self.producer_deadline();
        for slot in self.partitions.values_mut() {
            if let Slot::Open(open) = slot {
                open.state.expire_producers(deadline);
            }
        }
    }

    fn drop_slot(&mut self, slot: Slot) {
        match slot {
            Slot::Opening { deferred, .. } => {
                for (number, at, _) in deferred {
                    let refused = Err(ErrorCode::NotLeaderOrFollower);
                    if let Some((ticket, wait)) = self.tickets.decide(number, at, refused, None) {
                        match wait {
                            Some(seq) if seq >= self.handled => self.parked.park(seq, ticket),
                            _ => ticket.answer(ErrorCode::NotLeaderOrFollower),
                        }
                    }
                }
            }
            Slot::Open(mut open) => open.waiters.wake_all(),
            Slot::Offline => {}
        }
    }

    fn find(&self, tp: TopicPartition, current: Option<LeaderEpoch>) -> Result<&Open, ErrorCode> {
        let open = match self.partitions.get(&tp) {
            Some(Slot::Open(open)) => open,
            Some(Slot::Offline) => return Err(ErrorCode::KafkaStorageError),
            Some(Slot::Opening { .. }) | None => return Err(ErrorCode::NotLeaderOrFollower),
        };
        match current.map(|c| c.cmp(&open.state.leader_epoch())) {
            Some(std::cmp::Ordering::Less) => Err(ErrorCode::FencedLeaderEpoch),
            Some(std::cmp::Ordering::Greater) => Err(ErrorCode::UnknownLeaderEpoch),
            _ => Ok(open),
        }
    }

    fn on_query(&mut self, query: Query) {
        match query {
            Query::Plan { asks, bytes_max, waiter, reply } => {
                let mut room = bytes_max;
                let mut first = true;
                let looks = asks.iter().map(|ask| self.look(ask, &mut room, &mut first)).collect();
                if let Some(waiter) = waiter {
                    for ask in &asks {
                        if let Some(Slot::Open(open)) = self.partitions.get_mut(&ask.tp) {
                            open.waiters.add(waiter.clone());
                        }
                    }
                }
                reply.send(looks).ok();
            }
            Query::Bounds { of, reply } => {
                let bounds = of.into_iter().map(|(tp, current)| self.find(tp, current).map(Open::bounds));
                reply.send(bounds.collect()).ok();
            }
            Query::Time { tp, instant, from, until, reply } => {
                reply.send(self.find(tp, None).map(|open| open.find_time(instant, from, until))).ok();
            }
            Query::EpochEnd { tp, current, asked, reply } => {
                reply.send(self.find(tp, current).map(|open| open.state.epoch_end(asked))).ok();
            }
            Query::EpochAt { tp, offset, reply } => {
                reply.send(self.find(tp, None).map(|open| open.state.epoch_at(offset))).ok();
            }
            Query::LogStarts { to, reply } => {
                for (tp, offset) in to {
                    if let Some(Slot::Open(open)) = self.partitions.get_mut(&tp) {
                        open.state.raise_log_start(offset);
                        open.base.producers.forget_aborted(offset);
                        // Who waits below it learns that it is gone.
                        open.waiters.wake_all();
                    }
                }
                reply.send(()).ok();
            }
            Query::Producers { tp, reply } => {
                reply.send(self.find(tp, None).map(|open| open.state.producers())).ok();
            }
            Query::Survey { reply } => {
                let rows = self.partitions.iter().filter_map(|(tp, slot)| match slot {
                    Slot::Open(open) => Some(open.row(*tp)),
                    _ => None,
                });
                reply.send(rows.collect()).ok();
            }
        }
    }

    fn look(&self, ask: &Ask, room: &mut usize, first: &mut bool) -> Result<Look, ErrorCode> {
        let open = self.find(ask.tp, ask.leader_epoch)?;
        let bounds = open.bounds();
        if ask.offset < bounds.log_start || ask.offset > open.state.end() {
            return Err(ErrorCode::OffsetOutOfRange);
        }
        let until = if ask.committed { bounds.lso } else { bounds.hw };
        let appetite = Appetite { bytes_max: ask.bytes_max.min(*room), at_least_one: *first };
        let (sources, bytes) = open.index.plan(ask.offset, until, open.state.end(), appetite);
        *first &= bytes == 0;
        *room = room.saturating_sub(bytes);
        let end = || sources.iter().filter_map(Source::until).max();
        let within = |until| open.state.aborted(ask.offset, until);
        let aborted = ask.committed.then(|| end().map_or_else(Vec::new, within));
        Ok(Look { bounds, sources, bytes, aborted })
    }

    /// R12: everything open is answered, then the owner seals its lane as the last act.
    async fn close(mut self, writes: &mut mpsc::Receiver<Produce>, by: Sealer) -> Ended {
        writes.close();
        while let Ok(request) = writes.try_recv() {
            self.on_produce(request);
        }
        let mut ended = None;
        while ended.is_none() {
            let Some(event) = self.lane.drain().await else { break };
            ended = self.on_event(event);
            while let Some(doubt) = &mut self.doubt
                && ended.is_none()
            {
                let proven = (&mut doubt.proof).await;
                ended = (!self.on_proven(proven)).then_some(Ended::Fenced);
            }
        }
        if ended.is_none() {
            self.commit(self.lane.commit());
        }
        self.refuse_all();
        match ended {
            Some(ended) => ended,
            None => self.lane.seal_own(&by).await.map_or(Ended::Fenced, Ended::Sealed),
        }
    }

    fn refuse_all(&mut self) {
        for ticket in self.parked.release_all().into_iter().chain(self.tickets.take()) {
            ticket.refuse(ErrorCode::NotLeaderOrFollower);
        }
        for slot in std::mem::take(&mut self.partitions).into_values() {
            if let Slot::Open(mut open) = slot {
                open.waiters.wake_all();
            }
        }
    }
}

/// What a batch ends, if it is a transaction marker.
fn ending(batch: &Batch) -> Option<Ending> {
    let EndMarker { outcome, producer, epoch, coordinator_epoch } = EndMarker::read(batch).ok()??;
    let end = End { commit: outcome == Outcome::Commit, coordinator_epoch };
    Some(Ending { producer, epoch, end })
}

fn refuse(writes: usize, reply: oneshot::Sender<WriteResults>) {
    reply.send(vec![Err(ErrorCode::NotLeaderOrFollower); writes]).ok();
}

impl Open {
    fn bounds(&self) -> Bounds {
        Bounds {
            log_start: self.state.log_start(),
            hw: self.state.hw(),
            lso: self.state.lso(),
            leader_epoch: self.state.leader_epoch(),
        }
    }

    fn find_time(&self, instant: Instant, from: Offset, until: Offset) -> Option<super::index::Source> {
        let from = from.max(self.state.log_start());
        match instant {
            Instant::AtOrAfter(target) => self.index.find_time(target, from, until),
            Instant::Largest => {
                let largest = self.index.max_timestamp(from, until)?;
                self.index.find_time(largest, from, until)
            }
        }
    }

    fn row(&self, tp: TopicPartition) -> Row {
        Row {
            tp,
            bounds: self.bounds(),
            end: self.state.end(),
            producers: self.state.producer_count(),
            stored_bytes: self.index.stored_bytes(),
            waiting: self.waiters.count(),
        }
    }
}
