//! A Kafka cluster as the load sees it: who leads what, and connections to the leaders.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use parking_lot::Mutex;
use tidemark_proto::client::{Client, Options, Versions};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::{
    CreateTopicsRequest, InitProducerIdRequest, ListOffsetsRequest, MetadataRequest, create_topics_request,
    list_offsets_request, metadata_request,
};
use tidemark_proto::kafka::wire::Request;
use tidemark_tiering::seam::Tasks;
use tokio::time::Instant;

const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How long a topic may be without leaders before the run gives up.
const PATIENCE: Duration = Duration::from_secs(60);
const IN_FLIGHT_MAX: usize = 1024;

/// An offset query: the first offset there is.
pub const EARLIEST: i64 = -2;
/// An offset query: the next offset to be written.
pub const LATEST: i64 = -1;

/// A connection and the versions its broker serves.
#[derive(Clone, Debug)]
pub struct Link {
    /// The connection.
    pub client: Client,
    versions: Versions,
}

impl Link {
    /// Calls in the newest version up to `cap`.
    pub async fn call<R: Request>(&self, cap: i16, request: &R) -> Result<R::Response> {
        let version = self.versions.newest_to::<R>(cap)?;
        Ok(self.client.call(version, request).await?)
    }
}

/// A cluster and one topic of it.
pub struct Cluster {
    bootstrap: Vec<String>,
    /// The topic's name.
    pub topic: String,
    tasks: Tasks,
    leaders: Mutex<Vec<String>>,
    links: tokio::sync::Mutex<BTreeMap<(String, usize), Link>>,
}

impl Cluster {
    /// A cluster that nobody has asked yet: it knows no leaders.
    pub fn absent(bootstrap: &str, topic: &str, tasks: Tasks) -> Cluster {
        Cluster {
            bootstrap: bootstrap.split(',').map(str::to_owned).collect(),
            topic: topic.to_owned(),
            tasks,
            leaders: Mutex::new(Vec::new()),
            links: tokio::sync::Mutex::new(BTreeMap::new()),
        }
    }

    /// Finds the topic, creating it with `partitions` if it does not exist and `partitions` is not 0.
    pub async fn open(bootstrap: &str, topic: &str, partitions: u32, tasks: Tasks) -> Result<Cluster> {
        let cluster = Cluster::absent(bootstrap, topic, tasks);
        if partitions > 0 {
            cluster.create(partitions).await?;
        }
        cluster.refresh().await?;
        Ok(cluster)
    }

    /// How many partitions the topic has.
    pub fn partitions(&self) -> usize {
        self.leaders.lock().len()
    }

    /// Address of a partition's leader.
    pub fn leader(&self, partition: usize) -> String {
        self.leaders.lock().get(partition).cloned().unwrap_or_default()
    }

    /// The `slot`-th connection to `address`, opened where there is none.
    pub async fn link(&self, address: &str, slot: usize) -> Result<Link> {
        let mut links = self.links.lock().await;
        let place = (address.to_owned(), slot);
        if let Some(link) = links.get(&place).filter(|link| !link.client.is_closed()) {
            return Ok(link.clone());
        }
        let link = tokio::time::timeout(CONNECT_PATIENCE, self.connect(address))
            .await
            .map_err(|_| anyhow!("{address} did not answer within {CONNECT_PATIENCE:?}"))??;
        links.insert(place, link.clone());
        Ok(link)
    }

    async fn connect(&self, address: &str) -> Result<Link> {
        let options = Options {
            client_id: "tidemark-bench".into(),
            in_flight_max: IN_FLIGHT_MAX,
            ..Options::default()
        };
        let connected = Client::connect(address, options).await;
        let (client, driver) = connected.with_context(|| format!("cannot connect to {address}"))?;
        self.tasks.spawn(driver);
        let versions = client.api_versions().await?;
        Ok(Link { client, versions })
    }

