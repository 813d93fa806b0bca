//! Nodes and worlds for handlers' tests. The world: two brokers with two listeners each, a topic of four partitions, the offsets topic.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidemark_proto::id::{BrokerEpoch, BrokerId, LaneId, Life, Seq, TopicId};
use tidemark_proto::kafka::api::ApiKey;
use tidemark_tiering::bucket::Bucket;
use tidemark_tiering::hot::chunks::MemoryChunks;
use tidemark_tiering::seam::Seams;
use uuid::Uuid;

use super::view::View;
use super::{AllowAll, Authorizer, Ctx, Operation, Resource};
use crate::cluster::image::{Broker, Endpoint};
use crate::cluster::peers::memory::MemoryNet;
use crate::cluster::record::{Placed, Record};
use crate::cluster::{Cluster, Identity, Image, Rules, Start, Timings};
use crate::config;
use crate::metrics::Metrics;
use crate::node::{Node, Parts, Running};

/// See the module.
pub struct World {
    /// The metadata.
    pub image: Image,
    /// Broker 1's configuration.
    pub config: config::Broker,
    /// Id of the topic `orders`.
    pub orders: TopicId,
}

/// A view that owns what it looks through.
pub struct Seen<'a> {
    world: &'a World,
    ctx: Ctx,
    authorizer: Arc<dyn Authorizer>,
}

impl World {
    /// The world.
    pub fn new() -> World {
        let settings = config::Settings::load(None, &["tidemark.bucket=memory:".into()]).unwrap();
        let orders = TopicId(Uuid::from_u128(7));
        let mut world =
            World { image: Image::default(), config: config::Broker::new(settings).unwrap(), orders };
        for node in [1_u16, 2] {
            let endpoint = |listener: &str, port| Endpoint {
                listener: listener.into(),
                protocol: "PLAINTEXT".into(),
                host: format!("broker-{node}"),
                port,
            };
            let broker = Broker {
                node: BrokerId(i32::from(node)),
                epoch: BrokerEpoch(u64::from(node)),
                life: Life(u128::from(node)),
                endpoints: vec![endpoint("PLAINTEXT", 9091 + node), endpoint("EXTERNAL", 19091 + node)],
                peer: String::new(),
                rack: Some(format!("rack-{node}")),
                alive: true,
                ..Broker::default()
            };
            world.image.apply(&Record::BrokerRegistered { broker, lanes: 1 });
        }
        world.create("orders", orders, 4, &[]);
        world.create(crate::node::OFFSETS_TOPIC, TopicId(Uuid::from_u128(8)), 2, &[]);
        world
    }

    /// Creates a topic whose partitions are led by brokers 1 and 2 in turn.
    pub fn create(&mut self, name: &str, id: TopicId, partitions: u64, configs: &[(&str, &str)]) {
        let configs: BTreeMap<String, String> =
            configs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let placed = (0..partitions).map(|index| {
            let node = index % 2 + 1;
            let lane = LaneId { epoch: BrokerEpoch(node), lane: 0, life: Life(u128::from(node)) };
            Some(Placed { node: BrokerId(i32::try_from(node).unwrap()), lane, from: Seq(0) })
        });
        let placed = placed.collect();
        self.image.apply(&Record::TopicCreated { id, name: name.into(), replication: 3, configs, placed });
    }

    /// What a request of `key` and `version` on the listener PLAINTEXT of broker 1 sees.
    pub fn view(&self, key: i16, version: i16) -> Seen<'_> {
        let ctx = Ctx::local(ApiKey::from_i16(key).unwrap(), version);
        Seen { world: self, ctx, authorizer: Arc::new(AllowAll) }
    }
}

impl Seen<'_> {
    /// The same on another listener.
    pub fn on(mut self, listener: &str) -> Self {
        self.ctx.listener = Arc::from(listener);
        self
    }

    /// The same for somebody who may not do `operation` to topics or groups whose name starts with `prefix`, and to the
    /// cluster where that is empty.
    pub fn denying(mut self, operation: Operation, prefix: &'static str) -> Self {
        self.authorizer = Arc::new(Deny(operation, prefix));
        self
    }

    /// Looks.
    pub fn look(&self) -> View<'_> {
        View {
            image: &self.world.image,
            config: &self.world.config,
            authorizer: &*self.authorizer,
            ctx: &self.ctx,
            node: BrokerId(1),
        }
    }
}

struct Deny(Operation, &'static str);

impl Authorizer for Deny {
    fn allow(&self, _ctx: &Ctx, operation: Operation, resource: Resource<'_>) -> bool {
        let named = match resource {
            Resource::Topic(name) | Resource::Group(name) | Resource::TransactionalId(name) => name,
            Resource::Cluster => "",
        };
        operation != self.0 || !named.starts_with(self.1)
    }
}

/// A node of its own cluster over a bucket in memory, registered; it owns nothing.
pub async fn node() -> Arc<Node> {
    let parts = parts(&[]).await;
    parts.cluster.register().await.unwrap();
    Node::new(parts)
}

/// The same, with a lane of its own.
pub async fn running() -> Running {
    running_with(&[]).await
}

/// The same with settings.
pub async fn running_with(sets: &[&str]) -> Running {
    let running = Node::start(parts(sets).await);
    running.node.registered().await;
    running
}

/// The same, over a bucket of the test's own.
pub async fn over(bucket: Bucket, seams: Seams) -> Running {
    let running = Node::start(parts_of(config_with(&[]), seams, bucket).await);
    running.node.registered().await;
    running
}

/// Another life of the node, over the bucket that `node` wrote to.
pub async fn again(node: &Node) -> Running {
    let running = Node::start(parts_of(node.config.clone(), node.seams.clone(), node.bucket.clone()).await);
    running.node.registered().await;
    running
}

async fn parts(sets: &[&str]) -> Parts {
    let (config, seams) = (config_with(sets), Seams::seeded(1));
    let bucket = Bucket::open(&config.bucket, &seams).unwrap();
    parts_of(config, seams, bucket).await
}

fn config_with(sets: &[&str]) -> Arc<config::Broker> {
    let sets = ["tidemark.bucket=memory:"].iter().chain(sets).map(|set| (*set).to_owned());
    let settings = config::Settings::load(None, &sets.collect::<Vec<_>>()).unwrap();
    Arc::new(config::Broker::new(settings).unwrap())
}

async fn parts_of(config: Arc<config::Broker>, seams: Seams, bucket: Bucket) -> Parts {
    let life = seams.entropy.life();
    let net = MemoryNet::new(seams.entropy.fork(), Duration::from_millis(1));
    let endpoint = Endpoint {
        listener: "PLAINTEXT".into(),
        protocol: "PLAINTEXT".into(),
        host: "here".into(),
        port: 9092,
    };
    let start = Start {
        seams: seams.clone(),
        bucket: bucket.clone(),
        identity: Identity { node: Some(BrokerId(1)), life, endpoints: vec![endpoint], rack: None },
        cluster: None,
        peers: Arc::new(net.node("node-1", &seams)),
        timings: Timings::default(),
        rules: Rules { topic_config: Arc::new(config::check_topic), ..Rules::default() },
    };
    let cluster = Cluster::start(start).await.unwrap();
    let (metrics, authorizer) = (Metrics::new(), Arc::new(AllowAll));
    let chunks = Arc::new(MemoryChunks::new(8 << 20));
    Parts { seams, life, config, bucket, chunks, cluster, metrics, authorizer }
}
