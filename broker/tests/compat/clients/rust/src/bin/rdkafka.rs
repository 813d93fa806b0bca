//! rdkafka for the client matrix: librdkafka as Rust programs use it.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use matrix_clients::{Failure, Outcome, PATIENCE, Request, Value, emit, failed, json, next, row, serve};
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

const OPS: [&str; 18] = [
    "create",
    "delete",
    "partitions",
    "produce",
    "consume",
    "read",
    "pause",
    "offsets",
    "committed",
    "commit",
    "member",
    "alter",
    "configs",
    "delete_records",
    "cluster",
    "topic",
    "groups",
    "delete_group",
];

type Delivered = Result<Value, (Option<i32>, String)>;

/// Passes on what became of each record.
struct Reports(mpsc::Sender<Delivered>);

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let report = match result {
            Ok(m) => {
                let at = m.timestamp().to_millis().unwrap_or(-1);
                Ok(row(m.partition(), m.offset(), m.key(), m.payload().unwrap_or_default(), at))
            }
            Err((error, _)) => Err((code_of(error), error.to_string())),
        };
        self.0.send(report).ok();
    }
}

struct Made {
    producer: ThreadedProducer<Reports>,
    reports: mpsc::Receiver<Delivered>,
}

struct RdKafka {
    base: ClientConfig,
    admin: AdminClient<DefaultClientContext>,
    producers: BTreeMap<String, Made>,
    runtime: tokio::runtime::Runtime,
}

fn main() {
    let bootstrap = std::env::args().nth(1).expect("the broker's address");
    let mut base = ClientConfig::new();
    base.set("bootstrap.servers", &bootstrap).set("reconnect.backoff.max.ms", "500").set("log_level", "2");
    let admin = base.create().expect("an admin client");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut client = RdKafka { base, admin, producers: BTreeMap::new(), runtime };
    serve(|op, request| client.answer(op, request));
}

fn code_of(error: &KafkaError) -> Option<i32> {
    error.rdkafka_error_code().map(|code| code as i32)
}

fn told(error: KafkaError) -> Failure {
    Failure(code_of(&error), error.to_string())
}

/// The one row of an admin call.
fn only<T>(rows: Vec<Result<T, (String, RDKafkaErrorCode)>>) -> Result<(), Failure> {
    match rows.into_iter().next() {
        Some(Err((what, code))) => Err(Failure(Some(code as i32), format!("{what}: {code}"))),
        _ => Ok(()),
    }
}

