//! `tidemark groups`: list, describe, delete.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::client::{self, Cluster, Group, LATEST, Listed, Place, To, is_dead};
use super::output::{self, Table, confirm, number, show};
use super::reset::{self, Reset};
use super::{Failure, pattern};

/// Consumer groups: who reads what, and how far behind.
#[derive(Args, Debug)]
pub struct Groups {
    #[command(flatten)]
    to: To,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Which groups there are.
    #[command(after_help = "Example: tidemark groups list --state stable")]
    List {
        /// Names, or patterns with * and ?; all groups without any.
        patterns: Vec<String>,
        /// Only those in this state.
        #[arg(long)]
        state: Option<String>,
    },
    /// Members, committed offsets and lag of each partition.
    #[command(after_help = "Example: tidemark groups describe billing")]
    Describe {
        /// Names, or patterns with * and ?.
        #[arg(required = true)]
        patterns: Vec<String>,
        /// The members and what each was given, instead of offsets.
        #[arg(long)]
        members: bool,
    },
    /// Delete groups without members, and their offsets.
    #[command(after_help = "Example: tidemark groups delete 'test-*' --yes")]
    Delete {
        /// Names, or patterns with * and ?.
        #[arg(required = true)]
        patterns: Vec<String>,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
    /// Move a group's offsets. Shows what it would do; --execute does it.
    #[command(after_help = "\
Examples:
  tidemark groups reset-offsets billing --topic orders --to-earliest
  tidemark groups reset-offsets billing --all-topics --to-datetime 2026-11-23T12:00:00Z --execute
  tidemark groups reset-offsets billing --topic orders:0,1 --shift-by -100 --execute")]
    ResetOffsets(Reset),
}

impl Groups {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        let Groups { to, verb } = self;
        let json = to.json;
        client::ask(&to, async |cluster| match verb {
            Verb::List { patterns, state } => list(&cluster, &patterns, state.as_deref(), json).await,
            Verb::Describe { patterns, members } => describe(&cluster, &patterns, members, json).await,
            Verb::Delete { patterns, yes } => delete(&cluster, &patterns, yes, json).await,
            Verb::ResetOffsets(reset) => reset::run(&cluster, &reset, json).await,
        })
    }
}

#[derive(Serialize)]
struct Row {
    group: String,
    state: String,
    kind: String,
    protocol: String,
    coordinator: i32,
}

async fn list(
    cluster: &Cluster,
    patterns: &[String],
    state: Option<&str>,
    json: bool,
) -> Result<(), Failure> {
    let groups = cluster.groups().await?;
    let names = pattern::choose("group", patterns, groups.iter().map(|group| group.id.clone()).collect())?;
    let wanted = |group: &Listed| {
        names.contains(&group.id) && state.is_none_or(|state| group.state.eq_ignore_ascii_case(state))
    };
    let row = |group: Listed| Row {
        group: group.id,
        state: group.state,
        kind: group.kind.to_lowercase(),
        protocol: group.protocol,
        coordinator: group.coordinator,
    };
    let rows: Vec<Row> = groups.into_iter().filter(wanted).map(row).collect();
    show(json, &rows, || {
        let mut table = Table::new(&["GROUP", "STATE", "KIND", "PROTOCOL", ">COORDINATOR"]);
        for row in &rows {
            table.row([
                row.group.clone(),
                row.state.clone(),
                row.kind.clone(),
                row.protocol.clone(),
                row.coordinator.to_string(),
            ]);
        }
        table
    })
}

#[derive(Serialize)]
struct Described {
    group: String,
    state: String,
    assignor: String,
    lag: i64,
    members: Vec<MemberRow>,
    offsets: Vec<OffsetRow>,
}

#[derive(Clone, Serialize)]
struct MemberRow {
    member: String,
    instance: Option<String>,
    client: String,
    host: String,
    partitions: Vec<String>,
}

#[derive(Serialize)]
struct OffsetRow {
    topic: String,
    partition: i32,
    committed: Option<i64>,
    end: Option<i64>,
    lag: Option<i64>,
    member: Option<String>,
    host: Option<String>,
}

/// The names that patterns describe. A name without a pattern is asked for as it is: no broker need list it.
pub async fn chosen(cluster: &Cluster, patterns: &[String]) -> Result<Vec<String>, Failure> {
    if patterns.iter().all(|text| !pattern::is_pattern(text)) {
        return Ok(patterns.to_vec());
    }
    let groups = cluster.groups().await?.into_iter().map(|group| group.id).collect();
    pattern::choose("group", patterns, groups)
}

async fn describe(cluster: &Cluster, patterns: &[String], members: bool, json: bool) -> Result<(), Failure> {
    let mut described = Vec::new();
    for name in chosen(cluster, patterns).await? {
        described.push(describe_one(cluster, name).await?);
    }
    output::show_text(json, &described, || {
        let text = |group: &Described| {
            let table = if members { member_table(group) } else { offset_table(group) };
            let Described { group, state, assignor, lag, members, .. } = group;
            let assignor = if assignor.is_empty() { String::new() } else { format!(", assignor {assignor}") };
            let count = members.len();
            format!("{group} ({state}{assignor}, {count} members, lag {lag})\n{}", table.text())
        };
        described.iter().map(text).collect::<Vec<_>>().join("\n")
    })
}

