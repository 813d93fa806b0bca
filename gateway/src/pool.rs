//! Connections to the brokers, and who leads what: one connection a broker, opened when it is needed.
//!
//! Everything here is a cache that may be dropped at any time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidemark_proto::client::{Client, Options, Versions};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::{MetadataRequest, metadata_request};
use tidemark_proto::kafka::text::Text;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tonic::Status;

use crate::connect::{Connect, Node, Surroundings};
use crate::status;

const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long a topic's leaders are believed unless a broker says otherwise.
const FRESH: Duration = Duration::from_secs(30);
/// Topics remembered; past it all are forgotten.
const TOPICS_MAX: usize = 10_000;

/// A connection that has learnt what its broker serves.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) client: Client,
    pub(crate) versions: Arc<Versions>,
}

/// A topic as metadata tells it.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) id: tidemark_proto::id::TopicId,
    /// Leader by partition index; none while a partition has no leader.
    pub(crate) leaders: Vec<Option<Node>>,
    learnt: Instant,
}

pub(crate) struct Pool {
    connect: Arc<dyn Connect>,
    surroundings: Surroundings,
    /// Each broker's slot has a lock of its own: one that does not answer holds up nobody else.
    links: Mutex<BTreeMap<String, Arc<Mutex<Option<Link>>>>>,
    topics: Mutex<BTreeMap<String, Arc<Topic>>>,
}

impl Pool {
    pub(crate) fn new(connect: Arc<dyn Connect>, surroundings: Surroundings) -> Pool {
        Pool { connect, surroundings, links: Mutex::default(), topics: Mutex::default() }
    }

    pub(crate) fn now(&self) -> tidemark_proto::id::Millis {
        (self.surroundings.now)()
    }

    /// A live connection to `node`.
    pub(crate) async fn link(&self, node: &Node) -> Result<Link, Status> {
        let slot = self.links.lock().await.entry(node.to_string()).or_default().clone();
        let mut slot = slot.lock().await;
        if let Some(link) = slot.as_ref().filter(|link| !link.client.is_closed()) {
            return Ok(link.clone());
        }
        let link = match timeout(CONNECT_MAX, self.open(node)).await {
            Ok(link) => link?,
            Err(_) => return Err(Status::unavailable(format!("{node} does not answer"))),
        };
        Ok(slot.insert(link).clone())
    }

    async fn open(&self, node: &Node) -> Result<Link, Status> {
        let io = self.connect.connect(node).await;
        let io = io.map_err(|error| Status::unavailable(format!("cannot reach {node}: {error}")))?;
        let options = Options { client_id: Text::from_static("tidemark-gateway"), ..Options::default() };
        let (client, driver) = Client::over(io, options);
        (self.surroundings.spawn)(Box::pin(driver));
        let versions = client.api_versions().await.map_err(|error| status::of_lost_question(&error))?;
        Ok(Link { client, versions: Arc::new(versions) })
    }

    /// The topic, from memory while that is fresh.
    pub(crate) async fn topic(&self, name: &str) -> Result<Arc<Topic>, Status> {
        let known = self.topics.lock().await.get(name).cloned();
        if let Some(topic) = known.filter(|topic| topic.learnt.elapsed() < FRESH) {
            return Ok(topic);
        }
        let topic = Arc::new(self.ask(name).await?);
        let mut topics = self.topics.lock().await;
        if topics.len() >= TOPICS_MAX {
            topics.clear();
        }
        topics.insert(name.to_owned(), topic.clone());
        Ok(topic)
    }

    /// Makes the next caller ask again.
    pub(crate) async fn forget(&self, name: &str) {
        self.topics.lock().await.remove(name);
    }

    async fn ask(&self, name: &str) -> Result<Topic, Status> {
        let link = self.link(&Node::Any).await?;
        let lost = |error| status::of_lost_question(&error);
        let version = link.versions.newest::<MetadataRequest>().map_err(lost)?;
        let wanted =
            metadata_request::MetadataRequestTopic { name: Some(Text::from(name)), ..Default::default() };
        let request = MetadataRequest {
            topics: Some(vec![wanted]),
            allow_auto_topic_creation: true,
            ..Default::default()
        };
        let response = link.client.call(version, &request).await.map_err(lost)?;
        let topic = response.topics.first();
        let topic = topic.ok_or_else(|| Status::internal("metadata does not tell of the topic asked for"))?;
        match ErrorCode::from_code(topic.error_code) {
            ErrorCode::None => {}
            code => return Err(Status::new(status::of_code(code), format!("topic {name:?}: {code}"))),
        }
        let node = |id: i32| {
            let broker = response.brokers.iter().find(|broker| broker.node_id == id)?;
            let port = u16::try_from(broker.port).ok()?;
            Some(Node::At { host: broker.host.to_string(), port })
        };
        let mut leaders = vec![None; topic.partitions.len()];
        for partition in &topic.partitions {
            let index = usize::try_from(partition.partition_index).ok();
            if let Some(leader) = index.and_then(|index| leaders.get_mut(index)) {
                *leader = node(partition.leader_id);
            }
        }
        let id = tidemark_proto::id::TopicId(topic.topic_id);
        Ok(Topic { id, leaders, learnt: Instant::now() })
    }
}
