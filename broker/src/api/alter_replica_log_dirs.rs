//! AlterReplicaLogDirs (key 34, v1-2): moves of partitions between a broker's directories.
//!
//! There is one directory, the bucket, and all of them are in it: any other is LOG_DIR_NOT_FOUND. One row per partition asked for.

use std::sync::Arc;

use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::alter_replica_log_dirs_response::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult,
};
use tidemark_proto::kafka::messages::{AlterReplicaLogDirsRequest, AlterReplicaLogDirsResponse};

use super::{Ctx, Operation, Resource};
use crate::node::Node;

/// Answers.
pub async fn handle(
    node: Arc<Node>,
    ctx: Arc<Ctx>,
    request: AlterReplicaLogDirsRequest,
) -> AlterReplicaLogDirsResponse {
    let allowed = node.allows(&ctx, Operation::Alter, Resource::Cluster);
    let code = |path: &str| match allowed {
        false => ErrorCode::ClusterAuthorizationFailed,
        true if path == node.config.bucket.url => ErrorCode::None,
        true => ErrorCode::LogDirNotFound,
    };
    let mut results = Vec::new();
    for dir in request.dirs {
        let error_code = code(&dir.path).code();
        results.extend(dir.topics.into_iter().map(|topic| {
            let partitions = topic.partitions.into_iter().map(|partition_index| {
                AlterReplicaLogDirPartitionResult { partition_index, error_code, ..Default::default() }
            });
            AlterReplicaLogDirTopicResult {
                topic_name: topic.name,
                partitions: partitions.collect(),
                ..Default::default()
            }
        }));
    }
    AlterReplicaLogDirsResponse { results, ..Default::default() }
}
