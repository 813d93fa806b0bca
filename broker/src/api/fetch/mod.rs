//! Fetch (key 1, v4-18): whole batches from the one that holds the offset, never above the high watermark.
//!
//! Plans with the partitions' owner, waits (min_bytes, max_wait; an error of a partition that is there answers at
//! once, one that is not there has no part in it), then reads: memory, parcels, runs. The first non-empty partition
//! gives at least one batch (KIP-74); sessions are KIP-227's; topic ids from v13. A refused leader comes with the
//! current one (KIP-951, v16). A client that tells its rack (v11) is sent to a replica in it, and a replica serves what
//! its leader says it may (KIP-392). Of what replicas send, only the last epoch is looked at: none ever fetches.

pub mod budget;
mod looking;
pub mod session;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tidemark_proto::id::{BrokerId, LeaderEpoch, Offset, PartitionIndex, TopicId, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::fetch_response::{
    AbortedTransaction, EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint, PartitionData,
};
use tidemark_proto::kafka::messages::{FetchRequest, FetchResponse};
use tidemark_proto::kafka::pieces::Pieces;
use tidemark_proto::kafka::text::Text;

use self::budget::Share;
use self::looking::{Looks, Reading, Terms, gather, look};
use self::session::{Begun, Came, Key, Said, TopicKey, Want};
use crate::api::new_leader::NewLeaders;
use crate::api::{Ctx, Operation, Resource};
use crate::cluster::Image;
use crate::near::Hunger;
use crate::node::Node;
use crate::partition::fetching::Asker;
use crate::partition::producer::Aborted;
use crate::partition::{Look, Query};
use crate::quota::Kind;

/// Longest a fetch is held, whatever it asks for.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Reads of one fetch that run at a time.
const READS: usize = 16;

/// What one partition gives.
struct Given {
    said: Said,
    lso: Offset,
    diverging: Option<(LeaderEpoch, Offset)>,
    /// `None` for who reads what is not committed too.
    aborted: Option<Vec<Aborted>>,
    pieces: Pieces,
}

/// One partition of the answer, on its way.
struct Row {
    key: Key,
    want: Want,
    name: Text,
    found: Result<TopicPartition, ErrorCode>,
    /// The leader that lets this replica serve; without one, this broker is asked as leader.
    by_leave_of: Option<BrokerId>,
    /// The replica near the client, to which it is sent.
    sent_to: Option<BrokerId>,
    /// For who says what it has: where that leaves this log, or that it never was this log.
    stray: Option<Result<(LeaderEpoch, Offset), ErrorCode>>,
    outcome: Result<Given, ErrorCode>,
}

/// Serves a fetch.
pub async fn handle(node: Arc<Node>, ctx: Arc<Ctx>, request: FetchRequest) -> FetchResponse {
    let asked = (request.session_id, request.session_epoch, ctx.version >= 13);
    let named = named(&request, ctx.version);
    let forgotten = forgotten(&request, ctx.version);
    let fresh = i32::try_from(node.seams.entropy.below(i32::MAX as u64 - 1) + 1).unwrap_or(1);
    let begun = {
        let mut sessions = node.fetch_sessions.lock();
        sessions.begin(asked, named, &forgotten, fresh, node.seams.clock.wall())
    };
    let begun = match begun {
        Ok(begun) => begun,
        Err(code) => return FetchResponse { error_code: code.code(), session_id: 0, ..Default::default() },
    };
    let bound = node.bound(&ctx, Kind::Fetch);
    let most = bound.as_ref().map_or(usize::MAX, |bound| node.quotas.most(bound));
    let rows = serve(&node, &ctx, &request, &begun, most).await;
    let bytes: usize = rows.iter().flat_map(|row| &row.outcome).map(|given| given.pieces.len()).sum();
    let wait = bound.as_ref().map_or(Duration::ZERO, |bound| node.quotas.wait(bound, bytes));
    if !wait.is_zero() {
        // As in Kafka nothing is given, and nothing counted, until the client may have it. Its session stays (KAFKA-6946).
        let session_id = node.fetch_sessions.lock().withhold(&begun);
        let throttle_time_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        return FetchResponse { session_id, throttle_time_ms, ..Default::default() };
    }
    if let Some(bound) = &bound {
        node.quotas.take(bound, bytes);
    }
    respond(&node, &ctx, &begun, rows)
}

fn named(request: &FetchRequest, version: i16) -> Vec<(Key, Want)> {
    let mut named = Vec::new();
    for topic in &request.topics {
        let of = topic_key(version, &topic.topic, topic.topic_id);
        for p in &topic.partitions {
            let want = Want {
                offset: p.fetch_offset,
                leader_epoch: p.current_leader_epoch,
                last_epoch: p.last_fetched_epoch,
                bytes_max: p.partition_max_bytes,
            };
            named.push((Key { topic: of.clone(), partition: p.partition }, want));
        }
    }
    named
}

fn forgotten(request: &FetchRequest, version: i16) -> Vec<Key> {
    let topics = request.forgotten_topics_data.iter();
    let keys = topics.flat_map(|topic| {
        let of = topic_key(version, &topic.topic, topic.topic_id);
        topic.partitions.iter().map(move |p| Key { topic: of.clone(), partition: *p })
    });
    keys.collect()
}

fn topic_key(version: i16, name: &Text, id: uuid::Uuid) -> TopicKey {
    if version >= 13 { TopicKey::Id(id) } else { TopicKey::Name(name.clone()) }
}

async fn serve(node: &Arc<Node>, ctx: &Ctx, request: &FetchRequest, begun: &Begun, most: usize) -> Vec<Row> {
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)).min(WAIT_MAX);
    let deadline = tokio::time::Instant::now() + wait;
    let bytes_max =
        usize::try_from(request.max_bytes).unwrap_or(0).min(node.config.fetch_bytes_max).min(most);
    let bytes_min = usize::try_from(request.min_bytes).unwrap_or(0).min(bytes_max);
    let terms = Terms { committed: request.isolation_level == 1, hunger: Hunger { bytes_max, bytes_min } };
    let image = node.cluster.image();
    let asker = Reading::of(node, ctx, request);
    let resolve =
        |(key, want): &(Key, Want)| resolve(node, ctx, &image, &asker, (key, *want), begun.goes_on());
    let mut rows: Vec<Row> = begun.wants.iter().map(resolve).collect();
    let consumer = request.replica_id < 0 && request.replica_state.replica_id < 0;
    if !consumer {
        rows.iter_mut().for_each(|r| r.outcome = Err(ErrorCode::ClusterAuthorizationFailed));
        return rows;
    }
    for row in &mut rows {
        row.stray = stray(node, row).await.transpose();
        row.sent_to.take_if(|_| row.found.is_ok_and(|tp| !node.near.sends(ctx.peer.connection, tp)));
    }
    let told = rows.iter().any(|row| row.stray.is_some() || row.sent_to.is_some());
    let mut looks = gather(node, &rows, terms, if told { None } else { Some(deadline) }).await;
    for (row, look) in rows.iter_mut().zip(&mut looks).filter(|(row, _)| row.sent_to.is_some()) {
        match look {
            Some(Ok(look)) => look.empty(),
            // Where it would be refused here it is not sent anywhere.
            _ => row.sent_to = None,
        }
    }
    let (share, looks) = admit(node, &rows, terms, looks).await;
    // Runs as they are named now: since the request came, some may have been merged and be on their way out.
    let image = node.cluster.image();
    let by = Asker(ctx.peer.connection);
    let reads: Vec<_> = rows.iter().zip(looks).map(|(row, look)| take(node, &image, by, row, look)).collect();
    let outcomes: Vec<_> = futures::stream::iter(reads).buffered(READS).collect().await;
    rows.iter_mut().zip(outcomes).for_each(|(row, outcome)| row.outcome = astray(row.stray, outcome));
    if let Some(share) = share {
        share
            .bind(rows.iter_mut().filter_map(|row| row.outcome.as_mut().ok()).map(|given| &mut given.pieces));
    }
    rows
}

