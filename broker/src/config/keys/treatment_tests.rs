//! What becomes of each key that an administrator sets: one line of these tables is one promise.

use std::collections::BTreeSet;

use super::*;
use crate::config::table::Treatment;

/// `honour` (what Kafka does, or a thing of ours that serves the same purpose), `note` (accepted, reported, no effect) or
/// `reject`; name, type, Kafka's default (`-` for none).
const TOPIC: &str = "
honour cleanup.policy list delete
honour compression.type string producer
honour compression.gzip.level int -1
note   compression.lz4.level int 9
honour compression.zstd.level int 3
honour delete.retention.ms long 86400000
honour file.delete.delay.ms long 60000
note   flush.messages long 9223372036854775807
note   flush.ms long 9223372036854775807
note   follower.replication.throttled.replicas list
honour index.interval.bytes int 4096
note   leader.replication.throttled.replicas list
honour local.retention.bytes long -2
honour local.retention.ms long -2
honour max.compaction.lag.ms long 9223372036854775807
honour max.message.bytes int 1048588
honour message.timestamp.after.max.ms long 3600000
honour message.timestamp.before.max.ms long 9223372036854775807
honour message.timestamp.type string CreateTime
honour min.cleanable.dirty.ratio double 0.5
honour min.compaction.lag.ms long 0
note   min.insync.replicas int 1
note   preallocate boolean false
reject remote.log.copy.disable boolean false
reject remote.log.delete.on.disable boolean false
honour remote.storage.enable boolean false
honour retention.bytes long -1
honour retention.ms long 604800000
honour segment.bytes int 1073741824
note   segment.index.bytes int 10485760
honour segment.jitter.ms long 0
honour segment.ms long 604800000
note   unclean.leader.election.enable boolean false
";

/// The same of `server.properties`; what waits for transactions, security and compaction is not here yet.
const BROKER: &str = "
honour node.id int -1
honour broker.rack string -
honour replica.selector.class class -
note   process.roles list broker,controller
honour advertised.listeners list -
honour controller.listener.names list -
note   inter.broker.listener.name string -
note   early.start.listeners list -
note   controller.quorum.voters list
note   controller.quorum.bootstrap.servers list
note   num.network.threads int 3
note   num.io.threads int 8
note   background.threads int 10
note   queued.max.requests int 500
honour queued.max.request.bytes long -1
honour socket.request.max.bytes int 104857600
honour socket.listen.backlog.size int 50
honour connections.max.idle.ms long 600000
honour max.connections int 2147483647
honour max.connections.per.ip int 2147483647
honour max.connections.per.ip.overrides string
honour max.connection.creation.rate int 2147483647
honour num.partitions int 1
honour default.replication.factor int 1
honour auto.create.topics.enable boolean true
honour delete.topic.enable boolean true
note   min.insync.replicas int 1
honour message.max.bytes int 1048588
honour compression.type string producer
reject create.topic.policy.class.name class -
reject alter.config.policy.class.name class -
honour log.retention.hours int 168
honour log.retention.minutes int -
honour log.retention.ms long -
honour log.retention.bytes long -1
honour log.retention.check.interval.ms long 300000
honour log.roll.hours int 168
honour log.roll.ms long -
honour log.segment.bytes int 1073741824
honour log.segment.delete.delay.ms long 60000
honour log.cleanup.policy list delete
honour log.cleaner.min.cleanable.ratio double 0.5
honour log.cleaner.delete.retention.ms long 86400000
honour log.message.timestamp.type string CreateTime
honour log.message.timestamp.before.max.ms long 9223372036854775807
honour log.message.timestamp.after.max.ms long 3600000
honour log.local.retention.ms long -2
honour log.local.retention.bytes long -2
note   log.flush.interval.messages long 9223372036854775807
note   log.flush.interval.ms long -
note   log.flush.scheduler.interval.ms long 9223372036854775807
note   num.recovery.threads.per.data.dir int 2
note   unclean.leader.election.enable boolean false
honour auto.leader.rebalance.enable boolean true
note   leader.imbalance.check.interval.seconds long 300
note   num.replica.fetchers int 1
note   replica.fetch.max.bytes int 1048576
note   replica.fetch.wait.max.ms int 500
note   replica.fetch.min.bytes int 1
note   replica.lag.time.max.ms long 30000
honour fetch.max.bytes int 57671680
honour max.incremental.fetch.session.cache.slots int 1000
honour offsets.retention.minutes int 10080
honour offsets.topic.num.partitions int 50
honour offsets.topic.replication.factor short 3
honour offsets.topic.segment.bytes int 104857600
honour offset.metadata.max.bytes int 4096
honour group.initial.rebalance.delay.ms int 3000
honour group.min.session.timeout.ms int 6000
honour group.max.session.timeout.ms int 1800000
honour group.max.size int 2147483647
honour producer.id.expiration.ms int 86400000
note   remote.log.storage.manager.class.name string -
note   remote.log.metadata.manager.class.name string -
note   metric.reporters list -
note   kafka.metrics.reporters list
note   metrics.recording.level string INFO
";

