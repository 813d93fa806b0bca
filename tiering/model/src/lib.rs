//! What the model programs share: which outcome a scenario must have, and the exit code that says so.
//! A fixed scenario must be exhausted without a violation, a mutation (one rule removed) must be caught.

use std::process::ExitCode;

/// How a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every reachable state was seen; none breaks a property.
    Exhausted,
    /// A state breaks a property.
    Violation,
    /// `LIMIT` or `SECS` cut the search before either.
    Stopped,
}

impl Outcome {
    /// Of a breadth-first search that met a bad state or not, and ran to its end or not.
    pub fn of(bad: bool, finished: bool) -> Outcome {
        match (bad, finished) {
            (true, _) => Outcome::Violation,
            (false, true) => Outcome::Exhausted,
            (false, false) => Outcome::Stopped,
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Outcome::Exhausted => "EXHAUSTED, no violation",
            Outcome::Violation => "VIOLATION",
            Outcome::Stopped => "stopped at limit, no violation so far",
        })
    }
}

/// What a scenario is expected to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The protocol as it is: the whole space, no violation.
    Exhausted,
    /// One rule removed: the violation must be found.
    Violation,
    /// A walk or a cut run: evidence only, no violation.
    NoViolation,
}

impl Expect {
    /// `m_*` scenarios are mutations.
    pub fn of(name: &str) -> Expect {
        if name.starts_with("m_") {
            Expect::Violation
        } else {
            Expect::Exhausted
        }
    }
}

/// Collects the scenarios whose outcome is not the expected one.
#[derive(Debug, Default)]
pub struct Verdict {
    passed: usize,
    failed: Vec<String>,
}

impl Verdict {
    /// Judges one outcome.
    pub fn judge(&mut self, name: &str, expect: Expect, outcome: Outcome) {
        let complaint = match (expect, outcome) {
            (Expect::Violation, Outcome::Violation)
            | (Expect::Exhausted, Outcome::Exhausted)
            | (Expect::NoViolation, Outcome::Exhausted | Outcome::Stopped) => {
                self.passed += 1;
                return;
            }
            (Expect::Exhausted | Expect::NoViolation, Outcome::Violation) => "the protocol is violated",
            (Expect::Exhausted, Outcome::Stopped) => {
                "stopped at a limit before it was exhausted: raise SECS or LIMIT, or take a smaller scenario"
            }
            (Expect::Violation, Outcome::Exhausted) => {
                "a rule was removed and no violation was found: the model no longer sees what the rule is for"
            }
            (Expect::Violation, Outcome::Stopped) => {
                "a rule was removed and the search stopped at a limit before it found a violation"
            }
        };
        self.failed.push(format!("{name}: {complaint}"));
    }

    /// A name that is no scenario: a CI list with a typing error must not pass.
    pub fn unknown(&mut self, name: &str) {
        self.failed.push(format!("{name}: no such scenario"));
    }

    /// Prints each failure as a sentence, then the totals; the exit code is 1 if anything failed or nothing ran.
    pub fn finish(self) -> ExitCode {
        for line in &self.failed {
            eprintln!("FAILED {line}");
        }
        if self.passed + self.failed.len() == 0 {
            eprintln!("FAILED nothing was run: name scenarios, or `ci` for the list of the README");
            return ExitCode::FAILURE;
        }
        println!("{} passed, {} failed", self.passed, self.failed.len());
        ExitCode::from(u8::from(!self.failed.is_empty()))
    }
}

/// The arguments, with `ci` replaced by the program's CI list.
pub fn requested(ci: &[&str]) -> Vec<String> {
    let mut names = Vec::new();
    for arg in std::env::args().skip(1) {
        if arg == "ci" {
            names.extend(ci.iter().map(|n| n.to_string()));
        } else {
            names.push(arg);
        }
    }
    names
}

/// A bound from the environment; a value that is no number is refused, not ignored.
pub fn bound(key: &str, default: u64) -> Result<u64, String> {
    match std::env::var(key) {
        Ok(text) => text.parse().map_err(|_| format!("{key}={text} is not a whole number")),
        Err(_) => Ok(default),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failures(expect: Expect, outcome: Outcome) -> usize {
        let mut verdict = Verdict::default();
        verdict.judge("x", expect, outcome);
        verdict.failed.len()
    }

    #[test]
    fn only_the_expected_outcome_passes() {
        use Outcome::*;
        let table = [
            (Expect::Exhausted, [0, 1, 1]),
            (Expect::Violation, [1, 0, 1]),
            (Expect::NoViolation, [0, 1, 0]),
        ];
        for (expect, want) in table {
            assert_eq!([Exhausted, Violation, Stopped].map(|o| failures(expect, o)), want, "{expect:?}");
        }
    }

    #[test]
    fn an_unknown_name_and_an_empty_run_fail() {
        let mut verdict = Verdict::default();
        verdict.unknown("core-y");
        assert_eq!(verdict.failed, ["core-y: no such scenario"]);
        assert_eq!(format!("{:?}", verdict.finish()), format!("{:?}", ExitCode::FAILURE));
        assert_eq!(format!("{:?}", Verdict::default().finish()), format!("{:?}", ExitCode::FAILURE));
    }
}
