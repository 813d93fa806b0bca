//! A lane's only writer: entries in, parcels out, events when they are committed.
//!
//! R1: a writer belongs to one life and one broker epoch and is never resumed. R14: after `Fenced` nothing
//! commits any more, whatever is added. R5 and R23 ride in `Committed`. The owner holds every reply until the
//! sequence number that `add` gave is below the commit. Nothing is sent while nothing is added.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tidemark_proto::id::{ClusterId, LaneId, Seq};
use tokio::time::Instant;

use super::seal;
use super::state::{Dial, State};
use crate::bucket::{self, Bucket};
use crate::error::Error;
use crate::format::HEADER_LEN;
use crate::format::seal::Sealer;
use crate::keys;
use crate::log::{self, Appender, Committed, Limits};
use crate::parcel::{Entry, Fact, Footer, build};
use crate::seam::{Entropy, Seams};
use crate::witness::{Sight, saw};

/// How a lane behaves.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// When parcels close.
    pub dial: Dial,
    /// What is in flight.
    pub limits: Limits,
}

impl Options {
    /// The defaults for a bucket: its price table decides whether PUTs need tokens. In a directory a second copy
    /// would only wait behind the first, on the same disk: nothing is hedged there.
    pub fn for_bucket(bucket: &Bucket) -> Options {
        let mut limits = Limits::default();
        if bucket.directory().is_some() {
            limits.hedges = 0;
        }
        Options { dial: Dial::new(bucket.is_free()), limits }
    }
}

/// What a lane tells its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Everything below `upto` is committed (R5). If `slow`, prove the lane unsealed before acking (R23).
    Committed(Committed),
    /// The lane is not ours any more (R14): stop acking, fail what waits, drop all state. Told once.
    Fenced {
        /// Where another object stands.
        seq: Seq,
        /// Who sealed the lane; `None` for an object that is no seal of this lane, which is an alarm.
        by: Option<Sealer>,
    },
    /// T_stuck has passed (R7): accept nothing more, seal the lane, register anew.
    Stuck {
        /// The oldest parcel that is not durable.
        seq: Seq,
    },
}

/// A parcel this writer sent.
#[derive(Clone, Debug)]
pub struct OwnParcel {
    /// Its footer.
    pub footer: Arc<Footer>,
    /// Bytes of the whole object.
    pub size: u64,
    /// When it was first sent.
    pub sent: Instant,
}

/// A lane in numbers, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// PUTs in flight.
    pub in_flight: usize,
    /// Bytes added and not committed.
    pub unacked_bytes: u64,
    /// Parcels committed.
    pub committed: u64,
    /// PUTs sent again because the first was slow.
    pub hedges: u64,
    /// Parcels above the low mark: what a takeover would read.
    pub above_low: usize,
    /// How long a parcel may stay open at present (the dial's D).
    pub longest_wait: Duration,
}

/// Parcels above the low mark at which a lane is behind.
const PARCELS: usize = 512;

#[derive(Debug, Default)]
struct Contents {
    entries: Vec<Entry>,
    facts: Vec<Fact>,
}

/// See the module.
#[derive(Debug)]
pub struct Writer {
    cluster: ClusterId,
    lane: LaneId,
    bucket: Bucket,
    seams: Seams,
    entropy: Entropy,
    state: State,
    waiting: VecDeque<Contents>, // as the state counts them
    appender: Appender,
    acked: Seq,
    parcels: BTreeMap<Seq, OwnParcel>,
}

impl Writer {
    /// Opens a lane that nobody has written to: its first parcel is 0. Sends nothing.
    pub fn open(lane: LaneId, cluster: ClusterId, bucket: Bucket, seams: &Seams, options: Options) -> Writer {
        let key_of = Arc::new(move |seq| keys::parcel(&lane, seq));
        let kind = bucket::Kind::Parcel;
        let appender = Appender::new(bucket.clone(), kind, key_of, HEADER_LEN, Seq(0), options.limits, seams);
        Writer {
            cluster,
            lane,
            bucket,
            seams: seams.clone(),
            entropy: seams.entropy.clone(),
            state: State::new(options.dial),
            waiting: VecDeque::new(),
            appender,
            acked: Seq(0),
            parcels: BTreeMap::new(),
        }
    }

    /// The lane.
    pub fn lane(&self) -> LaneId {
        self.lane
    }

    /// Adds a batch; it is durable once the returned parcel is committed.
    pub fn add(&mut self, entry: Entry) -> Seq {
        self.add_together(vec![entry])
    }

    /// Adds batches that become durable together or not at all.
    pub fn add_together(&mut self, entries: Vec<Entry>) -> Seq {
        let bytes = entries.iter().map(|entry| entry.len() as u64).sum();
        let (seq, at) = self.room_for(bytes);
        self.waiting[at].entries.extend(entries);
        self.send();
        seq
    }

    /// Adds a fact.
    pub fn fact(&mut self, fact: Fact) -> Seq {
        let (seq, at) = self.room_for(64);
        self.waiting[at].facts.push(fact);
        self.send();
        seq
    }

    /// Sends what waits as soon as the window has room, whatever the dial says.
    pub fn flush(&mut self) {
        self.state.flush();
        self.send();
    }

