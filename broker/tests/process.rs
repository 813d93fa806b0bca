//! The binary as an admin meets it: what it prints, how it fails, how it stops.

// A process is watched from the real world.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tidemark_proto::client::{Client, Options};
use tidemark_proto::kafka::messages::{
    CreateTopicsRequest, MetadataRequest, create_topics_request, metadata_request,
};

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
        let dir = dir.to_str().unwrap();
        let kafka = "listeners=PLAINTEXT://127.0.0.1:0";
        Broker::start(&["dev", "--dir", dir, "--set", kafka, "--set", "tidemark.http.listen=127.0.0.1:0"])
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

fn named(name: &str) -> MetadataRequest {
    let topic = metadata_request::MetadataRequestTopic { name: Some(name.into()), ..Default::default() };
    MetadataRequest { topics: Some(vec![topic]), allow_auto_topic_creation: false, ..Default::default() }
}

#[tokio::test]
async fn dev_prints_where_it_is_keeps_topics_over_a_restart_and_drains_on_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev(dir.path());
    let client = connect(&broker).await;
    let topic = create_topics_request::CreatableTopic {
        name: "kept".into(),
        num_partitions: 2,
        replication_factor: 1,
        ..Default::default()
    };
    let created =
        client.call(7, &CreateTopicsRequest { topics: vec![topic], ..Default::default() }).await.unwrap();
    assert_eq!(created.topics[0].error_code, 0);
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
    let url = broker.address("http");
    let at = url.strip_prefix("http://").unwrap().strip_suffix("/metrics").unwrap();
    let get = |path: &str| {
        let mut io = std::net::TcpStream::connect(at).unwrap();
        std::io::Write::write_all(&mut io, format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        io.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(get("/ready").starts_with("HTTP/1.0 200"));
    let metrics = get("/metrics");
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
