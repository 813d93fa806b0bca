//! rskafka for the client matrix. It speaks few APIs and has no groups.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use matrix_clients::{Failure, Outcome, PATIENCE, Request, failed, json, row, serve};
use rskafka::client::error::{Error, ProtocolError};
use rskafka::client::partition::{Compression, OffsetAt, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};
use rskafka::record::Record;

fn main() {
    let bootstrap = std::env::args().nth(1).expect("the broker's address");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let client = runtime.block_on(ClientBuilder::new(vec![bootstrap]).build()).expect("a broker");
    serve(|op, request| {
        runtime.block_on(async {
            let work = tokio::time::timeout(PATIENCE, answer(&client, op, request));
            work.await.unwrap_or_else(|_| Err(failed("it took too long")))
        })
    });
}

async fn answer(client: &Client, op: &str, request: &Request) -> Outcome {
    let topic = request.text("topic");
    match op {
        "hello" => Ok(json!({
            "version": "0.6.0", "idempotent": false, "static": false, "acks": ["all"], "assignors": [],
            "compressions": ["none", "gzip", "snappy", "lz4", "zstd"],
            "configless": ["create"],
            "ops": ["create", "delete", "produce", "read", "offsets", "delete_records", "cluster"],
        })),
        "create" => {
            // It cannot leave the replication factor to the broker.
            let replication = i16::try_from(request.number("replication", 1)).unwrap_or(1);
            let admin = client.controller_client().map_err(told)?;
            admin.create_topic(topic, request.partitions(), replication, 10_000).await.map_err(told)?;
            Ok(json!({}))
        }
        "delete" => {
            let admin = client.controller_client().map_err(told)?;
            admin.delete_topic(topic, 10_000).await.map_err(told)?;
            Ok(json!({}))
        }
        "produce" => produce(client, topic, request).await,
        "read" => read(client, topic, request).await,
        "offsets" => {
            let at = match (request.text("at"), request.0["at"].as_i64()) {
                ("earliest", _) => OffsetAt::Earliest,
                (_, Some(at)) => OffsetAt::Timestamp(time(at)),
                _ => OffsetAt::Latest,
            };
            let mut offsets = Vec::new();
            for partition in 0..request.partitions() {
                offsets.push(open(client, topic, partition).await?.get_offset(at).await.map_err(told)?);
            }
            Ok(json!({"offsets": offsets}))
        }
        "delete_records" => {
            let partition = open(client, topic, request.partition()).await?;
            partition.delete_records(request.number("before", 0), 10_000).await.map_err(told)?;
            Ok(json!({}))
        }
        "cluster" => {
            // It tells topics, not brokers.
            let topics = client.list_topics().await.map_err(told)?;
            Ok(json!({"brokers": [1], "topics": topics.into_iter().map(|t| t.name).collect::<Vec<_>>()}))
        }
        other => Err(failed(format!("rskafka cannot {other}"))),
    }
}

fn told(error: Error) -> Failure {
    let code = match &error {
        // The library keeps the number to itself.
        Error::ServerError { protocol_error, .. } => {
            (-1..200).find(|code| ProtocolError::new(*code).as_ref() == Some(protocol_error)).map(i32::from)
        }
        _ => None,
    };
    Failure(code, error.to_string())
}

fn time(at: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(at).expect("a time")
}

async fn open(client: &Client, topic: &str, partition: i32) -> Result<Arc<PartitionClient>, Failure> {
    let opened = client.partition_client(topic, partition, UnknownTopicHandling::Error).await;
    opened.map(Arc::new).map_err(told)
}

async fn produce(client: &Client, topic: &str, request: &Request) -> Outcome {
    let compression = match request.text("compression") {
        "gzip" => Compression::Gzip,
        "snappy" => Compression::Snappy,
        "lz4" => Compression::Lz4,
        "zstd" => Compression::Zstd,
        _ => Compression::NoCompression,
    };
    let known = client.list_topics().await.map_err(told)?.into_iter().find(|known| known.name == topic);
    let count = known.map_or(1, |known| known.partitions.len()) as i32;
    let mut sent: BTreeMap<i32, Vec<Record>> = BTreeMap::new();
    for i in 0..request.count() {
        let (key, value, at) = request.record(i);
        let at = at.map_or_else(|| DateTime::from(std::time::SystemTime::now()), time);
        let headers = BTreeMap::from([("n".to_owned(), i.to_string().into_bytes())]);
        let partition = if request.partition() >= 0 { request.partition() } else { i as i32 % count };
        let record = Record { key: key.map(String::into_bytes), value: Some(value), headers, timestamp: at };
        sent.entry(partition).or_default().push(record);
    }
    let mut rows = Vec::new();
    for (partition, records) in sent {
        let opened = open(client, topic, partition).await?;
        let offsets = opened.produce(records.clone(), compression).await.map_err(told)?;
        for (record, offset) in records.iter().zip(offsets) {
            let value = record.value.as_deref().unwrap_or_default();
            rows.push(row(
                partition,
                offset,
                record.key.as_deref(),
                value,
                record.timestamp.timestamp_millis(),
            ));
        }
    }
    Ok(json!({"records": rows}))
}

async fn read(client: &Client, topic: &str, request: &Request) -> Outcome {
    let (partition, count) = (request.partition(), request.count());
    let opened = open(client, topic, partition).await?;
    let (mut rows, mut offset) = (Vec::new(), request.number("offset", 0));
    while rows.len() < count {
        let (records, _) = opened.fetch_records(offset, 1..1_000_000, 100).await.map_err(told)?;
        for found in records.into_iter().take(count - rows.len()) {
            let (record, value) = (&found.record, found.record.value.as_deref().unwrap_or_default());
            rows.push(row(
                partition,
                found.offset,
                record.key.as_deref(),
                value,
                record.timestamp.timestamp_millis(),
            ));
            offset = found.offset + 1;
        }
    }
    Ok(json!({"records": rows}))
}
