//! The binary as an admin meets it: what it prints, how it fails, how it stops.

// A process is watched from the real world.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tidemark_proto::client::{Client, Options};
use tidemark_proto::id::Millis;
use tidemark_proto::kafka::messages::produce_request::{PartitionProduceData, TopicProduceData};
use tidemark_proto::kafka::messages::{
    CreateTopicsRequest, MetadataRequest, ProduceRequest, create_topics_request, metadata_request,
};
use tidemark_proto::kafka::pieces::Pieces;
use tidemark_proto::record::build::Builder;

mod cli;
mod copied;
mod crowd;
mod full_disk;
mod gateway;
mod live_config;
mod metrics;
mod verify;

const NOT_LEADER: i16 = 6;
const TIDEMARK: &str = env!("CARGO_BIN_EXE_tidemark");

fn run(args: &[&str]) -> Output {
    Command::new(TIDEMARK).args(args).env("RUST_LOG", "error").output().unwrap()
}

/// It fails with `code` and one sentence on stderr that has all of `words`.
fn fails(args: &[&str], code: i32, words: &[&str]) {
    let output = run(args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    let sentence = said.lines().last().unwrap_or_default();
    assert!(sentence.starts_with("tidemark: "), "{args:?}: {said}");
    assert!(words.iter().all(|word| sentence.contains(word)), "{args:?}: {said}");
}

/// A running broker; killed when dropped.
struct Broker {
    child: Child,
    lines: Vec<String>,
}

impl Broker {
    /// Starts it and waits until it says where it is.
    fn start(args: &[&str]) -> Broker {
        let mut child = Command::new(TIDEMARK)
            .args(args)
            .env("RUST_LOG", "warn")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = Vec::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        loop {
            let mut line = String::new();
            assert!(out.read_line(&mut line).unwrap() > 0, "it ended before it was ready: {lines:?}");
            lines.push(line.trim().to_owned());
            if lines.iter().any(|line| line.contains("/metrics")) {
                break;
            }
        }
        Broker { child, lines }
    }

    fn dev(dir: &Path) -> Broker {
        Broker::dev_with(dir, &[])
    }

    /// `dev` on free ports, with settings of its own.
    fn dev_with(dir: &Path, sets: &[&str]) -> Broker {
        let mut args = vec!["dev", "--dir", dir.to_str().unwrap()];
        for set in
            ["listeners=PLAINTEXT://127.0.0.1:0", "tidemark.http.listen=127.0.0.1:0"].iter().chain(sets)
        {
            args.extend(["--set", set]);
        }
        Broker::start(&args)
    }

    /// What an HTTP path answers, head included.
    fn http(&self, path: &str) -> String {
        let url = self.address("http");
        let at = url.strip_prefix("http://").unwrap().strip_suffix("/metrics").unwrap();
        let mut io = std::net::TcpStream::connect(at).unwrap();
        std::io::Write::write_all(&mut io, format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        io.read_to_string(&mut answer).unwrap();
        answer
    }

    /// The sum of a metric over its labels; `None` where there is no such line.
    fn metric(&self, name: &str) -> Option<f64> {
        sum(&self.http("/metrics"), name)
    }

    fn address(&self, label: &str) -> String {
        let line = self.lines.iter().find(|line| line.starts_with(label)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    }

    /// SIGTERM; gives the exit code.
    fn stop(mut self) -> Option<i32> {
        signal(&self.child, "TERM");
        self.ended()
    }

    /// Waits until it has ended; gives the exit code.
    fn ended(&mut self) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it does not end");
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The sum of the lines of `name` in a scrape, over all labels.
fn sum(scrape: &str, name: &str) -> Option<f64> {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let rest = match rest.strip_prefix('{') {
            Some(labelled) => labelled.split_once('}')?.1,
            None => rest,
        };
        rest.strip_prefix(' ')?.parse::<f64>().ok()
    };
    scrape.lines().filter_map(value).reduce(|a, b| a + b)
}

/// Waits until `done` says so.
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "it never came true: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn signal(child: &Child, name: &str) {
    assert!(
        Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status().unwrap().success()
    );
}

async fn connect(broker: &Broker) -> Client {
    let (client, driver) = Client::connect(broker.address("PLAINTEXT"), Options::default()).await.unwrap();
    tokio::spawn(driver);
    client
}

async fn create_topic(client: &Client, name: &str, partitions: i32) {
    create_topic_with(client, name, partitions, &[]).await;
}

async fn create_topic_with(client: &Client, name: &str, partitions: i32, configs: &[(&str, &str)]) {
    let config = |(key, value): &(&str, &str)| create_topics_request::CreatableTopicConfig {
        name: (*key).into(),
        value: Some((*value).into()),
    };
    let topic = create_topics_request::CreatableTopic {
        name: name.into(),
        num_partitions: partitions,
        replication_factor: 1,
        configs: configs.iter().map(config).collect(),
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 5_000, ..Default::default() };
    assert_eq!(client.call(7, &request).await.unwrap().topics[0].error_code, 0);
}

/// The time of day, for records.
fn now() -> Millis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Millis(since.as_millis() as i64)
}

/// A batch of one record for partition 0 of `topic`.
fn produce_request(topic: &str, builder: Builder, bytes: usize) -> ProduceRequest {
    let mut builder = builder;
    builder.append(now(), None, Some(&vec![7; bytes]));
    let data =
        PartitionProduceData { index: 0, records: Some(Pieces::from(builder.build().bytes().clone())) };
    let topic = TopicProduceData { name: topic.into(), partition_data: vec![data], ..Default::default() };
    ProduceRequest { acks: -1, timeout_ms: 10_000, topic_data: vec![topic], ..Default::default() }
}

/// Appends one record; the code.
async fn produce(client: &Client, topic: &str, bytes: usize) -> i16 {
    send(client, &produce_request(topic, Builder::new(), bytes)).await
}

/// Sends it until the partition is open; the code.
async fn send(client: &Client, request: &ProduceRequest) -> i16 {
    for _ in 0..250 {
        let answer = client.call(9, request).await.unwrap();
        let code = answer.responses[0].partition_responses[0].error_code;
        if code != NOT_LEADER {
            return code;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the partition never opens");
}

fn named(name: &str) -> MetadataRequest {
    let topic = metadata_request::MetadataRequestTopic { name: Some(name.into()), ..Default::default() };
    MetadataRequest { topics: Some(vec![topic]), allow_auto_topic_creation: false, ..Default::default() }
}

#[tokio::test]
async fn dev_prints_where_it_is_keeps_topics_over_a_restart_and_drains_on_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(dir.path());
    let client = connect(&broker).await;
    create_topic(&client, "kept", 2).await;
    assert_eq!(broker.stop(), Some(0));
    let again = Broker::dev(dir.path());
    let client = connect(&again).await;
    let seen = client.call(12, &named("kept")).await.unwrap();
    assert_eq!((seen.topics[0].error_code, seen.topics[0].partitions.len()), (0, 2));
    assert_eq!(again.stop(), Some(0));
}

#[test]
fn of_two_processes_with_one_node_id_the_older_is_fenced_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut older = Broker::dev(dir.path());
    let newer = Broker::dev(dir.path());
    let status = older.ended();
    let mut said = String::new();
    older.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(status, Some(1), "{said}");
    assert!(
        said.lines().last().unwrap_or_default().contains("node.id 1 belongs to another process"),
        "{said}"
    );
    assert_eq!(newer.stop(), Some(0));
}

#[tokio::test]
async fn metrics_and_readiness_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(dir.path());
    assert!(broker.http("/ready").starts_with("HTTP/1.0 200"));
    let metrics = broker.http("/metrics");
    assert!(metrics.contains("tidemark_bucket_requests_total{kind=\"meta\",verb=\"put\""), "{metrics}");
    assert!(metrics.contains("kafka_controller_kafkacontroller_activecontrollercount 1.0"), "{metrics}");
}

