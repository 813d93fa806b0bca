//! A broker as a process: parts opened in order, signals, drain.
//!
//! Ports are bound first, so that a busy one is told before the bucket is touched; clients are accepted last, once the
//! broker owns a lane. SIGTERM and SIGINT drain: nothing new is read, what started is answered, the lane is sealed by its
//! owner. A second signal ends the process at once.

use std::path::Path;
use std::sync::Arc;

use tidemark_proto::id::Life;
use tidemark_tiering::bucket::{self, Bucket, Health, probe};
use tidemark_tiering::hot::chunks::{self, ChunkCache, ChunkConfig, MemoryChunks};
use tidemark_tiering::seam::Seams;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{FAILED, Failure, cluster_file};
use crate::api::{AllowAll, Dispatch};
use crate::cluster::image::Endpoint;
use crate::cluster::peers::tcp::TcpPeers;
use crate::cluster::state::Rules;
use crate::cluster::{Cluster, Identity, Start, Timings};
use crate::config::{Broker, check_broker, check_topic};
use crate::gateway;
use crate::http;
use crate::metrics::{Idle, Metrics, process, sources};
use crate::node::{Node, Parts, Running};
use crate::overview;
use crate::ownership::Exit;
use crate::partition::Query;
use crate::rack;
use crate::server::{Bound, Server};

/// The runtime of every command.
pub fn runtime() -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("tidemark")
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start threads: {error}")))
}

/// Runs a broker until a signal. `dev` names its directory where it is `tidemark dev`.
pub fn run(config: Broker, dev: Option<&Path>) -> Result<(), Failure> {
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let runtime = runtime()?;
    let done = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let seams = Seams::system();
        let started = tokio::select! {
            biased;
            () = signals.next() => return Ok(()),
            started = Process::start(config, dev, &seams) => started?,
        };
        started.announce(dev);
        started.until(&mut signals).await
    });
    // What still runs is bound to the process: nothing is waited for twice.
    runtime.shutdown_background();
    done
}

