//! Segments as partitions see them: the oldest part of a log, before what runs hold.
//!
//! The image names a partition's segments by offset, so a look-up takes no search. One whose deletion has begun is not
//! read.

use std::sync::Arc;

use bytes::Bytes;
use tidemark_proto::id::{Millis, Offset, TopicPartition};
use tidemark_proto::kafka::pieces::Pieces;
use tidemark_tiering::bucket::Bucket;
use tidemark_tiering::error::Error;
use tidemark_tiering::keys::SegmentName;
use tidemark_tiering::read::Handle;
use tidemark_tiering::run::Want;
use tidemark_tiering::segment::read::Segment;
use tidemark_tiering::segment::{Reader, Row, Start};
use tidemark_tiering::witness::{Sight, saw};

use crate::cluster::image::{Image, Topic};
use crate::partition::Instant;

/// What was read of segments.
#[derive(Debug, Default)]
pub struct Got {
    /// Whole batches.
    pub pieces: Pieces,
    /// Where to go on: beyond the last segment when all was seen.
    pub next: Offset,
    /// There is more, and no room for it.
    pub full: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Tier(Reader);

impl Tier {
    /// Reads segments of `bucket`.
    pub fn new(bucket: Bucket) -> Tier {
        Tier(Reader::new(bucket))
    }

    /// As much of `want` as segments hold.
    ///
    /// # Errors
    /// Where a segment cannot be read.
    pub async fn read(
        &self,
        handle: &Handle,
        image: &Image,
        tp: TopicPartition,
        want: Want,
    ) -> Result<Got, Error> {
        let mut got = Got { next: want.from, ..Got::default() };
        let Some(topic) = image.topic(tp.topic) else { return Ok(got) };
        while got.next < want.until
            && let Some(row) = holding(image, tp, got.next)
        {
            let segment = self.0.open(&name_of(topic, tp, row), row).await?;
            let want = Want {
                from: got.next,
                until: want.until,
                bytes_max: want.bytes_max.saturating_sub(got.pieces.len()),
                at_least_one: want.at_least_one && got.pieces.is_empty(),
            };
            let taken = segment.take(handle, want).await?;
            saw(Sight::SegmentRead);
            got.pieces.extend(taken.pieces);
            got.next = taken.next;
            if taken.full {
                got.full = true;
                break;
            }
        }
        Ok(got)
    }

    /// The batch in which the answer to a time look-up is, as far as segments go.
    ///
    /// # Errors
    /// Where a segment cannot be read.
    pub async fn find_time(
        &self,
        image: &Image,
        tp: TopicPartition,
        instant: Instant,
        from: Offset,
        until: Offset,
    ) -> Result<Option<Bytes>, Error> {
        let Some(topic) = image.topic(tp.topic) else { return Ok(None) };
        let within = |row: &&Arc<Row>| row.state.is_readable() && row.last >= from && row.base < until;
        let rows = || image.segments(tp).iter().filter(within);
        let target = match instant {
            Instant::AtOrAfter(target) => target,
            Instant::Largest => {
                let mut largest = Millis(i64::MIN);
                for row in rows() {
                    if row.max_timestamp > largest {
                        largest = largest.max(self.open(topic, tp, row).await?.largest(from).await?);
                    }
                }
                largest
            }
        };
        for row in rows().filter(|row| row.max_timestamp >= target) {
            let found = self.open(topic, tp, row).await?.find_time(target, from).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// What is known where a segment ends.
    ///
    /// # Errors
    /// Where its indexes cannot be read.
    pub async fn end_of(&self, topic: &Topic, tp: TopicPartition, row: &Row) -> Result<Start, Error> {
        let segment = self.open(topic, tp, row).await?;
        let producers = segment.indexes().producers().map_err(|damage| damage.at(segment.key()))?;
        Ok(Start { epochs: segment.indexes().epochs().clone(), producers })
    }

    async fn open(&self, topic: &Topic, tp: TopicPartition, row: &Row) -> Result<Segment, Error> {
        self.0.open(&name_of(topic, tp, row), row).await
    }
}

/// The names of a segment's objects.
pub fn name_of(topic: &Topic, tp: TopicPartition, row: &Row) -> SegmentName {
    let (partition, topic) = (tp.partition, topic.name.to_string());
    SegmentName { topic, topic_id: tp.topic, partition, base: row.base, id: row.id }
}

/// The segment that holds `offset`.
pub fn holding(image: &Image, tp: TopicPartition, offset: Offset) -> Option<&Row> {
    let rows = image.segments(tp);
    let row = rows.get(rows.partition_point(|row| row.last < offset))?;
    (row.base <= offset && row.state.is_readable()).then_some(&**row)
}

/// The offset from which on runs are needed for reading: beyond the last segment.
pub fn tiered(image: &Image, tp: TopicPartition) -> Offset {
    image.partition(tp).and_then(|p| p.tiered()).unwrap_or_default()
}