#[test]
fn row_56_wrong_settings_end_with_2_and_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("server.properties");
    std::fs::write(&file, "tidemark.bucket=memory:\nnum.partitions=many\n").unwrap();
    let path = file.to_str().unwrap();
    fails(&["serve", "--config", path], 2, &["server.properties:2", "num.partitions", "'many'"]);
    fails(&["serve"], 2, &["tidemark.bucket is not set"]);
    fails(&["serve", "--set", "tidemark.bucket=http://x"], 2, &["tidemark.bucket", "use file:///dir"]);
    fails(&["serve", "--set", "listeners=SSL://:9093"], 2, &["only PLAINTEXT is built yet"]);
}

#[test]
fn row_56_a_busy_port_an_unwritable_directory_and_a_bucket_out_of_reach_end_with_1_and_the_mend() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = format!("listeners=PLAINTEXT://{}", held.local_addr().unwrap());
    fails(&["serve", "--set", "tidemark.bucket=memory:", "--set", &busy], 1, &["the port is in use"]);
    let free = "listeners=PLAINTEXT://127.0.0.1:0";
    let dirs = ["serve", "--set", "tidemark.bucket=memory:", "--set", free, "--set", "log.dirs=/proc/no"];
    fails(&dirs, 1, &["log.dirs", "/proc/no", "cannot be written"]);
    let no_directory = ["serve", "--set", free, "--set", "tidemark.bucket=file:///no/such/directory"];
    fails(&no_directory, 1, &["/no/such/directory"]);
    let endpoint = "tidemark.bucket.endpoint=http://127.0.0.1:1";
    let keys = ["tidemark.bucket.access.key=a", "tidemark.bucket.secret.key=b"];
    let out_of_reach = [
        "serve",
        "--set",
        free,
        "--set",
        "tidemark.bucket=s3://b",
        "--set",
        endpoint,
        "--set",
        keys[0],
        "--set",
        keys[1],
    ];
    fails(&out_of_reach, 1, &["127.0.0.1:1"]);
}

