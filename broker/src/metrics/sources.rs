//! Sources: how the parts of a broker show what they know.

use std::sync::atomic::Ordering::Relaxed;

use tidemark_proto::id::BrokerId;
use tidemark_tiering::bucket::{Bucket, MeterRow, Seconds};

use super::Samples;
use crate::api::fetch::budget::Budget;
use crate::cluster::Image;
use crate::group::members::Phase;
use crate::ledger::Counts;
use crate::partition::Row;
use crate::partition::fetching::Fetching;
use crate::server::Server;

/// The bucket's requests, bytes, dollars and times.
pub fn bucket(bucket: &Bucket, into: &mut Samples) {
    meter(&bucket.meter(), into);
    let well = bucket.health().is_well();
    into.set("tidemark_bucket_healthy", f64::from(u8::from(well)));
    into.set("kafka_log_logmanager_offlinelogdirectorycount", f64::from(u8::from(!well)));
}

fn meter(rows: &[MeterRow], into: &mut Samples) {
    for row in rows {
        let labels = || {
            vec![
                ("kind", format!("{:?}", row.kind).to_lowercase()),
                ("verb", format!("{:?}", row.verb).to_lowercase()),
                ("outcome", format!("{:?}", row.outcome).to_lowercase()),
            ]
        };
        into.add("tidemark_bucket_requests", labels(), row.attempts as f64);
        into.add("tidemark_bucket_bytes", labels(), row.bytes as f64);
        into.add("tidemark_bucket_dollars", labels(), row.dollars);
        let bounds = Seconds::BOUNDS.into_iter().chain([f64::MAX]);
        let buckets = bounds.zip(row.seconds.counts).collect();
        into.histogram("tidemark_bucket_request_seconds", labels(), row.seconds.sum, buckets);
    }
}

/// The read path: chunk cache, hot segments, memory of answers.
pub fn reads(fetching: &Fetching, memory: &Budget, into: &mut Samples) {
    let cache = fetching.reader().cache();
    let (stats, hot) = (cache.stats(), fetching.hot().stats());
    for (place, hits) in [("memory", stats.memory_hits), ("disk", stats.disk_hits)] {
        into.add("tidemark_cache_hits", vec![("place", place.to_owned())], hits as f64);
    }
    for (name, value) in [
        ("tidemark_cache_misses", stats.misses),
        ("tidemark_cache_damaged", stats.damaged),
        ("tidemark_cache_memory_bytes", stats.memory_bytes),
        ("tidemark_cache_alarm", u64::from(cache.alarm().is_some())),
        ("tidemark_hot_bytes", hot.bytes),
        ("tidemark_hot_segments", hot.segments),
        ("tidemark_hot_hits", hot.hits),
        ("tidemark_hot_misses", hot.misses),
        ("tidemark_hot_written_bytes", hot.written),
        ("tidemark_hot_skipped_batches", hot.skipped),
        ("tidemark_hot_alarm", u64::from(fetching.hot().alarm().is_some())),
        ("tidemark_fetch_memory_bytes", memory.used() as u64),
        ("tidemark_fetch_memory_waits", memory.waits()),
    ] {
        into.set(name, value as f64);
    }
}

/// The groups coordinated here.
pub fn groups(counts: &Counts, into: &mut Samples) {
    const NUM: &str = "kafka_coordinator_group_groupmetadatamanager_numgroups";
    let of = |phase| counts.groups.get(&phase).copied().unwrap_or(0) as f64;
    let all: f64 = Phase::ALL.into_iter().map(of).sum();
    into.add(
        "kafka_server_group_coordinator_metrics_group_count",
        vec![("protocol", "classic".to_owned())],
        all,
    );
    into.set(NUM, all);
    for (phase, name) in [
        (Phase::Stable, "kafka_coordinator_group_groupmetadatamanager_numgroupsstable"),
        (Phase::Empty, "kafka_coordinator_group_groupmetadatamanager_numgroupsempty"),
        (Phase::Dead, "kafka_coordinator_group_groupmetadatamanager_numgroupsdead"),
        (
            Phase::PreparingRebalance,
            "kafka_coordinator_group_groupmetadatamanager_numgroupspreparingrebalance",
        ),
        (
            Phase::CompletingRebalance,
            "kafka_coordinator_group_groupmetadatamanager_numgroupscompletingrebalance",
        ),
    ] {
        into.set(name, of(phase));
    }
    into.set("kafka_coordinator_group_groupmetadatamanager_numoffsets", counts.offsets as f64);
}

