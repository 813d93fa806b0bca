//! Three brokers in three racks over one bucket: who is sent where, what a replica serves, and what it refuses.

use std::sync::Arc;
use std::time::Duration;

use tidemark_proto::client::{Client, Options};
use tidemark_proto::id::{BrokerId, Offset, PartitionIndex, TopicId, TopicPartition};
use tidemark_proto::kafka::messages::fetch_request::{FetchPartition, FetchTopic};
use tidemark_proto::kafka::messages::fetch_response::PartitionData;
use tidemark_proto::kafka::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use tidemark_proto::kafka::messages::produce_request::{PartitionProduceData, TopicProduceData};
use tidemark_proto::kafka::messages::{FetchRequest, FetchResponse, ListOffsetsRequest, ProduceRequest};
use tidemark_proto::kafka::pieces::Pieces;
use tidemark_tiering::bucket::{self, Bucket, Memory, Verb};
use tidemark_tiering::hot::chunks::MemoryChunks;
use tidemark_tiering::seam::{Seams, Tasks};
use tokio::io::duplex;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::api::log_house::{batch, spans};
use crate::api::{AllowAll, Dispatch};
use crate::cluster::command::NewTopic;
use crate::cluster::image::Endpoint;
use crate::cluster::peers::memory::MemoryNet;
use crate::cluster::{Cluster, Command, Identity, Rules, Start, Timings};
use crate::config;
use crate::metrics::Metrics;
use crate::node::{Node, Parts, Running};
use crate::server::{Limits, Server, Transport};

const SELECTOR: &str = "replica.selector.class=org.apache.kafka.common.replica.RackAwareReplicaSelector";
const ID: TopicId = TopicId(Uuid::from_u128(77));

struct Broker {
    running: Running,
    client: Client,
    bucket: Bucket,
    seams: Seams,
}

struct Trio {
    net: MemoryNet,
    brokers: Vec<Broker>,
    leader: usize,
}

async fn broker(slot: usize, net: &MemoryNet, store: &Arc<Memory>, sets: &[&str]) -> Broker {
    let number = i32::try_from(slot).unwrap() + 1;
    let world = Seams::seeded(slot as u64);
    let seams = Seams { tasks: Tasks::inline(), ..world };
    let sets = ["tidemark.bucket=memory:", SELECTOR].iter().chain(sets).map(|set| (*set).to_owned());
    let settings = config::Settings::load(None, &sets.collect::<Vec<_>>()).unwrap();
    let config = Arc::new(config::Broker::new(settings).unwrap());
    let bucket = Bucket::new(store.clone(), bucket::Options::default(), &seams);
    let life = seams.entropy.life();
    let endpoint = Endpoint {
        listener: "PLAINTEXT".into(),
        protocol: "PLAINTEXT".into(),
        host: format!("host-{number}"),
        port: 9092,
    };
    let rack = Some(format!("rack-{number}"));
    let start = Start {
        seams: seams.clone(),
        bucket: bucket.clone(),
        identity: Identity { node: Some(BrokerId(number)), life, endpoints: vec![endpoint], rack },
        cluster: None,
        peers: Arc::new(net.node(&format!("peer-{number}"), &seams)),
        timings: Timings::default(),
        rules: Rules { topic_config: Arc::new(config::check_topic), ..Rules::default() },
    };
    let cluster = Cluster::start(start).await.unwrap();
    let running = Node::start(Parts {
        seams: seams.clone(),
        life,
        config,
        bucket: bucket.clone(),
        chunks: Arc::new(MemoryChunks::new(64 << 20)),
        cluster,
        metrics: Metrics::new(),
        authorizer: Arc::new(AllowAll),
    });
    running.node.registered().await;
    let server = Server::new(Arc::new(Dispatch::new(running.node.clone())), Limits::default(), &seams);
    let (ours, theirs) = duplex(1 << 20);
    server.attach(Transport::stream(theirs), "PLAINTEXT", "10.0.0.1:999".parse().unwrap());
    let (client, driver) = Client::over(ours, Options::default());
    seams.tasks.spawn(driver);
    Broker { running, client, bucket, seams }
}

