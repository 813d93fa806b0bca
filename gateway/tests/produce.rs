//! The gRPC door before a Kafka broker of a few lines, all in one process, over pipes.
#![allow(clippy::disallowed_methods, reason = "a test owns its runtime; no simulator runs here")]
#![allow(clippy::unwrap_used, reason = "a panic is how the helpers of a test fail too")]

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::future::BoxFuture;
use tidemark_gateway::{Connect, Gateway, Io, Node, Surroundings, serve};
use tidemark_proto::id::{Millis, Offset};
use tidemark_proto::kafka::api::TABLE;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::{
    ApiVersionsRequest, ApiVersionsResponse, MetadataRequest, MetadataResponse,
    ProduceRequest as KafkaProduce, ProduceResponse as KafkaProduced, api_versions_response,
    metadata_response, produce_response,
};
use tidemark_proto::kafka::wire::{Decoder, Message};
use tidemark_proto::kafka::{api::ApiKey, frame};
use tidemark_proto::record::records::{Record as Stored, Records};
use tidemark_proto::record::validate::{Rules, validate_entry};
use tidemark_proto::rpc::gateway::v1::gateway_client::GatewayClient;
use tidemark_proto::rpc::gateway::v1::{Compression, Header, Placement, ProduceRequest, Record};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

const PARTITIONS: i32 = 4;
const NOW: Millis = Millis(1_700_000_000_000);

/// Two brokers that share one log; broker 1 leads the even partitions, broker 2 the odd ones.
#[derive(Default)]
struct Kafka {
    log: Mutex<BTreeMap<i32, Vec<Stored>>>,
    /// What the next produces are answered, before they are served.
    refusals: Mutex<VecDeque<Refusal>>,
    /// Produce requests that reached a broker.
    produced: Mutex<usize>,
}

#[derive(Clone, Copy)]
enum Refusal {
    Code(ErrorCode),
    HangUp,
}

#[derive(Clone)]
struct Pipes(Arc<Kafka>);

impl Connect for Pipes {
    fn connect(&self, to: &Node) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        let me = match to {
            Node::At { port: 2, .. } => 2,
            _ => 1,
        };
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        tokio::spawn(broker(self.0.clone(), me, theirs));
        Box::pin(async move { Ok(Box::new(ours) as Box<dyn Io>) })
    }
}

/// Answers until the connection ends.
async fn broker(kafka: Arc<Kafka>, me: i32, mut io: DuplexStream) {
    while let Ok(length) = io.read_i32().await {
        let mut bytes = vec![0; length as usize];
        if io.read_exact(&mut bytes).await.is_err() {
            return;
        }
        let mut decoder = Decoder::new(bytes.into());
        let header = frame::decode_request_header(&mut decoder).unwrap();
        let (key, version) = (ApiKey::from_i16(header.api_key).unwrap(), header.api_version);
        let id = header.correlation_id;
        let answer = match key {
            ApiKey::ApiVersions => {
                ApiVersionsRequest::decode(&mut decoder, version).unwrap();
                encoded(id, key, version, &versions())
            }
            ApiKey::Metadata => {
                let request = MetadataRequest::decode(&mut decoder, version).unwrap();
                encoded(id, key, version, &metadata(&request))
            }
            ApiKey::Produce => {
                let request = KafkaProduce::decode(&mut decoder, version).unwrap();
                let Some(answer) = kafka.produce(me, &request, version) else { return };
                encoded(id, key, version, &answer)
            }
            other => panic!("the gateway asks for {other}"),
        };
        if io.write_all(&answer).await.is_err() {
            return;
        }
    }
}

fn encoded(id: i32, key: ApiKey, version: i16, body: &impl Message) -> Bytes {
    frame::encode_response(id, key.response_header_version(version), body, version)
        .unwrap()
        .into_bytes()
        .unwrap()
}

