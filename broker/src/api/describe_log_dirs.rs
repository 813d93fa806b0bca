//! DescribeLogDirs (key 35, v0-5): what each partition takes, in the one directory a broker has: the bucket.
//!
//! Only the owner of a partition reports it, so that sums over brokers are right. Total and usable bytes are unknown
//! (-1): a bucket has no end.

use std::sync::Arc;

use tidemark_proto::id::PartitionIndex;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use tidemark_proto::kafka::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse};
use tidemark_proto::kafka::text::Text;

use super::{Ctx, Operation, Resource};
use crate::cluster::Image;
use crate::node::Node;
use crate::partition::{Query, Row};

/// Answers.
pub async fn handle(
    node: Arc<Node>,
    ctx: Arc<Ctx>,
    request: DescribeLogDirsRequest,
) -> DescribeLogDirsResponse {
    if !node.allows(&ctx, Operation::Describe, Resource::Cluster) {
        let code = ErrorCode::ClusterAuthorizationFailed.code();
        return DescribeLogDirsResponse { error_code: code, ..Default::default() };
    }
    // While no lane is owned no partition is either.
    let rows = node.partitions.ask(|reply| Query::Survey { reply }).await.unwrap_or_default();
    let topics = topics(&node.cluster.image(), &rows, &request);
    let log_dir = Text::from(node.config.bucket.url.as_str());
    let result =
        DescribeLogDirsResult { log_dir, topics, total_bytes: -1, usable_bytes: -1, ..Default::default() };
    DescribeLogDirsResponse { results: vec![result], ..Default::default() }
}

fn topics(image: &Image, rows: &[Row], request: &DescribeLogDirsRequest) -> Vec<DescribeLogDirsTopic> {
    let wanted = |name: &str, index: PartitionIndex| match &request.topics {
        None => true,
        Some(topics) => {
            topics.iter().any(|topic| &*topic.topic == name && topic.partitions.contains(&index.0))
        }
    };
    let mut topics: Vec<DescribeLogDirsTopic> = Vec::new();
    for row in rows {
        let Some(topic) = image.topic(row.tp.topic) else { continue };
        if !wanted(&topic.name, row.tp.partition) {
            continue;
        }
        let partition = DescribeLogDirsPartition {
            partition_index: row.tp.partition.0,
            partition_size: i64::try_from(row.stored_bytes).unwrap_or(i64::MAX),
            ..Default::default()
        };
        match topics.iter_mut().find(|found| *found.name == *topic.name) {
            Some(found) => found.partitions.push(partition),
            None => topics.push(DescribeLogDirsTopic {
                name: Text::from(&*topic.name),
                partitions: vec![partition],
                ..Default::default()
            }),
        }
    }
    topics
}
