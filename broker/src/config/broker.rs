//! A broker's configuration in types.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use tidemark_proto::id::{BrokerId, ClusterId};
use tidemark_tiering::bucket::{self, Prices, Secret};
use uuid::Uuid;

use super::listener::{Listener, listeners};
use super::settings::{ConfigError, Settings};
use super::short_id;
use super::table::items;
use super::topic::Topic;
use crate::server;

/// Everything a broker is told.
#[derive(Clone, Debug)]
pub struct Broker {
    /// What all of this was made from; DescribeConfigs reads it.
    pub settings: Settings,
    /// `node.id`; `None` lets the controller assign one.
    pub node_id: Option<BrokerId>,
    /// `broker.rack`.
    pub rack: Option<String>,
    /// `tidemark.rack.auto`: ask the cloud where no rack is set.
    pub rack_auto: bool,
    /// `replica.selector.class`: consumers are sent to replicas in their rack, and replicas serve.
    pub near_reads: bool,
    /// `cluster.id`: the bucket must be this cluster's.
    pub cluster_id: Option<ClusterId>,
    /// Listeners for clients.
    pub listeners: Vec<Listener>,
    /// Limits of the network edge.
    pub limits: server::Limits,
    /// `socket.listen.backlog.size`.
    pub backlog: u32,
    /// `log.dirs`: cache directories.
    pub log_dirs: Vec<PathBuf>,
    /// Where the log lives.
    pub bucket: bucket::Config,
    /// `tidemark.http.listen`; `None` for no HTTP.
    pub http_listen: Option<SocketAddr>,
    /// `tidemark.gateway.listen`; `None` for no gateway.
    pub gateway_listen: Option<SocketAddr>,
    /// `tidemark.peer.listen`.
    pub peer_listen: SocketAddr,
    /// `tidemark.peer.advertised`.
    pub peer_advertised: Option<String>,
    /// `tidemark.peer.secret`.
    pub peer_secret: Option<Secret>,
    /// `tidemark.acks.one` is `leader`.
    pub acks_one_is_leader: bool,
    /// The write path's dial.
    pub wal: Wal,
    /// When a lane's parcels are sorted into a run.
    pub cut: Cut,
    /// `log.retention.check.interval.ms`.
    pub retention_check: Duration,
    /// When a partition's data becomes a segment.
    pub offload: Offload,
    /// Compaction.
    pub cleaner: Cleaner,
    /// Bounds of memory and disk for reads.
    pub cache: Cache,
    /// `tidemark.*` timings of cluster and commit protocol.
    pub timings: Timings,
    /// Defaults of topics.
    pub topic: Topic,
    /// `num.partitions`.
    pub partitions: i32,
    /// `default.replication.factor`.
    pub replication: i16,
    /// `auto.create.topics.enable`.
    pub auto_create_topics: bool,
    /// `delete.topic.enable`.
    pub delete_topics: bool,
    /// `max.request.partition.size.limit`.
    pub describe_partitions_max: usize,
    /// `fetch.max.bytes`.
    pub fetch_bytes_max: usize,
    /// `max.incremental.fetch.session.cache.slots`.
    pub fetch_sessions_max: usize,
    /// What a client may use of its quotas at once: `quota.window.size.seconds`, once less than `quota.window.num`.
    pub quota_window: Duration,
    /// `producer.id.expiration.ms`.
    pub producer_expiration: Duration,
    /// Classic groups and committed offsets.
    pub group: Group,
    /// `tidemark.drain.ms`.
    pub drain: Duration,
}

/// The write path's dial (`tidemark.wal.*`, `tidemark.produce.target.p99`).
#[derive(Clone, Debug, PartialEq)]
pub struct Wal {
    /// PUTs a second; `None` for the store's default.
    pub put_rate: Option<f64>,
    /// Size at which a parcel is closed.
    pub parcel_bytes: usize,
    /// PUTs in flight.
    pub window: usize,
    /// Bytes in flight.
    pub unacked_bytes: usize,
    /// Latency aimed at.
    pub target: Duration,
}

