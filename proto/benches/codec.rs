//! What a request costs on its way in and a response on its way out, records aside: they are slices and
//! pieces, so the cost must not grow with them.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tidemark_proto::kafka::frame::{decode_request, encode_request, encode_response};
use tidemark_proto::kafka::messages::{
    FetchRequest, FetchResponse, MetadataResponse, ProduceRequest, fetch_request, fetch_response,
    metadata_response, produce_request,
};
use tidemark_proto::kafka::pieces::Pieces;
use tidemark_proto::kafka::wire::Request;

const TOPICS: i32 = 5;
const PARTITIONS: i32 = 10;
const RECORDS: [usize; 2] = [1 << 10, 64 << 10];

fn frame<R: Request>(request: &R, version: i16) -> Bytes {
    let frame = encode_request(1, Some(&"bench".into()), request, version).expect("valid");
    frame.into_bytes().expect("in memory").slice(4..)
}

fn produce(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode-produce-50-partitions");
    for size in RECORDS {
        let partition = |index| produce_request::PartitionProduceData {
            index,
            records: Some(Pieces::from(Bytes::from(vec![7; size]))),
        };
        let topic = |_| produce_request::TopicProduceData {
            partition_data: (0..PARTITIONS).map(partition).collect(),
            ..Default::default()
        };
        let request = ProduceRequest { topic_data: (0..TOPICS).map(topic).collect(), ..Default::default() };
        let frame = frame(&request, 13);
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| decode_request::<ProduceRequest>(black_box(frame.clone())).expect("valid"))
        });
    }
}

fn fetch(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode-fetch-50-partitions");
    for size in RECORDS {
        let partition = |partition_index| fetch_response::PartitionData {
            partition_index,
            records: Some(Pieces::from(Bytes::from(vec![7; size]))),
            ..Default::default()
        };
        let topic = |_| fetch_response::FetchableTopicResponse {
            partitions: (0..PARTITIONS).map(partition).collect(),
            ..Default::default()
        };
        let response = FetchResponse { responses: (0..TOPICS).map(topic).collect(), ..Default::default() };
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| encode_response(1, 1, black_box(&response), 17).expect("valid"))
        });
    }
    drop(group);
    let partition = |partition| fetch_request::FetchPartition { partition, ..Default::default() };
    let topic = |_| fetch_request::FetchTopic {
        partitions: (0..PARTITIONS).map(partition).collect(),
        ..Default::default()
    };
    let frame = frame(&FetchRequest { topics: (0..TOPICS).map(topic).collect(), ..Default::default() }, 17);
    c.bench_function("decode-fetch-50-partitions", |b| {
        b.iter(|| decode_request::<FetchRequest>(black_box(frame.clone())).expect("valid"))
    });
}

fn metadata(c: &mut Criterion) {
    let partition = |partition_index| metadata_response::MetadataResponsePartition {
        partition_index,
        replica_nodes: vec![1, 2, 3],
        isr_nodes: vec![1, 2, 3],
        ..Default::default()
    };
    let topic = |index: i32| metadata_response::MetadataResponseTopic {
        name: Some(format!("topic-{index}").into()),
        partitions: (0..PARTITIONS).map(partition).collect(),
        ..Default::default()
    };
    let response = MetadataResponse { topics: (0..1_000).map(topic).collect(), ..Default::default() };
    c.bench_function("encode-metadata-10000-partitions", |b| {
        b.iter(|| encode_response(1, 1, black_box(&response), 13).expect("valid"))
    });
}

criterion_group!(benches, produce, fetch, metadata);
criterion_main!(benches);
