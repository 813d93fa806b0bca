//! Every metric: name, type, help. Kafka's are named as jmx_exporter's stock rules would name them. METRICS.md is made
//! from the rows.

use std::fmt::Write;

/// Type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises; exposed with `_total`.
    Counter,
    /// Goes up and down. Kafka's `_count` and quantiles are gauges too, or their names would change.
    Gauge,
    /// Cumulative buckets.
    Histogram,
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name, without `_total`.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// What it says, with the unit.
    pub help: &'static str,
}

const fn counter(name: &'static str, help: &'static str) -> Row {
    Row { name, kind: Kind::Counter, help }
}

const fn gauge(name: &'static str, help: &'static str) -> Row {
    Row { name, kind: Kind::Gauge, help }
}

const fn histogram(name: &'static str, help: &'static str) -> Row {
    Row { name, kind: Kind::Histogram, help }
}

/// The rows, in the order they are exposed.
pub const ROWS: &[Row] = &[
    // BrokerTopicMetrics: all topics without label, each with one.
    counter("kafka_server_brokertopicmetrics_messagesin", "Records appended"),
    counter("kafka_server_brokertopicmetrics_bytesin", "Bytes of batches appended"),
    counter("kafka_server_brokertopicmetrics_bytesout", "Bytes of batches fetched"),
    counter("kafka_server_brokertopicmetrics_bytesrejected", "Bytes of batches refused"),
    counter("kafka_server_brokertopicmetrics_totalproducerequests", "Produce requests, by topic entry"),
    counter("kafka_server_brokertopicmetrics_totalfetchrequests", "Fetch requests, by topic entry"),
    counter("kafka_server_brokertopicmetrics_failedproducerequests", "Produce entries refused"),
    counter("kafka_server_brokertopicmetrics_failedfetchrequests", "Fetch entries refused"),
    counter(
        "kafka_server_brokertopicmetrics_nokeycompactedtopicrecords",
        "Batches refused for records without key",
    ),
    counter(
        "kafka_server_brokertopicmetrics_invalidmagicnumberrecords",
        "Batches refused for their magic number",
    ),
    counter("kafka_server_brokertopicmetrics_invalidmessagecrcrecords", "Batches refused for their CRC"),
    counter(
        "kafka_server_brokertopicmetrics_invalidoffsetorsequencerecords",
        "Batches refused for offsets or sequences",
    ),
    counter("kafka_server_brokertopicmetrics_producemessageconversions", "Always 0: nothing is converted"),
    counter("kafka_server_brokertopicmetrics_fetchmessageconversions", "Always 0: nothing is converted"),
    counter("kafka_server_brokertopicmetrics_replicationbytesin", "Always 0: the bucket replicates"),
    counter("kafka_server_brokertopicmetrics_replicationbytesout", "Always 0: the bucket replicates"),
    counter("kafka_server_brokertopicmetrics_reassignmentbytesin", "Always 0: ownership moves without data"),
    counter("kafka_server_brokertopicmetrics_reassignmentbytesout", "Always 0: ownership moves without data"),
    counter("kafka_server_brokertopicmetrics_remotecopybytes", "Bytes written to the bucket"),
    counter("kafka_server_brokertopicmetrics_remotecopyrequests", "Writes to the bucket"),
    counter(
        "kafka_server_brokertopicmetrics_remotecopyerrors",
        "Writes to the bucket without a clear answer",
    ),
    counter("kafka_server_brokertopicmetrics_remotefetchbytes", "Bytes read from the bucket"),
    counter("kafka_server_brokertopicmetrics_remotefetchrequests", "Reads from the bucket"),
    counter(
        "kafka_server_brokertopicmetrics_remotefetcherrors",
        "Reads from the bucket without a clear answer",
    ),
    counter("kafka_server_brokertopicmetrics_remotedeleterequests", "Deletes in the bucket"),
    counter(
        "kafka_server_brokertopicmetrics_remotedeleteerrors",
        "Deletes in the bucket without a clear answer",
    ),
    gauge(
        "kafka_server_brokertopicmetrics_remotelogsizebytes",
        "Bytes of the segments of partitions led here",
    ),
    gauge("kafka_server_brokertopicmetrics_remotelogmetadatacount", "Segments of partitions led here"),
    gauge(
        "kafka_server_brokertopicmetrics_remotecopylagbytes",
        "Bytes of tiered topics' partitions led here that no segment holds yet, as of the last look",
    ),
    gauge(
        "kafka_server_brokertopicmetrics_remotedeletelagsegments",
        "Segments of partitions led here whose objects are being deleted",
    ),
    // ReplicaManager.
    gauge("kafka_server_replicamanager_partitioncount", "Partitions on this broker"),
    gauge("kafka_server_replicamanager_leadercount", "Partitions this broker leads"),
    gauge(
        "kafka_server_replicamanager_underreplicatedpartitions",
        "0 while the bucket is reachable, else all",
    ),
    gauge(
        "kafka_server_replicamanager_underminisrpartitioncount",
        "0 while the bucket is reachable, else all",
    ),
    gauge("kafka_server_replicamanager_atminisrpartitioncount", "Always 0: the bucket replicates"),
    gauge("kafka_server_replicamanager_offlinereplicacount", "Partitions whose log is damaged"),
    gauge("kafka_server_replicamanager_reassigningpartitions", "Always 0: ownership moves at once"),
    gauge("kafka_server_replicamanager_produceridcount", "Producer ids remembered"),
    counter("kafka_server_replicamanager_isrshrinks", "Always 0: the bucket replicates"),
    counter("kafka_server_replicamanager_isrexpands", "Always 0: the bucket replicates"),
    gauge("kafka_server_kafkaserver_brokerstate", "3: it runs"),
    gauge("kafka_cluster_partition_replicascount", "Replicas reported of a partition led here"),
    gauge("kafka_cluster_partition_underminisr", "Always 0: the bucket replicates"),
    gauge("kafka_cluster_partition_atminisr", "Always 0: the bucket replicates"),
    // Controller.
    gauge("kafka_controller_kafkacontroller_activecontrollercount", "1 on the controller, else 0"),
    gauge("kafka_controller_kafkacontroller_offlinepartitionscount", "Partitions without a leader"),
    gauge("kafka_controller_kafkacontroller_globaltopiccount", "Topics of the cluster"),
    gauge("kafka_controller_kafkacontroller_globalpartitioncount", "Partitions of the cluster"),
    gauge("kafka_controller_kafkacontroller_activebrokercount", "Brokers alive"),
    gauge("kafka_controller_kafkacontroller_fencedbrokercount", "Brokers known and not alive"),
    counter("kafka_controller_controllerstats_uncleanleaderelections", "Always 0: no leader ever lags"),
    // Requests.
    counter("kafka_network_requestmetrics_requests", "Requests answered, by API and version"),
    counter("kafka_network_requestmetrics_errors", "Error codes in answers, by API and code; NONE too"),
    gauge("kafka_network_requestmetrics_totaltimems", "Milliseconds from arrival to answer, by quantile"),
    gauge("kafka_network_requestmetrics_totaltimems_count", "Requests in totaltimems"),
    gauge(
        "kafka_network_requestmetrics_requestqueuetimems",
        "Milliseconds from arrival to start, by quantile",
    ),
    gauge("kafka_network_requestmetrics_localtimems", "Milliseconds in the ordered first phase, by quantile"),
    gauge(
        "kafka_network_requestmetrics_remotetimems",
        "Milliseconds waiting for the bucket and others, by quantile",
    ),
    gauge(
        "kafka_network_requestmetrics_responsesendtimems",
        "Milliseconds until the socket took it, by quantile",
    ),
    counter("kafka_network_requestmetrics_requestbytes", "Bytes of requests"),
    counter("kafka_network_requestmetrics_responsebytes", "Bytes of answers"),
    // The edge.
    gauge("kafka_server_socket_server_metrics_connection_count", "Open connections, by listener"),
    counter("kafka_server_socket_server_metrics_connection_creation", "Connections accepted"),
    counter("kafka_network_socketserver_expiredconnectionskilledcount", "Connections closed by a deadline"),
    counter("tidemark_connections_refused", "Connections refused by a limit"),
    counter("tidemark_connections_protocol_error", "Connections closed for breaking the protocol"),
    gauge("tidemark_request_bytes_queued", "Bytes of requests being read or worked on"),
    gauge("tidemark_answer_bytes_unread", "Bytes of answers that clients have not taken yet"),
    gauge("kafka_server_delayedoperationpurgatory_purgatorysize", "Parked requests, by kind"),
    gauge("kafka_network_socketserver_networkprocessoravgidle_percent", "Share of time the threads are idle"),
    gauge(
        "kafka_server_kafkarequesthandlerpool_requesthandleravgidle_percent",
        "Share of time the threads are idle",
    ),
    // The log.
    gauge("kafka_log_log_size", "Bytes of a partition"),
    gauge("kafka_log_log_logstartoffset", "First offset of a partition"),
    gauge("kafka_log_log_logendoffset", "High watermark of a partition"),
    gauge("kafka_log_log_numlogsegments", "Extents of a partition"),
    gauge("kafka_log_logmanager_offlinelogdirectorycount", "1 while the bucket cannot be reached"),
    gauge(
        "kafka_log_logflushstats_logflushrateandtimems",
        "Milliseconds of a parcel's PUT, by quantile, since start",
    ),
    gauge("kafka_log_logflushstats_logflushrateandtimems_count", "PUTs of parcels"),
    // Groups.
    gauge("kafka_server_group_coordinator_metrics_group_count", "Groups coordinated here, by protocol"),
    gauge("kafka_server_group_coordinator_metrics_consumer_group_count", "Groups coordinated here, by state"),
    gauge("kafka_server_group_coordinator_metrics_offset_commit_count", "Offsets committed since start"),
    gauge("kafka_server_group_coordinator_metrics_group_completed_rebalance_count", "Rebalances since start"),
    gauge("kafka_coordinator_group_groupmetadatamanager_numgroups", "Groups coordinated here"),
    gauge("kafka_coordinator_group_groupmetadatamanager_numgroupsstable", "Groups at work"),
    gauge("kafka_coordinator_group_groupmetadatamanager_numgroupsempty", "Groups without members"),
    gauge("kafka_coordinator_group_groupmetadatamanager_numgroupsdead", "Groups going away"),
    gauge(
        "kafka_coordinator_group_groupmetadatamanager_numgroupspreparingrebalance",
        "Groups gathering members",
    ),
    gauge(
        "kafka_coordinator_group_groupmetadatamanager_numgroupscompletingrebalance",
        "Groups awaiting assignments",
    ),
    gauge("kafka_coordinator_group_groupmetadatamanager_numoffsets", "Offsets kept"),
    // The bucket.
    counter("tidemark_bucket_requests", "Requests to the bucket, by kind of object, verb and outcome"),
    counter("tidemark_bucket_bytes", "Bytes of bodies to and from the bucket"),
    counter("tidemark_bucket_dollars", "Price of the requests by tidemark.bucket.price"),
    histogram("tidemark_bucket_request_seconds", "Time of requests to the bucket"),
    gauge("tidemark_bucket_healthy", "1 while the bucket answers"),
    // Reads.
    counter("tidemark_cache_hits", "Chunks of the bucket found in the cache, by place"),
    counter("tidemark_cache_misses", "Chunks of the bucket not found in the cache"),
    counter("tidemark_cache_damaged", "Chunks that the cache's disk gave back damaged or not at all"),
    gauge("tidemark_cache_memory_bytes", "Bytes of chunks in memory"),
    gauge("tidemark_cache_alarm", "1 while the cache works less well than configured; the log says why"),
    gauge("tidemark_hot_bytes", "Bytes of hot segments on the disk"),
    gauge("tidemark_hot_segments", "Hot segments on the disk"),
    counter("tidemark_hot_hits", "Reads answered from hot segments"),
    counter("tidemark_hot_misses", "Reads that hot segments could not answer"),
    counter("tidemark_hot_written_bytes", "Bytes of batches written to hot segments"),
    counter("tidemark_hot_skipped_batches", "Batches left out of hot segments: the disk was slow or off"),
    gauge("tidemark_hot_alarm", "1 while hot segments are off because of their disk; the log says why"),
    gauge("tidemark_fetch_memory_bytes", "Bytes of fetch answers being read or unread"),
    counter("tidemark_fetch_memory_waits", "Fetches that waited for memory"),
    // Reads near the reader.
    counter("tidemark_near_sent", "Partitions whose client was sent to a replica in its rack"),
    counter("tidemark_near_reads", "Times records of a partition led by another broker were served here"),
    counter("tidemark_near_bytes", "Bytes of these"),
    counter(
        "tidemark_near_plans_asked",
        "Times another broker was asked what may be served here of what it leads",
    ),
    counter("tidemark_near_plans_unanswered", "Of these, those that sent the reader back to the leader"),
    counter("tidemark_near_plans_given", "Times this broker told another what that may serve"),
    // The lane.
    gauge("tidemark_lane_unacked_bytes", "Bytes of the lane in flight"),
    gauge("tidemark_lane_in_flight", "PUTs of the lane in flight"),
    counter("tidemark_lane_parcels", "Parcels committed"),
    counter("tidemark_lane_hedges", "PUTs sent a second time because the first was slow"),
    gauge(
        "tidemark_lane_parcels_above_low",
        "Parcels a takeover would read; at 512 producers wait for a cut",
    ),
    gauge("tidemark_lane_longest_wait_seconds", "How long a parcel may stay open at present"),
    gauge("tidemark_runs", "Runs that the metadata names, by level"),
    gauge("tidemark_runs_bytes", "Bytes of runs that the metadata names, by level"),
    counter("tidemark_runs_reclaimed", "Runs un-named by this broker because nobody needed anything in them"),
    counter("tidemark_runs_reclaimed_bytes", "Bytes of those runs"),
    counter("tidemark_merges", "Merges of runs that this broker has committed"),
    counter("tidemark_merges_read_bytes", "Bytes of runs that were merged"),
    counter("tidemark_merges_written_bytes", "Bytes of runs that came of it"),
    counter("tidemark_compactions", "Commits of this broker that replaced runs by compacted ones"),
    counter("tidemark_compactions_read_bytes", "Bytes of runs that were compacted"),
    counter(
        "tidemark_compactions_written_bytes",
        "Bytes of runs that came of it; both with what else lay in them",
    ),
    gauge("tidemark_partitions_opening", "Partitions being recovered"),
    // The process.
    counter("process_cpu_seconds", "Processor time, user and system"),
    gauge("process_resident_memory_bytes", "Memory in RAM"),
    gauge("process_open_fds", "File descriptors open"),
    gauge("process_max_fds", "File descriptors there may be"),
];

