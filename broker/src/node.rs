//! A broker: its parts, wired, and the order in which they start and stop.
//!
//! Bucket → probe → metadata → ownership → coordinators; the network edge comes last and goes first. What a
//! handler needs is a field here. Decides nothing; every part keeps its own rules.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidemark_proto::id::{BrokerId, Life, TopicId};
use tidemark_proto::record::TimestampType;
use tidemark_proto::record::validate::Rules;
use tidemark_tiering::bucket::Bucket;
use tidemark_tiering::hot::chunks::ChunkCache;
use tidemark_tiering::hot::disks::Hot;
use tidemark_tiering::hot::segments::{Bounds, Naming};
use tidemark_tiering::planted::{self, Bug};
use tidemark_tiering::read::{ReadConfig, Reader};
use tidemark_tiering::seam::Seams;
use tidemark_tiering::watch;
use tidemark_tiering::witness::{Sight, saw};
use tokio::sync::oneshot;

use crate::api::fetch::budget::Budget;
use crate::api::fetch::session::Sessions;
use crate::api::init_producer_id::ProducerIds;
use crate::api::{Authorizer, Ctx, Operation, Resource};
use crate::archive::Archive;
use crate::cluster::Cluster;
use crate::config;
use crate::ledger::{self, Groups};
use crate::loggers::Loggers;
use crate::metrics::{Metrics, sources};
use crate::near::{Answers, Near};
use crate::ownership::{self, Exit, Owned};
use crate::partition::Partitions;
use crate::partition::fetching::Fetching;
use crate::partition::log::CoordinatorLog;
use crate::partition::opening::Ahead;
use crate::quota::{Bound, Kind, Quotas};
use crate::upkeep;

/// The topic that holds groups and their offsets.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// The topic that holds transactions.
pub const TRANSACTIONS_TOPIC: &str = "__transaction_state";

/// The client id that may write to internal topics, as in Kafka.
pub const ADMIN_CLIENT: &str = "__admin_client";

/// Whether clients may not write to the topic.
pub fn is_internal(topic: &str) -> bool {
    matches!(topic, OFFSETS_TOPIC | TRANSACTIONS_TOPIC)
}

/// What a node is made of.
pub struct Parts {
    /// The world.
    pub seams: Seams,
    /// This run of the process.
    pub life: Life,
    /// Effective configuration.
    pub config: Arc<config::Broker>,
    /// The bucket, probed.
    pub bucket: Bucket,
    /// Where chunks of its objects are kept; a directory bucket uses none.
    pub chunks: Arc<dyn ChunkCache>,
    /// The metadata, started.
    pub cluster: Cluster,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Who may do what.
    pub authorizer: Arc<dyn Authorizer>,
}

/// See the module.
pub struct Node {
    /// The world.
    pub seams: Seams,
    /// This run of the process.
    pub life: Life,
    /// The configuration it was started with.
    pub config: Arc<config::Broker>,
    /// The configuration as it is now.
    pub live: config::Live,
    /// The bucket.
    pub bucket: Bucket,
    /// Reads of runs.
    pub archive: Arc<Archive>,
    /// What was read of partitions on their way here.
    pub ahead: Ahead,
    /// What of runs was found to be of no use.
    pub sparse: upkeep::retain::Sparse,
    /// What offload found at its last look.
    pub tiers: upkeep::offload::Told,
    /// Reads for fetches.
    pub fetching: Fetching,
    /// The metadata.
    pub cluster: Cluster,
    /// Reads of what others lead.
    pub near: Near,
    /// The partitions this broker owns.
    pub partitions: Partitions,
    /// The groups it coordinates.
    pub groups: Groups,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The levels of its log lines.
    pub loggers: Loggers,
    /// Who may do what.
    pub authorizer: Arc<dyn Authorizer>,
    /// Client quotas.
    pub quotas: Quotas,
    /// Memory for fetch answers.
    pub fetch_memory: Budget,
    /// Fetch sessions.
    pub fetch_sessions: Mutex<Sessions>,
    /// Producer ids to hand out.
    pub producer_ids: ProducerIds,
    /// What is owned now; `None` between lanes.
    pub owned: watch::Sender<Option<Owned>>,
}

