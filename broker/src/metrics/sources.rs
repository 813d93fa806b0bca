//! Sources: how the parts of a broker show what they know.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use tidemark_proto::id::{BrokerId, TopicId};
use tidemark_tiering::bucket::{Bucket, Kind, MeterRow, Outcome, Seconds, Verb};

use super::Samples;
use crate::api::fetch::budget::Budget;
use crate::cluster::Image;
use crate::group::members::Phase;
use crate::ledger::Counts;
use crate::near;
use crate::partition::fetching::Fetching;
use crate::partition::{Row, Vitals};
use crate::server::Server;
use crate::upkeep::offload::is_tiered;

/// The bucket's requests, bytes, dollars and times.
pub fn bucket(bucket: &Bucket, into: &mut Samples) {
    let rows = bucket.meter();
    meter(&rows, into);
    traffic(&rows, into);
    flushes(&rows, into);
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

/// Reads near the reader, from both sides.
pub fn near(counts: near::Counts, into: &mut Samples) {
    for (name, value) in [
        ("tidemark_near_sent", counts.sent),
        ("tidemark_near_reads", counts.served),
        ("tidemark_near_bytes", counts.served_bytes),
        ("tidemark_near_plans_asked", counts.asked),
        ("tidemark_near_plans_unanswered", counts.unanswered),
        ("tidemark_near_plans_given", counts.answered),
    ] {
        into.set(name, value as f64);
    }
}

/// The runs that the metadata names.
pub fn runs(image: &Image, into: &mut Samples) {
    let mut levels = std::collections::BTreeMap::from([(0, (0_u64, 0_u64))]);
    for run in image.runs() {
        let (count, bytes) = levels.entry(run.level).or_default();
        (*count, *bytes) = (*count + 1, *bytes + run.bytes);
    }
    for (level, (count, bytes)) in levels {
        let labels = || vec![("level", level.to_string())];
        into.add("tidemark_runs", labels(), count as f64);
        into.add("tidemark_runs_bytes", labels(), bytes as f64);
    }
}

/// The bucket as Kafka's remote storage: what goes there, what comes back.
fn traffic(rows: &[MeterRow], into: &mut Samples) {
    let unclear =
        |row: &&MeterRow| matches!(row.outcome, Outcome::Timeout | Outcome::Unknown | Outcome::Refused);
    let of = |verb| rows.iter().filter(move |row| row.verb == verb);
    let requests = |verb| of(verb).map(|row| row.attempts).sum::<u64>() as f64;
    let errors = |verb| of(verb).filter(unclear).map(|row| row.attempts).sum::<u64>() as f64;
    let bytes = |verb| of(verb).map(|row| row.bytes).sum::<u64>() as f64;
    for (name, value) in [
        ("kafka_server_brokertopicmetrics_remotecopybytes", bytes(Verb::Put)),
        ("kafka_server_brokertopicmetrics_remotecopyrequests", requests(Verb::Put)),
        ("kafka_server_brokertopicmetrics_remotecopyerrors", errors(Verb::Put)),
        ("kafka_server_brokertopicmetrics_remotefetchbytes", bytes(Verb::Get)),
        ("kafka_server_brokertopicmetrics_remotefetchrequests", requests(Verb::Get)),
        ("kafka_server_brokertopicmetrics_remotefetcherrors", errors(Verb::Get)),
        ("kafka_server_brokertopicmetrics_remotedeleterequests", requests(Verb::Delete)),
        ("kafka_server_brokertopicmetrics_remotedeleteerrors", errors(Verb::Delete)),
    ] {
        into.set(name, value);
    }
}

/// PUTs of parcels are what a flush is to Kafka. Quantiles are the upper bounds of their buckets.
fn flushes(rows: &[MeterRow], into: &mut Samples) {
    let mut counts = [0_u64; Seconds::BOUNDS.len() + 1];
    for row in rows.iter().filter(|row| (row.kind, row.verb) == (Kind::Parcel, Verb::Put)) {
        counts.iter_mut().zip(row.seconds.counts).for_each(|(sum, more)| *sum += more);
    }
    let all: u64 = counts.iter().sum();
    for (quantile, share) in [("0.50", 0.5), ("0.95", 0.95), ("0.99", 0.99), ("0.999", 0.999)] {
        let wanted = (all as f64 * share).ceil() as u64;
        let mut seen = 0;
        let at = counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        let bound = match (all, at.and_then(|at| Seconds::BOUNDS.get(at))) {
            (0, _) => 0.0,
            (_, Some(bound)) => bound * 1000.0,
            (_, None) => f64::INFINITY,
        };
        let labels = vec![("quantile", quantile.to_owned())];
        into.add("kafka_log_logflushstats_logflushrateandtimems", labels, bound);
    }
    into.set("kafka_log_logflushstats_logflushrateandtimems_count", all as f64);
}

/// What a cluster without replicas and conversions has to say of them.
pub fn constants(into: &mut Samples) {
    for name in [
        "kafka_server_brokertopicmetrics_producemessageconversions",
        "kafka_server_brokertopicmetrics_fetchmessageconversions",
        "kafka_server_brokertopicmetrics_replicationbytesin",
        "kafka_server_brokertopicmetrics_replicationbytesout",
        "kafka_server_brokertopicmetrics_reassignmentbytesin",
        "kafka_server_brokertopicmetrics_reassignmentbytesout",
        "kafka_server_replicamanager_isrshrinks",
        "kafka_server_replicamanager_isrexpands",
        "kafka_controller_controllerstats_uncleanleaderelections",
        "kafka_server_replicamanager_atminisrpartitioncount",
        "kafka_server_replicamanager_reassigningpartitions",
    ] {
        into.set(name, 0.0);
    }
    into.set("kafka_server_kafkaserver_brokerstate", 3.0);
}

/// The lane, and its partitions together.
pub fn vitals(vitals: &Vitals, into: &mut Samples) {
    let Vitals { lane, parked, opening, offline } = vitals;
    into.set("tidemark_lane_in_flight", lane.in_flight as f64);
    into.set("tidemark_lane_unacked_bytes", lane.unacked_bytes as f64);
    into.set("tidemark_lane_parcels", lane.committed as f64);
    into.set("tidemark_lane_hedges", lane.hedges as f64);
    into.set("tidemark_lane_parcels_above_low", lane.above_low as f64);
    into.set("tidemark_lane_longest_wait_seconds", lane.longest_wait.as_secs_f64());
    into.set("tidemark_partitions_opening", *opening as f64);
    into.set("kafka_server_replicamanager_offlinereplicacount", *offline as f64);
    let labels = vec![("delayedOperation", "Produce".to_owned())];
    into.add("kafka_server_delayedoperationpurgatory_purgatorysize", labels, *parked as f64);
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
    for phase in Phase::ALL {
        let labels = vec![("state", phase.name().to_owned())];
        into.add("kafka_server_group_coordinator_metrics_consumer_group_count", labels, of(phase));
    }
    into.set("kafka_server_group_coordinator_metrics_offset_commit_count", counts.commits as f64);
    let rebalances = counts.rebalances as f64;
    into.set("kafka_server_group_coordinator_metrics_group_completed_rebalance_count", rebalances);
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
pub fn cluster(image: &Image, node: BrokerId, is_controller: bool, healthy: bool, into: &mut Samples) {
    let led = f64::from(image.led(node));
    into.set("kafka_server_replicamanager_partitioncount", led);
    into.set("kafka_server_replicamanager_leadercount", led);
    let endangered = if healthy { 0.0 } else { led };
    let lacks = |replicas: &[BrokerId]| image.in_sync(replicas).len() < replicas.len();
    let all = image.topics().flat_map(|topic| &topic.partitions);
    let lacking = all.filter(|p| p.leader == Some(node) && lacks(&p.assigned)).count() as f64;
    into.set("kafka_server_replicamanager_underreplicatedpartitions", endangered.max(lacking));
    into.set("kafka_server_replicamanager_underminisrpartitioncount", endangered);
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

/// The segments of partitions that `node` leads, and what is not in one yet, by topic.
pub fn tier(image: &Image, node: BrokerId, lag: &BTreeMap<TopicId, u64>, into: &mut Samples) {
    for topic in image.topics() {
        let led = || topic.partitions().filter(|(_, p)| p.leader == Some(node) && p.segments.is_some());
        let is_led = topic.partitions.iter().any(|p| p.leader == Some(node));
        if led().next().is_none() && !(is_led && is_tiered(topic)) {
            continue;
        }
        let rows = || led().flat_map(|(_, p)| p.segments().iter());
        let deleting = rows().filter(|row| !row.state.is_readable()).count();
        for (name, value) in [
            ("kafka_server_brokertopicmetrics_remotelogsizebytes", rows().map(|row| row.bytes).sum::<u64>()),
            ("kafka_server_brokertopicmetrics_remotelogmetadatacount", rows().count() as u64),
            ("kafka_server_brokertopicmetrics_remotecopylagbytes", lag.get(&topic.id).copied().unwrap_or(0)),
            ("kafka_server_brokertopicmetrics_remotedeletelagsegments", deleting as u64),
        ] {
            into.add(name, vec![("topic", topic.name.to_string())], value as f64);
        }
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
        samples.add("kafka_log_log_numlogsegments", labels(), row.extents as f64);
        let replicas = image.replicas(topic, row.tp.partition).len();
        samples.add("kafka_cluster_partition_replicascount", labels(), replicas as f64);
        samples.add("kafka_cluster_partition_underminisr", labels(), 0.0);
        samples.add("kafka_cluster_partition_atminisr", labels(), 0.0);
    }
    samples.set("kafka_server_replicamanager_produceridcount", producers as f64);
    let labels = vec![("delayedOperation", "Fetch".to_owned())];
    samples.add("kafka_server_delayedoperationpurgatory_purgatorysize", labels, waiting as f64);
    samples
}
