//! The config table: every key we know, by scope.
//!
//! Kafka's keys keep Kafka's names, types, defaults and ranges; where a default differs, the doc says so.

mod broker;
mod client_metrics;
mod group;
mod ignored;
mod tidemark;
mod topic;
#[cfg(test)]
mod treatment_tests;

use super::table::Key;

/// Keys of a broker (`server.properties`), Kafka's first, then ours.
pub fn broker() -> impl Iterator<Item = &'static Key> {
    broker::KEYS.iter().chain(tidemark::KEYS).chain(ignored::KEYS)
}

/// Kafka's broker keys that do something here.
pub fn kafka() -> &'static [Key] {
    broker::KEYS
}

/// Our own broker keys.
pub fn own() -> &'static [Key] {
    tidemark::KEYS
}

/// Kafka's broker keys that are accepted so that copied files start.
pub fn ignored() -> &'static [Key] {
    ignored::KEYS
}

/// Keys of a topic.
pub fn topic() -> &'static [Key] {
    topic::KEYS
}

/// A broker key by name or alias.
pub fn find_broker(name: &str) -> Option<&'static Key> {
    broker().find(|key| key.name == name || key.alias == Some(name))
}

/// Topic keys of older Kafkas: accepted, without effect, not reported.
pub fn legacy_topic() -> &'static [&'static str] {
    topic::LEGACY
}

/// Keys of a group.
pub fn group() -> &'static [Key] {
    group::KEYS
}

/// A group key by name.
pub fn find_group(name: &str) -> Option<&'static Key> {
    group().iter().find(|key| key.name == name)
}

/// The broker keys that bound a group's key: from, to.
pub fn bounds_of_group(name: &str) -> (Option<&'static str>, Option<&'static str>) {
    group::BOUNDS.iter().find(|(key, _, _)| *key == name).map_or((None, None), |(_, low, high)| (*low, *high))
}

/// Keys of a subscription to clients' metrics.
pub fn client_metrics() -> &'static [Key] {
    client_metrics::KEYS
}

/// A topic key by name.
pub fn find_topic(name: &str) -> Option<&'static Key> {
    topic().iter().find(|key| key.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::table::Treatment;

    #[test]
    fn every_name_is_there_once_with_a_doc_and_a_default_that_passes_its_own_check() {
        for keys in [
            broker().collect::<Vec<_>>(),
            topic().iter().collect(),
            group().iter().collect(),
            client_metrics().iter().collect(),
        ] {
            let mut names = BTreeSet::new();
            for key in keys {
                assert!(names.insert(key.name), "{} is there twice", key.name);
                assert!(key.alias.is_none_or(|alias| names.insert(alias)), "{}", key.name);
                assert!(!key.doc.is_empty() && !key.doc.contains('|'), "{}", key.name);
                if let Some(default) = key.default {
                    assert_eq!(key.check(default).as_deref(), Ok(default), "{}", key.name);
                }
            }
        }
    }

    #[test]
    fn topic_and_group_defaults_come_from_broker_keys_of_the_same_type() {
        for key in topic().iter().chain(group()) {
            for synonym in key.synonyms {
                let source = find_broker(synonym.name).unwrap_or_else(|| panic!("{}", synonym.name));
                assert!(matches!(
                    source.treatment,
                    Treatment::Honour | Treatment::Map(_) | Treatment::Note(_)
                ));
                if synonym.times == 1 && source.default.is_some() {
                    assert_eq!(source.default, key.default, "{} and {}", key.name, source.name);
                }
            }
        }
    }

    #[test]
    fn bounds_of_group_keys_are_broker_keys_that_are_numbers() {
        for (name, low, high) in group::BOUNDS {
            assert!(find_group(name).is_some(), "{name}");
            for bound in [low, high].into_iter().flatten() {
                let default = find_broker(bound).and_then(|key| key.default);
                assert!(default.is_some_and(|value| value.parse::<i64>().is_ok()), "{bound}");
            }
        }
    }
}
