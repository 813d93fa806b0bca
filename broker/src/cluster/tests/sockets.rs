//! The same over real TCP: authenticated peers, refused connections, a takeover.

use std::sync::Arc;
use std::time::Duration;

use tidemark_proto::id::{BrokerId, Position};
use tidemark_tiering::bucket::{Bucket, Memory, Options};
use tidemark_tiering::seam::Seams;
use tokio::time::{Instant, sleep};

use super::super::command::{Command, NewTopic, Reply};
use super::super::handle::{Cluster, Identity, Start};
use super::super::peers::tcp::TcpPeers;
use super::super::peers::{PeerError, PeerNet, Question};
use super::super::timings::Timings;

const SECRET: Option<&str> = Some("between us");

async fn join(store: &Memory, node: i32) -> (Cluster, Seams, String) {
    let seams = Seams::system();
    let peers = TcpPeers::bind("127.0.0.1:0", None, SECRET, &seams).await.unwrap();
    let address = peers.address();
    let ms = Duration::from_millis;
    let timings = Timings {
        heartbeat: ms(100),
        session: ms(800),
        control: ms(300),
        skew: ms(50),
        election: ms(100),
        ..Timings::default()
    };
    let start = Start {
        bucket: Bucket::new(Arc::new(store.clone()), Options::default(), &seams),
        identity: Identity { node: Some(BrokerId(node)), life: seams.entropy.life(), ..Identity::default() },
        seams: seams.clone(),
        cluster: None,
        peers: Arc::new(peers),
        timings,
        rules: Default::default(),
    };
    (Cluster::start(start).await.unwrap(), seams, address)
}

#[tokio::test]
async fn members_over_tcp_follow_forward_and_take_over() {
    let store = Memory::new(Seams::system().clock);
    let (a, a_seams, a_address) = join(&store, 1).await;
    let (b, _b_seams, _) = join(&store, 2).await;
    a.register().await.unwrap();
    b.register().await.unwrap();
    let id = tidemark_proto::id::TopicId(uuid::Uuid::from_u128(1));
    let topic = NewTopic { name: "t".into(), id, partitions: 4, replication: 3, ..NewTopic::default() };
    let create = Command::CreateTopics { topics: vec![topic], validate_only: false };
    let Reply::Created(rows) = b.submit(create).await.unwrap() else { panic!() };
    assert!(rows[0].1.is_ok());
    assert!(a.is_controller() && !b.is_controller());
    assert_eq!(b.image().led(BrokerId(1)), 2);
    assert!(b.session().refresh().await, "granted over the wire");
    // Strangers learn nothing; a dead port is told apart from silence.
    let stranger = TcpPeers::bind("127.0.0.1:0", None, Some("another"), &a_seams).await.unwrap();
    let denied = stranger.ask(&a_address, Question::Status).await;
    assert!(matches!(denied, Err(PeerError::Denied(_))), "{denied:?}");
    let followed = stranger.follow(&a_address, Position::default()).await;
    assert!(matches!(followed, Err(PeerError::Denied(_))), "{followed:?}");
    a_seams.tasks.kill();
    let killed = Instant::now();
    while b.image().led(BrokerId(2)) < 4 {
        assert!(killed.elapsed() < Duration::from_secs(20), "{:#?}", b.image());
        sleep(Duration::from_millis(10)).await;
    }
    assert!(b.is_controller());
}

#[tokio::test]
async fn without_a_secret_only_loopback_is_bound() {
    let seams = Seams::system();
    let refused = TcpPeers::bind("0.0.0.0:0", None, None, &seams).await.unwrap_err();
    assert!(refused.contains("tidemark.peer.secret"), "{refused}");
    let bound = TcpPeers::bind("127.0.0.1:0", None, None, &seams).await.unwrap();
    let (closed, port) = {
        let other = TcpPeers::bind("127.0.0.1:0", None, None, &seams).await.unwrap();
        (other.address(), other.address().rsplit(':').next().unwrap().to_owned())
    };
    assert_eq!(bound.ask(&closed, Question::Status).await, Err(PeerError::Refused), "port {port}");
    let taken = TcpPeers::bind(&bound.address(), None, None, &seams).await.unwrap_err();
    assert!(taken.contains("cannot listen"), "{taken}");
}
