//! What the proxy does to a request: the settings, and the choice for one request (pure: the roll comes in).
//! At most one fault per request; the probabilities are cut off at 1 in the order of [`Faults::odds`].

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

/// The faults now in force. Missing JSON fields are off.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Probability of a 503 SlowDown without forwarding.
    #[arg(long, default_value_t = 0.0)]
    pub slow_down: f64,
    /// Probability that the request is carried out and answered 503 all the same.
    #[arg(long, default_value_t = 0.0)]
    pub stored_503: f64,
    /// Probability that the request is carried out and the connection closed without an answer.
    #[arg(long, default_value_t = 0.0)]
    pub lost: f64,
    /// Probability that the connection is closed and the request carried out later (not for GET and HEAD: reset).
    #[arg(long, default_value_t = 0.0)]
    pub late: f64,
    /// Probability of a stall, half of them before forwarding, half before the answer.
    #[arg(long, default_value_t = 0.0)]
    pub stall: f64,
    /// Probability of a connection reset without forwarding.
    #[arg(long, default_value_t = 0.0)]
    pub reset: f64,
    /// Probability that the answer's body breaks off half-way.
    #[arg(long, default_value_t = 0.0)]
    pub cut: f64,
    /// How long a stall lasts.
    #[arg(long, default_value_t = 5000)]
    pub stall_ms: u64,
    /// A late request is delivered within this time.
    #[arg(long, default_value_t = 3000)]
    pub late_ms: u64,
    /// How long the client of a late request waits before its connection closes.
    #[arg(long, default_value_t = 0)]
    pub close_ms: u64,
    /// Added to every request.
    #[arg(long, default_value_t = 0)]
    pub latency_ms: u64,
    /// Added to every request, uniformly from 0 to this.
    #[arg(long, default_value_t = 0)]
    pub jitter_ms: u64,
    /// Cap on request bodies of all connections together, bytes per second; 0 = none.
    #[arg(long, default_value_t = 0)]
    pub up_rate: u64,
    /// Cap on answer bodies of all connections together, bytes per second; 0 = none.
    #[arg(long, default_value_t = 0)]
    pub down_rate: u64,
    /// Faults only for these methods (all when empty).
    #[arg(long, value_delimiter = ',')]
    pub methods: Vec<String>,
    /// Faults only where the path contains this.
    #[arg(long)]
    pub path_contains: Option<String>,
    /// Faults left before the proxy behaves; no limit when absent.
    #[arg(long)]
    pub budget: Option<u64>,
    /// The whole store is away.
    #[arg(long, value_enum, default_value_t = Outage::None)]
    pub outage: Outage,
}

/// How an outage shows.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outage {
    /// The store is there.
    None,
    /// Every connection is reset.
    Reset,
    /// Nothing is answered until the outage ends; then the connection closes.
    Hang,
    /// Every request is answered 503.
    Error,
}

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // named as the fields of `Faults`
pub enum Fault {
    SlowDown,
    #[serde(rename = "stored_503")]
    Stored503,
    Lost,
    Late,
    StallBefore,
    StallAfter,
    Reset,
    Cut,
}

impl Fault {
    /// Every fault, in the order of the counters.
    pub const ALL: [Fault; 8] = [
        Fault::SlowDown,
        Fault::Stored503,
        Fault::Lost,
        Fault::Late,
        Fault::StallBefore,
        Fault::StallAfter,
        Fault::Reset,
        Fault::Cut,
    ];
}

impl Default for Faults {
    fn default() -> Faults {
        Faults {
            slow_down: 0.0,
            stored_503: 0.0,
            lost: 0.0,
            late: 0.0,
            stall: 0.0,
            reset: 0.0,
            cut: 0.0,
            stall_ms: 5000,
            late_ms: 3000,
            close_ms: 0,
            latency_ms: 0,
            jitter_ms: 0,
            up_rate: 0,
            down_rate: 0,
            methods: Vec::new(),
            path_contains: None,
            budget: None,
            outage: Outage::None,
        }
    }
}

