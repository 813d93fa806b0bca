//! Keys of a topic.

use crate::config::table::Kind::{Bool, Double, Int, List, Long, Text};
use crate::config::table::{Key, Synonym, key};

const fn same(name: &'static str) -> Synonym {
    Synonym { name, times: 1 }
}

const MINUTES: i64 = 60_000;
const HOURS: i64 = 60 * MINUTES;
const NEVER: &str = "9223372036854775807";
const WEEK_MS: &str = "604800000";
const IN_THE_BUCKET: &str = "an acknowledged record is in the bucket already";
const NO_FOLLOWERS: &str = "there are no followers: the bucket replicates";

/// The rows.
pub const KEYS: &[Key] = &[
    key("cleanup.policy", List, "delete", "What happens to old data: delete it, compact it by key, or both.")
        .list_of(&["delete", "compact"])
        .from(&[same("log.cleanup.policy")]),
    key(
        "compression.type",
        Text,
        "producer",
        "Codec of stored batches; producer keeps what the producer chose.",
    )
    .one_of(&["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"])
    .from(&[same("compression.type")]),
    key("compression.gzip.level", Int, "-1", "Level when we compress with gzip; -1 is the codec's own.")
        .between(-1, 9)
        .from(&[same("compression.gzip.level")]),
    key("compression.lz4.level", Int, "9", "Level when we compress with lz4.")
        .between(1, 17)
        .note("lz4 has one level here, the fast one")
        .from(&[same("compression.lz4.level")]),
    key("compression.zstd.level", Int, "3", "Level when we compress with zstd; above 19 as 19.")
        .between(-131_072, 22)
        .from(&[same("compression.zstd.level")]),
    key("delete.retention.ms", Long, "86400000", "How long a compacted topic keeps tombstones and markers.")
        .at_least(0)
        .from(&[same("log.cleaner.delete.retention.ms")]),
    key("file.delete.delay.ms", Long, "60000", "Least time between un-naming an object and deleting it.")
        .at_least(0)
        .map("grace before a bucket object is deleted, never below tidemark.delete.grace.ms")
        .from(&[same("log.segment.delete.delay.ms")]),
    key("flush.messages", Long, NEVER, "Records after which the log is forced to disk.")
        .at_least(1)
        .note(IN_THE_BUCKET)
        .from(&[same("log.flush.interval.messages")]),
    key("flush.ms", Long, NEVER, "Time after which the log is forced to disk.")
        .at_least(0)
        .note(IN_THE_BUCKET)
        .from(&[same("log.flush.interval.ms")]),
    key("follower.replication.throttled.replicas", List, "", "Replicas throttled as followers.")
        .note(NO_FOLLOWERS),
    key("index.interval.bytes", Int, "4096", "Bytes of log between two entries of its sparse index.")
        .at_least(0)
        .from(&[same("log.index.interval.bytes")]),
    key("leader.replication.throttled.replicas", List, "", "Replicas throttled as leaders.")
        .note(NO_FOLLOWERS),
    key(
        "local.retention.bytes",
        Long,
        "-2",
        "Bytes of a partition kept on the broker's disk; -2: retention.bytes.",
    )
    .at_least(-2)
    .map("bounds the hot tier of the topic; the bucket keeps everything up to retention")
    .from(&[same("log.local.retention.bytes")]),
    key(
        "local.retention.ms",
        Long,
        "-2",
        "Time a partition's data stays on the broker's disk; -2: retention.ms.",
    )
    .at_least(-2)
    .map("bounds the hot tier of the topic; the bucket keeps everything up to retention")
    .from(&[same("log.local.retention.ms")]),
    key("max.compaction.lag.ms", Long, NEVER, "Longest a record of a compacted topic may escape compaction.")
        .at_least(1)
        .from(&[same("log.cleaner.max.compaction.lag.ms")]),
    key("max.message.bytes", Int, "1048588", "Largest batch, as stored.")
        .at_least(0)
        .from(&[same("message.max.bytes")]),
    key(
        "message.timestamp.after.max.ms",
        Long,
        "3600000",
        "How far a record's time may lie ahead of the broker's.",
    )
    .at_least(0)
    .from(&[same("log.message.timestamp.after.max.ms")]),
    key(
        "message.timestamp.before.max.ms",
        Long,
        NEVER,
        "How far a record's time may lie behind the broker's.",
    )
    .at_least(0)
    .from(&[same("log.message.timestamp.before.max.ms")]),
    key(
        "message.timestamp.type",
        Text,
        "CreateTime",
        "Whether a record's time is the producer's or the log's.",
    )
    .one_of(&["CreateTime", "LogAppendTime"])
    .from(&[same("log.message.timestamp.type")]),
    key("min.cleanable.dirty.ratio", Double, "0.5", "Share of uncompacted data at which compaction starts.")
        .within(0.0, 1.0)
        .from(&[same("log.cleaner.min.cleanable.ratio")]),
    key("min.compaction.lag.ms", Long, "0", "Shortest time a record of a compacted topic stays as it is.")
        .at_least(0)
        .from(&[same("log.cleaner.min.compaction.lag.ms")]),
    key("min.insync.replicas", Int, "1", "Replicas that must have a record before acks=all is answered.")
        .at_least(1)
        .note("durability is the bucket's; the value is kept for tools")
        .from(&[same("min.insync.replicas")]),
    key("preallocate", Bool, "false", "Whether segment files are allocated in advance.")
        .note("the log is no file")
        .from(&[same("log.preallocate")]),
    key("remote.log.copy.disable", Bool, "false", "Whether copying to the remote tier stops.")
        .reject("all data is in the bucket, none is local only"),
    key(
        "remote.log.delete.on.disable",
        Bool,
        "false",
        "Whether remote data goes when tiering is switched off.",
    )
    .reject("all data is in the bucket; delete the topic instead"),
    key("remote.storage.enable", Bool, "false", "Whether the topic is tiered.")
        .map("data is in the bucket either way; true keeps it there as segments, and lets local.retention.* bound what is hot"),
    key("retention.bytes", Long, "-1", "Bytes a partition may hold before old segments go; -1: no bound.")
        .at_least(-1)
        .from(&[same("log.retention.bytes")]),
    key("retention.ms", Long, WEEK_MS, "Age at which data is deleted; -1: never.").at_least(-1).from(&[
        same("log.retention.ms"),
        Synonym { name: "log.retention.minutes", times: MINUTES },
        Synonym { name: "log.retention.hours", times: HOURS },
    ]),
    key("segment.bytes", Int, "1073741824", "Size at which a segment is closed.")
        .at_least(1 << 20)
        .map("closes the hot segment, which then becomes one object set in the bucket")
        .from(&[same("log.segment.bytes")]),
    key("segment.index.bytes", Int, "10485760", "Largest index of a segment.")
        .at_least(4)
        .note("an index is as large as it needs to be")
        .from(&[same("log.index.size.max.bytes")]),
    key("segment.jitter.ms", Long, "0", "Random part of segment.ms, so that segments do not close together.")
        .at_least(0)
        .from(&[same("log.roll.jitter.ms"), Synonym { name: "log.roll.jitter.hours", times: HOURS }]),
    key("segment.ms", Long, WEEK_MS, "Age at which a segment is closed.")
        .at_least(1)
        .map("closes the hot segment, which then becomes one object set in the bucket")
        .from(&[same("log.roll.ms"), Synonym { name: "log.roll.hours", times: HOURS }]),
    key("unclean.leader.election.enable", Bool, "false", "Whether a replica that lags may lead.")
        .note("no leader ever lags: what was acknowledged is in the bucket")
        .from(&[same("unclean.leader.election.enable")]),
];

/// Keys of older Kafkas, accepted with a warning and not reported.
pub const LEGACY: &[&str] =
    &["message.format.version", "message.downconversion.enable", "message.timestamp.difference.max.ms"];
