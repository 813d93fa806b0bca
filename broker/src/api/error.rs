//! What goes wrong inside, as Kafka's codes: the one place that maps them.

use tidemark_proto::kafka::error::ErrorCode;
use tidemark_tiering::error::Error;

/// The code a client is told for an error of the log.
pub fn code_of(error: &Error) -> ErrorCode {
    match error {
        // The client asks again: here once the store answers, or wherever the leader is by then.
        Error::Retry(_) => ErrorCode::NotLeaderOrFollower,
        Error::Fenced(_) => ErrorCode::NotLeaderOrFollower,
        // What is damaged or lost is never passed over in silence.
        Error::Corrupt { .. } => ErrorCode::KafkaStorageError,
        Error::Gone { .. } => ErrorCode::KafkaStorageError,
        Error::Full(_) => ErrorCode::ThrottlingQuotaExceeded,
    }
}
