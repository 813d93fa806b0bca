//! Sweeps what a crash left behind: parcels below low marks, objects that no commit names, rows of dead lanes.
//!
//! R20: what is deleted was garbage before a grace and is garbage after it, by committed metadata: a parcel below
//! its lane's low mark (late copies come back there), a run or checkpoint that nobody names and nobody can name any
//! more, because its creator's epoch is over, or because it is a cut of parcels that are cut. R21: never a seal. At start and rarely after; the lowest broker alive
//! sweeps for the dead, each its own lane. Clocks and the store's dates decide nothing.

use std::sync::Arc;
use std::time::Duration;

use tidemark_proto::id::{BrokerEpoch, LaneId, Seq, TopicPartition};
use tidemark_tiering::bucket::{Bucket, Kind, Patience};
use tidemark_tiering::error::Error;
use tidemark_tiering::keys::{self, Name};
use tidemark_tiering::run::Reader;
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
    /// Objects of cuts whose parcels are below low marks: they were named, and are no more, or never will be.
    pub past: Vec<String>,
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
    found.unnamed.extend(found.past.drain(..).map(|key| (Kind::Run, key)));
    let (parcels, unnamed) = (found.parcels.len(), found.unnamed.len());
    if parcels + unnamed > 0 {
        tracing::info!(parcels, unnamed, "sweeping what a crash left behind");
    }
    // A reader may have kept what a fetch met before it was un-named.
    found.parcels.iter().for_each(|key| node.fetching.reader().forget(key));
    node.bucket.delete(Kind::Parcel, found.parcels, Patience::Forever).await?;
    for kind in [Kind::Run, Kind::Checkpoint, Kind::Segment] {
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
        self.unnamed.retain(|(_, key)| is_garbage(image, key));
        self.past.retain(|key| Name::parse(key).is_some_and(|name| !is_named(image, &name)));
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
        let runs = Reader::new(bucket.clone(), image.cluster());
        for object in bucket.list(Kind::Run, keys::RUNS, None, Patience::Forever).await? {
            let Some(name) = Name::parse(&object.key) else { continue };
            if is_unnamed(image, &name) {
                found.unnamed.push((name.kind(), object.key));
            } else if !is_named(image, &name) && is_cut(&runs, image, &name, &object.key).await {
                found.past.push(object.key);
            }
        }
        for object in bucket.list(Kind::Segment, keys::SEGMENTS, None, Patience::Forever).await? {
            if let Some(name) = Name::parse(&object.key).filter(|name| is_unnamed(image, name)) {
                found.unnamed.push((name.kind(), object.key));
            }
        }
    }
    Ok(found)
}

/// Whether this is the object of a cut, and what it was cut from is below low marks: no commit may name it any more. One
/// that cannot be read is left alone.
async fn is_cut(runs: &Reader, image: &Image, name: &Name, key: &str) -> bool {
    if !matches!(name, Name::Run { level: 0, .. }) {
        return false;
    }
    let Ok(root) = runs.root(key).await else { return false };
    // A lane that `image` does not know is forgotten, or so new that the listing has seen more of it.
    let is_past = |lane: &LaneId, to: Seq| match image.lane(*lane) {
        Some(row) => to <= row.low,
        None => is_over(image, lane.epoch),
    };
    root.lanes.iter().all(|(lane, _, to)| is_past(lane, *to))
}

/// Whether an object of a run or of a segment, or a checkpoint, is named by nobody, and never will be: only its creator
/// may name it, and its epoch is over.
fn is_unnamed(image: &Image, name: &Name) -> bool {
    !is_named(image, name) && name.creator().is_some_and(|creator| is_over(image, creator))
}

/// The same of an object by its key.
pub(super) fn is_garbage(image: &Image, key: &str) -> bool {
    Name::parse(key).is_some_and(|name| is_unnamed(image, &name))
}