impl RdKafka {
    fn answer(&mut self, op: &str, request: &Request) -> Outcome {
        let (topic, group) = (request.text("topic"), request.text("group"));
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
        match op {
            "hello" => Ok(json!({
                "version": format!("0.38, librdkafka {}", rdkafka::util::get_rdkafka_version().1),
                "compressions": ["none", "gzip", "snappy", "lz4", "zstd"], "acks": ["all", "1", "0"],
                "assignors": ["range", "roundrobin", "cooperative-sticky"], "idempotent": true, "static": true,
                // Refusals of AlterConfigs are not told.
                "nameless": [40],
                "ops": OPS,
            })),
            "create" => {
                let replication = i32::try_from(request.number("replication", 1)).unwrap_or(1);
                let configs = request.pairs("configs");
                let new = NewTopic::new(topic, request.partitions(), TopicReplication::Fixed(replication));
                let new = configs.iter().fold(new, |new, (key, value)| new.set(key, value));
                let made = self.runtime.block_on(self.admin.create_topics(&[new], &options));
                only(made.map_err(told)?).map(|()| Value::Null)
            }
            "delete" => {
                let gone = self.admin.delete_topics(&[topic], &options);
                only(self.runtime.block_on(gone).map_err(told)?).map(|()| Value::Null)
            }
            "partitions" => {
                let new = NewPartitions::new(topic, request.count());
                let made = self.runtime.block_on(self.admin.create_partitions(&[new], &options));
                only(made.map_err(told)?).map(|()| Value::Null)
            }
            "delete_group" => {
                let gone = self.admin.delete_groups(&[group], &options);
                only(self.runtime.block_on(gone).map_err(told)?).map(|()| Value::Null)
            }
            "alter" => {
                let configs = request.pairs("configs");
                let change = AlterConfig::new(ResourceSpecifier::Topic(topic));
                let change = configs.iter().fold(change, |change, (key, value)| change.set(key, value));
                let done =
                    self.runtime.block_on(self.admin.alter_configs([&change], &options)).map_err(told)?;
                drop(done);
                // The library takes every row for done; so whether it was is asked.
                for _ in 0..30 {
                    let now = self.configs(topic, &options)?;
                    if configs.iter().all(|(key, value)| now["configs"][key] == json!(value)) {
                        return Ok(Value::Null);
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(failed("the value is not there, and rdkafka does not tell why"))
            }
            "configs" => self.configs(topic, &options),
            "delete_records" => {
                let mut upto = TopicPartitionList::new();
                let before = Offset::Offset(request.number("before", 0));
                upto.add_partition_offset(topic, request.partition(), before).map_err(told)?;
                let done = self.runtime.block_on(self.admin.delete_records(&upto, &options)).map_err(told)?;
                let first = done.elements().into_iter().next().ok_or_else(|| failed("no row"))?;
                first.error().map_err(told)?;
                Ok(json!({"low": first.offset().to_raw()}))
            }
            "produce" => self.produce(request),
            "consume" => self.consume(request),
            "read" => self.read(request),
            "pause" => self.pause(request),
            "offsets" => self.offsets(request),
            "committed" => {
                let consumer = self.consumer(group, &[])?;
                let mut asked = TopicPartitionList::new();
                (0..request.partitions()).for_each(|p| drop(asked.add_partition(topic, p)));
                let found = consumer.committed_offsets(asked, PATIENCE).map_err(told)?;
                let offset =
                    |p| found.find_partition(topic, p).and_then(|e| e.offset().to_raw()).filter(|o| *o >= 0);
                let offsets: Vec<i64> = (0..request.partitions()).map(|p| offset(p).unwrap_or(-1)).collect();
                Ok(json!({"offsets": offsets}))
            }
            "commit" => {
                let consumer = self.consumer(group, &[])?;
                let mut offsets = TopicPartitionList::new();
                let mut entry = offsets.add_partition(topic, request.partition());
                entry.set_offset(Offset::Offset(request.number("offset", 0))).map_err(told)?;
                entry.set_metadata(request.text("metadata"));
                consumer.commit(&offsets, CommitMode::Sync).map_err(told)?;
                Ok(Value::Null)
            }
            "member" => self.member(request),
            "cluster" => {
                let found = self.admin.inner().fetch_metadata(None, PATIENCE).map_err(told)?;
                let brokers: Vec<i32> = found.brokers().iter().map(|b| b.id()).collect();
                let topics: Vec<&str> = found.topics().iter().map(|t| t.name()).collect();
                Ok(json!({"brokers": brokers, "topics": topics}))
            }
            "topic" => {
                let found = self.admin.inner().fetch_metadata(Some(topic), PATIENCE).map_err(told)?;
                let one = |p: &rdkafka::metadata::MetadataPartition| json!({"leader": p.leader(), "replicas": p.replicas(), "isr": p.isr()});
                let rows: Vec<Value> =
                    found.topics().iter().flat_map(|t| t.partitions().iter().map(one)).collect();
                Ok(json!({"partitions": rows}))
            }
            "groups" => {
                let found = self.admin.inner().fetch_group_list(None, PATIENCE).map_err(told)?;
                Ok(json!({"groups": found.groups().iter().map(|g| g.name()).collect::<Vec<_>>()}))
            }
            other => Err(failed(format!("no operation {other}"))),
        }
    }

    fn configs(&self, topic: &str, options: &AdminOptions) -> Outcome {
        let asked = [ResourceSpecifier::Topic(topic)];
        let found = self.runtime.block_on(self.admin.describe_configs(&asked, options)).map_err(told)?;
        match found.into_iter().next() {
            Some(Ok(resource)) => {
                let entry = |e: &rdkafka::admin::ConfigEntry| (e.name.clone(), json!(e.value));
                Ok(json!({"configs": resource.entries.iter().map(entry).collect::<serde_json::Map<_, _>>()}))
            }
            Some(Err(code)) => Err(Failure(Some(code as i32), code.to_string())),
            None => Err(failed("no row")),
        }
    }

    fn produce(&mut self, request: &Request) -> Outcome {
        let (codec, acks) = (
            request.0["compression"].as_str().unwrap_or("none"),
            request.0["acks"].as_str().unwrap_or("all"),
        );
        let idempotent = request.0["idempotent"].as_bool().unwrap_or(false).to_string();
        let name = format!("{codec} {acks} {idempotent}");
        if !self.producers.contains_key(&name) {
            let (tell, reports) = mpsc::channel();
            let mut config = self.base.clone();
            config.set("compression.type", codec).set("acks", acks).set("enable.idempotence", &idempotent);
            config.set("message.max.bytes", "5000000").set("linger.ms", "5");
            let producer = config.create_with_context(Reports(tell)).map_err(told)?;
            self.producers.insert(name.clone(), Made { producer, reports });
        }
        let Made { producer, reports } = &self.producers[&name];
        for i in 0..request.count() {
            let (key, value, at) = request.record(i);
            let number = i.to_string();
            let headers = OwnedHeaders::new().insert(Header { key: "n", value: Some(&number) });
            let mut record: BaseRecord<'_, str, [u8]> =
                BaseRecord::to(request.text("topic")).payload(value.as_slice()).headers(headers);
            (record.key, record.partition) = (key.as_deref(), Some(request.partition()).filter(|p| *p >= 0));
            record.timestamp = at;
            producer.send(record).map_err(|(error, _)| told(error))?;
        }
        producer.flush(PATIENCE).map_err(told)?;
        let mut rows = Vec::new();
        for _ in 0..request.count() {
            let mut delivered =
                reports.recv_timeout(PATIENCE).map_err(failed)?.map_err(|(c, m)| Failure(c, m))?;
            if acks == "0" {
                delivered[1] = json!(-1);
            }
            rows.push(delivered);
        }
        Ok(json!({"records": rows}))
    }

    fn consumer(&self, group: &str, more: &[(&str, &str)]) -> Result<BaseConsumer, Failure> {
        let mut config = self.base.clone();
        config.set("group.id", if group.is_empty() { "unused" } else { group });
        config.set("auto.offset.reset", "earliest").set("enable.auto.commit", "false");
        config.set("fetch.wait.max.ms", "100");
        for (key, value) in more {
            config.set(*key, *value);
        }
        config.create().map_err(told)
    }

    fn consume(&self, request: &Request) -> Outcome {
        let topic = request.text("topic");
        let consumer = self.consumer(request.text("group"), &[])?;
        consumer.subscribe(&[topic]).map_err(told)?;
        let records = poll(&consumer, request.count(), PATIENCE)?;
        let mut upto = BTreeMap::new();
        for record in &records {
            upto.insert(record[0].as_i64().unwrap_or(0), record[1].as_i64().unwrap_or(0) + 1);
        }
        let mut offsets = TopicPartitionList::new();
        for (partition, offset) in upto {
            let partition = i32::try_from(partition).unwrap_or(0);
            offsets.add_partition_offset(topic, partition, Offset::Offset(offset)).map_err(told)?;
        }
        consumer.commit(&offsets, CommitMode::Sync).map_err(told)?;
        Ok(json!({"records": records}))
    }

    fn read(&self, request: &Request) -> Outcome {
        let consumer = self.consumer("", &[])?;
        let mut from = TopicPartitionList::new();
        let offset = Offset::Offset(request.number("offset", 0));
        from.add_partition_offset(request.text("topic"), request.partition(), offset).map_err(told)?;
        consumer.assign(&from).map_err(told)?;
        Ok(json!({"records": poll(&consumer, request.count(), PATIENCE)?}))
    }

    fn pause(&self, request: &Request) -> Outcome {
        let (topic, consumer) = (request.text("topic"), self.consumer("", &[])?);
        let others = request.0["others"].as_array().cloned().unwrap_or_default();
        let others = others.iter().filter_map(|p| i32::try_from(p.as_i64()?).ok());
        let mut all = TopicPartitionList::new();
        for partition in others.chain([request.partition()]) {
            all.add_partition_offset(topic, partition, Offset::Beginning).map_err(told)?;
        }
        consumer.assign(&all).map_err(told)?;
        let mut one = TopicPartitionList::new();
        one.add_partition(topic, request.partition());
        consumer.pause(&one).map_err(told)?;
        let paused = poll(&consumer, request.count() * all.count(), Duration::from_secs(2))?;
        consumer.resume(&one).map_err(told)?;
        Ok(json!({"paused": paused, "resumed": poll(&consumer, request.count(), PATIENCE)?}))
    }

    fn offsets(&self, request: &Request) -> Outcome {
        let (topic, consumer) = (request.text("topic"), self.consumer("", &[])?);
        let mut offsets = Vec::new();
        for partition in 0..request.partitions() {
            let ends = || consumer.fetch_watermarks(topic, partition, PATIENCE).map_err(told);
            offsets.push(match (request.text("at"), request.0["at"].as_i64()) {
                ("earliest", _) => ends()?.0,
                (_, Some(at)) => {
                    let mut asked = TopicPartitionList::new();
                    asked.add_partition_offset(topic, partition, Offset::Offset(at)).map_err(told)?;
                    let found = consumer.offsets_for_times(asked, PATIENCE).map_err(told)?;
                    let offset = found.elements().first().map(|e| e.offset());
                    offset.and_then(|o| o.to_raw()).filter(|o| *o >= 0).unwrap_or(-1)
                }
                _ => ends()?.1,
            });
        }
        Ok(json!({"offsets": offsets}))
    }

    fn member(&self, request: &Request) -> ! {
        let session = request.number("session_ms", 3000).to_string();
        let mut more = vec![
            ("session.timeout.ms", session.as_str()),
            ("heartbeat.interval.ms", "300"),
            ("topic.metadata.refresh.interval.ms", "1000"),
        ];
        let named = [("partition.assignment.strategy", "assignor"), ("group.instance.id", "instance")];
        more.extend(
            named.iter().map(|(key, field)| (*key, request.text(field))).filter(|(_, v)| !v.is_empty()),
        );
        let (leave, leaving) = mpsc::channel();
        std::thread::spawn(move || {
            next();
            leave.send(()).ok();
        });
        let run = || -> Result<(), Failure> {
            let consumer = self.consumer(request.text("group"), &more)?;
            consumer.subscribe(&[request.text("topic")]).map_err(told)?;
            let mut last = None;
            while matches!(leaving.try_recv(), Err(mpsc::TryRecvError::Empty)) {
                let message = consumer.poll(Duration::from_millis(50));
                let held = consumer.assignment().map_err(told)?;
                let mut partitions: Vec<i32> = held.elements().iter().map(|e| e.partition()).collect();
                partitions.sort_unstable();
                if last.as_ref() != Some(&partitions) {
                    emit(&json!({"event": "assigned", "partitions": partitions}));
                    last = Some(partitions);
                }
                if let Some(Ok(message)) = message {
                    let key = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
                    emit(&json!({"event": "read", "keys": [key]}));
                    // A rebalance may come between; what is not committed is read again.
                    consumer.commit_message(&message, CommitMode::Async).ok();
                }
            }
            Ok(())
        };
        let code = match run() {
            Ok(()) => 0,
            Err(Failure(code, message)) => {
                emit(&json!({"error": code, "message": message}));
                1
            }
        };
        std::process::exit(code)
    }
}

/// Reads so many records, or what comes in the time.
fn poll(consumer: &BaseConsumer, count: usize, wait: Duration) -> Result<Vec<Value>, Failure> {
    let (mut read, end) = (Vec::new(), Instant::now() + wait);
    while read.len() < count && Instant::now() < end {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let m = message.map_err(told)?;
        let at = m.timestamp().to_millis().unwrap_or(-1);
        read.push(row(m.partition(), m.offset(), m.key(), m.payload().unwrap_or_default(), at));
    }
    Ok(read)
}
