//! The levels of this process's log lines by target, as Kafka's broker loggers: told and changed while it runs.
//!
//! Owns the levels; whoever writes the lines takes the filter made of them. The names are the parts of the house, with
//! dots because Kafka's tools take no colons, and `root`: a line belongs to the longest name its target begins with.
//! Knows no request.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

/// The logger of everything that has none of its own.
pub const ROOT: &str = "root";

/// Every logger but the root.
pub const NAMES: &[&str] = &[
    "tidemark_broker",
    "tidemark_broker.api",
    "tidemark_broker.archive",
    "tidemark_broker.cli",
    "tidemark_broker.cluster",
    "tidemark_broker.config",
    "tidemark_broker.gateway",
    "tidemark_broker.group",
    "tidemark_broker.http",
    "tidemark_broker.ledger",
    "tidemark_broker.metrics",
    "tidemark_broker.near",
    "tidemark_broker.node",
    "tidemark_broker.ownership",
    "tidemark_broker.overview",
    "tidemark_broker.partition",
    "tidemark_broker.quota",
    "tidemark_broker.rack",
    "tidemark_broker.server",
    "tidemark_broker.upkeep",
    "tidemark_broker.verify",
    "tidemark_gateway",
    "tidemark_proto",
    "tidemark_tiering",
    "tidemark_tiering.bucket",
    "tidemark_tiering.hot",
    "tidemark_tiering.lane",
    "tidemark_tiering.log",
    "tidemark_tiering.read",
];

/// Kafka's words for levels. There is nothing here worse than an error, so FATAL leaves no line.
pub const LEVELS: [(&str, LevelFilter); 6] = [
    ("DEBUG", LevelFilter::DEBUG),
    ("ERROR", LevelFilter::ERROR),
    ("FATAL", LevelFilter::OFF),
    ("INFO", LevelFilter::INFO),
    ("TRACE", LevelFilter::TRACE),
    ("WARN", LevelFilter::WARN),
];

/// A level by Kafka's word for it.
pub fn level_named(name: &str) -> Option<LevelFilter> {
    LEVELS.iter().find(|(word, _)| *word == name).map(|(_, level)| *level)
}

/// Takes a new filter, as `RUST_LOG` would be written.
pub type Sink = Box<dyn Fn(&str) + Send + Sync>;

/// See the module. Cheap to clone.
#[derive(Clone, Default)]
pub struct Loggers(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    levels: BTreeMap<String, LevelFilter>,
    sink: Option<Sink>,
}

impl fmt::Debug for Loggers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Loggers").field(&self.0.lock().levels).finish()
    }
}

static PROCESS: LazyLock<Loggers> = LazyLock::new(Loggers::default);

impl Loggers {
    /// Those of this process: log lines have one way out, whatever runs in it.
    pub fn of_process() -> Loggers {
        PROCESS.clone()
    }

    /// Begins with what `RUST_LOG` says (levels by target; what else it may say is not for here).
    pub fn start(&self, filter: &str, sink: Sink) {
        let targets: Targets = filter.parse().unwrap_or_default();
        let mut levels: BTreeMap<String, LevelFilter> =
            targets.iter().map(|(target, level)| (target.replace("::", "."), level)).collect();
        levels.insert(ROOT.to_owned(), targets.default_level().unwrap_or(LevelFilter::ERROR));
        *self.0.lock() = State { levels, sink: Some(sink) };
    }

    /// Every logger with its level.
    pub fn levels(&self) -> Vec<(&'static str, &'static str)> {
        let state = self.0.lock();
        std::iter::once(&ROOT).chain(NAMES).map(|name| (*name, word(state.level(name)))).collect()
    }

    /// Sets levels (`Some`), or has loggers follow those above them again (`None`).
    pub fn set(&self, changes: &[(String, Option<LevelFilter>)]) {
        let mut state = self.0.lock();
        for (name, level) in changes {
            match level {
                Some(level) => state.levels.insert(name.clone(), *level),
                None => state.levels.remove(name),
            };
        }
        if let Some(sink) = &state.sink {
            sink(&state.filter());
        }
    }
}

impl State {
    fn level(&self, name: &str) -> LevelFilter {
        let above = |set: &str| name.starts_with(set);
        let nearest = self.levels.iter().filter(|(set, _)| above(set)).max_by_key(|(set, _)| set.len());
        let root = || self.levels.get(ROOT).copied().unwrap_or(LevelFilter::INFO);
        nearest.map_or_else(root, |(_, level)| *level)
    }

    fn filter(&self) -> String {
        let part = |(name, level): (&String, &LevelFilter)| match name.as_str() {
            ROOT => level.to_string(),
            name => format!("{}={level}", name.replace('.', "::")),
        };
        self.levels.iter().map(part).collect::<Vec<_>>().join(",")
    }
}

fn word(level: LevelFilter) -> &'static str {
    LEVELS.iter().find(|(_, known)| *known == level).map_or("INFO", |(word, _)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(filter: &str) -> (Loggers, Arc<Mutex<String>>) {
        let (loggers, seen) = (Loggers::default(), Arc::new(Mutex::new(String::new())));
        let sink = seen.clone();
        loggers.start(filter, Box::new(move |filter| filter.clone_into(&mut sink.lock())));
        (loggers, seen)
    }

    fn level(loggers: &Loggers, name: &str) -> &'static str {
        loggers.levels().into_iter().find(|(known, _)| *known == name).unwrap().1
    }

    #[test]
    fn a_logger_follows_the_nearest_one_above_it_that_was_set() {
        let (loggers, seen) = started("warn,tidemark_tiering=debug");
        assert_eq!(level(&loggers, ROOT), "WARN");
        assert_eq!(level(&loggers, "tidemark_tiering.lane"), "DEBUG");
        let set = |name: &str, level| loggers.set(&[(name.to_owned(), level)]);
        set("tidemark_broker", Some(LevelFilter::TRACE));
        set("tidemark_broker.api", Some(LevelFilter::OFF));
        assert_eq!(level(&loggers, "tidemark_broker.group"), "TRACE");
        assert_eq!(level(&loggers, "tidemark_broker.api"), "FATAL");
        assert_eq!(
            *seen.lock(),
            "warn,tidemark_broker=trace,tidemark_broker::api=off,tidemark_tiering=debug"
        );
        assert!(seen.lock().parse::<tracing_subscriber::EnvFilter>().is_ok());
        set("tidemark_broker", None);
        assert_eq!(level(&loggers, "tidemark_broker.group"), "WARN");
        set(ROOT, Some(LevelFilter::ERROR));
        assert_eq!(level(&loggers, "tidemark_broker.group"), "ERROR");
    }

    #[test]
    fn every_part_of_the_broker_has_its_logger() {
        for line in include_str!("lib.rs").lines() {
            let Some(part) = line.strip_prefix("pub mod ").and_then(|l| l.strip_suffix(';')) else {
                continue;
            };
            let name = format!("tidemark_broker.{part}");
            assert!(part == "loggers" || NAMES.contains(&name.as_str()), "{name}");
        }
    }
}
