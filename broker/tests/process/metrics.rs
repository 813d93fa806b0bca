//! `/metrics` of a running broker: every documented row is there, and those that count move.

use std::io::Write;
use std::net::TcpStream;

use tidemark_broker::metrics::table::{Kind, ROWS};
use tidemark_proto::client::Client;
use tidemark_proto::id::{ProducerEpoch, ProducerId};
use tidemark_proto::kafka::messages::fetch_request::{FetchPartition, FetchTopic};
use tidemark_proto::kafka::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use tidemark_proto::kafka::messages::{FetchRequest, FindCoordinatorRequest, OffsetCommitRequest};
use tidemark_proto::kafka::pieces::Pieces;
use tidemark_proto::record::build::Builder;

use crate::{Broker, connect, create_topic_with, produce, produce_request, send, sum};

/// What some work of every kind moves up.
const MOVED: &[&str] = &[
    "kafka_server_brokertopicmetrics_messagesin_total",
    "kafka_server_brokertopicmetrics_bytesin_total",
    "kafka_server_brokertopicmetrics_bytesout_total",
    "kafka_server_brokertopicmetrics_bytesrejected_total",
    "kafka_server_brokertopicmetrics_totalproducerequests_total",
    "kafka_server_brokertopicmetrics_totalfetchrequests_total",
    "kafka_server_brokertopicmetrics_failedproducerequests_total",
    "kafka_server_brokertopicmetrics_failedfetchrequests_total",
    "kafka_server_brokertopicmetrics_invalidmessagecrcrecords_total",
    "kafka_server_brokertopicmetrics_remotecopybytes_total",
    "kafka_server_brokertopicmetrics_remotecopyrequests_total",
    "kafka_server_replicamanager_leadercount",
    "kafka_server_replicamanager_partitioncount",
    "kafka_server_replicamanager_produceridcount",
    "kafka_controller_kafkacontroller_globaltopiccount",
    "kafka_controller_kafkacontroller_globalpartitioncount",
    "kafka_server_socket_server_metrics_connection_count",
    "kafka_server_socket_server_metrics_connection_creation_total",
    "tidemark_connections_protocol_error_total",
    "kafka_log_logflushstats_logflushrateandtimems_count",
    "kafka_coordinator_group_groupmetadatamanager_numgroups",
    "kafka_coordinator_group_groupmetadatamanager_numoffsets",
    "kafka_server_group_coordinator_metrics_group_count",
    "kafka_server_group_coordinator_metrics_consumer_group_count",
    "kafka_server_group_coordinator_metrics_offset_commit_count",
    "tidemark_bucket_requests_total",
    "tidemark_bucket_bytes_total",
    "tidemark_bucket_request_seconds_count",
    "tidemark_lane_parcels_total",
    "tidemark_lane_parcels_above_low",
    "process_cpu_seconds_total",
];

/// What is there only once there is a topic or a request, and has counted by then.
const BORN: &[&str] = &[
    "kafka_network_requestmetrics_requests_total",
    "kafka_network_requestmetrics_errors_total",
    "kafka_network_requestmetrics_requestbytes_total",
    "kafka_network_requestmetrics_responsebytes_total",
    "kafka_network_requestmetrics_totaltimems_count",
    "kafka_network_requestmetrics_totaltimems",
    "kafka_network_requestmetrics_remotetimems",
    "kafka_log_log_size",
    "kafka_log_log_logendoffset",
    "kafka_log_log_numlogsegments",
    "kafka_cluster_partition_replicascount",
];

async fn fetch(client: &Client, offset: i64) -> i16 {
    let partition = FetchPartition {
        current_leader_epoch: -1,
        fetch_offset: offset,
        partition_max_bytes: 1 << 20,
        ..FetchPartition::default()
    };
    let topic = FetchTopic { topic: "t".into(), partitions: vec![partition], ..FetchTopic::default() };
    let request = FetchRequest { max_bytes: 1 << 20, topics: vec![topic], ..FetchRequest::default() };
    client.call(12, &request).await.unwrap().responses[0].partitions[0].error_code
}

