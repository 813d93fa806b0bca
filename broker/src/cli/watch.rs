//! `tidemark watch`: what changes in a cluster, a line each as it happens.

use clap::Args;
use serde::Serialize;
use tidemark_proto::id::Millis;
use tokio::time::Instant;

use super::client::{self, Cluster, To};
use super::sample::Sample;
use super::{Failure, output, when};

/// Watch what changes: records that come in, topics, leaders, replicas, brokers.
#[derive(Args, Debug)]
#[command(after_help = "\
One line for every partition that got records since the last look, with the rate, and one for every change of the
cluster. `tidemark consume --follow` shows the records themselves, `tidemark top` all numbers at once.

Examples:
  tidemark watch                        every topic but internal ones
  tidemark watch 'orders*' --every 5s   some, less often
  tidemark watch --json | jq 'select(.event != \"records\")'")]
pub struct Watch {
    #[command(flatten)]
    to: To,
    /// Names, or patterns with * and ?; all topics but internal ones without any.
    patterns: Vec<String>,
    /// How often to look.
    #[arg(long, default_value = "1s", value_name = "SPAN")]
    every: String,
    /// End after so many looks.
    #[arg(short = 'n', long)]
    count: Option<u64>,
}

/// Something that changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event")]
enum Change {
    #[serde(rename = "watching")]
    Watching { brokers: usize, topics: usize, partitions: usize },
    #[serde(rename = "records")]
    Records { topic: String, partition: i32, records: i64, rate: f64, end: i64 },
    #[serde(rename = "topic created")]
    Created { topic: String, partitions: usize },
    #[serde(rename = "topic deleted")]
    Deleted { topic: String },
    #[serde(rename = "partitions added")]
    Added { topic: String, partitions: usize },
    #[serde(rename = "leader changed")]
    Leader { topic: String, partition: i32, from: i32, to: i32 },
    #[serde(rename = "replicas in sync changed")]
    InSync { topic: String, partition: i32, from: Vec<i32>, to: Vec<i32> },
    #[serde(rename = "broker came")]
    Came { broker: i32, address: String },
    #[serde(rename = "broker went")]
    Went { broker: i32, address: String },
    #[serde(rename = "controller changed")]
    Controller { from: i32, to: i32 },
    #[serde(rename = "no answer")]
    Silent { why: String },
}

#[derive(Serialize)]
struct Line<'a> {
    at: i64,
    #[serde(flatten)]
    change: &'a Change,
}

impl Watch {
    /// Watches until Ctrl-C or the count.
    pub fn run(self) -> Result<(), Failure> {
        let every = span("--every", &self.every)?;
        client::stay(&self.to, async |cluster, stop| {
            let mut before = Sample::take(&cluster, &self.patterns, false).await?;
            if before.topics.is_empty() && !self.patterns.is_empty() {
                output::note("no topic has such a name yet");
            }
            let first = Change::Watching {
                brokers: before.brokers.len(),
                topics: before.topics.len(),
                partitions: before.topics.values().map(|partitions| partitions.len()).sum(),
            };
            if !self.print(&cluster, &[first])? {
                return Ok(());
            }
            let (mut looks, mut due) = (0, Instant::now());
            while self.count.is_none_or(|count| looks < count) {
                due = (due + every).max(Instant::now());
                let look = async {
                    tokio::time::sleep_until(due).await;
                    Sample::take(&cluster, &self.patterns, false).await
                };
                let after = tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    after = look => after,
                };
                looks += 1;
                let changes = match after {
                    Ok(after) => {
                        let changes = changes(&before, &after);
                        before = merged(before, after);
                        changes
                    }
                    Err(trouble) => vec![Change::Silent { why: trouble.to_string() }],
                };
                if !self.print(&cluster, &changes)? {
                    return Ok(());
                }
            }
            Ok(())
        })
    }

    /// Prints; false when nobody reads any more.
    fn print(&self, cluster: &Cluster, changes: &[Change]) -> Result<bool, Failure> {
        let now = cluster.seams.clock.wall();
        let mut text = String::new();
        for change in changes {
            text.push_str(&match self.to.json {
                true => output::line(&Line { at: now.0, change })?,
                false => sentence(now, change),
            });
            text.push('\n');
        }
        output::pour(text.as_bytes())
    }
}

