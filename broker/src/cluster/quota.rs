//! Client quotas: whom they hold for and how much they allow, with Kafka's precedence.
//!
//! An entity is a user, a client id, both, or an address; each part a name or the default of all that have no row of
//! their own. Pure; knows no request and meters nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Bytes a second that may be produced.
pub const PRODUCER_BYTE_RATE: &str = "producer_byte_rate";
/// Bytes a second that may be fetched.
pub const CONSUMER_BYTE_RATE: &str = "consumer_byte_rate";
/// Share of the broker's threads, in percent.
pub const REQUEST_PERCENTAGE: &str = "request_percentage";
/// Partitions created or deleted a second.
pub const CONTROLLER_MUTATION_RATE: &str = "controller_mutation_rate";
/// Connections a second from an address.
pub const CONNECTION_CREATION_RATE: &str = "connection_creation_rate";

/// One part of an entity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Part {
    /// All that have no row of their own.
    Default,
    /// This one.
    Named(String),
}

impl Part {
    /// The name; `None` for the default.
    pub fn name(&self) -> Option<&str> {
        match self {
            Part::Default => None,
            Part::Named(name) => Some(name),
        }
    }

    /// The inverse of [`Part::name`].
    pub fn from_name(name: Option<String>) -> Part {
        name.map_or(Part::Default, Part::Named)
    }
}

/// Whom a quota holds for.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Entity {
    /// User, without its `User:`.
    pub user: Option<Part>,
    /// Client id.
    pub client: Option<Part>,
    /// Address.
    pub ip: Option<Part>,
}

/// How much is allowed. Kept by its bits, so that images can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate(u64);

impl Rate {
    /// A rate.
    pub fn new(value: f64) -> Rate {
        Rate(value.to_bits())
    }

    /// Its value.
    pub fn value(self) -> f64 {
        f64::from_bits(self.0)
    }
}

/// What is allowed to each entity, by key.
pub type Table = BTreeMap<Entity, BTreeMap<String, Rate>>;

/// A quota that holds for a client, and with whom it is shared.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// How much.
    pub rate: f64,
    /// Whether every user has its own share of it.
    pub by_user: bool,
    /// Whether every client id has.
    pub by_client: bool,
}

/// The quota `key` for `user` and `client`: the first row there is, from user and client id to the default client id.
pub fn find(table: &Table, key: &str, user: &str, client: &str) -> Option<Found> {
    if table.is_empty() {
        return None;
    }
    let named = |name: &str| Some(Part::Named(name.to_owned()));
    let users = [named(user), Some(Part::Default), None];
    for user in users {
        for client in [named(client), Some(Part::Default), None] {
            let (by_user, by_client) = (user.is_some(), client.is_some());
            let entity = Entity { user: user.clone(), client, ip: None };
            if let Some(rate) = table.get(&entity).and_then(|row| row.get(key)) {
                return Some(Found { rate: rate.value(), by_user, by_client });
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entity(user: Option<&str>, client: Option<&str>) -> Entity {
        let part = |name: &str| Part::from_name(Some(name.to_owned()).filter(|n| n != "*"));
        Entity { user: user.map(part), client: client.map(part), ip: None }
    }

    #[test]
    fn the_most_specific_row_holds_in_kafkas_order() {
        let order = [
            entity(Some("u"), Some("c")),
            entity(Some("u"), Some("*")),
            entity(Some("u"), None),
            entity(Some("*"), Some("c")),
            entity(Some("*"), Some("*")),
            entity(Some("*"), None),
            entity(None, Some("c")),
            entity(None, Some("*")),
        ];
        let mut table = Table::new();
        for (n, entity) in order.iter().enumerate().rev() {
            let row = BTreeMap::from([(PRODUCER_BYTE_RATE.to_owned(), Rate::new(n as f64))]);
            table.insert(entity.clone(), row);
            let found = find(&table, PRODUCER_BYTE_RATE, "u", "c").unwrap();
            assert_eq!(found.rate, n as f64);
            assert_eq!((found.by_user, found.by_client), (entity.user.is_some(), entity.client.is_some()));
        }
        assert_eq!(find(&table, CONSUMER_BYTE_RATE, "u", "c"), None);
        assert_eq!(find(&table, PRODUCER_BYTE_RATE, "other", "x").unwrap().rate, 4.0);
    }
}
