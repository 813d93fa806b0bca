//! A broker's configuration as it is now: what it was started with, under what was set while it runs.
//!
//! One watch: whoever keeps a copy of a value subscribes, whoever needs it once asks. A change that cannot be used is
//! told in the log and leaves everything as it was.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemark_tiering::watch;

use super::Broker;

/// See the module.
#[derive(Debug)]
pub struct Live {
    now: watch::Sender<Arc<Broker>>,
    applied: parking_lot::Mutex<(Set, Set)>,
}

type Set = BTreeMap<String, String>;

impl Live {
    /// Nothing was set since the start.
    pub fn new(config: Arc<Broker>) -> Live {
        Live { now: watch::Sender::new(config), applied: parking_lot::Mutex::default() }
    }

    /// The configuration now.
    pub fn now(&self) -> Arc<Broker> {
        self.now.borrow().clone()
    }

    /// Changes of it.
    pub fn watch(&self) -> watch::Receiver<Arc<Broker>> {
        self.now.subscribe()
    }

    /// Takes what is set for `all` brokers and on this one (`own`); returns whether anything changed.
    pub fn set(&self, all: Option<&Set>, own: Option<&Set>) -> bool {
        let none = Set::new();
        let (all, own) = (all.unwrap_or(&none), own.unwrap_or(&none));
        {
            let mut applied = self.applied.lock();
            if (&applied.0, &applied.1) == (all, own) {
                return false;
            }
            *applied = (all.clone(), own.clone());
        }
        match self.now().under(all, own) {
            Ok(config) => {
                tracing::info!(?all, ?own, "configuration changed");
                self.now.send_replace(Arc::new(config));
                true
            }
            Err(error) => {
                tracing::error!(%error, "configuration kept as it was");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn set(pairs: &[(&str, &str)]) -> Set {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn live(sets: &[&str]) -> Live {
        let sets: Vec<String> =
            sets.iter().chain(&["tidemark.bucket=memory:"]).map(|s| (*s).to_owned()).collect();
        Live::new(Arc::new(Broker::new(Settings::load(None, &sets).unwrap()).unwrap()))
    }

    #[test]
    fn a_brokers_own_value_wins_over_all_brokers_and_that_over_its_file_and_a_reset_uncovers_them() {
        let live = live(&["message.max.bytes=5"]);
        let size = || live.now().topic.max_message_bytes;
        let (all, own) = (set(&[("message.max.bytes", "6")]), set(&[("message.max.bytes", "7")]));
        assert_eq!(size(), 5);
        assert!(live.set(Some(&all), None));
        assert_eq!(size(), 6);
        assert!(live.set(Some(&all), Some(&own)));
        assert_eq!(size(), 7);
        assert!(!live.set(Some(&all), Some(&own)), "nothing has changed");
        assert!(live.set(Some(&all), None) && live.set(None, None));
        assert_eq!(size(), 5);
    }

    #[test]
    fn every_kind_of_value_that_may_change_reaches_those_who_read_it() {
        let live = live(&[]);
        let all = set(&[
            ("log.retention.ms", "7"),
            ("log.message.timestamp.type", "LogAppendTime"),
            ("log.cleanup.policy", "compact"),
            ("log.segment.delete.delay.ms", "900000"),
            ("max.connections", "3"),
            ("max.connections.per.ip", "2"),
            ("max.connection.creation.rate", "5"),
            ("max.connections.per.ip.overrides", "127.0.0.9:1"),
            ("producer.id.expiration.ms", "9"),
            ("num.partitions", "4"),
        ]);
        live.set(Some(&all), None);
        let now = live.now();
        assert_eq!((now.topic.retention_ms, now.topic.compacted), (7, true));
        assert_eq!(now.topic.timestamp_type, crate::config::TimestampType::LogAppendTime);
        assert_eq!(now.delete_grace().as_secs(), 900);
        let limits = &now.limits.connections;
        assert_eq!((limits.all, limits.per_ip, limits.per_second, limits.overrides.len()), (3, 2, 5, 1));
        assert_eq!(now.producer_expiration.as_millis(), 9);
        assert_eq!(now.partitions, 1, "not on a running broker");
    }

    #[test]
    fn a_value_that_cannot_be_used_leaves_everything_as_it_was() {
        let live = live(&["max.connections=8"]);
        let bad = set(&[("max.connections", "3"), ("max.connections.per.ip.overrides", "no host:1")]);
        assert!(!live.set(Some(&bad), None));
        assert_eq!(live.now().limits.connections.all, 8);
    }
}
