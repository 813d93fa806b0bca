//! Settings: what a file and `--set` say, checked against the table.
//!
//! A wrong value or a duplicate key is an error that names place, key and what is allowed; an unknown key is a
//! warning, with the name that was probably meant. Secrets are never shown.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use super::describe::ConfigSource;
use super::keys;
use super::properties;
use super::table::{Key, nearest};

/// One sentence (or a few lines of them) for the user: what is wrong and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// Values by key.
type Values = BTreeMap<&'static str, String>;

/// Checked values of broker keys, and what was noticed on the way.
#[derive(Clone, Default)]
pub struct Settings {
    values: Values,
    /// Set on this broker while it runs.
    own: Values,
    /// Set for all brokers while they run.
    all: Values,
    warnings: Vec<String>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.values.iter().map(|(name, value)| match keys::find_broker(name) {
            Some(key) if !key.is_secret() => (*name, value.as_str()),
            _ => (*name, "…"),
        });
        f.debug_map().entries(shown).finish()
    }
}

impl Settings {
    /// Reads `file`, then applies `sets` (`key=value`), which win.
    pub fn load(file: Option<&Path>, sets: &[String]) -> Result<Settings, ConfigError> {
        let mut settings = Settings::default();
        if let Some(path) = file {
            let shown = path.display();
            let text = std::fs::read_to_string(path).map_err(|error| {
                ConfigError(format!("cannot read {shown}: {error}; name a readable file with --config"))
            })?;
            settings.read(&shown.to_string(), &text)?;
        }
        for set in sets {
            settings.set(set)?;
        }
        Ok(settings)
    }

    /// Applies the text of a `server.properties` file named `name`.
    pub fn read(&mut self, name: &str, text: &str) -> Result<(), ConfigError> {
        let properties =
            properties::parse(text).map_err(|(line, why)| ConfigError(format!("{name}:{line}: {why}")))?;
        let mut lines: BTreeMap<&str, usize> = BTreeMap::new();
        for property in &properties {
            let place = format!("{name}:{}", property.line);
            let known = keys::find_broker(&property.key).map_or(property.key.as_str(), |key| key.name);
            if let Some(before) = lines.insert(known, property.line) {
                return Err(ConfigError(format!(
                    "{place}: {} is set twice, first on line {before}; remove one",
                    property.key
                )));
            }
            self.apply(&place, &property.key, &property.value)?;
        }
        Ok(())
    }

    /// Applies one `key=value` of the command line.
    pub fn set(&mut self, set: &str) -> Result<(), ConfigError> {
        let Some((key, value)) = set.split_once('=') else {
            return Err(ConfigError(format!("--set {set}: no '='; write --set key=value")));
        };
        let key = key.trim();
        if keys::find_broker(key).is_some_and(Key::is_secret) {
            self.warnings.push(format!(
                "--set {key}=…: others on this machine can read command lines; set it in a file only you can read"
            ));
        }
        self.apply("--set", key, value)
    }

    /// Sets a value from inside (`dev` mode), unless it is set already.
    pub fn set_default(&mut self, name: &'static str, value: &str) {
        self.values.entry(name).or_insert_with(|| value.to_owned());
    }

    fn apply(&mut self, place: &str, name: &str, value: &str) -> Result<(), ConfigError> {
        match keys::find_broker(name) {
            Some(key) => {
                let checked = key.check(value).map_err(|why| ConfigError(format!("{place}: {why}")))?;
                match checked.is_empty() && key.default.is_none() {
                    true => self.values.remove(key.name),
                    false => self.values.insert(key.name, checked),
                };
            }
            None => self.warnings.push(unknown(place, name)),
        }
        Ok(())
    }

    /// What was noticed: unknown keys, secrets where others can read them.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// These settings under what was set while brokers run: for `all` of them, and on this one. Only keys that may
    /// change on a running broker count.
    pub fn under(&self, all: &BTreeMap<String, String>, own: &BTreeMap<String, String>) -> Settings {
        let changeable = |set: &BTreeMap<String, String>| -> Values {
            let known = set.iter().filter_map(|(name, value)| {
                let key = keys::find_broker(name).filter(|key| key.dynamic)?;
                Some((key.name, value.clone()))
            });
            known.collect()
        };
        Settings { own: changeable(own), all: changeable(all), ..self.clone() }
    }

    /// Every place that sets `name`, the one that counts first.
    pub(super) fn places(&self, name: &str) -> impl Iterator<Item = (ConfigSource, &str)> {
        let places = [
            (ConfigSource::DynamicBroker, self.own.get(name)),
            (ConfigSource::DynamicDefaultBroker, self.all.get(name)),
            (ConfigSource::StaticBroker, self.values.get(name)),
        ];
        places.into_iter().filter_map(|(source, value)| Some((source, value?.as_str())))
    }

    /// The value of `name`, where somebody set it.
    pub fn explicit(&self, name: &str) -> Option<&str> {
        self.places(name).next().map(|(_, value)| value)
    }

    /// The value of `name`, set or by default.
    pub fn value(&self, name: &str) -> Option<&str> {
        let key = keys::find_broker(name)?;
        self.explicit(key.name).or(key.default)
    }

