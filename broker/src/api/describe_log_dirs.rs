//! DescribeLogDirs (key 35, v0-5): what each partition takes, in the one directory a broker has: the bucket.
//!
//! Only the owner of a partition reports it, so that sums over brokers are right: its bytes in parcels and in runs.
//! Total and usable bytes are unknown (-1): a bucket has no end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use tidemark_proto::id::{PartitionIndex, TopicId, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::describe_log_dirs_request::DescribableLogDirTopic;
use tidemark_proto::kafka::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use tidemark_proto::kafka::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse};
use tidemark_proto::kafka::text::Text;
use tidemark_tiering::error::Error;

use super::{Ctx, Operation, Resource};
use crate::cluster::Image;
use crate::node::Node;
use crate::partition::{Query, Row};

/// Partitions whose runs are looked up at a time.
const AT_A_TIME: usize = 8;

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
    let image = node.cluster.image();
    let log_dir = Text::from(node.config.bucket.url.as_str());
    let unknown = DescribeLogDirsResult { log_dir, total_bytes: -1, usable_bytes: -1, ..Default::default() };
    let result = match sizes(&node, &image, wanted(&image, rows, &request)).await {
        Ok(sizes) => DescribeLogDirsResult { topics: topics(&image, &sizes), ..unknown },
        Err(error) => {
            tracing::warn!(%error, "sizes are not known");
            DescribeLogDirsResult { error_code: ErrorCode::KafkaStorageError.code(), ..unknown }
        }
    };
    DescribeLogDirsResponse { results: vec![result], ..Default::default() }
}

fn wanted(image: &Image, rows: Vec<Row>, request: &DescribeLogDirsRequest) -> Vec<Row> {
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
    let named = |row: &Row| image.topic(row.tp.topic).is_some_and(|t| wanted(&t.name, row.tp.partition));
    rows.into_iter().filter(named).collect()
}

/// What the partitions take, in the order of `rows`.
async fn sizes(node: &Node, image: &Image, rows: Vec<Row>) -> Result<Vec<(TopicPartition, u64)>, Error> {
    let size = |row: Row| async move {
        let in_runs = node.archive.size(image, row.tp, row.bounds.log_start).await?;
        Ok((row.tp, row.stored_bytes.saturating_add(in_runs)))
    };
    futures::stream::iter(rows.into_iter().map(size)).buffered(AT_A_TIME).try_collect().await
}

fn topics(image: &Image, sizes: &[(TopicPartition, u64)]) -> Vec<DescribeLogDirsTopic> {
    let mut topics: BTreeMap<TopicId, DescribeLogDirsTopic> = BTreeMap::new();
    for (tp, size) in sizes {
        let Some(topic) = image.topic(tp.topic) else { continue };
        let partition = DescribeLogDirsPartition {
            partition_index: tp.partition.0,
            partition_size: i64::try_from(*size).unwrap_or(i64::MAX),
            ..Default::default()
        };
        let found = topics
            .entry(topic.id)
            .or_insert_with(|| DescribeLogDirsTopic { name: Text::from(&*topic.name), ..Default::default() });
        found.partitions.push(partition);
    }
    topics.into_values().collect()
}
