//! A cut in the making: objects that are written and not yet committed, and their partitions as of where they end.
//!
//! Grows stretch by stretch, so that a cut holds one stretch in memory, and the own lane's batches go up while they
//! are still at hand. Nothing of it counts before its commit (R18). What happens to it then is the cutter's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidemark_proto::id::{BrokerEpoch, LaneId, LeaderEpoch, Seq, TopicPartition};
use tidemark_tiering::error::Error;
use tidemark_tiering::parcel::{BatchEntry, Footer};
use tidemark_tiering::run::{RunRow, State};
use tidemark_tiering::upkeep::cut::{self, Source};

use crate::cluster::image::Image;
use crate::node::Node;
use crate::partition::base::{Base, Gap};

/// What a look into an object is worth: its first read.
const LOOK: usize = 64 << 10;

/// Parcels side by side, each with its footer.
pub type Parcels = Vec<(Seq, Arc<Footer>)>;

/// Why a stretch could not be added.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// Nothing has changed: try again when the partition is known.
    #[error("partition {0} is not open")]
    NotOpen(TopicPartition),
    /// The draft is of no use any more.
    #[error("partition {0}: {1}")]
    Gap(TopicPartition, Gap),
    /// The draft is of no use any more.
    #[error(transparent)]
    Bucket(#[from] Error),
}

/// See the module.
#[derive(Debug)]
pub struct Draft {
    lane: LaneId,
    from: Seq,
    upto: Seq,
    known: BTreeMap<TopicPartition, (LeaderEpoch, Base)>,
    touched: BTreeSet<TopicPartition>,
    runs: Vec<RunRow>,
    state_bytes: usize,
}

impl Draft {
    /// Nothing yet, of `lane` from its low mark on.
    pub fn new(lane: LaneId, low: Seq) -> Draft {
        Draft {
            lane,
            from: low,
            upto: low,
            known: BTreeMap::new(),
            touched: BTreeSet::new(),
            runs: Vec::new(),
            state_bytes: 0,
        }
    }

    /// The lane.
    pub fn lane(&self) -> LaneId {
        self.lane
    }

    /// Where it begins: the lane's low mark.
    pub fn from(&self) -> Seq {
        self.from
    }

    /// Where it ends, exclusive.
    pub fn upto(&self) -> Seq {
        self.upto
    }

    /// The objects written.
    pub fn runs(&self) -> &[RunRow] {
        &self.runs
    }

    /// What a takeover has to read because of them, in bytes.
    pub fn owed(&self) -> usize {
        self.state_bytes + self.runs.len() * LOOK
    }

    /// A partition as of its end, if it is known as led under `epoch`.
    pub fn known(&self, tp: TopicPartition, epoch: LeaderEpoch) -> Option<&Base> {
        self.known.get(&tp).filter(|(known, _)| *known == epoch).map(|(_, base)| base)
    }

    /// Takes in partitions as of the low mark, each as led under an epoch. One that is known is further on, unless it
    /// came back under a newer epoch: then it holds what other lanes got in between.
    pub fn learn(&mut self, bases: impl IntoIterator<Item = (TopicPartition, LeaderEpoch, Base)>) {
        for (tp, epoch, base) in bases {
            if self.known.get(&tp).is_none_or(|(known, _)| *known < epoch) {
                self.known.insert(tp, (epoch, base));
            }
        }
    }

    /// The partitions of these parcels that [`Self::learn`] was not told.
    pub fn lacks(&self, image: &Image, parcels: &Parcels) -> BTreeSet<TopicPartition> {
        let all = parcels.iter().flat_map(|(_, footer)| footer.parts.iter().map(|part| part.of));
        all.filter(|tp| !self.known.contains_key(tp) && image.partition(*tp).is_some()).collect()
    }

