//! Reads near the reader (KIP-392): a broker that a partition lists as replica serves consumers from the bucket.
//!
//! Nothing is replicated. The replica asks the leader, for every fetch, what is committed and where it lies (a *plan*),
//! and reads that from the bucket through its own cache. So all bounds are the leader's, given under the leader's own
//! fresh session (R24, R25), and no reader sees a high watermark go back. A long poll waits at the leader. Whatever fails
//! sends the client back to the leader. Knows no request and no session of a client.

mod answer;
mod choice;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use tidemark_proto::id::{BrokerId, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_tiering::lru::Lru;
use tidemark_tiering::planted::{self, Bug};
use tidemark_tiering::witness::{Sight, saw};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::cluster::Cluster;
use crate::partition::index::Source;
use crate::partition::{Ask, Bounds, Look};

pub use answer::Answers;
pub use choice::{Seat, nearest, to_ask};

/// Longest wait that one question asks for; who wants to wait longer asks again.
const WAIT: Duration = Duration::from_secs(5);
/// What a question may take beyond its wait.
const SLACK: Duration = Duration::from_secs(1);
/// How long runs that the leader knows may take to be known here.
const METADATA: Duration = Duration::from_secs(1);
/// Questions in flight.
const QUESTIONS: usize = 2_048;
/// Before a leader is asked again that had no room for one more to wait.
const CROWDED: Duration = Duration::from_millis(100);
/// A client that comes back to the leader within this time of being sent away stays there.
const AGAIN: Duration = Duration::from_secs(30);
/// Clients sent away that are remembered.
const SENT: usize = 16_384;

/// What readers of one fetch want together.
#[derive(Clone, Copy, Debug)]
pub struct Hunger {
    /// Bytes at most.
    pub bytes_max: usize,
    /// Bytes worth an answer before the time is up.
    pub bytes_min: usize,
}

/// A question to a leader.
#[derive(Clone, Debug)]
struct Question {
    asks: Vec<Ask>,
    hunger: Hunger,
    wait: Duration,
}

/// What came back for each partition asked for, by the number the caller gave it.
pub type Told = Vec<(usize, Result<Look, ErrorCode>)>;

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Questions asked of leaders.
    pub asked: u64,
    /// Of these, those without an answer to use.
    pub unanswered: u64,
    /// Plans given to replicas.
    pub answered: u64,
    /// Partitions whose records were served here and led elsewhere.
    pub served: u64,
    /// Bytes of these.
    pub served_bytes: u64,
    /// Clients' partitions sent to a replica near them.
    pub sent: u64,
}

/// See the module. Clones share it.
#[derive(Clone, Debug)]
pub struct Near(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    cluster: Cluster,
    questions: Semaphore,
    sent: Mutex<Lru<(u64, TopicPartition), Instant>>,
    tallies: [AtomicU64; 6],
    /// For a planted bug: the first bounds told.
    kept: Mutex<BTreeMap<TopicPartition, Bounds>>,
}

/// What is counted.
#[derive(Clone, Copy)]
enum Tally {
    Asked,
    Unanswered,
    Answered,
    Served,
    Bytes,
    Sent,
}

impl Near {
    /// Asks leaders by way of `cluster`.
    pub fn new(cluster: Cluster) -> Near {
        let (questions, sent) = (Semaphore::new(QUESTIONS), Mutex::new(Lru::new(SENT)));
        Near(Arc::new(Inner {
            cluster,
            questions,
            sent,
            tallies: Default::default(),
            kept: Mutex::default(),
        }))
    }

    /// What `leaders` let this broker serve. Comes back at the latest after `wait`, and as soon as one of them has
    /// enough to tell; the others are then asked for what they have now.
    pub async fn plan(
        &self,
        leaders: BTreeMap<BrokerId, Vec<(usize, Ask)>>,
        hunger: Hunger,
        wait: Duration,
    ) -> Told {
        let (mut told, mut open) = (Told::new(), leaders);
        let mut wait = wait.min(WAIT);
        loop {
            let mut asked: FuturesUnordered<_> =
                open.iter().map(|(leader, asks)| self.ask(*leader, asks.clone(), hunger, wait)).collect();
            let mut hurry = false;
            let mut done = Vec::new();
            while let Some((leader, rows)) = asked.next().await {
                done.push(leader);
                hurry |= !wait.is_zero() && has_news(&rows, hunger);
                told.extend(rows);
                if hurry {
                    break;
                }
            }
            drop(asked);
            open.retain(|leader, _| !done.contains(leader));
            if open.is_empty() {
                return told;
            }
            wait = Duration::ZERO;
        }
    }

