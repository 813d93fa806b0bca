//! DescribeConfigs rows: every key of a topic or broker with value, source, synonyms, type and doc.
//!
//! Knows neither image nor wire: the caller brings what was set dynamically.

use std::collections::BTreeMap;

use super::keys;
use super::settings::Settings;
use super::table::{Key, Kind, Treatment};
use super::topic::default_of;

/// Where a value comes from, with Kafka's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    /// Set on the topic.
    Topic = 1,
    /// Set on this broker while it runs.
    DynamicBroker = 2,
    /// Set for all brokers while they run.
    DynamicDefaultBroker = 3,
    /// Set in the broker's file or on its command line.
    StaticBroker = 4,
    /// Set by nobody.
    Default = 5,
    /// Set for a broker's logger.
    BrokerLogger = 6,
    /// Set on a subscription to clients' metrics.
    ClientMetrics = 7,
    /// Set on the group.
    Group = 8,
}

/// One place that has a say in a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSynonym {
    /// The key there.
    pub name: &'static str,
    /// Its value; `None` where it is secret or unset.
    pub value: Option<String>,
    /// The place.
    pub source: ConfigSource,
}

/// One key as DescribeConfigs shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigRow {
    /// The key.
    pub name: &'static str,
    /// Its value; `None` where it is secret or unset.
    pub value: Option<String>,
    /// Where the value comes from.
    pub source: ConfigSource,
    /// Whether only a restart changes it.
    pub read_only: bool,
    /// Whether its value is never shown.
    pub secret: bool,
    /// Type of its values.
    pub kind: Kind,
    /// All places that have a say, the one that counts first.
    pub synonyms: Vec<ConfigSynonym>,
    /// One line for people.
    pub doc: String,
}

/// All keys of a topic: `own` are set on it, `settings` are its broker's.
pub fn topic_rows(settings: &Settings, own: &BTreeMap<String, String>) -> Vec<ConfigRow> {
    rows(keys::topic(), settings, own, ConfigSource::Topic)
}

/// All keys of a group: `own` are set on it, `settings` are its broker's.
pub fn group_rows(settings: &Settings, own: &BTreeMap<String, String>) -> Vec<ConfigRow> {
    rows(keys::group(), settings, own, ConfigSource::Group)
}

/// All keys of a subscription to clients' metrics. No broker has a say, and Kafka names no default as a synonym.
pub fn client_metrics_rows(own: &BTreeMap<String, String>) -> Vec<ConfigRow> {
    let row = |key: &'static Key| {
        let (name, kind, doc) = (key.name, key.kind, doc(key));
        let set = own.get(name).cloned();
        let source = set.as_ref().map_or(ConfigSource::Default, |_| ConfigSource::ClientMetrics);
        let synonym = |value| ConfigSynonym { name, value: Some(value), source };
        let synonyms = set.clone().map(synonym).into_iter().collect();
        let value = set.or_else(|| key.default.map(str::to_owned));
        ConfigRow { name, value, source, read_only: false, secret: false, kind, synonyms, doc }
    };
    keys::client_metrics().iter().map(row).collect()
}

/// Keys of something whose defaults come from its broker; what is set on it is of `source`.
fn rows(
    keys: &'static [Key],
    settings: &Settings,
    own: &BTreeMap<String, String>,
    source_of_own: ConfigSource,
) -> Vec<ConfigRow> {
    let row = |key: &'static Key| {
        let mut synonyms = Vec::new();
        if let Some(value) = own.get(key.name) {
            let (name, value) = (key.name, Some(value.clone()));
            synonyms.push(ConfigSynonym { name, value, source: source_of_own });
        }
        for synonym in key.synonyms {
            synonyms.extend(settings.places(synonym.name).map(|(source, value)| {
                let (name, value) = (synonym.name, Some(value.to_owned()));
                ConfigSynonym { name, value, source }
            }));
        }
        if let Some(value) = key.default {
            let name = key.synonyms.first().map_or(key.name, |synonym| synonym.name);
            let value = Some(value.to_owned());
            synonyms.push(ConfigSynonym { name, value, source: ConfigSource::Default });
        }
        let (default, set_on_broker) = default_of(key, settings);
        let inherited = set_on_broker.and_then(|name| settings.places(name).next());
        let (value, source) = match (own.get(key.name), inherited) {
            (Some(value), _) => (value.clone(), source_of_own),
            (None, Some((source, _))) => (default, source),
            (None, None) => (default, ConfigSource::Default),
        };
        let (kind, doc) = (key.kind, doc(key));
        let (name, value) = (key.name, Some(value));
        ConfigRow { name, value, source, read_only: false, secret: false, kind, synonyms, doc }
    };
    keys.iter().map(row).collect()
}

