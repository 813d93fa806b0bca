//! Why the cluster did not do what a command asked: one sentence, and what to do about it.

use tidemark_proto::client::ClientError;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::text::Text;

use crate::cli::Failure;

/// Why there is no answer, or not the wanted one.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// Nobody answers at the address.
    Unreachable(String),
    /// A connection or a broker went away.
    Lost(String),
    /// The cluster answered an error.
    Refused {
        /// What was asked about.
        what: String,
        /// Kafka's code.
        code: ErrorCode,
        /// What the broker says beside it.
        detail: Option<String>,
    },
    /// The broker cannot do it, or answers nonsense.
    Unable(String),
}

impl Trouble {
    /// There is no such topic.
    pub fn unknown_topic(name: &str) -> Trouble {
        Trouble::Unable(format!(
            "there is no topic {name}; `tidemark topics list` shows those there are, `tidemark topics create {name}` \
             makes it"
        ))
    }

    /// Whether it may be gone when asked again.
    pub fn passes(&self) -> bool {
        match self {
            Trouble::Lost(_) => true,
            Trouble::Refused { code, .. } => code.is_retriable(),
            Trouble::Unreachable(_) | Trouble::Unable(_) => false,
        }
    }

    /// From a call that failed.
    pub fn call(address: &str, error: ClientError) -> Trouble {
        match error {
            ClientError::Closed(why) => Trouble::Lost(format!("{address} closed the connection: {why}")),
            ClientError::Version(api) => Trouble::Unable(format!(
                "the broker at {address} does not serve {api} in a version that we speak; a newer broker does"
            )),
            other => Trouble::Unable(format!("{address}: {other}")),
        }
    }
}

/// An error unless `code` says none.
pub fn refused(what: &str, code: i16, detail: Option<&Text>) -> Result<(), Trouble> {
    match ErrorCode::from_code(code) {
        ErrorCode::None => Ok(()),
        code => Err(Trouble::Refused {
            what: what.to_owned(),
            code,
            detail: detail.map(|text| text.to_string()).filter(|text| !text.is_empty()),
        }),
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trouble::Unreachable(why) => write!(
                f,
                "no broker answers: {why}; start one (`tidemark dev`) or name one with --bootstrap or TIDEMARK_BOOTSTRAP"
            ),
            Trouble::Lost(why) | Trouble::Unable(why) => f.write_str(why),
            Trouble::Refused { what, code, detail } => {
                write!(f, "{what}: {code}")?;
                if let Some(detail) = detail {
                    write!(f, " ({})", detail.trim_end_matches('.'))?;
                }
                match advice(*code) {
                    Some(advice) => write!(f, "; {advice}"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// What helps against an error, where something usually does.
fn advice(code: ErrorCode) -> Option<&'static str> {
    Some(match code {
        ErrorCode::UnknownTopicOrPartition | ErrorCode::UnknownTopicId => {
            "`tidemark topics list` shows what there is"
        }
        ErrorCode::TopicAlreadyExists => "choose another name, or say --if-not-exists",
        ErrorCode::InvalidTopicException => {
            "names have at most 249 letters, digits, dots, underscores and dashes"
        }
        ErrorCode::InvalidPartitions => "partitions can be added, never taken away",
        ErrorCode::InvalidReplicationFactor => "there are fewer brokers than replicas: ask for fewer",
        ErrorCode::InvalidConfig => "`tidemark configs get` shows names and values",
        ErrorCode::NonEmptyGroup => "the group has members: stop its consumers first",
        ErrorCode::GroupIdNotFound => "`tidemark groups list` shows what there is",
        ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge => {
            "raise max.message.bytes of the topic, or send less at once with --batch-bytes"
        }
        ErrorCode::OffsetOutOfRange => "`tidemark offsets` shows which offsets there are",
        ErrorCode::LeaderNotAvailable
        | ErrorCode::NotLeaderOrFollower
        | ErrorCode::CoordinatorNotAvailable => {
            "`tidemark cluster` shows which brokers live; --timeout waits longer"
        }
        ErrorCode::TopicAuthorizationFailed
        | ErrorCode::GroupAuthorizationFailed
        | ErrorCode::ClusterAuthorizationFailed => "ask whoever keeps the cluster's ACLs",
        _ => return None,
    })
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Failure {
        Failure::Failed(trouble.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_sentence_with_its_remedy() {
        let error =
            refused("topic t", ErrorCode::TopicAlreadyExists.code(), Some(&"Topic 't' exists.".into()));
        assert_eq!(
            error.unwrap_err().to_string(),
            "topic t: TOPIC_ALREADY_EXISTS (Topic 't' exists); choose another name, or say --if-not-exists"
        );
        assert!(refused("x", 0, None).is_ok());
        assert!(refused("x", 6, None).unwrap_err().passes());
        assert!(!refused("x", 36, None).unwrap_err().passes());
    }
}
