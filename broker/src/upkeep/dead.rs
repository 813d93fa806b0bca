//! Cuts of the dead lanes this broker was named recoverer of.
//!
//! In steps, each committed: footers come in tens, batches by the stretch, so that a dead lane takes as little memory
//! as a living one.

use std::sync::Arc;

use futures::TryStreamExt;
use tidemark_proto::id::{LaneId, LeaderEpoch, Seq, TopicPartition};
use tidemark_tiering::lane::recover;
use tidemark_tiering::upkeep::cut::{self, BucketOnly};

use super::draft::{Draft, Parcels, Trouble};
use super::{Cutter, Sent, Went};
use crate::cluster::command::Command;
use crate::cluster::image::{self, Image};

/// What runs tell of a partition was led by nobody in particular.
const FROM_RUNS: LeaderEpoch = LeaderEpoch(-1);

/// Footers held before they are cut.
const FOOTERS: u64 = 64;

impl Cutter {
    /// A dead lane's remainder, or as much of it as one cut may take: what its partitions' chains recorded of it
    /// goes into runs. Footers come in tens, batches by the stretch.
    pub(super) async fn recover(&mut self, image: &Arc<Image>, lane: LaneId, row: &image::Lane) -> Went {
        let (Some(sealed), Some(owned)) = (row.sealed, self.node.owned()) else { return Went::Badly };
        let mut end = Seq(sealed.0.min(row.low.0 + self.node.config.cut.parcels.max(1)));
        let (mut draft, mut next, mut waiting) = (Draft::new(lane, row.low), row.low, Parcels::new());
        'steps: while next < end {
            let until = Seq(end.0.min(next.0 + FOOTERS));
            let footers = recover::footers(&self.node.bucket, image.cluster(), lane, next..until);
            match footers.map_ok(|(seq, footer, _)| (seq, footer)).try_collect::<Parcels>().await {
                Ok(parcels) => waiting.extend(parcels),
                Err(error) => {
                    tracing::warn!(%lane, %error, "a dead lane cannot be read yet");
                    self.abandon(&draft);
                    return Went::Badly;
                }
            }
            next = until;
            while !waiting.is_empty() {
                let sizes = waiting.iter().map(|(_, footer)| footer.batch_bytes());
                let count = cut::stretch(sizes, cut::OBJECT_BYTES);
                if count == waiting.len() && next < end {
                    break; // it may grow
                }
                let stretch: Parcels = waiting.drain(..count).collect();
                let last = stretch.last().map_or(next, |(seq, _)| seq.next());
                if !self.add_dead(&mut draft, image, owned.lane, stretch).await {
                    self.abandon(&draft);
                    return Went::Badly;
                }
                if draft.upto() < last {
                    end = draft.upto(); // what follows waits for another lane's cut
                    break 'steps;
                }
            }
        }
        let command = Command::CommitCut {
            by: owned.lane.epoch,
            lane,
            low: end,
            runs: draft.runs().to_vec(),
            checkpoint: None,
            version: image.version(),
        };
        self.commit(Sent { draft, low: end, command, checkpoint_bytes: None }).await
    }

    /// Writes a stretch of a dead lane.
    async fn add_dead(&self, draft: &mut Draft, image: &Image, own: LaneId, parcels: Parcels) -> bool {
        let lane = draft.lane();
        let lacks: Vec<TopicPartition> = draft.lacks(image, &parcels).into_iter().collect();
        let mut bases = self.node.archive.bases(image, &lacks).await;
        for tp in lacks {
            match bases.remove(&tp).unwrap_or_else(|| Ok(Default::default())) {
                Ok(base) => draft.learn([(tp, FROM_RUNS, base)]),
                Err(error) => {
                    tracing::warn!(%lane, %error, "a dead lane's partition cannot be read yet");
                    return false;
                }
            }
        }
        match draft.add(&self.node, image, own.epoch, &BucketOnly, parcels).await {
            Ok(()) => true,
            // An older lane of the same partition has to be cut first.
            Err(Trouble::NotOpen(_) | Trouble::Gap(..)) => false,
            Err(error) => {
                tracing::error!(%lane, %error, "a cut failed");
                false
            }
        }
    }
}