/// All keys of a broker. One with two names is there under both.
pub fn broker_rows(settings: &Settings) -> Vec<ConfigRow> {
    let row = |key: &'static Key, name: &'static str| {
        let secret = key.is_secret();
        let default = key.default.map(|value| (ConfigSource::Default, value));
        let places = settings.places(key.name).chain(default);
        let synonyms: Vec<ConfigSynonym> = places
            .map(|(source, value)| {
                let value = (!secret).then(|| value.to_owned());
                ConfigSynonym { name, value, source }
            })
            .collect();
        let (value, source) = synonyms
            .first()
            .map_or((None, ConfigSource::Default), |first| (first.value.clone(), first.source));
        let (kind, doc) = (key.kind, doc(key));
        ConfigRow { name, value, source, read_only: !key.dynamic, secret, kind, synonyms, doc }
    };
    let names = keys::broker()
        .flat_map(|key| std::iter::once(key.name).chain(key.alias).map(move |name| (key, name)));
    names.map(|(key, name)| row(key, name)).collect()
}

/// A key's doc with what we make of it.
pub(super) fn doc(key: &Key) -> String {
    match key.treatment {
        Treatment::Honour => key.doc.to_owned(),
        Treatment::Map(to) => format!("{} Here: {to}.", key.doc),
        Treatment::Note(why) => format!("{} No effect: {why}.", key.doc),
        Treatment::Reject(why) => format!("{} Only the default is possible: {why}.", key.doc),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(sets: &[&str]) -> Settings {
        let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
        Settings::load(None, &sets).unwrap()
    }

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn find<'a>(rows: &'a [ConfigRow], name: &str) -> &'a ConfigRow {
        rows.iter().find(|row| row.name == name).unwrap()
    }

    #[test]
    fn every_topic_key_is_there_with_its_value_and_source() {
        let rows = topic_rows(&settings(&["log.retention.hours=2"]), &map(&[("segment.bytes", "2000000")]));
        assert_eq!(rows.len(), keys::topic().len());
        assert!(rows.iter().all(|row| row.value.is_some()));
        let retention = find(&rows, "retention.ms");
        assert_eq!(
            (retention.value.as_deref(), retention.source),
            (Some("7200000"), ConfigSource::StaticBroker)
        );
        let segment = find(&rows, "segment.bytes");
        assert_eq!((segment.value.as_deref(), segment.source), (Some("2000000"), ConfigSource::Topic));
        assert_eq!(segment.synonyms.len(), 2);
        assert_eq!(segment.synonyms[1].name, "log.segment.bytes");
        let policy = find(&rows, "cleanup.policy");
        assert_eq!((policy.value.as_deref(), policy.source), (Some("delete"), ConfigSource::Default));
    }

    #[test]
    fn a_key_with_two_names_is_shown_under_both() {
        let rows = broker_rows(&settings(&["broker.id=7"]));
        for name in ["node.id", "broker.id"] {
            let row = find(&rows, name);
            assert_eq!((row.value.as_deref(), row.source), (Some("7"), ConfigSource::StaticBroker), "{name}");
            assert_eq!(row.synonyms[0].name, name);
        }
        assert_eq!(find(&rows, "log.dir").value, find(&rows, "log.dirs").value);
    }

    #[test]
    fn a_brokers_secrets_are_null_and_dynamic_values_come_first() {
        let settings = settings(&["tidemark.peer.secret=hunter2", "message.max.bytes=5"]);
        let settings = settings.under(
            &map(&[("message.max.bytes", "7"), ("num.partitions", "9")]),
            &map(&[("message.max.bytes", "6")]),
        );
        let rows = broker_rows(&settings);
        let secret = find(&rows, "tidemark.peer.secret");
        assert_eq!((&secret.value, secret.secret, secret.synonyms[0].value.as_ref()), (&None, true, None));
        let size = find(&rows, "message.max.bytes");
        assert_eq!((size.value.as_deref(), size.source), (Some("6"), ConfigSource::DynamicBroker));
        let sources: Vec<i32> = size.synonyms.iter().map(|s| s.source as i32).collect();
        assert_eq!(sources, [2, 3, 4, 5]);
        let partitions = find(&rows, "num.partitions");
        assert!(!size.read_only && partitions.read_only);
        assert_eq!(partitions.value.as_deref(), Some("1"), "what cannot change while it runs does not");
        let rows = topic_rows(&settings, &map(&[]));
        let size = find(&rows, "max.message.bytes");
        assert_eq!((size.value.as_deref(), size.source), (Some("6"), ConfigSource::DynamicBroker));
        let sources: Vec<i32> = size.synonyms.iter().map(|s| s.source as i32).collect();
        assert_eq!(sources, [2, 3, 4, 5], "a topic names all that its default may come from");
    }
}
