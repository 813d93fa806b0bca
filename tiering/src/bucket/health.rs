//! Whether the store works for us, and what an operator should know when it does not.

use std::time::Duration;

use tokio::time::Instant;

/// What recent attempts say about the store.
#[derive(Clone, Debug, PartialEq)]
pub enum Health {
    /// The last attempt was answered.
    Well,
    /// Attempts fail; requests wait and are tried again.
    Ailing {
        /// Since when.
        since: Instant,
        /// Failed attempts since then.
        failures: u64,
        /// The last failure.
        why: String,
        /// Whether waiting cannot help: a wrong key, a missing right, a missing bucket.
        needs_operator: bool,
    },
}

impl Health {
    /// Whether the last attempt was answered.
    pub fn is_well(&self) -> bool {
        matches!(self, Health::Well)
    }
}

/// Keeps the health and says when to raise the alarm.
#[derive(Debug)]
pub(super) struct Watch {
    health: Health,
    alarmed: Option<Instant>,
}

const ALARM_EVERY: Duration = Duration::from_secs(30);

impl Watch {
    pub(super) fn new() -> Watch {
        Watch { health: Health::Well, alarmed: None }
    }

    pub(super) fn health(&self) -> Health {
        self.health.clone()
    }

    pub(super) fn answered(&mut self) {
        if !self.health.is_well() {
            self.health = Health::Well;
        }
    }

    /// Notes a failure; true when the alarm should sound now.
    pub(super) fn failed(&mut self, now: Instant, why: &str, needs_operator: bool) -> bool {
        match &mut self.health {
            Health::Ailing { failures, why: last, needs_operator: needs, .. } => {
                *failures += 1;
                *needs = needs_operator;
                last.clear();
                last.push_str(why);
            }
            Health::Well => {
                let why = why.to_owned();
                self.health = Health::Ailing { since: now, failures: 1, why, needs_operator };
            }
        }
        let due = self.alarmed.is_none_or(|at| now.duration_since(at) >= ALARM_EVERY);
        if due && needs_operator {
            self.alarmed = Some(now);
        }
        due && needs_operator
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_alarm_sounds_once_in_a_while_and_one_answer_ends_the_ailing() {
        let mut watch = Watch::new();
        let start = Instant::now();
        assert!(!watch.failed(start, "503", false));
        assert!(watch.failed(start, "403", true));
        assert!(!watch.failed(start, "403", true));
        assert!(watch.failed(start + ALARM_EVERY, "403", true));
        assert!(matches!(watch.health(), Health::Ailing { failures: 4, needs_operator: true, .. }));
        watch.answered();
        assert!(watch.health().is_well());
    }
}
