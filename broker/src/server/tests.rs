//! The edge against raw bytes: pipes under paused time, and real sockets where the kernel matters.

use std::fs::File;
use std::io::Write as _;

use bytes::{Bytes, BytesMut};
use tidemark_proto::kafka::pieces::FileSlice;
use tidemark_tiering::watch;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpStream;

use super::*;

/// A frame is `[key: i16][id: i32][command: u8]…`. Commands: `e` echo at once; `w` echo when the gate opens;
/// `n` no answer; `c` close; `b` answer with the big body; `f` answer with the file; `m` mute for a second.
struct Script {
    gate: watch::Receiver<bool>,
    started: Mutex<Vec<i32>>,
    big: usize,
    file: Option<FileSlice>,
}

#[async_trait]
impl Service for Script {
    async fn start(&self, _peer: &Arc<Peer>, frame: Frame) -> Finish {
        let Frame { bytes: frame, permit, .. } = frame;
        let id = i32::from_be_bytes(frame[2..6].try_into().unwrap());
        self.started.lock().push(id);
        let (command, big, file, mut gate) = (frame[6], self.big, self.file.clone(), self.gate.clone());
        Box::pin(async move {
            let mut reply = Pieces::from(Bytes::copy_from_slice(&id.to_be_bytes()));
            match command {
                b'n' => return Answer::None { mute: Duration::ZERO },
                b'c' => return Answer::Close("as asked".into()),
                b'w' => {
                    gate.wait_for(|open| *open).await.unwrap();
                }
                b'b' => reply.push(Bytes::from(vec![7; big])),
                b'f' => reply.push(file.unwrap()),
                _ => {}
            }
            drop(permit);
            let mut frame = Pieces::from(Bytes::from((reply.len() as u32).to_be_bytes().to_vec()));
            frame.extend(reply);
            let mute = Duration::from_secs(if command == b'm' { 1 } else { 0 });
            Answer::Reply { frame, mute }
        })
    }

    fn is_heavy(&self, frame: &[u8]) -> bool {
        frame[..2] == [0, 1]
    }
}

struct Edge {
    server: Server,
    script: Arc<Script>,
    gate: watch::Sender<bool>,
}

impl Edge {
    fn new(limits: Limits) -> Edge {
        Edge::with(limits, 0, None)
    }

    fn with(limits: Limits, big: usize, file: Option<FileSlice>) -> Edge {
        let (gate, opened) = watch::channel(false);
        let script = Arc::new(Script { gate: opened, started: Mutex::default(), big, file });
        let server = Server::new(script.clone(), limits, &Seams::seeded(1));
        Edge { server, script, gate }
    }

    fn pipe(&self) -> DuplexStream {
        let (ours, theirs) = duplex(1 << 16);
        self.server.attach(Transport::stream(theirs), "PLAINTEXT", "10.0.0.1:999".parse().unwrap());
        ours
    }

    async fn socket(&self) -> TcpStream {
        let bound = Bound::bind("PLAINTEXT", "127.0.0.1", 0, 50).unwrap();
        let addr = bound.addr();
        self.server.listen(bound);
        TcpStream::connect(addr).await.unwrap()
    }

    fn protocol_errors(&self) -> u64 {
        self.server.counts().protocol_errors.load(Ordering::Relaxed)
    }

    fn expired(&self) -> u64 {
        self.server.counts().expired.load(Ordering::Relaxed)
    }
}

fn request(key: i16, id: i32, command: u8) -> Vec<u8> {
    padded(key, id, command, 0)
}

fn padded(key: i16, id: i32, command: u8, padding: usize) -> Vec<u8> {
    let mut frame = ((7 + padding) as u32).to_be_bytes().to_vec();
    frame.extend(key.to_be_bytes());
    frame.extend(id.to_be_bytes());
    frame.push(command);
    frame.resize(frame.len() + padding, 0);
    frame
}

async fn answer(io: &mut (impl AsyncReadExt + Unpin)) -> (i32, usize) {
    let length = io.read_u32().await.unwrap() as usize;
    let id = io.read_i32().await.unwrap();
    let mut body = vec![0; length - 4];
    io.read_exact(&mut body).await.unwrap();
    (id, body.len())
}

async fn ended(io: &mut (impl AsyncReadExt + Unpin)) -> bool {
    let mut rest = BytesMut::new();
    matches!(io.read_buf(&mut rest).await, Ok(0) | Err(_))
}

