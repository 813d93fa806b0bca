//! A topic's configuration in types: its own settings over the broker's defaults.

use std::collections::BTreeMap;

use super::broker::address_limits;
use super::keys;
use super::settings::Settings;
use super::table::{Key, items};

/// Whose time a record carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's.
    #[default]
    CreateTime,
    /// The broker's, at append.
    LogAppendTime,
}

/// What the code reads of a topic's configuration. Cheap to copy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Topic {
    /// `cleanup.policy` has `compact`.
    pub compacted: bool,
    /// `cleanup.policy` has `delete`.
    pub deleted: bool,
    /// `compression.type`.
    pub compression: Compression,
    /// `compression.gzip.level`; -1 is the codec's own.
    pub gzip_level: i32,
    /// `compression.zstd.level`.
    pub zstd_level: i32,
    /// `max.message.bytes`.
    pub max_message_bytes: usize,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub timestamp_after_max_ms: i64,
    /// `retention.ms`; -1 for ever.
    pub retention_ms: i64,
    /// `retention.bytes`; -1 without bound.
    pub retention_bytes: i64,
    /// `local.retention.ms`; -2 as `retention.ms`.
    pub local_retention_ms: i64,
    /// `local.retention.bytes`; -2 as `retention.bytes`.
    pub local_retention_bytes: i64,
    /// `remote.storage.enable`.
    pub remote_storage: bool,
    /// `segment.bytes`.
    pub segment_bytes: i64,
    /// `segment.ms`.
    pub segment_ms: i64,
    /// `segment.jitter.ms`.
    pub segment_jitter_ms: i64,
    /// `index.interval.bytes`.
    pub index_interval_bytes: i64,
    /// `delete.retention.ms`.
    pub delete_retention_ms: i64,
    /// `file.delete.delay.ms`.
    pub file_delete_delay_ms: i64,
    /// `min.compaction.lag.ms`.
    pub min_compaction_lag_ms: i64,
    /// `max.compaction.lag.ms`.
    pub max_compaction_lag_ms: i64,
    /// `min.cleanable.dirty.ratio`.
    pub min_cleanable_dirty_ratio: f64,
}

/// Codec of stored batches (`compression.type` with its level).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Whatever the producer chose.
    #[default]
    Producer,
    /// None.
    Uncompressed,
    /// gzip.
    Gzip,
    /// snappy.
    Snappy,
    /// lz4.
    Lz4,
    /// zstd.
    Zstd,
}

impl Topic {
    /// The defaults that a broker's settings give.
    pub(super) fn defaults(settings: &Settings) -> Topic {
        let mut topic = Topic {
            compacted: false,
            deleted: true,
            compression: Compression::Producer,
            gzip_level: -1,
            zstd_level: 3,
            max_message_bytes: 0,
            timestamp_type: TimestampType::CreateTime,
            timestamp_before_max_ms: 0,
            timestamp_after_max_ms: 0,
            retention_ms: 0,
            retention_bytes: 0,
            local_retention_ms: 0,
            local_retention_bytes: 0,
            remote_storage: false,
            segment_bytes: 0,
            segment_ms: 0,
            segment_jitter_ms: 0,
            index_interval_bytes: 0,
            delete_retention_ms: 0,
            file_delete_delay_ms: 0,
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: 0,
            min_cleanable_dirty_ratio: 0.0,
        };
        for key in keys::topic() {
            let (value, _) = default_of(key, settings);
            topic.set(key.name, &value);
        }
        topic
    }

    /// These defaults under a topic's own settings.
    pub(super) fn with(mut self, overrides: &BTreeMap<String, String>) -> Topic {
        for (name, value) in overrides {
            self.set(name, value);
        }
        self
    }