/// A span of time, as the value of `flag`.
pub fn span(flag: &str, text: &str) -> Result<std::time::Duration, Failure> {
    match when::span_ms(text).and_then(|ms| u64::try_from(ms).ok()) {
        Some(ms @ 50..=86_400_000) => Ok(std::time::Duration::from_millis(ms)),
        _ => Err(Failure::Wrong(format!("{flag} {text}: write a span from 50ms to 1d, as 500ms, 2s or 1m"))),
    }
}

/// The newer sample; ends that it lacks are the older one's, so that what comes meanwhile is told later.
fn merged(before: Sample, mut after: Sample) -> Sample {
    for (topic, partitions) in &mut after.topics {
        for (index, partition) in partitions {
            partition.end = partition.end.or_else(|| before.topics.get(topic)?.get(index)?.end);
        }
    }
    after
}

fn changes(before: &Sample, after: &Sample) -> Vec<Change> {
    let mut changes = Vec::new();
    if before.controller != after.controller {
        changes.push(Change::Controller { from: before.controller, to: after.controller });
    }
    for (id, broker) in before.brokers.iter().filter(|(id, _)| !after.brokers.contains_key(id)) {
        changes.push(Change::Went { broker: *id, address: broker.address.clone() });
    }
    for (id, broker) in after.brokers.iter().filter(|(id, _)| !before.brokers.contains_key(id)) {
        changes.push(Change::Came { broker: *id, address: broker.address.clone() });
    }
    for topic in before.topics.keys().filter(|topic| !after.topics.contains_key(*topic)) {
        changes.push(Change::Deleted { topic: topic.clone() });
    }
    let seconds = after.at.saturating_duration_since(before.at).as_secs_f64().max(0.001);
    for (topic, now) in &after.topics {
        let Some(then) = before.topics.get(topic) else {
            changes.push(Change::Created { topic: topic.clone(), partitions: now.len() });
            continue;
        };
        if now.len() > then.len() {
            changes.push(Change::Added { topic: topic.clone(), partitions: now.len() - then.len() });
        }
        for (index, now) in now {
            let Some(then) = then.get(index) else { continue };
            let (topic, partition) = (topic.clone(), *index);
            if now.leader != then.leader {
                changes.push(Change::Leader {
                    topic: topic.clone(),
                    partition,
                    from: then.leader,
                    to: now.leader,
                });
            }
            if now.in_sync != then.in_sync {
                let (from, to) = (then.in_sync.clone(), now.in_sync.clone());
                changes.push(Change::InSync { topic: topic.clone(), partition, from, to });
            }
            if let (Some(from), Some(end)) = (then.end, now.end)
                && end > from
            {
                let records = end - from;
                let rate = (records as f64 / seconds * 10.0).round() / 10.0;
                changes.push(Change::Records { topic, partition, records, rate, end });
            }
        }
    }
    changes
}