async fn describe_one(cluster: &Cluster, name: String) -> Result<Described, Failure> {
    let group = cluster.group(&name).await?;
    let committed = cluster.committed(&name).await?;
    if is_dead(&group.state) && committed.is_empty() {
        return Err(Failure::Failed(format!(
            "there is no group {name}; `tidemark groups list` shows those there are"
        )));
    }
    let offsets = offset_rows(cluster, &group, committed).await?;
    let members = group.members.iter().map(|member| MemberRow {
        member: member.id.clone(),
        instance: member.instance.clone(),
        client: member.client.clone(),
        host: member.host.clone(),
        partitions: member.partitions.iter().map(|(topic, p)| format!("{topic}-{p}")).collect(),
    });
    Ok(Described {
        group: name,
        members: members.collect(),
        lag: offsets.iter().filter_map(|row| row.lag).sum(),
        state: group.state,
        assignor: group.assignor,
        offsets,
    })
}

async fn offset_rows(
    cluster: &Cluster,
    group: &Group,
    committed: BTreeMap<Place, i64>,
) -> Result<Vec<OffsetRow>, Failure> {
    let mut places: BTreeMap<Place, Option<i64>> =
        committed.into_iter().map(|(place, offset)| (place, Some(offset))).collect();
    for place in group.members.iter().flat_map(|member| &member.partitions) {
        places.entry(place.clone()).or_insert(None);
    }
    let ends = ends(cluster, places.keys()).await?;
    let row = |(place, committed): (Place, Option<i64>)| {
        let owner = group.members.iter().find(|member| member.partitions.contains(&place));
        let end = ends.get(&place).copied();
        OffsetRow {
            committed,
            end,
            lag: end.zip(committed).map(|(end, committed)| (end - committed).max(0)),
            member: owner.map(|member| member.id.clone()),
            host: owner.map(|member| member.host.clone()),
            topic: place.0,
            partition: place.1,
        }
    };
    Ok(places.into_iter().map(row).collect())
}

/// End offsets of those places that still exist and have a leader.
pub async fn ends<'a>(
    cluster: &Cluster,
    places: impl IntoIterator<Item = &'a Place>,
) -> Result<BTreeMap<Place, i64>, Failure> {
    let places: Vec<Place> = places.into_iter().cloned().collect();
    let mut names: Vec<String> = places.iter().map(|place| place.0.clone()).collect();
    names.dedup();
    let metadata = cluster.metadata(Some(&names)).await?;
    let led: Vec<Place> = client::by_leader(&metadata.topics)
        .into_values()
        .flatten()
        .map(|(topic, partition)| (topic.to_owned(), partition.partition_index))
        .collect();
    let there: Vec<Place> = places.into_iter().filter(|place| led.contains(place)).collect();
    let found = cluster.offsets(&there, LATEST, false).await?;
    Ok(found.into_iter().filter_map(|(place, spot)| Some((place, spot.ok()?.offset))).collect())
}

fn offset_table(group: &Described) -> Table {
    let mut table = Table::new(&["TOPIC", ">PARTITION", ">COMMITTED", ">END", ">LAG", "MEMBER", "HOST"]);
    for row in &group.offsets {
        table.row([
            row.topic.clone(),
            row.partition.to_string(),
            number(row.committed),
            number(row.end),
            number(row.lag),
            row.member.clone().unwrap_or_else(|| "-".into()),
            row.host.clone().unwrap_or_else(|| "-".into()),
        ]);
    }
    table
}

fn member_table(group: &Described) -> Table {
    let mut table = Table::new(&["MEMBER", "INSTANCE", "CLIENT", "HOST", "PARTITIONS"]);
    for row in &group.members {
        table.row([
            row.member.clone(),
            row.instance.clone().unwrap_or_else(|| "-".into()),
            row.client.clone(),
            row.host.clone(),
            row.partitions.join(" "),
        ]);
    }
    table
}

#[derive(Serialize)]
struct Deleted {
    group: String,
}

async fn delete(cluster: &Cluster, patterns: &[String], yes: bool, json: bool) -> Result<(), Failure> {
    let names = chosen(cluster, patterns).await?;
    confirm(
        &cluster.seams.tasks,
        &format!("Delete {} and the offsets they committed?", names.join(", ")),
        yes,
    )
    .await?;
    let mut deleted = Vec::new();
    let mut trouble = None;
    for name in names {
        match cluster.delete_group(&name).await {
            Ok(()) => deleted.push(Deleted { group: name }),
            Err(why) => trouble = trouble.or(Some(why)),
        }
    }
    output::show_text(json, &deleted, || {
        deleted.iter().map(|done| format!("deleted {}\n", done.group)).collect()
    })?;
    trouble.map_or(Ok(()), |trouble| Err(trouble.into()))
}