/// When a lane's parcels are sorted into a run (`tidemark.cut.*`).
#[derive(Clone, Debug, PartialEq)]
pub struct Cut {
    /// After this many parcels.
    pub parcels: u64,
    /// After this many bytes.
    pub bytes: u64,
    /// After this time.
    pub interval: Duration,
}

/// When a tiered partition's data becomes a segment (`tidemark.offload.*`).
#[derive(Clone, Debug, PartialEq)]
pub struct Offload {
    /// Bytes of a segment.
    pub bytes: u64,
    /// Time after which less than that will do.
    pub after: Duration,
    /// Between two looks.
    pub check: Duration,
}

/// Compaction (`log.cleaner.*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cleaner {
    /// Whether there is any.
    pub enable: bool,
    /// Least time between two looks for work.
    pub backoff: Duration,
    /// Bytes for the newest offset of each key.
    pub memory_bytes: usize,
}

/// Bounds of memory and disk for reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Cache {
    /// Memory for chunks of the bucket.
    pub memory_bytes: usize,
    /// Disk for chunks of the bucket; 0 without `log.dirs`.
    pub disk_bytes: u64,
    /// Memory for the newest batches.
    pub hot_memory_bytes: usize,
    /// Disk for hot segment files; 0 without `log.dirs`.
    pub hot_disk_bytes: u64,
    /// Most that is read ahead for one reader.
    pub read_ahead_bytes: usize,
    /// Bytes of fetch answers being assembled or unread.
    pub fetch_memory_bytes: usize,
}

/// Timings of cluster and commit protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timings {
    /// Between two heartbeats of a broker.
    pub heartbeat: Duration,
    /// T_session.
    pub session: Duration,
    /// T_ctl.
    pub controller_lease: Duration,
    /// Allowed error between two clocks' rates.
    pub skew: Duration,
    /// T: a candidate's first wait.
    pub election_wait: Duration,
    /// T_ack (R23).
    pub ack_doubt: Duration,
    /// T_stuck (R7).
    pub stuck: Duration,
    /// Between two looks at whether brokers lead their shares; `None`: never.
    pub balance: Option<Duration>,
    /// `tidemark.move.timeout.ms`.
    pub moving: Duration,
    /// Between un-naming an object and deleting it.
    pub delete_grace: Duration,
}

/// Classic groups and committed offsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// `group.min.session.timeout.ms` to `group.max.session.timeout.ms`.
    pub session_timeout: std::ops::RangeInclusive<Duration>,
    /// `group.initial.rebalance.delay.ms`.
    pub initial_rebalance_delay: Duration,
    /// `group.max.size`.
    pub size_max: usize,
    /// `offset.metadata.max.bytes`.
    pub offset_metadata_bytes_max: usize,
    /// `offsets.retention.minutes`.
    pub offsets_retention: Duration,
    /// `offsets.retention.check.interval.ms`.
    pub offsets_check: Duration,
    /// `offsets.topic.num.partitions`.
    pub offsets_partitions: i32,
    /// `offsets.topic.replication.factor`.
    pub offsets_replication: i16,
    /// `offsets.topic.segment.bytes`.
    pub offsets_segment_bytes: i32,
}

