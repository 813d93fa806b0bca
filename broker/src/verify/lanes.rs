//! Lanes: every parcel from the low mark to the seal, or to where an open lane ends in sight.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use tidemark_proto::id::{LaneId, Seq};
use tidemark_tiering::bucket::{Kind, Patience, Span};
use tidemark_tiering::error::Error;
use tidemark_tiering::format::seal;
use tidemark_tiering::keys::{self, Name};
use tidemark_tiering::lane::recover;
use tidemark_tiering::parcel::Footer;
use tidemark_tiering::parcel::footer::Part;

use super::coverage::{Piece, Tier};
use super::{Depth, Finding, Look, Seen};
use crate::cluster::image::Lane;

impl Look<'_> {
    /// Every lane that may hold un-cut batches.
    pub(super) async fn lanes(&mut self) {
        for (id, row) in self.image.lanes() {
            let end = match row.sealed {
                Some(sealed) => Ok(sealed),
                None => self.end_in_sight(id, row).await,
            };
            let end = match end {
                Ok(end) => end,
                Err(error) => {
                    self.findings.push(Finding::object(&keys::lane(&id), &error));
                    continue;
                }
            };
            let this = &*self;
            let looks: Vec<_> = (row.low.0..end.0).map(|seq| this.parcel(id, Seq(seq))).collect();
            let found = super::gather(looks, self.progress).await;
            self.take_in(found);
        }
    }

    /// Behind an open lane's last parcel before the first that is not there: later ones are not committed yet. Where these
    /// are more than may be in flight the hole is none of the tail's, and the end is behind the last.
    async fn end_in_sight(&self, id: LaneId, row: &Lane) -> Result<Seq, Error> {
        let folder = keys::lane(&id);
        let listed = self.bucket.list(Kind::Parcel, &folder, None, Patience::Tries(5)).await?;
        let there: BTreeSet<Seq> = listed
            .iter()
            .filter_map(|object| match Name::parse(&object.key) {
                Some(Name::Parcel { seq, .. }) => Some(seq),
                _ => None,
            })
            .collect();
        let mut end = row.low;
        loop {
            while there.contains(&end) {
                end = end.next();
            }
            let mut later = there.range(end..);
            match later.nth(self.how.window.saturating_sub(1)) {
                Some(_) => end = end.next(),
                None => return Ok(end),
            }
        }
    }

    async fn parcel(&self, lane: LaneId, seq: Seq) -> Seen {
        let mut seen = Seen::default();
        let key = keys::parcel(&lane, seq);
        match recover::footer(self.bucket, self.image.cluster(), lane, seq).await {
            // An open lane may end in a seal that the metadata does not tell of yet: it is no parcel, and holds nothing.
            Err(Error::Corrupt { .. }) if self.is_seal(&key).await => {}
            Err(error) => seen.findings.push(Finding::object(&key, &error)),
            Ok((footer, _)) => self.parts(lane, seq, &footer, &mut seen).await,
        }
        seen
    }

    async fn is_seal(&self, key: &str) -> bool {
        let found = self.bucket.get(Kind::Parcel, key, Span::All, Patience::Tries(5)).await;
        found.ok().flatten().is_some_and(|found| seal::parse(&found.bytes).is_ok())
    }

    async fn parts(&self, lane: LaneId, seq: Seq, footer: &Footer, seen: &mut Seen) {
        for part in footer.parts.iter().filter(|part| self.is_chosen(part.of)) {
            let Some(partition) = self.image.partition(part.of) else { continue };
            let covered = part.batches.iter().filter(|b| partition.covers(lane, seq, b.leader_epoch));
            for batch in covered {
                let (base, last, bytes) = (batch.base_offset, batch.last_offset, u64::from(batch.length));
                match seen.pieces.last_mut() {
                    Some((of, piece)) if *of == part.of && piece.last.plus(1) == base => {
                        piece.last = last;
                        piece.bytes += bytes;
                    }
                    _ => seen.pieces.push((part.of, Piece { base, last, tier: Tier::Parcel, bytes })),
                }
            }
            if self.how.depth == Depth::Bytes {
                self.bytes(lane, seq, part, seen).await;
            }
        }
    }

    async fn bytes(&self, lane: LaneId, seq: Seq, part: &Part, seen: &mut Seen) {
        let read = recover::batches(self.bucket, lane, seq, part.position, &part.batches).await;
        match read {
            Ok(bytes) => drop(self.progress.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed)),
            Err(error) => {
                let finding = Finding::object(&keys::parcel(&lane, seq), &error).of(self.image, part.of);
                let ends = part.batches.first().zip(part.batches.last());
                seen.findings.push(match ends {
                    Some((first, last)) => finding.at(first.base_offset, last.last_offset),
                    None => finding,
                });
            }
        }
    }
}
