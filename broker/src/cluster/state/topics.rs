//! Decides creation and deletion of topics, with Kafka's codes and one answer per row.

use std::collections::{BTreeMap, BTreeSet};

use tidemark_proto::id::{BrokerId, PartitionIndex, TopicId};
use tidemark_proto::kafka::error::ErrorCode;

use super::super::command::{Created, NewTopic, Outcome, Refusal, Reply, TopicRef};
use super::super::image::{Image, Topic};
use super::super::placement::Placement;
use super::super::record::{Placed, Record};
use super::Rules;
use super::segments::check_tiered;

/// Why a topic name is not one of Kafka's.
pub fn name_fault(name: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match name {
        "" => Some("a topic name may not be empty".into()),
        "." | ".." => Some("a topic name may not be \".\" or \"..\"".into()),
        _ if name.len() > 249 => Some(format!("a topic name has at most 249 characters, not {}", name.len())),
        _ if !name.chars().all(plain) => {
            Some("a topic name consists of ASCII letters, digits, '.', '_' and '-'".into())
        }
        _ => None,
    }
}

/// Names that differ only in '.' and '_' collide: Kafka's metric names cannot tell them apart.
fn collides(a: &str, b: &str) -> bool {
    a != b && a.len() == b.len() && a.replace('.', "_") == b.replace('.', "_")
}

/// What a creation may use up while one request creates many topics.
struct Batch<'a> {
    placement: Placement,
    created: Vec<&'a str>,
}

impl Image {
    pub(super) fn create_topics(&self, rules: &Rules, topics: &[NewTopic], validate_only: bool) -> Outcome {
        let mut batch = Batch { placement: Placement::over(self, None), created: Vec::new() };
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        topics.iter().for_each(|t| *counts.entry(&t.name).or_default() += 1);
        let (mut records, mut rows) = (Vec::new(), Vec::new());
        for topic in topics {
            let row = if counts.get(topic.name.as_str()).is_some_and(|n| *n > 1) {
                Err(Refusal::new(ErrorCode::InvalidRequest, "the topic is named twice in one request"))
            } else {
                self.create_topic(rules, topic, &mut batch)
            };
            let row = row.map(|(created, record)| {
                batch.created.push(&topic.name);
                if record.is_some() {
                    records.extend(record);
                    let told = topic.assignments.iter().map(|(index, nodes)| (*index, nodes));
                    records.extend(assigned(topic.id, told));
                }
                created
            });
            rows.push((topic.name.clone(), row));
        }
        if validate_only {
            records.clear();
        }
        Outcome { records, reply: Reply::Created(rows) }
    }

    /// Without a record: the same command was decided before and its answer lost; the id tells.
    fn create_topic(
        &self,
        rules: &Rules,
        topic: &NewTopic,
        batch: &mut Batch<'_>,
    ) -> Result<(Created, Option<Record>), Refusal> {
        if let Some(why) = name_fault(&topic.name) {
            return Err(Refusal::new(ErrorCode::InvalidTopicException, why));
        }
        if let Some(made) = self.topic_named(&topic.name) {
            if made.id == topic.id {
                let partitions = i32::try_from(made.partitions.len()).unwrap_or(i32::MAX);
                return Ok((Created { id: made.id, partitions, replication: made.replication }, None));
            }
            let why = format!("Topic '{}' already exists.", topic.name);
            return Err(Refusal::new(ErrorCode::TopicAlreadyExists, why));
        }
        if topic.id == TopicId::default()
            || self.topic(topic.id).is_some()
            || self.deleted.contains_key(&topic.id)
        {
            return Err(Refusal::new(ErrorCode::InvalidRequest, "the topic id is not a fresh one"));
        }
        if topic.name.contains(['.', '_']) {
            let mut others = self.names.keys().map(|name| &**name).chain(batch.created.iter().copied());
            if let Some(other) = others.find(|other| collides(&topic.name, other)) {
                let why = format!("'{}' collides with topic '{other}': '.' and '_' count as one", topic.name);
                return Err(Refusal::new(ErrorCode::InvalidTopicException, why));
            }
        }
        let (placed, replication) = match topic.assignments.is_empty() {
            true => place(rules, topic, &mut batch.placement)?,
            false => self.place_as_told(rules, topic, &mut batch.placement)?,
        };
        let mut configs = BTreeMap::new();
        for (key, value) in &topic.configs {
            let checked = (rules.topic_config)(key, value.as_deref());
            checked.map_err(|why| Refusal::new(ErrorCode::InvalidConfig, why))?;
            let Some(value) = value else {
                let why = format!("config '{key}' has no value");
                return Err(Refusal::new(ErrorCode::InvalidConfig, why));
            };
            configs.insert(key.clone(), value.clone());
        }
        check_tiered(&configs, false).map_err(|why| Refusal::new(ErrorCode::InvalidConfig, why))?;
        let partitions = i32::try_from(placed.len()).unwrap_or(i32::MAX);
        let created = Created { id: topic.id, partitions, replication };
        let (id, name) = (topic.id, topic.name.clone());
        Ok((created, Some(Record::TopicCreated { id, name, replication, configs, placed })))
    }