/// Where the log that the client has, which ends before the offset it wants with the epoch it names, leaves this one.
async fn stray(node: &Node, row: &Row) -> Result<Option<(LeaderEpoch, Offset)>, ErrorCode> {
    let (Ok(tp), Some(asked)) = (row.found, epoch(row.want.last_epoch)) else { return Ok(None) };
    let current = epoch(row.want.leader_epoch);
    let end = node.partitions.ask(|reply| Query::EpochEnd { tp, current, asked, reply }).await??;
    let (epoch, end) = end.ok_or(ErrorCode::OffsetOutOfRange)?;
    Ok((epoch < asked || end.0 < row.want.offset).then_some((epoch, end)))
}

/// Nothing is given of a log that the client's own leaves before.
fn astray(
    stray: Option<Result<(LeaderEpoch, Offset), ErrorCode>>,
    outcome: Result<Given, ErrorCode>,
) -> Result<Given, ErrorCode> {
    let Some(stray) = stray else { return outcome };
    let diverging = Some(stray?);
    outcome.map(|given| Given { pieces: Pieces::new(), diverging, ..given })
}

/// Waits for room for what `looks` found. What is known by then is looked up again: batches that wait for room would
/// be held in memory by it.
async fn admit(node: &Node, rows: &[Row], terms: Terms, looks: Looks) -> (Option<Share>, Looks) {
    let bytes = looks.iter().flatten().flatten().map(|look| node.fetching.memory(look)).sum();
    if let Some(share) = node.fetch_memory.try_take(bytes) {
        return (Some(share), looks);
    }
    drop(looks);
    let share = node.fetch_memory.take(bytes).await;
    // Without a share, what must be given however large it is: the first batch.
    let bytes_max = if share.is_some() { bytes } else { 0 };
    let terms = Terms { hunger: Hunger { bytes_max, ..terms.hunger }, ..terms };
    let mut looks = look(node, rows, terms).await;
    let sent = rows.iter().zip(&mut looks).filter(|(row, _)| row.sent_to.is_some());
    sent.filter_map(|(_, look)| look.as_mut()?.as_mut().ok()).for_each(Look::empty);
    (share, looks)
}

