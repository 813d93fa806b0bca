//! Some members, one bucket, one network.

use std::sync::Arc;
use std::time::Duration;

use tidemark_proto::id::{BrokerId, TopicId};
use tidemark_tiering::bucket::faults::{Faulty, Weather};
use tidemark_tiering::bucket::{Bucket, Memory, Options};
use tidemark_tiering::seam::Seams;
use tokio::time::{Instant, sleep};

use super::super::command::{Command, NewTopic, Reply};
use super::super::handle::{Cluster, Identity, Registration, Start};
use super::super::image::Endpoint;
use super::super::member::StartError;
use super::super::peers::memory::MemoryNet;
use super::super::state::Rules;
use super::super::timings::Timings;

pub struct World {
    pub seams: Seams,
    pub store: Memory,
    /// What the members see of it.
    pub faulty: Faulty,
    pub net: MemoryNet,
    pub timings: Timings,
    lives: u32,
}

pub struct Node {
    pub cluster: Cluster,
    pub seams: Seams,
    pub bucket: Bucket,
    pub address: String,
}

impl World {
    pub fn new(seed: u64) -> World {
        let seams = Seams::seeded(seed);
        let net = MemoryNet::new(seams.entropy.fork(), Duration::from_millis(2));
        let store = Memory::new(seams.clock.clone());
        let faulty = Faulty::new(Arc::new(store.clone()), Weather::default(), seams.entropy.fork());
        World { store, faulty, net, timings: Timings::default(), lives: 0, seams }
    }

    /// A world of its own for each life: its kill ends nobody else.
    pub fn life(&mut self) -> Seams {
        self.lives += 1;
        let Seams { clock, entropy, .. } = &self.seams;
        Seams { clock: clock.clone(), entropy: entropy.fork(), tasks: Default::default() }
    }

    pub fn start(&mut self, node: Option<i32>) -> (Start, Parts) {
        let seams = self.life();
        let address = format!("peer-{}", self.lives);
        let bucket = Bucket::new(Arc::new(self.faulty.clone()), Options::default(), &seams);
        let endpoint = Endpoint {
            listener: "PLAINTEXT".into(),
            protocol: "PLAINTEXT".into(),
            host: address.clone(),
            port: 9092,
        };
        let identity = Identity {
            node: node.map(BrokerId),
            life: seams.entropy.life(),
            endpoints: vec![endpoint],
            rack: None,
        };
        let start = Start {
            seams: seams.clone(),
            bucket: bucket.clone(),
            identity,
            cluster: None,
            peers: Arc::new(self.net.node(&address, &seams)),
            timings: self.timings,
            rules: Rules::default(),
        };
        (start, Parts { seams, bucket, address })
    }

    pub async fn join(&mut self, node: Option<i32>) -> Node {
        self.try_join(node).await.expect("joins")
    }

    pub async fn try_join(&mut self, node: Option<i32>) -> Result<Node, StartError> {
        let (start, Parts { seams, bucket, address }) = self.start(node);
        let cluster = Cluster::start(start).await?;
        Ok(Node { cluster, seams, bucket, address })
    }

    pub async fn broker(&mut self, node: i32) -> (Node, Registration) {
        let joined = self.join(Some(node)).await;
        let registration = joined.cluster.register().await.expect("registers");
        (joined, registration)
    }

    pub fn objects(&self) -> Vec<String> {
        self.store.dump().into_iter().map(|(key, _)| key).collect()
    }
}

pub struct Parts {
    pub seams: Seams,
    pub bucket: Bucket,
    pub address: String,
}

impl Node {
    pub async fn create(&self, name: &str, partitions: i32) -> Reply {
        let topic = NewTopic {
            name: name.into(),
            id: TopicId(self.seams.entropy.uuid()),
            partitions,
            replication: 1,
            ..NewTopic::default()
        };
        let command = Command::CreateTopics { topics: vec![topic], validate_only: false };
        self.cluster.submit(command).await.expect("decided")
    }

    /// Waits until this node's image satisfies `so`.
    pub async fn until(&self, most: Duration, so: impl Fn(&super::super::Image) -> bool) -> Duration {
        let start = Instant::now();
        while !so(&self.cluster.image()) {
            assert!(start.elapsed() < most, "not within {most:?}: {:#?}", self.cluster.image());
            sleep(Duration::from_millis(5)).await;
        }
        start.elapsed()
    }
}
