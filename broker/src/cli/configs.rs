//! `tidemark configs`: what is configured, where it was set, and changes to it.

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use tidemark_proto::kafka::messages::describe_configs_request::DescribeConfigsResource;
use tidemark_proto::kafka::messages::describe_configs_response::DescribeConfigsResourceResult;
use tidemark_proto::kafka::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use tidemark_proto::kafka::messages::{DescribeConfigsRequest, IncrementalAlterConfigsRequest};

use super::client::{self, Cluster, Link, Purpose, To, refused};
use super::output::{Table, show, show_text};
use super::{Failure, pattern};

/// Configuration of topics, brokers and groups.
#[derive(Args, Debug)]
pub struct Configs {
    #[command(flatten)]
    to: To,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// What is configured.
    #[command(after_help = "\
Examples:
  tidemark configs get topic orders                 what was set on it
  tidemark configs get topic orders --all           and every default
  tidemark configs get broker 1 'log.*' --wide      with synonyms, in the order in which they win")]
    Get {
        #[command(flatten)]
        of: Of,
        /// Only these keys: names, or patterns with * and ?.
        keys: Vec<String>,
        /// What nobody set, too.
        #[arg(short, long)]
        all: bool,
        /// With where else a key is set, and what it is for.
        #[arg(short, long)]
        wide: bool,
    },
    /// Set keys.
    #[command(
        after_help = "Example: tidemark configs set topic orders retention.ms=86400000 cleanup.policy=compact,delete"
    )]
    Set {
        #[command(flatten)]
        of: Of,
        /// What to set.
        #[arg(required = true, value_name = "KEY=VALUE")]
        pairs: Vec<String>,
        /// Have it checked, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Go back to the default of keys.
    #[command(after_help = "Example: tidemark configs unset broker default message.max.bytes")]
    Unset {
        #[command(flatten)]
        of: Of,
        /// Which keys.
        #[arg(required = true)]
        keys: Vec<String>,
        /// Have it checked, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

/// Whose configuration.
#[derive(Args, Debug)]
struct Of {
    /// What kind of thing.
    #[arg(value_enum)]
    kind: Kind,
    /// Its name: a topic, a broker's id (`default` for all brokers), a group.
    name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    #[value(alias = "topics")]
    Topic,
    #[value(alias = "brokers")]
    Broker,
    #[value(alias = "groups")]
    Group,
}

impl Of {
    /// The resource's type on the wire.
    fn resource(&self) -> i8 {
        match self.kind {
            Kind::Topic => 2,
            Kind::Broker => 4,
            Kind::Group => 32,
        }
    }

    /// The resource's name on the wire; the default of all brokers has none.
    fn name(&self) -> &str {
        if self.kind == Kind::Broker && self.name == "default" { "" } else { &self.name }
    }

    /// Who answers: a broker for itself, any for everything else.
    async fn link(&self, cluster: &Cluster) -> Result<Link, Failure> {
        if self.kind != Kind::Broker || self.name().is_empty() {
            return Ok(cluster.controller().await?);
        }
        let id: i32 = self.name.parse().map_err(|_| {
            Failure::Wrong(format!("{} is no broker's id; write a number, or default for all", self.name))
        })?;
        cluster.metadata(Some(&[])).await?;
        let lost =
            |_| Failure::Failed(format!("there is no broker {id}; `tidemark cluster` shows those there are"));
        cluster.node(id, Purpose::Ask).await.map_err(lost)
    }

    fn what(&self) -> String {
        match (self.kind, self.name()) {
            (Kind::Topic, name) => format!("topic {name}"),
            (Kind::Broker, "") => "all brokers".into(),
            (Kind::Broker, name) => format!("broker {name}"),
            (Kind::Group, name) => format!("group {name}"),
        }
    }
}

impl Configs {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        let Configs { to, verb } = self;
        let json = to.json;
        client::ask(&to, async |cluster| match verb {
            Verb::Get { of, keys, all, wide } => get(&cluster, &of, &keys, (all, wide), json).await,
            Verb::Set { of, pairs, dry_run } => {
                let changes = pairs.iter().map(|pair| set(pair)).collect::<Result<_, _>>()?;
                alter(&cluster, &of, changes, dry_run, json).await
            }
            Verb::Unset { of, keys, dry_run } => {
                let unset = |key: &String| AlterableConfig {
                    name: key.as_str().into(),
                    config_operation: 1,
                    value: None,
                };
                alter(&cluster, &of, keys.iter().map(unset).collect(), dry_run, json).await
            }
        })
    }
}

fn set(pair: &str) -> Result<AlterableConfig, Failure> {
    let (key, value) = pair
        .split_once('=')
        .ok_or_else(|| Failure::Wrong(format!("{pair}: write it as retention.ms=86400000")))?;
    Ok(AlterableConfig { name: key.trim().into(), config_operation: 0, value: Some(value.into()) })
}

#[derive(Serialize)]
struct Row {
    key: String,
    value: Option<String>,
    source: &'static str,
    read_only: bool,
    sensitive: bool,
    #[serde(rename = "type")]
    kind: &'static str,
    synonyms: Vec<Synonym>,
    documentation: Option<String>,
}

#[derive(Serialize)]
struct Synonym {
    key: String,
    value: Option<String>,
    source: &'static str,
}

/// Where a value comes from.
fn source(code: i8) -> &'static str {
    match code {
        1 => "topic",
        2 => "broker",
        3 => "all brokers",
        4 => "file",
        5 => "default",
        6 => "broker logger",
        7 => "client metrics",
        8 => "group",
        _ => "unknown",
    }
}

