//! DescribeLogDirs (key 35, v0-5): what each partition takes, in the one directory a broker has: the bucket.
//!
//! Only the owner of a partition reports it, so that sums over brokers are right. Total and usable bytes are unknown
//! (-1): a bucket has no end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidemark_proto::id::{PartitionIndex, TopicId};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::describe_log_dirs_request::DescribableLogDirTopic;
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
    let asked = request.topics.as_ref().map(|topics| {
        let each = |topic: &'_ DescribableLogDirTopic| {
            let name = topic.topic.clone();
            topic.partitions.iter().map(move |index| (name.clone(), *index)).collect::<Vec<_>>()
        };
        topics.iter().flat_map(each).collect::<BTreeSet<(Text, i32)>>()
    });
    let wanted = |name: &str, index: PartitionIndex| {
        asked.as_ref().is_none_or(|asked| asked.contains(&(Text::from(name), index.0)))
    };
    let mut topics: BTreeMap<TopicId, DescribeLogDirsTopic> = BTreeMap::new();
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
        let found = topics
            .entry(topic.id)
            .or_insert_with(|| DescribeLogDirsTopic { name: Text::from(&*topic.name), ..Default::default() });
        found.partitions.push(partition);
    }
    topics.into_values().collect()
}
