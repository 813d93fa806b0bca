//! Configuration files that were made for Apache Kafka start a broker as they are: what is not ours to have is a note.

use std::net::TcpListener;

use tidemark_proto::client::{Client, Options};
use tidemark_proto::kafka::messages::DescribeClusterRequest;

use crate::Broker;

/// Keys that the files of Apache Kafka 4 set, apart from roles, ids, listeners and directories.
const COMMON: &str = "\
    inter.broker.listener.name=PLAINTEXT
    controller.listener.names=CONTROLLER
    listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL
    num.network.threads=3
    num.io.threads=8
    socket.send.buffer.bytes=102400
    socket.receive.buffer.bytes=102400
    socket.request.max.bytes=104857600
    num.partitions=1
    num.recovery.threads.per.data.dir=2
    offsets.topic.replication.factor=1
    transaction.state.log.replication.factor=1
    transaction.state.log.min.isr=1
    share.coordinator.state.topic.replication.factor=1
    share.coordinator.state.topic.min.isr=1
    log.retention.hours=168
    log.segment.bytes=1073741824
    log.retention.check.interval.ms=300000
";

/// Starts `serve` with the file, in which PORT and DIR stand for what the machine has free; the node id it has then.
async fn node_of(file: &str) -> i32 {
    let dir = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = file.replace("PORT", &port.to_string()).replace("DIR", dir.path().to_str().unwrap());
    let path = dir.path().join("server.properties");
    std::fs::write(&path, text).unwrap();
    std::fs::create_dir(dir.path().join("bucket")).unwrap();
    let bucket = format!("tidemark.bucket=file://{}/bucket", dir.path().display());
    let sets = ["--set", &bucket, "--set", "tidemark.http.listen=127.0.0.1:0"];
    let broker = Broker::start(&[&["serve", "--config", path.to_str().unwrap()], &sets[..]].concat());
    let (client, driver) = Client::connect(format!("127.0.0.1:{port}"), Options::default()).await.unwrap();
    let driver = tokio::spawn(driver);
    let answer = client.call(0, &DescribeClusterRequest::default()).await.unwrap();
    assert_eq!((answer.brokers.len(), answer.brokers[0].port), (1, i32::from(port)));
    drop(client);
    driver.await.unwrap();
    assert_eq!(broker.stop(), Some(0));
    answer.brokers[0].broker_id
}

#[tokio::test]
async fn the_file_of_a_combined_node_starts_a_broker() {
    let own = "\
        process.roles=broker,controller
        node.id=1
        controller.quorum.bootstrap.servers=localhost:9093
        listeners=PLAINTEXT://:PORT,CONTROLLER://:9093
        advertised.listeners=PLAINTEXT://localhost:PORT,CONTROLLER://localhost:9093
        log.dirs=DIR/kraft-combined-logs
    ";
    assert_eq!(node_of(&[own, COMMON].concat()).await, 1);
}

#[tokio::test]
async fn the_file_of_a_broker_beside_controllers_starts_a_broker() {
    let own = "\
        process.roles=broker
        node.id=2
        controller.quorum.bootstrap.servers=localhost:9093
        listeners=PLAINTEXT://localhost:PORT
        advertised.listeners=PLAINTEXT://localhost:PORT
        log.dirs=DIR/kraft-broker-logs
    ";
    assert_eq!(node_of(&[own, COMMON].concat()).await, 2);
}

#[tokio::test]
async fn a_file_from_the_time_of_zookeeper_starts_a_broker() {
    let own = "\
        broker.id=0
        listeners=PLAINTEXT://localhost:PORT
        delete.topic.enable=true
        num.network.threads=3
        num.io.threads=8
        socket.send.buffer.bytes=102400
        log.dirs=DIR/kafka-logs
        log.flush.interval.messages=10000
        log.flush.interval.ms=1000
        offsets.topic.replication.factor=1
        zookeeper.connect=localhost:2181
        zookeeper.connection.timeout.ms=18000
        group.initial.rebalance.delay.ms=0
    ";
    assert_eq!(node_of(own).await, 0);
}