fn kind(code: i8) -> &'static str {
    match code {
        1 => "boolean",
        2 => "string",
        3 => "int",
        4 => "short",
        5 => "long",
        6 => "double",
        7 => "list",
        8 => "class",
        9 => "password",
        _ => "unknown",
    }
}

async fn get(
    cluster: &Cluster,
    of: &Of,
    keys: &[String],
    (all, wide): (bool, bool),
    json: bool,
) -> Result<(), Failure> {
    let resource = DescribeConfigsResource {
        resource_type: of.resource(),
        resource_name: of.name().into(),
        configuration_keys: None,
    };
    let request = DescribeConfigsRequest {
        resources: vec![resource],
        include_synonyms: true,
        include_documentation: wide || json,
    };
    let answer = of.link(cluster).await?.call(i16::MAX, &request).await?;
    let Some(result) = answer.results.into_iter().next() else {
        return Err(Failure::Failed(format!("the broker says nothing about {}", of.what())));
    };
    refused(&of.what(), result.error_code, result.error_message.as_ref())?;
    let mut rows: Vec<Row> = result.configs.into_iter().map(row).collect();
    rows.sort_by(|a, b| a.key.cmp(&b.key));
    // A key that was named is shown whoever set it.
    let names = pattern::choose("key", keys, rows.iter().map(|row| row.key.clone()).collect())?;
    rows.retain(|row| names.contains(&row.key) && (all || !keys.is_empty() || row.source != "default"));
    show(json, &rows, || table(&rows, wide))
}

fn row(config: DescribeConfigsResourceResult) -> Row {
    let synonyms = config.synonyms.into_iter().map(|synonym| Synonym {
        key: synonym.name.to_string(),
        value: synonym.value.map(|value| value.to_string()),
        source: source(synonym.source),
    });
    Row {
        key: config.name.to_string(),
        value: config.value.map(|value| value.to_string()),
        source: source(config.config_source),
        read_only: config.read_only,
        sensitive: config.is_sensitive,
        kind: kind(config.config_type),
        synonyms: synonyms.collect(),
        documentation: config.documentation.map(|text| text.to_string()),
    }
}

fn table(rows: &[Row], wide: bool) -> Table {
    let heads = ["KEY", "VALUE", "SOURCE", "TYPE", "CHANGEABLE", "SYNONYMS", "FOR"];
    let mut table = Table::new(&heads[..if wide { 7 } else { 3 }]);
    for row in rows {
        let value = match (&row.value, row.sensitive) {
            (_, true) => "(hidden)".to_owned(),
            (Some(value), _) => value.clone(),
            (None, _) => "-".to_owned(),
        };
        let synonym = |synonym: &Synonym| {
            format!("{}={} ({})", synonym.key, synonym.value.as_deref().unwrap_or("-"), synonym.source)
        };
        let cells = [
            row.key.clone(),
            value,
            row.source.to_owned(),
            row.kind.to_owned(),
            if row.read_only { "no" } else { "yes" }.to_owned(),
            row.synonyms.iter().map(synonym).collect::<Vec<_>>().join(" "),
            row.documentation.clone().unwrap_or_default(),
        ];
        table.row(cells.into_iter().take(if wide { 7 } else { 3 }));
    }
    table
}

#[derive(Serialize)]
struct Changed {
    of: String,
    keys: Vec<String>,
    dry_run: bool,
}

async fn alter(
    cluster: &Cluster,
    of: &Of,
    configs: Vec<AlterableConfig>,
    dry_run: bool,
    json: bool,
) -> Result<(), Failure> {
    let keys: Vec<String> = configs.iter().map(|config| config.name.to_string()).collect();
    let resource =
        AlterConfigsResource { resource_type: of.resource(), resource_name: of.name().into(), configs };
    let request = IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: dry_run };
    let answer = of.link(cluster).await?.call(i16::MAX, &request).await?;
    let result = answer.responses.first();
    let result =
        result.ok_or_else(|| Failure::Failed(format!("the broker says nothing about {}", of.what())))?;
    refused(&of.what(), result.error_code, result.error_message.as_ref())?;
    let changed = Changed { of: of.what(), keys, dry_run };
    show_text(json, &changed, || {
        let did = if dry_run { "could change" } else { "changed" };
        format!("{did} {} of {}\n", changed.keys.join(", "), changed.of)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_of_all_brokers_has_no_name_on_the_wire() {
        let of = |kind, name: &str| Of { kind, name: name.into() };
        assert_eq!((of(Kind::Broker, "default").name(), of(Kind::Topic, "default").name()), ("", "default"));
        assert_eq!(of(Kind::Group, "g").resource(), 32);
    }

    #[test]
    fn a_change_has_a_key_and_a_value() {
        assert_eq!(set("a=b=c").unwrap().value.as_deref(), Some("b=c"));
        assert!(set("a").is_err());
    }
}