impl Broker {
    /// Puts checked settings into types; what only makes sense together is checked here.
    pub fn new(settings: Settings) -> Result<Broker, ConfigError> {
        let s = &settings;
        let node_id = Some(s.number("node.id")).filter(|id| *id >= 0).map(|id| BrokerId(int(id)));
        let log_dirs: Vec<PathBuf> =
            s.text("log.dirs").iter().flat_map(|dirs| items(dirs)).map(PathBuf::from).collect();
        if let Some(roles) = s.explicit("process.roles")
            && !items(roles).any(|role| role == "broker")
        {
            return Err(ConfigError(
                "process.roles: a process without the role broker has nothing to do here; every broker can be \
                 controller, so write broker or leave the key out"
                    .into(),
            ));
        }
        let has_disk = !log_dirs.is_empty();
        let broker = Broker {
            node_id,
            rack: s.text("broker.rack"),
            rack_auto: s.flag("tidemark.rack.auto"),
            near_reads: s.text("replica.selector.class").is_some(),
            cluster_id: s.text("cluster.id").map(|id| cluster_id(&id)).transpose()?,
            listeners: listeners(s)?,
            limits: limits(s)?,
            backlog: u32::try_from(s.number("socket.listen.backlog.size")).unwrap_or(u32::MAX),
            log_dirs,
            bucket: bucket(s)?,
            http_listen: s
                .text("tidemark.http.listen")
                .map(|at| resolve("tidemark.http.listen", &at))
                .transpose()?,
            gateway_listen: s
                .text("tidemark.gateway.listen")
                .map(|at| resolve("tidemark.gateway.listen", &at))
                .transpose()?,
            peer_listen: resolve(
                "tidemark.peer.listen",
                &s.text("tidemark.peer.listen").unwrap_or_else(|| "127.0.0.1:0".into()),
            )?,
            peer_advertised: s.text("tidemark.peer.advertised"),
            peer_secret: s.text("tidemark.peer.secret").map(Secret::from),
            acks_one_is_leader: s.value("tidemark.acks.one") == Some("leader"),
            wal: wal(s),
            cut: Cut {
                parcels: s.count("tidemark.cut.parcels") as u64,
                bytes: s.count("tidemark.cut.bytes") as u64,
                interval: millis(s, "tidemark.cut.ms"),
            },
            retention_check: millis(s, "log.retention.check.interval.ms"),
            offload: Offload {
                bytes: s.count("tidemark.offload.bytes") as u64,
                after: millis(s, "tidemark.offload.ms"),
                check: millis(s, "tidemark.offload.check.ms"),
            },
            cleaner: cleaner(s),
            cache: Cache {
                memory_bytes: s.count("tidemark.cache.memory.bytes"),
                disk_bytes: if has_disk { s.count("tidemark.cache.disk.bytes") as u64 } else { 0 },
                hot_memory_bytes: s.count("tidemark.hot.memory.bytes"),
                hot_disk_bytes: if has_disk { s.count("tidemark.hot.disk.bytes") as u64 } else { 0 },
                read_ahead_bytes: s.count("tidemark.read.ahead.bytes"),
                fetch_memory_bytes: s.count("tidemark.fetch.memory.bytes"),
            },
            timings: timings(s),
            topic: Topic::defaults(s),
            partitions: int(s.number("num.partitions")),
            replication: short(s.number("default.replication.factor")),
            auto_create_topics: s.flag("auto.create.topics.enable"),
            delete_topics: s.flag("delete.topic.enable"),
            describe_partitions_max: s.count("max.request.partition.size.limit"),
            fetch_bytes_max: s.count("fetch.max.bytes"),
            fetch_sessions_max: s.count("max.incremental.fetch.session.cache.slots"),
            quota_window: Duration::from_secs(
                (s.count("quota.window.num") as u64 - 1).max(1) * s.count("quota.window.size.seconds") as u64,
            ),
            producer_expiration: millis(s, "producer.id.expiration.ms"),
            group: group(s)?,
            drain: millis(s, "tidemark.drain.ms"),
            settings: settings.clone(),
        };
        broker.check_peer()?;
        Ok(broker)
    }

    /// A topic's configuration: its own settings over this broker's defaults.
    pub fn topic(&self, overrides: &BTreeMap<String, String>) -> Topic {
        self.topic.with(overrides)
    }

    /// This configuration under what was set while brokers run: for `all` of them, and on this one.
    pub fn under(
        &self,
        all: &BTreeMap<String, String>,
        own: &BTreeMap<String, String>,
    ) -> Result<Broker, ConfigError> {
        let settings = self.settings.under(all, own);
        Ok(Broker {
            limits: limits(&settings)?,
            topic: Topic::defaults(&settings),
            cleaner: cleaner(&settings),
            producer_expiration: millis(&settings, "producer.id.expiration.ms"),
            settings,
            ..self.clone()
        })
    }