    /// Takes one checked value; keys that only tools read are passed over.
    fn set(&mut self, name: &str, value: &str) {
        let value = value.trim();
        let long = || value.parse().unwrap_or(0_i64);
        match name {
            "cleanup.policy" => {
                self.compacted = items(value).any(|word| word == "compact");
                self.deleted = items(value).any(|word| word == "delete");
            }
            "compression.type" => {
                self.compression = match value {
                    "uncompressed" => Compression::Uncompressed,
                    "gzip" => Compression::Gzip,
                    "snappy" => Compression::Snappy,
                    "lz4" => Compression::Lz4,
                    "zstd" => Compression::Zstd,
                    _ => Compression::Producer,
                }
            }
            "message.timestamp.type" => {
                self.timestamp_type = match value {
                    "LogAppendTime" => TimestampType::LogAppendTime,
                    _ => TimestampType::CreateTime,
                }
            }
            "compression.gzip.level" => self.gzip_level = value.parse().unwrap_or(-1),
            "compression.zstd.level" => self.zstd_level = value.parse().unwrap_or(3),
            "max.message.bytes" => self.max_message_bytes = usize::try_from(long()).unwrap_or(0),
            "remote.storage.enable" => self.remote_storage = value == "true",
            "min.cleanable.dirty.ratio" => self.min_cleanable_dirty_ratio = value.parse().unwrap_or(0.5),
            "message.timestamp.before.max.ms" => self.timestamp_before_max_ms = long(),
            "message.timestamp.after.max.ms" => self.timestamp_after_max_ms = long(),
            "retention.ms" => self.retention_ms = long(),
            "retention.bytes" => self.retention_bytes = long(),
            "local.retention.ms" => self.local_retention_ms = long(),
            "local.retention.bytes" => self.local_retention_bytes = long(),
            "segment.bytes" => self.segment_bytes = long(),
            "segment.ms" => self.segment_ms = long(),
            "segment.jitter.ms" => self.segment_jitter_ms = long(),
            "index.interval.bytes" => self.index_interval_bytes = long(),
            "delete.retention.ms" => self.delete_retention_ms = long(),
            "file.delete.delay.ms" => self.file_delete_delay_ms = long(),
            "min.compaction.lag.ms" => self.min_compaction_lag_ms = long(),
            "max.compaction.lag.ms" => self.max_compaction_lag_ms = long(),
            _ => {}
        }
    }
}

/// A topic key's default on this broker, and the broker key that gave it.
pub(super) fn default_of(key: &Key, settings: &Settings) -> (String, Option<&'static str>) {
    for synonym in key.synonyms {
        if let Some(value) = settings.explicit(synonym.name) {
            let scaled = match (synonym.times, value.parse::<i64>()) {
                (1, _) | (_, Err(_)) => value.to_owned(),
                (_, Ok(negative)) if negative < 0 => negative.to_string(),
                (times, Ok(number)) => number.saturating_mul(times).to_string(),
            };
            return (scaled, Some(synonym.name));
        }
    }
    (key.default.unwrap_or_default().to_owned(), None)
}

/// Whether a topic setting is one of older Kafkas: taken, not reported, without effect.
pub fn is_legacy_topic(name: &str) -> bool {
    keys::legacy_topic().contains(&name)
}

/// Checks one topic setting; `None` resets it. The sentence names key, value and what is allowed.
pub fn check_topic(name: &str, value: Option<&str>) -> Result<(), String> {
    if is_legacy_topic(name) {
        return Ok(());
    }
    match (keys::find_topic(name), value) {
        (None, _) => Err(format!("unknown topic config name: {}", name.escape_debug())),
        (Some(_), None) => Ok(()),
        (Some(key), Some(value)) => key.check(value).map(|_| ()),
    }
}

