//! The owner of one lane and of every partition whose log runs in it.
//!
//! A single loop: lane events first, then what recovery found, then queries, then writes (only while the lane has
//! room). Every ack, high watermark and read follows from the lane's commit alone (R5). When the lane ends the
//! task answers everybody `NotLeaderOrFollower` and is gone; nothing is rolled back.

mod close;
mod doubt;
mod order;
mod query;
mod release;
#[cfg(test)]
mod tests;
mod write;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tidemark_proto::id::{LaneId, Offset, Seq, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_tiering::hot::disks::Hot;
use tidemark_tiering::keys;
use tidemark_tiering::lane::{Event, Writer};
use tidemark_tiering::parcel::Footer;
use tidemark_tiering::planted::{self, Bug};
use tidemark_tiering::watch;
use tokio::sync::mpsc;

use super::base::Base;
use super::index::{Extent, Index, Parcel};
use super::parked::Parked;
use super::state::State;
use super::ticket::{Ticket, Tickets};
use super::waiters::Waiters;
use super::{Doors, Partitions, Write};

use close::refuse;
use doubt::Doubt;

use release::{Departed, Leaving, Release};

pub use doubt::Prove;
pub use order::{CutAsk, CutInput, Lead, Order};
pub use release::Settled;

/// Requests taken from a queue before lane events get their turn.
const BURST: usize = 64;

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

/// How far a lane is committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Everything below is durable.
    pub upto: Seq,
    /// Bytes of all parcels below, from the lane's beginning on.
    pub bytes: u64,
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
    /// When it was opened, or went on after it had refused writes.
    opened: tokio::time::Instant,
    state: State,
    index: Index,
    waiters: Waiters,
    base: Base,
    internal: bool,
    leaving: Option<Leaving>,
}

enum Slot {
    /// `log_start`: the metadata raised it to here since recovery began.
    Opening {
        lead: Lead,
        deferred: Vec<(u64, usize, Write)>,
        log_start: Offset,
    },
    Open(Box<Open>),
    Offline,
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
    commits: watch::Sender<Committed>,
    committed_bytes: u64,
    /// Low marks of dead lanes: recovery may have begun before they rose.
    lows: BTreeMap<LaneId, Seq>,
    /// When idle producers are looked for again, at the next commit.
    expire_at: tokio::time::Instant,
    hot: Hot,
    releases: Vec<Release>,
    /// Partitions that left and whose batches in the lane are not cut yet.
    departed: BTreeMap<TopicPartition, Departed>,
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
        commits: watch::Sender<Committed>,
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
            committed_bytes: 0,
            lows: BTreeMap::new(),
            expire_at: tokio::time::Instant::now() + EXPIRY,
            hot: Hot::none(),
            releases: Vec::new(),
            departed: BTreeMap::new(),
        }
    }

    /// Feeds `hot` with what is committed.
    pub fn with_hot(self, hot: Hot) -> Task {
        Task { hot, ..self }
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

    /// The lane is durable below `upto`: extents, high watermarks, long polls, acks, in that order.
    fn commit(&mut self, upto: Seq) {
        if upto <= self.handled {
            return;
        }
        for (seq, footer, size) in self.parcels(self.handled, upto) {
            self.committed_bytes += size;
            let key = keys::parcel(&self.id, seq);
            let parcel = Arc::new(Parcel { lane: self.id, seq, key, footer, size });
            for (at, part) in parcel.footer.parts.iter().enumerate() {
                let Some(Slot::Open(open)) = self.partitions.get_mut(&part.of) else { continue };
                open.index.push_extent(Extent::new(parcel.clone(), at, 0..part.batches.len()));
                if let (true, [first, .., last] | [first @ last]) = (self.hot.is_there(), &part.batches[..]) {
                    self.hot.offer(part.of, open.index.recent(first.base_offset, last.last_offset));
                }
                let upto = if planted::is(Bug::WatermarkAhead) { Seq(u64::MAX) } else { upto };
                if open.state.on_durable(upto) {
                    open.waiters.wake_all();
                }
                #[cfg(any(test, debug_assertions))]
                open.state.check();
            }
        }
        self.handled = upto;
        self.settle_releases();
        self.commits.send_replace(Committed { upto, bytes: self.committed_bytes });
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
}
