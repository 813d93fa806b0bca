//! Produce (key 0, v3-13; v0-2 are advertised and refused): appends batches and answers once the bucket has them.
//!
//! Two phases: batches are validated and handed to their partitions in arrival order, the answer follows when they
//! are durable. acks=1 waits like acks=all (`tidemark.acks.one`); acks=0 is never answered, and takes
//! its share of the connection's window until it is durable. A refused leader comes
//! with the current one (KIP-951). Differs from Kafka: never 19/20, the bucket needs no replicas. A transactional
//! batch needs a transactional id in the request; whether its transaction is under way is the coordinator's to say, and there
//! is none yet.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tidemark_proto::id::{Millis, PartitionIndex, TopicId, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::produce_request::{PartitionProduceData, TopicProduceData};
use tidemark_proto::kafka::messages::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
};
use tidemark_proto::kafka::messages::{ProduceRequest, ProduceResponse};
use tidemark_proto::kafka::text::Text;
use tidemark_proto::record::stamp::recompressed;
use tidemark_proto::record::validate::{Rules, validate_entry};
use tidemark_proto::record::view::Batch;
use tidemark_proto::record::{Compression, TimestampType};

use crate::api::new_leader::NewLeaders;
use crate::api::{Ctx, Operation, Resource};
use crate::cluster::image::{Image, Topic};
use crate::config;
use crate::node::{ADMIN_CLIENT, Node, is_internal};
use crate::partition::{Write, WriteResults, Written};
use crate::quota::Kind;

/// What the client is told.
pub enum Told {
    /// This, in request order.
    Answer(ProduceResponse),
    /// Nothing: acks=0.
    Nothing {
        /// How long its connection is held all the same.
        mute: Duration,
    },
}

/// What becomes of one partition entry of the request.
enum Entry {
    Refused { code: ErrorCode, message: Option<String>, records: Vec<(i32, String)> },
    Sent { at: usize, append_time: Option<Millis> },
}

struct Row {
    index: i32,
    entry: Entry,
}

/// R24: a refusal for good rests on a dedupe window that lacks what a new leader may have taken since; it is one only
/// while the session is fresh. Else the producer asks somewhere else.
async fn sound(node: &Node, mut results: WriteResults) -> WriteResults {
    let for_good = |result: &Result<Written, ErrorCode>| result.is_err_and(|code| !code.is_retriable());
    if results.iter().any(for_good) && !node.may_serve_reads().await {
        let unsound = results.iter_mut().filter(|result| for_good(result));
        unsound.for_each(|result| *result = Err(ErrorCode::NotLeaderOrFollower));
    }
    results
}

struct Group {
    name: Text,
    id: uuid::Uuid,
    rows: Vec<Row>,
}

/// Takes the request in; the future gives the answer.
///
/// # Errors
/// The connection is to be closed (acks=0 and something was refused).
pub async fn start(
    node: &Arc<Node>,
    ctx: &Arc<Ctx>,
    request: ProduceRequest,
) -> impl Future<Output = Result<Told, &'static str>> + Send + use<> {
    let (acks, timeout) =
        (request.acks, Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0)));
    let transactional = request
        .transactional_id
        .as_ref()
        .is_some_and(|id| node.allows(ctx, Operation::Write, Resource::TransactionalId(id)));
    let image = node.cluster.image();
    let mut writes = Vec::new();
    let groups: Vec<Group> = request
        .topic_data
        .into_iter()
        .map(|topic| take(node, ctx, &image, (acks, transactional), topic, &mut writes))
        .collect();
    let early = acks == 1 && node.config.acks_one_is_leader;
    let sent = writes.len();
    let answer = match sent {
        0 => None,
        _ => Some(node.partitions.produce(writes, early, false).await),
    };
    let (node, ctx) = (node.clone(), ctx.clone());
    async move {
        let results: Result<WriteResults, ErrorCode> = match answer {
            None => Ok(Vec::new()),
            Some(Err(code)) => Err(code),
            Some(Ok(answer)) => match tokio::time::timeout(timeout, answer).await {
                Ok(Ok(results)) => Ok(sound(&node, results).await),
                Ok(Err(_)) => Err(ErrorCode::NotLeaderOrFollower),
                Err(_) => Err(ErrorCode::RequestTimedOut),
            },
        };
        let mut response = respond(&node, &ctx, groups, &results);
        let mute = node.held(&ctx, Kind::Produce, ctx.bytes);
        if acks != 0 {
            response.throttle_time_ms = i32::try_from(mute.as_millis()).unwrap_or(i32::MAX);
            return Ok(Told::Answer(response));
        }
        let refused =
            response.responses.iter().flat_map(|t| &t.partition_responses).any(|p| p.error_code != 0);
        if refused { Err("a batch sent with acks=0 was refused") } else { Ok(Told::Nothing { mute }) }
    }
}