/// A running node.
pub struct Running {
    /// The node.
    pub node: Arc<Node>,
    close: Option<oneshot::Sender<()>>,
    exit: tokio::task::JoinHandle<Option<Exit>>,
}

impl Node {
    /// Wires the parts and starts owning. Returns at once: registration goes on in the background.
    pub fn start(parts: Parts) -> Running {
        let node = Node::new(parts);
        let (close, closed) = oneshot::channel();
        let exit = node.seams.tasks.spawn(ownership::run(node.clone(), closed));
        node.seams.tasks.spawn(upkeep::sweep::run(node.clone()));
        node.seams.tasks.spawn(upkeep::retain::run(node.clone()));
        node.seams.tasks.spawn(upkeep::merge::run(node.clone()));
        node.seams.tasks.spawn(upkeep::offload::run(node.clone()));
        Running { node, close: Some(close), exit }
    }

    /// Wires the parts; nothing is owned yet.
    pub fn new(parts: Parts) -> Arc<Node> {
        let Parts { seams, life, config, bucket, chunks, cluster, metrics, authorizer } = parts;
        let partitions = Partitions::default();
        let archive = Archive::new(bucket.clone(), cluster.image().cluster());
        let archive = Arc::new(archive.following(cluster.watch()));
        let reads = ReadConfig { window: config.cache.read_ahead_bytes as u64, ..ReadConfig::default() };
        let reader = Reader::new(&bucket, chunks, reads, &seams);
        let hot = hot_segments(&config, &bucket, &cluster, &seams);
        let fetching = Fetching::new(reader, hot, archive.clone(), &seams);
        let log = Arc::new(CoordinatorLog::new(partitions.clone(), cluster.clone(), fetching.clone()));
        let groups = Groups::start(log, group_options(&config.group), &seams);
        let fetch_memory = Budget::new(config.cache.fetch_memory_bytes);
        let (reads, memory) = (fetching.clone(), fetch_memory.clone());
        metrics.register(move |samples| sources::reads(&reads, &memory, samples));
        let near = Near::new(cluster.clone());
        let told = near.clone();
        metrics.register(move |samples| sources::near(told.counts(), samples));
        let node = Arc::new(Node {
            near,
            archive,
            ahead: Ahead::default(),
            sparse: Default::default(),
            tiers: Default::default(),
            fetch_memory,
            fetching,
            quotas: Quotas::new(config.quota_window.as_secs_f64()),
            fetch_sessions: Mutex::new(Sessions::new(config.fetch_sessions_max)),
            producer_ids: ProducerIds::default(),
            owned: watch::Sender::new(None),
            seams,
            life,
            live: config::Live::new(config.clone()),
            config,
            bucket,
            cluster,
            partitions,
            groups,
            metrics,
            loggers: Loggers::of_process(),
            authorizer,
        });
        node.cluster.answer_reads(Arc::new(Answers::new(&node)));
        node
    }

    /// This broker's id; -1 before it is registered for the first time.
    pub fn id(&self) -> BrokerId {
        if let Some(owned) = self.owned() {
            return owned.node;
        }
        let image = self.cluster.image();
        image.live().find(|broker| broker.life == self.life).map_or(BrokerId(-1), |broker| broker.node)
    }

    /// What is owned now.
    pub fn owned(&self) -> Option<Owned> {
        *self.owned.borrow()
    }

    /// Asks the authorizer.
    pub fn allows(&self, ctx: &Ctx, operation: Operation, resource: Resource<'_>) -> bool {
        self.authorizer.allow(ctx, operation, resource)
    }

    /// The quota of `kind` that holds for whoever sent `ctx`.
    pub fn bound(&self, ctx: &Ctx, kind: Kind) -> Option<Bound> {
        let client = ctx.client_id.as_deref().unwrap_or("");
        Quotas::bound(&self.cluster.image(), kind, &ctx.principal, client)
    }

