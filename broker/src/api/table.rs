//! The rows: what this broker serves.

use futures::FutureExt;
use tidemark_proto::kafka::api::ApiKey;
use tidemark_proto::kafka::frame::encode_response;
use tidemark_proto::kafka::messages::{
    AlterClientQuotasRequest, AlterConfigsRequest, AlterPartitionReassignmentsRequest,
    AlterReplicaLogDirsRequest, ApiVersionsRequest, CreatePartitionsRequest, CreateTopicsRequest,
    DeleteGroupsRequest, DeleteRecordsRequest, DeleteTopicsRequest, DescribeClientQuotasRequest,
    DescribeClusterRequest, DescribeConfigsRequest, DescribeGroupsRequest, DescribeLogDirsRequest,
    DescribeProducersRequest, DescribeQuorumRequest, DescribeTopicPartitionsRequest,
    DescribeTransactionsRequest, ElectLeadersRequest, FetchRequest, FindCoordinatorRequest,
    GetTelemetrySubscriptionsRequest, HeartbeatRequest, IncrementalAlterConfigsRequest,
    InitProducerIdRequest, JoinGroupRequest, LeaveGroupRequest, ListConfigResourcesRequest,
    ListGroupsRequest, ListOffsetsRequest, ListPartitionReassignmentsRequest, ListTransactionsRequest,
    MetadataRequest, OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest,
    OffsetForLeaderEpochRequest, ProduceRequest, PushTelemetryRequest, SyncGroupRequest,
    UnregisterBrokerRequest, UpdateFeaturesRequest, WriteTxnMarkersRequest,
};

use super::Operation::{
    Alter, AlterConfigs, Create, Delete, Describe, DescribeConfigs, IdempotentWrite, Read, Write,
};
use super::{
    Answer, Ctx, Finish, Need, Row, Started, alter_client_quotas, alter_configs,
    alter_partition_reassignments, alter_replica_log_dirs, api_versions, body, create_partitions,
    create_topics, delete_groups, delete_records, delete_topics, describe_client_quotas, describe_cluster,
    describe_configs, describe_groups, describe_log_dirs, describe_producers, describe_quorum,
    describe_topic_partitions, describe_transactions, elect_leaders, fetch, find_coordinator, free,
    get_telemetry_subscriptions, heartbeat, incremental_alter_configs, init_producer_id, join_group,
    leave_group, list_config_resources, list_groups, list_offsets, list_partition_reassignments,
    list_transactions, metadata, offset_commit, offset_delete, offset_fetch, offset_for_leader_epoch,
    old_produce, ordered, produce, push_telemetry, reply_and_hold, sync_group, unregister_broker,
    update_features, write_txn_markers,
};
use std::time::Duration;

