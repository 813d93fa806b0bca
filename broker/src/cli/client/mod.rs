//! A thin Kafka client for the commands: it speaks to any broker, and only what commands ask for.
//!
//! A [`Cluster`] finds nodes from the bootstrap addresses, keeps a connection to each, looks up leaders and
//! coordinators, and asks again while an error is one that passes and time is left. Knows no table, no JSON and no
//! command line beyond [`To`].

mod groups;
mod link;
mod member;
mod offsets;
mod reader;
mod run;
mod trouble;
mod writer;

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use parking_lot::Mutex;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::metadata_response::{MetadataResponsePartition, MetadataResponseTopic};
use tidemark_proto::kafka::messages::{MetadataRequest, MetadataResponse, metadata_request};
use tidemark_proto::kafka::wire::Request;
use tidemark_tiering::seam::Seams;
use tokio::time::Instant;

pub use groups::{Group, Listed, is_dead};
pub use link::{Link, Purpose};
pub use member::{Held, Membership};
pub use offsets::{EARLIEST, EARLIEST_LOCAL, LATEST, Place, Spot};
pub use reader::{Reader, Taken};
pub use run::{ask, stay};
pub use trouble::{Trouble, refused};
pub use writer::{Acks, Writer};

const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_LAST: Duration = Duration::from_secs(1);
const PORT: &str = "9092";

/// Which cluster a command talks to, and how it answers.
#[derive(Args, Clone, Debug)]
pub struct To {
    /// Brokers to begin with; any one of the cluster will do.
    #[arg(
        short,
        long,
        visible_alias = "bootstrap-server",
        global = true,
        env = "TIDEMARK_BOOTSTRAP",
        default_value = "127.0.0.1:9092",
        value_name = "HOST:PORT,…"
    )]
    pub bootstrap: String,
    /// Print JSON instead of a table.
    #[arg(long, global = true)]
    pub json: bool,
    /// How long to wait for what may still come (a leader, a coordinator), in seconds.
    #[arg(
        long,
        global = true,
        default_value_t = 30,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(..=86_400)
    )]
    pub timeout: u64,
}

/// A cluster, by way of whichever of its brokers answer.
pub struct Cluster {
    bootstrap: Vec<String>,
    /// How long passing errors are waited out.
    pub timeout: Duration,
    /// Clock, randomness, tasks.
    pub seams: Seams,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    nodes: BTreeMap<i32, String>,
    controller: i32,
    links: BTreeMap<(String, Purpose), Link>,
}

impl Cluster {
    /// Nothing is connected yet.
    pub fn new(to: &To, seams: Seams) -> Cluster {
        Cluster {
            bootstrap: addresses(&to.bootstrap),
            timeout: Duration::from_secs(to.timeout),
            seams,
            known: Mutex::default(),
        }
    }

    /// A connection to `address`, opened where there is none.
    pub async fn link(&self, address: &str, purpose: Purpose) -> Result<Link, Trouble> {
        let place = (address.to_owned(), purpose);
        let open = self.known.lock().links.get(&place).filter(|link| !link.is_closed()).cloned();
        if let Some(link) = open {
            return Ok(link);
        }
        let opened = Link::open(address, &self.seams.tasks).await;
        let mut known = self.known.lock();
        match opened {
            Ok(link) => {
                known.links.insert(place, link.clone());
                Ok(link)
            }
            // The cluster was there: it may be back in a moment.
            Err(Trouble::Unreachable(why)) if !known.links.is_empty() => Err(Trouble::Lost(why)),
            Err(trouble) => Err(trouble),
        }
    }

    /// A connection to any broker: one that metadata named, else a bootstrap address.
    pub async fn any(&self) -> Result<Link, Trouble> {
        let nodes: Vec<String> = self.known.lock().nodes.values().cloned().collect();
        let mut why = Trouble::Unreachable("--bootstrap names no address".into());
        for address in self.bootstrap.iter().chain(&nodes) {
            match self.link(address, Purpose::Ask).await {
                Ok(link) => return Ok(link),
                Err(trouble) => why = trouble,
            }
        }
        Err(why)
    }

    /// A connection to a broker by its id.
    pub async fn node(&self, id: i32, purpose: Purpose) -> Result<Link, Trouble> {
        let address = self.known.lock().nodes.get(&id).cloned();
        match address {
            Some(address) => self.link(&address, purpose).await,
            None => Err(Trouble::Lost(format!("broker {id} is not among the cluster's brokers"))),
        }
    }

    /// A connection to the controller, or to whichever broker passes requests on to it.
    pub async fn controller(&self) -> Result<Link, Trouble> {
        self.metadata(Some(&[])).await?;
        let id = self.known.lock().controller;
        match self.node(id, Purpose::Ask).await {
            Ok(link) => Ok(link),
            Err(_) => self.any().await,
        }
    }