    /// Explicit replicas: the first of each that lives is the leader.
    fn place_as_told(
        &self,
        rules: &Rules,
        topic: &NewTopic,
        placement: &mut Placement,
    ) -> Result<(Vec<Option<Placed>>, i16), Refusal> {
        let bad = |why: &str| Refusal::new(ErrorCode::InvalidReplicaAssignment, why);
        if topic.partitions != -1 || topic.replication != -1 {
            let why = "with an explicit assignment, partition count and replication factor must be -1";
            return Err(Refusal::new(ErrorCode::InvalidRequest, why));
        }
        limit(rules, topic.assignments.len())?;
        let told: BTreeMap<PartitionIndex, &Vec<BrokerId>> =
            topic.assignments.iter().map(|(index, nodes)| (*index, nodes)).collect();
        if told.len() != topic.assignments.len() || !told.keys().zip(0..).all(|(index, n)| index.0 == n) {
            return Err(bad("the assignment must name every partition from 0 upwards once"));
        }
        let width = told.values().next().map_or(0, |nodes| nodes.len());
        let placed = self.placed_at(told.values().copied(), width, placement)?;
        Ok((placed, i16::try_from(width).unwrap_or(i16::MAX)))
    }

    /// So many replicas for each, of which the first that lives leads.
    fn placed_at<'a>(
        &self,
        told: impl Iterator<Item = &'a Vec<BrokerId>>,
        width: usize,
        placement: &mut Placement,
    ) -> Result<Vec<Option<Placed>>, Refusal> {
        let bad = |why: &str| Refusal::new(ErrorCode::InvalidReplicaAssignment, why);
        let mut placed = Vec::new();
        for nodes in told {
            let distinct: BTreeSet<&BrokerId> = nodes.iter().collect();
            if nodes.is_empty() || distinct.len() != nodes.len() || nodes.len() != width {
                return Err(bad("every partition needs the same number of distinct replicas, at least one"));
            }
            if let Some(node) = nodes.iter().find(|node| self.broker(**node).is_none()) {
                return Err(bad(&format!("there is no broker {node}")));
            }
            placed
                .push(nodes.iter().find_map(|node| placement.at(*node)).or_else(|| placement.least_loaded()));
        }
        Ok(placed)
    }

    pub(super) fn create_partitions(
        &self,
        rules: &Rules,
        name: &str,
        count: i32,
        assignments: &[Vec<BrokerId>],
        validate_only: bool,
    ) -> Outcome {
        let refuse = |code, why: String| Outcome::reply(Reply::Row(Err(Refusal::new(code, why))));
        let Some(topic) = self.topic_named(name) else {
            return refuse(ErrorCode::UnknownTopicOrPartition, format!("there is no topic '{name}'"));
        };
        let now = topic.partitions.len();
        let more = usize::try_from(count).ok().and_then(|count| count.checked_sub(now)).unwrap_or(0);
        if more == 0 {
            let why = format!("topic '{name}' has {now} partitions; the new count must be higher");
            return refuse(ErrorCode::InvalidPartitions, why);
        }
        if let Err(Refusal { code, why }) = limit(rules, now + more) {
            return refuse(code, why);
        }
        let mut placement = Placement::over(self, None);
        let placed = match assignments.len() {
            0 => Ok((0..more).map(|_| placement.least_loaded()).collect()),
            rows if rows != more => {
                let why = format!("{more} partitions are to be added, but {rows} assignments are given.");
                Err(Refusal::new(ErrorCode::InvalidReplicaAssignment, why))
            }
            _ => {
                let width = usize::try_from(topic.replication).unwrap_or(0);
                self.placed_at(assignments.iter(), width, &mut placement)
            }
        };
        let placed = match placed {
            Ok(placed) => placed,
            Err(Refusal { code, why }) => return refuse(code, why),
        };
        let mut records = vec![Record::PartitionsAdded { topic: topic.id, placed }];
        let first = i32::try_from(now).unwrap_or(i32::MAX);
        records.extend(assigned(topic.id, (first..).map(PartitionIndex).zip(assignments)));
        if validate_only {
            records.clear();
        }
        Outcome { records, reply: Reply::Row(Ok(())) }
    }

    pub(super) fn delete_topics(&self, topics: &[TopicRef]) -> Outcome {
        let (mut records, mut rows, mut gone) = (Vec::new(), Vec::new(), BTreeSet::new());
        for topic in topics {
            let found: Option<&Topic> = match topic {
                TopicRef::Name(name) => self.topic_named(name).map(AsRef::as_ref),
                TopicRef::Id(id) => self.topic(*id).map(AsRef::as_ref),
            };
            rows.push(match (found, topic) {
                (Some(found), _) if gone.insert(found.id) => {
                    records.push(Record::TopicDeleted { id: found.id });
                    Ok((found.name.to_string(), found.id))
                }
                (Some(_), _) => {
                    Err(Refusal::new(ErrorCode::InvalidRequest, "the topic is named twice in one request"))
                }
                (None, TopicRef::Name(_)) => {
                    Err(Refusal::new(ErrorCode::UnknownTopicOrPartition, "there is no such topic"))
                }
                (None, TopicRef::Id(_)) => {
                    Err(Refusal::new(ErrorCode::UnknownTopicId, "there is no topic of this id"))
                }
            });
        }
        Outcome { records, reply: Reply::Deleted(rows) }
    }
}