fn take(
    node: &Node,
    ctx: &Ctx,
    image: &Image,
    (acks, transactional): (i16, bool),
    topic: TopicProduceData,
    writes: &mut Vec<Write>,
) -> Group {
    let by_id = ctx.version >= 13;
    let found = if by_id { image.topic(TopicId(topic.topic_id)) } else { image.topic_named(&topic.name) };
    let (name, id) = match found {
        Some(topic) => (Text::from(&*topic.name), topic.id.0),
        None => (topic.name.clone(), topic.topic_id),
    };
    let verdict = allowed(node, ctx, acks, &name, by_id, found.map(|t| &**t));
    let verdict = verdict.map(|topic| {
        let config = node.live.now().topic(&topic.configs);
        Terms { topic, rules: node.rules(&config, ctx.version), config, transactional }
    });
    let mut seen = std::collections::BTreeSet::new();
    let rows = topic.partition_data.into_iter().map(|data| {
        let index = data.index;
        let entry = match (&verdict, seen.insert(index)) {
            (Err(code), _) => Entry::refused(*code),
            (Ok(_), false) => Entry::refused(ErrorCode::InvalidRequest),
            (Ok(terms), true) => take_partition(node, terms, data, writes),
        };
        Row { index, entry }
    });
    Group { rows: rows.collect(), name, id }
}

fn allowed<'a>(
    node: &Node,
    ctx: &Ctx,
    acks: i16,
    name: &str,
    by_id: bool,
    found: Option<&'a Topic>,
) -> Result<&'a Topic, ErrorCode> {
    if !(-1..=1).contains(&acks) {
        return Err(ErrorCode::InvalidRequiredAcks);
    }
    let missing = if by_id { ErrorCode::UnknownTopicId } else { ErrorCode::UnknownTopicOrPartition };
    let topic = match found {
        Some(topic) => topic,
        None if by_id || node.allows(ctx, Operation::Write, Resource::Topic(name)) => return Err(missing),
        None => return Err(ErrorCode::TopicAuthorizationFailed),
    };
    if !node.allows(ctx, Operation::Write, Resource::Topic(name)) {
        return Err(ErrorCode::TopicAuthorizationFailed);
    }
    if is_internal(name) && ctx.client_id.as_deref() != Some(ADMIN_CLIENT) {
        return Err(ErrorCode::InvalidTopicException);
    }
    Ok(topic)
}

/// What holds for the batches of one topic of a request.
struct Terms<'a> {
    topic: &'a Topic,
    rules: Rules,
    config: config::Topic,
    /// Whether the request names a transactional id that its sender may write for.
    transactional: bool,
}

fn take_partition(
    node: &Node,
    terms: &Terms<'_>,
    data: PartitionProduceData,
    writes: &mut Vec<Write>,
) -> Entry {
    let topic = terms.topic;
    let tp = TopicPartition { topic: topic.id, partition: PartitionIndex(data.index) };
    if topic.partition(tp.partition).is_none() {
        return Entry::refused(ErrorCode::UnknownTopicOrPartition);
    }
    let Some(bytes) = data.records.and_then(|r| r.into_bytes().ok()) else {
        return Entry::refused(ErrorCode::InvalidRecord);
    };
    let length = bytes.len();
    let valid = validate_entry(bytes, &terms.rules).map_err(|invalid| {
        node.metrics.bytes_rejected(&topic.name, length, invalid.code);
        let records = invalid.records.into_iter().map(|r| (r.index, r.message)).collect();
        Entry::Refused { code: invalid.code, message: Some(invalid.message), records }
    });
    let batch = match valid.and_then(|valid| terms.settle(valid.batch)) {
        Ok(batch) => batch,
        Err(refused) => return refused,
    };
    node.metrics.messages_in(&topic.name, i64::from(batch.count()), length);
    node.cluster.traffic().count(tp, length);
    let by_broker = batch.timestamp_type() == TimestampType::LogAppendTime;
    let append_time = by_broker.then(|| batch.max_timestamp());
    writes.push(Write { tp, batch, leader_epoch: None });
    Entry::Sent { at: writes.len() - 1, append_time }
}

