//! The API table and its dispatch.
//!
//! One row per API served: key, versions, what the authorizer is asked, the handler. Dispatch, ApiVersions, metrics
//! and documents are made from the rows. A handler asks the authorizer before it reveals or changes anything. An
//! unknown key or version and a body that does not decode close the connection, as in Kafka; only ApiVersions is
//! answered in a version the client will understand.

// A message may get more fields with Kafka's next version.
#![allow(clippy::needless_update)]

#[cfg(test)]
mod admin_tests;
mod alter_client_quotas;
mod alter_configs;
mod alter_partition_reassignments;
mod alter_replica_log_dirs;
mod api_versions;
mod broker_loggers;
mod config_change;
mod coordinator;
mod create_partitions;
mod create_topics;
mod delete_groups;
mod delete_records;
mod delete_topics;
mod describe_client_quotas;
mod describe_cluster;
mod describe_configs;
mod describe_groups;
mod describe_log_dirs;
mod describe_producers;
mod describe_quorum;
mod describe_topic_partitions;
mod describe_transactions;
mod elect_leaders;
pub mod error;
mod features;
pub mod fetch;
mod find_coordinator;
mod get_telemetry_subscriptions;
#[cfg(test)]
mod group_tests;
mod heartbeat;
#[cfg(test)]
mod hostile_tests;
mod incremental_alter_configs;
pub mod init_producer_id;
mod join_group;
mod leave_group;
mod list_config_resources;
mod list_groups;
mod list_offsets;
mod list_partition_reassignments;
mod list_transactions;
#[cfg(test)]
pub(crate) mod log_house;
#[cfg(test)]
mod log_tests;
pub mod metadata;
mod new_leader;
mod offset_commit;
mod offset_delete;
mod offset_fetch;
mod offset_for_leader_epoch;
#[cfg(test)]
mod offset_tests;
mod old_produce;
mod produce;
#[cfg(test)]
mod produce_tests;
mod push_telemetry;
#[cfg(test)]
mod quota_tests;
#[cfg(test)]
mod segment_tests;
mod sync_group;
mod table;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod txn_tests;
mod unregister_broker;
mod update_features;
pub mod view;
mod write_txn_markers;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tidemark_proto::kafka::api::ApiKey;
use tidemark_proto::kafka::frame::{decode_request_header, encode_response};
use tidemark_proto::kafka::text::Text;
use tidemark_proto::kafka::wire::{DecodeError, Decoder, Message, Request};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tracing::Instrument;

pub use table::{ROWS, find};

use crate::node::Node;
use crate::server::{Answer, Finish, Frame, Peer, Service};

/// What a principal wants to do, with Kafka's ACL codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Read records or join a group.
    Read = 3,
    /// Write records.
    Write = 4,
    /// Create.
    Create = 5,
    /// Delete.
    Delete = 6,
    /// Change.
    Alter = 7,
    /// See that it exists and how it is.
    Describe = 8,
    /// Act as a broker.
    ClusterAction = 9,
    /// See its configs.
    DescribeConfigs = 10,
    /// Change its configs.
    AlterConfigs = 11,
    /// Get a producer id.
    IdempotentWrite = 12,
}

