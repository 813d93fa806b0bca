//! Sorts a store's errors by what they allow the caller to conclude.
//!
//! R4 and D3: `object_store` reports a 409, and its own write, as "already exists"; no error of a PUT proves
//! that nothing was stored. A missing bucket must never be read as a missing object (E5, R15).

use object_store::Error;

use super::meter::Outcome;

/// What an attempt that did not succeed tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The key is said to hold an object, by whoever: settle it by reading.
    Exists,
    /// The key holds no object.
    Absent,
    /// The asked range lies outside the object, or the store cannot tell.
    Range(String),
    /// No answer within the time allowed; it may still land.
    Timeout(String),
    /// Anything may have happened.
    Unknown(String),
    /// Only an operator can mend it.
    Refused(String),
}

impl Trouble {
    pub(super) fn of(error: &Error) -> Trouble {
        let text = plain(&error.to_string());
        if ["NoSuchBucket", "ContainerNotFound", "bucket does not exist"].iter().any(|m| text.contains(m)) {
            return Trouble::Refused(format!("the bucket does not exist ({text})"));
        }
        match error {
            Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotModified { .. } => {
                Trouble::Exists
            }
            Error::NotFound { .. } => Trouble::Absent,
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => Trouble::Refused(text),
            Error::NotSupported { .. } | Error::NotImplemented { .. } | Error::InvalidPath { .. } => {
                Trouble::Refused(text)
            }
            _ if HOPELESS.iter().any(|m| text.contains(m)) => Trouble::Refused(text),
            _ if OUT_OF_RANGE.iter().any(|m| text.contains(m)) => Trouble::Range(text),
            _ => Trouble::Unknown(text),
        }
    }

    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Trouble::Exists => Outcome::Exists,
            Trouble::Absent => Outcome::Absent,
            Trouble::Timeout(_) => Outcome::Timeout,
            Trouble::Range(_) | Trouble::Unknown(_) => Outcome::Unknown,
            Trouble::Refused(_) => Outcome::Refused,
        }
    }

    pub(super) fn text(&self) -> &str {
        match self {
            Trouble::Exists => "the object already exists",
            Trouble::Absent => "the object does not exist",
            Trouble::Range(text) | Trouble::Timeout(text) => text,
            Trouble::Unknown(text) | Trouble::Refused(text) => text,
        }
    }
}

/// Marks of the answers (416, or 200 where 206 was due) to a range that an object does not have.
const OUT_OF_RANGE: [&str; 4] =
    ["416 Range Not Satisfiable", "InvalidRange", "non-partial response", "Wanted range starting at"];

/// Marks of answers that no waiting mends.
const HOPELESS: [&str; 7] = [
    "AuthorizationHeaderMalformed",
    "PermanentRedirect",
    "Received redirect without LOCATION",
    "InvalidBucketName",
    "No space left on device",
    "Read-only file system",
    "restart tidemark",
];

/// The error in one bounded line, without the query part of any URL: signatures and tokens live there.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut in_query = false;
    for c in text.chars() {
        if c == '?' {
            in_query = true;
        } else if c.is_whitespace() {
            in_query = false;
        }
        if !in_query {
            out.push(if c.is_control() { ' ' } else { c });
        }
        if out.len() >= 600 {
            out.push('…');
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> Error {
        Error::Generic { store: "S3", source: text.into() }
    }

    #[test]
    fn a_missing_bucket_is_not_a_missing_object() {
        let object = Error::NotFound { path: "a".into(), source: "NoSuchKey".into() };
        let bucket = Error::NotFound { path: "a".into(), source: "<Code>NoSuchBucket</Code>".into() };
        assert_eq!(Trouble::of(&object), Trouble::Absent);
        assert!(matches!(Trouble::of(&bucket), Trouble::Refused(_)));
    }

    #[test]
    fn servers_errors_tell_nothing() {
        assert!(matches!(Trouble::of(&generic("503 SlowDown")), Trouble::Unknown(_)));
        assert!(matches!(Trouble::of(&generic("416 Range Not Satisfiable")), Trouble::Range(_)));
        assert!(matches!(Trouble::of(&generic("AuthorizationHeaderMalformed")), Trouble::Refused(_)));
    }

    #[test]
    fn signatures_in_urls_and_endless_bodies_are_not_repeated() {
        let text = plain("GET https://host/key?sig=SECRET&x=1 failed:\n503");
        assert_eq!(text, "GET https://host/key failed: 503");
        assert!(plain(&"x".repeat(10_000)).len() < 700);
    }
}
