//! The gRPC gateway as `tidemark` hosts it: off unless asked for, before this very broker, drained with it.

use tidemark_proto::kafka::messages::ListOffsetsRequest;
use tidemark_proto::kafka::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use tidemark_proto::rpc::gateway::v1::gateway_client::GatewayClient;
use tidemark_proto::rpc::gateway::v1::{ProduceRequest, Record};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::{Broker, connect, signal};

const GATEWAY: &str = "tidemark.gateway.listen=127.0.0.1:0";

async fn channel(broker: &Broker) -> Channel {
    let at = format!("http://{}", broker.address("gRPC"));
    Endpoint::from_shared(at).unwrap().connect().await.unwrap()
}

fn call(values: &[&str]) -> ProduceRequest {
    let record = |value: &&str| Record { value: Some((*value).to_owned().into()), ..Record::default() };
    let records = values.iter().map(record).collect();
    ProduceRequest { topic: "t".into(), partition: Some(0), records, ..ProduceRequest::default() }
}

#[tokio::test]
async fn records_sent_by_grpc_are_in_the_log_that_kafkas_clients_read() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev_with(dir.path(), &[GATEWAY]);
    let channel = channel(&broker).await;
    let mut health = HealthClient::new(channel.clone());
    for service in ["", "tidemark.gateway.v1.Gateway"] {
        let asked = HealthCheckRequest { service: service.into() };
        assert_eq!(health.check(asked).await.unwrap().into_inner().status(), ServingStatus::Serving);
    }
    let mut gateway = GatewayClient::new(channel);
    for first in [0, 3] {
        let answer = gateway.produce(call(&["a", "b", "c"])).await.unwrap().into_inner();
        let offsets: Vec<i64> = answer.placements.iter().map(|placement| placement.offset).collect();
        assert_eq!(offsets, [first, first + 1, first + 2]);
    }
    let client = connect(&broker).await;
    let partition =
        ListOffsetsPartition { timestamp: -1, current_leader_epoch: -1, ..ListOffsetsPartition::default() };
    let topic = ListOffsetsTopic { name: "t".into(), partitions: vec![partition] };
    let asked = ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..ListOffsetsRequest::default() };
    assert_eq!(client.call(6, &asked).await.unwrap().topics[0].partitions[0].offset, 6);
    let listed = broker.metric("kafka_server_socket_server_metrics_connection_count");
    assert_eq!(listed, Some(3.0), "the client's, and the gateway's pipes: to any broker, and to this one");
    let refused = gateway.produce(call(&[&"x".repeat(2 << 20)])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("MESSAGE_TOO_LARGE"), "{refused}");
}

#[tokio::test]
async fn at_sigterm_every_call_that_runs_is_answered_and_no_new_one_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Broker::dev_with(dir.path(), &[GATEWAY]);
    let mut gateway = GatewayClient::new(channel(&broker).await);
    gateway.produce(call(&["first"])).await.unwrap();
    let calls = tokio::spawn(async move {
        let mut answered = 0;
        loop {
            match gateway.produce(call(&["more"])).await {
                Ok(_) => answered += 1,
                Err(status) => return (answered, status),
            }
        }
    });
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    signal(&broker.child, "TERM");
    let (answered, last) = calls.await.unwrap();
    assert!(answered > 0);
    assert_eq!(last.code(), Code::Unavailable, "a call is answered or not begun: {last}");
    assert_eq!(broker.ended(), Some(0));
}

#[test]
fn there_is_no_gateway_unless_asked_for_and_a_busy_port_is_told_with_the_mend() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(dir.path());
    assert!(!broker.lines.iter().any(|line| line.starts_with("gRPC")), "{:?}", broker.lines);
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = format!("tidemark.gateway.listen={}", held.local_addr().unwrap());
    let free = "listeners=PLAINTEXT://127.0.0.1:0";
    let args = ["serve", "--set", "tidemark.bucket=memory:", "--set", free, "--set", &busy];
    crate::fails(&args, 1, &["for gRPC", "set tidemark.gateway.listen to a free address"]);
}
