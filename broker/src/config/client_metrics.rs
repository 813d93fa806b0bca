//! Subscriptions to clients' metrics (KIP-714): what may be set, and whom a subscription asks for what.

use std::collections::{BTreeMap, BTreeSet};

use regex::{Regex, RegexBuilder};
use tidemark_proto::kafka::error::ErrorCode;

use super::keys;
use super::table::items;

/// What patterns may look at.
const FACTS: [&str; 6] = [
    "client_instance_id",
    "client_id",
    "client_software_name",
    "client_software_version",
    "client_source_address",
    "client_source_port",
];

/// Memory of one compiled pattern, at most.
const PATTERN_BYTES_MAX: usize = 1 << 18;

/// What is known of a client, in the order of [`FACTS`].
pub type ClientFacts = [String; 6];

/// Checks one setting; `None` resets it. Kafka's codes, and a sentence.
pub fn check_client_metrics(name: &str, value: Option<&str>) -> Result<(), (ErrorCode, String)> {
    let Some(key) = keys::client_metrics().iter().find(|key| key.name == name) else {
        let why = format!("Unknown client metrics configuration: {}", name.escape_debug());
        return Err((ErrorCode::InvalidRequest, why));
    };
    let Some(value) = value else { return Ok(()) };
    match name {
        "interval.ms" if value.trim().parse::<i32>().is_ok() => {
            key.check(value).map(|_| ()).map_err(|why| (ErrorCode::InvalidRequest, why))
        }
        "match" => patterns(value).map(|_| ()).map_err(|why| (ErrorCode::InvalidConfig, why)),
        _ => key.check(value).map(|_| ()).map_err(|why| (ErrorCode::InvalidConfig, why)),
    }
}

/// The patterns of a `match`, each with the place of what it looks at.
fn patterns(value: &str) -> Result<Vec<(usize, Regex)>, String> {
    let pattern = |item: &str| {
        let (what, pattern) = item.split_once('=')?;
        let at = FACTS.iter().position(|fact| *fact == what.trim())?;
        // The whole of it must fit, as in Kafka.
        let whole = format!("^(?:{})$", pattern.trim());
        Some((at, RegexBuilder::new(&whole).size_limit(PATTERN_BYTES_MAX).build().ok()?))
    };
    items(value)
        .map(|item| {
            pattern(item).ok_or_else(|| format!("Illegal client matching pattern: {}", item.escape_debug()))
        })
        .collect()
}

/// What one client is asked for by all subscriptions that it fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// Prefixes of names; `*` alone means all.
    pub metrics: Vec<String>,
    /// How often.
    pub interval_ms: i32,
}

impl Subscription {
    /// The union of the subscriptions that `client` fits, at the shortest of their intervals.
    pub fn of<'a>(
        all: impl Iterator<Item = &'a BTreeMap<String, String>>,
        client: &ClientFacts,
    ) -> Subscription {
        let default = |name: &str| {
            let key = keys::client_metrics().iter().find(|key| key.name == name);
            key.and_then(|key| key.default).unwrap_or_default()
        };
        let mut metrics = BTreeSet::new();
        let mut interval_ms: Option<i32> = None;
        for set in all {
            let value = |name: &str| set.get(name).map_or(default(name), String::as_str);
            let fits = patterns(value("match"))
                .is_ok_and(|all| all.iter().all(|(at, pattern)| pattern.is_match(&client[*at])));
            if !fits {
                continue;
            }
            metrics.extend(items(value("metrics")).map(str::to_owned));
            let interval = value("interval.ms").trim().parse().ok();
            interval_ms = interval_ms.into_iter().chain(interval).min();
        }
        let metrics = match metrics.contains("*") {
            true => vec!["*".to_owned()],
            false => metrics.into_iter().collect(),
        };
        Subscription {
            metrics,
            interval_ms: interval_ms.unwrap_or_else(|| default("interval.ms").parse().unwrap_or(0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(name: &str, value: Option<&str>) -> i16 {
        check_client_metrics(name, value).map_or_else(|(code, _)| code.code(), |()| 0)
    }

    #[test]
    fn wrong_settings_have_kafkas_codes() {
        assert_eq!([code("interval.ms", Some("100")), code("interval.ms", None)], [0, 0]);
        assert_eq!([code("interval.ms", Some("1")), code("interval.ms", Some("x"))], [42, 40]);
        assert_eq!([code("no.such", Some("1")), code("metrics", Some("*"))], [42, 0]);
        assert_eq!(code("match", Some("client_id=a.*, client_software_name=b")), 0);
        for bad in ["foo=bar", "client_id=[", "client_id", "client_id=(((a{99}){99}){99}){99}"] {
            assert_eq!(code("match", Some(bad)), 40, "{bad}");
        }
    }

    #[test]
    fn a_client_is_asked_for_what_all_subscriptions_it_fits_want_together() {
        let set = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let mut all = vec![
            set(&[("metrics", "b.,a."), ("interval.ms", "2000"), ("match", "client_id=web.*")]),
            set(&[("metrics", "c."), ("match", "client_id=web.*,client_source_port=7")]),
            set(&[("metrics", "a."), ("interval.ms", "1000")]),
        ];
        let mut client = ClientFacts::default();
        let of = |all: &[BTreeMap<String, String>], client: &ClientFacts| {
            let Subscription { metrics, interval_ms } = Subscription::of(all.iter(), client);
            (metrics.join(" "), interval_ms)
        };
        assert_eq!(of(&all, &client), ("a.".into(), 1_000));
        client[1] = "web-1".into();
        assert_eq!(of(&all, &client), ("a. b.".into(), 1_000));
        client[1] = "a web-1".into();
        assert_eq!(of(&all, &client), ("a.".into(), 1_000), "a pattern must fit the whole");
        all[2].insert("metrics".into(), "x.,*".into());
        assert_eq!(of(&all, &client), ("*".into(), 1_000));
        assert_eq!(of(&[], &client), (String::new(), 300_000));
    }
}