/// Whether an object is named, or none that is swept.
fn is_named(image: &Image, name: &Name) -> bool {
    match name {
        Name::Run { id, .. } => image.run(*id).is_some(),
        Name::Checkpoint { id } => image.checkpoint(*id).is_some(),
        Name::Segment { segment, .. } => {
            let of = TopicPartition { topic: segment.topic_id, partition: segment.partition };
            image.segments(of).iter().any(|row| row.id == segment.id)
        }
        _ => true,
    }
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
    use tidemark_proto::id::Offset;
    use tidemark_tiering::keys::{SegmentName, SegmentPart};
    use tidemark_tiering::segment::Row;
    use tidemark_tiering::upkeep::cut;
    use uuid::Uuid;

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
    async fn a_cut_that_was_replaced_is_found_while_its_creator_lives_and_one_to_be_named_is_spared() {
        let mut history = History::new(1);
        history.cut(&[tp(1, 0)], true).await;
        let before = history.image.clone();
        history.cut(&[tp(1, 0)], true).await;
        let runs: Vec<_> = history.image.runs().map(|run| (run.committed, run.id, run.key.clone())).collect();
        let (_, first, key) = runs.into_iter().min().expect("two");
        let record = Record::RunsReplaced {
            drop: vec![first],
            add: vec![],
            starts: vec![],
            carried: None,
            cleaned: vec![],
        };
        history.image.apply(&record);
        let found = look(&history.bucket, &history.image, ALL).await.expect("listed");
        assert_eq!((found.past, found.unnamed), (vec![key], vec![]));
        let found = look(&history.bucket, &before, ALL).await.expect("listed");
        assert_eq!(found, Garbage::default(), "its commit is on the way");
    }

    #[tokio::test]
    async fn a_first_cut_of_a_broker_that_came_after_the_image_is_spared() {
        let mut history = History::new(1);
        history.cut(&[tp(1, 0)], true).await;
        let before = history.image.clone();
        history.restart();
        history.cut(&[tp(1, 0)], true).await;
        let found = look(&history.bucket, &before, ALL).await.expect("listed");
        assert_eq!(found, Garbage::default(), "its commit is on the way (seed 160519742)");
    }

    #[tokio::test]
    async fn a_segment_that_was_never_named_goes_when_its_creator_is_over_and_one_that_has_a_row_never() {
        let mut history = History::new(1);
        let of = tp(1, 0);
        let ids = [(); 2].map(|()| keys::fresh_id(history.lane.epoch, &history.seams.entropy));
        let parts = |id| {
            let (topic, topic_id, partition, base) = ("t1".to_owned(), of.topic, of.partition, Offset(0));
            let name = SegmentName { topic, topic_id, partition, base, id };
            SegmentPart::ALL.map(|part| keys::segment(&name, part))
        };
        for key in ids.into_iter().flat_map(parts) {
            history.bucket.place(Kind::Segment, &key, &vec![0; 200].into(), 0).await;
        }
        let [lost, named] = ids;
        let row = Row { id: named, last: Offset(9), bytes: 200, ..Row::default() };
        history.image.apply(&Record::SegmentsCommitted { of, rows: vec![row] });
        let found = look(&history.bucket, &history.image, ALL).await.expect("listed");
        assert_eq!(found, Garbage::default(), "its commit may be on the way");
        history.restart();
        let unnamed = async |history: &History| -> Vec<String> {
            let found = look(&history.bucket, &history.image, ALL).await.expect("listed");
            assert!(found.unnamed.iter().all(|(kind, _)| *kind == Kind::Segment));
            let mut keys: Vec<_> = found.unnamed.into_iter().map(|(_, key)| key).collect();
            keys.sort();
            keys
        };
        let sorted = |ids: &[Uuid]| -> Vec<String> {
            let mut keys: Vec<String> = ids.iter().copied().flat_map(parts).collect();
            keys.sort();
            keys
        };
        assert_eq!(unnamed(&history).await, sorted(&[lost]));
        history.image.apply(&Record::SegmentsRetired { of, ids: vec![named] });
        assert_eq!(unnamed(&history).await, sorted(&[lost]), "who retired it deletes it");
        history.image.apply(&Record::SegmentsForgotten { of, ids: vec![named] });
        assert_eq!(unnamed(&history).await, sorted(&[lost, named]), "what came late");
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
