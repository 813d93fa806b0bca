//! Times as people write and read them: RFC 3339 in UTC, milliseconds since 1970, and so long ago.

use tidemark_proto::id::Millis;

const DAY_MS: i64 = 86_400_000;

/// `2026-11-23T12:30:00.123Z`.
pub fn show(at: Millis) -> String {
    let (days, ms) = (at.0.div_euclid(DAY_MS), at.0.rem_euclid(DAY_MS));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1000)
}

/// A time: a date, a date with a time (UTC unless an offset says otherwise), milliseconds as `@1700000000000`, or so
/// long before `now` as `15m`.
pub fn parse(text: &str, now: Millis) -> Result<Millis, String> {
    let why = || {
        format!(
            "'{text}' is no time; write 2026-11-23, 2026-11-23T12:30:00Z, @1700000000000 (ms) or 15m (ago)"
        )
    };
    if let Some(ms) = text.strip_prefix('@') {
        return ms.parse().map(Millis).map_err(|_| why());
    }
    if let Some(ago) = span_ms(text) {
        return Ok(Millis(now.0 - ago));
    }
    moment(text).map(Millis).ok_or_else(why)
}

/// `90s`, `15m`, `2h`, `7d`, `250ms` in milliseconds.
pub fn span_ms(text: &str) -> Option<i64> {
    let at = text.find(|c: char| !c.is_ascii_digit())?;
    let (count, unit) = text.split_at(at);
    let unit = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => DAY_MS,
        _ => return None,
    };
    count.parse::<i64>().ok()?.checked_mul(unit)
}

fn moment(text: &str) -> Option<i64> {
    if !text.is_ascii() {
        return None;
    }
    let (date, rest) = text.split_at_checked(10).unwrap_or((text, ""));
    let mut parts = date.split('-');
    let (year, month, day) =
        (digits(parts.next()?, 4)?, digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    let days = day_number(year, month, day);
    if parts.next().is_some() || civil(days) != (year, month, day) {
        return None;
    }
    let midnight = days * DAY_MS;
    if rest.is_empty() {
        return Some(midnight);
    }
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let zone_at = rest.find(['Z', 'z', '+', '-']).unwrap_or(rest.len());
    let (clock, zone) = rest.split_at(zone_at);
    Some(midnight + clock_ms(clock)? - zone_ms(zone)?)
}

fn clock_ms(text: &str) -> Option<i64> {
    let (text, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let mut parts = text.split(':');
    let (hour, minute) = (digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    let second = parts.next().map_or(Some(0), |second| digits(second, 2))?;
    if parts.next().is_some() || hour > 23 || minute > 59 || second > 60 || fraction.len() > 9 {
        return None;
    }
    let fraction_ms = format!("{fraction:0<3}")[..3].parse::<i64>().ok()?;
    Some(((hour * 60 + minute) * 60 + second) * 1000 + fraction_ms)
}

fn zone_ms(text: &str) -> Option<i64> {
    if matches!(text, "" | "Z" | "z") {
        return Some(0);
    }
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = text.get(1..)?.split_once(':')?;
    Some(sign * (digits(hours, 2)? * 60 + digits(minutes, 2)?) * 60_000)
}

fn digits(text: &str, count: usize) -> Option<i64> {
    (text.len() == count && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Days since 1970-01-01 of a date in the Gregorian calendar, counted in eras of 400 years that begin in March.
fn day_number(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The inverse of [`day_number`].
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_795_437_000_123);

    #[test]
    fn times_are_read_as_they_are_shown() {
        assert_eq!(show(Millis(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(show(Millis(951_782_400_000)), "2000-02-29T00:00:00.000Z");
        assert_eq!(show(Millis(-1)), "1969-12-31T23:59:59.999Z");
        for at in [0, 951_782_400_000, NOW.0, 4_102_444_800_001] {
            assert_eq!(parse(&show(Millis(at)), NOW), Ok(Millis(at)));
        }
    }

    #[test]
    fn dates_zones_spans_and_milliseconds_are_times() {
        for (text, ms) in [
            ("2000-02-29", 951_782_400_000),
            ("2000-02-29T01:00", 951_786_000_000),
            ("2000-02-29 01:00:00+01:00", 951_782_400_000),
            ("2000-02-28T23:00:00.5-01:00", 951_782_400_500),
            ("@17", 17),
            ("15m", NOW.0 - 900_000),
            ("2d", NOW.0 - 2 * DAY_MS),
        ] {
            assert_eq!(parse(text, NOW), Ok(Millis(ms)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "x",
            "2001-02-29",
            "2000-13-01",
            "2000-1-1",
            "2000-01-01T25:00",
            "5",
            "5y",
            "@",
            "2000-01-01X",
            "héllo wörld",
        ] {
            assert!(parse(text, NOW).is_err(), "{text}");
        }
    }
}
