//! `tidemark cluster`: brokers, who the controller is, what each broker serves, and the features that are on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use tidemark_proto::kafka::api::ApiKey;
use tidemark_proto::kafka::messages::{ApiVersionsRequest, ListPartitionReassignmentsRequest};

use super::Failure;
use super::client::{self, Cluster, Purpose, To, address, by_leader};
use super::output::{self, Table, show};
use super::{drain, lanes};

/// The cluster: its brokers and what they can do.
#[derive(Args, Debug)]
#[command(after_help = "Example: tidemark cluster           its brokers
         tidemark cluster versions  the APIs they serve
         tidemark cluster moves     partitions on their way to another leader
         tidemark cluster drain 2   what broker 2 leads goes to others, and it gets nothing
         tidemark cluster lanes     lives, lanes, low marks, seals, recoverers")]
pub struct ClusterArgs {
    #[command(flatten)]
    to: To,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Brokers, racks, the controller (this is what `tidemark cluster` alone does).
    #[command(after_help = "Example: tidemark cluster describe --json")]
    Describe,
    /// Partitions on their way to another leader.
    #[command(after_help = "Example: tidemark cluster moves --json")]
    Moves,
    /// Have a broker give all it leads to others; it gets nothing until `undrain`, even when it starts anew.
    #[command(after_help = "\
Examples:
  tidemark cluster drain 2               returns once broker 2 leads nothing, or with 1 after 5 minutes
  tidemark cluster drain 2 --no-wait     only tells it")]
    Drain {
        /// The broker's id.
        node: i32,
        /// Longest wait, in seconds; afterwards it goes on draining.
        #[arg(long, default_value_t = 300, value_name = "SECONDS", conflicts_with = "no_wait")]
        wait: u64,
        /// Return at once.
        #[arg(long)]
        no_wait: bool,
    },
    /// Let a drained broker lead again.
    #[command(after_help = "Example: tidemark cluster undrain 2")]
    Undrain {
        /// The broker's id.
        node: i32,
    },
    /// Lives and lanes: low marks, seals, who recovers what.
    #[command(after_help = "Example: tidemark cluster lanes --http 10.0.0.2:9464")]
    Lanes {
        /// A broker's tidemark.http.listen, if it cannot be reached as it tells.
        #[arg(long, value_name = "HOST:PORT")]
        http: Option<String>,
    },
    /// The lanes that hold the log of each partition of a topic, as far as it is not in runs.
    #[command(after_help = "Example: tidemark cluster chains orders")]
    Chains {
        /// The topic.
        topic: String,
        /// A broker's tidemark.http.listen, if it cannot be reached as it tells.
        #[arg(long, value_name = "HOST:PORT")]
        http: Option<String>,
    },
    /// Versions of every API, by broker.
    #[command(after_help = "Example: tidemark cluster versions")]
    Versions,
    /// Features: what is on, and what could be.
    #[command(after_help = "Example: tidemark cluster features")]
    Features,
}

impl ClusterArgs {
    /// Prints it.
    pub fn run(self) -> Result<(), Failure> {
        let ClusterArgs { to, verb } = self;
        let json = to.json;
        client::ask(&to, async |cluster| match verb.unwrap_or(Verb::Describe) {
            Verb::Describe => describe(&cluster, json).await,
            Verb::Moves => moves(&cluster, json).await,
            Verb::Drain { node, wait, no_wait } => {
                let patience = (!no_wait).then(|| Duration::from_secs(wait));
                drain::drain(&cluster, node, patience, json).await
            }
            Verb::Undrain { node } => drain::undrain(&cluster, node, json).await,
            Verb::Lanes { http } => lanes::lanes(&cluster, http.as_deref(), json).await,
            Verb::Chains { topic, http } => lanes::chains(&cluster, http.as_deref(), &topic, json).await,
            Verb::Versions => versions(&cluster, json).await,
            Verb::Features => features(&cluster, json).await,
        })
    }
}

#[derive(Serialize)]
struct Described {
    cluster_id: Option<String>,
    controller: i32,
    topics: usize,
    partitions: usize,
    without_leader: usize,
    brokers: Vec<Broker>,
}

#[derive(Serialize)]
struct Broker {
    id: i32,
    address: String,
    rack: Option<String>,
    controller: bool,
    leads: usize,
    answers: bool,
}

async fn describe(cluster: &Cluster, json: bool) -> Result<(), Failure> {
    let metadata = cluster.metadata(None).await?;
    let leaders = by_leader(&metadata.topics);
    let mut brokers = Vec::new();
    for broker in &metadata.brokers {
        brokers.push(Broker {
            id: broker.node_id,
            address: address(&broker.host, broker.port),
            rack: broker.rack.as_ref().map(ToString::to_string),
            controller: broker.node_id == metadata.controller_id,
            leads: leaders.get(&broker.node_id).map_or(0, Vec::len),
            answers: cluster.node(broker.node_id, Purpose::Ask).await.is_ok(),
        });
    }
    brokers.sort_by_key(|broker| broker.id);
    let partitions: usize = metadata.topics.iter().map(|topic| topic.partitions.len()).sum();
    let described = Described {
        cluster_id: metadata.cluster_id.as_ref().map(ToString::to_string),
        controller: metadata.controller_id,
        topics: metadata.topics.len(),
        partitions,
        without_leader: partitions - leaders.values().map(Vec::len).sum::<usize>(),
        brokers,
    };
    output::show_text(json, &described, || text(&described))
}

