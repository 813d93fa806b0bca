//! Segments: three objects each, of which the log's end and the indexes are looked at, and the batches.

use tidemark_proto::id::TopicPartition;
use tidemark_tiering::bucket::{Kind, Patience, Span};
use tidemark_tiering::error::Error;
use tidemark_tiering::keys::{self, SegmentName, SegmentPart};
use tidemark_tiering::segment::read::verify_within;
use tidemark_tiering::segment::{Manifest, Reader, Row};

use super::coverage::{Piece, Tier};
use super::runs::damaged;
use super::{Depth, Finding, Look, Seen};
use crate::archive::tier::name_of;

impl Look<'_> {
    /// Every segment that may be read.
    pub(super) async fn segments(&mut self) {
        let reader = Reader::new(self.bucket.clone());
        let mut rows = Vec::new();
        for topic in self.image.topics().filter(|topic| self.topics.contains(&topic.id)) {
            for (tp, partition) in topic.partitions() {
                for row in partition.segments().iter().filter(|row| row.state.is_readable()) {
                    let name = name_of(topic, tp, row);
                    rows.push((tp, name, row.clone()));
                }
            }
        }
        let (this, reader) = (&*self, &reader);
        let looks: Vec<_> = rows.iter().map(|(tp, name, row)| this.segment(reader, *tp, name, row)).collect();
        let found = super::gather(looks, self.progress).await;
        self.take_in(found);
    }

    async fn segment(&self, reader: &Reader, tp: TopicPartition, name: &SegmentName, row: &Row) -> Seen {
        let mut seen = Seen::default();
        let (log, manifest) =
            (keys::segment(name, SegmentPart::Log), keys::segment(name, SegmentPart::Manifest));
        let wrong =
            |key: &str, error: &Error| Finding::object(key, error).of(self.image, tp).at(row.base, row.last);
        match self.log_end(&log, row).await {
            Ok(()) => {
                let (base, last, bytes) = (row.base, row.last, row.bytes);
                seen.pieces.push((tp, Piece { base, last, tier: Tier::Segment, bytes }));
            }
            Err(error) => seen.findings.push(wrong(&log, &error)),
        }
        if let Err(error) = self.manifest(&manifest).await {
            seen.findings.push(wrong(&manifest, &error));
        }
        match reader.open(name, row).await {
            Err(error) => seen.findings.push(wrong(&keys::segment(name, SegmentPart::Indexes), &error)),
            Ok(segment) if self.how.depth == Depth::Bytes && !seen.pieces.is_empty() => {
                let indexes = segment.indexes();
                let extents = (0..indexes.slices()).map(|slice| indexes.extent(slice)).collect();
                let bad =
                    damaged(self.bucket, Kind::Segment, &log, extents, verify_within, self.progress).await;
                seen.findings
                    .extend(bad.iter().map(|(extent, error)| {
                        wrong(&log, error).at(extent.base_offset, extent.last_offset)
                    }));
            }
            Ok(_) => {}
        }
        seen
    }

    async fn log_end(&self, key: &str, row: &Row) -> Result<(), Error> {
        let found = self.bucket.get(Kind::Segment, key, Span::Tail(1), Patience::Forever).await?;
        let size = found.ok_or_else(|| Error::Gone { key: key.to_owned() })?.size;
        match size == row.bytes {
            true => Ok(()),
            false => {
                let why = format!("has {size} bytes instead of {}", row.bytes);
                Err(Error::Corrupt { key: key.to_owned(), why })
            }
        }
    }

    async fn manifest(&self, key: &str) -> Result<(), Error> {
        let found = self.bucket.get(Kind::Segment, key, Span::All, Patience::Forever).await?;
        let found = found.ok_or_else(|| Error::Gone { key: key.to_owned() })?;
        Manifest::parse(&found.bytes).map(drop).map_err(|damage| damage.at(key))
    }
}