    /// What the cluster says of `topics` (of all without names); never creates one.
    pub async fn metadata(&self, topics: Option<&[String]>) -> Result<MetadataResponse, Trouble> {
        let named = |name: &String| metadata_request::MetadataRequestTopic {
            name: Some(name.as_str().into()),
            ..Default::default()
        };
        let request = MetadataRequest {
            topics: topics.map(|topics| topics.iter().map(named).collect()),
            allow_auto_topic_creation: false,
            ..Default::default()
        };
        let answer = self.any().await?.call(i16::MAX, &request).await?;
        refused("metadata", answer.error_code, None)?;
        let mut known = self.known.lock();
        known.nodes = answer.brokers.iter().map(|b| (b.node_id, address(&b.host, b.port))).collect();
        known.controller = answer.controller_id;
        Ok(answer)
    }

    /// One topic, once every partition has a leader.
    pub async fn topic(&self, name: &str) -> Result<MetadataResponseTopic, Trouble> {
        let names = [name.to_owned()];
        self.retry(async || {
            let answer = self.metadata(Some(&names)).await?;
            let mut topics = answer.topics;
            let Some(topic) = topics.pop() else {
                return Err(Trouble::Unable(format!("the broker says nothing about topic {name}")));
            };
            if ErrorCode::from_code(topic.error_code) == ErrorCode::UnknownTopicOrPartition {
                return Err(Trouble::unknown_topic(name));
            }
            refused(&format!("topic {name}"), topic.error_code, None)?;
            if let Some(partition) = topic.partitions.iter().find(|p| p.leader_id < 0) {
                let code = ErrorCode::LeaderNotAvailable.code();
                refused(&format!("partition {} of {name}", partition.partition_index), code, None)?;
            }
            Ok(topic)
        })
        .await
    }

    /// Asks again while the trouble is one that passes and time is left.
    pub async fn retry<T>(&self, mut attempt: impl AsyncFnMut() -> Result<T, Trouble>) -> Result<T, Trouble> {
        let mut patience = self.patience();
        loop {
            match attempt().await {
                Err(trouble) if trouble.passes() && patience.pause().await => {}
                other => return other,
            }
        }
    }

    /// The waits between attempts, as long as `--timeout` allows.
    pub fn patience(&self) -> Patience {
        Patience { end: Instant::now() + self.timeout, pause: PAUSE_FIRST }
    }

    /// A call to the controller, repeated while the trouble passes.
    pub async fn ask_controller<R: Request>(&self, request: &R) -> Result<R::Response, Trouble> {
        self.retry(async || self.controller().await?.call(i16::MAX, request).await).await
    }
}

/// Waits that grow, within a bound.
pub struct Patience {
    end: Instant,
    pause: Duration,
}

impl Patience {
    /// Waits; false at once when no time is left.
    pub async fn pause(&mut self) -> bool {
        if Instant::now() + self.pause > self.end {
            return false;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_LAST);
        true
    }
}

/// Partitions by the broker that leads them; those without a leader are left out.
pub fn by_leader<'a>(
    topics: impl IntoIterator<Item = &'a MetadataResponseTopic>,
) -> BTreeMap<i32, Vec<(&'a str, &'a MetadataResponsePartition)>> {
    let mut leaders: BTreeMap<i32, Vec<_>> = BTreeMap::new();
    for topic in topics {
        let name = topic.name.as_ref().map_or("", |name| name.as_str());
        for partition in topic.partitions.iter().filter(|p| p.leader_id >= 0) {
            leaders.entry(partition.leader_id).or_default().push((name, partition));
        }
    }
    leaders
}

/// HOST:PORT, brackets around an IPv6 address.
pub fn address(host: &str, port: i32) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The addresses of `--bootstrap`: a listener's name in front is ignored, a missing port is Kafka's.
fn addresses(text: &str) -> Vec<String> {
    let one = |part: &str| {
        let bare = part.trim().rsplit("://").next().unwrap_or_default();
        let has_port = bare.rsplit_once(':').is_some_and(|(host, port)| {
            port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']'))
        });
        match bare {
            bare if has_port => bare.to_owned(),
            bare if bare.contains(':') && !bare.starts_with('[') => format!("[{bare}]:{PORT}"),
            bare => format!("{bare}:{PORT}"),
        }
    };
    text.split(',').filter(|part| !part.trim().is_empty()).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bootstrap_addresses_get_a_port_and_lose_a_scheme() {
        assert_eq!(
            addresses("a:1, b,PLAINTEXT://c:2,[::1]:3,::1,[::2],"),
            ["a:1", "b:9092", "c:2", "[::1]:3", "[::1]:9092", "[::2]:9092"]
        );
        assert!(addresses(" ").is_empty());
        assert_eq!((address("h", 1), address("::1", 2)), ("h:1".to_owned(), "[::1]:2".to_owned()));
    }
}
