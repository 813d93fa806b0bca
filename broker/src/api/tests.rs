//! The table, and dispatch over a raw pipe.

use std::collections::BTreeSet;

use bytes::Bytes;
use tidemark_proto::kafka::frame::{decode_response_header, encode_request};
use tidemark_proto::kafka::messages::{
    ApiVersionsRequest, ApiVersionsResponse, CreateTopicsRequest, DeleteTopicsRequest,
    DescribeClusterRequest, DescribeConfigsRequest, IncrementalAlterConfigsRequest, MetadataRequest,
    MetadataResponse, create_topics_request, delete_topics_request, describe_configs_request,
    incremental_alter_configs_request, metadata_request,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::testing::node;
use super::*;
use crate::server::{Limits, Server, Transport};

#[test]
fn every_row_needs_something_and_stands_once_in_rising_order_within_what_the_codec_speaks() {
    let mut keys = BTreeSet::new();
    for row in ROWS {
        assert!(
            !row.needs.is_empty(),
            "{:?} asks the authorizer nothing: say Need::Nothing if it is so",
            row.key
        );
        assert!(keys.insert(row.key), "{:?} is there twice", row.key);
        let codec = row.key.row().unwrap_or_else(|| panic!("the codec does not speak {:?}", row.key));
        let lowest = if row.key == ApiKey::Produce { 0 } else { codec.oldest };
        assert!(lowest <= row.min && row.min <= row.max && row.max <= codec.max, "{:?}", row.key);
    }
    assert!(ROWS.is_sorted_by_key(|row| row.key));
}

fn connect(node: &Arc<Node>) -> (Server, DuplexStream) {
    let server = Server::new(Arc::new(Dispatch::new(node.clone())), Limits::default(), &node.seams);
    let (ours, theirs) = duplex(1 << 20);
    server.attach(Transport::stream(theirs), "PLAINTEXT", "10.0.0.1:999".parse().unwrap());
    (server, ours)
}

async fn answer(io: &mut DuplexStream) -> Option<Bytes> {
    let length = io.read_u32().await.ok()? as usize;
    let mut body = vec![0; length];
    io.read_exact(&mut body).await.ok()?;
    Some(Bytes::from(body))
}

/// A header of the given key and version, then `body`, with the length in front.
fn raw(key: i16, version: i16, flexible: bool, client: &[u8], body: &[u8]) -> Vec<u8> {
    let mut frame = [key.to_be_bytes(), version.to_be_bytes()].concat();
    frame.extend(77_i32.to_be_bytes());
    frame.extend((client.len() as i16).to_be_bytes());
    frame.extend(client);
    frame.extend(flexible.then_some(0));
    frame.extend(body);
    [&(frame.len() as u32).to_be_bytes()[..], &frame].concat()
}

async fn closes(frame: &[u8]) {
    let (server, mut io) = connect(&node().await);
    io.write_all(frame).await.unwrap();
    assert_eq!(answer(&mut io).await, None);
    assert_eq!(server.counts().protocol_errors.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn row_7_an_unknown_key_or_version_closes_without_an_answer() {
    closes(&raw(7, 0, false, b"", b"")).await;
    closes(&raw(9999, 0, false, b"c", b"body")).await;
    closes(&raw(-1, -1, false, b"c", b"")).await;
}

#[tokio::test(start_paused = true)]
async fn row_7_a_version_of_api_versions_from_the_future_is_answered_in_version_0_with_the_list() {
    let (_server, mut io) = connect(&node().await);
    io.write_all(&raw(18, 99, true, b"new", b"whatever comes")).await.unwrap();
    let mut decoder = Decoder::new(answer(&mut io).await.unwrap());
    assert_eq!(decode_response_header(&mut decoder, 0), Ok(77));
    let response = ApiVersionsResponse::decode(&mut decoder, 0).unwrap();
    decoder.finish().unwrap();
    assert_eq!(response.error_code, 35);
    assert!(response.api_keys.iter().any(|key| key.api_key == 18));
    // The client tries again with what it learnt.
    let request = ApiVersionsRequest {
        client_software_name: "new".into(),
        client_software_version: "1.0".into(),
        ..Default::default()
    };
    let frame = encode_request(78, None, &request, 4).unwrap().into_bytes().unwrap();
    io.write_all(&frame).await.unwrap();
    let mut decoder = Decoder::new(answer(&mut io).await.unwrap());
    assert_eq!(decode_response_header(&mut decoder, 0), Ok(78));
    assert_eq!(ApiVersionsResponse::decode(&mut decoder, 4).unwrap().error_code, 0);
}

#[tokio::test(start_paused = true)]
async fn rows_8_and_9_bodies_that_do_not_decode_close_the_connection() {
    // v3: two compact strings and tags. Varint overflow, string beyond the end, bad UTF-8, a tag without its size.
    for body in [
        &b"\xff\xff\xff\xff\xff\xff"[..],
        b"\x7fab\x02a\x00",
        b"\x03\xc3\x28\x02a\x00",
        b"\x02a\x02a\x02\x00\x00\x00\x00",
        b"",
    ] {
        closes(&raw(18, 3, true, b"c", body)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn row_8_absurd_counts_close_the_connection_and_take_no_memory() {
    let before = resident();
    for count in [i32::MAX, -2, 1 << 20] {
        closes(&raw(3, 1, false, b"c", &count.to_be_bytes())).await;
        closes(&raw(19, 2, false, b"c", &count.to_be_bytes())).await;
    }
    closes(&raw(3, 12, true, b"c", b"\xff\xff\xff\xff\x0f")).await;
    closes(&raw(3, 12, true, b"c", b"\xff\xff\xff\xff\xff\x01")).await;
    assert!(resident() < before + (32 << 20));
}

#[tokio::test(start_paused = true)]
async fn row_9_lengths_of_strings_that_cannot_be_close_the_connection() {
    for name in [&b"\xff\xfe"[..], b"\x7f\xffab", b"\x00\x02\xc3\x28"] {
        closes(&raw(3, 1, false, b"c", &[b"\0\0\0\x01", name].concat())).await;
    }
}

/// As librdkafka 2.16 asks for all topics: a null array, then the four bytes of an array of another form.
#[tokio::test(start_paused = true)]
async fn row_10_bytes_behind_a_request_are_ignored_as_kafka_ignores_them() {
    let (_server, mut io) = connect(&node().await);
    io.write_all(&raw(3, 13, true, b"rdkafka", b"\x00\x00\x00\x00\x01\x00\x00")).await.unwrap();
    let mut decoder = Decoder::new(answer(&mut io).await.expect("an answer"));
    decode_response_header(&mut decoder, 1).unwrap();
    assert_eq!(MetadataResponse::decode(&mut decoder, 13).unwrap().error_code, 0);
}

#[tokio::test(start_paused = true)]
async fn row_10_a_million_unknown_tags_and_a_tag_that_comes_twice_are_refused() {
    let mut body = b"\x02a\x02a\xc0\x84\x3d".to_vec();
    for tag in 0..1_000_000_u32 {
        body.extend([(tag & 0x7f) as u8 | 0x80, (tag >> 7 & 0x7f) as u8 | 0x80, (tag >> 14) as u8, 0]);
    }
    closes(&raw(18, 3, true, b"c", &body)).await;
    closes(&raw(18, 3, true, b"c", b"\x02a\x02a\x02\x05\x00\x05\x00")).await;
}

/// What the process has resident, in bytes.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test(start_paused = true)]
async fn row_11_odd_client_ids_are_taken_or_closed_and_never_reach_the_log_raw() {
    let body = b"\x02a\x02a\x00";
    for client in [&[b'x'; 32767][..], b"a\0b\n\x1b[31mred"] {
        let (_server, mut io) = connect(&node().await);
        io.write_all(&raw(18, 3, true, client, body)).await.unwrap();
        assert!(answer(&mut io).await.is_some());
    }
    closes(&raw(18, 3, true, b"\xff\xfe", body)).await;
    let dispatch = Dispatch::new(node().await);
    let peer = Arc::new(Peer {
        connection: 1,
        listener: Arc::from("PLAINTEXT"),
        addr: "10.0.0.1:9".parse().unwrap(),
        software: Mutex::new(None),
    });
    let bytes = Bytes::from(raw(7, 0, false, b"a\n\x1b[31mred", b"")).slice(4..);
    let permit = Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned().unwrap();
    let frame = Frame { bytes, arrived: Instant::now(), permit };
    match dispatch.start(&peer, frame).await.await {
        Answer::Close(reason) => assert!(reason.contains("\\n\\u{1b}[31mred"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn pipelined_requests_are_counted_by_api_and_version() {
    let node = node().await;
    let (_server, mut io) = connect(&node);
    for version in [0, 1, 2, 2] {
        io.write_all(&raw(18, version, false, b"c", b"")).await.unwrap();
    }
    for _ in 0..4 {
        assert!(answer(&mut io).await.is_some());
    }
    let text = node.metrics.text().await;
    assert!(
        text.contains(
            "kafka_network_requestmetrics_requests_total{request=\"ApiVersions\",version=\"2\"} 2.0"
        )
    );
}

async fn call<R: Request>(io: &mut DuplexStream, version: i16, request: &R) -> R::Response {
    let frame = encode_request(5, Some(&"tester".into()), request, version).unwrap().into_bytes().unwrap();
    io.write_all(&frame).await.unwrap();
    let mut decoder = Decoder::new(answer(io).await.unwrap());
    assert_eq!(decode_response_header(&mut decoder, R::KEY.response_header_version(version)), Ok(5));
    let response = R::Response::decode(&mut decoder, version).unwrap();
    decoder.finish().unwrap();
    response
}

#[tokio::test(start_paused = true)]
async fn topics_are_created_seen_described_changed_and_deleted_over_the_wire() {
    let node = node().await;
    let (_server, mut io) = connect(&node);
    let new = |name: &str, value: &str| create_topics_request::CreatableTopic {
        name: name.into(),
        num_partitions: 3,
        replication_factor: 3,
        configs: vec![create_topics_request::CreatableTopicConfig {
            name: "retention.ms".into(),
            value: Some(value.into()),
            ..Default::default()
        }],
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![new("a", "5"), new("b", "abc")], ..Default::default() };
    let created = call(&mut io, 7, &request).await;
    assert_eq!(created.topics.iter().map(|t| t.error_code).collect::<Vec<_>>(), [0, 40]);
    let why = created.topics[1].error_message.clone().unwrap();
    assert!(why.contains("retention.ms") && why.contains("abc"), "{why}");
    let again =
        call(&mut io, 2, &CreateTopicsRequest { topics: vec![new("a", "5")], ..Default::default() }).await;
    assert_eq!(again.topics[0].error_code, 36);

    let named =
        |name: &str| metadata_request::MetadataRequestTopic { name: Some(name.into()), ..Default::default() };
    for version in 0..=13 {
        let request = MetadataRequest { topics: Some(vec![named("a")]), ..Default::default() };
        let seen = call(&mut io, version, &request).await;
        assert_eq!((seen.brokers.len(), seen.topics[0].partitions.len()), (1, 3), "v{version}");
        assert_eq!(seen.topics[0].partitions[0].leader_id, seen.brokers[0].node_id, "v{version}");
    }
    let auto = MetadataRequest { topics: Some(vec![named("on-demand")]), ..Default::default() };
    let seen = call(&mut io, 12, &auto).await;
    assert_eq!(
        (seen.topics[0].error_code, seen.topics[0].partitions.len()),
        (0, 1),
        "there in the same answer"
    );

    let change = IncrementalAlterConfigsRequest {
        resources: vec![incremental_alter_configs_request::AlterConfigsResource {
            resource_type: 2,
            resource_name: "a".into(),
            configs: vec![incremental_alter_configs_request::AlterableConfig {
                name: "cleanup.policy".into(),
                config_operation: 2,
                value: Some("compact".into()),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    assert_eq!(call(&mut io, 1, &change).await.responses[0].error_code, 0);
    for version in 0..=4 {
        let describe = DescribeConfigsRequest {
            resources: vec![describe_configs_request::DescribeConfigsResource {
                resource_type: 2,
                resource_name: "a".into(),
                configuration_keys: Some(vec!["cleanup.policy".into()]),
                ..Default::default()
            }],
            ..Default::default()
        };
        let described = call(&mut io, version, &describe).await;
        let row = &described.results[0].configs[0];
        assert_eq!((row.value.as_deref(), row.is_default), (Some("delete,compact"), false), "v{version}");
    }
    let cluster = call(&mut io, 2, &DescribeClusterRequest::default()).await;
    assert_eq!((cluster.brokers.len(), cluster.controller_id), (1, cluster.brokers[0].broker_id));

    for (version, name) in [(6, "a"), (1, "on-demand")] {
        let mut request = DeleteTopicsRequest::default();
        match version {
            6 => request.topics.push(delete_topics_request::DeleteTopicState {
                name: Some(name.into()),
                ..Default::default()
            }),
            _ => request.topic_names.push(name.into()),
        }
        assert_eq!(call(&mut io, version, &request).await.responses[0].error_code, 0);
        assert_eq!(call(&mut io, version, &request).await.responses[0].error_code, 3);
    }
}