/// What it is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource<'a> {
    /// A topic, by name.
    Topic(&'a str),
    /// A group, by id.
    Group(&'a str),
    /// The cluster.
    Cluster,
    /// A transactional id.
    TransactionalId(&'a str),
}

/// Decides who may do what.
pub trait Authorizer: Send + Sync {
    /// Whether the principal of `ctx` may do `operation` to `resource`.
    fn allow(&self, ctx: &Ctx, operation: Operation, resource: Resource<'_>) -> bool;
}

/// Lets everybody do everything: what holds until ACLs are built.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllowAll;

impl Authorizer for AllowAll {
    fn allow(&self, _ctx: &Ctx, _operation: Operation, _resource: Resource<'_>) -> bool {
        true
    }
}

/// What the authorizer is asked for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// For each topic of the request.
    Topic(Operation),
    /// For each group of the request.
    Group(Operation),
    /// For the cluster.
    Cluster(Operation),
    /// For the transactional id, if there is one.
    TransactionalId(Operation),
    /// Anybody may ask: the answer reveals nothing that is protected.
    Nothing,
}

/// A request on its way through its handler.
pub struct Ctx {
    /// Number of the request, unique in the process; stands in every log line about it.
    pub request: u64,
    /// The API.
    pub key: ApiKey,
    /// Version of the request.
    pub version: i16,
    /// What the answer repeats.
    pub correlation: i32,
    /// The client's name for itself. A slice of the frame: detach it before keeping it.
    pub client_id: Option<Text>,
    /// Who asks.
    pub principal: Arc<str>,
    /// Name of the listener the request came in on.
    pub listener: Arc<str>,
    /// The connection.
    pub peer: Arc<Peer>,
    /// When the request was here whole.
    pub arrived: Instant,
    /// Bytes of the request.
    pub bytes: usize,
    /// Error codes of the answer, with how often each is in it.
    told: Mutex<Vec<(i16, u64)>>,
    permit: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Ctx {
    /// Hands the request's share of the byte budget to whoever keeps its bytes for longer than the answer takes.
    pub fn take_permit(&self) -> Option<OwnedSemaphorePermit> {
        self.permit.lock().take()
    }

    /// A context outside of any connection, for tests and in-process callers.
    pub fn local(key: ApiKey, version: i16) -> Ctx {
        let addr = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let listener: Arc<str> = Arc::from("PLAINTEXT");
        let peer = Peer { connection: 0, listener: listener.clone(), addr, software: Mutex::new(None) };
        Ctx {
            request: 0,
            key,
            version,
            correlation: 0,
            client_id: None,
            principal: anonymous(),
            listener,
            peer: Arc::new(peer),
            arrived: Instant::now(),
            bytes: 0,
            told: Mutex::default(),
            permit: Mutex::new(None),
        }
    }
}

impl fmt::Debug for Ctx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ctx { request, key, version, client_id, .. } = self;
        write!(f, "request {request}: {key:?} v{version} of {:?} at {}", client_id.as_deref(), self.peer.addr)
    }
}

fn anonymous() -> Arc<str> {
    Arc::from("User:ANONYMOUS")
}

/// How far the first phase of a request has come when its frame is decoded.
pub enum Started {
    /// Nothing must happen in order: all of it runs in the background.
    Free(Finish),
    /// Awaited in arrival order; gives what runs in the background.
    Ordered(BoxFuture<'static, Finish>),
}

/// One API served.
pub struct Row {
    /// The API.
    pub key: ApiKey,
    /// Lowest version answered.
    pub min: i16,
    /// Highest version answered.
    pub max: i16,
    /// What the authorizer is asked; never empty.
    pub needs: &'static [Need],
    /// Decodes the body and starts the handler.
    pub start: fn(Arc<Node>, Arc<Ctx>, Decoder) -> Result<Started, DecodeError>,
}

/// Decodes a body. What stands behind it in the frame is ignored, as Kafka does: librdkafka leaves three bytes behind a
/// Metadata v13 that asks for all topics.
pub fn body<R: Request>(mut decoder: Decoder, version: i16) -> Result<R, DecodeError> {
    R::decode(&mut decoder, version)
}

/// The answer that carries `response`.
pub fn reply(ctx: &Ctx, response: &impl Message) -> Answer {
    reply_and_hold(ctx, response, 0)
}

/// The same, after which nothing is read from the connection for as long as the answer says (KIP-219).
pub fn reply_and_hold(ctx: &Ctx, response: &impl Message, throttle_time_ms: i32) -> Answer {
    let mute = Duration::from_millis(u64::try_from(throttle_time_ms).unwrap_or(0));
    let mut told = ctx.told.lock();
    response.each_error(&mut |code| match told.iter_mut().find(|(known, _)| *known == code) {
        Some((_, times)) => *times += 1,
        None => told.push((code, 1)),
    });
    drop(told);
    match encode_response(
        ctx.correlation,
        ctx.key.response_header_version(ctx.version),
        response,
        ctx.version,
    ) {
        Ok(frame) => Answer::Reply { frame, mute },
        Err(error) => {
            tracing::error!(?ctx, %error, "an answer could not be encoded");
            Answer::Close(format!("an answer could not be encoded: {error}"))
        }
    }
}

/// A row whose handler is `async fn handle(Arc<Node>, Arc<Ctx>, Request) -> Response` and needs no order.
macro_rules! free {
    ($handle:path, $request:ty) => {
        |node, ctx, decoder| {
            let request = $crate::api::body::<$request>(decoder, ctx.version)?;
            Ok($crate::api::Started::Free(Box::pin(async move {
                let response = $handle(node, ctx.clone(), request).await;
                $crate::api::reply(&ctx, &response)
            })))
        }
    };
}
pub(crate) use free;

/// A row whose handler is `async fn start(Arc<Node>, Arc<Ctx>, Request) -> impl Future<Output = Response>`: what it
/// awaits happens in arrival order, the future it returns in the background.
macro_rules! ordered {
    ($handler:path, $request:ty) => {
        |node, ctx, decoder| {
            let request = $crate::api::body::<$request>(decoder, ctx.version)?;
            let started = $handler(node, ctx.clone(), request);
            Ok($crate::api::Started::Ordered(Box::pin(futures::FutureExt::map(
                started,
                move |response| -> $crate::server::Finish {
                    Box::pin(async move { $crate::api::reply(&ctx, &response.await) })
                },
            ))))
        }
    };
}
pub(crate) use ordered;

/// Gives frames to handlers.
pub struct Dispatch {
    node: Arc<Node>,
    principal: Arc<str>,
    next: AtomicU64,
}

impl Dispatch {
    /// Dispatch for `node`.
    pub fn new(node: Arc<Node>) -> Dispatch {
        Dispatch { node, principal: anonymous(), next: AtomicU64::new(1) }
    }

    fn begin(&self, peer: &Arc<Peer>, frame: Frame) -> Result<(Arc<Ctx>, Started), String> {
        let Frame { bytes, arrived, permit } = frame;
        let length = bytes.len();
        let mut decoder = Decoder::new(bytes);
        let header =
            decode_request_header(&mut decoder).map_err(|error| format!("bad request header: {error}"))?;
        let client = header.client_id.clone();
        let told = || client.as_deref().unwrap_or("").chars().take(100).collect::<String>();
        let row = find(header.api_key)
            .ok_or_else(|| format!("unknown API key {} (client {:?})", header.api_key, told()))?;
        let ctx = Arc::new(Ctx {
            request: self.next.fetch_add(1, Ordering::Relaxed),
            key: row.key,
            version: header.api_version,
            correlation: header.correlation_id,
            client_id: header.client_id,
            principal: self.principal.clone(),
            listener: peer.listener.clone(),
            peer: peer.clone(),
            arrived,
            bytes: length,
            told: Mutex::default(),
            permit: Mutex::new(Some(permit)),
        });
        if !(row.min..=row.max).contains(&ctx.version) {
            if row.key == ApiKey::ApiVersions {
                let answer = table::api_versions_unsupported(&ctx);
                return Ok((ctx, Started::Free(Box::pin(async move { answer }))));
            }
            let (name, version) = (row.key.name(), ctx.version);
            return Err(format!("unsupported version {version} of {name} (client {:?})", told()));
        }
        let (name, version) = (row.key.name(), ctx.version);
        let started = (row.start)(self.node.clone(), ctx.clone(), decoder)
            .map_err(|error| format!("bad {name} v{version} request: {error} (client {:?})", told()))?;
        Ok((ctx, started))
    }
}

#[async_trait]
impl Service for Dispatch {
    async fn start(&self, peer: &Arc<Peer>, frame: Frame) -> Finish {
        let begun = Instant::now();
        let (ctx, started) = match self.begin(peer, frame) {
            Ok(begun) => begun,
            Err(reason) => return Box::pin(async move { Answer::Close(reason) }),
        };
        let span = tracing::debug_span!(
            "request", id = ctx.request, api = ctx.key.name(), version = ctx.version, client = ?ctx.client_id
        );
        let finish = match started {
            Started::Free(finish) => finish,
            Started::Ordered(start) => start.instrument(span.clone()).await,
        };
        let metrics = self.node.metrics.clone();
        let local = begun.elapsed();
        let finish = async move {
            let answer = finish.await;
            let now = Instant::now();
            metrics.requests.answered(crate::metrics::Answered {
                key: ctx.key,
                version: ctx.version,
                bytes: ctx.bytes,
                queue: begun.duration_since(ctx.arrived),
                local,
                remote: now.duration_since(begun).saturating_sub(local),
            });
            metrics.requests.told(ctx.key, &ctx.told.lock());
            answer
        };
        Box::pin(finish.instrument(span))
    }

    fn is_heavy(&self, frame: &[u8]) -> bool {
        frame.get(..2) == Some(&ApiKey::Fetch.as_i16().to_be_bytes())
    }

    fn sent(&self, api_key: i16, bytes: usize, sending: Duration) {
        self.node.metrics.requests.sent(api_key, bytes, sending);
    }
}
