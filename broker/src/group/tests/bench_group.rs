//! A group and the world around it, for tests: a clock, timers in order, a log, who waits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidemark_proto::id::Millis;
use tidemark_proto::kafka::error::ErrorCode;

use crate::group::command::{Change, Command, Outcome, Record, Reply, Timer, TimerOp, Token};
use crate::group::state::{Group, Rules};

/// One answer: to whom, what.
pub type Answer = (Token, Result<Reply, ErrorCode>);

/// A group on a bench of its own.
#[derive(Default)]
pub struct Bench {
    pub group: Group,
    pub rules: Rules,
    pub now: Duration,
    pub log: Vec<Record>,
    pub waiting: BTreeSet<Token>,
    timers: BTreeMap<Timer, Duration>,
    tokens: u64,
}

impl Bench {
    /// Wall clock: the bench's time from a fixed date.
    pub fn wall(&self) -> Millis {
        Millis(1_000_000_000_000 + i64::try_from(self.now.as_millis()).unwrap())
    }

    /// Gives the command and carries out what follows. Returns the command's token, records, answers.
    pub fn give(&mut self, command: &Command) -> (Token, Vec<Record>, Vec<Answer>) {
        let token = Token(self.tokens);
        self.tokens += 1;
        let before = self.group.clone();
        let decided = self.group.decide(&self.rules, self.wall(), token, command);
        assert_eq!(before, self.group, "deciding changes nothing");
        let is_request = !matches!(command, Command::Fire(_) | Command::Retire | Command::TopicGone(_));
        if is_request {
            self.waiting.insert(token);
        }
        let outcome = decided
            .unwrap_or_else(|error| Outcome { replies: vec![(token, Err(error))], ..Outcome::default() });
        let mut records = Vec::new();
        for change in &outcome.changes {
            self.group.apply(change);
            if let Change::Stored(record) = change {
                records.push(record.clone());
            }
        }
        self.log.extend(records.iter().cloned());
        for op in outcome.timers {
            match op {
                TimerOp::Set(timer, after) => self.timers.insert(timer, self.now + after),
                TimerOp::Cancel(timer) => self.timers.remove(&timer),
            };
        }
        for (token, _) in &outcome.replies {
            assert!(self.waiting.remove(token), "{token:?} is answered once");
        }
        self.group.check();
        self.check_waiting();
        (token, records, outcome.replies)
    }

    /// Nobody who waits is forgotten, nobody is kept who does not wait.
    fn check_waiting(&self) {
        let kept = self.group.members().iter().flat_map(|(_, m)| [m.joining, m.syncing]);
        assert_eq!(kept.flatten().collect::<BTreeSet<_>>(), self.waiting, "who waits");
    }

    /// The next timer up to a time, in order of time, then name.
    pub fn next_timer(&mut self, until: Duration) -> Option<Timer> {
        let due = self.timers.iter().filter(|(_, at)| **at <= until);
        let (timer, at) = due.min_by_key(|(timer, at)| (**at, (*timer).clone()))?;
        let (timer, at) = (timer.clone(), *at);
        self.timers.remove(&timer);
        self.now = self.now.max(at);
        Some(timer)
    }

    /// The coordinator moved: all that is left is the log. Returns who waited in vain.
    pub fn restart(&mut self) -> BTreeSet<Token> {
        self.group = Group::default();
        for record in &self.log {
            self.group.replay(record);
        }
        self.group.check();
        self.timers.clear();
        for op in self.group.timers() {
            if let TimerOp::Set(timer, after) = op {
                self.timers.insert(timer, self.now + after);
            }
        }
        std::mem::take(&mut self.waiting)
    }
}