fn versions() -> ApiVersionsResponse {
    let served = TABLE.iter().map(|row| {
        // Produce by name, as a broker of Kafka 3.x: topic ids come with 13.
        let max_version = if row.key == ApiKey::Produce { 12 } else { row.max };
        api_versions_response::ApiVersion { api_key: row.key.as_i16(), min_version: row.min, max_version }
    });
    ApiVersionsResponse { api_keys: served.collect(), ..Default::default() }
}

fn metadata(request: &MetadataRequest) -> MetadataResponse {
    let brokers = [1, 2].map(|node_id| metadata_response::MetadataResponseBroker {
        node_id,
        host: "broker".into(),
        port: node_id,
        ..Default::default()
    });
    let name = request.topics.as_ref().unwrap()[0].name.clone().unwrap();
    let code = match &name[..] {
        "bad/name" => 17,
        "secret" => 29,
        _ => 0,
    };
    let partitions = (0..if code == 0 { PARTITIONS } else { 0 })
        .map(|partition_index| metadata_response::MetadataResponsePartition {
            partition_index,
            leader_id: 1 + partition_index % 2,
            ..Default::default()
        })
        .collect();
    let topic = metadata_response::MetadataResponseTopic {
        error_code: code,
        name: Some(name),
        partitions,
        ..Default::default()
    };
    MetadataResponse { brokers: brokers.to_vec(), topics: vec![topic], ..Default::default() }
}

impl Kafka {
    /// `None` hangs up.
    fn produce(&self, me: i32, request: &KafkaProduce, version: i16) -> Option<KafkaProduced> {
        *self.produced.lock().unwrap() += 1;
        assert_eq!(request.acks, -1);
        let topic = &request.topic_data[0];
        let rows = topic.partition_data.iter().map(|data| {
            let mut row =
                produce_response::PartitionProduceResponse { index: data.index, ..Default::default() };
            match self.refusals.lock().unwrap().pop_front() {
                Some(Refusal::HangUp) => return None,
                Some(Refusal::Code(code)) => row.error_code = code.code(),
                None if data.index % 2 + 1 != me => row.error_code = ErrorCode::NotLeaderOrFollower.code(),
                None => self.append(data.index, data.records.clone().unwrap(), version, &mut row),
            }
            Some(row)
        });
        let partition_responses = rows.collect::<Option<Vec<_>>>()?;
        let topic = produce_response::TopicProduceResponse {
            name: topic.name.clone(),
            partition_responses,
            ..Default::default()
        };
        Some(KafkaProduced { responses: vec![topic], ..Default::default() })
    }

    fn append(
        &self,
        partition: i32,
        records: tidemark_proto::kafka::pieces::Pieces,
        version: i16,
        row: &mut produce_response::PartitionProduceResponse,
    ) {
        let rules = Rules { produce_version: version, ..Rules::defaults(NOW) };
        match validate_entry(records.into_bytes().unwrap(), &rules) {
            Ok(taken) => {
                let mut log = self.log.lock().unwrap();
                let log = log.entry(partition).or_default();
                row.base_offset = log.len() as i64;
                for record in Records::new(&taken.batch).unwrap() {
                    let record = record.unwrap();
                    log.push(Stored { offset: Offset(log.len() as i64), ..record });
                }
            }
            Err(refused) => {
                row.error_code = refused.code.code();
                row.error_message = Some(refused.message.into());
            }
        }
    }
}

/// A running gateway and a channel to it.
async fn start(kafka: &Arc<Kafka>) -> (Channel, tokio::sync::oneshot::Sender<()>) {
    let surroundings =
        Surroundings { spawn: Arc::new(|task| drop(tokio::spawn(task))), now: Arc::new(|| NOW) };
    let gateway = Gateway::new(Arc::new(Pipes(kafka.clone())), surroundings);
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let incoming = futures::stream::iter([Ok::<_, io::Error>(theirs)]);
    let incoming = futures::StreamExt::chain(incoming, futures::stream::pending());
    tokio::spawn(async move {
        serve(incoming, gateway, async { drop(stopped.await) }).await.unwrap();
    });
    let mut ours = Some(hyper_util::rt::TokioIo::new(ours));
    let connector = tower::service_fn(move |_| {
        let io = ours.take().ok_or_else(|| io::Error::other("one connection only"));
        async move { io }
    });
    let channel = Endpoint::from_static("http://gateway").connect_with_connector(connector).await.unwrap();
    (channel, stop)
}