fn sentence(at: Millis, change: &Change) -> String {
    let id = |id: &i32| if *id < 0 { "nobody".to_owned() } else { id.to_string() };
    let ids = |ids: &[i32]| if ids.is_empty() { "none".to_owned() } else { output::list(ids) };
    let said = match change {
        Change::Watching { brokers, topics, partitions } => {
            format!("watching {topics} topics, {partitions} partitions on {brokers} brokers")
        }
        Change::Records { topic, partition, records, rate, end } => {
            format!("{:<30} {records:>10} records {rate:>12.1}/s   end {end}", format!("{topic}-{partition}"))
        }
        Change::Created { topic, partitions } => {
            format!("topic {topic} was created ({partitions} partitions)")
        }
        Change::Deleted { topic } => format!("topic {topic} was deleted"),
        Change::Added { topic, partitions } => format!("topic {topic} has {partitions} more partitions"),
        Change::Leader { topic, partition, from, to } => {
            format!("{topic}-{partition} is led by {}, no longer by {}", id(to), id(from))
        }
        Change::InSync { topic, partition, from, to } => {
            format!("{topic}-{partition} is in sync on {}, no longer on {}", ids(to), ids(from))
        }
        Change::Came { broker, address } => format!("broker {broker} came ({address})"),
        Change::Went { broker, address } => format!("broker {broker} went ({address})"),
        Change::Controller { from, to } => format!("the controller is {}, no longer {}", id(to), id(from)),
        Change::Silent { why } => format!("no answer: {why}"),
    };
    let clock = when::show(at);
    format!("{}  {said}", clock.get(11..19).unwrap_or(&clock))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::super::sample::{Broker, Partition};
    use super::*;

    /// A topic's name, and leader and end of each of its partitions.
    type Seen<'a> = (&'a str, &'a [(i32, Option<i64>)]);

    fn sample(at: Instant, topics: &[Seen<'_>], brokers: &[i32]) -> Sample {
        let partition = |(at, (leader, end)): (usize, &(i32, Option<i64>))| {
            (at as i32, Partition { leader: *leader, in_sync: vec![*leader], end: *end })
        };
        Sample {
            at,
            cluster: None,
            controller: 1,
            brokers: brokers.iter().map(|id| (*id, Broker::default())).collect(),
            topics: topics
                .iter()
                .map(|(name, partitions)| {
                    ((*name).to_owned(), partitions.iter().enumerate().map(partition).collect())
                })
                .collect(),
            groups: BTreeMap::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_changed_between_two_looks_is_told_once() {
        let then = Instant::now();
        let before = sample(then, &[("gone", &[]), ("t", &[(1, Some(5)), (1, None)])], &[1, 2]);
        let now = then + Duration::from_secs(2);
        let after = sample(
            now,
            &[("new", &[(1, Some(9))]), ("t", &[(1, Some(9)), (3, Some(7)), (1, Some(1))])],
            &[1, 3],
        );
        let told = changes(&before, &after);
        assert_eq!(
            told,
            [
                Change::Went { broker: 2, address: String::new() },
                Change::Came { broker: 3, address: String::new() },
                Change::Deleted { topic: "gone".into() },
                Change::Created { topic: "new".into(), partitions: 1 },
                Change::Added { topic: "t".into(), partitions: 1 },
                Change::Records { topic: "t".into(), partition: 0, records: 4, rate: 2.0, end: 9 },
                Change::Leader { topic: "t".into(), partition: 1, from: 1, to: 3 },
                Change::InSync { topic: "t".into(), partition: 1, from: vec![1], to: vec![3] },
            ]
        );
        assert_eq!(changes(&after, &after), []);
    }

    #[tokio::test(start_paused = true)]
    async fn records_that_come_while_a_leader_is_silent_are_told_when_it_speaks_again() {
        let then = Instant::now();
        let known = sample(then, &[("t", &[(1, Some(5))])], &[1]);
        let silent = sample(then + Duration::from_secs(1), &[("t", &[(1, None)])], &[1]);
        assert_eq!(changes(&known, &silent), []);
        let silent = merged(known, silent);
        let again = sample(then + Duration::from_secs(2), &[("t", &[(1, Some(6))])], &[1]);
        assert!(matches!(changes(&silent, &again)[..], [Change::Records { records: 1, .. }]));
    }

    #[test]
    fn a_line_begins_with_the_time() {
        let change = Change::Leader { topic: "t".into(), partition: 1, from: -1, to: 3 };
        assert_eq!(sentence(Millis(0), &change), "00:00:00  t-1 is led by 3, no longer by nobody");
    }
}
