//! `tidemark topics`: list, describe, create, alter, delete, delete-records.

use clap::{Args, Subcommand};
use serde::Serialize;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::create_partitions_request::CreatePartitionsTopic;
use tidemark_proto::kafka::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use tidemark_proto::kafka::messages::metadata_response::MetadataResponseTopic;
use tidemark_proto::kafka::messages::{CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest};

use super::client::{self, Cluster, To, Trouble, refused};
use super::output::{self, Table, confirm, list, show};
use super::records::{self, Cut};
use super::{Failure, pattern};
use crate::config::short_id::to_letters;

/// The last version that names topics by name only.
const DELETE_MAX: i16 = 5;
const TIMEOUT_MS: i32 = 30_000;

/// Topics: which there are, and what becomes of them.
#[derive(Args, Debug)]
pub struct Topics {
    #[command(flatten)]
    to: To,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Which topics there are.
    #[command(after_help = "Example: tidemark topics list 'orders.*'")]
    List {
        /// Names, or patterns with * and ?; all topics without any.
        patterns: Vec<String>,
        /// Internal topics too.
        #[arg(long)]
        internal: bool,
    },
    /// Where each partition is, and which offsets it holds.
    #[command(after_help = "Example: tidemark topics describe orders")]
    Describe {
        /// Names, or patterns with * and ?.
        #[arg(required = true)]
        patterns: Vec<String>,
    },
    /// Make topics.
    #[command(
        after_help = "Example: tidemark topics create orders payments -p 12 --config retention.ms=86400000"
    )]
    Create {
        /// Names.
        #[arg(required = true)]
        names: Vec<String>,
        /// How many partitions; the broker's num.partitions unless given.
        #[arg(short, long, default_value_t = -1, hide_default_value = true, value_parser = clap::value_parser!(i32).range(-1..))]
        partitions: i32,
        /// How many replicas; the broker's default.replication.factor unless given.
        #[arg(short, long, default_value_t = -1, hide_default_value = true)]
        replication_factor: i16,
        /// A configuration of the topic; may be given more than once.
        #[arg(short, long = "config", value_name = "KEY=VALUE")]
        configs: Vec<String>,
        /// Leave a topic that exists as it is.
        #[arg(long)]
        if_not_exists: bool,
        /// Have it checked, and make nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Add partitions. Keys go to other partitions then.
    #[command(after_help = "Example: tidemark topics alter orders --partitions 24")]
    Alter {
        /// Names, or patterns with * and ?.
        #[arg(required = true)]
        patterns: Vec<String>,
        /// How many there are to be.
        #[arg(short, long)]
        partitions: i32,
        /// Have it checked, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Delete topics with all their records.
    #[command(after_help = "Example: tidemark topics delete 'test-*' --yes")]
    Delete {
        /// Names, or patterns with * and ?.
        #[arg(required = true)]
        patterns: Vec<String>,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
    /// Delete a topic's oldest records.
    #[command(after_help = "Example: tidemark topics delete-records orders --before 2026-11-01")]
    DeleteRecords(Cut),
}

impl Topics {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        let Topics { to, verb } = self;
        let json = to.json;
        client::ask(&to, async |cluster| match verb {
            Verb::List { patterns, internal } => list_topics(&cluster, &patterns, internal, json).await,
            Verb::Describe { patterns } => describe(&cluster, &patterns, json).await,
            Verb::Create { names, partitions, replication_factor, configs, if_not_exists, dry_run } => {
                let topic = |name: &str| -> Result<CreatableTopic, Failure> {
                    Ok(CreatableTopic {
                        name: name.into(),
                        num_partitions: partitions,
                        replication_factor,
                        configs: configs.iter().map(|pair| config(pair)).collect::<Result<_, _>>()?,
                        ..Default::default()
                    })
                };
                let topics = names.iter().map(|name| topic(name)).collect::<Result<_, _>>()?;
                create(&cluster, topics, if_not_exists, dry_run, json).await
            }
            Verb::Alter { patterns, partitions, dry_run } => {
                alter(&cluster, &patterns, partitions, dry_run, json).await
            }
            Verb::Delete { patterns, yes } => delete(&cluster, &patterns, yes, json).await,
            Verb::DeleteRecords(cut) => records::delete(&cluster, &cut, json).await,
        })
    }
}

/// The topics that patterns describe; an internal one is only chosen by patterns that do not begin with a star.
pub async fn chosen(
    cluster: &Cluster,
    patterns: &[String],
    internal: bool,
) -> Result<Vec<MetadataResponseTopic>, Failure> {
    let metadata = cluster.retry(async || cluster.metadata(None).await).await?;
    let name = |topic: &MetadataResponseTopic| topic.name.as_ref().map_or(String::new(), ToString::to_string);
    let shown = |topic: &MetadataResponseTopic| {
        internal
            || !topic.is_internal
            || patterns.iter().any(|p| !p.starts_with('*') && pattern::matches(p, &name(topic)))
    };
    let mut topics: Vec<_> = metadata.topics.into_iter().filter(shown).collect();
    topics.sort_by_key(name);
    let names = pattern::choose("topic", patterns, topics.iter().map(name).collect())?;
    topics.retain(|topic| names.contains(&name(topic)));
    Ok(topics)
}

/// The name of a topic that metadata names.
pub fn name_of(topic: &MetadataResponseTopic) -> String {
    topic.name.as_ref().map_or(String::new(), ToString::to_string)
}

#[derive(Serialize)]
struct Row {
    name: String,
    id: String,
    partitions: usize,
    replicas: usize,
    internal: bool,
    offline: usize,
}

async fn list_topics(
    cluster: &Cluster,
    patterns: &[String],
    internal: bool,
    json: bool,
) -> Result<(), Failure> {
    let row = |topic: &MetadataResponseTopic| Row {
        name: name_of(topic),
        id: to_letters(topic.topic_id),
        partitions: topic.partitions.len(),
        replicas: topic.partitions.iter().map(|p| p.replica_nodes.len()).max().unwrap_or(0),
        internal: topic.is_internal,
        offline: topic.partitions.iter().filter(|p| p.leader_id < 0).count(),
    };
    let rows: Vec<Row> = chosen(cluster, patterns, internal).await?.iter().map(row).collect();
    show(json, &rows, || {
        let mut table = Table::new(&["TOPIC", ">PARTITIONS", ">REPLICAS", ">OFFLINE", "ID"]);
        for row in &rows {
            table.row([
                row.name.clone(),
                row.partitions.to_string(),
                row.replicas.to_string(),
                row.offline.to_string(),
                row.id.clone(),
            ]);
        }
        table
    })
}

#[derive(Serialize)]
struct Described {
    name: String,
    id: String,
    internal: bool,
    partitions: Vec<PartitionRow>,
}

#[derive(Serialize)]
struct PartitionRow {
    partition: i32,
    leader: i32,
    leader_epoch: i32,
    replicas: Vec<i32>,
    in_sync: Vec<i32>,
    offline: Vec<i32>,
    start: Option<i64>,
    end: Option<i64>,
}

async fn describe(cluster: &Cluster, patterns: &[String], json: bool) -> Result<(), Failure> {
    let topics = chosen(cluster, patterns, false).await?;
    let bounds = super::offsets::bounds(cluster, &topics).await?;
    let mut described = Vec::new();
    for topic in &topics {
        let name = name_of(topic);
        let mut partitions: Vec<PartitionRow> = topic
            .partitions
            .iter()
            .map(|p| {
                let bounds = bounds.get(&(name.clone(), p.partition_index));
                PartitionRow {
                    partition: p.partition_index,
                    leader: p.leader_id,
                    leader_epoch: p.leader_epoch,
                    replicas: p.replica_nodes.clone(),
                    in_sync: p.isr_nodes.clone(),
                    offline: p.offline_replicas.clone(),
                    start: bounds.and_then(|b| b.start),
                    end: bounds.and_then(|b| b.end),
                }
            })
            .collect();
        partitions.sort_by_key(|p| p.partition);
        let id = to_letters(topic.topic_id);
        described.push(Described { name, id, internal: topic.is_internal, partitions });
    }
    output::show_text(json, &described, || described.iter().map(describe_text).collect::<Vec<_>>().join("\n"))
}

fn describe_text(topic: &Described) -> String {
    let mut table =
        Table::new(&[">PARTITION", ">LEADER", ">EPOCH", "REPLICAS", "IN SYNC", "OFFLINE", ">START", ">END"]);
    for p in &topic.partitions {
        table.row([
            p.partition.to_string(),
            if p.leader < 0 { "none".into() } else { p.leader.to_string() },
            p.leader_epoch.to_string(),
            list(&p.replicas),
            list(&p.in_sync),
            list(&p.offline),
            output::number(p.start),
            output::number(p.end),
        ]);
    }
    format!("{} (id {}, {} partitions)\n{}", topic.name, topic.id, topic.partitions.len(), table.text())
}

fn config(pair: &str) -> Result<CreatableTopicConfig, Failure> {
    let (name, value) = pair
        .split_once('=')
        .ok_or_else(|| Failure::Wrong(format!("--config {pair}: write it as retention.ms=86400000")))?;
    Ok(CreatableTopicConfig { name: name.trim().into(), value: Some(value.into()) })
}

/// What became of a topic.
#[derive(Serialize)]
struct Done {
    name: String,
    did: &'static str,
}

fn done(json: bool, done: &[Done]) -> Result<(), Failure> {
    output::show_text(json, &done, || done.iter().map(|d| format!("{} {}\n", d.did, d.name)).collect())
}

async fn create(
    cluster: &Cluster,
    topics: Vec<CreatableTopic>,
    if_not_exists: bool,
    dry_run: bool,
    json: bool,
) -> Result<(), Failure> {
    let request = CreateTopicsRequest { topics, timeout_ms: TIMEOUT_MS, validate_only: dry_run };
    let answer = cluster.ask_controller(&request).await?;
    let mut made = Vec::new();
    let mut trouble = None;
    for topic in &answer.topics {
        let name = topic.name.to_string();
        match ErrorCode::from_code(topic.error_code) {
            ErrorCode::None => {
                made.push(Done { name, did: if dry_run { "could create" } else { "created" } });
            }
            ErrorCode::TopicAlreadyExists if if_not_exists => made.push(Done { name, did: "left" }),
            code => {
                let what = format!("topic {name}");
                trouble = trouble.or(refused(&what, code.code(), topic.error_message.as_ref()).err());
            }
        }
    }
    if !dry_run {
        // Other brokers hear of it a moment later: who comes next finds it with leaders.
        for topic in made.iter().filter(|done| done.did == "created") {
            wait_for(cluster, &topic.name).await?;
        }
    }
    done(json, &made)?;
    trouble.map_or(Ok(()), |trouble| Err(trouble.into()))
}

async fn wait_for(cluster: &Cluster, name: &str) -> Result<(), Trouble> {
    let mut patience = cluster.patience();
    loop {
        match cluster.topic(name).await {
            Err(Trouble::Unable(_)) if patience.pause().await => {}
            other => return other.map(|_| ()),
        }
    }
}

async fn alter(
    cluster: &Cluster,
    patterns: &[String],
    partitions: i32,
    dry_run: bool,
    json: bool,
) -> Result<(), Failure> {
    let names: Vec<String> = chosen(cluster, patterns, false).await?.iter().map(name_of).collect();
    let topic = |name: &String| CreatePartitionsTopic {
        name: name.as_str().into(),
        count: partitions,
        assignments: None,
    };
    let request = CreatePartitionsRequest {
        topics: names.iter().map(topic).collect(),
        timeout_ms: TIMEOUT_MS,
        validate_only: dry_run,
    };
    let answer = cluster.ask_controller(&request).await?;
    let mut altered = Vec::new();
    let mut trouble = None;
    for result in &answer.results {
        let what = format!("topic {}", result.name);
        match refused(&what, result.error_code, result.error_message.as_ref()) {
            Ok(()) => altered.push(Done {
                name: result.name.to_string(),
                did: if dry_run { "could alter" } else { "altered" },
            }),
            Err(why) => trouble = trouble.or(Some(why)),
        }
    }
    done(json, &altered)?;
    trouble.map_or(Ok(()), |trouble| Err(trouble.into()))
}

async fn delete(cluster: &Cluster, patterns: &[String], yes: bool, json: bool) -> Result<(), Failure> {
    let names: Vec<String> = chosen(cluster, patterns, false).await?.iter().map(name_of).collect();
    let question = match names.as_slice() {
        [name] => format!("Delete topic {name} with all its records?"),
        names => format!("Delete {} topics with all their records ({})?", names.len(), names.join(", ")),
    };
    confirm(&cluster.seams.tasks, &question, yes).await?;
    let request = DeleteTopicsRequest {
        topic_names: names.iter().map(|name| name.as_str().into()).collect(),
        timeout_ms: TIMEOUT_MS,
        ..Default::default()
    };
    let answer = cluster.retry(async || cluster.controller().await?.call(DELETE_MAX, &request).await).await?;
    let mut deleted = Vec::new();
    let mut trouble = None;
    for result in &answer.responses {
        let name = result.name.as_ref().map_or(String::new(), ToString::to_string);
        match refused(&format!("topic {name}"), result.error_code, result.error_message.as_ref()) {
            Ok(()) => deleted.push(Done { name, did: "deleted" }),
            Err(why) => trouble = trouble.or(Some(why)),
        }
    }
    done(json, &deleted)?;
    trouble.map_or(Ok(()), |trouble| Err(trouble.into()))
}