/// Checks one setting of running brokers; `None` resets it.
pub fn check_broker(name: &str, value: Option<&str>) -> Result<(), String> {
    match (keys::find_broker(name), value) {
        (None, _) => Err(format!("unknown broker config name: {}", name.escape_debug())),
        (Some(key), _) if !key.dynamic => Err(format!("{name} cannot be changed while a broker runs")),
        (Some(_), None) => Ok(()),
        (Some(key), Some(value)) => {
            let value = key.check(value)?;
            match key.name {
                "max.connections.per.ip.overrides" => address_limits(&value).map(|_| ()).map_err(|e| e.0),
                _ => Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults(sets: &[&str]) -> Topic {
        let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
        Topic::defaults(&Settings::load(None, &sets).unwrap())
    }

    #[test]
    fn the_finest_retention_key_that_is_set_wins() {
        assert_eq!(defaults(&[]).retention_ms, 604_800_000);
        assert_eq!(defaults(&["log.retention.hours=1"]).retention_ms, 3_600_000);
        assert_eq!(defaults(&["log.retention.hours=-1"]).retention_ms, -1);
        assert_eq!(defaults(&["log.retention.hours=1", "log.retention.minutes=2"]).retention_ms, 120_000);
        assert_eq!(defaults(&["log.retention.minutes=2", "log.retention.ms=3"]).retention_ms, 3);
    }

    #[test]
    fn every_number_of_a_topic_has_its_default() {
        let topic = defaults(&[]);
        assert_eq!((topic.max_message_bytes, topic.segment_bytes), (1_048_588, 1 << 30));
        assert_eq!((topic.local_retention_ms, topic.local_retention_bytes), (-2, -2));
        assert_eq!((topic.timestamp_after_max_ms, topic.timestamp_before_max_ms), (3_600_000, i64::MAX));
        assert_eq!((topic.compacted, topic.deleted), (false, true));
        assert!(topic.index_interval_bytes > 0 && topic.segment_ms > 0 && topic.max_compaction_lag_ms > 0);
        assert!(topic.delete_retention_ms > 0 && topic.file_delete_delay_ms > 0);
    }

    #[test]
    fn a_topics_own_settings_win() {
        let own = [("cleanup.policy", "compact"), ("max.message.bytes", "7"), ("compression.type", "zstd")];
        let topic = defaults(&["message.max.bytes=5"])
            .with(&own.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
        assert_eq!((topic.compacted, topic.deleted, topic.max_message_bytes), (true, false, 7));
        assert_eq!(topic.compression, Compression::Zstd);
    }

    #[test]
    fn a_running_broker_takes_only_what_may_change_and_only_sound_values() {
        // Kafka's tools set and clear these; they must be taken though they do nothing.
        for key in
            ["leader.replication.throttled.rate", "follower.replication.throttled.rate", "num.io.threads"]
        {
            assert_eq!(check_broker(key, Some("9")), Ok(()));
            assert_eq!(check_broker(key, None), Ok(()));
        }
        assert_eq!(check_broker("max.connections.per.ip.overrides", Some("10.0.0.1:5,[::1]:7")), Ok(()));
        for (name, value) in [
            ("max.connections.per.ip.overrides", "10.0.0.1"),
            ("max.connections.per.ip.overrides", ":5"),
            ("max.connections", "many"),
            ("num.partitions", "5"),
            ("no.such", "1"),
        ] {
            assert!(check_broker(name, Some(value)).is_err_and(|why| why.contains(name)), "{name}={value}");
        }
    }

    #[test]
    fn row_41_wrong_topic_settings_name_key_value_and_what_is_allowed() {
        assert_eq!(
            check_topic("retention.ms", Some("abc")).unwrap_err(),
            "retention.ms: 'abc' is not a whole number"
        );
        let why = check_topic("cleanup.policy", Some("foo")).unwrap_err();
        assert_eq!(why, "cleanup.policy: 'foo' is not allowed; allowed: a list of delete, compact");
        assert!(check_topic("no.such", Some("1")).unwrap_err().contains("no.such"));
        assert!(check_topic("remote.log.copy.disable", Some("true")).is_err());
        assert_eq!(check_topic("remote.log.copy.disable", Some("false")), Ok(()));
        assert_eq!(check_topic("message.format.version", Some("3.0")), Ok(()));
        assert_eq!(check_topic("cleanup.policy", Some("compact, delete")), Ok(()));
    }
}