async fn take(
    node: &Node,
    image: &Image,
    by: Asker,
    row: &Row,
    look: Option<Result<Look, ErrorCode>>,
) -> Result<Given, ErrorCode> {
    let (tp, look) = (row.found?, look.unwrap_or(Err(ErrorCode::NotLeaderOrFollower))?);
    let said = Said { hw: look.bounds.hw, log_start: look.bounds.log_start };
    let mut pieces = node.fetching.pieces(by, tp, image, look.sources).await;
    if row.by_leave_of.is_some() {
        // Whatever is wrong here, the leader may have it in memory.
        pieces = pieces.map_err(|_| ErrorCode::NotLeaderOrFollower);
        pieces.iter().filter(|pieces| !pieces.is_empty()).for_each(|pieces| node.near.served(pieces.len()));
    }
    let pieces = pieces?;
    Ok(Given { said, lso: look.bounds.lso, diverging: None, aborted: look.aborted, pieces })
}

/// What a topic that is not there is told. A session that knew an id whose name belongs to another topic by now hears so:
/// its client has to look the name up again.
fn missing(image: &Image, key: &Key, goes_on: bool) -> ErrorCode {
    let TopicKey::Id(id) = &key.topic else { return ErrorCode::UnknownTopicOrPartition };
    let was = image.deleted().find(|(deleted, _)| deleted.0 == *id && goes_on);
    match was.is_some_and(|(_, topic)| image.topic_named(&topic.name).is_some()) {
        true => ErrorCode::InconsistentTopicId,
        false => ErrorCode::UnknownTopicId,
    }
}

fn resolve(
    node: &Node,
    ctx: &Ctx,
    image: &Image,
    asker: &Option<Reading<'_>>,
    (key, want): (&Key, Want),
    goes_on: bool,
) -> Row {
    let found = match &key.topic {
        TopicKey::Name(name) => image.topic_named(name),
        TopicKey::Id(id) => image.topic(TopicId(*id)),
    };
    let name = match (&key.topic, found) {
        (TopicKey::Name(name), _) => name.clone(),
        (_, Some(topic)) => Text::from(&*topic.name),
        (_, None) => Text::default(),
    };
    let allowed = found.is_none() && matches!(key.topic, TopicKey::Id(_))
        || node.allows(ctx, Operation::Read, Resource::Topic(&name));
    let place = asker.as_ref().zip(found).filter(|_| allowed);
    let (by_leave_of, sent_to) =
        place.map_or((None, None), |(asker, topic)| asker.place(image, topic, key.partition, want));
    let found = match found {
        _ if !allowed => Err(ErrorCode::TopicAuthorizationFailed),
        None => Err(missing(image, key, goes_on)),
        Some(topic) => match topic.partition(PartitionIndex(key.partition)) {
            None => Err(ErrorCode::UnknownTopicOrPartition),
            Some(_) => Ok(TopicPartition { topic: topic.id, partition: PartitionIndex(key.partition) }),
        },
    };
    Row {
        key: key.clone(),
        want,
        name,
        found,
        by_leave_of,
        sent_to,
        stray: None,
        outcome: Err(found.err().unwrap_or(ErrorCode::None)),
    }
}