impl Broker {
    fn node(&self) -> &Node {
        &self.running.node
    }

    /// GETs of parcels so far.
    fn gets(&self) -> u64 {
        let rows = self.bucket.meter().into_iter();
        rows.filter(|row| (row.verb, row.kind) == (Verb::Get, bucket::Kind::Parcel))
            .map(|row| row.attempts)
            .sum()
    }

    /// Requests of any kind so far.
    fn requests(&self) -> u64 {
        self.bucket.meter().iter().map(|row| row.attempts).sum()
    }
}

impl Trio {
    async fn open(replication: i16, sets: &[&str]) -> Trio {
        let world = Seams::seeded(9);
        let net = MemoryNet::new(world.entropy.fork(), Duration::from_millis(2));
        let store = Arc::new(Memory::new(world.clock.clone()));
        let mut brokers = Vec::new();
        for slot in 0..3 {
            brokers.push(broker(slot, &net, &store, sets).await);
        }
        let new = NewTopic { name: "t".into(), id: ID, partitions: 1, replication, ..NewTopic::default() };
        let create = Command::CreateTopics { topics: vec![new], validate_only: false };
        brokers[0].node().cluster.submit(create).await.unwrap();
        let mut trio = Trio { net, brokers, leader: 0 };
        let knows = |broker: &Broker| {
            let image = broker.node().cluster.image();
            image.topic(ID).is_some() && image.live().count() == 3
        };
        while !trio.brokers.iter().all(knows) {
            sleep(Duration::from_millis(10)).await;
        }
        while trio.end(trio.leader).await.is_err() {
            sleep(Duration::from_millis(50)).await;
            let image = trio.brokers[0].node().cluster.image();
            let leader = image.topic(ID).and_then(|t| t.partitions().next()?.1.leader);
            trio.leader = leader.map_or(0, |node| usize::try_from(node.0 - 1).unwrap());
        }
        trio
    }

    /// The brokers that do not lead.
    fn others(&self) -> [usize; 2] {
        [(self.leader + 1) % 3, (self.leader + 2) % 3]
    }

    async fn end(&self, slot: usize) -> Result<i64, i16> {
        let partition = ListOffsetsPartition { timestamp: -1, ..Default::default() };
        let topic = ListOffsetsTopic { name: "t".into(), partitions: vec![partition] };
        let request = ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
        let response = self.brokers[slot].client.call(7, &request).await.unwrap();
        let row = &response.topics[0].partitions[0];
        if row.error_code == 0 { Ok(row.offset) } else { Err(row.error_code) }
    }

    async fn produce(&self, times: &[i64]) {
        let records = Some(Pieces::from(batch(times).bytes().clone()));
        let data = PartitionProduceData { index: 0, records };
        let topic = TopicProduceData { name: "t".into(), partition_data: vec![data], ..Default::default() };
        let request =
            ProduceRequest { acks: -1, timeout_ms: 30_000, topic_data: vec![topic], ..Default::default() };
        let response = self.brokers[self.leader].client.call(9, &request).await.unwrap();
        assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
    }

    /// What the broker in `slot` gives to a reader in `rack`.
    async fn fetch(&self, slot: usize, offset: i64, rack: &str) -> PartitionData {
        row(&self.brokers[slot].client.call(12, &asking(offset, rack)).await.unwrap())
    }

    async fn at_once(&self, slot: usize, offset: i64) -> PartitionData {
        let request = FetchRequest { max_wait_ms: 0, ..asking(offset, "") };
        row(&self.brokers[slot].client.call(12, &request).await.unwrap())
    }
}

