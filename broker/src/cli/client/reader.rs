//! Reads partitions of one topic from offsets on, from all leaders at once.
//!
//! Control batches are never shown, and aborted ones not to who reads committed. A start below the log's is moved up to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::fetch_response::{AbortedTransaction, PartitionData};
use tidemark_proto::kafka::messages::{FetchRequest, FetchResponse, fetch_request};
use tidemark_proto::record::records::{Record, Records};
use tidemark_proto::record::view::{Batch, Batches};

use super::{Cluster, EARLIEST, Patience, Purpose, Trouble, refused};

/// The last version that names topics by name.
const VERSION_MAX: i16 = 12;
const ANSWER_BYTES_MAX: i32 = 16 << 20;
const PARTITION_BYTES_MAX: i32 = 1 << 20;

/// A record and where it lies.
#[derive(Debug)]
pub struct Taken {
    /// Its partition.
    pub partition: i32,
    /// The record.
    pub record: Record,
}

/// A partition being read.
#[derive(Clone, Copy, Debug)]
struct Want {
    next: i64,
    end: Option<i64>,
}

/// A place in each partition of a topic.
pub struct Reader {
    cluster: Arc<Cluster>,
    topic: String,
    wants: BTreeMap<i32, Want>,
    leaders: BTreeMap<i32, i32>,
    read_committed: bool,
    flowing: bool,
    patience: Patience,
    /// What the user should know, such as records that are gone. Taken by the caller.
    pub notes: Vec<String>,
    whole: bool,
    /// Batches in place of records, if they were asked for. Taken by the caller.
    pub batches: Vec<(i32, Batch)>,
}

impl Reader {
    /// Reads `topic`; nothing until partitions are added.
    pub fn new(cluster: Arc<Cluster>, topic: &str, read_committed: bool) -> Reader {
        Reader {
            patience: cluster.patience(),
            cluster,
            topic: topic.to_owned(),
            wants: BTreeMap::new(),
            leaders: BTreeMap::new(),
            read_committed,
            flowing: true,
            notes: Vec::new(),
            whole: false,
            batches: Vec::new(),
        }
    }

    /// Whether batches are given as they are, control batches too, and no records.
    pub fn keep_batches(&mut self, whole: bool) {
        self.whole = whole;
    }

    /// Reads a partition from `next` on, up to `end` where there is one.
    pub fn add(&mut self, partition: i32, next: i64, end: Option<i64>) {
        self.wants.insert(partition, Want { next, end });
    }

    /// Reads none.
    pub fn clear(&mut self) {
        self.wants.clear();
    }

    /// Whether every partition has been read to its end.
    pub fn is_done(&self) -> bool {
        self.wants.values().all(|want| want.end.is_some_and(|end| want.next >= end))
    }

    /// How many offsets are left to the ends that were given.
    pub fn left(&self) -> u64 {
        let left = |want: &Want| want.end.map_or(0, |end| u64::try_from(end - want.next).unwrap_or(0));
        self.wants.values().map(left).sum()
    }

    /// What the leaders have next; waits up to `wait` for something where nothing is there.
    pub async fn poll(&mut self, wait: Duration) -> Result<Vec<Taken>, Trouble> {
        match self.round(wait).await {
            Ok(taken) => {
                self.flowing = !(taken.is_empty() && self.batches.is_empty());
                self.patience = self.cluster.patience();
                Ok(taken)
            }
            Err(trouble @ (Trouble::Unable(_) | Trouble::Refused { .. })) if !trouble.passes() => {
                Err(trouble)
            }
            Err(trouble) => {
                self.leaders.clear();
                match self.patience.pause().await {
                    true => Ok(Vec::new()),
                    false => Err(trouble),
                }
            }
        }
    }

    async fn round(&mut self, wait: Duration) -> Result<Vec<Taken>, Trouble> {
        if self.leaders.is_empty() {
            let topic = self.cluster.topic(&self.topic).await?;
            self.leaders = topic.partitions.iter().map(|p| (p.partition_index, p.leader_id)).collect();
        }
        // While one leader has records, the others are not waited for.
        let wait = if self.flowing { Duration::ZERO } else { wait };
        let calls = self.requests(wait);
        if calls.is_empty() {
            tokio::time::sleep(wait).await;
        }
        let cluster = &self.cluster;
        let calls = calls.into_iter().map(|(leader, request)| async move {
            cluster.node(leader, Purpose::Read).await?.call::<FetchRequest>(VERSION_MAX, &request).await
        });
        let answers: Vec<Result<FetchResponse, Trouble>> = join_all(calls).await;
        let mut taken = Vec::new();
        for answer in answers {
            let answer = answer?;
            refused(&format!("fetching {}", self.topic), answer.error_code, None)?;
            for partition in answer.responses.into_iter().flat_map(|topic| topic.partitions) {
                self.take(partition, &mut taken).await?;
            }
        }
        Ok(taken)
    }

    fn requests(&self, wait: Duration) -> Vec<(i32, FetchRequest)> {
        let mut by_leader: BTreeMap<i32, Vec<fetch_request::FetchPartition>> = BTreeMap::new();
        for (partition, want) in &self.wants {
            let open = want.end.is_none_or(|end| want.next < end);
            if let (true, Some(leader)) = (open, self.leaders.get(partition)) {
                by_leader.entry(*leader).or_default().push(fetch_request::FetchPartition {
                    partition: *partition,
                    current_leader_epoch: -1,
                    fetch_offset: want.next,
                    last_fetched_epoch: -1,
                    log_start_offset: -1,
                    partition_max_bytes: PARTITION_BYTES_MAX,
                    ..Default::default()
                });
            }
        }
        let request = |partitions| FetchRequest {
            replica_id: -1,
            max_wait_ms: i32::try_from(wait.as_millis()).unwrap_or(i32::MAX),
            min_bytes: 1,
            max_bytes: ANSWER_BYTES_MAX,
            isolation_level: i8::from(self.read_committed),
            session_epoch: -1,
            topics: vec![fetch_request::FetchTopic {
                topic: self.topic.as_str().into(),
                partitions,
                ..Default::default()
            }],
            ..Default::default()
        };
        by_leader.into_iter().map(|(leader, partitions)| (leader, request(partitions))).collect()
    }

