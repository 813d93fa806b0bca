//! Clients that take and do not give, by the thousand, against a real process: idle, deaf, slow.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidemark_proto::client::Client;
use tidemark_proto::kafka::frame::encode_request;
use tidemark_proto::kafka::messages::FetchRequest;
use tidemark_proto::kafka::messages::fetch_request::{FetchPartition, FetchTopic};

use crate::{Broker, connect, create_topic, eventually, produce};

/// Connections of the crowd.
const CROWD: usize = 10_000;
/// Descriptors that a process needs besides.
const SPARE: usize = 500;
/// What one idle connection may take of the broker's memory.
const IDLE_BYTES_MAX: f64 = 12.0 * 1024.0;

/// How many connections this process, and the one it starts, may hold; asks for enough.
fn crowd() -> usize {
    let allowed = || -> usize {
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap_or(usize::MAX)
    };
    if allowed() < CROWD + SPARE {
        let pid = std::process::id().to_string();
        let wanted = format!("--nofile={}:", CROWD + SPARE);
        let _ = std::process::Command::new("prlimit").args(["--pid", &pid, &wanted]).status();
    }
    let crowd = CROWD.min(allowed() - SPARE);
    assert!(crowd > 100, "too few descriptors to tell anything: ulimit -n {}", CROWD + SPARE);
    crowd
}

async fn quick(client: &Client, what: &str) {
    let begun = Instant::now();
    assert_eq!(produce(client, "t", 100).await, 0, "{what}");
    assert!(begun.elapsed() < Duration::from_secs(2), "{what}: {:?}", begun.elapsed());
}

#[tokio::test]
async fn row_5_ten_thousand_idle_connections_cost_little_and_harm_nobody() {
    let crowd = crowd();
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev_with(dir.path(), &["socket.listen.backlog.size=4096"]);
    let client = connect(&broker).await;
    create_topic(&client, "t", 1).await;
    quick(&client, "before").await;
    let resident = || broker.metric("process_resident_memory_bytes").unwrap();
    let open = || broker.metric("kafka_server_socket_server_metrics_connection_count").unwrap();
    let before = resident();
    let address = broker.address("PLAINTEXT");
    let idle: Vec<TcpStream> = (0..crowd).map(|_| TcpStream::connect(&address).unwrap()).collect();
    eventually("all are taken", || open() == (crowd + 1) as f64);
    quick(&client, "beside them").await;
    quick(&connect(&broker).await, "a newcomer").await;
    let each = (resident() - before) / crowd as f64;
    println!("{crowd} idle connections: {each:.0} bytes of memory each");
    assert!(each < IDLE_BYTES_MAX, "{each:.0} bytes each");
    drop(idle);
    eventually("all are gone", || open() <= 2.0);
    quick(&client, "after").await;
    assert_eq!(broker.stop(), Some(0));
}

/// A fetch of all there is, as bytes.
fn fetch_frame(correlation: i32) -> Bytes {
    let partition = FetchPartition {
        current_leader_epoch: -1,
        partition_max_bytes: i32::MAX,
        ..FetchPartition::default()
    };
    let topic = FetchTopic { topic: "t".into(), partitions: vec![partition], ..FetchTopic::default() };
    let request = FetchRequest {
        max_bytes: i32::MAX,
        session_epoch: -1,
        topics: vec![topic],
        ..FetchRequest::default()
    };
    encode_request(correlation, None, &request, 12).unwrap().into_bytes().unwrap()
}

#[tokio::test]
async fn a_client_that_fetches_and_never_reads_holds_one_answer_and_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev_with(dir.path(), &["connections.max.idle.ms=2000"]);
    let client = connect(&broker).await;
    create_topic(&client, "t", 1).await;
    for _ in 0..8 {
        assert_eq!(produce(&client, "t", 1_000_000).await, 0);
    }
    let mut deaf = TcpStream::connect(broker.address("PLAINTEXT")).unwrap();
    deaf.set_nonblocking(true).unwrap();
    let asked = (0..2_000).take_while(|at| deaf.write_all(&fetch_frame(*at)).is_ok()).count();
    assert!(asked > 20, "it asked for {asked} times 8 MB");
    let unread = || broker.metric("tidemark_answer_bytes_unread").unwrap();
    eventually("an answer waits for it", || unread() > 0.0);
    for _ in 0..10 {
        assert!(unread() < 20e6, "{} bytes wait", unread());
        quick(&client, "beside it").await;
    }
    eventually("it is cut", || unread() == 0.0);
    assert!(broker.metric("kafka_network_socketserver_expiredconnectionskilledcount_total") > Some(0.0));
}

#[test]
fn row_4_clients_that_send_a_request_byte_by_byte_are_cut_in_a_real_process() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::dev_with(dir.path(), &["tidemark.connection.partial.frame.ms=1000"]);
    let begun = Instant::now();
    let mut slow: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut io = TcpStream::connect(broker.address("PLAINTEXT")).unwrap();
            io.set_read_timeout(Some(Duration::from_secs(9))).unwrap();
            io.write_all(&[0, 0, 1, 0, 0]).unwrap();
            io
        })
        .collect();
    while begun.elapsed() < Duration::from_millis(900) {
        slow.iter_mut().for_each(|io| drop(io.write_all(&[0])));
        std::thread::sleep(Duration::from_millis(200));
    }
    for io in &mut slow {
        assert!(matches!(io.read(&mut [0]), Ok(0)), "it is closed, unanswered");
    }
    let cut = broker.metric("kafka_network_socketserver_expiredconnectionskilledcount_total");
    assert_eq!(cut, Some(200.0));
}
