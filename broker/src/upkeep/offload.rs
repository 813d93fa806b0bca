//! Offload: what a tiered topic's partitions have gathered becomes segments, and segments below the log start go.
//!
//! The leader does it, one segment at a time, of what is stable (R18): built from wherever its own reads find the
//! batches, written whole under a fresh name, then named by a commit that its leader epoch guards. Until then its
//! objects are garbage that the sweep knows by name. A partition's new segment goes on where its last one ends, with
//! the producers and epochs that one tells. Readers of these offsets go there from the commit on. Looks only at
//! topics with `remote.storage.enable`; where there is none, it does nothing.

pub mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tidemark_proto::id::{Offset, TopicId, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::record::view::Batches;
use tidemark_tiering::bucket::{Kind, Patience};
use tidemark_tiering::error::Error;
use tidemark_tiering::keys::{self, SegmentName, SegmentPart};
use tidemark_tiering::planted::{self, Bug};
use tidemark_tiering::segment::{Builder, Start, State, upload};
use tidemark_tiering::witness::{Sight, saw, saw_many};
use tokio::time::Instant;
use uuid::Uuid;

use crate::archive::tier::name_of;
use crate::cluster::command::Command;
use crate::cluster::image::{Image, Topic};
use crate::cluster::level;
use crate::node::{Node, is_internal};
use crate::ownership::Owned;
use crate::partition::fetching::Asker;
use crate::partition::index::Source;
use crate::partition::{Ask, Query};
use plan::{Candidate, Limits};

/// One read on the way into a segment.
const STEP: usize = 4 << 20;
/// All of a partition: so many partitions fit into one plan.
const WHOLE: usize = 1 << 40;
/// Wait before a partition that had less than it seemed is tried again, though no more was written.
const AGAIN: Duration = Duration::from_secs(20);
/// The same of one whose segment was refused: what was written for it is garbage that only a later life sweeps.
const REFUSED: Duration = Duration::from_secs(600);
/// Segments one look makes at most, so that the next one sees what has changed.
const AT_MOST: usize = 16;
/// Who reads for segments: no connection has this number.
const READER: Asker = Asker(u64::MAX);

/// What the last look found of the tiered partitions that are led here.
#[derive(Debug, Default)]
pub struct Found {
    /// Bytes that no segment holds yet, by topic.
    pub lag: BTreeMap<TopicId, u64>,
    /// From where on `local.retention.*` keeps the log on this broker's disk.
    pub local: BTreeMap<TopicPartition, Offset>,
}

/// Shared with who asks for it.
pub type Told = Arc<Mutex<Found>>;

/// Offloads for as long as the process lives.
pub async fn run(node: Arc<Node>) {
    node.registered().await;
    let mut offloader = Offloader::new(node.clone());
    loop {
        tokio::time::sleep(node.config.offload.check).await;
        offloader.look().await;
    }
}

/// Why a segment was not made.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("the partition cannot be read: {0}")]
    Read(ErrorCode),
    #[error(transparent)]
    Bucket(#[from] Error),
    #[error("it was refused: {0}")]
    Refused(ErrorCode),
    /// There was less than it seemed.
    #[error("only {0} bytes")]
    Short(u64),
}

/// Data that seemed to be a segment's worth: most of it may lie above the last stable offset, or it cannot be read.
struct Owed {
    from: Offset,
    /// It is worth another try when more than this is stable.
    until: Offset,
    /// Or when so much was written.
    bytes: u64,
    not_before: Instant,
}

impl Owed {
    /// Whether it is worth another try.
    fn is_met(&self, now: &Candidate) -> bool {
        let is_stable = now.until > self.until && Instant::now() >= self.not_before;
        now.from != self.from || now.pending >= self.bytes || is_stable
    }
}

struct Offloader {
    node: Arc<Node>,
    /// Since when there was something to offload, and from where on.
    since: BTreeMap<TopicPartition, (Offset, Instant)>,
    /// What was tried, and was less than it seemed.
    owed: BTreeMap<TopicPartition, Owed>,
    /// A commit whose outcome is not known: it is sent again before anything else.
    unsettled: Option<Command>,
    /// Segments whose objects are being deleted here.
    deleting: Arc<Mutex<BTreeSet<Uuid>>>,
    /// The metadata when segments were last looked through.
    seen: u64,
}

impl Offloader {
    fn new(node: Arc<Node>) -> Offloader {
        let (since, owed, unsettled) = (BTreeMap::new(), BTreeMap::new(), None);
        Offloader { node, since, owed, unsettled, deleting: Arc::default(), seen: 0 }
    }

    async fn look(&mut self) {
        let Some(owned) = self.node.owned() else { return };
        if let Some(sent) = self.unsettled.take() {
            self.commit(sent).await.ok();
        }
        let image = self.node.cluster.image();
        if image.version() != self.seen {
            self.seen = image.version();
            self.retire(&image, owned).await;
        }
        for _ in 0..AT_MOST {
            if self.unsettled.is_some() || image.level() < level::SEGMENTS {
                return;
            }
            let image = self.node.cluster.image();
            let candidates = self.candidates(&image, owned).await;
            let Some(next) = plan::next(&candidates) else { return };
            match self.offload(&image, owned, next).await {
                Ok(()) => {}
                Err(Trouble::Short(_)) => self.owe(next, next.pending + next.limits.bytes / 4, AGAIN),
                Err(Trouble::Refused(error)) => {
                    tracing::info!(partition = %next.of, %error, "a segment was not accepted");
                    self.owe(next, u64::MAX, REFUSED);
                }
                Err(trouble) => {
                    // The others do not wait for it.
                    tracing::warn!(partition = %next.of, %trouble, "a segment could not be made; trying again later");
                    self.owe(Candidate { until: Offset(-1), ..next }, u64::MAX, AGAIN);
                }
            }
        }
    }

    /// What the partitions of tiered topics that are led here have gathered.
    async fn candidates(&mut self, image: &Image, owned: Owned) -> Vec<Candidate> {
        let config = self.node.live.now();
        let (mut asked, mut policies) = (Vec::new(), BTreeMap::new());
        for topic in image.topics().filter(|topic| is_tiered(topic)) {
            let settings = config.topic(&topic.configs);
            if !settings.remote_storage || settings.compacted {
                continue;
            }
            let limits = Limits::of(&config.offload, &settings);
            let local = plan::local(&settings);
            let led = topic.partitions().filter(|(_, p)| p.leader == Some(owned.node));
            asked.extend(led.map(|(tp, p)| (tp, p.tiered(), limits)));
            policies.insert(topic.id, local);
        }
        let known: BTreeSet<TopicPartition> = asked.iter().map(|(tp, ..)| *tp).collect();
        self.since.retain(|tp, _| known.contains(tp));
        self.owed.retain(|tp, _| known.contains(tp));
        if asked.is_empty() {
            *self.node.tiers.lock() = Found::default();
            return Vec::new();
        }
        let (mut candidates, mut found) = (Vec::new(), Found::default());
        let now = self.node.seams.clock.wall();
        for mut candidate in self.gathered(image, asked).await.unwrap_or_default() {
            let Candidate { of, from, pending, .. } = candidate;
            *found.lag.entry(of.topic).or_default() += pending;
            let policy = policies.get(&of.topic).copied().unwrap_or_default();
            let start = image.partition(of).map_or(from, |p| p.log_start);
            let local = plan::local_start(start, image.segments(of), pending, policy, now);
            self.node.fetching.hot().start(of, local);
            found.local.insert(of, local);
            candidate.waited = self.waited(of, from, pending > 0);
            if self.owed.get(&of).is_none_or(|owed| owed.is_met(&candidate)) {
                candidates.push(candidate);
            }
        }
        *self.node.tiers.lock() = found;
        candidates
    }

    /// What there is of partitions beyond their segments. Reads nothing but directories of runs that were not looked into
    /// yet.
    async fn gathered(
        &self,
        image: &Image,
        asked: Vec<(TopicPartition, Option<Offset>, Limits)>,
    ) -> Result<Vec<Candidate>, ErrorCode> {
        let node = &self.node;
        let rows = node.partitions.ask(|reply| Query::Survey { reply }).await?;
        let rows: BTreeMap<_, _> = rows.into_iter().map(|row| (row.tp, row)).collect();
        let open: Vec<_> = asked
            .into_iter()
            .filter_map(|(of, tiered, limits)| {
                let row = rows.get(&of)?;
                Some((of, tiered.unwrap_or_default().max(row.bounds.log_start), row.stored_bytes, limits))
            })
            .collect();
        let ask = |(tp, offset, ..): &(TopicPartition, Offset, u64, Limits)| Ask {
            tp: *tp,
            offset: *offset,
            bytes_max: WHOLE,
            leader_epoch: None,
            committed: true,
        };
        let looks = node.partitions.plan(open.iter().map(ask).collect(), usize::MAX, None).await?;
        let mut found = Vec::with_capacity(open.len());
        for ((of, from, stored, limits), look) in open.into_iter().zip(looks) {
            let Ok(look) = look else { continue };
            let pending = match look.sources.first() {
                None => 0,
                // All that parcels hold lies above.
                Some(Source::Archived { .. }) => {
                    node.archive.pending(image, of, from).await.unwrap_or(0) + stored
                }
                Some(_) => look.bytes as u64,
            };
            let (leader_epoch, until, waited) = (look.bounds.leader_epoch, look.bounds.lso, Duration::ZERO);
            found.push(Candidate { of, leader_epoch, from, until, pending, waited, limits });
        }
        Ok(found)
    }

    fn waited(&mut self, of: TopicPartition, from: Offset, any: bool) -> Duration {
        let now = Instant::now();
        let since = self.since.entry(of).or_insert((from, now));
        if since.0 != from || !any {
            *since = (from, now);
        }
        now - since.1
    }

    /// Makes and names one segment.
    async fn offload(&mut self, image: &Image, owned: Owned, of: Candidate) -> Result<(), Trouble> {
        let Some(topic) = image.topic(of.of.topic) else { return Ok(()) };
        let start = self.start(image, topic, of.of).await?;
        let (builder, log) = self.fill(of, start).await?;
        if builder.len() < of.limits.least.min(of.limits.bytes / 2).max(1) {
            return Err(Trouble::Short(builder.len()));
        }
        let node = &self.node;
        let name = SegmentName {
            topic: topic.name.to_string(),
            topic_id: of.of.topic,
            partition: of.of.partition,
            base: builder.base(),
            id: keys::fresh_id(owned.lane.epoch, &node.seams.entropy),
        };
        let built = builder.finish(&name, owned.node, node.seams.clock.wall());
        upload::put(&node.bucket, &name, log, &built).await?;
        saw(Sight::SegmentWritten);
        if planted::is(Bug::RunsGoneBeforeSegment) {
            let shares = node.archive.shares(image, of.of).await?;
            let covered = shares.iter().filter(|share| share.last <= built.row.last);
            let keys = covered.filter_map(|share| Some(image.run(share.run)?.key.clone())).collect();
            node.bucket.delete(Kind::Run, keys, Patience::Forever).await?;
            return Err(Trouble::Short(0));
        }
        self.owed.remove(&of.of);
        let (by, leader_epoch, of) = (owned.lane.epoch, of.leader_epoch, of.of);
        self.commit(Command::CommitSegments { by, of, leader_epoch, rows: vec![built.row] }).await
    }

    fn owe(&mut self, of: Candidate, bytes: u64, wait: Duration) {
        let Candidate { of, from, until, .. } = of;
        self.owed.insert(of, Owed { from, until, bytes, not_before: Instant::now() + wait });
    }

    /// What is known where the partition's last segment ends.
    async fn start(&self, image: &Image, topic: &Topic, tp: TopicPartition) -> Result<Start, Error> {
        let Some(last) = image.segments(tp).last() else { return Ok(Start::default()) };
        match self.node.archive.tier().end_of(topic, tp, last).await {
            // It lies below the log start, and its objects go.
            Err(Error::Gone { .. }) if !last.state.is_readable() => Ok(Start::default()),
            start => start,
        }
    }

    /// Reads batches from `of.from` on, as any reader of committed data would, until a segment is full.
    async fn fill(&self, of: Candidate, start: Start) -> Result<(Builder, Vec<Bytes>), Trouble> {
        let (mut builder, mut log, mut start) = (None::<Builder>, Vec::new(), Some(start));
        let mut next = of.from;
        loop {
            let bytes = self.read(of, next).await.map_err(Trouble::Read)?;
            if bytes.is_empty() {
                break;
            }
            let limit = of.limits.bytes;
            let (before, fresh) = (builder.take(), start.take());
            let work = move || -> Result<_, Error> {
                let (mut builder, mut fresh) = (before, fresh);
                let (mut taken, mut full, mut expected) = (Vec::new(), false, next);
                let damaged = |why: String| Error::Corrupt { key: format!("partition {}", of.of), why };
                for batch in Batches::new(bytes) {
                    let batch = batch.map_err(|error| damaged(error.to_string()))?;
                    if batch.last_offset() < expected {
                        continue;
                    }
                    // What a segment leaves out is lost once its runs go.
                    if batch.base_offset() > expected {
                        return Err(damaged(format!(
                            "nothing at {expected}, before {}",
                            batch.base_offset()
                        )));
                    }
                    let builder = builder.get_or_insert_with(|| {
                        Builder::new(batch.base_offset(), fresh.take().unwrap_or_default())
                    });
                    let room = builder.is_empty() || builder.len() + batch.size() as u64 <= limit;
                    if !room || !builder.takes(&batch) || batch.next_offset() > of.until {
                        full = true;
                        break;
                    }
                    builder.add(&batch).map_err(|damage| damaged(damage.to_string()))?;
                    taken.push(batch.bytes().clone());
                    expected = batch.next_offset();
                }
                Ok((builder, fresh, taken, full))
            };
            let (filled, fresh, taken, full) = self.node.seams.tasks.blocking(work).await?;
            let moved = !taken.is_empty();
            log.extend(taken);
            (builder, start) = (filled, fresh);
            next = builder.as_ref().map_or(next, Builder::next);
            if full || !moved || next >= of.until {
                break;
            }
        }
        builder.map(|builder| (builder, log)).ok_or(Trouble::Short(0))
    }

    async fn read(&self, of: Candidate, offset: Offset) -> Result<Bytes, ErrorCode> {
        let node = &self.node;
        let leader_epoch = Some(of.leader_epoch);
        let ask = Ask { tp: of.of, offset, bytes_max: STEP, leader_epoch, committed: true };
        let mut looks = node.partitions.plan(vec![ask], STEP, None).await?;
        let look = looks.pop().unwrap_or(Err(ErrorCode::NotLeaderOrFollower))?;
        let image = node.cluster.image();
        let pieces = node.fetching.pieces(READER, of.of, &image, look.sources).await?;
        let bytes = node.seams.tasks.blocking(move || pieces.into_bytes()).await;
        bytes.map_err(|_| ErrorCode::KafkaStorageError)
    }

    /// What a refused command names may be named all the same, by an earlier send: its objects are not ours to delete.
    async fn commit(&mut self, command: Command) -> Result<(), Trouble> {
        match self.node.cluster.submit(command.clone()).await {
            Err(ErrorCode::RequestTimedOut | ErrorCode::NotController | ErrorCode::UnknownServerError) => {
                self.unsettled = Some(command);
            }
            Err(refused) => return Err(Trouble::Refused(refused)),
            Ok(_) => saw(Sight::SegmentCommitted),
        }
        Ok(())
    }

    /// Begins the deletion of segments below the log start, and goes on with those that were begun.
    async fn retire(&mut self, image: &Image, owned: Owned) {
        let led = image.partitions().filter(|(_, p)| p.leader == Some(owned.node) && p.segments.is_some());
        let mut over = Vec::new();
        for (of, p) in led {
            let gone = |state: State| p.segments().iter().filter(move |row| row.state == state);
            let below = gone(State::CopyFinished).filter(|row| row.last < p.log_start);
            let ids: Vec<Uuid> = below.map(|row| row.id).collect();
            if !ids.is_empty() {
                over.push(Command::RetireSegments {
                    by: owned.lane.epoch,
                    of,
                    leader_epoch: p.leader_epoch,
                    ids,
                });
            }
            let Some(topic) = image.topic(of.topic) else { continue };
            // What goes wrong with a deletion is seen at the next look.
            if gone(State::DeleteStarted).next().is_some() {
                self.seen = 0;
            }
            let names = gone(State::DeleteStarted).map(|row| (row.id, name_of(topic, of, row)));
            self.delete(of, names.collect());
        }
        for command in over {
            if let Err(error) = self.node.cluster.submit(command).await {
                tracing::debug!(%error, "segments below the log start stay for now");
                self.seen = 0;
            }
        }
    }

    /// R20: after a grace that no fetch outlives; their rows go when the objects have gone.
    fn delete(&self, of: TopicPartition, mut names: Vec<(Uuid, SegmentName)>) {
        names.retain(|(id, _)| self.deleting.lock().insert(*id));
        if names.is_empty() {
            return;
        }
        let (node, deleting) = (self.node.clone(), self.deleting.clone());
        let work = async move {
            tokio::time::sleep(node.live.now().delete_grace()).await;
            let ids: Vec<Uuid> = names.iter().map(|(id, _)| *id).collect();
            let key = |part| move |(_, name): &(Uuid, SegmentName)| keys::segment(name, part);
            // The manifest first: what is half gone is no segment.
            for part in [SegmentPart::Manifest, SegmentPart::Indexes, SegmentPart::Log] {
                let keys: Vec<String> = names.iter().map(key(part)).collect();
                keys.iter().for_each(|key| node.fetching.reader().forget(key));
                if let Err(error) = node.bucket.delete(Kind::Segment, keys, Patience::Forever).await {
                    // Their rows stay: the next look begins again.
                    tracing::warn!(%error, "segments could not be deleted");
                    deleting.lock().retain(|id| !ids.contains(id));
                    return;
                }
            }
            saw_many(Sight::Deleted, 3 * ids.len());
            if let Err(error) = node.cluster.submit(Command::ForgetSegments { of, ids: ids.clone() }).await {
                tracing::debug!(%error, "rows of deleted segments stay for now");
            }
            deleting.lock().retain(|id| !ids.contains(id));
        };
        self.node.seams.tasks.spawn(work);
    }
}

/// Whether a topic is tiered: only its own word counts, there is no default of brokers.
pub fn is_tiered(topic: &Topic) -> bool {
    !is_internal(&topic.name)
        && topic.configs.get("remote.storage.enable").is_some_and(|value| value == "true")
}
