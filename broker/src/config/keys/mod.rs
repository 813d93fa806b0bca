//! The config table: every key we know, by scope.
//!
//! Kafka's keys keep Kafka's names, types, defaults and ranges; where a default differs, the doc says so.

mod broker;
mod ignored;
mod tidemark;
mod topic;

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
        for keys in [broker().collect::<Vec<_>>(), topic().iter().collect()] {
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
    fn topic_defaults_come_from_broker_keys_of_the_same_type() {
        for key in topic() {
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
}