/// A row by name.
pub fn find(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name == name)
}

impl Row {
    /// Its name as Prometheus shows it.
    pub fn shown(&self) -> String {
        match self.kind {
            Kind::Counter => format!("{}_total", self.name),
            Kind::Gauge | Kind::Histogram => self.name.to_owned(),
        }
    }
}

/// The text of `broker/METRICS.md`.
pub fn manual() -> String {
    let mut out = String::from(
        "# Metrics\n\n\
         Made from the metrics table (`broker/src/metrics/table.rs`) by a test: `UPDATE_EXPECT=1 cargo test -p \
         tidemark-broker metrics`. Do not edit.\n\n\
         `/metrics` at `tidemark.http.listen`, as OpenMetrics. Kafka's metrics have the names that jmx_exporter's stock \
         rules give them, so that dashboards and alerts for Kafka work; ours begin with `tidemark_`. All of them are there \
         from the start, those by topic or API from its first use.\n\n| metric | type | |\n|---|---|---|\n",
    );
    for row in ROWS {
        let kind = format!("{:?}", row.kind).to_lowercase();
        let _ = writeln!(out, "| `{}` | {kind} | {} |", row.shown(), row.help);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_in_the_repository_is_fresh() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/METRICS.md");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(path, manual()).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(found == manual(), "broker/METRICS.md is stale: run with UPDATE_EXPECT=1");
    }
}
