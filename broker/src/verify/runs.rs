//! Objects of runs: their directories, and the batches of each share.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use tidemark_proto::id::TopicPartition;
use tidemark_tiering::bucket::{Bucket, Kind, Patience, Span};
use tidemark_tiering::error::Error;
use tidemark_tiering::format::Damage;
use tidemark_tiering::parcel::Extent;
use tidemark_tiering::run::read::verify_slice;
use tidemark_tiering::run::{Partition, Reader, range_of};

use super::coverage::{Piece, Tier};
use super::{Depth, Finding, Look, Progress, SPAN, Seen};
use crate::cluster::image::RunRow;

impl Look<'_> {
    /// Every run that may hold a chosen partition.
    pub(super) async fn runs(&mut self) {
        let reader = Reader::new(self.bucket.clone(), self.image.cluster());
        let chosen: Vec<TopicPartition> =
            self.image.partitions().map(|(tp, _)| tp).filter(|tp| self.is_chosen(*tp)).collect();
        let may_hold = |row: &RunRow| {
            chosen.iter().any(|tp| row.ranges.iter().any(|(from, to)| (*from..=*to).contains(&range_of(*tp))))
        };
        let rows: Vec<_> = self.image.runs().filter(|row| may_hold(row)).cloned().collect();
        let (this, reader) = (&*self, &reader);
        let looks: Vec<_> = rows.iter().map(|row| this.run(reader, row)).collect();
        let found = super::gather(looks, self.progress).await;
        self.take_in(found);
    }

    async fn run(&self, reader: &Reader, row: &RunRow) -> Seen {
        let mut seen = Seen::default();
        let entries = match reader.entries(&row.key).await {
            Ok(entries) => entries,
            Err(error) => {
                seen.findings.push(Finding::object(&row.key, &error));
                return seen;
            }
        };
        for entry in entries.iter().filter(|entry| self.is_chosen(entry.of)) {
            let (base, last, bytes) = (entry.base_offset, entry.last_offset, entry.length);
            seen.pieces.push((entry.of, Piece { base, last, tier: Tier::Run, bytes }));
            seen.ends.extend(entry.state.as_ref().map(|state| (entry.of, state.end)));
            if self.how.depth == Depth::Bytes {
                self.share(&row.key, entry, &mut seen).await;
            }
        }
        seen
    }

    async fn share(&self, key: &str, entry: &Partition, seen: &mut Seen) {
        let (bucket, extents) = (self.bucket, entry.extents(entry.base_offset));
        let bad = damaged(bucket, Kind::Run, key, extents.collect(), verify_slice, self.progress).await;
        seen.findings.extend(bad.into_iter().map(|(extent, error)| {
            let finding = Finding::object(key, &error).of(self.image, entry.of);
            finding.at(extent.base_offset, extent.last_offset)
        }));
    }
}

/// Those of `extents`, neighbours in the object at `key`, that `verify` finds wrong; read some MiB at a time.
pub(super) async fn damaged(
    bucket: &Bucket,
    kind: Kind,
    key: &str,
    extents: Vec<Extent>,
    verify: fn(&Bytes, Extent) -> Result<(), Damage>,
    progress: &Progress,
) -> Vec<(Extent, Error)> {
    let mut bad = Vec::new();
    let mut rest = extents.as_slice();
    while let Some(first) = rest.first() {
        let fits = |extent: &Extent| extent.position + extent.length <= first.position + SPAN;
        let count = rest.iter().take_while(|extent| fits(extent)).count().max(1);
        let (these, others) = rest.split_at(count);
        rest = others;
        let end = these.last().map_or(first.position, |last| last.position + last.length);
        match bucket.get(kind, key, Span::Range(first.position..end), Patience::Forever).await {
            Ok(Some(found)) => {
                progress.bytes.fetch_add(found.bytes.len() as u64, Ordering::Relaxed);
                bad.extend(these.iter().filter_map(|extent| {
                    let from = ((extent.position - first.position) as usize).min(found.bytes.len());
                    let to = (from + extent.length as usize).min(found.bytes.len());
                    let wrong = verify(&found.bytes.slice(from..to), *extent).err()?;
                    Some((*extent, wrong.at(key)))
                }));
            }
            Ok(None) => bad.extend(these.iter().map(|extent| (*extent, Error::Gone { key: key.to_owned() }))),
            Err(error) => bad.extend(these.iter().map(|extent| (*extent, error.clone()))),
        }
    }
    bad
}