#[test]
fn row_53_two_clusters_on_one_prefix_or_one_cache_directory_are_refused() {
    let (first, second, cache) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let dirs = format!("log.dirs={}", cache.path().display());
    assert_eq!(Broker::dev_with(first.path(), &[&dirs]).stop(), Some(0));
    let again = Broker::dev_with(first.path(), &[&dirs]);
    assert_eq!(again.stop(), Some(0), "its own cluster's directory is taken again");
    let free = ["--set", "listeners=PLAINTEXT://127.0.0.1:0", "--set", "tidemark.http.listen=127.0.0.1:0"];
    let other = ["dev", "--dir", second.path().to_str().unwrap(), "--set", &dirs];
    drop(Broker::dev(second.path()));
    fails(&[&other[..], &free].concat(), 1, &["belongs to cluster", "log.dirs"]);
    let configured = ["--set", "cluster.id=4f2c9b4e-2f0d-4e5c-9a52-0d6c0f5b2a11"];
    let prefix = ["dev", "--dir", first.path().to_str().unwrap()];
    fails(&[&prefix[..], &configured, &free].concat(), 1, &["belongs to cluster", "cluster.id"]);
}

/// A store that takes connections and never answers.
#[test]
fn row_51_a_store_that_does_not_answer_is_given_up_within_half_a_minute() {
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("tidemark.bucket.endpoint=http://{}", deaf.local_addr().unwrap());
    let begun = Instant::now();
    let args = ["serve", "--set", "listeners=PLAINTEXT://127.0.0.1:0", "--set", "tidemark.bucket=s3://b/p"];
    let store = ["--set", &endpoint, "--set", "tidemark.bucket.access.key=a", "--set"];
    let last = ["tidemark.bucket.secret.key=b", "--set", "tidemark.bucket.attempt.ms=1000"];
    fails(&[&args[..], &store, &last].concat(), 1, &["s3://b/p at http://127.0.0.1", "no answer within"]);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[test]
fn every_bad_input_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let table = std::fs::read_to_string(root.join("broker/tests/BAD_INPUTS.md")).unwrap();
    let named: Vec<(&str, &str)> = table.split('`').filter_map(|quoted| quoted.split_once(".rs::")).collect();
    assert!(named.len() > 30, "{named:?}");
    for (file, test) in named {
        let text = std::fs::read_to_string(root.join(format!("{file}.rs"))).unwrap_or_default();
        assert!(text.contains(&format!("fn {test}(")), "{file}.rs has no test {test}");
    }
}

#[test]
fn the_bucket_can_be_probed_and_its_objects_printed() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = format!("tidemark.bucket=file://{}", dir.path().display());
    let probed = run(&["probe", "--set", &bucket]);
    let said = String::from_utf8_lossy(&probed.stdout);
    assert!(probed.status.success() && said.contains("can be trusted"), "{said}");
    drop(Broker::dev(dir.path()));
    let seal = "meta/00000000000000000000/00000000000000000000";
    let dumped = run(&["dump", seal, "--set", &bucket]);
    let said = String::from_utf8_lossy(&dumped.stdout);
    assert!(dumped.status.success() && said.starts_with("seal"), "{said}");
    fails(&["dump", "meta/nothing", "--set", &bucket], 1, &["holds no object"]);
}