impl Terms<'_> {
    /// A valid batch as it is stored: under the topic's codec, and still within its bounds then.
    fn settle(&self, batch: Batch) -> Result<Batch, Entry> {
        if batch.is_transactional() && !self.transactional {
            return Err(Entry::refused(ErrorCode::TransactionalIdAuthorizationFailed));
        }
        let config = &self.config;
        let codec = match config.compression {
            config::Compression::Producer => None,
            config::Compression::Uncompressed => Some((Compression::None, None)),
            config::Compression::Gzip => Some((Compression::Gzip, Some(config.gzip_level))),
            config::Compression::Snappy => Some((Compression::Snappy, None)),
            config::Compression::Lz4 => Some((Compression::Lz4, None)),
            config::Compression::Zstd => Some((Compression::Zstd, Some(config.zstd_level))),
        };
        let limit = self.rules.max_decompressed_bytes;
        let stored = match codec.map(|(codec, level)| recompressed(&batch, codec, level, limit)) {
            None => batch,
            Some(Ok(stored)) => stored,
            Some(Err(_)) => return Err(Entry::refused(ErrorCode::CorruptMessage)),
        };
        let segment = usize::try_from(self.config.segment_bytes).unwrap_or(usize::MAX);
        match stored.size() {
            size if size > self.rules.max_message_bytes => Err(Entry::refused(ErrorCode::MessageTooLarge)),
            size if size > segment => Err(Entry::refused(ErrorCode::RecordListTooLarge)),
            _ => Ok(stored),
        }
    }
}

fn respond(
    node: &Node,
    ctx: &Ctx,
    groups: Vec<Group>,
    results: &Result<WriteResults, ErrorCode>,
) -> ProduceResponse {
    let image = node.cluster.image();
    let mut leaders = NewLeaders::new(&image, ctx);
    let mut response = ProduceResponse::default();
    for group in groups {
        let mut topic =
            TopicProduceResponse { name: group.name.clone(), topic_id: group.id, ..Default::default() };
        for row in group.rows {
            let mut partition = row.respond(results);
            let code = ErrorCode::from_code(partition.error_code);
            let tp = TopicPartition { topic: TopicId(group.id), partition: PartitionIndex(row.index) };
            if let Some((leader, epoch)) = leaders.beside(code, tp) {
                partition.current_leader =
                    LeaderIdAndEpoch { leader_id: leader.0, leader_epoch: epoch.0, ..Default::default() };
            }
            topic.partition_responses.push(partition);
        }
        response.responses.push(topic);
    }
    response.node_endpoints = leaders.located(|node, at| NodeEndpoint {
        node_id: node.0,
        host: Text::from(at.host),
        port: i32::from(at.port),
        rack: at.rack.map(Text::from),
        ..Default::default()
    });
    response
}

impl Entry {
    fn refused(code: ErrorCode) -> Entry {
        Entry::Refused { code, message: None, records: Vec::new() }
    }
}

impl Row {
    fn respond(&self, results: &Result<WriteResults, ErrorCode>) -> PartitionProduceResponse {
        let mut out = PartitionProduceResponse {
            index: self.index,
            base_offset: -1,
            log_append_time_ms: -1,
            log_start_offset: -1,
            ..Default::default()
        };
        match &self.entry {
            Entry::Refused { code, message, records } => {
                out.error_code = code.code();
                out.error_message = message.as_deref().map(Text::from);
                out.record_errors = records
                    .iter()
                    .map(|(index, message)| BatchIndexAndErrorMessage {
                        batch_index: *index,
                        batch_index_error_message: Some(Text::from(message.as_str())),
                        ..Default::default()
                    })
                    .collect();
            }
            Entry::Sent { at, append_time } => match results.as_ref().map(|r| r[*at]) {
                Ok(Ok(written)) => {
                    out.base_offset = written.base.0;
                    out.log_start_offset = written.log_start.0;
                    out.log_append_time_ms = append_time.map_or(-1, |t| t.0);
                }
                Ok(Err(code)) => out.error_code = code.code(),
                Err(code) => out.error_code = code.code(),
            },
        }
        out
    }
}
