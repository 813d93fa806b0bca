//! The protocol's API keys, and which versions of each the codec speaks.
//!
//! Knows nothing of what is served: the broker's own table says which of these rows it answers.

use std::fmt;

/// Declares the enum and its lookups from rows `key Name`.
macro_rules! keys {
    ($($key:literal $name:ident,)*) => {
        /// A kind of request a client may send. Keys only brokers and controllers use are not here.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i16)]
        #[allow(missing_docs, reason = "each variant is Kafka's published name of its key")]
        pub enum ApiKey {
            $($name = $key,)*
        }

        impl ApiKey {
            /// Every key, in rising order.
            pub const ALL: &[ApiKey] = &[$(ApiKey::$name,)*];

            /// The key of this number, if clients may use it.
            pub fn from_i16(key: i16) -> Option<ApiKey> {
                match key {
                    $($key => Some(ApiKey::$name),)*
                    _ => None,
                }
            }

            /// Kafka's name, such as `Produce`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(ApiKey::$name => stringify!($name),)*
                }
            }
        }
    };
}

keys! {
    0 Produce,
    1 Fetch,
    2 ListOffsets,
    3 Metadata,
    8 OffsetCommit,
    9 OffsetFetch,
    10 FindCoordinator,
    11 JoinGroup,
    12 Heartbeat,
    13 LeaveGroup,
    14 SyncGroup,
    15 DescribeGroups,
    16 ListGroups,
    17 SaslHandshake,
    18 ApiVersions,
    19 CreateTopics,
    20 DeleteTopics,
    21 DeleteRecords,
    22 InitProducerId,
    23 OffsetForLeaderEpoch,
    24 AddPartitionsToTxn,
    25 AddOffsetsToTxn,
    26 EndTxn,
    27 WriteTxnMarkers,
    28 TxnOffsetCommit,
    29 DescribeAcls,
    30 CreateAcls,
    31 DeleteAcls,
    32 DescribeConfigs,
    33 AlterConfigs,
    34 AlterReplicaLogDirs,
    35 DescribeLogDirs,
    36 SaslAuthenticate,
    37 CreatePartitions,
    38 CreateDelegationToken,
    39 RenewDelegationToken,
    40 ExpireDelegationToken,
    41 DescribeDelegationToken,
    42 DeleteGroups,
    43 ElectLeaders,
    44 IncrementalAlterConfigs,
    45 AlterPartitionReassignments,
    46 ListPartitionReassignments,
    47 OffsetDelete,
    48 DescribeClientQuotas,
    49 AlterClientQuotas,
    50 DescribeUserScramCredentials,
    51 AlterUserScramCredentials,
    55 DescribeQuorum,
    57 UpdateFeatures,
    60 DescribeCluster,
    61 DescribeProducers,
    64 UnregisterBroker,
    65 DescribeTransactions,
    66 ListTransactions,
    68 ConsumerGroupHeartbeat,
    69 ConsumerGroupDescribe,
    71 GetTelemetrySubscriptions,
    72 PushTelemetry,
    74 ListConfigResources,
    75 DescribeTopicPartitions,
    76 ShareGroupHeartbeat,
    77 ShareGroupDescribe,
    78 ShareFetch,
    79 ShareAcknowledge,
    80 AddRaftVoter,
    81 RemoveRaftVoter,
    88 StreamsGroupHeartbeat,
    89 StreamsGroupDescribe,
    90 DescribeShareGroupOffsets,
    91 AlterShareGroupOffsets,
    92 DeleteShareGroupOffsets,
}

impl ApiKey {
    /// The number on the wire.
    pub fn as_i16(self) -> i16 {
        self as i16
    }

    /// The row of the codec's table, if the codec speaks this API.
    pub fn row(self) -> Option<&'static ApiRow> {
        TABLE.binary_search_by_key(&self, |row| row.key).ok().map(|at| &TABLE[at])
    }

    /// Version of the header that precedes a request of this version: 2 once the API is flexible.
    pub fn request_header_version(self, version: i16) -> i16 {
        if self.is_flexible(version) { 2 } else { 1 }
    }

    /// Version of the header that precedes the response: 1 once the API is flexible, but always 0 for
    /// `ApiVersions`, whose answer must be readable before anything was agreed.
    pub fn response_header_version(self, version: i16) -> i16 {
        if self != ApiKey::ApiVersions && self.is_flexible(version) { 1 } else { 0 }
    }

    fn is_flexible(self, version: i16) -> bool {
        self.row().is_some_and(|row| version >= row.first_flexible)
    }
}

impl fmt::Display for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the codec speaks of one API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiRow {
    /// The API.
    pub key: ApiKey,
    /// Kafka's name of it.
    pub name: &'static str,
    /// Lowest version the codec speaks. Where it is below `min`, Kafka 4 has dropped what lies between,
    /// and serving it is a favour to old clients.
    pub oldest: i16,
    /// Lowest version of Kafka 4.3.1.
    pub min: i16,
    /// Highest version.
    pub max: i16,
    /// First version with compact lengths and tagged fields; `i16::MAX` if none has them.
    pub first_flexible: i16,
}

impl ApiRow {
    /// Whether the codec speaks this version.
    pub fn speaks(&self, version: i16) -> bool {
        (self.oldest..=self.max).contains(&version)
    }
}

/// What the codec speaks, in rising order of keys; generated from the tables in `proto/schema`.
pub const TABLE: &[ApiRow] = include!(concat!(env!("OUT_DIR"), "/api_table.rs"));

const fn row(key: ApiKey, oldest: i16, min: i16, max: i16, first_flexible: i16) -> ApiRow {
    ApiRow { key, name: key.name(), oldest, min, max, first_flexible }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_rows_rise_and_round_trip() {
        assert!(ApiKey::ALL.is_sorted() && TABLE.is_sorted_by_key(|row| row.key));
        for key in ApiKey::ALL {
            assert_eq!(ApiKey::from_i16(key.as_i16()), Some(*key));
        }
        for row in TABLE {
            assert_eq!((row.key.row(), row.name), (Some(row), row.key.name()));
        }
        assert_eq!(ApiKey::from_i16(4), None);
    }

    #[test]
    fn headers_turn_flexible_with_the_api_except_the_answer_to_api_versions() {
        assert_eq!(
            (ApiKey::Fetch.request_header_version(11), ApiKey::Fetch.response_header_version(11)),
            (1, 0)
        );
        assert_eq!(
            (ApiKey::Fetch.request_header_version(12), ApiKey::Fetch.response_header_version(12)),
            (2, 1)
        );
        assert_eq!(ApiKey::ApiVersions.request_header_version(3), 2);
        assert_eq!(ApiKey::ApiVersions.response_header_version(3), 0);
        assert_eq!(ApiKey::SaslHandshake.request_header_version(1), 1);
    }
}
