//! Offsets of partitions, asked of each leader: earliest, latest, at a time.

use std::collections::BTreeMap;

use futures::future::join_all;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::{ListOffsetsRequest, list_offsets_request};

use super::{Cluster, Purpose, Trouble, by_leader};

/// Asks for the first offset there is.
pub const EARLIEST: i64 = -2;
/// Asks for the next offset to be written.
pub const LATEST: i64 = -1;
/// Asks for the first offset that is not only in the remote tier (KIP-405); brokers that know none give an error, or none.
pub const EARLIEST_LOCAL: i64 = -4;

/// A topic's partition.
pub type Place = (String, i32);

/// Where an offset query led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// The offset; -1 where no record is that late.
    pub offset: i64,
    /// The record's timestamp; -1 where the broker says none.
    pub timestamp: i64,
}

impl Cluster {
    /// Where `when` (a timestamp, or one of the constants) is in each of `wanted`. What goes wrong with a partition
    /// for good, or for longer than `--timeout`, is its own answer.
    pub async fn offsets(
        &self,
        wanted: &[Place],
        when: i64,
        read_committed: bool,
    ) -> Result<BTreeMap<Place, Result<Spot, ErrorCode>>, Trouble> {
        let mut found: BTreeMap<Place, Result<Spot, ErrorCode>> = BTreeMap::new();
        let mut patience = self.patience();
        loop {
            let open: Vec<&Place> = wanted
                .iter()
                .filter(|place| found.get(*place).is_none_or(|f| f.is_err_and(ErrorCode::is_retriable)))
                .collect();
            if open.is_empty() {
                return Ok(found);
            }
            match self.offsets_now(&open, when, read_committed).await {
                Ok(more) => found.extend(more),
                Err(trouble) if trouble.passes() => {}
                Err(trouble) => return Err(trouble),
            }
            let left =
                wanted.iter().any(|p| found.get(p).is_none_or(|f| f.is_err_and(ErrorCode::is_retriable)));
            if left && !patience.pause().await {
                for place in wanted {
                    found.entry(place.clone()).or_insert(Err(ErrorCode::LeaderNotAvailable));
                }
                return Ok(found);
            }
        }
    }

    /// The same, asked once: what passes is an answer too.
    pub async fn offsets_now(
        &self,
        open: &[&Place],
        when: i64,
        read_committed: bool,
    ) -> Result<BTreeMap<Place, Result<Spot, ErrorCode>>, Trouble> {
        let mut names: Vec<String> = open.iter().map(|place| place.0.clone()).collect();
        names.dedup();
        let metadata = self.metadata(Some(&names)).await?;
        let mut found: BTreeMap<Place, Result<Spot, ErrorCode>> =
            open.iter().map(|place| ((*place).clone(), Err(ErrorCode::UnknownTopicOrPartition))).collect();
        let mut calls = Vec::new();
        for (leader, partitions) in by_leader(&metadata.topics) {
            let mut request = ListOffsetsRequest {
                replica_id: -1,
                isolation_level: i8::from(read_committed),
                timeout_ms: 10_000,
                ..Default::default()
            };
            let mut places = Vec::new();
            for (topic, partition) in partitions {
                let place = (topic.to_owned(), partition.partition_index);
                if found.contains_key(&place) {
                    add(&mut request, &place, when);
                    places.push(place);
                }
            }
            if !places.is_empty() {
                calls.push(async move {
                    let answer = match self.node(leader, Purpose::Ask).await {
                        Ok(link) => link.call(i16::MAX, &request).await,
                        Err(trouble) => Err(trouble),
                    };
                    (places, answer)
                });
            }
        }
        for topic in &metadata.topics {
            for partition in topic.partitions.iter().filter(|p| p.leader_id < 0) {
                let name = topic.name.as_ref().map(ToString::to_string).unwrap_or_default();
                found
                    .entry((name, partition.partition_index))
                    .and_modify(|f| *f = Err(ErrorCode::LeaderNotAvailable));
            }
        }
        for (places, answer) in join_all(calls).await {
            let answer = match answer {
                Ok(answer) => answer,
                Err(trouble) if trouble.passes() => {
                    found.extend(places.into_iter().map(|place| (place, Err(ErrorCode::LeaderNotAvailable))));
                    continue;
                }
                Err(trouble) => return Err(trouble),
            };
            for topic in answer.topics {
                for partition in topic.partitions {
                    let spot = match ErrorCode::from_code(partition.error_code) {
                        ErrorCode::None => {
                            Ok(Spot { offset: partition.offset, timestamp: partition.timestamp })
                        }
                        code => Err(code),
                    };
                    found.insert((topic.name.to_string(), partition.partition_index), spot);
                }
            }
        }
        Ok(found)
    }
}

fn add(request: &mut ListOffsetsRequest, place: &Place, when: i64) {
    let partition = list_offsets_request::ListOffsetsPartition {
        partition_index: place.1,
        current_leader_epoch: -1,
        timestamp: when,
        ..Default::default()
    };
    match request.topics.last_mut() {
        Some(topic) if topic.name == place.0.as_str() => topic.partitions.push(partition),
        _ => request.topics.push(list_offsets_request::ListOffsetsTopic {
            name: place.0.as_str().into(),
            partitions: vec![partition],
        }),
    }
}