/// What the process has resident, in bytes.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test(start_paused = true)]
async fn pipelined_requests_start_in_order_and_are_answered_in_request_order() {
    let edge = Edge::new(Limits::default());
    let mut io = edge.pipe();
    io.write_all(
        &[request(0, 1, b'w'), request(0, 2, b'e'), request(0, 3, b'n'), request(0, 4, b'e')].concat(),
    )
    .await
    .unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(*edge.script.started.lock(), [1, 2, 3, 4], "later requests start though the first waits");
    assert!(tokio::time::timeout(Duration::from_secs(1), io.read_u8()).await.is_err(), "none overtakes");
    edge.gate.send_replace(true);
    assert_eq!([answer(&mut io).await.0, answer(&mut io).await.0, answer(&mut io).await.0], [1, 2, 4]);
}

#[tokio::test(start_paused = true)]
async fn at_most_the_limit_of_requests_is_in_flight() {
    let edge = Edge::new(Limits { in_flight_max: 8, ..Limits::default() });
    let mut io = edge.pipe();
    for id in 0..20 {
        io.write_all(&request(0, id, b'w')).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(edge.script.started.lock().len(), 8);
    edge.gate.send_replace(true);
    for id in 0..20 {
        assert_eq!(answer(&mut io).await.0, id);
    }
}

#[tokio::test(start_paused = true)]
async fn only_one_heavy_request_is_in_flight() {
    let edge = Edge::new(Limits::default());
    let mut io = edge.pipe();
    io.write_all(&[request(1, 1, b'w'), request(1, 2, b'w')].concat()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(*edge.script.started.lock(), [1]);
    edge.gate.send_replace(true);
    assert_eq!((answer(&mut io).await.0, answer(&mut io).await.0), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn row_1_absurd_frame_lengths_close_the_connection_and_take_no_memory() {
    let edge = Edge::new(Limits::default());
    for length in [0, -1, i32::MIN, i32::MAX, (100 << 20) + 1] {
        let before = resident();
        let mut io = edge.pipe();
        io.write_all(&length.to_be_bytes()).await.unwrap();
        assert!(ended(&mut io).await, "length {length}");
        assert!(resident() < before + (1 << 20));
    }
    assert_eq!(edge.protocol_errors(), 5);
}

#[tokio::test(start_paused = true)]
async fn row_1_a_claimed_length_takes_neither_memory_nor_budget_before_bytes_come() {
    let edge = Edge::new(Limits::default());
    let before = resident();
    let mut pipes = Vec::new();
    for _ in 0..100 {
        let mut io = edge.pipe();
        io.write_all(&(100_i32 << 20).to_be_bytes()).await.unwrap();
        pipes.push(io);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(edge.server.queued_bytes(), 0);
    assert!(resident() < before + (16 << 20), "ten gigabytes were claimed");
}

#[tokio::test(start_paused = true)]
async fn row_2_other_protocols_are_recognised_and_closed() {
    let edge = Edge::new(Limits { frame_bytes_max: i32::MAX as usize, ..Limits::default() });
    let others: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"PRI * HTTP/2.0",
    ];
    for (n, bytes) in others.iter().enumerate() {
        let mut io = edge.pipe();
        io.write_all(bytes).await.unwrap();
        assert!(ended(&mut io).await);
        assert_eq!(edge.protocol_errors(), n as u64 + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn row_4_half_a_frame_then_silence_is_closed_at_the_deadline() {
    let edge = Edge::new(Limits::default());
    for half in [&[0, 0][..], &[0, 0, 1, 0, 5, 5][..]] {
        let mut io = edge.pipe();
        let start = Instant::now();
        io.write_all(half).await.unwrap();
        assert!(ended(&mut io).await);
        assert_eq!(start.elapsed().as_secs(), 30);
    }
    assert_eq!(edge.expired(), 2);
}

#[tokio::test(start_paused = true)]
async fn row_4_a_byte_a_second_is_closed_at_the_deadline() {
    let edge = Edge::new(Limits::default());
    let mut io = edge.pipe();
    let start = Instant::now();
    io.write_all(&1000_i32.to_be_bytes()).await.unwrap();
    while io.write_all(&[0]).await.is_ok() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(start.elapsed() < Duration::from_secs(33), "must have been cut");
    }
    assert_eq!(edge.expired(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_large_frame_on_a_slow_line_is_given_its_time() {
    let edge = Edge::new(Limits::default());
    let mut io = edge.pipe();
    let start = Instant::now();
    for part in padded(0, 9, b'e', 4 << 20).chunks(32 << 10) {
        io.write_all(part).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(answer(&mut io).await.0, 9);
    assert!(start.elapsed() > Duration::from_secs(120));
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_but_a_waiting_one_is_not() {
    let edge = Edge::new(Limits { idle: Duration::from_secs(10), ..Limits::default() });
    let (mut idle, mut waiting) = (edge.pipe(), edge.pipe());
    waiting.write_all(&request(0, 1, b'w')).await.unwrap();
    let start = Instant::now();
    assert!(ended(&mut idle).await);
    assert_eq!(start.elapsed().as_secs(), 10);
    tokio::time::sleep(Duration::from_secs(60)).await;
    edge.gate.send_replace(true);
    assert_eq!(answer(&mut waiting).await.0, 1);
    assert!(ended(&mut waiting).await);
}

#[tokio::test]
async fn row_5_ten_thousand_idle_connections_harm_nobody() {
    let edge = Edge::new(Limits::default());
    let before = resident();
    let idle: Vec<_> = (0..10_000)
        .map(|_| {
            let (ours, theirs) = duplex(64);
            edge.server.attach(Transport::stream(theirs), "PLAINTEXT", "10.0.0.1:999".parse().unwrap());
            ours
        })
        .collect();
    let mut io = edge.socket().await;
    io.write_all(&request(0, 5, b'e')).await.unwrap();
    assert_eq!(answer(&mut io).await.0, 5);
    assert_eq!(edge.server.connections(), 10_001);
    assert!(resident() < before + (120 << 20), "twelve kilobytes each");
    drop(idle);
}

#[tokio::test(start_paused = true)]
async fn row_5_connections_are_refused_only_past_the_limit_of_their_address() {
    let edge = Edge::new(Limits {
        connections: ConnectionLimits { all: 5, per_ip: 3, ..ConnectionLimits::default() },
        ..Limits::default()
    });
    let open = |addr: &str| {
        let (ours, theirs) = duplex(64);
        edge.server.attach(Transport::stream(theirs), "PLAINTEXT", addr.parse().unwrap());
        ours
    };
    let kept: Vec<_> = (0..3).map(|_| open("10.0.0.1:1")).collect();
    assert!(ended(&mut open("10.0.0.1:2")).await, "the fourth of one address");
    let other = open("10.0.0.2:1");
    assert_eq!(edge.server.connections(), 4);
    drop(kept);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(edge.server.connections(), 1);
    let again = open("10.0.0.1:3");
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(edge.server.connections(), 2);
    assert_eq!(edge.server.counts().refused.load(Ordering::Relaxed), 1);
    drop((other, again));
}

#[tokio::test(start_paused = true)]
async fn a_close_answer_comes_after_the_answers_before_it() {
    let edge = Edge::new(Limits::default());
    let mut io = edge.pipe();
    io.write_all(&[request(0, 1, b'w'), request(0, 2, b'c'), request(0, 3, b'e')].concat()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    edge.gate.send_replace(true);
    assert_eq!(answer(&mut io).await.0, 1);
    assert!(ended(&mut io).await);
}

#[tokio::test(start_paused = true)]
async fn a_muted_connection_is_answered_at_once_and_read_later() {
    let edge = Edge::new(Limits::default());
    let mut io = edge.pipe();
    io.write_all(&request(0, 1, b'm')).await.unwrap();
    let start = Instant::now();
    assert_eq!(answer(&mut io).await.0, 1);
    assert!(start.elapsed() < Duration::from_millis(10));
    // One more may be on its way in already; the next is held back.
    io.write_all(&[request(0, 2, b'e'), request(0, 3, b'e')].concat()).await.unwrap();
    assert_eq!((answer(&mut io).await.0, answer(&mut io).await.0), (2, 3));
    assert!(start.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_client_that_never_reads_harms_no_one_and_is_cut() {
    let limits = Limits {
        in_flight_max: 4,
        queued_bytes_max: 1 << 20,
        write_stall: Duration::from_millis(700),
        ..Limits::default()
    };
    let edge = Edge::with(limits, 8 << 20, None);
    let mut deaf = edge.socket().await;
    for id in 0..20 {
        let _ = deaf.write_all(&padded(0, id, b'b', 10_000)).await;
    }
    let mut other = edge.socket().await;
    for id in 0..50 {
        other.write_all(&padded(0, id, b'e', 500_000)).await.unwrap();
        assert_eq!(answer(&mut other).await.0, id, "the budget is not held by unread answers");
    }
    assert!(edge.server.unread_bytes() <= 5 * ((8 << 20) + 8), "{}", edge.server.unread_bytes());
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(edge.expired(), 1);
    assert_eq!(edge.server.unread_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_byte_budget_bounds_all_connections_together() {
    let edge = Edge::new(Limits { queued_bytes_max: 100_000, ..Limits::default() });
    let mut pipes: Vec<_> = (0..5).map(|_| edge.pipe()).collect();
    for (id, io) in pipes.iter_mut().enumerate() {
        io.write_all(&padded(0, id as i32, b'w', 40_000)).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(edge.script.started.lock().len(), 2, "two of forty kilobytes fit");
    edge.gate.send_replace(true);
    for (id, io) in pipes.iter_mut().enumerate() {
        assert_eq!(answer(io).await.0, id as i32);
    }
    assert_eq!(edge.server.queued_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_frame_beyond_the_whole_budget_still_passes_alone() {
    let edge = Edge::new(Limits { queued_bytes_max: 50_000, ..Limits::default() });
    let mut io = edge.pipe();
    io.write_all(&padded(0, 1, b'e', 60_000)).await.unwrap();
    assert_eq!(answer(&mut io).await.0, 1);
}

#[tokio::test(start_paused = true)]
async fn drain_answers_what_started_and_reads_no_more() {
    let edge = Edge::new(Limits::default());
    let mut io = edge.pipe();
    io.write_all(&request(0, 1, b'w')).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let server = edge.server.clone();
    let drained = edge.server.0.seams.tasks.spawn(async move { server.drain(Duration::from_secs(10)).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    io.write_all(&request(0, 2, b'e')).await.unwrap();
    edge.gate.send_replace(true);
    assert_eq!(answer(&mut io).await.0, 1);
    assert!(ended(&mut io).await);
    drained.await.unwrap();
    assert_eq!(*edge.script.started.lock(), [1]);
    assert_eq!(edge.server.connections(), 0);
}

#[tokio::test(start_paused = true)]
async fn drain_cuts_what_is_not_answered_in_time() {
    let edge = Edge::new(Limits::default());
    let mut io = edge.pipe();
    io.write_all(&request(0, 1, b'w')).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let start = Instant::now();
    edge.server.drain(Duration::from_secs(10)).await;
    assert!(start.elapsed() < Duration::from_secs(12));
    assert!(ended(&mut io).await);
    assert_eq!(edge.server.connections(), 0);
}

fn numbered_file(bytes: usize) -> Arc<File> {
    let mut file = tempfile::tempfile().unwrap();
    let body: Vec<u8> = (0..bytes).map(|n| (n / 4096) as u8).collect();
    file.write_all(&body).unwrap();
    Arc::new(file)
}

async fn file_answer(io: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), bytes: usize) {
    io.write_all(&[request(0, 1, b'f'), request(0, 2, b'e')].concat()).await.unwrap();
    let length = io.read_u32().await.unwrap() as usize;
    assert_eq!((length, io.read_i32().await.unwrap()), (bytes + 4, 1));
    let mut body = vec![0; bytes];
    io.read_exact(&mut body).await.unwrap();
    assert!(body.iter().enumerate().all(|(n, byte)| *byte == ((n + 4096) / 4096) as u8));
    assert_eq!(answer(io).await.0, 2);
}

#[tokio::test]
async fn file_pieces_go_out_by_sendfile_and_by_reading_alike() {
    let bytes = 5 << 20;
    let slice = FileSlice { file: numbered_file(bytes + 4096), offset: 4096, len: bytes };
    let edge = Edge::with(Limits::default(), 0, Some(slice));
    file_answer(&mut edge.socket().await, bytes).await;
    file_answer(&mut edge.pipe(), bytes).await;
}

#[tokio::test]
async fn a_file_shorter_than_its_slice_ends_the_connection() {
    let slice = FileSlice { file: numbered_file(1000), offset: 0, len: 2000 };
    let edge = Edge::with(Limits::default(), 0, Some(slice));
    for mut io in [edge.socket().await] {
        io.write_all(&request(0, 1, b'f')).await.unwrap();
        let mut all = Vec::new();
        let _ = io.read_to_end(&mut all).await;
        assert!(all.len() < 2008);
    }
}

#[tokio::test]
async fn a_busy_port_is_one_sentence_with_the_mend() {
    let first = Bound::bind("PLAINTEXT", "127.0.0.1", 0, 50).unwrap();
    let second = Bound::bind("EXTERNAL", "127.0.0.1", first.addr().port(), 50).unwrap_err();
    assert!(second.to_string().contains("EXTERNAL://127.0.0.1:"), "{second}");
    assert!(second.to_string().contains("the port is in use"), "{second}");
}

#[tokio::test]
async fn an_empty_host_is_every_address() {
    let edge = Edge::new(Limits::default());
    let bound = Bound::bind("PLAINTEXT", "", 0, 50).unwrap();
    let port = bound.addr().port();
    assert!(bound.addr().ip().is_unspecified());
    edge.server.listen(bound);
    let mut io = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    io.write_all(&request(0, 1, b'e')).await.unwrap();
    assert_eq!(answer(&mut io).await.0, 1);
}