/// The same of groups: taken and told, until their groups are built.
const GROUP: &str = "
note   consumer.assignment.interval.ms int 1000
note   consumer.heartbeat.interval.ms int 5000
note   consumer.session.timeout.ms int 45000
note   share.assignment.interval.ms int 1000
note   share.auto.offset.reset string latest
note   share.delivery.count.limit int 5
note   share.heartbeat.interval.ms int 5000
note   share.isolation.level string read_uncommitted
note   share.partition.max.record.locks int 2000
note   share.record.lock.duration.ms int 30000
note   share.renew.acknowledge.enable boolean true
note   share.session.timeout.ms int 45000
note   streams.assignment.interval.ms int 1000
note   streams.heartbeat.interval.ms int 5000
note   streams.initial.rebalance.delay.ms int 3000
note   streams.num.standby.replicas int 0
note   streams.session.timeout.ms int 45000
";

/// Keys that Kafka's tools set on running brokers, for one or for all: first those that take effect, then those that are
/// only stored and told. Keys of listeners, TLS and SASL wait for security.
const DYNAMIC: [&str; 2] = [
    "log.retention.ms log.retention.bytes log.cleanup.policy log.segment.bytes log.roll.ms log.message.timestamp.type \
     log.message.timestamp.before.max.ms log.message.timestamp.after.max.ms message.max.bytes compression.type \
     compression.gzip.level compression.zstd.level log.cleaner.min.cleanable.ratio \
     log.cleaner.min.compaction.lag.ms log.cleaner.max.compaction.lag.ms log.cleaner.delete.retention.ms \
     log.cleaner.backoff.ms log.cleaner.dedupe.buffer.size \
     max.connections max.connections.per.ip max.connections.per.ip.overrides max.connection.creation.rate \
     producer.id.expiration.ms log.local.retention.ms log.local.retention.bytes log.index.interval.bytes",
    "min.insync.replicas compression.lz4.level log.cleaner.threads log.cleaner.io.max.bytes.per.second num.io.threads \
     num.network.threads num.replica.fetchers num.recovery.threads.per.data.dir background.threads \
     log.flush.interval.messages log.flush.interval.ms leader.replication.throttled.rate \
     follower.replication.throttled.rate replica.alter.log.dirs.io.max.bytes.per.second \
     unclean.leader.election.enable remote.log.manager.copy.max.bytes.per.second \
     remote.log.manager.fetch.max.bytes.per.second group.consumer.assignment.interval.ms log.preallocate \
     log.index.size.max.bytes metric.reporters",
];

fn holds(line: &str, found: fn(&str) -> Option<&'static Key>) -> &'static str {
    let words: Vec<&str> = line.split_whitespace().collect();
    let key = found(words[1]).unwrap_or_else(|| panic!("{line}: not known"));
    let treatment = match key.treatment {
        Treatment::Honour | Treatment::Map(_) => "honour",
        Treatment::Note(_) => "note",
        Treatment::Reject(_) => "reject",
    };
    let default = match words.get(3) {
        Some(&"-") => None,
        default => Some(default.copied().unwrap_or_default()),
    };
    assert_eq!((treatment, key.kind.name(), key.default), (words[0], words[2], default), "{}", words[1]);
    key.name
}

fn lines(table: &'static str) -> impl Iterator<Item = &'static str> {
    table.lines().filter(|line| !line.is_empty())
}

#[test]
fn every_topic_key_of_kafka_is_treated_as_promised_and_there_are_no_others() {
    let told: BTreeSet<&str> = lines(TOPIC).map(|line| holds(line, find_topic)).collect();
    let known: BTreeSet<&str> = topic().iter().map(|key| key.name).collect();
    assert_eq!(told, known);
}

#[test]
fn every_group_key_of_kafka_is_treated_as_promised_and_there_are_no_others() {
    let told: BTreeSet<&str> = lines(GROUP).map(|line| holds(line, find_group)).collect();
    assert_eq!(told, group().iter().map(|key| key.name).collect());
}

#[test]
fn the_broker_keys_that_administrators_set_are_treated_as_promised() {
    let told: BTreeSet<&str> = lines(BROKER).map(|line| holds(line, find_broker)).collect();
    assert_eq!(told.len(), lines(BROKER).count(), "each once");
}

#[test]
fn keys_that_kafka_changes_on_running_brokers_may_be_changed_here() {
    for (names, has_effect) in DYNAMIC.into_iter().zip([true, false]) {
        for name in names.split_whitespace() {
            let key = find_broker(name).unwrap_or_else(|| panic!("{name} is not known"));
            assert!(key.dynamic, "{name}");
            assert_eq!(!matches!(key.treatment, Treatment::Note(_)), has_effect, "{name}");
        }
    }
}
