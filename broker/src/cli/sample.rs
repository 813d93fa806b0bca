//! The cluster at one moment, as `watch` and `top` see it: brokers, ends of partitions, what groups have committed.
//!
//! Taken by asking once: what does not answer is left out, and the next sample has it again.

use std::collections::BTreeMap;

use futures::StreamExt;
use tokio::time::Instant;

use super::client::{Cluster, LATEST, Listed, Place, Trouble, address};
use super::pattern;
use super::topics::name_of;

/// Most groups that are asked what they have committed.
const GROUPS_MAX: usize = 500;
const GROUPS_AT_ONCE: usize = 16;

/// A broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Broker {
    /// HOST:PORT.
    pub address: String,
    /// Its rack.
    pub rack: Option<String>,
}

/// A partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partition {
    /// The broker that leads it; negative for none.
    pub leader: i32,
    /// Replicas in sync.
    pub in_sync: Vec<i32>,
    /// Next offset to be written; `None` where the leader does not say.
    pub end: Option<i64>,
}

/// A group.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Its state.
    pub state: String,
    /// What it has committed.
    pub committed: BTreeMap<Place, i64>,
}

/// The cluster at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When.
    pub at: Instant,
    /// Its id.
    pub cluster: Option<String>,
    /// The controller's id.
    pub controller: i32,
    /// Brokers by id.
    pub brokers: BTreeMap<i32, Broker>,
    /// Partitions of the chosen topics.
    pub topics: BTreeMap<String, BTreeMap<i32, Partition>>,
    /// Groups; none unless asked for.
    pub groups: BTreeMap<String, Group>,
}

impl Sample {
    /// Looks at topics that any of `patterns` describes; without patterns at all but internal ones.
    pub async fn take(cluster: &Cluster, patterns: &[String], groups: bool) -> Result<Sample, Trouble> {
        let metadata = cluster.metadata(None).await?;
        let mut sample = Sample {
            at: Instant::now(),
            cluster: metadata.cluster_id.as_ref().map(ToString::to_string),
            controller: metadata.controller_id,
            brokers: BTreeMap::new(),
            topics: BTreeMap::new(),
            groups: BTreeMap::new(),
        };
        for broker in &metadata.brokers {
            let rack = broker.rack.as_ref().map(ToString::to_string);
            let seen = Broker { address: address(&broker.host, broker.port), rack };
            sample.brokers.insert(broker.node_id, seen);
        }
        for topic in &metadata.topics {
            let name = name_of(topic);
            let wanted = match patterns {
                [] => !topic.is_internal,
                patterns => patterns.iter().any(|pattern| pattern::matches(pattern, &name)),
            };
            if wanted {
                let partitions = topic.partitions.iter().map(|p| {
                    let mut in_sync = p.isr_nodes.clone();
                    in_sync.sort_unstable();
                    (p.partition_index, Partition { leader: p.leader_id, in_sync, end: None })
                });
                sample.topics.insert(name, partitions.collect());
            }
        }
        sample.find_ends(cluster).await?;
        if groups {
            sample.find_groups(cluster).await?;
        }
        Ok(sample)
    }

    async fn find_ends(&mut self, cluster: &Cluster) -> Result<(), Trouble> {
        let led: Vec<Place> = self
            .topics
            .iter()
            .flat_map(|(topic, partitions)| partitions.iter().map(move |(p, seen)| (topic, p, seen)))
            .filter(|(_, _, seen)| seen.leader >= 0)
            .map(|(topic, p, _)| (topic.clone(), *p))
            .collect();
        if led.is_empty() {
            return Ok(());
        }
        let found = cluster.offsets_now(&led.iter().collect::<Vec<_>>(), LATEST, false).await?;
        self.at = Instant::now();
        for ((topic, partition), spot) in found {
            if let (Some(seen), Ok(spot)) =
                (self.topics.get_mut(&topic).and_then(|topic| topic.get_mut(&partition)), spot)
            {
                seen.end = Some(spot.offset);
            }
        }
        Ok(())
    }

    async fn find_groups(&mut self, cluster: &Cluster) -> Result<(), Trouble> {
        let listed: Vec<Listed> = cluster.groups().await?.into_iter().take(GROUPS_MAX).collect();
        let asked = listed.into_iter().map(|group| async move {
            let committed = cluster.committed_now(&group).await.unwrap_or_default();
            (group.id, Group { state: group.state, committed })
        });
        self.groups = futures::stream::iter(asked).buffered(GROUPS_AT_ONCE).collect().await;
        Ok(())
    }

    /// The next offset of a partition.
    pub fn end(&self, place: &Place) -> Option<i64> {
        self.topics.get(&place.0)?.get(&place.1)?.end
    }
}