/// SIGTERM and SIGINT.
pub(super) struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    pub(super) fn new() -> Result<Signals, Failure> {
        let open =
            |kind| signal(kind).map_err(|error| Failure::Failed(format!("cannot wait for signals: {error}")));
        Ok(Signals { term: open(SignalKind::terminate())?, int: open(SignalKind::interrupt())? })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            biased;
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

/// A broker that accepts clients.
struct Process {
    config: Arc<Broker>,
    running: Running,
    server: Server,
    endpoints: Vec<Endpoint>,
    gateway: Option<gateway::Running>,
    http: Option<std::net::SocketAddr>,
    stop_http: CancellationToken,
}

impl Process {
    async fn start(config: Broker, dev: Option<&Path>, seams: &Seams) -> Result<Process, Failure> {
        let config = Arc::new(located(config).await);
        let life = seams.entropy.life();
        check_directories(&config)?;
        let bound = bind(&config)?;
        let endpoints = endpoints(&config, &bound);
        let (http, peers) = (bind_http(&config).await?, bind_peers(&config, seams).await?);
        let reached = endpoints.iter().cloned().chain(reached_by_http(http.as_ref(), &endpoints)).collect();
        let door = match config.gateway_listen {
            Some(addr) => Some(gateway::bind(addr).await.map_err(Failure::Failed)?),
            None => None,
        };
        let bucket = open_bucket(&config, dev.is_some(), life, seams).await?;
        let metrics = Metrics::new();
        let cluster = join(&config, &bucket, life, reached, peers, seams).await?;
        let parts = Parts {
            seams: seams.clone(),
            life,
            config: config.clone(),
            bucket: bucket.clone(),
            chunks: open_chunks(&config, &bucket).await,
            cluster: cluster.clone(),
            metrics: metrics.clone(),
            authorizer: Arc::new(AllowAll),
        };
        let mut running = Node::start(parts);
        let node = running.node.clone();
        tokio::select! {
            biased;
            exit = running.exited() => return Err(Failure::Failed(exited(&exit))),
            _ = node.registered() => {}
        }
        let server = Server::new(Arc::new(Dispatch::new(node.clone())), config.limits.clone(), seams);
        register(&metrics, &node, &bucket, &server);
        follow_limits(&node, &server);
        bound.into_iter().for_each(|listener| server.listen(listener));
        let first = endpoints.first().cloned();
        let gateway = door.zip(first).map(|(door, own)| gateway::serve(door, &server, own, seams));
        let stop_http = CancellationToken::new();
        let http = http.map(|listener| {
            let addr = listener.local_addr().ok();
            let shown = http::Shown { metrics, look: look(cluster), ready: ready(node, bucket) };
            http::serve(listener, shown, stop_http.clone(), seams);
            addr
        });
        Ok(Process { config, running, server, endpoints, gateway, http: http.flatten(), stop_http })
    }

    /// Says where it is, on stdout: ports may have been chosen just now.
    fn announce(&self, dev: Option<&Path>) {
        let node = self.running.node.id();
        let mut text = format!("tidemark {} is ready: node {node}\n", env!("CARGO_PKG_VERSION"));
        for Endpoint { listener, host, port, .. } in &self.endpoints {
            text += &format!("  {listener}  {host}:{port}\n");
        }
        if let Some(at) = self.gateway.as_ref().and_then(gateway::Running::addr) {
            text += &format!("  gRPC       {at}\n");
        }
        if let Some(http) = self.http {
            text += &format!("  http       http://{http}/metrics  /ready  /live\n");
        }
        if let (Some(dir), Some(first)) = (dev, self.endpoints.first()) {
            text += &hints(dir, &format!("{}:{}", first.host, first.port));
        }
        super::say(&text);
    }

    /// Serves until a signal, then drains; or until the node ends by itself.
    async fn until(mut self, signals: &mut Signals) -> Result<(), Failure> {
        let exit = tokio::select! {
            biased;
            () = signals.next() => None,
            exit = self.running.exited() => Some(exit),
        };
        if let Some(exit) = exit {
            self.server.drain(std::time::Duration::ZERO).await;
            return Err(Failure::Failed(exited(&exit)));
        }
        tracing::info!("draining: a second signal ends the process at once");
        let patience = self.config.drain;
        let drain = async {
            self.running.drain(patience).await;
            if let Some(gateway) = &mut self.gateway {
                gateway.drain(patience).await;
            }
            self.server.drain(patience).await;
            self.running.close(patience).await
        };
        let sealed = tokio::select! {
            biased;
            () = signals.next() => std::process::exit(i32::from(FAILED)),
            sealed = drain => sealed,
        };
        self.stop_http.cancel();
        match sealed {
            true => Ok(()),
            false => Err(Failure::Failed(
                "the lane could not be sealed within tidemark.drain.ms; another broker or the next start will do it".into(),
            )),
        }
    }
}

/// What to paste next.
fn hints(dir: &Path, at: &str) -> String {
    let data = dir.display();
    format!(
        "  data       {data}\n\
         Try:\n  \
           export TIDEMARK_BOOTSTRAP={at}\n  \
           tidemark topics create hello\n  \
           echo world | tidemark produce hello\n  \
           tidemark consume hello\n  \
           kafka-console-producer.sh --bootstrap-server {at} --topic hello\n  \
           kafka-console-consumer.sh --bootstrap-server {at} --topic hello --from-beginning\n  \
           kcat -b {at} -t hello -P      kcat -b {at} -t hello -C\n"
    )
}

fn exited(exit: &Exit) -> String {
    match exit {
        Exit::Replaced { node } => {
            format!("node.id {node} belongs to another process now; give each broker a node.id of its own")
        }
        Exit::Closed => "the broker has ended by itself".to_owned(),
    }
}

/// Cache directories must be there and writable: found out now, not at the first write.
fn check_directories(config: &Broker) -> Result<(), Failure> {
    for dir in &config.log_dirs {
        let probe = dir.join(".tidemark-writable");
        let tried = std::fs::create_dir_all(dir)
            .and_then(|()| std::fs::write(&probe, b""))
            .and_then(|()| std::fs::remove_file(&probe));
        tried.map_err(|error| {
            let mend =
                "name a directory this user may write to, or leave log.dirs out to cache in memory only";
            Failure::Failed(format!("log.dirs: {} cannot be written: {error}; {mend}", dir.display()))
        })?;
    }
    Ok(())
}

fn bind(config: &Broker) -> Result<Vec<Bound>, Failure> {
    let one = |listener: &crate::config::Listener| {
        Bound::bind(&listener.name, &listener.host, listener.port, config.backlog)
            .map_err(|error| Failure::Failed(error.to_string()))
    };
    config.listeners.iter().map(one).collect()
}

/// What clients are told: as configured, else the bound host and port, else this machine's name.
fn endpoints(config: &Broker, bound: &[Bound]) -> Vec<Endpoint> {
    let one = |(listener, bound): (&crate::config::Listener, &Bound)| {
        let (host, port) = match &listener.advertised {
            Some((host, port)) => (host.clone(), *port),
            None if bound.addr().ip().is_unspecified() => (host_name(), 0),
            None => (listener.host.clone(), 0),
        };
        let port = if port == 0 { bound.addr().port() } else { port };
        Endpoint { listener: listener.name.clone(), protocol: "PLAINTEXT".into(), host, port }
    };
    config.listeners.iter().zip(bound).map(one).collect()
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}

/// The configuration with the rack that the cloud tells, where it is asked.
async fn located(config: Broker) -> Broker {
    if config.rack.is_some() || !config.rack_auto {
        return config;
    }
    let rack = rack::of_instance(rack::METADATA).await;
    match &rack {
        Some(rack) => tracing::info!(rack, "the cloud tells this broker's zone"),
        None => tracing::warn!("no cloud tells this broker's zone: it has no rack; set broker.rack"),
    }
    Broker { rack, ..config }
}

/// Told with the listeners of clients, so that an operator's tools find it: DescribeQuorum names it.
fn reached_by_http(http: Option<&TcpListener>, others: &[Endpoint]) -> Option<Endpoint> {
    let at = http?.local_addr().ok()?;
    let host = match at.ip().is_unspecified() {
        true => others.first()?.host.clone(),
        false => at.ip().to_string(),
    };
    Some(Endpoint { listener: "HTTP".into(), protocol: "HTTP".into(), host, port: at.port() })
}

async fn bind_http(config: &Broker) -> Result<Option<TcpListener>, Failure> {
    match config.http_listen {
        None => Ok(None),
        Some(addr) => http::bind(addr).await.map(Some).map_err(Failure::Failed),
    }
}

async fn bind_peers(config: &Broker, seams: &Seams) -> Result<TcpPeers, Failure> {
    let secret = config.peer_secret.as_ref().map(|secret| secret.expose());
    TcpPeers::bind(&config.peer_listen.to_string(), config.peer_advertised.as_deref(), secret, seams)
        .await
        .map_err(Failure::Failed)
}

/// The bucket, as the one who configured it knows it.
fn place(config: &Broker) -> String {
    match &config.bucket.endpoint {
        Some(endpoint) => format!("{} at {endpoint}", config.bucket.url),
        None => config.bucket.url.clone(),
    }
}

async fn open_bucket(config: &Broker, create: bool, life: Life, seams: &Seams) -> Result<Bucket, Failure> {
    let wanted = bucket::Config { create_directory: create, ..config.bucket.clone() };
    let bucket = Bucket::open(&wanted, seams).map_err(|error| Failure::Failed(error.to_string()))?;
    let probed = probe::run(&bucket, life, probe::Level::Fast).await;
    let report = probed.map_err(|failure| Failure::Failed(format!("{}: {failure}", place(config))))?;
    tracing::debug!(?report, "the bucket can be trusted");
    Ok(bucket)
}

/// The chunk cache, on the first of the cache directories. A directory bucket is its own: nothing is kept twice.
async fn open_chunks(config: &Broker, bucket: &Bucket) -> Arc<dyn ChunkCache> {
    let cache = &config.cache;
    if bucket.directory().is_some() {
        return Arc::new(MemoryChunks::new(0));
    }
    let directory = config.log_dirs.first().filter(|_| cache.disk_bytes > 0);
    let disk = directory.map(|dir| (dir.join("chunks"), cache.disk_bytes));
    chunks::open(&ChunkConfig { memory: cache.memory_bytes, disk }).await
}

async fn join(
    config: &Broker,
    bucket: &Bucket,
    life: Life,
    endpoints: Vec<Endpoint>,
    peers: TcpPeers,
    seams: &Seams,
) -> Result<Cluster, Failure> {
    let times = &config.timings;
    let timings = Timings {
        heartbeat: times.heartbeat,
        session: times.session,
        control: times.controller_lease,
        skew: times.skew,
        election: times.election_wait,
        ack: times.ack_doubt,
        balance: times.balance,
        moving: times.moving,
        delete_grace: times.delete_grace,
        ..Timings::default()
    };
    let rules = Rules {
        partitions: config.partitions,
        replication: config.replication,
        topic_config: Arc::new(check_topic),
        broker_config: Arc::new(check_broker),
        ..Rules::default()
    };
    let start = Start {
        seams: seams.clone(),
        bucket: bucket.clone(),
        identity: Identity { node: config.node_id, life, endpoints, rack: config.rack.clone() },
        cluster: cluster_file::read(&config.log_dirs, config.cluster_id).map_err(Failure::Failed)?,
        peers: Arc::new(peers),
        timings,
        rules,
    };
    let cluster = Cluster::start(start).await.map_err(|error| Failure::Failed(error.to_string()))?;
    cluster_file::write(&config.log_dirs, cluster.image().cluster());
    Ok(cluster)
}

/// The number of connections may be changed while the broker runs.
fn follow_limits(node: &Node, server: &Server) {
    let (mut live, server) = (node.live.watch(), server.clone());
    let limit = move |config: &Broker| server.limit_connections(config.limits.connections.clone());
    limit(&live.borrow_and_update());
    node.seams.tasks.spawn(async move {
        while live.changed().await.is_ok() {
            limit(&live.borrow_and_update());
        }
    });
}

fn register(metrics: &Metrics, node: &Arc<Node>, bucket: &Bucket, server: &Server) {
    let store = bucket.clone();
    metrics.register(move |samples| sources::bucket(&store, samples));
    metrics.register(sources::constants);
    let idle = Idle::default();
    metrics.register(move |samples| process(&idle, samples));
    let edge = server.clone();
    metrics.register(move |samples| sources::server(&edge, samples));
    let groups = node.groups.clone();
    metrics.register(move |samples| sources::groups(&groups.counts(), samples));
    // The node holds the metrics: a source that held the node would keep both for ever.
    let weak = Arc::downgrade(node);
    metrics.register(move |samples| {
        if let Some(node) = weak.upgrade() {
            let (image, controls) = (node.cluster.image(), node.cluster.is_controller());
            sources::cluster(&image, node.id(), controls, node.bucket.health().is_well(), samples);
            sources::runs(&image, samples);
            node.metrics.upkeep.tell(samples);
            sources::tier(&image, node.id(), &node.tiers.lock().lag, samples);
        }
    });
    let (partitions, cluster) = (node.partitions.clone(), node.cluster.clone());
    metrics.register_asker(move || {
        let (partitions, cluster) = (partitions.clone(), cluster.clone());
        Box::pin(async move {
            let rows = partitions.ask(|reply| Query::Survey { reply }).await.unwrap_or_default();
            let mut samples = sources::partitions(&cluster.image(), &rows);
            if let Ok(vitals) = partitions.ask(|reply| Query::Vitals { reply }).await {
                sources::vitals(&vitals, &mut samples);
            }
            samples
        })
    });
}

fn look(cluster: Cluster) -> http::Look {
    Arc::new(move |topic: Option<&str>| match topic {
        Some(topic) => overview::chains(&cluster.image(), topic),
        None => Some(overview::cluster(&cluster.image(), cluster.balancing())),
    })
}

fn ready(node: Arc<Node>, bucket: Bucket) -> http::Ready {
    Arc::new(move || {
        if node.owned().is_none() {
            return Err("not registered with the controller".into());
        }
        match bucket.health() {
            Health::Well => Ok(()),
            Health::Ailing { why, .. } => Err(format!("the bucket does not answer: {why}")),
        }
    })
}