fn epoch(sent: i32) -> Option<LeaderEpoch> {
    (sent >= 0).then_some(LeaderEpoch(sent))
}

fn respond(node: &Node, ctx: &Ctx, begun: &Begun, rows: Vec<Row>) -> FetchResponse {
    let came: Vec<Came> = rows
        .iter()
        .map(|row| Came {
            key: row.key.clone(),
            said: row.outcome.as_ref().ok().map(|given| given.said),
            records: row.outcome.as_ref().is_ok_and(|given| !given.pieces.is_empty()),
            notable: row.sent_to.is_some()
                || row.outcome.as_ref().map_or(true, |given| given.diverging.is_some()),
        })
        .collect();
    let send = node.fetch_sessions.lock().finish(begun, &came);
    let image = node.cluster.image();
    let mut leaders = NewLeaders::new(&image, ctx);
    let mut response = FetchResponse { session_id: begun.id, ..Default::default() };
    for (row, send) in rows.into_iter().zip(send) {
        if !send {
            continue;
        }
        let partition = partition(node, &row, &mut leaders);
        let id = match row.key.topic {
            TopicKey::Id(id) => id,
            TopicKey::Name(_) => uuid::Uuid::nil(),
        };
        let same =
            |t: &FetchableTopicResponse| if id.is_nil() { t.topic == row.name } else { t.topic_id == id };
        match response.responses.last_mut() {
            Some(topic) if same(topic) => topic.partitions.push(partition),
            _ => response.responses.push(FetchableTopicResponse {
                topic: row.name,
                topic_id: id,
                partitions: vec![partition],
                ..Default::default()
            }),
        }
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

fn partition(node: &Node, row: &Row, leaders: &mut NewLeaders<'_>) -> PartitionData {
    let mut out = PartitionData {
        partition_index: row.key.partition,
        high_watermark: -1,
        last_stable_offset: -1,
        log_start_offset: -1,
        records: Some(Pieces::new()),
        // As Kafka has it: an empty list where the partition was not there to be read.
        aborted_transactions: row.found.is_err().then(Vec::new),
        ..Default::default()
    };
    match &row.outcome {
        Ok(Given { said, lso, diverging, aborted, pieces }) => {
            out.high_watermark = said.hw.0;
            out.last_stable_offset = lso.0;
            out.log_start_offset = said.log_start.0;
            out.preferred_read_replica = row.sent_to.map_or(-1, |node| node.0);
            if let Some((epoch, end)) = diverging {
                out.diverging_epoch =
                    EpochEndOffset { epoch: epoch.0, end_offset: end.0, ..Default::default() };
            }
            node.metrics.bytes_out(&row.name, pieces.len());
            if let (Ok(tp), 1..) = (row.found, pieces.len()) {
                node.cluster.traffic().count(tp, pieces.len());
            }
            out.records = Some(pieces.clone());
            out.aborted_transactions = aborted.as_ref().map(|list| {
                let row = |txn: &Aborted| AbortedTransaction {
                    producer_id: txn.producer.0,
                    first_offset: txn.first.0,
                    ..Default::default()
                };
                list.iter().map(row).collect()
            });
        }
        Err(code) => {
            out.error_code = code.code();
            if row.found.is_ok() {
                node.metrics.fetch_failed(&row.name);
            }
            if let Some((leader, epoch)) = row.found.ok().and_then(|tp| leaders.beside(*code, tp)) {
                out.current_leader =
                    LeaderIdAndEpoch { leader_id: leader.0, leader_epoch: epoch.0, ..Default::default() };
            }
        }
    }
    out
}
