//! What befalls requests by chance: latencies and the odds of each fault.

use std::time::Duration;

use super::Fault;
use crate::bucket::meter::Verb;
use crate::seam::Entropy;

/// Latencies and odds. The default is a store that answers at once and truly.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weather {
    /// Time to an answer.
    pub latency: Latency,
    /// More time for keys that contain a text.
    pub slow: Vec<(String, Duration)>,
    /// More time until puts of keys that contain a text land.
    pub slow_puts: Vec<(String, Duration)>,
    /// Bytes a second that the store takes and gives, all requests together.
    pub bandwidth: Option<u64>,
    /// Odds of [`Fault::Error`].
    pub errors: f64,
    /// Odds of [`Fault::LostAnswer`], for puts and deletes.
    pub lost_answers: f64,
    /// Odds of [`Fault::Deaf`], for puts and deletes.
    pub deaf: f64,
    /// Odds of [`Fault::Conflict`], for puts.
    pub conflicts: f64,
    /// Odds of [`Fault::Late`], for puts and deletes; as late as `late_by` at most.
    pub late: f64,
    /// See `late`.
    pub late_by: Duration,
    /// Odds of [`Fault::Hang`].
    pub hangs: f64,
    /// Odds of [`Fault::Stall`], for as long as `stall_for` at most.
    pub stalls: f64,
    /// See `stalls`.
    pub stall_for: Duration,
    /// Odds of [`Fault::Truncate`], for gets and lists.
    pub truncations: f64,
}

/// A log-normal time, and a time per MiB.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latency {
    /// Median.
    pub p50: Duration,
    /// 99th percentile; at least the median.
    pub p99: Duration,
    /// More for each MiB.
    pub per_mib: Duration,
}

/// How a store is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// Every request fails at once.
    Refusing,
    /// No request is answered.
    Silent,
    /// There is no such bucket, every answer says: a 404, which must not be taken for a missing object.
    Missing,
}

/// The 99th percentile of the standard normal distribution.
const Z99: f64 = 2.326;

impl Weather {
    /// A store like S3 on an ordinary day, and every fault now and then.
    pub fn rough() -> Weather {
        Weather {
            latency: Latency {
                p50: Duration::from_millis(25),
                p99: Duration::from_millis(180),
                per_mib: Duration::from_millis(8),
            },
            errors: 0.01,
            lost_answers: 0.01,
            deaf: 0.003,
            conflicts: 0.005,
            late: 0.005,
            late_by: Duration::from_secs(90),
            hangs: 0.002,
            stalls: 0.005,
            stall_for: Duration::from_secs(10),
            truncations: 0.005,
            ..Weather::default()
        }
    }

    pub(super) fn time(&self, entropy: &Entropy, key: &str, bytes: usize) -> Duration {
        let slow = self.slow.iter().filter(|(text, _)| key.contains(text.as_str())).map(|(_, more)| *more);
        let sized = self.latency.per_mib.mul_f64(bytes as f64 / f64::from(1 << 20));
        self.latency.draw(entropy) + sized + slow.sum::<Duration>()
    }

    /// How long a request is on its way besides.
    pub(super) fn way(&self, verb: Verb, key: &str) -> Duration {
        let slow = self.slow_puts.iter().filter(|(text, _)| verb == Verb::Put && key.contains(text.as_str()));
        slow.map(|(_, more)| *more).sum()
    }

    pub(super) fn draw(&self, entropy: &Entropy, verb: Verb, _key: &str) -> Option<Fault> {
        let changes = matches!(verb, Verb::Put | Verb::Delete);
        let only = |applies: bool, odds: f64| if applies { odds } else { 0.0 };
        let late = self.late_by.mul_f64(entropy.unit());
        let stall = self.stall_for.mul_f64(entropy.unit());
        let odds = [
            (self.errors, Fault::Error),
            (only(changes, self.lost_answers), Fault::LostAnswer),
            (only(changes, self.deaf), Fault::Deaf),
            (only(verb == Verb::Put, self.conflicts), Fault::Conflict),
            (only(changes, self.late), Fault::Late(late)),
            (self.hangs, Fault::Hang),
            (self.stalls, Fault::Stall(stall)),
            (only(matches!(verb, Verb::Get | Verb::List), self.truncations), Fault::Truncate),
        ];
        let mut left = entropy.unit();
        for (odds, fault) in odds {
            if left < odds {
                return Some(fault);
            }
            left -= odds;
        }
        None
    }
}

impl Latency {
    fn draw(&self, entropy: &Entropy) -> Duration {
        if self.p50.is_zero() {
            return Duration::ZERO;
        }
        let (u, v) = (1.0 - entropy.unit(), entropy.unit());
        let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
        let p50 = self.p50.as_secs_f64();
        let sigma = (self.p99.as_secs_f64() / p50).max(1.0).ln() / Z99;
        // A tail without end would be a hang by another name.
        Duration::from_secs_f64((p50 * (sigma * normal).exp()).min(60.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_have_the_percentiles_asked_for() {
        let latency = Weather::rough().latency;
        let entropy = Entropy::seeded(5);
        let mut drawn: Vec<_> = (0..20_000).map(|_| latency.draw(&entropy)).collect();
        drawn.sort();
        let ms = |i: usize| drawn[i].as_secs_f64() * 1e3;
        assert!((23.0..27.0).contains(&ms(10_000)), "{}", ms(10_000));
        assert!((150.0..215.0).contains(&ms(19_800)), "{}", ms(19_800));
    }

    #[test]
    fn fine_weather_has_no_faults_and_rough_weather_has_all() {
        let entropy = Entropy::seeded(5);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..20_000 {
            assert_eq!(Weather::default().draw(&entropy, Verb::Put, "k"), None);
            for verb in [Verb::Put, Verb::Get] {
                seen.extend(Weather::rough().draw(&entropy, verb, "k").map(Fault::name));
            }
        }
        assert_eq!(seen.len(), 8, "{seen:?}");
    }
}
