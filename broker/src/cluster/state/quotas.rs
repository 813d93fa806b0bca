//! Decides changes of client quotas, with Kafka's checks.

use std::collections::BTreeMap;

use tidemark_proto::kafka::error::ErrorCode;

use super::super::command::{Outcome, Refusal, Reply};
use super::super::image::Image;
use super::super::quota::{
    CONNECTION_CREATION_RATE, CONSUMER_BYTE_RATE, CONTROLLER_MUTATION_RATE, Entity, PRODUCER_BYTE_RATE, Part,
    REQUEST_PERCENTAGE, Rate,
};
use super::super::record::Record;

impl Image {
    pub(super) fn set_quotas(
        &self,
        entity: &Entity,
        set: &[(String, Option<Rate>)],
        validate_only: bool,
    ) -> Outcome {
        if let Err(why) = check(entity, set) {
            return Outcome::reply(Reply::Row(Err(Refusal::new(ErrorCode::InvalidRequest, why))));
        }
        let none = BTreeMap::new();
        let now = self.quotas.get(entity).unwrap_or(&none);
        let changed = set.iter().filter(|(key, value)| now.get(key) != value.as_ref());
        let set: Vec<(String, Option<Rate>)> = changed.cloned().collect();
        let records = match validate_only || set.is_empty() {
            true => Vec::new(),
            false => vec![Record::QuotasSet { entity: entity.clone(), set }],
        };
        Outcome { records, reply: Reply::Row(Ok(())) }
    }
}

fn check(entity: &Entity, set: &[(String, Option<Rate>)]) -> Result<(), String> {
    let Entity { user, client, ip } = entity;
    for (kind, part) in [("user", user), ("client-id", client), ("ip", ip)] {
        if matches!(part, Some(Part::Named(name)) if name.is_empty()) {
            return Err(format!("Empty client quota value for {kind}"));
        }
    }
    let by_client = user.is_some() || client.is_some();
    if !by_client && ip.is_none() {
        return Err("Invalid empty client quota entity".into());
    }
    if by_client && ip.is_some() {
        return Err(
            "Invalid quota entity combination, IP entity should not be combined with User or ClientId".into(),
        );
    }
    if let Some(Part::Named(address)) = ip
        && address.parse::<std::net::IpAddr>().is_err()
    {
        return Err(format!("{} is not a valid IP or resolvable host.", address.escape_debug()));
    }
    for (key, value) in set {
        let whole = match (key.as_str(), ip) {
            (PRODUCER_BYTE_RATE | CONSUMER_BYTE_RATE, None) | (CONNECTION_CREATION_RATE, Some(_)) => true,
            (REQUEST_PERCENTAGE | CONTROLLER_MUTATION_RATE, None) => false,
            _ => return Err(format!("Invalid configuration key {}", key.escape_debug())),
        };
        let Some(value) = value.map(Rate::value) else { continue };
        // Not a number is not above zero either.
        if value.is_nan() || value <= 0.0 {
            return Err(format!("Quota {key} must be greater than 0"));
        }
        if whole && (value.fract() > 1e-6 || value > i64::MAX as f64) {
            return Err(format!("{key} must be a whole number"));
        }
    }
    Ok(())
}