fn asking(offset: i64, rack: &str) -> FetchRequest {
    let partition = FetchPartition {
        fetch_offset: offset,
        partition_max_bytes: 1 << 20,
        current_leader_epoch: -1,
        last_fetched_epoch: -1,
        ..Default::default()
    };
    FetchRequest {
        replica_id: -1,
        max_wait_ms: 2_000,
        min_bytes: 1,
        max_bytes: 1 << 20,
        session_epoch: -1,
        topics: vec![FetchTopic { topic: "t".into(), partitions: vec![partition], ..Default::default() }],
        rack_id: rack.into(),
        ..Default::default()
    }
}

fn row(response: &FetchResponse) -> PartitionData {
    response.responses[0].partitions[0].clone()
}

#[tokio::test(start_paused = true)]
async fn a_client_is_sent_to_the_replica_in_its_rack_which_serves_what_was_acknowledged() {
    let trio = Trio::open(3, &[]).await;
    trio.produce(&[1, 2]).await;
    for near in trio.others() {
        let rack = format!("rack-{}", near + 1);
        let sent = trio.fetch(trio.leader, 0, &rack).await;
        let said = (sent.error_code, sent.preferred_read_replica, sent.high_watermark);
        assert_eq!(said, (0, i32::try_from(near).unwrap() + 1, 2));
        assert!(spans(&sent).is_empty(), "with no data");
        let served = trio.fetch(near, 0, &rack).await;
        let said = (served.error_code, served.preferred_read_replica, served.high_watermark, spans(&served));
        assert_eq!(said, (0, -1, 2, vec![(0, 1)]));
        assert_eq!(trio.brokers[near].node().near.counts().served, 1);
        // One client with two racks is none that its replica did not serve.
        sleep(super::AGAIN).await;
    }
    let own = format!("rack-{}", trio.leader + 1);
    for rack in [own.as_str(), "", "nowhere"] {
        let served = trio.fetch(trio.leader, 0, rack).await;
        assert_eq!((served.preferred_read_replica, spans(&served)), (-1, vec![(0, 1)]), "{rack:?}");
    }
    let old = trio.brokers[trio.leader].client.call(10, &asking(0, "rack-1")).await.unwrap();
    assert_eq!(spans(&row(&old)), [(0, 1)], "a client older than racks");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_comes_back_from_its_replica_is_served_by_the_leader_for_a_while() {
    let trio = Trio::open(3, &[]).await;
    trio.produce(&[1]).await;
    let rack = format!("rack-{}", trio.others()[0] + 1);
    assert!(trio.fetch(trio.leader, 0, &rack).await.preferred_read_replica > 0);
    assert_eq!(spans(&trio.fetch(trio.leader, 0, &rack).await), [(0, 0)]);
    sleep(super::AGAIN).await;
    assert!(trio.fetch(trio.leader, 0, &rack).await.preferred_read_replica > 0);
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_at_a_replica_hears_of_news_at_once_and_waiting_costs_no_bucket_request() {
    let trio = Trio::open(3, &[]).await;
    trio.produce(&[1]).await;
    let near = trio.others()[0];
    let replica = &trio.brokers[near];
    assert_eq!(spans(&trio.fetch(near, 0, "").await), [(0, 0)]);
    let (before, begun) = (replica.requests(), Instant::now());
    let empty = trio.fetch(near, 1, "").await;
    assert_eq!((empty.error_code, empty.high_watermark, spans(&empty)), (0, 1, vec![]));
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    if !replica.node().cluster.is_controller() {
        assert_eq!(replica.requests(), before);
    }
    let begun = Instant::now();
    let (served, ()) = tokio::join!(trio.fetch(near, 1, ""), async {
        sleep(Duration::from_millis(700)).await;
        trio.produce(&[2]).await;
    });
    assert_eq!(spans(&served), [(1, 1)]);
    assert!(begun.elapsed() < Duration::from_millis(1_300), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn bounds_and_epochs_are_the_leaders_word() {
    let trio = Trio::open(3, &[]).await;
    trio.produce(&[1, 2, 3]).await;
    let near = trio.others()[0];
    assert_eq!(trio.fetch(near, 4, "").await.error_code, 1, "beyond the log's end");
    assert_eq!(trio.fetch(near, -5, "").await.error_code, 1, "below its start");
    let within = trio.at_once(near, 3).await;
    assert_eq!((within.error_code, within.high_watermark, within.log_start_offset), (0, 3, 0));
    for (epoch, code) in [(0, 0), (5, 75)] {
        let mut request = asking(0, "");
        request.topics[0].partitions[0].current_leader_epoch = epoch;
        let served = row(&trio.brokers[near].client.call(12, &request).await.unwrap());
        assert_eq!(served.error_code, code, "epoch {epoch}");
    }
    assert_eq!(trio.end(near).await, Err(6), "offsets are listed by the leader only");
    let mut request = asking(0, "");
    request.topics[0].partitions[0].last_fetched_epoch = 0;
    let refused = row(&trio.brokers[near].client.call(12, &request).await.unwrap());
    assert_eq!(refused.error_code, 6, "and logs compared");
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_cannot_ask_the_leader_sends_its_reader_back_there() {
    let trio = Trio::open(3, &[]).await;
    trio.produce(&[1]).await;
    let near = trio.others()[0];
    let name = |slot: usize| format!("peer-{}", slot + 1);
    trio.net.cut(&name(trio.leader), &name(near));
    let refused = trio.fetch(near, 0, "").await;
    assert_eq!(refused.error_code, 6);
    assert_eq!(refused.current_leader.leader_id, i32::try_from(trio.leader).unwrap() + 1);
    assert!(spans(&refused).is_empty());
    assert!(trio.brokers[near].node().near.counts().unanswered >= 1);
}

#[tokio::test(start_paused = true)]
async fn who_is_no_replica_refuses_and_so_does_one_that_was_not_told_to_serve() {
    let alone = Trio::open(1, &[]).await;
    alone.produce(&[1]).await;
    for other in alone.others() {
        assert_eq!(alone.fetch(other, 0, "").await.error_code, 6);
        assert_eq!(alone.brokers[other].node().near.counts().asked, 0);
    }
    assert_eq!(alone.fetch(alone.leader, 0, "rack-3").await.preferred_read_replica, -1);
}

#[tokio::test(start_paused = true)]
async fn r24_a_leader_that_has_lost_its_session_lets_nobody_serve() {
    let trio = Trio::open(3, &[]).await;
    trio.produce(&[1]).await;
    let near = trio.others()[0];
    assert_eq!(spans(&trio.fetch(near, 0, "").await), [(0, 0)]);
    let leader = &trio.brokers[trio.leader];
    let controller = trio.brokers.iter().position(|b| b.node().cluster.is_controller()).unwrap();
    if controller == trio.leader {
        return; // it is its own witness
    }
    let name = |slot: usize| format!("peer-{}", slot + 1);
    trio.net.cut(&name(trio.leader), &name(controller));
    while leader.node().cluster.session().fresh(Instant::now()) {
        sleep(Duration::from_millis(50)).await;
    }
    let ask = crate::partition::Ask {
        tp: tidemark_proto::id::TopicPartition {
            topic: ID,
            partition: tidemark_proto::id::PartitionIndex(0),
        },
        offset: Offset(0),
        bytes_max: 1_000,
        leader_epoch: None,
        committed: false,
    };
    let leaders = [(BrokerId(i32::try_from(trio.leader).unwrap() + 1), vec![(0, ask)])].into();
    let hunger = super::Hunger { bytes_max: 1_000, bytes_min: 1 };
    let near = &trio.brokers[near].node().near;
    let told = near.plan(leaders, hunger, Duration::from_secs(4)).await;
    assert!(told[0].1.is_err(), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_parcel_is_fetched_once_by_a_replica_however_many_read_from_it() {
    let trio = Trio::open(3, &[]).await;
    for at in 0..4 {
        trio.produce(&[at]).await;
    }
    let near = trio.others()[0];
    let replica = &trio.brokers[near];
    assert_eq!(replica.gets(), 0);
    for _ in 0..5 {
        assert_eq!(spans(&trio.fetch(near, 0, "").await).len(), 4);
    }
    assert_eq!(replica.gets(), 4, "one for each parcel");
    trio.produce(&[9]).await;
    let reads = (0..5).map(|_| trio.fetch(near, 4, ""));
    for served in futures::future::join_all(reads).await {
        assert_eq!(spans(&served), [(4, 4)]);
    }
    assert_eq!(replica.gets(), 5);
}

#[tokio::test(start_paused = true)]
async fn what_a_cut_has_taken_into_runs_is_served_by_replicas() {
    let trio = Trio::open(3, &["tidemark.cut.parcels=4", "tidemark.cut.ms=500", "log.retention.ms=-1"]).await;
    for at in 0..12 {
        trio.produce(&[at]).await;
    }
    sleep(Duration::from_secs(30)).await;
    trio.produce(&[99]).await;
    let near = trio.others()[0];
    assert!(trio.brokers[near].node().cluster.image().runs_of(tp(), 0).count() > 0, "there are runs");
    let mut next = 0;
    while next < 13 {
        let served = trio.fetch(near, next, "").await;
        assert_eq!(served.error_code, 0);
        let found = spans(&served);
        assert_eq!(found[0].0, next, "{found:?}");
        next = found[found.len() - 1].1 + 1;
    }
    assert_eq!(next, 13);
}

fn tp() -> TopicPartition {
    TopicPartition { topic: ID, partition: PartitionIndex(0) }
}

#[tokio::test(start_paused = true)]
async fn a_session_tells_of_the_replica_even_where_nothing_else_has_changed() {
    let trio = Trio::open(3, &[]).await;
    trio.produce(&[1]).await;
    let leader = &trio.brokers[trio.leader].client;
    let rack = format!("rack-{}", trio.others()[1] + 1);
    let opening = FetchRequest { session_epoch: 0, ..asking(0, "") };
    let opened = leader.call(12, &opening).await.unwrap();
    assert_eq!(spans(&row(&opened)), [(0, 0)]);
    let mut goes_on = FetchRequest { session_id: opened.session_id, session_epoch: 1, ..asking(1, &rack) };
    let begun = Instant::now();
    let told = leader.call(12, &goes_on).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1), "it does not wait");
    assert!(row(&told).preferred_read_replica > 0);
    goes_on = FetchRequest { session_epoch: 2, max_wait_ms: 0, topics: Vec::new(), ..goes_on };
    let after = leader.call(12, &goes_on).await.unwrap();
    assert!(after.responses.iter().all(|t| t.partitions[0].preferred_read_replica == -1), "said once");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_dies_is_followed_by_one_whose_replicas_serve_on() {
    let mut trio = Trio::open(3, &[]).await;
    trio.produce(&[1]).await;
    let [near, other] = trio.others();
    assert_eq!(spans(&trio.fetch(near, 0, "").await), [(0, 0)]);
    trio.brokers[trio.leader].seams.tasks.kill();
    let refused = trio.fetch(near, 1, "").await;
    assert_eq!(refused.error_code, 6);
    let begun = Instant::now();
    while trio.end(near).await.is_err() && trio.end(other).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(60));
        sleep(Duration::from_millis(100)).await;
    }
    let next = if trio.end(near).await.is_ok() { near } else { other };
    let replica = near + other - next;
    trio.leader = next;
    trio.produce(&[2]).await;
    // The recoverer may have taken the first into a run by now.
    for offset in [0, 1] {
        let served = trio.fetch(replica, offset, "").await;
        assert_eq!((served.error_code, spans(&served)[0]), (0, (offset, offset)));
    }
}
