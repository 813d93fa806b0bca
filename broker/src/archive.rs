//! Runs and checkpoints as partitions see them: what recovery starts from, and offsets older than any parcel.
//!
//! Finds, reads and verifies; writes nothing. The runs of one partition are ordered by their offsets, whoever cut
//! them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use tidemark_proto::id::{ClusterId, Millis, Offset, TopicPartition};
use tidemark_proto::kafka::pieces::Pieces;
use tidemark_proto::record::view::Batches;
use tidemark_tiering::bucket::Bucket;
use tidemark_tiering::error::Error;
use tidemark_tiering::run::{self, Partition, Reader, checkpoint, range_of};

use crate::cluster::image::{Image, Run};
use crate::partition::Instant;
use crate::partition::base::Base;

/// Objects looked into at a time.
const AT_A_TIME: usize = 16;

/// One partition's share of one run object.
struct Found {
    key: String,
    entry: Arc<Partition>,
}

/// See the module.
#[derive(Debug)]
pub struct Archive {
    bucket: Bucket,
    cluster: ClusterId,
    runs: Arc<Reader>,
}

impl Archive {
    /// Reads runs of `bucket`.
    pub fn new(bucket: Bucket, cluster: ClusterId) -> Archive {
        Archive { runs: Arc::new(Reader::new(bucket.clone(), cluster)), bucket, cluster }
    }

    /// Where recovery of `partitions` starts: the newest of checkpoint and runs. One without an entry starts empty.
    pub async fn bases(
        &self,
        image: &Image,
        partitions: &[TopicPartition],
    ) -> BTreeMap<TopicPartition, Result<Base, Error>> {
        let mut bases = self.checkpointed(image, partitions).await;
        for tp in partitions {
            let newest = self.shares(image, *tp).await.map(|shares| shares.into_iter().next_back());
            match newest {
                Ok(None) => {}
                Ok(Some(found)) => {
                    let known = bases.get(tp).and_then(|b| b.as_ref().ok()).map_or(Offset(0), |b| b.end);
                    if found.entry.last_offset >= known {
                        bases.insert(*tp, base_of(&found));
                    }
                }
                Err(error) => {
                    bases.insert(*tp, Err(error));
                }
            }
        }
        bases
    }

    async fn checkpointed(
        &self,
        image: &Image,
        partitions: &[TopicPartition],
    ) -> BTreeMap<TopicPartition, Result<Base, Error>> {
        let mut homes: BTreeMap<_, Vec<TopicPartition>> = BTreeMap::new();
        for tp in partitions {
            if let Some(home) = image.partition(*tp).and_then(|p| p.home) {
                homes.entry(home).or_default().push(*tp);
            }
        }
        let mut bases = BTreeMap::new();
        for (home, of) in homes {
            let key = image.checkpoint(home).map_or_else(String::new, |row| row.key.clone());
            let read = checkpoint::read(&self.bucket, self.cluster, &key).await;
            for tp in of {
                let base = match &read {
                    Err(error) => Err(error.clone()),
                    // Who is named at home in a checkpoint is in it: its absence is damage, not an empty partition.
                    Ok(states) => {
                        states.states.get(&tp).and_then(Base::from_state).ok_or_else(|| Error::Corrupt {
                            key: key.clone(),
                            why: format!("has no usable state of partition {tp}"),
                        })
                    }
                };
                bases.insert(tp, base);
            }
        }
        bases
    }

    /// Whole batches from the one that holds `from`, at least one.
    ///
    /// # Errors
    /// [`Error::Gone`] where no run holds the offset.
    pub async fn read(
        &self,
        image: &Image,
        tp: TopicPartition,
        from: Offset,
        until: Offset,
        bytes_max: usize,
    ) -> Result<Pieces, Error> {
        let (mut out, mut next) = (Pieces::new(), from);
        for found in self.shares(image, tp).await? {
            if found.entry.last_offset < next || found.entry.base_offset >= until {
                continue;
            }
            for extent in found.entry.extents(next) {
                if !out.is_empty() && out.len() >= bytes_max {
                    return Ok(out);
                }
                let bytes = self.runs.bytes(&found.key, extent).await?;
                for batch in Batches::new(bytes) {
                    let batch = batch.map_err(|e| damaged(&found.key, &e))?;
                    if batch.last_offset() < next || batch.base_offset() >= until {
                        continue;
                    }
                    if !out.is_empty() && out.len() + batch.size() > bytes_max {
                        return Ok(out);
                    }
                    next = batch.next_offset();
                    out.push(batch.bytes().clone());
                }
            }
        }
        match out.is_empty() && from < until {
            true => Err(Error::Gone { key: format!("a run that holds offset {from} of partition {tp}") }),
            false => Ok(out),
        }
    }

    /// The batches among which the answer to a time look-up is, as far as runs go.
    ///
    /// # Errors
    /// Where a run cannot be read.
    pub async fn find_time(
        &self,
        image: &Image,
        tp: TopicPartition,
        instant: Instant,
        from: Offset,
        until: Offset,
    ) -> Result<Option<Bytes>, Error> {
        let shares = self.shares(image, tp).await?;
        let within = |f: &&Found| f.entry.last_offset >= from && f.entry.base_offset < until;
        let target = match instant {
            Instant::AtOrAfter(target) => target,
            Instant::Largest => {
                let largest = shares.iter().filter(within).map(|f| f.entry.max_timestamp).max();
                largest.unwrap_or(Millis(i64::MAX))
            }
        };
        for found in shares.iter().filter(within) {
            for extent in found.entry.extents_since(target, from) {
                let bytes = self.runs.bytes(&found.key, extent).await?;
                for batch in Batches::new(bytes) {
                    let batch = batch.map_err(|e| damaged(&found.key, &e))?;
                    if batch.max_timestamp() >= target && batch.last_offset() >= from {
                        return Ok(Some(batch.bytes().clone()));
                    }
                }
            }
        }
        Ok(None)
    }

    /// The partition's shares in all runs, by offset.
    async fn shares(&self, image: &Image, tp: TopicPartition) -> Result<Vec<Found>, Error> {
        let range = range_of(tp);
        let holds = |run: &&Arc<Run>| run.ranges.iter().any(|(low, high)| (*low..=*high).contains(&range));
        let keys: Vec<String> = image.runs().filter(holds).map(|run| run.key.clone()).collect();
        let looks: Vec<_> = keys.into_iter().map(|key| share(self.runs.clone(), key, tp)).collect();
        let mut shares = Vec::new();
        let mut looks = futures::stream::iter(looks).buffered(AT_A_TIME);
        while let Some(found) = looks.next().await {
            shares.extend(found?);
        }
        shares.sort_by_key(|f| f.entry.base_offset);
        Ok(shares)
    }
}

async fn share(runs: Arc<Reader>, key: String, tp: TopicPartition) -> Result<Vec<Found>, Error> {
    let entries = runs.find(&key, tp).await?;
    Ok(entries.into_iter().map(|entry| Found { key: key.clone(), entry }).collect())
}

fn base_of(found: &Found) -> Result<Base, Error> {
    let state: Option<&run::State> = found.entry.state.as_ref();
    state.and_then(Base::from_state).ok_or_else(|| Error::Corrupt {
        key: found.key.clone(),
        why: format!("has no usable state of partition {}", found.entry.of),
    })
}

fn damaged(key: &str, why: &impl ToString) -> Error {
    Error::Corrupt { key: key.to_owned(), why: why.to_string() }
}