    /// How long after an object is un-named it is deleted: never sooner than `tidemark.delete.grace.ms`.
    pub fn delete_grace(&self) -> Duration {
        let delay = Duration::from_millis(u64::try_from(self.topic.file_delete_delay_ms).unwrap_or(0));
        self.timings.delete_grace.max(delay)
    }

    /// What an admin should know before it runs: unknown keys, keys without effect, open listeners.
    pub fn warnings(&self) -> Vec<String> {
        let mut found = self.settings.warnings().to_vec();
        for (key, _, set) in self.settings.rows() {
            if set && let super::Treatment::Note(why) = key.treatment {
                found.push(format!("{}: accepted, no effect: {why}", key.name));
            }
        }
        for listener in self.listeners.iter().filter(|listener| listener.is_open()) {
            found.push(format!(
                "listener {} is PLAINTEXT and reachable from other machines: anyone who reaches it may read and write",
                listener.name
            ));
        }
        if let Some(addr) = self.gateway_listen.filter(|addr| !addr.ip().is_loopback()) {
            found.push(format!(
                "tidemark.gateway.listen {addr} is reachable from other machines, without TLS: anyone who reaches it may write"
            ));
        }
        found
    }

    fn check_peer(&self) -> Result<(), ConfigError> {
        if self.peer_secret.is_none() && !self.peer_listen.ip().is_loopback() {
            return Err(ConfigError(format!(
                "tidemark.peer.listen: {} is not loopback and no secret is set; set tidemark.peer.secret to the same \
                 text on every broker, or listen on 127.0.0.1",
                self.peer_listen
            )));
        }
        Ok(())
    }
}

fn int(number: i64) -> i32 {
    i32::try_from(number).expect("the table checks that it is an int")
}

fn short(number: i64) -> i16 {
    i16::try_from(number).unwrap_or(i16::MAX)
}

fn millis(s: &Settings, name: &str) -> Duration {
    Duration::from_millis(s.count(name) as u64)
}

fn limits(s: &Settings) -> Result<server::Limits, ConfigError> {
    let queued = s.number("queued.max.request.bytes");
    let buffer = |name| usize::try_from(s.number(name)).ok().filter(|bytes| *bytes > 0);
    let mut overrides = BTreeMap::new();
    for (host, count) in address_limits(&s.text("max.connections.per.ip.overrides").unwrap_or_default())? {
        let found = host.parse().ok().or_else(|| Some((&*host, 0).to_socket_addrs().ok()?.next()?.ip()));
        let ip: IpAddr = found.ok_or_else(|| {
            ConfigError(format!("max.connections.per.ip.overrides: the host {host} does not resolve"))
        })?;
        overrides.insert(ip.to_canonical(), count);
    }
    Ok(server::Limits {
        frame_bytes_max: s.count("socket.request.max.bytes"),
        queued_bytes_max: usize::try_from(queued).unwrap_or(256 << 20),
        idle: millis(s, "connections.max.idle.ms"),
        partial_frame: millis(s, "tidemark.connection.partial.frame.ms"),
        write_stall: millis(s, "connections.max.idle.ms"),
        in_flight_max: s.count("tidemark.connection.in.flight"),
        connections: server::ConnectionLimits {
            all: s.count("max.connections"),
            per_ip: s.count("max.connections.per.ip"),
            per_second: s.count("max.connection.creation.rate"),
            overrides,
        },
        send_buffer_bytes: buffer("socket.send.buffer.bytes"),
        receive_buffer_bytes: buffer("socket.receive.buffer.bytes"),
    })
}

/// The items of `max.connections.per.ip.overrides`: host and number.
pub(super) fn address_limits(text: &str) -> Result<Vec<(String, usize)>, ConfigError> {
    let one = |item: &str| {
        let (host, count) = item.rsplit_once(':')?;
        let host = host.trim_matches(['[', ']']);
        Some((host.to_owned(), count.parse().ok()?)).filter(|(host, _): &(String, usize)| !host.is_empty())
    };
    let all = items(text).map(|item| {
        one(item).ok_or_else(|| {
            ConfigError(format!("max.connections.per.ip.overrides: '{item}' is not address:number"))
        })
    });
    all.collect()
}

