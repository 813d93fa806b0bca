//! The generated types behind their names: reads a message by name and writes it again, with our codec
//! and with the `kafka-protocol` crate's.

use bytes::{Bytes, BytesMut};
use kafka_protocol::protocol::{Decodable, Encodable, Message as PeerMessage};
use tidemark_proto::kafka::wire::{DecodeError, Message, Request};
use tidemark_proto::kafka::{api::ApiKey, internal, messages};

/// Decoding and encoding again, in one version.
type Again<E> = fn(Bytes, i16) -> Result<Bytes, E>;

/// What the tests can do with one message.
pub struct Typed {
    pub name: &'static str,
    pub key: Option<ApiKey>,
    pub ours: Again<DecodeError>,
    /// The peer crate's versions and codec, if it has the message.
    pub peer: Option<((i16, i16), Again<String>)>,
}

/// The message of this name.
pub fn typed(name: &str) -> &'static Typed {
    ALL.iter().find(|one| one.name == name).expect("every message of the tables is listed in typed.rs")
}

fn ours<M: Message + PartialEq + std::fmt::Debug>(bytes: Bytes, version: i16) -> Result<Bytes, DecodeError> {
    let message = M::from_bytes(bytes, version)?;
    let written = message.to_bytes(version).expect("what was decoded can be encoded");
    assert_eq!(M::from_bytes(written.clone(), version).as_ref(), Ok(&message));
    Ok(written)
}

fn peer<M: Encodable + Decodable>(mut bytes: Bytes, version: i16) -> Result<Bytes, String> {
    let message = M::decode(&mut bytes, version).map_err(|error| error.to_string())?;
    if !bytes.is_empty() {
        return Err(format!("{} bytes left over", bytes.len()));
    }
    let mut written = BytesMut::new();
    message.encode(&mut written, version).map_err(|error| error.to_string())?;
    Ok(written.freeze())
}

const fn versions<M: PeerMessage>() -> (i16, i16) {
    (M::VERSIONS.min, M::VERSIONS.max)
}

macro_rules! all {
    (apis { $($request:ident $response:ident)* } data { $($data:ident)* }) => {
        /// Every message the codec speaks.
        pub static ALL: &[Typed] = &[
            $(Typed {
                name: stringify!($request),
                key: Some(<messages::$request as Request>::KEY),
                ours: ours::<messages::$request>,
                peer: Some((
                    versions::<kafka_protocol::messages::$request>(),
                    peer::<kafka_protocol::messages::$request>,
                )),
            },
            Typed {
                name: stringify!($response),
                key: Some(<messages::$request as Request>::KEY),
                ours: ours::<<messages::$request as Request>::Response>,
                peer: Some((
                    versions::<kafka_protocol::messages::$response>(),
                    peer::<kafka_protocol::messages::$response>,
                )),
            },)*
            $(Typed { name: stringify!($data), key: None, ours: ours::<internal::$data>, peer: None },)*
        ];
    };
}

all! {
    apis {
        ProduceRequest ProduceResponse
        FetchRequest FetchResponse
        ListOffsetsRequest ListOffsetsResponse
        MetadataRequest MetadataResponse
        OffsetCommitRequest OffsetCommitResponse
        OffsetFetchRequest OffsetFetchResponse
        FindCoordinatorRequest FindCoordinatorResponse
        JoinGroupRequest JoinGroupResponse
        HeartbeatRequest HeartbeatResponse
        LeaveGroupRequest LeaveGroupResponse
        SyncGroupRequest SyncGroupResponse
        DescribeGroupsRequest DescribeGroupsResponse
        ListGroupsRequest ListGroupsResponse
        SaslHandshakeRequest SaslHandshakeResponse
        ApiVersionsRequest ApiVersionsResponse
        CreateTopicsRequest CreateTopicsResponse
        DeleteTopicsRequest DeleteTopicsResponse
        DeleteRecordsRequest DeleteRecordsResponse
        InitProducerIdRequest InitProducerIdResponse
        OffsetForLeaderEpochRequest OffsetForLeaderEpochResponse
        AddPartitionsToTxnRequest AddPartitionsToTxnResponse
        AddOffsetsToTxnRequest AddOffsetsToTxnResponse
        EndTxnRequest EndTxnResponse
        WriteTxnMarkersRequest WriteTxnMarkersResponse
        TxnOffsetCommitRequest TxnOffsetCommitResponse
        DescribeAclsRequest DescribeAclsResponse
        CreateAclsRequest CreateAclsResponse
        DeleteAclsRequest DeleteAclsResponse
        DescribeConfigsRequest DescribeConfigsResponse
        AlterConfigsRequest AlterConfigsResponse
        AlterReplicaLogDirsRequest AlterReplicaLogDirsResponse
        DescribeLogDirsRequest DescribeLogDirsResponse
        SaslAuthenticateRequest SaslAuthenticateResponse
        CreatePartitionsRequest CreatePartitionsResponse
        DeleteGroupsRequest DeleteGroupsResponse
        ElectLeadersRequest ElectLeadersResponse
        IncrementalAlterConfigsRequest IncrementalAlterConfigsResponse
        AlterPartitionReassignmentsRequest AlterPartitionReassignmentsResponse
        ListPartitionReassignmentsRequest ListPartitionReassignmentsResponse
        OffsetDeleteRequest OffsetDeleteResponse
        DescribeClientQuotasRequest DescribeClientQuotasResponse
        AlterClientQuotasRequest AlterClientQuotasResponse
        DescribeUserScramCredentialsRequest DescribeUserScramCredentialsResponse
        AlterUserScramCredentialsRequest AlterUserScramCredentialsResponse
        DescribeQuorumRequest DescribeQuorumResponse
        UpdateFeaturesRequest UpdateFeaturesResponse
        DescribeClusterRequest DescribeClusterResponse
        DescribeProducersRequest DescribeProducersResponse
        UnregisterBrokerRequest UnregisterBrokerResponse
        DescribeTransactionsRequest DescribeTransactionsResponse
        ListTransactionsRequest ListTransactionsResponse
        ConsumerGroupHeartbeatRequest ConsumerGroupHeartbeatResponse
        ConsumerGroupDescribeRequest ConsumerGroupDescribeResponse
        GetTelemetrySubscriptionsRequest GetTelemetrySubscriptionsResponse
        PushTelemetryRequest PushTelemetryResponse
        ListConfigResourcesRequest ListConfigResourcesResponse
        DescribeTopicPartitionsRequest DescribeTopicPartitionsResponse
    }
    data {
        ConsumerProtocolSubscription
        ConsumerProtocolAssignment
        OffsetCommitKey
        OffsetCommitValue
        GroupMetadataKey
        GroupMetadataValue
        TransactionLogKey
        TransactionLogValue
    }
}
