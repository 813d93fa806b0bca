//! Errors of this crate, by remedy: what the caller does next, not where it went wrong.
//!
//! Kafka's codes are chosen at the edge, in the broker.

/// What went wrong, named by what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The store did not answer usefully; the same call may succeed later.
    #[error("the store did not answer: {0}")]
    Retry(String),
    /// Somebody else owns this log now: stop, drop state, never write here again (R14, E4).
    #[error("fenced: {0}")]
    Fenced(String),
    /// The object is there and its bytes are wrong (R13, R27): alarm, never truncate or skip.
    #[error("object {key} is damaged: {why}")]
    Corrupt {
        /// The object.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// The object is not there (R15): read the metadata again; if that did not move, it is damage.
    #[error("object {key} is gone")]
    Gone {
        /// The object.
        key: String,
    },
    /// A bound was reached; wait for room.
    #[error("no room: {0}")]
    Full(String),
}