/// Every API served, in rising order of keys.
pub const ROWS: &[Row] = &[
    Row {
        key: ApiKey::Produce,
        min: 0,
        max: 13,
        needs: &[Need::Topic(Write), Need::TransactionalId(Write)],
        start: |node, ctx, decoder| {
            if ctx.version < 3 {
                return old_produce::start(&ctx, decoder);
            }
            let request = body::<ProduceRequest>(decoder, ctx.version)?;
            let started = async move { (produce::start(&node, &ctx, request).await, ctx) };
            Ok(Started::Ordered(Box::pin(started.map(|(answer, ctx)| -> Finish {
                Box::pin(async move {
                    match answer.await {
                        Ok(produce::Told::Answer(response)) => {
                            reply_and_hold(&ctx, &response, response.throttle_time_ms)
                        }
                        Ok(produce::Told::Nothing { mute }) => Answer::None { mute },
                        Err(reason) => Answer::Close(reason.to_owned()),
                    }
                })
            }))))
        },
    },
    Row {
        key: ApiKey::Fetch,
        min: 4,
        max: 18,
        needs: &[Need::Topic(Read)],
        start: |node, ctx, decoder| {
            let request = body::<FetchRequest>(decoder, ctx.version)?;
            Ok(Started::Free(Box::pin(async move {
                let response = fetch::handle(node, ctx.clone(), request).await;
                reply_and_hold(&ctx, &response, response.throttle_time_ms)
            })))
        },
    },
    Row {
        key: ApiKey::ListOffsets,
        min: 0,
        max: 11,
        needs: &[Need::Topic(Describe)],
        start: free!(list_offsets::handle, ListOffsetsRequest),
    },
    Row {
        key: ApiKey::Metadata,
        min: 0,
        max: 13,
        needs: &[Need::Topic(Describe), Need::Topic(Create)],
        start: free!(metadata::handle, MetadataRequest),
    },
    Row {
        key: ApiKey::OffsetCommit,
        min: 0,
        max: 10,
        needs: &[Need::Group(Read), Need::Topic(Read)],
        start: ordered!(offset_commit::start, OffsetCommitRequest),
    },
    Row {
        key: ApiKey::OffsetFetch,
        min: 0,
        max: 10,
        needs: &[Need::Group(Describe), Need::Topic(Describe)],
        start: ordered!(offset_fetch::start, OffsetFetchRequest),
    },
    Row {
        key: ApiKey::FindCoordinator,
        min: 0,
        max: 6,
        needs: &[Need::Group(Describe), Need::TransactionalId(Describe)],
        start: free!(find_coordinator::handle, FindCoordinatorRequest),
    },
    Row {
        key: ApiKey::JoinGroup,
        min: 0,
        max: 9,
        needs: &[Need::Group(Read)],
        start: ordered!(join_group::start, JoinGroupRequest),
    },
    Row {
        key: ApiKey::Heartbeat,
        min: 0,
        max: 4,
        needs: &[Need::Group(Read)],
        start: ordered!(heartbeat::start, HeartbeatRequest),
    },
    Row {
        key: ApiKey::LeaveGroup,
        min: 0,
        max: 5,
        needs: &[Need::Group(Read)],
        start: ordered!(leave_group::start, LeaveGroupRequest),
    },
    Row {
        key: ApiKey::SyncGroup,
        min: 0,
        max: 5,
        needs: &[Need::Group(Read)],
        start: ordered!(sync_group::start, SyncGroupRequest),
    },
    Row {
        key: ApiKey::DescribeGroups,
        min: 0,
        max: 6,
        needs: &[Need::Group(Describe)],
        start: free!(describe_groups::handle, DescribeGroupsRequest),
    },
    Row {
        key: ApiKey::ListGroups,
        min: 0,
        max: 5,
        needs: &[Need::Cluster(Describe), Need::Group(Describe)],
        start: free!(list_groups::handle, ListGroupsRequest),
    },
    Row {
        key: ApiKey::ApiVersions,
        min: 0,
        max: 4,
        needs: &[Need::Nothing],
        start: free!(api_versions::handle, ApiVersionsRequest),
    },
    Row {
        key: ApiKey::CreateTopics,
        min: 0,
        max: 7,
        needs: &[Need::Cluster(Create), Need::Topic(Create)],
        start: free!(create_topics::handle, CreateTopicsRequest),
    },
    Row {
        key: ApiKey::DeleteTopics,
        min: 0,
        max: 6,
        needs: &[Need::Topic(Delete)],
        start: free!(delete_topics::handle, DeleteTopicsRequest),
    },
    Row {
        key: ApiKey::DeleteRecords,
        min: 0,
        max: 2,
        needs: &[Need::Topic(Delete)],
        start: free!(delete_records::handle, DeleteRecordsRequest),
    },
    Row {
        key: ApiKey::InitProducerId,
        min: 0,
        max: 5,
        needs: &[Need::TransactionalId(Write), Need::Cluster(IdempotentWrite)],
        start: free!(init_producer_id::handle, InitProducerIdRequest),
    },
    Row {
        key: ApiKey::OffsetForLeaderEpoch,
        min: 2,
        max: 4,
        needs: &[Need::Topic(Describe)],
        start: free!(offset_for_leader_epoch::handle, OffsetForLeaderEpochRequest),
    },
    Row {
        key: ApiKey::WriteTxnMarkers,
        min: 1,
        max: 2,
        needs: &[Need::Cluster(Alter)],
        start: free!(write_txn_markers::handle, WriteTxnMarkersRequest),
    },
    Row {
        key: ApiKey::DescribeConfigs,
        min: 0,
        max: 4,
        needs: &[Need::Topic(DescribeConfigs), Need::Cluster(DescribeConfigs)],
        start: free!(describe_configs::handle, DescribeConfigsRequest),
    },
    Row {
        key: ApiKey::AlterConfigs,
        min: 0,
        max: 2,
        needs: &[Need::Topic(AlterConfigs), Need::Cluster(AlterConfigs)],
        start: free!(alter_configs::handle, AlterConfigsRequest),
    },
    Row {
        key: ApiKey::AlterReplicaLogDirs,
        min: 1,
        max: 2,
        needs: &[Need::Cluster(Alter)],
        start: free!(alter_replica_log_dirs::handle, AlterReplicaLogDirsRequest),
    },
    Row {
        key: ApiKey::DescribeLogDirs,
        min: 0,
        max: 5,
        needs: &[Need::Cluster(Describe)],
        start: free!(describe_log_dirs::handle, DescribeLogDirsRequest),
    },
    Row {
        key: ApiKey::CreatePartitions,
        min: 0,
        max: 3,
        needs: &[Need::Topic(Alter)],
        start: free!(create_partitions::handle, CreatePartitionsRequest),
    },
    Row {
        key: ApiKey::DeleteGroups,
        min: 0,
        max: 2,
        needs: &[Need::Group(Delete)],
        start: free!(delete_groups::handle, DeleteGroupsRequest),
    },
    Row {
        key: ApiKey::ElectLeaders,
        min: 0,
        max: 2,
        needs: &[Need::Cluster(Alter)],
        start: free!(elect_leaders::handle, ElectLeadersRequest),
    },
    Row {
        key: ApiKey::IncrementalAlterConfigs,
        min: 0,
        max: 1,
        needs: &[Need::Topic(AlterConfigs), Need::Cluster(AlterConfigs)],
        start: free!(incremental_alter_configs::handle, IncrementalAlterConfigsRequest),
    },
    Row {
        key: ApiKey::AlterPartitionReassignments,
        min: 0,
        max: 1,
        needs: &[Need::Cluster(Alter)],
        start: free!(alter_partition_reassignments::handle, AlterPartitionReassignmentsRequest),
    },
    Row {
        key: ApiKey::ListPartitionReassignments,
        min: 0,
        max: 0,
        needs: &[Need::Cluster(Describe)],
        start: free!(list_partition_reassignments::handle, ListPartitionReassignmentsRequest),
    },
    Row {
        key: ApiKey::OffsetDelete,
        min: 0,
        max: 0,
        needs: &[Need::Group(Delete), Need::Topic(Read)],
        start: free!(offset_delete::handle, OffsetDeleteRequest),
    },
    Row {
        key: ApiKey::DescribeClientQuotas,
        min: 0,
        max: 1,
        needs: &[Need::Cluster(DescribeConfigs)],
        start: free!(describe_client_quotas::handle, DescribeClientQuotasRequest),
    },
    Row {
        key: ApiKey::AlterClientQuotas,
        min: 0,
        max: 1,
        needs: &[Need::Cluster(AlterConfigs)],
        start: free!(alter_client_quotas::handle, AlterClientQuotasRequest),
    },
    Row {
        key: ApiKey::DescribeQuorum,
        min: 0,
        max: 2,
        needs: &[Need::Cluster(Describe)],
        start: free!(describe_quorum::handle, DescribeQuorumRequest),
    },
    Row {
        key: ApiKey::UpdateFeatures,
        min: 0,
        max: 2,
        needs: &[Need::Cluster(Alter)],
        start: free!(update_features::handle, UpdateFeaturesRequest),
    },
    Row {
        key: ApiKey::DescribeCluster,
        min: 0,
        max: 2,
        needs: &[Need::Cluster(Describe)],
        start: free!(describe_cluster::handle, DescribeClusterRequest),
    },
    Row {
        key: ApiKey::DescribeProducers,
        min: 0,
        max: 0,
        needs: &[Need::Topic(Read)],
        start: free!(describe_producers::handle, DescribeProducersRequest),
    },
    Row {
        key: ApiKey::UnregisterBroker,
        min: 0,
        max: 0,
        needs: &[Need::Cluster(Alter)],
        start: free!(unregister_broker::handle, UnregisterBrokerRequest),
    },
    Row {
        key: ApiKey::DescribeTransactions,
        min: 0,
        max: 0,
        needs: &[Need::TransactionalId(Describe)],
        start: free!(describe_transactions::handle, DescribeTransactionsRequest),
    },
    Row {
        key: ApiKey::ListTransactions,
        min: 0,
        max: 2,
        needs: &[Need::TransactionalId(Describe)],
        start: free!(list_transactions::handle, ListTransactionsRequest),
    },
    Row {
        key: ApiKey::GetTelemetrySubscriptions,
        min: 0,
        max: 0,
        needs: &[Need::Nothing],
        start: free!(get_telemetry_subscriptions::handle, GetTelemetrySubscriptionsRequest),
    },
    Row {
        key: ApiKey::PushTelemetry,
        min: 0,
        max: 0,
        needs: &[Need::Nothing],
        start: free!(push_telemetry::handle, PushTelemetryRequest),
    },
    Row {
        key: ApiKey::ListConfigResources,
        min: 0,
        max: 1,
        needs: &[Need::Cluster(DescribeConfigs)],
        start: free!(list_config_resources::handle, ListConfigResourcesRequest),
    },
    Row {
        key: ApiKey::DescribeTopicPartitions,
        min: 0,
        max: 0,
        needs: &[Need::Topic(Describe)],
        start: free!(describe_topic_partitions::handle, DescribeTopicPartitionsRequest),
    },
];

/// The row of an API's number.
pub fn find(key: i16) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.key.as_i16() == key)
}

/// The answer to an ApiVersions version we do not know: the lowest version's body, which every client reads, with the
/// versions we have (KIP-511).
pub(super) fn api_versions_unsupported(ctx: &Ctx) -> Answer {
    let response = api_versions::unsupported();
    match encode_response(ctx.correlation, 0, &response, 0) {
        Ok(frame) => Answer::Reply { frame, mute: Duration::ZERO },
        Err(error) => Answer::Close(format!("an answer could not be encoded: {error}")),
    }
}
