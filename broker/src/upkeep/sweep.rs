//! Sweeps what a crash left behind: parcels below low marks, objects that no commit names, rows of dead lanes.
//!
//! R20: what is deleted was garbage before a grace and is garbage after it, by committed metadata: a parcel below
//! its lane's low mark (late copies come back there), a run or checkpoint that nobody names and nobody can name any
//! more, because its creator's epoch is over. R21: never a seal. At start and rarely after; the lowest broker alive
//! sweeps for the dead, each its own lane. Clocks and the store's dates decide nothing.

use std::sync::Arc;
use std::time::Duration;

use tidemark_proto::id::{BrokerEpoch, LaneId, Seq};
use tidemark_tiering::bucket::{Bucket, Kind, Patience};
use tidemark_tiering::error::Error;
use tidemark_tiering::keys::{self, Name};
use tidemark_tiering::upkeep::reclaim;

use crate::cluster::command::Command;
use crate::cluster::image::Image;
use crate::node::Node;

/// Wait before the first sweep: starting comes first.
const FIRST: Duration = Duration::from_secs(10);
/// Between two sweeps, if the metadata has moved at all.
const EVERY: Duration = Duration::from_secs(6 * 3600);

/// What one look at the bucket found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Garbage {
    /// Parcels below their lanes' low marks.
    pub parcels: Vec<String>,
    /// Objects of runs, and checkpoints.
    pub unnamed: Vec<(Kind, String)>,
    /// Dead lanes that were looked through.
    pub lanes: Vec<LaneId>,
}