    async fn ask(
        &self,
        leader: BrokerId,
        asks: Vec<(usize, Ask)>,
        hunger: Hunger,
        wait: Duration,
    ) -> (BrokerId, Told) {
        let (numbers, asks): (Vec<usize>, Vec<Ask>) = asks.into_iter().unzip();
        let asked = timeout(wait + SLACK, self.question(leader, Question { asks, hunger, wait })).await;
        let rows = asked.ok().flatten().unwrap_or_else(|| {
            self.count(Tally::Unanswered, 1);
            numbers.iter().map(|_| Err(ErrorCode::NotLeaderOrFollower)).collect()
        });
        (leader, numbers.into_iter().zip(rows).collect())
    }

    async fn question(&self, leader: BrokerId, question: Question) -> Option<wire::Rows> {
        let _turn = self.0.questions.acquire().await.ok()?;
        self.count(Tally::Asked, 1);
        let cluster = &self.0.cluster;
        let body = wire::question_to(&question);
        let mut answered = match cluster.ask_reads(leader, body).await {
            Ok(body) => wire::answer_from(body, &question)
                .inspect_err(|why| tracing::warn!(%leader, why, "a plan was not understood"))
                .ok()?,
            Err(error) => {
                tracing::debug!(%leader, %error, "a leader did not give its plan");
                return None;
            }
        };
        if planted::is(Bug::BoundsKept) {
            self.keep_bounds(&question, &mut answered.rows);
        }
        if answered.crowded && !question.wait.is_zero() && !has_news_in(&answered.rows, question.hunger) {
            tokio::time::sleep(CROWDED.min(question.wait)).await;
        }
        let archived = |look: &Look| look.sources.iter().any(|s| matches!(s, Source::Archived { .. }));
        let in_runs = answered.rows.iter().flatten().any(archived);
        match in_runs && !cluster.reaches(answered.at, METADATA).await {
            true => None,
            false => Some(answered.rows),
        }
    }

    /// Whether the client behind `connection` is to be sent elsewhere for the partition. One that was sent away a moment
    /// ago and is back did not get there, or got nothing: it is served here for a while.
    pub fn sends(&self, connection: u64, tp: TopicPartition) -> bool {
        let now = Instant::now();
        let mut sent = self.0.sent.lock();
        if sent.get(&(connection, tp)).is_some_and(|at| now.duration_since(*at) < AGAIN) {
            return false;
        }
        sent.insert((connection, tp), now, 1);
        drop(sent);
        self.count(Tally::Sent, 1);
        saw(Sight::SentNear);
        true
    }

    /// `bytes` of a partition led elsewhere were served.
    pub fn served(&self, bytes: usize) {
        self.count(Tally::Served, 1);
        self.count(Tally::Bytes, bytes as u64);
        saw(Sight::ReadNear);
    }

    fn answered(&self) {
        self.count(Tally::Answered, 1);
    }

    fn count(&self, tally: Tally, by: u64) {
        self.0.tallies[tally as usize].fetch_add(by, Ordering::Relaxed);
    }

    /// Counts since the start.
    pub fn counts(&self) -> Counts {
        let of = |tally: Tally| self.0.tallies[tally as usize].load(Ordering::Relaxed);
        Counts {
            asked: of(Tally::Asked),
            unanswered: of(Tally::Unanswered),
            answered: of(Tally::Answered),
            served: of(Tally::Served),
            served_bytes: of(Tally::Bytes),
            sent: of(Tally::Sent),
        }
    }

    /// [`Bug::BoundsKept`]: what was told first is taken for what holds now.
    fn keep_bounds(&self, question: &Question, rows: &mut wire::Rows) {
        let mut kept = self.0.kept.lock();
        for (ask, look) in question.asks.iter().zip(rows) {
            if let Ok(look) = look {
                look.bounds = *kept.entry(ask.tp).or_insert(look.bounds);
            }
        }
    }
}

fn has_news(told: &Told, hunger: Hunger) -> bool {
    worth_telling(told.iter().map(|(_, row)| row), hunger)
}

fn has_news_in(rows: &wire::Rows, hunger: Hunger) -> bool {
    worth_telling(rows.iter(), hunger)
}

/// Whether an answer need not wait: an error, or bytes enough.
fn worth_telling<'a>(rows: impl Iterator<Item = &'a Result<Look, ErrorCode>>, hunger: Hunger) -> bool {
    let mut bytes = 0;
    for row in rows {
        match row {
            Err(_) => return true,
            Ok(look) => bytes += look.bytes,
        }
    }
    bytes >= hunger.bytes_min
}

/// Leaves what several leaders gave within `bytes_max` together, in the order of the partitions; the first that has
/// any keeps it all (KIP-74). A partition that comes too late keeps its bounds and its turn comes with the next fetch.
pub fn within<'a>(looks: impl Iterator<Item = &'a mut Look>, bytes_max: usize) {
    let mut taken = 0;
    for look in looks.filter(|look| look.bytes > 0) {
        if taken > 0 && taken + look.bytes > bytes_max {
            look.empty();
        }
        taken += look.bytes;
    }
}
