//! What is set on running brokers (IncrementalAlterConfigs): it holds at once, over a restart, and until it is reset.

use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use tidemark_proto::client::Client;
use tidemark_proto::id::{ProducerEpoch, ProducerId};
use tidemark_proto::kafka::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use tidemark_proto::kafka::messages::{IncrementalAlterConfigsRequest, InitProducerIdRequest};
use tidemark_proto::record::build::Builder;

use crate::{Broker, connect, create_topic, eventually, produce, produce_request, send};

const ALL: &str = "";
const TOO_LARGE: i16 = 10;

/// Sets, or resets without a value, a key of one broker or of all; the code.
async fn set(client: &Client, broker: &str, key: &str, value: Option<&str>) -> i16 {
    let config = AlterableConfig {
        name: key.into(),
        config_operation: if value.is_some() { 0 } else { 1 },
        value: value.map(Into::into),
    };
    let resource =
        AlterConfigsResource { resource_type: 4, resource_name: broker.into(), configs: vec![config] };
    let request = IncrementalAlterConfigsRequest { resources: vec![resource], ..Default::default() };
    client.call(1, &request).await.unwrap().responses[0].error_code
}

/// Produces until the answer is none of `before`: what changes it is under way. Gives the answer.
async fn answered_after(client: &Client, bytes: usize, before: i16) -> i16 {
    for _ in 0..250 {
        let code = produce(client, "t", bytes).await;
        if code != before {
            return code;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{bytes} bytes are always answered {before}");
}

#[tokio::test]
async fn a_topics_default_set_on_running_brokers_holds_at_once_over_a_restart_and_until_it_is_reset() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(dir.path());
    let client = connect(&broker).await;
    create_topic(&client, "t", 1).await;
    assert_eq!(produce(&client, "t", 5_000).await, 0);
    assert_eq!(set(&client, ALL, "message.max.bytes", Some("1000")).await, 0);
    assert_eq!(answered_after(&client, 5_000, 0).await, TOO_LARGE);
    assert_eq!(broker.stop(), Some(0));
    let broker = Broker::dev(dir.path());
    let client = connect(&broker).await;
    assert_eq!(produce(&client, "t", 5_000).await, TOO_LARGE, "from the first request it serves");
    assert_eq!(set(&client, "1", "message.max.bytes", Some("9000")).await, 0);
    assert_eq!(answered_after(&client, 5_000, TOO_LARGE).await, 0);
    assert_eq!(produce(&client, "t", 10_000).await, TOO_LARGE, "the broker's own value wins");
    assert_eq!(set(&client, "1", "message.max.bytes", None).await, 0);
    assert_eq!(answered_after(&client, 5_000, 0).await, TOO_LARGE);
    assert_eq!(set(&client, ALL, "message.max.bytes", None).await, 0);
    assert_eq!(answered_after(&client, 10_000, TOO_LARGE).await, 0);
}

#[tokio::test]
async fn the_number_of_connections_can_be_lowered_and_raised_while_the_broker_runs() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(dir.path());
    let client = connect(&broker).await;
    let address = broker.address("PLAINTEXT");
    // A refused connection ends at once; one that was taken says nothing.
    let refused = || {
        let mut io = TcpStream::connect(&address).unwrap();
        io.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        matches!(io.read(&mut [0]), Ok(0))
    };
    for key in ["max.connections", "max.connections.per.ip"] {
        assert_eq!(set(&client, ALL, key, Some("1")).await, 0);
        eventually("a second connection is refused", refused);
        assert_eq!(set(&client, ALL, key, None).await, 0);
        eventually("a second connection is taken", || !refused());
    }
    assert_eq!(set(&client, ALL, "max.connections.per.ip.overrides", Some("127.0.0.1:1")).await, 0);
    eventually("a second connection from this address is refused", refused);
}

#[tokio::test]
async fn what_running_brokers_cannot_take_is_an_invalid_request_and_what_has_no_effect_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(dir.path());
    let client = connect(&broker).await;
    for name in [ALL, "1"] {
        for (key, value, code) in [
            ("max.connections.per.ip.overrides", "127.0.0.1", 42),
            ("message.max.bytes", "many", 42),
            ("log.cleanup.policy", "odd", 42),
            ("listeners", "PLAINTEXT://:1", 42),
            ("num.partitions", "5", 42),
            ("no.such", "1", 42),
            ("num.io.threads", "9", 0),
            ("remote.log.reader.threads", "9", 0),
            ("max.connection.creation.rate", "100", 0),
        ] {
            assert_eq!(set(&client, name, key, Some(value)).await, code, "{key}={value} on '{name}'");
        }
    }
    assert_eq!(set(&client, "9", "message.max.bytes", Some("1000")).await, 42, "no such broker");
}

#[tokio::test]
async fn idle_producers_are_forgotten_as_soon_as_their_time_is_shortened() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(dir.path());
    let client = connect(&broker).await;
    create_topic(&client, "t", 1).await;
    let request = InitProducerIdRequest {
        transactional_id: None,
        producer_id: -1,
        producer_epoch: -1,
        ..Default::default()
    };
    let given = client.call(4, &request).await.unwrap();
    assert_eq!(given.error_code, 0);
    let origin = (ProducerId(given.producer_id), ProducerEpoch(given.producer_epoch));
    let request = produce_request("t", Builder::new().producer(origin.0, origin.1, 0), 10);
    assert_eq!(send(&client, &request).await, 0);
    let remembered = || broker.metric("kafka_server_replicamanager_produceridcount");
    assert_eq!(remembered(), Some(1.0));
    assert_eq!(set(&client, ALL, "producer.id.expiration.ms", Some("1")).await, 0);
    eventually("the producer is forgotten", || remembered() == Some(0.0));
}