    /// Counts `bytes` against that quota: how long the connection is held for them.
    pub fn held(&self, ctx: &Ctx, kind: Kind, bytes: usize) -> Duration {
        self.bound(ctx, kind).map_or(Duration::ZERO, |bound| self.quotas.take(&bound, bytes))
    }

    /// R24: reads are served only while the session with the controller is fresh; a stale one is renewed first.
    pub async fn may_serve_reads(&self) -> bool {
        if planted::is(Bug::StaleReads) {
            return true;
        }
        let session = self.cluster.session();
        let fresh = session.fresh(tokio::time::Instant::now()) || session.refresh().await;
        if !fresh {
            saw(Sight::Stale);
        }
        fresh
    }

    /// The rules for a batch sent to a topic with `topic`'s configs by Produce `version`.
    pub fn rules(&self, topic: &config::Topic, version: i16) -> Rules {
        Rules {
            max_message_bytes: topic.max_message_bytes,
            produce_version: version,
            compacted: topic.compacted,
            timestamp_type: match topic.timestamp_type {
                config::TimestampType::CreateTime => TimestampType::CreateTime,
                config::TimestampType::LogAppendTime => TimestampType::LogAppendTime,
            },
            before_max_ms: topic.timestamp_before_max_ms,
            after_max_ms: topic.timestamp_after_max_ms,
            ..Rules::defaults(self.seams.clock.wall())
        }
    }

    /// Waits until this broker owns a lane.
    pub async fn registered(&self) -> Owned {
        let mut owned = self.owned.subscribe();
        loop {
            if let Some(owned) = *owned.borrow_and_update() {
                return owned;
            }
            if owned.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Running {
    /// Waits until the node stops owning by itself: only when its node id has another life.
    pub async fn exited(&mut self) -> Exit {
        match (&mut self.exit).await {
            Ok(Some(exit)) => exit,
            _ => Exit::Closed,
        }
    }

    /// Gives all that is led to other brokers, while it is still served; gives up after `patience`.
    pub async fn drain(&self, patience: Duration) {
        ownership::drain(&self.node, patience).await;
    }

    /// Answers what is open, seals the lane, hands over; gives up after `patience`.
    pub async fn close(mut self, patience: Duration) -> bool {
        if let Some(close) = self.close.take() {
            close.send(()).ok();
        }
        tokio::time::timeout(patience, &mut self.exit).await.is_ok()
    }
}

/// Hot segments on the cache directories. A directory bucket is its own hot tier: nothing is written twice.
fn hot_segments(config: &Arc<config::Broker>, bucket: &Bucket, cluster: &Cluster, seams: &Seams) -> Hot {
    let bytes = config.cache.hot_disk_bytes;
    if bytes == 0 || bucket.directory().is_some() {
        return Hot::none();
    }
    let folders = config.log_dirs.iter().map(|dir| dir.join("hot")).collect();
    let (config, cluster) = (config.clone(), cluster.clone());
    let naming: Naming = Arc::new(move |id: TopicId| {
        let image = cluster.image();
        let topic = image.topic(id)?;
        let settings = config.topic(&topic.configs);
        let bytes = u64::try_from(settings.segment_bytes).unwrap_or(u64::MAX);
        Some((topic.name.to_string(), Bounds { bytes, ms: settings.segment_ms }))
    });
    Hot::open(folders, bytes, naming, seams)
}

fn group_options(config: &config::Group) -> ledger::Options {
    let ms = |d: Duration| i32::try_from(d.as_millis()).unwrap_or(i32::MAX);
    let rules = crate::group::state::Rules {
        session_timeout_min_ms: ms(*config.session_timeout.start()),
        session_timeout_max_ms: ms(*config.session_timeout.end()),
        initial_rebalance_delay: config.initial_rebalance_delay,
        size_max: config.size_max,
        offset_metadata_max: config.offset_metadata_bytes_max,
        offsets_retention_ms: i64::try_from(config.offsets_retention.as_millis()).unwrap_or(i64::MAX),
        ..Default::default()
    };
    ledger::Options { rules, retention_check: config.offsets_check, ..Default::default() }
}
