//! Kafka's codes as gRPC statuses: what a caller may do about them decides.

use tidemark_proto::client::ClientError;
use tidemark_proto::kafka::error::ErrorCode;
use tonic::{Code, Status};

/// The status that says what `code` says.
pub(crate) fn of_code(code: ErrorCode) -> Code {
    match code {
        ErrorCode::UnknownTopicOrPartition | ErrorCode::UnknownTopicId => Code::NotFound,
        ErrorCode::InvalidTopicException
        | ErrorCode::InvalidRecord
        | ErrorCode::InvalidTimestamp
        | ErrorCode::CorruptMessage
        | ErrorCode::MessageTooLarge
        | ErrorCode::RecordListTooLarge
        | ErrorCode::UnsupportedCompressionType
        | ErrorCode::UnsupportedForMessageFormat
        | ErrorCode::InvalidRequest => Code::InvalidArgument,
        ErrorCode::PolicyViolation => Code::FailedPrecondition,
        ErrorCode::TopicAuthorizationFailed | ErrorCode::ClusterAuthorizationFailed => Code::PermissionDenied,
        ErrorCode::SaslAuthenticationFailed => Code::Unauthenticated,
        ErrorCode::ThrottlingQuotaExceeded => Code::ResourceExhausted,
        // The write may still land.
        ErrorCode::RequestTimedOut => Code::DeadlineExceeded,
        ErrorCode::UnsupportedVersion => Code::Unimplemented,
        code if code.is_retriable() => Code::Unavailable,
        _ => Code::Internal,
    }
}

/// Whether the broker surely did nothing and another try, after asking who leads, may do better.
pub(crate) fn may_retry(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NotLeaderOrFollower
            | ErrorCode::LeaderNotAvailable
            | ErrorCode::UnknownTopicOrPartition
            | ErrorCode::FencedLeaderEpoch
            | ErrorCode::UnknownLeaderEpoch
    )
}

/// A produce that got no answer: nobody knows whether it was appended.
pub(crate) fn of_lost_answer(error: &ClientError) -> Status {
    match error {
        ClientError::Encode(_) => Status::invalid_argument(error.to_string()),
        ClientError::Version(_) => Status::unimplemented(error.to_string()),
        _ => Status::unknown(format!("the records may have been appended or not: {error}")),
    }
}

/// A question that changes nothing and got no answer.
pub(crate) fn of_lost_question(error: &ClientError) -> Status {
    match error {
        ClientError::Version(_) => Status::unimplemented(error.to_string()),
        _ => Status::unavailable(error.to_string()),
    }
}
