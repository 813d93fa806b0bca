//! Kafka's keys of a broker that do something here.

use crate::config::table::Kind::{Bool, Class, Double, Int, List, Long, Short, Text};
use crate::config::table::{Key, key, unset};

const NEVER: &str = "9223372036854775807";
const NO_LIMIT: &str = "2147483647";
const NO_CLASSES: &str = "no Java classes are loaded here; remove it";
const MORE_ROLES: &str = "a broker of ours is always both; use broker or broker,controller, or leave it out";

/// The rows.
pub const KEYS: &[Key] = &[
    // Identity.
    key("node.id", Int, "-1", "Number of this broker, unique in the cluster; -1 lets the controller assign one.")
        .at_least(-1)
        .alias("broker.id"),
    unset("broker.rack", Text, "Rack or zone of this broker; replicas are reported spread over racks. See tidemark.rack.auto."),
    unset("replica.selector.class", Class, "With RackAwareReplicaSelector consumers that set client.rack are sent to the replica in their rack, which reads from the bucket; unset: only leaders serve. No other class is known, none is loaded.")
        .one_of(&["org.apache.kafka.common.replica.RackAwareReplicaSelector"]),
    unset("cluster.id", Text, "Id the cluster must have; a bucket of another cluster is refused."),
    key("process.roles", List, "broker,controller", "Roles of the process; both are always there.")
        .list_of(&["broker", "controller"])
        .note(MORE_ROLES),
    // Listeners.
    key("listeners", List, "PLAINTEXT://127.0.0.1:9092", "Listeners as NAME://host:port; port 0 takes a free one. Kafka's default is every address, ours is loopback."),
    unset("advertised.listeners", List, "What clients are told to connect to, by listener; by default the listeners."),
    key("listener.security.protocol.map", Text, "PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL", "Protocol of each listener name; only PLAINTEXT is built yet."),
    unset("controller.listener.names", List, "Listeners for Kafka's controllers; ours need none, so these are left out."),
    // Sockets.
    key("socket.request.max.bytes", Int, "104857600", "Largest request.").at_least(1),
    key("socket.send.buffer.bytes", Int, "-1", "Send buffer of a socket; -1, our default, leaves it to the system, which does better than Kafka's 102400.")
        .at_least(-1),
    key("socket.receive.buffer.bytes", Int, "-1", "Receive buffer of a socket; -1, our default, leaves it to the system.")
        .at_least(-1),
    key("socket.listen.backlog.size", Int, "50", "Connections the kernel queues before they are accepted.").at_least(1),
    key("connections.max.idle.ms", Long, "600000", "Silence after which a connection is closed, also one that does not read its answers.")
        .at_least(1000),
    key("max.connections", Int, NO_LIMIT, "Connections of all listeners.").at_least(0).dynamic(),
    key("max.connections.per.ip", Int, NO_LIMIT, "Connections from one address.").at_least(0).dynamic(),
    key("max.connections.per.ip.overrides", Text, "", "Exceptions to the former, as address:number.").dynamic(),
    key("max.connection.creation.rate", Int, NO_LIMIT, "Connections taken in a second, all listeners; those beyond wait.")
        .at_least(1)
        .dynamic(),
    key("queued.max.request.bytes", Long, "-1", "Bytes of requests in work, all connections; -1: 256 MiB (Kafka: no bound).")
        .at_least(-1),
    // Topics.
    key("num.partitions", Int, "1", "Partitions of a topic that does not say.").at_least(1),
    key("default.replication.factor", Int, "1", "Replication factor of a topic that does not say; reported, the bucket replicates.")
        .at_least(1),
    key("auto.create.topics.enable", Bool, "true", "Whether asking for a topic's metadata creates it."),
    key("delete.topic.enable", Bool, "true", "Whether topics may be deleted."),
    key("max.request.partition.size.limit", Int, "2000", "Partitions one DescribeTopicPartitions answer holds.").at_least(1),
    key("message.max.bytes", Int, "1048588", "Largest batch, as stored.").at_least(0).dynamic(),
    key("compression.type", Text, "producer", "Codec of stored batches; producer keeps what the producer chose.")
        .one_of(&["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"])
        .dynamic(),
    key("compression.gzip.level", Int, "-1", "Level when we compress with gzip; -1 is the codec's own.").between(-1, 9).dynamic(),
    key("compression.lz4.level", Int, "9", "Level when we compress with lz4.")
        .between(1, 17)
        .note("lz4 has one level here, the fast one")
        .dynamic(),
    key("compression.zstd.level", Int, "3", "Level when we compress with zstd.").between(-131_072, 22).dynamic(),
    key("min.insync.replicas", Int, "1", "Replicas that must have a record before acks=all is answered.")
        .at_least(1)
        .note("durability is the bucket's; the value is kept for tools")
        .dynamic(),
    key("unclean.leader.election.enable", Bool, "false", "Whether a replica that lags may lead.")
        .note("no leader ever lags: what was acknowledged is in the bucket")
        .dynamic(),
    // The log.
    key("log.dirs", List, "", "Directories on fast local disks for caches and hot files; none: memory only. They hold no truth and may be wiped.")
        .map("cache directories: the log is in tidemark.bucket")
        .alias("log.dir"),
    key("log.retention.hours", Int, "168", "Age at which data is deleted, in hours; the finer keys win.").at_least(-1),
    unset("log.retention.minutes", Int, "Age at which data is deleted, in minutes.").at_least(-1),
    unset("log.retention.ms", Long, "Age at which data is deleted, in milliseconds; -1: never.").at_least(-1).dynamic(),
    key("log.retention.bytes", Long, "-1", "Bytes a partition may hold before old segments go; -1: no bound.")
        .at_least(-1)
        .dynamic(),
    key("log.retention.check.interval.ms", Long, "300000", "How often retention is looked at.").at_least(1),
    key("log.roll.hours", Int, "168", "Age at which a segment is closed, in hours.").at_least(1),
    unset("log.roll.ms", Long, "Age at which a segment is closed, in milliseconds.").at_least(1).dynamic(),
    key("log.roll.jitter.hours", Int, "0", "Random part of log.roll.hours.").at_least(0),
    unset("log.roll.jitter.ms", Long, "Random part of log.roll.ms.").at_least(0).dynamic(),
    key("log.segment.bytes", Int, "1073741824", "Size at which a segment is closed.").at_least(1 << 20).dynamic(),
    key("log.segment.delete.delay.ms", Long, "60000", "Least time between un-naming an object and deleting it.")
        .at_least(0)
        .map("grace before a bucket object is deleted, never below tidemark.delete.grace.ms")
        .dynamic(),
    key("log.cleanup.policy", List, "delete", "What happens to old data: delete it, compact it by key, or both.")
        .list_of(&["delete", "compact"])
        .dynamic(),
    key("log.cleaner.delete.retention.ms", Long, "86400000", "How long a compacted topic keeps tombstones and markers.")
        .at_least(0)
        .dynamic(),
    key("log.cleaner.max.compaction.lag.ms", Long, NEVER, "Longest a record of a compacted topic may escape compaction.")
        .at_least(1)
        .dynamic(),
    key("log.cleaner.min.compaction.lag.ms", Long, "0", "Shortest time a record of a compacted topic stays as it is.")
        .at_least(0)
        .dynamic(),
    key("log.cleaner.min.cleanable.ratio", Double, "0.5", "Share of uncompacted data at which compaction starts.")
        .within(0.0, 1.0)
        .dynamic(),
    key("log.cleaner.enable", Bool, "true", "Whether compacted topics are compacted; one broker does it for all."),
    key("log.cleaner.backoff.ms", Long, "15000", "Least time between two looks for something to compact.")
        .at_least(0)
        .dynamic(),
    key("log.cleaner.dedupe.buffer.size", Long, "134217728", "Bytes of memory for the newest offset of each key, 32 to 64 a key.")
        .at_least(1 << 20)
        .dynamic(),
    key("log.index.interval.bytes", Int, "4096", "Bytes of log between two entries of its sparse index.").at_least(0).dynamic(),
    key("log.local.retention.bytes", Long, "-2", "Bytes of a partition kept on the broker's disk; -2: as log.retention.bytes.")
        .at_least(-2)
        .map("bounds the hot tier; the bucket keeps everything up to retention")
        .dynamic(),
    key("log.local.retention.ms", Long, "-2", "Time a partition's data stays on the broker's disk; -2: as log.retention.ms.")
        .at_least(-2)
        .map("bounds the hot tier; the bucket keeps everything up to retention")
        .dynamic(),
    key("log.message.timestamp.type", Text, "CreateTime", "Whether a record's time is the producer's or the log's.")
        .one_of(&["CreateTime", "LogAppendTime"])
        .dynamic(),
    key("log.message.timestamp.after.max.ms", Long, "3600000", "How far a record's time may lie ahead of the broker's.")
        .at_least(0)
        .dynamic(),
    key("log.message.timestamp.before.max.ms", Long, NEVER, "How far a record's time may lie behind the broker's.")
        .at_least(0)
        .dynamic(),
    key("remote.log.storage.system.enable", Bool, "true", "Whether tiered storage is there: always; reported true, Kafka's default is false."),
    // Producers, fetches.
    key("producer.id.expiration.ms", Int, "86400000", "How long a producer's last sequence is remembered.").at_least(1).dynamic(),
    key("fetch.max.bytes", Int, "57671680", "Most a fetch is answered with.").at_least(1024),
    key("max.incremental.fetch.session.cache.slots", Int, "1000", "Fetch sessions kept.").at_least(0),
    // Quotas.
    key("quota.window.num", Int, "11", "Samples over which a client's rate is measured; what they allow but one may be used at once.")
        .at_least(1),
    key("quota.window.size.seconds", Int, "1", "Seconds one such sample spans.").at_least(1),
    // Groups.
    key("offsets.retention.minutes", Int, "10080", "How long offsets of a group without members are kept.").at_least(1),
    key("offsets.retention.check.interval.ms", Long, "600000", "How often expired offsets are looked for.").at_least(1),
    key("offsets.topic.num.partitions", Int, "50", "Partitions of __consumer_offsets; never change it later.").at_least(1),
    key("offsets.topic.replication.factor", Short, "3", "Replication factor reported for __consumer_offsets.").at_least(1),
    key("offsets.topic.segment.bytes", Int, "104857600", "Segment size of __consumer_offsets.").at_least(1),
    key("offset.metadata.max.bytes", Int, "4096", "Longest text a client may commit with an offset.").at_least(0),
    key(
        "auto.leader.rebalance.enable",
        Bool,
        "true",
        "Whether partitions move by themselves: to their preferred leaders, and to brokers that lead fewer.",
    ),
    key("group.initial.rebalance.delay.ms", Int, "3000", "How long an empty group waits for more members.").at_least(0),
    key("group.min.session.timeout.ms", Int, "6000", "Shortest session timeout a member may ask for.").at_least(1),
    key("group.max.session.timeout.ms", Int, "1800000", "Longest session timeout a member may ask for.").at_least(1),
    key("group.max.size", Int, NO_LIMIT, "Members one group may have.").at_least(1),
    // Refused, because running without them would mean something else than the file says.
    key("authorizer.class.name", Text, "", "Kafka's authorizer.")
        .reject("ACLs are not built yet; remove it only if every client may do everything"),
    unset("create.topic.policy.class.name", Class, "Policy for new topics.").reject(NO_CLASSES),
    unset("alter.config.policy.class.name", Class, "Policy for configs.").reject(NO_CLASSES),
    unset("client.quota.callback.class", Class, "Custom quotas.").reject(NO_CLASSES),
];
