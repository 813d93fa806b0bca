//! What `tidemark serve` does, without sockets: one life of one broker.

use std::sync::Arc;

use parking_lot::Mutex;
use tidemark_broker::api::{AllowAll, Dispatch};
use tidemark_broker::cluster::image::Endpoint;
use tidemark_broker::cluster::peers::memory::MemoryPeers;
use tidemark_broker::cluster::{Cluster, Identity, Rules, Start, Timings};
use tidemark_broker::config;
use tidemark_broker::metrics::Metrics;
use tidemark_broker::node::{Node, Parts, Running};
use tidemark_broker::server::{Limits, Server};
use tidemark_proto::id::BrokerId;
use tidemark_tiering::bucket::faults::Faulty;
use tidemark_tiering::bucket::{Bucket, Options};
use tidemark_tiering::hot::chunks::MemoryChunks;
use tidemark_tiering::seam::Seams;

use crate::net::Net;
use crate::plan::Plan;

/// A broker's life in the world.
pub struct Broker {
    /// Where its peers reach it.
    pub address: String,
    /// Its world; killing and freezing it goes by its tasks.
    pub seams: Seams,
    /// Its own way to the bucket.
    pub store: Arc<Faulty>,
    /// What it became, once it has started.
    pub running: Arc<Mutex<Option<Running>>>,
}

impl Broker {
    /// The node that it became.
    pub fn node(&self) -> Option<Arc<Node>> {
        Some(self.running.lock().as_ref()?.node.clone())
    }
}

/// Where a broker is put.
pub struct Place {
    /// Its slot: its node id is one more.
    pub slot: usize,
    /// Its way to the bucket.
    pub store: Arc<Faulty>,
    /// Its way to its peers.
    pub peers: MemoryPeers,
    /// Where its clients are.
    pub net: Net,
}

/// Starts a life with an empty disk.
pub async fn boot(place: Place, plan: Plan, seams: Seams, running: Arc<Mutex<Option<Running>>>) {
    let Place { slot, store, peers, net } = place;
    let settings = config::Settings::load(None, &plan.settings()).expect("valid settings");
    let config = Arc::new(config::Broker::new(settings).expect("valid settings"));
    let bucket = Bucket::new(store, Options::default(), &seams);
    let life = seams.entropy.life();
    let endpoint = Endpoint {
        listener: "PLAINTEXT".to_owned(),
        protocol: "PLAINTEXT".to_owned(),
        host: "sim".to_owned(),
        port: Net::port(slot),
    };
    let node = BrokerId(i32::try_from(slot).expect("small") + 1);
    let timings = Timings {
        ack: config.timings.ack_doubt,
        balance: config.timings.balance,
        delete_grace: config.timings.delete_grace,
        snapshot_min: plan.snapshot_min,
        request_weight: plan.request_weight,
        ..Timings::default()
    };
    let start = Start {
        seams: seams.clone(),
        bucket: bucket.clone(),
        identity: Identity { node: Some(node), life, endpoints: vec![endpoint], rack: Some(rack_of(slot)) },
        cluster: None,
        peers: Arc::new(peers),
        timings,
        rules: Rules {
            replication: config.replication,
            topic_config: Arc::new(config::check_topic),
            ..Rules::default()
        },
    };
    let Ok(cluster) = Cluster::start(start).await else { return };
    let (metrics, authorizer) = (Metrics::new(), Arc::new(AllowAll));
    let chunks = Arc::new(MemoryChunks::new(8 << 20));
    let parts = Parts { seams: seams.clone(), life, config, bucket, chunks, cluster, metrics, authorizer };
    let node = Node::start(parts);
    let server = Server::new(Arc::new(Dispatch::new(node.node.clone())), Limits::default(), &seams);
    net.set_door(slot, Some(server));
    *running.lock() = Some(node);
}

/// The rack of whoever is in a slot.
pub fn rack_of(slot: usize) -> String {
    format!("rack-{slot}")
}