    /// A connection to any broker.
    async fn any(&self) -> Result<Link> {
        let mut why = anyhow!("no bootstrap address");
        for address in &self.bootstrap {
            match self.link(address, usize::MAX).await {
                Ok(link) => return Ok(link),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    async fn create(&self, partitions: u32) -> Result<()> {
        let topic = create_topics_request::CreatableTopic {
            name: self.topic.as_str().into(),
            num_partitions: i32::try_from(partitions)?,
            replication_factor: -1,
            ..Default::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 30_000, ..Default::default() };
        let answer = self.any().await?.call(i16::MAX, &request).await?;
        let result = answer.topics.first().context("CreateTopics answers no topic")?;
        match ErrorCode::from_code(result.error_code) {
            ErrorCode::None | ErrorCode::TopicAlreadyExists => Ok(()),
            code => bail!("cannot create {}: {code} {:?}", self.topic, result.error_message),
        }
    }

    /// Asks until every partition has a leader.
    pub async fn refresh(&self) -> Result<()> {
        let began = Instant::now();
        loop {
            match self.ask_leaders().await {
                Ok(leaders) => {
                    *self.leaders.lock() = leaders;
                    return Ok(());
                }
                Err(error) if began.elapsed() > PATIENCE => return Err(error),
                Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
    }

    async fn ask_leaders(&self) -> Result<Vec<String>> {
        let name = metadata_request::MetadataRequestTopic {
            name: Some(self.topic.as_str().into()),
            ..Default::default()
        };
        let request = MetadataRequest { topics: Some(vec![name]), ..Default::default() };
        let answer = self.any().await?.call(i16::MAX, &request).await?;
        let topic = answer.topics.first().context("Metadata answers no topic")?;
        let code = ErrorCode::from_code(topic.error_code);
        ensure!(code == ErrorCode::None, "{}: {code}", self.topic);
        let mut leaders = vec![String::new(); topic.partitions.len()];
        for partition in &topic.partitions {
            let broker = answer.brokers.iter().find(|b| b.node_id == partition.leader_id);
            let broker =
                broker.with_context(|| format!("partition {} has no leader", partition.partition_index))?;
            let place = usize::try_from(partition.partition_index).ok().and_then(|p| leaders.get_mut(p));
            *place.context("Metadata names partitions that are not dense")? =
                format!("{}:{}", broker.host, broker.port);
        }
        ensure!(!leaders.is_empty(), "{} has no partitions", self.topic);
        Ok(leaders)
    }

    /// The offset of `when` ([`EARLIEST`], [`LATEST`]) in every partition. A leader may still be on its way.
    pub async fn offsets(&self, when: i64) -> Result<Vec<i64>> {
        let began = Instant::now();
        let mut offsets = Vec::new();
        while offsets.len() < self.partitions() {
            match self.offset(offsets.len(), when).await? {
                Ok(offset) => offsets.push(offset),
                Err(code) if code.is_retriable() && began.elapsed() < PATIENCE => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                    self.refresh().await?;
                }
                Err(code) => bail!("offsets of partition {}: {code}", offsets.len()),
            }
        }
        Ok(offsets)
    }

    async fn offset(&self, partition: usize, when: i64) -> Result<Result<i64, ErrorCode>> {
        let wanted = list_offsets_request::ListOffsetsPartition {
            partition_index: i32::try_from(partition)?,
            current_leader_epoch: -1,
            timestamp: when,
            ..Default::default()
        };
        let topic = list_offsets_request::ListOffsetsTopic {
            name: self.topic.as_str().into(),
            partitions: vec![wanted],
        };
        let request = ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
        let answer = self.link(&self.leader(partition), 0).await?.call(i16::MAX, &request).await?;
        let found = answer.topics.first().and_then(|t| t.partitions.first());
        let found = found.context("ListOffsets answers no partition")?;
        let code = ErrorCode::from_code(found.error_code);
        Ok(if code == ErrorCode::None { Ok(found.offset) } else { Err(code) })
    }

    /// A producer id and epoch for an idempotent producer.
    pub async fn producer_id(&self) -> Result<(i64, i16)> {
        let request = InitProducerIdRequest {
            transactional_id: None,
            transaction_timeout_ms: 60_000,
            producer_id: -1,
            producer_epoch: -1,
        };
        let answer = self.any().await?.call(i16::MAX, &request).await?;
        let code = ErrorCode::from_code(answer.error_code);
        ensure!(code == ErrorCode::None, "InitProducerId: {code}");
        Ok((answer.producer_id, answer.producer_epoch))
    }
}