    /// Writes the object of the next stretch, up to where another lane has to be cut first: [`Self::upto`] says how far.
    /// One parcel at least: an older lane of a partition never waits for a newer one, parcel by parcel.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub async fn add(
        &mut self,
        node: &Node,
        image: &Image,
        creator: BrokerEpoch,
        source: &dyn Source,
        mut parcels: Parcels,
    ) -> Result<(), Trouble> {
        let (states, taken) = self.replay(image, &parcels)?;
        parcels.truncate(taken);
        let Some(upto) = parcels.last().map(|(seq, _)| seq.next()) else { return Ok(()) };
        self.state_bytes += states.values().map(state_bytes).sum::<usize>();
        let lane = self.lane;
        let job = cut::Job { cluster: image.cluster(), lane, creator, parcels, states };
        let wanted = |seq: Seq, tp: TopicPartition, batch: &BatchEntry| counts(image, lane, seq, tp, batch);
        let run = cut::object(&node.bucket, &node.seams, source, &job, &wanted).await?;
        self.runs.extend(run);
        self.upto = upto;
        Ok(())
    }

    /// The partitions that moved, as of its end.
    pub fn into_bases(self) -> Vec<(TopicPartition, Base)> {
        let Draft { known, touched, .. } = self;
        let moved = known.into_iter().filter(|(tp, _)| touched.contains(tp));
        moved.map(|(tp, (_, base))| (tp, base)).collect()
    }

    /// Brings what is known up to the end of `parcels`, or to the first that does not follow; gives the states of the
    /// partitions that moved, and how many parcels that is.
    fn replay(
        &mut self,
        image: &Image,
        parcels: &Parcels,
    ) -> Result<(BTreeMap<TopicPartition, State>, usize), Trouble> {
        let (mut moved, mut taken) = (BTreeSet::new(), 0);
        for (seq, footer) in parcels {
            match self.replay_parcel(image, *seq, footer) {
                Ok(touched) => moved.extend(touched),
                Err(trouble) if taken == 0 => return Err(trouble),
                Err(_) => break,
            }
            taken += 1;
        }
        let states = moved.iter().filter_map(|tp| Some((*tp, self.known.get(tp)?.1.to_state()))).collect();
        self.touched.extend(moved);
        Ok((states, taken))
    }

    /// All of a parcel or nothing of it.
    fn replay_parcel(
        &mut self,
        image: &Image,
        seq: Seq,
        footer: &Footer,
    ) -> Result<Vec<TopicPartition>, Trouble> {
        let lane = self.lane;
        let parts = || footer.parts.iter().map(|part| (part.of, &part.batches));
        let counting = |tp, batch: &&BatchEntry| counts(image, lane, seq, tp, batch);
        for (tp, batches) in parts() {
            let mut counted = batches.iter().filter(|batch| counting(tp, batch)).peekable();
            if counted.peek().is_none() {
                continue;
            }
            let (_, base) = self.known.get(&tp).ok_or(Trouble::NotOpen(tp))?;
            base.follows(counted).map_err(|gap| Trouble::Gap(tp, gap))?;
        }
        let mut moved = Vec::new();
        for (tp, batches) in parts() {
            let Some((_, base)) = self.known.get_mut(&tp) else { continue };
            for batch in batches.iter().filter(|batch| counting(tp, batch)) {
                base.replay(batch).map_err(|gap| Trouble::Gap(tp, gap))?;
                moved.push(tp);
            }
        }
        moved.dedup();
        Ok(moved)
    }
}

/// About what a state takes in an object.
pub fn state_bytes(state: &State) -> usize {
    64 + state.epochs.len() * 12 + state.snapshot.len()
}

/// Whether a batch belongs to its partition's log: its topic is there and a chain entry covers it (R13).
fn counts(image: &Image, lane: LaneId, seq: Seq, tp: TopicPartition, batch: &BatchEntry) -> bool {
    image.partition(tp).is_some_and(|partition| partition.covers(lane, seq, batch.leader_epoch))
}