impl Faults {
    fn odds(&self) -> [(Fault, f64); 8] {
        [
            (Fault::SlowDown, self.slow_down),
            (Fault::Stored503, self.stored_503),
            (Fault::Lost, self.lost),
            (Fault::Late, self.late),
            (Fault::StallBefore, self.stall / 2.0),
            (Fault::StallAfter, self.stall / 2.0),
            (Fault::Reset, self.reset),
            (Fault::Cut, self.cut),
        ]
    }

    /// The fault for a request, `roll` being uniform in `[0, 1)`.
    pub fn draw(&self, roll: f64, method: &str, path: &str) -> Option<Fault> {
        let method_meant =
            self.methods.is_empty() || self.methods.iter().any(|m| m.eq_ignore_ascii_case(method));
        let path_meant = self.path_contains.as_deref().is_none_or(|part| path.contains(part));
        if !method_meant || !path_meant || self.budget == Some(0) {
            return None;
        }
        let mut upto = 0.0;
        let fault = self.odds().into_iter().find_map(|(fault, p)| {
            upto += p;
            (roll < upto).then_some(fault)
        })?;
        let reads = matches!(method, "GET" | "HEAD");
        Some(if fault == Fault::Late && reads { Fault::Reset } else { fault })
    }

    /// What is wrong with these settings, if anything.
    pub fn fault(&self) -> Option<String> {
        let sum: f64 = self.odds().iter().map(|(_, p)| p).sum();
        if self.odds().iter().any(|(_, p)| !(0.0..=1.0).contains(p)) {
            return Some("a probability lies outside 0..1".into());
        }
        (sum > 1.0 + 1e-9).then(|| format!("the probabilities add up to {sum:.3}, more than 1"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        faults: Faults,
    }

    #[test]
    fn no_flags_and_empty_json_are_no_faults() {
        assert_eq!(Cli::parse_from(["x"]).faults, Faults::default());
        assert_eq!(serde_json::from_str::<Faults>("{}").unwrap(), Faults::default());
        assert!((0..100).all(|i| Faults::default().draw(f64::from(i) / 100.0, "PUT", "/b/k").is_none()));
    }

    #[test]
    fn probabilities_share_the_roll_in_order() {
        let faults = Faults { slow_down: 0.1, lost: 0.2, stall: 0.2, ..Faults::default() };
        assert_eq!(faults.draw(0.05, "PUT", "/"), Some(Fault::SlowDown));
        assert_eq!(faults.draw(0.15, "PUT", "/"), Some(Fault::Lost));
        assert_eq!(faults.draw(0.35, "PUT", "/"), Some(Fault::StallBefore));
        assert_eq!(faults.draw(0.45, "PUT", "/"), Some(Fault::StallAfter));
        assert_eq!(faults.draw(0.51, "PUT", "/"), None);
    }

    #[test]
    fn filters_and_budget_spare_other_requests() {
        let faults = Faults {
            lost: 1.0,
            methods: vec!["put".into()],
            path_contains: Some("wal/".into()),
            ..Faults::default()
        };
        assert_eq!(faults.draw(0.0, "PUT", "/b/wal/1"), Some(Fault::Lost));
        assert_eq!(faults.draw(0.0, "GET", "/b/wal/1"), None);
        assert_eq!(faults.draw(0.0, "PUT", "/b/meta/1"), None);
        assert_eq!(Faults { budget: Some(0), ..faults }.draw(0.0, "PUT", "/b/wal/1"), None);
    }

    #[test]
    fn a_read_is_never_late() {
        let faults = Faults { late: 1.0, ..Faults::default() };
        assert_eq!(faults.draw(0.5, "GET", "/"), Some(Fault::Reset));
        assert_eq!(faults.draw(0.5, "DELETE", "/"), Some(Fault::Late));
    }

    #[test]
    fn impossible_settings_are_named() {
        assert!(Faults { lost: 1.5, ..Faults::default() }.fault().is_some());
        assert!(Faults { lost: 0.6, late: 0.6, ..Faults::default() }.fault().is_some());
        assert!(Faults { lost: 0.5, late: 0.5, ..Faults::default() }.fault().is_none());
        assert!(serde_json::from_str::<Faults>(r#"{"lots": 1}"#).is_err());
    }
}