/// Sweeps for as long as the process lives.
pub async fn run(node: Arc<Node>) {
    node.registered().await;
    tokio::time::sleep(FIRST.min(node.live.now().delete_grace())).await;
    let mut swept = None;
    loop {
        let image = node.cluster.image();
        if swept != Some(image.version()) {
            swept = Some(image.version());
            if let Err(error) = sweep(&node, &image).await {
                tracing::warn!(%error, "the bucket could not be swept");
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn sweep(node: &Node, image: &Image) -> Result<(), Error> {
    let sweeper = Sweeper {
        own: node.owned().map(|owned| owned.lane),
        dead: image.live().map(|broker| broker.node).min() == Some(node.id()),
    };
    let mut found = look(&node.bucket, image, sweeper).await?;
    if found == Garbage::default() {
        return Ok(());
    }
    tokio::time::sleep(node.live.now().delete_grace()).await;
    let now = node.cluster.image();
    found.look_again(&now);
    let (parcels, unnamed) = (found.parcels.len(), found.unnamed.len());
    if parcels + unnamed > 0 {
        tracing::info!(parcels, unnamed, "sweeping what a crash left behind");
    }
    // A reader may have kept what a fetch met before it was un-named.
    found.parcels.iter().for_each(|key| node.fetching.reader().forget(key));
    node.bucket.delete(Kind::Parcel, found.parcels, Patience::Forever).await?;
    for kind in [Kind::Run, Kind::Checkpoint] {
        let of_kind = found.unnamed.iter().filter(|(is, _)| *is == kind).map(|(_, key)| key.clone());
        let keys: Vec<_> = of_kind.inspect(|key| node.fetching.reader().forget(key)).collect();
        node.bucket.delete(kind, keys, Patience::Forever).await?;
    }
    for lane in found.lanes.into_iter().filter(|lane| now.is_forgettable(*lane)) {
        if let Err(error) = node.cluster.submit(Command::ForgetLane { lane }).await {
            tracing::debug!(%lane, %error, "a dead lane's row stays for now");
        }
    }
    Ok(())
}

/// Whose leavings a broker sweeps.
#[derive(Clone, Copy, Debug)]
pub struct Sweeper {
    /// Its own lane's.
    pub own: Option<LaneId>,
    /// Those of the dead.
    pub dead: bool,
}

impl Garbage {
    /// Keeps what is garbage by a newer image, too. Low marks only rise.
    pub fn look_again(&mut self, image: &Image) {
        self.unnamed.retain(|(_, key)| Name::parse(key).is_some_and(|name| is_unnamed(image, &name)));
    }
}

/// Lists the folders this broker sweeps, as of `image`, which is older than the listings: what it does not name and
/// says nobody can name is garbage for ever.
pub async fn look(bucket: &Bucket, image: &Image, sweeper: Sweeper) -> Result<Garbage, Error> {
    let mut found = Garbage::default();
    for (lane, row) in image.lanes() {
        let dead = row.sealed.is_some();
        let ours = if dead { sweeper.dead } else { sweeper.own == Some(lane) };
        if !ours || (row.low == Seq(0) && !dead) {
            continue;
        }
        let listed = bucket.list(Kind::Parcel, &keys::lane(&lane), None, Patience::Forever).await?;
        found.parcels.extend(reclaim::garbage(lane, row.low, row.sealed, &listed));
        if dead {
            found.lanes.push(lane);
        }
    }
    if sweeper.dead {
        for object in bucket.list(Kind::Run, keys::RUNS, None, Patience::Forever).await? {
            if let Some(name) = Name::parse(&object.key).filter(|name| is_unnamed(image, name)) {
                found.unnamed.push((name.kind(), object.key));
            }
        }
    }
    Ok(found)
}

/// Whether an object of a run, or a checkpoint, is named by nobody, and never will be: only its creator may name it,
/// and its epoch is over.
fn is_unnamed(image: &Image, name: &Name) -> bool {
    let named = match name {
        Name::Run { id, .. } => image.run(*id).is_some(),
        Name::Checkpoint { id } => image.checkpoint(*id).is_some(),
        _ => return false,
    };
    !named && name.creator().is_some_and(|creator| is_over(image, creator))
}

fn is_over(image: &Image, epoch: BrokerEpoch) -> bool {
    epoch < image.next_epoch() && !image.broker_of(epoch).is_some_and(|broker| broker.alive)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::archive::tests::{History, tp};
    use crate::cluster::record::Record;
    use tidemark_tiering::upkeep::cut;

    const ALL: Sweeper = Sweeper { own: None, dead: true };

    async fn left(history: &History) -> Vec<String> {
        let mut left = Vec::new();
        for folder in [keys::LANES, keys::RUNS] {
            let listed = history.bucket.list(Kind::Run, folder, None, Patience::Forever).await;
            left.extend(listed.expect("in memory").into_iter().map(|object| object.key));
        }
        left
    }

    /// A checkpoint that was written and never committed.
    async fn unfinished(history: &History) -> String {
        let (cluster, lane) = (history.image.cluster(), history.lane);
        let (at, states) = ((lane, Seq(9)), BTreeMap::new());
        let written = cut::checkpoint(&history.bucket, &history.seams, cluster, lane.epoch, at, &states);
        written.await.expect("in memory").key
    }

    #[tokio::test]
    async fn a_crash_leaves_parcels_and_objects_that_the_next_life_sweeps() {
        let mut history = History::new(1);
        for i in 0..5 {
            history.cut(&[tp(1, 0)], i == 2).await;
        }
        let old = history.lane;
        let lost = unfinished(&history).await;
        let nothing = look(&history.bucket, &history.image, ALL).await;
        assert_eq!(
            nothing.expect("listed"),
            Garbage::default(),
            "what a living epoch wrote may yet be named"
        );
        let own = look(&history.bucket, &history.image, Sweeper { own: Some(old), dead: false }).await;
        assert_eq!(own.expect("listed").parcels.len(), 5, "below its own low mark");
        history.restart();
        let mine = unfinished(&history).await;
        let found = look(&history.bucket, &history.image, ALL).await.expect("listed");
        assert_eq!(found.parcels, (0..5).map(|seq| keys::parcel(&old, Seq(seq))).collect::<Vec<_>>());
        assert_eq!(found.unnamed, [(Kind::Checkpoint, lost)]);
        assert_eq!(found.lanes, [old]);
        assert!(!found.unnamed.iter().any(|(_, key)| *key == mine));
        let kept = left(&history).await;
        assert!(history.image.runs().all(|run| kept.contains(&run.key)));
    }

    #[tokio::test]
    async fn a_seal_and_what_lies_at_or_above_a_low_mark_are_spared() {
        let mut history = History::new(1);
        history.cut(&[tp(1, 0)], false).await;
        let old = history.lane;
        history.seq = Seq(3); // two parcels that were not cut, and the seal at 3
        for seq in 1..=3 {
            let body = vec![0; 200].into();
            history.bucket.place(Kind::Parcel, &keys::parcel(&old, Seq(seq)), &body, 0).await;
        }
        history.restart();
        let found = look(&history.bucket, &history.image, ALL).await.expect("listed");
        assert_eq!(found.parcels, [keys::parcel(&old, Seq(0))]);
        assert!(!history.image.is_forgettable(old), "it holds what is not in runs");
    }

    #[tokio::test]
    async fn what_was_named_meanwhile_is_spared() {
        let mut history = History::new(1);
        history.cut(&[tp(1, 0)], true).await;
        let before = history.image.clone();
        history.restart();
        let mut found = Garbage::default();
        for run in before.runs() {
            found.unnamed.push((Kind::Run, run.key.clone()));
        }
        let lost = unfinished(&history).await;
        found.unnamed.push((Kind::Checkpoint, lost.clone()));
        found.look_again(&history.image);
        assert!(found.unnamed.is_empty(), "one is named, the other's creator lives");
        history.restart();
        found.unnamed.push((Kind::Checkpoint, lost.clone()));
        found.look_again(&history.image);
        assert_eq!(found.unnamed, [(Kind::Checkpoint, lost)]);
    }

    #[tokio::test]
    async fn a_dead_lane_is_forgotten_once_all_it_held_is_in_runs() {
        let mut history = History::new(1);
        history.cut(&[tp(1, 0)], true).await;
        let old = history.lane;
        assert!(!history.image.is_forgettable(old), "it lives");
        history.restart();
        assert!(history.image.is_forgettable(old));
        history.image.apply(&Record::LaneForgotten { lane: old });
        history.image.check();
        assert!(history.image.lane(old).is_none());
        history.cut(&[tp(1, 0)], true).await;
    }
}