/// Commits an offset without being a member, as admin tools do, once the coordinator is there.
async fn commit(client: &Client) {
    let find = FindCoordinatorRequest { key: "g".into(), ..FindCoordinatorRequest::default() };
    let partition =
        OffsetCommitRequestPartition { committed_offset: 1, ..OffsetCommitRequestPartition::default() };
    let topic = OffsetCommitRequestTopic {
        name: "t".into(),
        partitions: vec![partition],
        ..OffsetCommitRequestTopic::default()
    };
    let request = OffsetCommitRequest {
        group_id: "g".into(),
        generation_id_or_member_epoch: -1,
        topics: vec![topic],
        ..OffsetCommitRequest::default()
    };
    for _ in 0..250 {
        client.call(2, &find).await.unwrap();
        let answer = client.call(7, &request).await.unwrap();
        if answer.topics[0].partitions[0].error_code == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("no offset can be committed");
}

/// Some of everything: good and refused batches and fetches, a group, a foreigner.
async fn work(broker: &Broker) -> Client {
    let client = connect(broker).await;
    create_topic_with(&client, "t", 2, &[("remote.storage.enable", "true")]).await;
    for _ in 0..3 {
        assert_eq!(produce(&client, "t", 4_000).await, 0);
    }
    let producer = Builder::new().producer(ProducerId(7), ProducerEpoch(0), 0);
    assert_eq!(send(&client, &produce_request("t", producer, 10)).await, 0);
    let mut damaged = produce_request("t", Builder::new(), 100);
    let records = damaged.topic_data[0].partition_data[0].records.take().unwrap();
    let mut bytes = records.into_bytes().unwrap().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    damaged.topic_data[0].partition_data[0].records = Some(Pieces::from(bytes::Bytes::from(bytes)));
    assert_eq!(send(&client, &damaged).await, 2);
    assert_eq!(fetch(&client, 0).await, 0);
    assert_eq!(fetch(&client, 99).await, 1);
    commit(&client).await;
    let mut foreigner = TcpStream::connect(broker.address("PLAINTEXT")).unwrap();
    foreigner.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    client
}

#[tokio::test]
async fn every_documented_metric_is_there_and_what_counts_moves() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(dir.path());
    let before = broker.http("/metrics");
    let client = work(&broker).await;
    // Idle shares and quantiles are of the time since the last look.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let after = broker.http("/metrics");
    let missing: Vec<String> = ROWS
        .iter()
        .map(|row| match row.kind {
            Kind::Histogram => format!("{}_bucket", row.name),
            _ => row.shown(),
        })
        .filter(|name| sum(&after, name).is_none())
        .collect();
    assert_eq!(missing, Vec::<String>::new(), "documented, and without a source");
    for name in MOVED {
        let (was, is) = (sum(&before, name), sum(&after, name));
        assert!(is > was.or(Some(0.0)), "{name}: {was:?}, then {is:?}");
    }
    for name in BORN {
        assert!(sum(&after, name) > Some(0.0), "{name}: {:?}", sum(&after, name));
    }
    for line in [
        "kafka_network_requestmetrics_errors_total{request=\"Produce\",error=\"CORRUPT_MESSAGE\"} 1",
        "kafka_network_requestmetrics_errors_total{request=\"FetchConsumer\",error=\"OFFSET_OUT_OF_RANGE\"} 1",
        "kafka_controller_kafkacontroller_activecontrollercount 1",
        "kafka_log_logmanager_offlinelogdirectorycount 0",
        "tidemark_bucket_healthy 1",
    ] {
        assert!(after.contains(line), "{line} is missing in\n{after}");
    }
    let idle = sum(&after, "kafka_network_socketserver_networkprocessoravgidle_percent");
    assert!(idle > Some(0.0) && idle <= Some(1.0), "{idle:?}");
    drop(client);
}
