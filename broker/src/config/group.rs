//! Checks what is set on a group.

use super::keys;
use super::settings::Settings;

/// Checks one group setting under a broker's `settings`, which bound it; `None` resets, and may name any key, as in
/// Kafka. The sentence names key, value and what is allowed.
pub fn check_group(settings: &Settings, name: &str, value: Option<&str>) -> Result<(), String> {
    let Some(value) = value else { return Ok(()) };
    let Some(key) = keys::find_group(name) else {
        return Err(format!("Unknown group config name: {}", name.escape_debug()));
    };
    let value = key.check(value)?;
    if name == "share.auto.offset.reset" && !is_reset(&value) {
        return Err(format!(
            "{name}: '{}' is not allowed; allowed: earliest, latest, by_duration:PnDTnHnMn.nS",
            value.escape_debug()
        ));
    }
    let Ok(number) = value.parse::<i64>() else { return Ok(()) };
    let bound = |key: Option<&'static str>| {
        let value: i64 = settings.value(key?)?.parse().ok()?;
        Some((key?, value))
    };
    let (low, high) = keys::bounds_of_group(name);
    let (low, high) = (bound(low), bound(high));
    match (low, high) {
        (Some((key, low)), _) if number < low => {
            Err(format!("{name} must be greater than or equal to {key} ({low})"))
        }
        (_, Some((key, high))) if number > high => {
            Err(format!("{name} must be less than or equal to {key} ({high})"))
        }
        _ => Ok(()),
    }
}

fn is_reset(value: &str) -> bool {
    match value.split_once(':') {
        None => matches!(value.to_ascii_lowercase().as_str(), "earliest" | "latest"),
        Some((how, duration)) => how.eq_ignore_ascii_case("by_duration") && is_duration(duration),
    }
}

/// ISO 8601 with days, hours, minutes and seconds, not negative: `P1DT2H3M4.5S`.
fn is_duration(text: &str) -> bool {
    let text = text.to_ascii_uppercase();
    let Some(rest) = text.strip_prefix('P') else { return false };
    let (days, time) = rest.split_once('T').map_or((rest, None), |(days, time)| (days, Some(time)));
    let is_number = |text: &str, point: bool| {
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        (point || !text.contains('.')) && digits(whole) && digits(part)
    };
    let mut units = 0;
    let mut rest = days;
    if let Some((number, left)) = rest.split_once('D') {
        if !is_number(number, false) {
            return false;
        }
        (units, rest) = (1, left);
    }
    if !rest.is_empty() {
        return false;
    }
    if let Some(mut left) = time {
        let before = units;
        for unit in ['H', 'M', 'S'] {
            if let Some((number, after)) = left.split_once(unit) {
                if !is_number(number, unit == 'S') {
                    return false;
                }
                (units, left) = (units + 1, after);
            }
        }
        if !left.is_empty() || units == before {
            return false;
        }
    }
    units > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sets: &[&str], name: &str, value: Option<&str>) -> Result<(), String> {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        check_group(&Settings::load(None, &sets).unwrap(), name, value)
    }

    #[test]
    fn a_groups_numbers_lie_within_its_brokers_bounds() {
        let name = "consumer.session.timeout.ms";
        assert_eq!(check(&[], name, Some("50000")), Ok(()));
        assert!(check(&[], name, Some("1")).unwrap_err().contains("group.consumer.min.session.timeout.ms"));
        assert!(
            check(&[], name, Some("60001")).unwrap_err().contains("group.consumer.max.session.timeout.ms")
        );
        assert_eq!(check(&["group.consumer.min.session.timeout.ms=1"], name, Some("1")), Ok(()));
        assert!(check(&[], name, Some("soon")).is_err());
        assert!(check(&[], "streams.num.standby.replicas", Some("3")).is_err());
    }

    #[test]
    fn an_unknown_group_key_may_be_reset_and_not_set() {
        assert!(check(&[], "no.such", Some("1")).unwrap_err().contains("no.such"));
        assert_eq!(check(&[], "no.such", None), Ok(()));
    }

    #[test]
    fn a_share_group_begins_at_an_end_or_some_time_ago() {
        let reset = |value| check(&[], "share.auto.offset.reset", Some(value)).is_ok();
        for good in ["earliest", "latest", "by_duration:PT1H", "by_duration:P1DT2H3M4.5S", "by_duration:P2D"]
        {
            assert!(reset(good), "{good}");
        }
        for bad in [
            "",
            "none",
            "by_duration:",
            "by_duration:P",
            "by_duration:PT",
            "by_duration:1H",
            "by_duration:PTH",
        ] {
            assert!(!reset(bad), "{bad}");
        }
    }
}