fn record(key: Option<&'static str>, value: &'static str) -> Record {
    Record { key: key.map(Bytes::from), value: Some(value.into()), ..Default::default() }
}

fn call(topic: &str, partition: Option<i32>, records: Vec<Record>) -> ProduceRequest {
    ProduceRequest { topic: topic.into(), partition, records, compression: Compression::None as i32 }
}

#[tokio::test]
async fn records_arrive_as_they_were_sent_under_every_codec() {
    let kafka = Arc::<Kafka>::default();
    let (channel, _stop) = start(&kafka).await;
    let mut client = GatewayClient::new(channel);
    let sent = Record {
        key: Some("k".into()),
        value: None,
        headers: vec![Header { key: "h".into(), value: Some("v".into()) }],
        timestamp_ms: Some(NOW.0 - 5),
    };
    for (offset, codec) in (0..5).enumerate() {
        let mut call = call("t", Some(1), vec![sent.clone(), record(None, "x")]);
        call.compression = codec;
        let answer = client.produce(call).await.unwrap().into_inner();
        let placed = |offset| Placement { partition: 1, offset };
        assert_eq!(answer.placements, [placed(2 * offset as i64), placed(2 * offset as i64 + 1)]);
    }
    let log = kafka.log.lock().unwrap();
    assert_eq!(log[&1].len(), 10);
    let first = &log[&1][0];
    assert_eq!(
        (first.key.as_deref(), &first.value, first.timestamp),
        (Some(&b"k"[..]), &None, Millis(NOW.0 - 5))
    );
    assert_eq!((&first.headers[0].key[..], first.headers[0].value.as_deref()), (&b"h"[..], Some(&b"v"[..])));
    assert_eq!(log[&1][1].timestamp, NOW, "no timestamp is now");
}

#[tokio::test]
async fn keys_choose_partitions_and_each_record_hears_its_place() {
    let kafka = Arc::<Kafka>::default();
    let (channel, _stop) = start(&kafka).await;
    let mut client = GatewayClient::new(channel);
    let keys: Vec<String> = (0..40).map(|n| format!("key {n}")).collect();
    let records = keys.iter().map(|key| Record { key: Some(key.clone().into()), ..Default::default() });
    let answer = client.produce(call("t", None, records.collect())).await.unwrap().into_inner();
    let log = kafka.log.lock().unwrap();
    assert_eq!(log.len(), PARTITIONS as usize, "forty keys reach every partition");
    for (key, placed) in keys.iter().zip(&answer.placements) {
        let stored = &log[&placed.partition][placed.offset as usize];
        assert_eq!(stored.key.as_deref(), Some(key.as_bytes()));
    }
}

#[tokio::test]
async fn a_moved_leader_is_found_again() {
    let kafka = Arc::<Kafka>::default();
    let (channel, _stop) = start(&kafka).await;
    kafka.refusals.lock().unwrap().extend([Refusal::Code(ErrorCode::NotLeaderOrFollower); 2]);
    let mut client = GatewayClient::new(channel);
    client.produce(call("t", Some(3), vec![record(None, "x")])).await.unwrap();
    assert_eq!(*kafka.produced.lock().unwrap(), 3);
    assert_eq!(kafka.log.lock().unwrap()[&3].len(), 1);
}

#[tokio::test]
async fn a_lost_answer_is_said_to_be_unknown_and_not_tried_again() {
    let kafka = Arc::<Kafka>::default();
    let (channel, _stop) = start(&kafka).await;
    kafka.refusals.lock().unwrap().push_back(Refusal::HangUp);
    let mut client = GatewayClient::new(channel);
    let status = client.produce(call("t", Some(0), vec![record(None, "x")])).await.unwrap_err();
    assert_eq!(status.code(), Code::Unknown, "{status}");
    assert_eq!(*kafka.produced.lock().unwrap(), 1);
    client.produce(call("t", Some(0), vec![record(None, "y")])).await.expect("the next call connects anew");
}