/// The network edge.
pub fn server(server: &Server, into: &mut Samples) {
    for (listener, count) in server.connections_by_listener() {
        let labels = vec![("listener", listener.to_string()), ("networkProcessor", "0".to_owned())];
        into.add("kafka_server_socket_server_metrics_connection_count", labels, count as f64);
    }
    let counts = server.counts();
    for (name, count) in [
        ("kafka_server_socket_server_metrics_connection_creation", &counts.accepted),
        ("kafka_network_socketserver_expiredconnectionskilledcount", &counts.expired),
        ("tidemark_connections_refused", &counts.refused),
        ("tidemark_connections_protocol_error", &counts.protocol_errors),
    ] {
        into.set(name, count.load(Relaxed) as f64);
    }
    into.set("tidemark_request_bytes_queued", server.queued_bytes() as f64);
    into.set("tidemark_answer_bytes_unread", server.unread_bytes() as f64);
}

/// The cluster as this broker (`node`) knows it.
pub fn cluster(image: &Image, node: BrokerId, is_controller: bool, into: &mut Samples) {
    let led = f64::from(image.led(node));
    into.set("kafka_server_replicamanager_partitioncount", led);
    into.set("kafka_server_replicamanager_leadercount", led);
    into.set("kafka_server_replicamanager_atminisrpartitioncount", 0.0);
    into.set("kafka_server_replicamanager_reassigningpartitions", 0.0);
    into.set("kafka_controller_kafkacontroller_activecontrollercount", f64::from(u8::from(is_controller)));
    let (mut topics, mut partitions, mut leaderless) = (0, 0, 0);
    for topic in image.topics() {
        topics += 1;
        partitions += topic.partitions.len();
        leaderless += topic.partitions.iter().filter(|partition| partition.leader.is_none()).count();
    }
    let (alive, dead) = image.brokers().fold((0, 0), |(alive, dead), broker| match broker.alive {
        true => (alive + 1, dead),
        false => (alive, dead + 1),
    });
    for (name, value) in [
        ("kafka_controller_kafkacontroller_globaltopiccount", topics),
        ("kafka_controller_kafkacontroller_globalpartitioncount", partitions),
        ("kafka_controller_kafkacontroller_offlinepartitionscount", leaderless),
        ("kafka_controller_kafkacontroller_activebrokercount", alive),
        ("kafka_controller_kafkacontroller_fencedbrokercount", dead),
    ] {
        into.set(name, value as f64);
    }
}

/// The log of every partition this broker leads.
pub fn partitions(image: &Image, rows: &[Row]) -> Samples {
    let mut samples = Samples::default();
    let (mut producers, mut waiting) = (0, 0);
    for row in rows {
        producers += row.producers;
        waiting += row.waiting;
        let Some(topic) = image.topic(row.tp.topic) else { continue };
        let labels = || vec![("topic", topic.name.to_string()), ("partition", row.tp.partition.to_string())];
        samples.add("kafka_log_log_size", labels(), row.stored_bytes as f64);
        samples.add("kafka_log_log_logstartoffset", labels(), row.bounds.log_start.0 as f64);
        samples.add("kafka_log_log_logendoffset", labels(), row.bounds.hw.0 as f64);
    }
    samples.set("kafka_server_replicamanager_produceridcount", producers as f64);
    let labels = vec![("delayedOperation", "Fetch".to_owned())];
    samples.add("kafka_server_delayedoperationpurgatory_purgatorysize", labels, waiting as f64);
    samples
}
