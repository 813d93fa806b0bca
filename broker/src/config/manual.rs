//! The manual: CONFIG.md and the list of keys that `--help` shows, made from the table.

use std::fmt::Write;

use super::describe::doc;
use super::keys;
use super::table::{Allowed, Key, Treatment};

/// The text of `broker/CONFIG.md`.
pub fn manual() -> String {
    let mut out = String::from(
        "# Configuration\n\n\
         Made from the config table (`broker/src/config/keys`) by a test: `UPDATE_EXPECT=1 cargo test -p \
         tidemark-broker manual`. Do not edit.\n\n\
         Keys come from `tidemark serve --config server.properties` and `--set key=value`, which wins. Kafka's keys \
         keep Kafka's names and meaning; ours are `tidemark.*`. An unknown key is a warning, a wrong value or a \
         duplicate key is an error that names file and line.\n",
    );
    section(&mut out, "Our own keys", keys::own());
    section(&mut out, "Kafka's broker keys", keys::kafka());
    section(&mut out, "Topic keys", keys::topic());
    let legacy = keys::legacy_topic().join("`, `");
    let _ = writeln!(out, "\nAccepted on topics without effect, from older Kafkas: `{legacy}`.");
    section(&mut out, "Group keys", keys::group());
    section(&mut out, "Keys of a subscription to clients' metrics (KIP-714)", keys::client_metrics());
    out.push_str("\n## Kafka's broker keys without effect\n\nThey are accepted and reported, so that copied files start.\n\n");
    let mut reasons: Vec<&str> = Vec::new();
    for key in keys::ignored() {
        if let Treatment::Note(why) = key.treatment
            && !reasons.contains(&why)
        {
            reasons.push(why);
        }
    }
    for why in reasons {
        let names: Vec<String> = keys::ignored()
            .iter()
            .filter(|key| key.treatment == Treatment::Note(why))
            .map(|key| format!("`{}`", key.name))
            .collect();
        let _ = writeln!(out, "- {why}: {}.", names.join(", "));
    }
    out
}

fn section(out: &mut String, title: &str, keys: &[Key]) {
    let _ = write!(
        out,
        "\n## {title}\n\n| key | type | default | allowed | since | |\n|---|---|---|---|---|---|\n"
    );
    for key in keys {
        let default = match key.default {
            None => "unset".to_owned(),
            Some("") => "empty".to_owned(),
            Some(value) => format!("`{value}`"),
        };
        let alias = key.alias.map_or(String::new(), |alias| format!(" (`{alias}`)"));
        let allowed = match key.allowed {
            Allowed::Any => String::new(),
            other => other.to_string(),
        };
        let (name, kind, since, doc) = (key.name, key.kind.name(), key.since, doc(key));
        let _ = writeln!(out, "| `{name}`{alias} | {kind} | {default} | {allowed} | {since} | {doc} |");
    }
}

/// The list of keys at the end of `tidemark serve --help`.
pub fn usage() -> String {
    let mut out = String::from("Settings (--set key=value, or lines of the --config file):\n");
    let common = keys::kafka().iter().filter(|key| {
        matches!(key.name, "listeners" | "advertised.listeners" | "node.id" | "log.dirs" | "num.partitions")
    });
    for key in common.chain(keys::own()) {
        let default = key.default.filter(|value| !value.is_empty());
        let default = default.map_or(String::new(), |value| format!(" [{value}]"));
        let _ = writeln!(out, "  {}{default}\n          {}", key.name, key.doc);
    }
    out.push_str("\nAll keys, Kafka's too, with types and ranges: broker/CONFIG.md.");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_in_the_repository_is_fresh() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/CONFIG.md");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(path, manual()).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(found == manual(), "broker/CONFIG.md is stale: run with UPDATE_EXPECT=1");
    }

    #[test]
    fn the_help_names_every_key_of_ours() {
        let usage = usage();
        assert!(keys::own().iter().all(|key| usage.contains(key.name)));
    }
}
