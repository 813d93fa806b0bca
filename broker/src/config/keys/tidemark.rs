//! Our own keys of a broker: everything `tidemark.*`.

use crate::config::table::Kind::{Bool, Double, Int, Long, Password, Text};
use crate::config::table::{Key, key, unset};

/// The rows.
pub const KEYS: &[Key] = &[
    unset(
        "tidemark.bucket",
        Text,
        "Where the log lives: file:///dir, s3://bucket/prefix, gs://…, az://… or memory:.",
    ),
    unset(
        "tidemark.bucket.endpoint",
        Text,
        "Address of an object store of your own, such as http://127.0.0.1:9000.",
    ),
    unset("tidemark.bucket.region", Text, "Region of the bucket, where the store has any."),
    unset(
        "tidemark.bucket.path.style",
        Bool,
        "Whether the bucket's name goes into the path; by default with an endpoint.",
    ),
    unset(
        "tidemark.bucket.access.key",
        Text,
        "Access key (S3) or account (Azure); by default the cloud's usual variables.",
    ),
    unset(
        "tidemark.bucket.secret.key",
        Password,
        "Secret of the access key; by default the cloud's usual variables.",
    ),
    unset("tidemark.bucket.session.token", Password, "Token of temporary credentials."),
    unset(
        "tidemark.bucket.price",
        Text,
        "Price table of the store; by default from the host, an endpoint is free.",
    )
    .one_of(&["s3", "s3-express", "gcs", "azure", "free"]),
    key(
        "tidemark.bucket.attempt.ms",
        Int,
        "5000",
        "Time for one request to the store, beyond what its bytes need.",
    )
    .between(100, 600_000),
    key(
        "tidemark.http.listen",
        Text,
        "127.0.0.1:0",
        "Address of /metrics, /ready, /live and /cluster; empty for none, port 0 takes a free one and prints it.",
    ),
    unset(
        "tidemark.gateway.listen",
        Text,
        "Address of the gRPC gateway (produce, health, reflection); unset: none, port 0 takes a free one and prints it.",
    ),
    key(
        "tidemark.rack.auto",
        Bool,
        "false",
        "Whether a broker without broker.rack asks its cloud's instance metadata (AWS, Google Cloud, Azure) for its zone.",
    ),
    key(
        "tidemark.peer.listen",
        Text,
        "127.0.0.1:0",
        "Address brokers reach each other at; port 0 takes a free one.",
    ),
    unset(
        "tidemark.peer.advertised",
        Text,
        "Host that other brokers dial; by default the address it listens on.",
    ),
    unset(
        "tidemark.peer.secret",
        Password,
        "Secret brokers share; without one the peer listener must be on loopback.",
    ),
    key(
        "tidemark.produce.target.p99",
        Int,
        "500",
        "Latency (ms) that the write path aims at: bounds how long a parcel stays open.",
    )
    .between(10, 60_000),
    key(
        "tidemark.acks.one",
        Text,
        "bucket",
        "What acks=1 waits for: the bucket, or only the leader (Kafka's own risk).",
    )
    .one_of(&["bucket", "leader"]),
    unset(
        "tidemark.wal.put.rate",
        Double,
        "PUTs a second a lane may spend; by default 8, without bound where they are free.",
    )
    .within(0.1, 100_000.0),
    key("tidemark.wal.parcel.bytes", Int, "4194304", "Size at which a parcel is closed; 8 MiB is cheaper.")
        .between(65_536, 64 << 20),
    key("tidemark.wal.window", Int, "16", "PUTs of a lane in flight.").between(1, 256),
    key(
        "tidemark.wal.unacked.bytes",
        Long,
        "268435456",
        "Bytes of a lane in flight; beyond it producers wait.",
    )
    .at_least(1 << 20),
    key(
        "tidemark.balance.ms",
        Long,
        "10000",
        "Between two looks at whether brokers lead their shares, and after brokers came or went.",
    )
    .at_least(100),
    key(
        "tidemark.drain",
        Bool,
        "false",
        "Set on one broker while it runs: whether it gives its partitions away and gets none. Stays over its restarts.",
    )
    .dynamic(),
    key(
        "tidemark.move.timeout.ms",
        Long,
        "60000",
        "A move of a partition is called off when its next leader takes longer than this to read it, or its leader to let go.",
    )
    .at_least(100),
    key(
        "tidemark.cut.parcels",
        Int,
        "256",
        "Parcels after which a lane's recent ones are sorted into a run.",
    )
    .between(1, 512),
    key(
        "tidemark.cut.bytes",
        Long,
        "1073741824",
        "Bytes after which a lane's recent parcels are sorted into a run.",
    )
    .at_least(1 << 20),
    key("tidemark.cut.ms", Long, "600000", "Time after which a lane's recent parcels are sorted into a run.")
        .at_least(100),
    key("tidemark.offload.bytes", Long, "67108864", "Bytes of a partition of a tiered topic that make a segment.")
        .between(1, 1 << 30),
    key(
        "tidemark.offload.ms",
        Long,
        "1800000",
        "Time after which a quarter of a segment's default size makes one, too.",
    )
    .at_least(1),
    key("tidemark.offload.check.ms", Long, "30000", "Between two looks at what tiered topics have gathered.")
        .at_least(10),
    key("tidemark.cache.memory.bytes", Long, "67108864", "Memory for chunks of the bucket.").at_least(0),
    key(
        "tidemark.cache.disk.bytes",
        Long,
        "10737418240",
        "Disk under log.dirs for chunks of the bucket; used when log.dirs is set.",
    )
    .at_least(0),
    key("tidemark.hot.memory.bytes", Long, "67108864", "Memory for the newest batches of all partitions.")
        .at_least(0),
    key(
        "tidemark.hot.disk.bytes",
        Long,
        "53687091200",
        "Disk under log.dirs for hot segment files; used when log.dirs is set.",
    )
    .at_least(0),
    key("tidemark.read.ahead.bytes", Long, "33554432", "Most that is read ahead for one sequential reader.")
        .at_least(0),
    key(
        "tidemark.fetch.memory.bytes",
        Long,
        "268435456",
        "Bytes of fetch answers being assembled or unread, all connections.",
    )
    .at_least(1 << 20),
    key(
        "tidemark.connection.in.flight",
        Int,
        "64",
        "Requests started and not yet answered on one connection.",
    )
    .between(1, 1024),
    key(
        "tidemark.connection.partial.frame.ms",
        Int,
        "30000",
        "A started request must end, or bring 256 KiB more, in this time.",
    )
    .at_least(100),
    key("tidemark.drain.ms", Int, "20000", "Time a shutdown gives started requests.").at_least(0),
    key("tidemark.heartbeat.ms", Int, "500", "How often a broker renews its session with the controller.")
        .at_least(10),
    key("tidemark.session.ms", Int, "2500", "Silence after which a broker is taken over.").at_least(50),
    key(
        "tidemark.controller.lease.ms",
        Int,
        "1000",
        "How old a controller's proof of ownership may be when it renews sessions.",
    )
    .at_least(10),
    key("tidemark.skew.ms", Int, "200", "Error allowed between the clocks' rates of two brokers.")
        .at_least(0),
    key(
        "tidemark.election.wait.ms",
        Int,
        "500",
        "A candidate's first wait before it seals; doubles with each seal.",
    )
    .at_least(10),
    key(
        "tidemark.ack.doubt.ms",
        Int,
        "60000",
        "A PUT answered later than this is not acknowledged before its lane is proven unsealed.",
    )
    .at_least(100),
    key(
        "tidemark.stuck.ms",
        Int,
        "120000",
        "A PUT in doubt for longer makes the broker seal its lane and start anew.",
    )
    .at_least(100),
    key("tidemark.delete.grace.ms", Long, "600000", "Time between un-naming an object and deleting it.")
        .at_least(0),
    unset("tidemark.wal.bucket", Text, "Another bucket for the lanes.")
        .reject("not built yet; the log lives in tidemark.bucket"),
];