    async fn take(&mut self, data: PartitionData, taken: &mut Vec<Taken>) -> Result<(), Trouble> {
        let index = data.partition_index;
        let what = format!("partition {index} of {}", self.topic);
        let Some(want) = self.wants.get(&index).copied() else { return Ok(()) };
        if ErrorCode::from_code(data.error_code) == ErrorCode::OffsetOutOfRange {
            let start = self.start(index).await?;
            if want.next < start {
                self.notes.push(format!("{what}: offsets {} to {} are gone", want.next, start - 1));
                self.add(index, start, want.end);
                return Ok(());
            }
        }
        refused(&format!("{what} at offset {}", want.next), data.error_code, None)?;
        let Some(records) = data.records else { return Ok(()) };
        let broken = |why: String| Trouble::Unable(format!("{what} at offset {}: {why}", want.next));
        let bytes = records.into_bytes().map_err(|error| broken(error.to_string()))?;
        let mut aborted = Aborted::new(data.aborted_transactions.unwrap_or_default());
        let mut next = want.next;
        let mut any = false;
        for batch in Batches::new(bytes) {
            let batch = match batch {
                Ok(batch) => batch,
                // An answer may end within a batch; one that begins so is broken.
                Err(_) if any => break,
                Err(error) => return Err(broken(error.to_string())),
            };
            any = true;
            if batch.next_offset().0 <= next {
                continue;
            }
            if self.whole {
                batch.verify_crc().map_err(|error| broken(error.to_string()))?;
                next = batch.next_offset().0;
                if want.end.is_none_or(|end| batch.base_offset().0 < end) {
                    self.batches.push((index, batch));
                }
                continue;
            }
            let shown = !self.read_committed || !aborted.hides(&batch);
            if shown && !batch.is_control() {
                batch.verify_crc().map_err(|error| broken(error.to_string()))?;
                for record in Records::new(&batch).map_err(|error| broken(error.to_string()))? {
                    let record = record.map_err(|error| broken(error.to_string()))?;
                    if record.offset.0 >= next && want.end.is_none_or(|end| record.offset.0 < end) {
                        taken.push(Taken { partition: index, record });
                    }
                }
            }
            next = batch.next_offset().0;
        }
        self.add(index, next, want.end);
        Ok(())
    }

    async fn start(&self, partition: i32) -> Result<i64, Trouble> {
        let place = (self.topic.clone(), partition);
        let found = self.cluster.offsets(std::slice::from_ref(&place), EARLIEST, false).await?;
        match found.get(&place) {
            Some(Ok(spot)) => Ok(spot.offset),
            Some(Err(code)) => Err(refused(&format!("start of partition {partition}"), code.code(), None)
                .err()
                .unwrap_or_else(|| Trouble::unknown_topic(&self.topic))),
            None => Err(Trouble::unknown_topic(&self.topic)),
        }
    }
}

/// Which producers' batches are void, as one walks an answer.
struct Aborted {
    coming: Vec<AbortedTransaction>,
    now: BTreeSet<i64>,
}

impl Aborted {
    fn new(mut coming: Vec<AbortedTransaction>) -> Aborted {
        coming.sort_by_key(|aborted| std::cmp::Reverse(aborted.first_offset));
        Aborted { coming, now: BTreeSet::new() }
    }

    /// Whether the batch belongs to an aborted transaction. Batches come in order.
    fn hides(&mut self, batch: &Batch) -> bool {
        while let Some(aborted) = self.coming.pop_if(|a| a.first_offset <= batch.last_offset().0) {
            self.now.insert(aborted.producer_id);
        }
        if batch.is_control() {
            self.now.remove(&batch.producer_id().0);
            return true;
        }
        batch.is_transactional() && self.now.contains(&batch.producer_id().0)
    }
}

#[cfg(test)]
mod tests {
    use tidemark_proto::id::{Millis, Offset, ProducerEpoch, ProducerId};
    use tidemark_proto::record::build::Builder;

    use super::*;

    fn batch(base: i64, producer: i64, control: bool) -> Batch {
        let mut builder = Builder::new()
            .producer(ProducerId(producer), ProducerEpoch(0), 0)
            .transactional()
            .base_offset(Offset(base));
        if control {
            builder = builder.control();
        }
        builder.append(Millis(0), None, Some(b"v"));
        builder.build()
    }

    #[test]
    fn an_aborted_transaction_is_hidden_up_to_its_marker_and_no_further() {
        let mut aborted = Aborted::new(vec![AbortedTransaction { producer_id: 7, first_offset: 2 }]);
        assert!(!aborted.hides(&batch(1, 7, false)), "before it");
        assert!(aborted.hides(&batch(2, 7, false)));
        assert!(!aborted.hides(&batch(3, 8, false)), "another producer");
        assert!(aborted.hides(&batch(4, 7, true)), "its marker");
        assert!(!aborted.hides(&batch(5, 7, false)), "the next transaction");
    }
}
