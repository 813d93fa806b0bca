//! Listeners as `listeners`, `advertised.listeners` and `listener.security.protocol.map` describe them.

use std::collections::BTreeMap;

use super::settings::{ConfigError, Settings};
use super::table::items;

/// A listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// Host to bind; empty for every address.
    pub host: String,
    /// Port to bind; 0 for a free one.
    pub port: u16,
    /// Host and port to tell clients, where configured.
    pub advertised: Option<(String, u16)>,
}

impl Listener {
    /// Whether it can be reached from other machines.
    pub fn is_open(&self) -> bool {
        let host = self.host.trim_matches(['[', ']']);
        let loopback = host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        !(loopback || host == "localhost")
    }
}

/// The listeners that `settings` describe.
pub(super) fn listeners(settings: &Settings) -> Result<Vec<Listener>, ConfigError> {
    let protocols = protocols(settings)?;
    let controllers: Vec<String> =
        settings.text("controller.listener.names").iter().flat_map(|v| items(v)).map(str::to_owned).collect();
    let mut found: Vec<Listener> = Vec::new();
    let listeners = settings.text("listeners").unwrap_or_default();
    for item in items(&listeners) {
        let (name, host, port) = address("listeners", item)?;
        if controllers.contains(&name) || name == "CONTROLLER" {
            continue;
        }
        match protocols.get(&name).map(String::as_str) {
            Some("PLAINTEXT") => {}
            Some(protocol) => {
                let mend = "only PLAINTEXT is built yet; remove the listener or map it to PLAINTEXT";
                return Err(ConfigError(format!("listeners: {name} is {protocol}, and {mend}")));
            }
            None => {
                let mend = format!("add {name}:PLAINTEXT to it");
                let key = "listener.security.protocol.map";
                return Err(ConfigError(format!("listeners: {name} has no protocol in {key}; {mend}")));
            }
        }
        if found.iter().any(|other| other.name == name) {
            return Err(ConfigError(format!("listeners: {name} is there twice; give each its own name")));
        }
        if port != 0 && found.iter().any(|other| other.port == port && other.host == host) {
            return Err(ConfigError(format!("listeners: port {port} is there twice; give each its own")));
        }
        found.push(Listener { name, host, port, advertised: None });
    }
    if found.is_empty() {
        let mend = "name at least one, such as PLAINTEXT://127.0.0.1:9092";
        return Err(ConfigError(format!("listeners: none is left for clients; {mend}")));
    }
    let advertised = settings.text("advertised.listeners").unwrap_or_default();
    for item in items(&advertised) {
        let (name, host, port) = address("advertised.listeners", item)?;
        if host.is_empty() || host == "0.0.0.0" || host == "[::]" {
            let mend = "clients need a host name or address they can reach";
            return Err(ConfigError(format!("advertised.listeners: '{item}' names no host; {mend}")));
        }
        match found.iter_mut().find(|listener| listener.name == name) {
            Some(listener) => listener.advertised = Some((host, port)),
            None if controllers.contains(&name) || name == "CONTROLLER" => {}
            None => {
                let mend = "add it to listeners or remove it here";
                return Err(ConfigError(format!("advertised.listeners: {name} is no listener; {mend}")));
            }
        }
    }
    Ok(found)
}

fn protocols(settings: &Settings) -> Result<BTreeMap<String, String>, ConfigError> {
    let map = settings.text("listener.security.protocol.map").unwrap_or_default();
    let mut protocols = BTreeMap::new();
    for item in items(&map) {
        match item.split_once(':') {
            Some((name, protocol @ ("PLAINTEXT" | "SSL" | "SASL_PLAINTEXT" | "SASL_SSL"))) => {
                protocols.insert(name.to_ascii_uppercase(), protocol.to_owned());
            }
            _ => {
                let mend = "write NAME:PROTOCOL with PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL";
                return Err(ConfigError(format!("listener.security.protocol.map: '{item}'; {mend}")));
            }
        }
    }
    Ok(protocols)
}

fn address(key: &str, item: &str) -> Result<(String, String, u16), ConfigError> {
    let wrong = || ConfigError(format!("{key}: '{item}' is not NAME://host:port"));
    let (name, rest) = item.split_once("://").ok_or_else(wrong)?;
    let (host, port) = rest.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    if !is_name || (host.contains(':') && !is_bracketed) || host.contains('/') {
        return Err(wrong());
    }
    Ok((name.to_ascii_uppercase(), host.trim_matches(['[', ']']).to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(sets: &[&str]) -> Result<Vec<Listener>, String> {
        let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
        listeners(&Settings::load(None, &sets).unwrap()).map_err(|e| e.0)
    }

    #[test]
    fn the_default_is_loopback() {
        let found = parse(&[]).unwrap();
        assert_eq!((found[0].host.as_str(), found[0].port, found[0].is_open()), ("127.0.0.1", 9092, false));
    }

    #[test]
    fn several_listeners_keep_their_own_addresses() {
        let map = "listener.security.protocol.map=IN:PLAINTEXT,OUT:PLAINTEXT";
        let found =
            parse(&["listeners=IN://:9092,OUT://[::1]:0", map, "advertised.listeners=IN://broker-1:9092"])
                .unwrap();
        assert_eq!(found[0].advertised, Some(("broker-1".into(), 9092)));
        assert_eq!((found[1].host.as_str(), found[1].port, &found[1].advertised), ("::1", 0, &None));
        assert!(found[0].is_open() && !found[1].is_open());
    }

    #[test]
    fn row_56_listeners_that_cannot_work_are_refused_with_the_mend() {
        for (sets, word) in [
            (&["listeners=FOO://:9092"][..], "add FOO:PLAINTEXT to it"),
            (&["listeners=SSL://:9093"], "only PLAINTEXT is built yet"),
            (&["listeners=PLAINTEXT:9092"], "is not NAME://host:port"),
            (&["listeners=PLAINTEXT://h:99999"], "is not NAME://host:port"),
            (&["listeners=CONTROLLER://:9093"], "none is left"),
            (&["listeners=PLAINTEXT://:1,PLAINTEXT://:2"], "is there twice"),
            (&["advertised.listeners=PLAINTEXT://0.0.0.0:9092"], "names no host"),
            (&["advertised.listeners=EXTERNAL://a:9092"], "is no listener"),
            (&["listener.security.protocol.map=A:B"], "write NAME:PROTOCOL"),
        ] {
            let why = parse(sets).unwrap_err();
            assert!(why.contains(word), "{sets:?}: {why}");
        }
    }
}
