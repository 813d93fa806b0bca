//! What was read before it was due: footers of the lanes that partitions on their way here come from.
//!
//! A parcel never changes, so what was read once is as good as what is read when the partition is opened, and the move
//! waits only for the few that came after. Nothing is decided on it: recovery asks for exact bounds, and reads from the
//! bucket what is not here. Bounded by the number of parcels; the oldest are forgotten first.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use futures::TryStreamExt;
use parking_lot::Mutex;
use tidemark_proto::id::{LaneId, Seq, TopicPartition};
use tidemark_tiering::bucket::{Bucket, Kind, Patience};
use tidemark_tiering::error::Error;
use tidemark_tiering::keys::{self, Name};

use super::super::index::Parcel;
use super::parcels;
use crate::archive::Archive;
use crate::cluster::image::Image;

/// Parcels kept: about as many as two lanes hold between two cuts.
const PARCELS: usize = 1024;

/// See the module.
#[derive(Debug, Default)]
pub struct Ahead(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    parcels: BTreeMap<(LaneId, Seq), Arc<Parcel>>,
    order: VecDeque<(LaneId, Seq)>,
}

impl Ahead {
    /// The parcels of `lane` from `from` on that are here without a gap, below `to`.
    pub(super) fn parcels(&self, lane: LaneId, from: Seq, to: Seq) -> Vec<Arc<Parcel>> {
        let kept = self.0.lock();
        (from.0..to.0).map_while(|seq| kept.parcels.get(&(lane, Seq(seq))).cloned()).collect()
    }

    fn keep(&self, parcel: Arc<Parcel>) {
        let at = (parcel.lane, parcel.seq);
        let mut kept = self.0.lock();
        if kept.parcels.insert(at, parcel).is_none() {
            kept.order.push_back(at);
        }
        if kept.order.len() > PARCELS
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.parcels.remove(&oldest);
        }
    }

    /// Reads what recovery of `partitions` will need, as far as it is there already.
    ///
    /// # Errors
    /// Of the bucket.
    pub async fn read(
        &self,
        bucket: &Bucket,
        archive: &Archive,
        image: &Image,
        partitions: &[TopicPartition],
    ) -> Result<(), Error> {
        let bases = archive.bases(image, partitions).await;
        bases.into_values().try_for_each(|base| base.map(drop))?;
        let mut lanes: BTreeMap<LaneId, (Seq, Option<Seq>)> = BTreeMap::new();
        for entry in partitions.iter().filter_map(|tp| image.partition(*tp)).flat_map(|p| &p.chain) {
            let from = entry.from.max(image.lane(entry.lane).map_or(Seq(0), |row| row.low));
            let bounds = lanes.entry(entry.lane).or_insert((from, entry.to));
            *bounds = (bounds.0.min(from), bounds.1.zip(entry.to).map(|(a, b)| a.max(b)));
        }
        for (lane, (from, to)) in lanes {
            let to = match to {
                Some(to) => to,
                None => durable_end(bucket, lane, from).await?,
            };
            let known = Seq(from.0 + self.parcels(lane, from, to).len() as u64);
            let mut parcels = std::pin::pin!(parcels(bucket, image.cluster(), lane, known..to));
            while let Some(parcel) = parcels.try_next().await? {
                self.keep(parcel);
            }
        }
        Ok(())
    }
}

/// Where the parcels that follow each other from `from` on end, in a lane that is being written.
async fn durable_end(bucket: &Bucket, lane: LaneId, from: Seq) -> Result<Seq, Error> {
    let listed = bucket.list(Kind::Parcel, &keys::lane(&lane), None, Patience::Forever).await?;
    let mut end = from;
    for object in listed {
        if matches!(Name::parse(&object.key), Some(Name::Parcel { seq, .. }) if seq == end) {
            end = end.next();
        }
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use tidemark_proto::id::BrokerEpoch;

    use super::*;

    #[test]
    fn what_is_kept_is_given_up_to_the_first_gap_and_the_oldest_goes_first() {
        let lane = LaneId { epoch: BrokerEpoch(3), ..LaneId::default() };
        let ahead = Ahead::default();
        let keep = |seq| {
            let (key, footer) = (keys::parcel(&lane, Seq(seq)), Arc::default());
            ahead.keep(Arc::new(Parcel { lane, seq: Seq(seq), key, footer, size: 1 }));
        };
        let given =
            |from, to| ahead.parcels(lane, Seq(from), Seq(to)).iter().map(|p| p.seq.0).collect::<Vec<_>>();
        [4, 5, 7].into_iter().for_each(keep);
        assert_eq!((given(4, 9), given(4, 5), given(3, 9)), (vec![4, 5], vec![4], vec![]));
        (100..100 + PARCELS as u64 - 1).for_each(keep);
        assert_eq!((given(4, 9), given(5, 9), given(7, 9)), (vec![], vec![], vec![7]));
    }
}