#[tokio::test]
async fn refusals_have_the_status_that_tells_what_to_do() {
    let kafka = Arc::<Kafka>::default();
    let (channel, _stop) = start(&kafka).await;
    let mut client = GatewayClient::new(channel);
    let old = Record { timestamp_ms: Some(-7), ..Default::default() };
    for (request, code, word) in [
        (call("", None, vec![record(None, "x")]), Code::InvalidArgument, "topic"),
        (call("t", None, vec![]), Code::InvalidArgument, "record"),
        (call("t", Some(9), vec![record(None, "x")]), Code::OutOfRange, "0 to 3"),
        (call("t", Some(-1), vec![record(None, "x")]), Code::OutOfRange, "0 to 3"),
        (call("t", Some(0), vec![old]), Code::InvalidArgument, "INVALID_TIMESTAMP"),
        (call("bad/name", None, vec![record(None, "x")]), Code::InvalidArgument, "INVALID_TOPIC"),
        (call("secret", None, vec![record(None, "x")]), Code::PermissionDenied, "TOPIC_AUTHORIZATION_FAILED"),
        (
            ProduceRequest { compression: 9, ..call("t", None, vec![record(None, "x")]) },
            Code::InvalidArgument,
            "compression",
        ),
    ] {
        let status = client.produce(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(word), "{status}");
    }
    for (refusal, code) in [
        (ErrorCode::MessageTooLarge, Code::InvalidArgument),
        (ErrorCode::RequestTimedOut, Code::DeadlineExceeded),
        (ErrorCode::KafkaStorageError, Code::Unavailable),
        (ErrorCode::UnknownServerError, Code::Internal),
    ] {
        kafka.refusals.lock().unwrap().push_back(Refusal::Code(refusal));
        let status = client.produce(call("t", Some(0), vec![record(None, "x")])).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
    }
}

#[tokio::test]
async fn health_and_reflection_answer() {
    use tonic_health::pb::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    };
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let (channel, _stop) = start(&Arc::default()).await;
    let mut health = HealthClient::new(channel.clone());
    for service in ["", tidemark_gateway::grpc::SERVICE] {
        let asked = HealthCheckRequest { service: service.into() };
        let answer = health.check(asked).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    let mut reflection = ServerReflectionClient::new(channel);
    let ask = |message_request| {
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(message_request) };
        futures::stream::iter([request])
    };
    let listed = reflection.server_reflection_info(ask(MessageRequest::ListServices(String::new()))).await;
    let listed = listed.unwrap().into_inner().message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(listed) = listed else { panic!("{listed:?}") };
    let names: Vec<String> = listed.service.into_iter().map(|service| service.name).collect();
    assert!(names.contains(&tidemark_gateway::grpc::SERVICE.to_owned()), "{names:?}");
    assert!(!names.iter().any(|name| name.contains("peer")), "the peers' door is not this one: {names:?}");
    let symbol = MessageRequest::FileContainingSymbol(tidemark_gateway::grpc::SERVICE.to_owned());
    let file = reflection.server_reflection_info(ask(symbol)).await.unwrap().into_inner().message().await;
    let file = file.unwrap().unwrap().message_response.unwrap();
    assert!(matches!(file, MessageResponse::FileDescriptorResponse(_)), "{file:?}");
}

#[tokio::test]
async fn a_call_that_runs_is_answered_before_the_door_closes() {
    let kafka = Arc::<Kafka>::default();
    let (channel, stop) = start(&kafka).await;
    let mut client = GatewayClient::new(channel);
    kafka.refusals.lock().unwrap().extend([Refusal::Code(ErrorCode::NotLeaderOrFollower); 2]);
    let running = client.produce(call("t", Some(3), vec![record(None, "x")]));
    let stops = async {
        while *kafka.produced.lock().unwrap() == 0 {
            tokio::task::yield_now().await;
        }
        stop.send(()).unwrap();
    };
    let (answer, ()) = futures::join!(running, stops);
    answer.expect("it was in flight");
}
