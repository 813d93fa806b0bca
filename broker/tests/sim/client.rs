//! A client's connections, and what it knows of the cluster.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidemark_proto::client::{Client, Options};
use tidemark_proto::kafka::messages::MetadataRequest;
use tidemark_proto::kafka::messages::metadata_request::MetadataRequestTopic;
use tidemark_proto::kafka::text::Text;
use tidemark_proto::kafka::wire::Request;
use tidemark_tiering::seam::{Entropy, Tasks};
use tokio::time::{Instant, sleep, timeout};

use crate::history::Event;
use crate::net::{Net, Place};
use crate::workload::{LATEST, TOPIC, partition_of};

/// What all clients of a run share.
#[derive(Clone)]
pub struct World {
    /// The network.
    pub net: Net,
    /// Everything seen, in order.
    pub history: Arc<Mutex<Vec<Event>>>,
    /// Randomness of the clients.
    pub entropy: Entropy,
    /// Their tasks.
    pub tasks: Tasks,
    /// When the run began.
    pub began: Instant,
    /// Ports to bootstrap from.
    pub ports: Vec<u16>,
    /// Whether topics are tiered.
    pub tiered: bool,
}

impl World {
    /// Virtual milliseconds since the beginning.
    pub fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).expect("a short run")
    }

    /// Writes down what was seen.
    pub fn note(&self, event: Event) {
        self.history.lock().push(event);
    }
}

/// One client.
pub struct Session {
    /// What it shares with the others.
    pub world: World,
    place: Place,
    /// How long it waits for an answer.
    pub patience: Duration,
    /// The rack it tells brokers; empty: none.
    pub rack: String,
    open: BTreeMap<u16, Client>,
    leaders: BTreeMap<i32, u16>,
    /// Replicas it was sent to.
    near: BTreeMap<i32, u16>,
}

impl Session {
    /// A client with number `number`.
    pub fn new(world: &World, number: u32) -> Session {
        Session {
            world: world.clone(),
            place: Place::Client(number),
            patience: Duration::from_secs(8),
            open: BTreeMap::new(),
            leaders: BTreeMap::new(),
            rack: String::new(),
            near: BTreeMap::new(),
        }
    }

    /// A call to `port`; `None` when there is no answer in time, and the connection is then closed.
    pub async fn call<R: Request>(&mut self, port: u16, version: i16, request: &R) -> Option<R::Response> {
        let client = self.client(port)?;
        match timeout(self.patience, client.call(version, request)).await {
            Ok(Ok(response)) => Some(response),
            _ => {
                self.close(port);
                None
            }
        }
    }

    /// The connection to `port`, opened if need be.
    pub fn client(&mut self, port: u16) -> Option<Client> {
        if let Some(client) = self.open.get(&port) {
            return Some(client.clone());
        }
        let io = self.world.net.connect(self.place, port)?;
        let (client, driver) = Client::over(io, Options::default());
        self.world.tasks.spawn(driver);
        self.open.insert(port, client.clone());
        Some(client)
    }

    /// Closes the connection to `port`.
    pub fn close(&mut self, port: u16) {
        self.open.remove(&port);
    }

    /// Asks any broker who leads what.
    pub async fn refresh(&mut self) -> bool {
        let port = self.any_port();
        let topic = |name: &str| MetadataRequestTopic { name: Some(Text::from(name)), ..Default::default() };
        let topics = Some(vec![topic(TOPIC), topic(LATEST)]);
        let request = MetadataRequest { topics, ..Default::default() };
        let Some(response) = self.call(port, 12, &request).await else { return false };
        let ports: BTreeMap<i32, u16> =
            response.brokers.iter().map(|b| (b.node_id, u16::try_from(b.port).expect("a port"))).collect();
        for topic in &response.topics {
            let name = topic.name.as_ref().map(|name| name.to_string()).unwrap_or_default();
            for partition in &topic.partitions {
                let number = partition_of(&name, partition.partition_index);
                match ports.get(&partition.leader_id) {
                    Some(port) => self.leaders.insert(number, *port),
                    None => self.leaders.remove(&number),
                };
            }
        }
        true
    }

    /// Some broker's port.
    pub fn any_port(&self) -> u16 {
        let ports = &self.world.ports;
        ports[usize::try_from(self.world.entropy.below(ports.len() as u64)).expect("an index")]
    }

    /// The port of the partition's leader, however long it takes to learn it.
    pub async fn leader(&mut self, partition: i32) -> u16 {
        loop {
            if let Some(port) = self.leaders.get(&partition) {
                return *port;
            }
            if !self.refresh().await || !self.leaders.contains_key(&partition) {
                sleep(Duration::from_millis(100)).await;
            }
        }
    }

    /// The port to read the partition from: that of the replica it was sent to, else the leader's.
    pub async fn reads_from(&mut self, partition: i32) -> u16 {
        match self.near.get(&partition) {
            Some(port) => *port,
            None => self.leader(partition).await,
        }
    }

    /// A leader sent it to a replica.
    pub fn sent_to(&mut self, partition: i32, port: u16) {
        self.near.insert(partition, port);
    }

    /// Asks the leader again next time, as clients do now and then.
    pub fn leave_replica(&mut self, partition: i32) {
        self.near.remove(&partition);
    }

    /// Looks the partition's leader up again next time.
    pub fn forget(&mut self, partition: i32) {
        self.leaders.remove(&partition);
        self.near.remove(&partition);
    }
}