    /// Every key with its value and whether somebody set it.
    pub fn rows(&self) -> impl Iterator<Item = (&'static Key, Option<&str>, bool)> {
        keys::broker().map(|key| {
            let set = self.explicit(key.name);
            (key, set.or(key.default), set.is_some())
        })
    }

    /// A text, where there is one.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        debug_assert!(keys::find_broker(name).is_some(), "{name} is not in the table");
        self.value(name).filter(|value| !value.is_empty()).map(str::to_owned)
    }

    /// A whole number, where there is one; the table has checked it.
    pub(super) fn number_if_set(&self, name: &str) -> Option<i64> {
        self.text(name).and_then(|value| value.parse().ok())
    }

    /// A whole number that has a default.
    pub(super) fn number(&self, name: &str) -> i64 {
        self.number_if_set(name).unwrap_or_else(|| panic!("{name} has a default that is a number"))
    }

    /// A number that has a default and counts something.
    pub(super) fn count(&self, name: &str) -> usize {
        usize::try_from(self.number(name).max(0)).unwrap_or(usize::MAX)
    }

    /// A boolean that has a default.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.value(name) == Some("true")
    }
}

fn unknown(place: &str, name: &str) -> String {
    let shown: String = name.chars().take(100).flat_map(char::escape_debug).collect();
    match nearest(name, keys::broker().map(|key| key.name)) {
        Some(meant) => format!("{place}: unknown key {shown}, ignored; did you mean {meant}?"),
        None => format!("{place}: unknown key {shown}, ignored"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, String> {
        let mut settings = Settings::default();
        settings.read("server.properties", text).map_err(|e| e.0).map(|()| settings)
    }

    #[test]
    fn row_56_a_misspelt_key_is_a_warning_with_the_name_that_was_meant() {
        let settings = read("num.partition=3\nconfluent.license=x\n").unwrap();
        assert_eq!(
            settings.warnings(),
            [
                "server.properties:1: unknown key num.partition, ignored; did you mean num.partitions?",
                "server.properties:2: unknown key confluent.license, ignored",
            ]
        );
    }

    #[test]
    fn row_56_a_duplicate_key_is_refused_with_both_lines() {
        let why = read("node.id=1\n\nnode.id=2\n").unwrap_err();
        assert_eq!(why, "server.properties:3: node.id is set twice, first on line 1; remove one");
        assert!(read("node.id=1\nbroker.id=2\n").is_err(), "also by its other name");
    }

    #[test]
    fn row_56_a_wrong_value_names_file_line_key_and_what_is_allowed() {
        let why = read("a=b\nnum.partitions=0\n").unwrap_err();
        assert_eq!(why, "server.properties:2: num.partitions: '0' is out of range; allowed: from 1");
        let why = Settings::load(None, &["log.cleanup.policy=foo".into()]).unwrap_err();
        assert_eq!(
            why.0,
            "--set: log.cleanup.policy: 'foo' is not allowed; allowed: a list of delete, compact"
        );
    }

    #[test]
    fn row_56_a_secret_is_never_printed() {
        let settings = read("tidemark.bucket.secret.key=hunter2\nsasl.jaas.config=hunter2\n").unwrap();
        assert!(!format!("{settings:?}").contains("hunter2"));
        assert_eq!(settings.explicit("tidemark.bucket.secret.key"), Some("hunter2"));
        let told = Settings::load(None, &["tidemark.peer.secret=hunter2".into()]).unwrap();
        assert!(
            told.warnings()[0].contains("tidemark.peer.secret") && !told.warnings()[0].contains("hunter2")
        );
    }

    #[test]
    fn the_command_line_wins_over_the_file_and_defaults_fill_the_rest() {
        let mut settings = read("num.partitions=3\n").unwrap();
        settings.set("num.partitions = 5").unwrap();
        settings.set_default("num.partitions", "7");
        assert_eq!(settings.number("num.partitions"), 5);
        assert_eq!(settings.value("fetch.max.bytes"), Some("57671680"));
        assert!(settings.set("num.partitions").unwrap_err().0.contains("write --set key=value"));
    }

    #[test]
    fn kafkas_own_sample_file_starts_here() {
        let sample = "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.bootstrap.servers=localhost:9093\n\
            listeners=PLAINTEXT://:9092,CONTROLLER://:9093\ninter.broker.listener.name=PLAINTEXT\n\
            advertised.listeners=PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093\n\
            controller.listener.names=CONTROLLER\n\
            listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL\n\
            num.network.threads=3\nnum.io.threads=8\nsocket.send.buffer.bytes=102400\n\
            socket.receive.buffer.bytes=102400\nsocket.request.max.bytes=104857600\n\
            log.dirs=/tmp/kraft-combined-logs\nnum.partitions=1\nnum.recovery.threads.per.data.dir=1\n\
            offsets.topic.replication.factor=1\ntransaction.state.log.replication.factor=1\n\
            transaction.state.log.min.isr=1\nlog.retention.hours=168\nlog.segment.bytes=1073741824\n\
            log.retention.check.interval.ms=300000\n";
        let mut settings = read(sample).unwrap();
        settings.set_default("tidemark.bucket", "memory:");
        assert_eq!(settings.warnings(), Vec::<String>::new());
        let broker = crate::config::Broker::new(settings).unwrap();
        assert_eq!(broker.listeners.len(), 1);
        assert_eq!(broker.listeners[0].advertised, Some(("localhost".into(), 9092)));
    }
}