fn bucket(s: &Settings) -> Result<bucket::Config, ConfigError> {
    let url = s.text("tidemark.bucket").ok_or_else(|| {
        ConfigError(
            "tidemark.bucket is not set; say where the log lives, for example tidemark.bucket=file:///var/lib/tidemark \
             or tidemark.bucket=s3://bucket/prefix"
                .into(),
        )
    })?;
    let price = s.text("tidemark.bucket.price");
    let config = bucket::Config {
        endpoint: s.text("tidemark.bucket.endpoint"),
        region: s.text("tidemark.bucket.region"),
        path_style: s.text("tidemark.bucket.path.style").map(|word| word == "true"),
        access_key: s.text("tidemark.bucket.access.key"),
        secret_key: s.text("tidemark.bucket.secret.key").map(Secret::from),
        session_token: s.text("tidemark.bucket.session.token").map(Secret::from),
        price: price.and_then(|name| Prices::ALL.into_iter().find(|table| table.name() == name)),
        attempt: millis(s, "tidemark.bucket.attempt.ms"),
        ..bucket::Config::new(url)
    };
    config.check().map_err(|error| ConfigError(format!("tidemark.bucket: {error}")))?;
    Ok(config)
}

fn wal(s: &Settings) -> Wal {
    Wal {
        put_rate: s.text("tidemark.wal.put.rate").and_then(|rate| rate.parse().ok()),
        parcel_bytes: s.count("tidemark.wal.parcel.bytes"),
        window: s.count("tidemark.wal.window"),
        unacked_bytes: s.count("tidemark.wal.unacked.bytes"),
        target: millis(s, "tidemark.produce.target.p99"),
    }
}

fn timings(s: &Settings) -> Timings {
    Timings {
        heartbeat: millis(s, "tidemark.heartbeat.ms"),
        session: millis(s, "tidemark.session.ms"),
        controller_lease: millis(s, "tidemark.controller.lease.ms"),
        skew: millis(s, "tidemark.skew.ms"),
        election_wait: millis(s, "tidemark.election.wait.ms"),
        ack_doubt: millis(s, "tidemark.ack.doubt.ms"),
        stuck: millis(s, "tidemark.stuck.ms"),
        moving: millis(s, "tidemark.move.timeout.ms"),
        balance: s.flag("auto.leader.rebalance.enable").then(|| millis(s, "tidemark.balance.ms")),
        delete_grace: millis(s, "tidemark.delete.grace.ms"),
    }
}

fn cleaner(s: &Settings) -> Cleaner {
    Cleaner {
        enable: s.flag("log.cleaner.enable"),
        backoff: millis(s, "log.cleaner.backoff.ms"),
        memory_bytes: s.count("log.cleaner.dedupe.buffer.size"),
    }
}

fn group(s: &Settings) -> Result<Group, ConfigError> {
    let (low, high) = (millis(s, "group.min.session.timeout.ms"), millis(s, "group.max.session.timeout.ms"));
    if low > high {
        return Err(ConfigError(
            "group.min.session.timeout.ms is above group.max.session.timeout.ms; lower the first or raise the second"
                .into(),
        ));
    }
    Ok(Group {
        session_timeout: low..=high,
        initial_rebalance_delay: millis(s, "group.initial.rebalance.delay.ms"),
        size_max: s.count("group.max.size"),
        offset_metadata_bytes_max: s.count("offset.metadata.max.bytes"),
        offsets_retention: Duration::from_secs(60 * s.count("offsets.retention.minutes") as u64),
        offsets_check: millis(s, "offsets.retention.check.interval.ms"),
        offsets_partitions: int(s.number("offsets.topic.num.partitions")),
        offsets_replication: short(s.number("offsets.topic.replication.factor")),
        offsets_segment_bytes: int(s.number("offsets.topic.segment.bytes")),
    })
}

