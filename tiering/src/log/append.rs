//! The driver of a fenced log's writer: sends at once, hedges, and tells what became of it.
//!
//! Every copy of an object is a task that ends with the appender (R2: all send the same bytes). Two things
//! end an ownership: another object at one of our keys (fence), and the caller dropping the appender. Knows
//! no format: what another object is, the caller reads from its bytes.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidemark_proto::id::Seq;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::window::{Committed, Limits, Window};
use crate::bucket::{Body, Bucket, Kind, Placed};
use crate::seam::{Seams, Tasks};

/// How a log's window behaves.
pub type Options = Limits;

/// Names the object of a sequence number.
pub type KeyOf = Arc<dyn Fn(Seq) -> String + Send + Sync>;

/// What became of what was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The commit moved (R5).
    Committed(Committed),
    /// Another object stands at `seq`: this ownership is over for ever (R14, E4). Told once.
    Fenced {
        /// Where.
        seq: Seq,
        /// The first bytes of what is there.
        found: Bytes,
    },
    /// The oldest un-acked object has not become durable for T_stuck (R7). It is still being sent.
    Stuck {
        /// Which.
        seq: Seq,
    },
}

/// Copies that lost to another and may finish so that their latency is learned.
const LOSERS: usize = 16;

/// See the module.
pub struct Appender {
    bucket: Bucket,
    kind: Kind,
    key_of: KeyOf,
    identity: usize,
    tasks: Tasks,
    window: Window,
    sent: BTreeMap<Seq, Sent>,
    losers: VecDeque<Copy>,
    answers: mpsc::Receiver<Answer>,
    answer: mpsc::Sender<Answer>,
    moved: Option<Committed>,
    found: Option<(Seq, Bytes)>,
    hedges: u64,
}

/// An object that is not durable yet.
struct Sent {
    body: Body,
    copies: Vec<Copy>,
}

/// A running copy; ends when dropped.
struct Copy {
    size: u64,
    /// When a first copy was sent; hedges are not timed.
    first: Option<Instant>,
    task: AbortHandle,
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Answer {
    seq: Seq,
    size: u64,
    took: Option<Duration>,
    placed: Placed,
}

impl Appender {
    /// A log's writer whose first object is `from`. The first `identity` bytes of an object tell writers apart.
    pub fn new(
        bucket: Bucket,
        kind: Kind,
        key_of: KeyOf,
        identity: usize,
        from: Seq,
        options: Options,
        seams: &Seams,
    ) -> Appender {
        let (answer, answers) = mpsc::channel(options.in_flight.max(1) * 4);
        Appender {
            bucket,
            kind,
            key_of,
            identity,
            tasks: seams.tasks.clone(),
            window: Window::new(from, options),
            sent: BTreeMap::new(),
            losers: VecDeque::new(),
            answers,
            answer,
            moved: None,
            found: None,
            hedges: 0,
        }
    }

    /// Sends `body` as the next object, at once; ask [`Appender::has_room`] first. After a fence nothing is
    /// sent any more, and what is given can never commit.
    pub fn push(&mut self, body: Body) -> Seq {
        let now = Instant::now();
        let next = self.window.next();
        if let Some(seq) = self.window.send(now, body.len() as u64) {
            self.sent.insert(seq, Sent { body, copies: Vec::with_capacity(1) });
            self.copy(seq, Some(now));
        }
        next
    }

    /// Whether another object may be sent.
    pub fn has_room(&self) -> bool {
        self.window.has_room()
    }

    /// The end of the contiguous durable prefix.
    pub fn commit(&self) -> Seq {
        self.window.commit()
    }

    /// The next object's sequence number.
    pub fn next_seq(&self) -> Seq {
        self.window.next()
    }

    /// Objects sent and not durable.
    pub fn in_flight(&self) -> usize {
        self.window.in_flight()
    }

    /// Copies sent because an earlier one was slow.
    pub fn hedges(&self) -> u64 {
        self.hedges
    }

    /// Where the log was fenced, once it was.
    pub fn fence(&self) -> Option<Seq> {
        self.window.fence()
    }

    /// What happens next. Cancel-safe: nothing is lost when the future is dropped. Without anything in
    /// flight, and after a fence was told, it never resolves.
    pub async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.ready() {
                return event;
            }
            let wake = self.window.wake();
            tokio::select! {
                biased;
                Some(answer) = self.answers.recv() => self.settle(answer),
                () = sleep_until(wake) => {}
            }
        }
    }

    fn ready(&mut self) -> Option<Event> {
        while let Ok(answer) = self.answers.try_recv() {
            self.settle(answer);
        }
        if let Some((seq, found)) = self.found.take() {
            self.moved = None; // R14: stop acking at once
            self.sent.clear();
            self.losers.clear();
            return Some(Event::Fenced { seq, found });
        }
        if let Some(moved) = self.moved.take() {
            return Some(Event::Committed(moved));
        }
        let now = Instant::now();
        while let Some(seq) = self.window.hedge(now) {
            self.hedges += 1;
            self.copy(seq, None);
        }
        self.window.stuck(now).map(|seq| Event::Stuck { seq })
    }

    fn settle(&mut self, answer: Answer) {
        let Answer { seq, size, took, placed } = answer;
        if let Some(took) = took {
            self.window.timed(size, took);
        }
        if self.window.fence().is_some() {
            return;
        }
        match placed {
            Placed::Ours => self.landed(seq),
            // A key is created once: one that was ours stays ours, whatever is read there later.
            Placed::Other(found) if self.sent.contains_key(&seq) => {
                self.window.fenced(seq);
                self.found = Some((seq, found));
            }
            Placed::Other(_) => {}
        }
    }

    fn landed(&mut self, seq: Seq) {
        let Some(sent) = self.sent.remove(&seq) else { return };
        self.losers.extend(sent.copies.into_iter().filter(|copy| !copy.task.is_finished()));
        while self.losers.len() > LOSERS {
            let slowest = self.losers.pop_front();
            if let Some(Copy { first: Some(sent), size, .. }) = slowest.as_ref() {
                self.window.timed(*size, sent.elapsed());
            }
        }
        let Some(moved) = self.window.landed(Instant::now(), seq) else { return };
        let before = self.moved.take().unwrap_or(moved);
        let slow = before.slow || moved.slow;
        self.moved = Some(Committed { upto: moved.upto, first_sent: before.first_sent, slow });
    }

    fn copy(&mut self, seq: Seq, first: Option<Instant>) {
        let Some(sent) = self.sent.get_mut(&seq) else { return };
        let (bucket, body, key) = (self.bucket.clone(), sent.body.clone(), (self.key_of)(seq));
        let (kind, identity, answer) = (self.kind, self.identity, self.answer.clone());
        let size = body.len() as u64;
        let task = self.tasks.spawn(async move {
            let placed = bucket.place(kind, &key, &body, identity).await;
            drop(body);
            let took = first.map(|sent| sent.elapsed());
            // The receiver is gone with the appender: nobody asks any more.
            let _ = answer.send(Answer { seq, size, took, placed }).await;
        });
        sent.copies.push(Copy { size, first, task: task.abort_handle() });
    }
}

impl fmt::Debug for Appender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Appender({}..{})", self.commit(), self.next_seq())
    }
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