    /// What happens next. Cancel-safe. Must be polled for parcels to close in time.
    pub async fn next(&mut self) -> Event {
        loop {
            self.send();
            let wake = if self.appender.has_room() { self.state.wake(Instant::now()) } else { None };
            let event = tokio::select! {
                biased;
                event = self.appender.next() => event,
                () = sleep_until(wake) => continue,
            };
            return match event {
                log::Event::Committed(moved) => {
                    let count = moved.upto.0 - self.acked.0;
                    self.state.acked(Instant::now(), count as usize);
                    self.acked = moved.upto;
                    self.send();
                    Event::Committed(moved)
                }
                log::Event::Fenced { seq, found } => {
                    let by = seal::of_lane(self.cluster, self.lane, seq, &found);
                    if by.is_some() {
                        saw(Sight::ZombiePut);
                    } else {
                        let key = keys::parcel(&self.lane, seq);
                        tracing::error!(key, "a foreign object stands in this lane: stopped (R4)");
                    }
                    Event::Fenced { seq, by }
                }
                log::Event::Stuck { seq } => Event::Stuck { seq },
            };
        }
    }

    /// The end of what is committed.
    pub fn commit(&self) -> Seq {
        self.appender.commit()
    }

    /// The end of what was ever given to the lane, once it is all sent.
    pub fn end(&self) -> Seq {
        Seq(self.appender.next_seq().0 + self.waiting.len() as u64)
    }

    /// Whether everything added is committed.
    pub fn is_drained(&self) -> bool {
        self.commit() == self.end()
    }

    /// Whether the lane was fenced.
    pub fn is_fenced(&self) -> bool {
        self.appender.fence().is_some()
    }

    /// Bytes added and not committed.
    pub fn unacked_bytes(&self) -> u64 {
        self.state.unacked_bytes()
    }

    /// The lane in numbers.
    pub fn gauges(&self) -> Gauges {
        Gauges {
            in_flight: self.appender.in_flight(),
            unacked_bytes: self.unacked_bytes(),
            committed: self.commit().0,
            hedges: self.appender.hedges(),
            above_low: self.parcels.len(),
            longest_wait: self.longest_wait(),
        }
    }

    /// Whether producers must wait.
    pub fn is_full(&self) -> bool {
        self.state.is_full()
    }

    /// Whether cuts have fallen so far behind that producers must wait: a takeover reads every footer from the
    /// low mark on, so there may be no more than one cut running and one filling.
    pub fn is_behind(&self) -> bool {
        self.parcels.len() >= PARCELS
    }

    /// Own committed parcels from the low mark on, as [`crate::upkeep::cut::plan`] takes them.
    pub fn committed(&self) -> impl Iterator<Item = (Seq, u64, Instant)> {
        let own = self.parcels.range(..self.commit());
        own.map(|(seq, parcel)| (*seq, parcel.size, parcel.sent))
    }

    /// The dial's present D, a metric.
    pub fn longest_wait(&self) -> Duration {
        self.state.longest_wait()
    }

    /// Own parcels from the low mark on, the un-acked ones included.
    pub fn parcels(&self) -> impl DoubleEndedIterator<Item = (Seq, &OwnParcel)> {
        self.parcels.iter().map(|(seq, parcel)| (*seq, parcel))
    }

    /// One of them.
    pub fn parcel(&self, seq: Seq) -> Option<&OwnParcel> {
        self.parcels.get(&seq)
    }

    /// The low mark rose (R19, by metadata commit): footers below it are forgotten.
    pub fn set_low(&mut self, low: Seq) {
        self.parcels = self.parcels.split_off(&low);
    }

    /// Sends all that waits and gives events until it is committed: `None` then. Cancel-safe.
    pub async fn drain(&mut self) -> Option<Event> {
        self.flush();
        if self.is_drained() {
            return None;
        }
        Some(self.next().await)
    }

    /// R12: seals the lane as the owner's last act. What is not committed by then is void or not as the
    /// bucket has it: nobody may be told of it any more.
    pub async fn seal_own(self, by: &Sealer) -> Result<Seq, Error> {
        let Writer { cluster, lane, bucket, seams, appender, .. } = self;
        let low = appender.commit();
        drop(appender); // ends every PUT first
        seal::seal(&bucket, cluster, lane, low, by, &seams).await
    }

    /// The parcel the next `bytes` go to, and its place among those that wait.
    fn room_for(&mut self, bytes: u64) -> (Seq, usize) {
        let at = self.state.add(Instant::now(), bytes);
        if at == self.waiting.len() {
            self.waiting.push_back(Contents::default());
        }
        (Seq(self.appender.next_seq().0 + at as u64), at)
    }

    /// Closes and sends what the dial and the window let go.
    fn send(&mut self) {
        while self.appender.has_room() && self.state.close(Instant::now(), self.appender.in_flight()) {
            let Some(contents) = self.waiting.pop_front() else { break };
            let seq = self.appender.next_seq();
            let nonce = self.entropy.nonce();
            let built = build(self.cluster, self.lane, seq, nonce, contents.entries, contents.facts);
            let size = built.body.len() as u64;
            self.parcels.insert(seq, OwnParcel { footer: built.footer, size, sent: Instant::now() });
            self.appender.push(built.body);
        }
    }
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}