fn resolve(key: &str, text: &str) -> Result<SocketAddr, ConfigError> {
    let found = text.to_socket_addrs().ok().and_then(|mut found| found.next());
    found.ok_or_else(|| {
        ConfigError(format!(
            "{key}: '{text}' is not host:port of this machine; write for example 127.0.0.1:9464"
        ))
    })
}

/// A UUID, written as such or in the 22 letters that Kafka's tools show.
fn cluster_id(text: &str) -> Result<ClusterId, ConfigError> {
    Uuid::try_parse(text).ok().or_else(|| short_id::from_letters(text)).map(ClusterId).ok_or_else(|| {
        ConfigError(format!("cluster.id: '{text}' is no UUID, neither with dashes nor in 22 letters"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broker(sets: &[&str]) -> Result<Broker, String> {
        let mut all = vec!["tidemark.bucket=memory:".to_owned()];
        all.extend(sets.iter().map(|s| (*s).to_owned()));
        Broker::new(Settings::load(None, &all).unwrap()).map_err(|e| e.0)
    }

    #[test]
    fn set_alone_is_enough() {
        let broker = broker(&["node.id=7", "log.dirs=/a,/b", "queued.max.request.bytes=1000"]).unwrap();
        assert_eq!(broker.node_id, Some(BrokerId(7)));
        assert_eq!(broker.log_dirs.len(), 2);
        assert_eq!(broker.limits.queued_bytes_max, 1000);
        assert_eq!(broker.warnings(), Vec::<String>::new());
    }

    #[test]
    fn defaults_are_a_broker_with_an_assigned_id_and_caches_in_memory_only() {
        let broker = broker(&[]).unwrap();
        assert_eq!(broker.node_id, None);
        assert_eq!(broker.limits.queued_bytes_max, 256 << 20);
        assert_eq!((broker.cache.disk_bytes, broker.cache.hot_disk_bytes), (0, 0));
        assert_eq!(broker.topic.retention_ms, 7 * 24 * 3_600_000);
    }

    #[test]
    fn a_missing_bucket_is_one_sentence_with_the_mend() {
        let why = Broker::new(Settings::default()).unwrap_err().0;
        assert!(why.contains("tidemark.bucket is not set") && why.contains("file:///"), "{why}");
    }

    #[test]
    fn what_makes_no_sense_together_is_refused() {
        for (set, word) in [
            ("process.roles=controller", "has nothing to do"),
            ("tidemark.peer.listen=0.0.0.0:7000", "tidemark.peer.secret"),
            ("group.min.session.timeout.ms=3000000", "is above"),
            ("cluster.id=short", "is no UUID"),
            ("tidemark.http.listen=nowhere", "host:port"),
            ("tidemark.bucket=http://x", "tidemark.bucket: The bucket URL scheme 'http' is not known"),
            ("max.connections.per.ip.overrides=x", "address:number"),
        ] {
            let why = broker(&[set]).unwrap_err();
            assert!(why.contains(word), "{set}: {why}");
        }
    }

    #[test]
    fn an_admin_is_told_what_has_no_effect_and_what_is_open() {
        let sets =
            ["listeners=PLAINTEXT://:9092", "num.io.threads=9", "tidemark.gateway.listen=0.0.0.0:50051"];
        let warnings = broker(&sets).unwrap().warnings();
        assert!(warnings.iter().any(|w| w.contains("anyone who reaches it may write")), "{warnings:?}");
        assert!(
            warnings.iter().any(|w| w.starts_with("num.io.threads: accepted, no effect")),
            "{warnings:?}"
        );
        assert!(warnings.iter().any(|w| w.contains("reachable from other machines")), "{warnings:?}");
    }

    #[test]
    fn cluster_ids_are_read_in_both_spellings() {
        let dashed = "4f2c9b4e-2f0d-4e5c-9a52-0d6c0f5b2a11";
        let id = cluster_id(dashed).unwrap();
        assert_eq!(cluster_id(&short_id::to_letters(id.0)).unwrap(), id);
    }
}