/// The replicas that partitions were created with, where somebody named them.
fn assigned<'a>(
    topic: TopicId,
    told: impl Iterator<Item = (PartitionIndex, &'a Vec<BrokerId>)>,
) -> Vec<Record> {
    let mut groups: BTreeMap<&Vec<BrokerId>, Vec<PartitionIndex>> = BTreeMap::new();
    for (index, replicas) in told {
        groups.entry(replicas).or_default().push(index);
    }
    let record = |(replicas, indexes): (&Vec<BrokerId>, Vec<PartitionIndex>)| Record::ReplicasAssigned {
        replicas: replicas.clone(),
        partitions: vec![(topic, indexes)],
    };
    groups.into_iter().map(record).collect()
}

fn limit(rules: &Rules, partitions: usize) -> Result<(), Refusal> {
    if partitions > usize::try_from(rules.partitions_max).unwrap_or(0) {
        let why = format!("a topic may have at most {} partitions", rules.partitions_max);
        return Err(Refusal::new(ErrorCode::PolicyViolation, why));
    }
    Ok(())
}

fn place(
    rules: &Rules,
    topic: &NewTopic,
    placement: &mut Placement,
) -> Result<(Vec<Option<Placed>>, i16), Refusal> {
    let partitions = if topic.partitions == -1 { rules.partitions } else { topic.partitions };
    let replication = if topic.replication == -1 { rules.replication } else { topic.replication };
    let Some(count) = usize::try_from(partitions).ok().filter(|n| *n > 0) else {
        let why = "the number of partitions must be at least 1";
        return Err(Refusal::new(ErrorCode::InvalidPartitions, why));
    };
    if replication < 1 {
        let why = "the replication factor must be at least 1";
        return Err(Refusal::new(ErrorCode::InvalidReplicationFactor, why));
    }
    limit(rules, count)?;
    let placed: Vec<Option<Placed>> = (0..count).map(|_| placement.least_loaded()).collect();
    if placed.iter().any(Option::is_none) {
        let why = "no broker is alive to lead the partitions";
        return Err(Refusal::new(ErrorCode::InvalidReplicationFactor, why));
    }
    Ok((placed, replication))
}