fn text(cluster: &Described) -> String {
    let mut table = Table::new(&[">BROKER", "ADDRESS", "RACK", ">LEADS", "ANSWERS", "CONTROLLER"]);
    let yes = |yes: bool, no: &str| if yes { "yes".to_owned() } else { no.to_owned() };
    for broker in &cluster.brokers {
        table.row([
            broker.id.to_string(),
            broker.address.clone(),
            broker.rack.clone().unwrap_or_else(|| "-".into()),
            broker.leads.to_string(),
            yes(broker.answers, "NO"),
            yes(broker.controller, ""),
        ]);
    }
    format!(
        "cluster {}: {} brokers, {} topics, {} partitions ({} without a leader)\n{}",
        cluster.cluster_id.as_deref().unwrap_or("-"),
        cluster.brokers.len(),
        cluster.topics,
        cluster.partitions,
        cluster.without_leader,
        table.text()
    )
}

#[derive(Serialize)]
struct Move {
    topic: String,
    partition: i32,
    to: Vec<i32>,
    replicas: Vec<i32>,
}

async fn moves(cluster: &Cluster, json: bool) -> Result<(), Failure> {
    let request = ListPartitionReassignmentsRequest { topics: None, timeout_ms: 30_000 };
    let answer = cluster.any().await?.call(i16::MAX, &request).await?;
    client::refused("moves", answer.error_code, answer.error_message.as_ref())?;
    let moves: Vec<Move> = answer
        .topics
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|p| (topic.name.to_string(), p)))
        .map(|(topic, p)| Move {
            topic,
            partition: p.partition_index,
            to: p.adding_replicas.clone(),
            replicas: p.replicas.clone(),
        })
        .collect();
    let why = if json { None } else { lanes::why(cluster).await };
    output::show_text(json, &moves, || {
        let list = |nodes: &[i32]| nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let mut table = Table::new(&["TOPIC", ">PARTITION", "TO", "REPLICAS"]);
        for row in &moves {
            table.row([row.topic.clone(), row.partition.to_string(), list(&row.to), list(&row.replicas)]);
        }
        let why = why.map_or_else(String::new, |why| format!("the balancer's last word: {why}\n"));
        format!("{}{why}", table.text())
    })
}

#[derive(Serialize)]
struct ApiRow {
    key: i16,
    api: String,
    brokers: BTreeMap<i32, String>,
}

async fn versions(cluster: &Cluster, json: bool) -> Result<(), Failure> {
    let metadata = cluster.metadata(Some(&[])).await?;
    let mut rows: BTreeMap<i16, ApiRow> = BTreeMap::new();
    let ids: BTreeSet<i32> = metadata.brokers.iter().map(|broker| broker.node_id).collect();
    for id in &ids {
        let request = request();
        let answer = cluster.node(*id, Purpose::Ask).await?.call(i16::MAX, &request).await?;
        for api in answer.api_keys {
            let name = ApiKey::from_i16(api.api_key).map_or("(unknown)", ApiKey::name);
            let row = rows.entry(api.api_key).or_insert_with(|| ApiRow {
                key: api.api_key,
                api: name.to_owned(),
                brokers: BTreeMap::new(),
            });
            row.brokers.insert(*id, format!("{}-{}", api.min_version, api.max_version));
        }
    }
    let rows: Vec<ApiRow> = rows.into_values().collect();
    show(json, &rows, || {
        let heads: Vec<String> = ids.iter().map(|id| format!("BROKER {id}")).collect();
        let heads: Vec<&str> = [">KEY", "API"].into_iter().chain(heads.iter().map(String::as_str)).collect();
        let mut table = Table::new(&heads);
        for row in &rows {
            let range = |id| row.brokers.get(id).cloned().unwrap_or_else(|| "-".into());
            table.row([row.key.to_string(), row.api.clone()].into_iter().chain(ids.iter().map(range)));
        }
        table
    })
}

#[derive(Serialize)]
struct Feature {
    feature: String,
    level: Option<i16>,
    supported_min: Option<i16>,
    supported_max: Option<i16>,
}

async fn features(cluster: &Cluster, json: bool) -> Result<(), Failure> {
    let answer = cluster.any().await?.call(i16::MAX, &request()).await?;
    let mut all = Vec::new();
    for supported in &answer.supported_features {
        let level = answer.finalized_features.iter().find(|on| on.name == supported.name);
        all.push(Feature {
            level: level.map(|on| on.max_version_level),
            supported_min: Some(supported.min_version),
            supported_max: Some(supported.max_version),
            feature: supported.name.to_string(),
        });
    }
    for on in &answer.finalized_features {
        if !answer.supported_features.iter().any(|supported| supported.name == on.name) {
            all.push(Feature {
                feature: on.name.to_string(),
                level: Some(on.max_version_level),
                supported_min: None,
                supported_max: None,
            });
        }
    }
    all.sort_by(|a, b| a.feature.cmp(&b.feature));
    show(json, &all, || {
        let mut table = Table::new(&["FEATURE", ">LEVEL", "SUPPORTED"]);
        for feature in &all {
            let range = feature.supported_min.zip(feature.supported_max);
            table.row([
                feature.feature.clone(),
                output::number(feature.level.map(i64::from)),
                range.map_or_else(|| "-".into(), |(min, max)| format!("{min}-{max}")),
            ]);
        }
        table
    })
}

fn request() -> ApiVersionsRequest {
    ApiVersionsRequest {
        client_software_name: "tidemark".into(),
        client_software_version: env!("CARGO_PKG_VERSION").into(),
    }
}
