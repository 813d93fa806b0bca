//! The merge: several runs become one, sorted anew, so that a partition lies in few objects and what is dead goes.
//!
//! [`plan`] chooses by rows alone: eight runs of one level and class, never more time than retention lets go at once.
//! [`merge`] streams: each input is read once, from front to back, a window at a time; shares that follow each other
//! become one; objects are split by class and at a size. Every share is checked by its CRC before it is written again
//! (R27). Objects go up under fresh names and count only once a metadata commit names them (R18), which is the caller's.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tidemark_proto::id::{BrokerEpoch, ClusterId, LaneId, Millis, Offset, Seq, TopicPartition};
use tidemark_proto::record::BatchError;
use tidemark_proto::record::view::Batch;

use super::cut::put;
use crate::bucket::{Bucket, Kind, Patience, Span};
use crate::compact::{Kept, Rewrite};
use crate::error::Error;
use crate::format::{self, Damage, Header};
use crate::keys;
use crate::run::build::{Assembly, Made};
use crate::run::entry::SLICE;
use crate::run::{Partition, Reader, Root, RunRow, Slice, State};
use crate::seam::Seams;

/// Runs that become one.
pub const FAN_IN: usize = 8;
/// Bytes that fill an object. Below the format's 256 MiB: an object is in memory until it is sent.
pub const OBJECT_BYTES: u64 = 64 << 20;
/// Bytes that one merge reads at most, where more than one run is left to be read.
pub const READ_BYTES: u64 = 2 << 30;
/// Shares this long are read fast as they are: merging them further would only write them again.
pub const LONG_SHARE: u64 = 4 << 20;
/// Bytes of one read.
const WINDOW: u64 = 8 << 20;
/// Bytes of batches that are judged in one go.
const TURN: usize = 1 << 20;
/// Shares below this are copied side by side: they neither pin what they came in nor swell a PUT's list.
const SMALL: usize = 64 << 10;

/// What is to become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The runs.
    pub inputs: Vec<Arc<RunRow>>,
    /// The level of what they become.
    pub level: u32,
}

/// Objects that one merge wrote: their ranges do not overlap, so they count as one run.
#[derive(Debug)]
struct Group {
    rows: Vec<Arc<RunRow>>,
    bytes: u64,
    shares: u64,
    oldest: Millis,
    newest: Millis,
}

impl Group {
    fn new(row: &Arc<RunRow>) -> Group {
        let mut group =
            Group { rows: Vec::new(), bytes: 0, shares: 0, oldest: row.oldest, newest: row.max_timestamp };
        group.add(row);
        group
    }

    fn add(&mut self, row: &Arc<RunRow>) {
        self.bytes += row.bytes;
        self.shares += u64::from(row.shares);
        self.oldest = self.oldest.min(row.oldest);
        self.newest = self.newest.max(row.max_timestamp);
        self.rows.push(row.clone());
    }

    fn is_long(&self) -> bool {
        self.bytes / self.shares.max(1) >= LONG_SHARE
    }
}

/// The next merge among `rows`, in the order of their commits: of a class and level that is `mine`, spanning at most what
/// `span` says of the class; the lowest level first.
pub fn plan<'a>(
    rows: impl Iterator<Item = &'a Arc<RunRow>>,
    span: &dyn Fn(u32) -> Option<i64>,
    mine: &dyn Fn(u32, u32) -> bool,
) -> Option<Job> {
    let mut queues: BTreeMap<(u32, u32), Vec<Group>> = BTreeMap::new();
    let mut known: BTreeMap<(u32, u32, &[_]), usize> = BTreeMap::new();
    for row in rows.filter(|row| mine(class(row), row.level)) {
        let queue = queues.entry((row.level, class(row))).or_default();
        // What one merge wrote has one origin.
        let at = *known.entry((row.level, class(row), row.lanes.as_slice())).or_insert(queue.len());
        match queue.get_mut(at).filter(|_| row.level > 0) {
            Some(group) => group.add(row),
            None => queue.push(Group::new(row)),
        }
    }
    queues.into_iter().find_map(|((level, class), mut queue)| {
        // From the first level on objects have one class each, and no share is left where it was cut.
        queue.retain(|group| level == 0 || !group.is_long());
        let chosen = choose(&queue, span(class).filter(|_| level > 0))?;
        let inputs = queue.drain(chosen).flat_map(|group| group.rows).collect();
        Some(Job { inputs, level: level + 1 })
    })
}

fn class(row: &RunRow) -> u32 {
    if row.level == 0 { 0 } else { row.class }
}

/// The first groups side by side that are enough, or that the next one does not fit to.
fn choose(queue: &[Group], span: Option<i64>) -> Option<Range<usize>> {
    for from in 0..queue.len() {
        let (mut upto, mut bytes) = (from, 0);
        let (mut oldest, mut newest) = (Millis(i64::MAX), Millis(i64::MIN));
        let mut enough = FAN_IN;
        while let Some(group) = queue.get(upto).filter(|_| upto - from < FAN_IN) {
            (oldest, newest) = (oldest.min(group.oldest), newest.max(group.newest));
            if span.is_some_and(|span| newest.0.saturating_sub(oldest.0) > span) {
                enough = 2;
                break;
            }
            if bytes + group.bytes > READ_BYTES {
                enough = FAN_IN / 2;
                break;
            }
            bytes += group.bytes;
            upto += 1;
        }
        if upto - from >= enough {
            return Some(from..upto);
        }
        if upto == queue.len() {
            return None; // more may come
        }
    }
    None
}

/// Who merges.
#[derive(Clone, Copy, Debug)]
pub struct Merger<'a> {
    /// The bucket.
    pub bucket: &'a Bucket,
    /// The world.
    pub seams: &'a Seams,
    /// Knows the inputs' pages.
    pub reader: &'a Reader,
    /// The cluster.
    pub cluster: ClusterId,
    /// The lane of who merges.
    pub lane: LaneId,
    /// Its epoch.
    pub creator: BrokerEpoch,
}

/// What a merge needs to know of partitions.
pub trait Judge: Sync {
    /// Whether a share that ends with `last` is needed.
    fn is_needed(&self, of: TopicPartition, last: Offset) -> bool;

    /// What its topic's data may lie beside.
    fn class(&self, of: TopicPartition) -> u32;

    /// Between the greatest timestamps of shares that become one, milliseconds; `None`: any time.
    fn span(&self, _of: TopicPartition) -> Option<i64> {
        None
    }

    /// Whether its batches are judged one by one (compaction).
    fn rewrites(&self, _of: TopicPartition) -> bool {
        false
    }

    /// What becomes of a batch, as [`Rewrite::step`] asks it.
    ///
    /// # Errors
    /// Where its records cannot be read.
    fn judge(&self, _of: TopicPartition, _batch: &Batch, _edge: bool) -> Result<Kept, BatchError> {
        Ok(Kept::Whole)
    }
}

/// What a merge gave.
#[derive(Debug, Default)]
pub struct Merged {
    /// The objects written; none where nothing was needed.
    pub rows: Vec<RunRow>,
    /// Partitions of which no share is left.
    pub gone: BTreeSet<TopicPartition>,
}

/// Writes what `job`'s inputs become. Nothing counts before a metadata commit names it.
///
/// # Errors
/// [`Error::Gone`] where an input was replaced meanwhile; what was written then is in [`Failed`].
pub async fn merge(merger: Merger<'_>, job: &Job, judge: &dyn Judge) -> Result<Merged, Failed> {
    let mut output = Output::new(merger, job);
    match output.fill(job, judge).await {
        Ok(gone) => Ok(Merged { rows: output.rows, gone }),
        Err(error) => Err(Failed { error, rows: output.rows }),
    }
}

/// A merge that came to nothing, and what it wrote before that.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Failed {
    /// Why.
    pub error: Error,
    /// Objects that are of no use.
    pub rows: Vec<RunRow>,
}

/// Objects in the making, one of each class.
struct Output<'a> {
    merger: Merger<'a>,
    level: u32,
    committed: u64,
    lanes: Vec<(LaneId, Seq, Seq)>,
    open: BTreeMap<u32, Assembly>,
    rows: Vec<RunRow>,
}

impl<'a> Output<'a> {
    fn new(merger: Merger<'a>, job: &Job) -> Output<'a> {
        let committed = job.inputs.iter().map(|row| row.committed).max().unwrap_or(0);
        let lanes = joined(job.inputs.iter().flat_map(|row| row.lanes.iter().copied()).collect());
        Output { merger, level: job.level, committed, lanes, open: BTreeMap::new(), rows: Vec::new() }
    }

    async fn fill(&mut self, job: &Job, judge: &dyn Judge) -> Result<BTreeSet<TopicPartition>, Error> {
        let mut inputs = Vec::with_capacity(job.inputs.len());
        for row in &job.inputs {
            inputs.push(Input::open(self.merger, row).await?);
        }
        let mut gone = BTreeSet::new();
        while let Some(place) = inputs.iter().filter_map(Input::next).map(|share| share.place()).min() {
            let mut shares = Vec::new();
            for (at, input) in inputs.iter_mut().enumerate() {
                while let Some(share) = input.next().filter(|share| share.place() == place).cloned() {
                    shares.push((at, share));
                    input.advance().await?;
                }
            }
            shares.sort_by_key(|(_, share)| share.base_offset);
            let state = shares.iter().filter_map(|(_, share)| share.state.as_ref());
            let state = state.max_by_key(|state| state.end).cloned();
            shares.retain(|(_, share)| judge.is_needed(place.1, share.last_offset));
            if shares.is_empty() {
                gone.insert(place.1);
            } else {
                self.partition(&mut inputs, shares, state, judge).await?;
            }
        }
        while let Some(class) = self.open.keys().next().copied() {
            self.close(class).await?;
        }
        Ok(gone)
    }

    /// Adds one partition's shares, in order.
    async fn partition(
        &mut self,
        inputs: &mut [Input<'_>],
        shares: Vec<(usize, Arc<Partition>)>,
        state: Option<State>,
        judge: &dyn Judge,
    ) -> Result<(), Error> {
        let Some(of) = shares.first().map(|(_, share)| share.of) else { return Ok(()) };
        let (class, span, rewrites) = (judge.class(of), judge.span(of), judge.rewrites(of));
        let mut joint: Option<(Partition, Parts)> = None;
        for (at, share) in shares {
            let input = &mut inputs[at];
            let mut bytes = input.take(&share).await?;
            if let Some((entry, _)) =
                joint.as_ref().filter(|(entry, _)| share.base_offset <= entry.last_offset)
            {
                let why = format!(
                    "partition {}: {} comes after {}",
                    share.of, share.base_offset, entry.last_offset
                );
                return Err(Damage::new(why).at(&input.row.key));
            }
            let apart = |entry: &Partition| entry.max_timestamp.0.abs_diff(share.max_timestamp.0);
            let follows = |entry: &Partition| {
                entry.last_offset.plus(1) == share.base_offset
                    && entry.length < OBJECT_BYTES
                    && span.is_none_or(|span| apart(entry) <= span.unsigned_abs())
            };
            let joins = joint.as_ref().is_some_and(|(entry, _)| follows(entry));
            let mut share = Partition::clone(&share);
            if rewrites {
                (share, bytes) = rewritten(judge, &share, bytes, joins)
                    .await
                    .map_err(|e| Damage::new(format!("partition {of}: {e}")).at(&input.row.key))?;
            }
            match joint.as_mut().filter(|_| joins) {
                Some((entry, parts)) => {
                    join(entry, &share);
                    parts.extend(bytes);
                }
                None => {
                    if let Some(done) = joint.take() {
                        self.add(done, class).await?;
                    }
                    // As of the merge, whichever part of the partition it is found beside.
                    let entry = Partition { state: state.clone(), ..share };
                    let mut parts = Parts::default();
                    parts.extend(bytes);
                    joint = Some((entry, parts));
                }
            }
        }
        match joint {
            Some(done) => self.add(done, class).await,
            None => Ok(()),
        }
    }

    async fn add(&mut self, (entry, parts): (Partition, Parts), class: u32) -> Result<(), Error> {
        let open = self.open.entry(class).or_default();
        open.add(entry, parts.done());
        if open.held() >= OBJECT_BYTES {
            return self.close(class).await;
        }
        let held: u64 = self.open.values().map(Assembly::held).sum();
        let largest = self.open.iter().max_by_key(|(_, open)| open.held()).map(|(class, _)| *class);
        match largest.filter(|_| held >= 2 * OBJECT_BYTES) {
            Some(largest) => self.close(largest).await,
            None => Ok(()),
        }
    }

    async fn close(&mut self, class: u32) -> Result<(), Error> {
        let Some(open) = self.open.remove(&class).filter(|open| !open.is_empty()) else { return Ok(()) };
        let Merger { bucket, seams, cluster, lane, creator, .. } = self.merger;
        let id = keys::fresh_id(creator, &seams.entropy);
        let header = Header::of_lane(format::Kind::Run, cluster, lane, Seq(0), seams.entropy.nonce());
        let (level, lanes, committed) = (self.level, self.lanes.clone(), self.committed);
        let (body, row) = open.finish(header, Made { id, level, class, lanes, committed });
        // Known before it is there: a PUT that fails may have done its work.
        self.rows.push(row.clone());
        put(bucket, Kind::Run, &row.key, &body).await
    }
}

/// What is left of a share whose batches are judged one by one. Others have their turn in between.
async fn rewritten(
    judge: &dyn Judge,
    share: &Partition,
    bytes: Vec<Bytes>,
    joins: bool,
) -> Result<(Partition, Vec<Bytes>), BatchError> {
    let whole = match bytes.as_slice() {
        [one] => one.clone(),
        parts => parts.concat().into(),
    };
    let (mut rewrite, mut seen) = (Rewrite::new(share, whole, joins), 0);
    while let Some(size) = rewrite.step(|batch, edge| judge.judge(share.of, batch, edge))? {
        seen += size;
        if seen >= TURN {
            tokio::task::yield_now().await;
            seen = 0;
        }
    }
    Ok(rewrite.done())
}

/// A share behind another one that it follows.
fn join(entry: &mut Partition, share: &Partition) {
    for slice in &share.slices {
        let at = (entry.length + u64::from(slice.at)) as u32; // an entry is less than two objects long
        match entry.slices.last_mut().filter(|last| u64::from(at - last.at) < SLICE) {
            Some(last) => last.max_timestamp = last.max_timestamp.max(slice.max_timestamp),
            None => entry.slices.push(Slice { at, ..*slice }),
        }
    }
    entry.crc = crc32c::crc32c_combine(entry.crc, share.crc, share.length as usize);
    entry.length += share.length;
    entry.batches += share.batches;
    entry.last_offset = share.last_offset;
    entry.max_timestamp = entry.max_timestamp.max(share.max_timestamp);
}

/// Bytes end to end, small ones in one buffer.
#[derive(Debug, Default)]
struct Parts {
    done: Vec<Bytes>,
    small: BytesMut,
}

impl Parts {
    fn extend(&mut self, parts: Vec<Bytes>) {
        for part in parts {
            if part.len() < SMALL {
                self.small.extend_from_slice(&part);
            } else {
                self.flush();
                self.done.push(part);
            }
        }
    }

    fn flush(&mut self) {
        if !self.small.is_empty() {
            self.done.push(self.small.split().freeze());
        }
    }

    fn done(mut self) -> Vec<Bytes> {
        self.flush();
        self.done
    }
}

/// One run that is read from front to back.
struct Input<'a> {
    merger: Merger<'a>,
    row: &'a RunRow,
    root: Arc<Root>,
    page: usize,
    shares: Arc<Vec<Arc<Partition>>>,
    at: usize,
    /// Where the window begins, and its bytes.
    window: (u64, Bytes),
}

impl<'a> Input<'a> {
    async fn open(merger: Merger<'a>, row: &'a RunRow) -> Result<Input<'a>, Error> {
        let root = merger.reader.root(&row.key).await?;
        let window = (0, Bytes::new());
        let mut input = Input { merger, row, root, page: 0, shares: Arc::default(), at: 0, window };
        input.turn().await?;
        Ok(input)
    }

    fn next(&self) -> Option<&Arc<Partition>> {
        self.shares.get(self.at)
    }

    async fn advance(&mut self) -> Result<(), Error> {
        self.at += 1;
        self.turn().await
    }

    /// Goes on to the next page where this one is read.
    async fn turn(&mut self) -> Result<(), Error> {
        while self.at >= self.shares.len() {
            let Some(page) = self.root.pages.get(self.page) else { return Ok(()) };
            self.shares = self.merger.reader.page(&self.row.key, self.page, page).await?;
            (self.page, self.at) = (self.page + 1, 0);
        }
        Ok(())
    }

    /// The bytes of a share, checked.
    async fn take(&mut self, share: &Partition) -> Result<Vec<Bytes>, Error> {
        let (key, end) = (&self.row.key, share.position.saturating_add(share.length));
        let damaged = |why: String| Damage::new(format!("partition {}: {why}", share.of)).at(key);
        if end > self.root.data_end() {
            return Err(damaged("lies beyond the batches".to_owned()));
        }
        let (mut parts, mut at, mut crc) = (Vec::new(), share.position, 0);
        while at < end {
            let (start, bytes) = &self.window;
            if at < *start || at >= start + bytes.len() as u64 {
                let until = (at + WINDOW).min(self.root.data_end());
                let span = Span::Range(at..until);
                let fetched = self.merger.bucket.get(Kind::Run, key, span, Patience::Forever).await?;
                let bytes = fetched.ok_or_else(|| Error::Gone { key: key.clone() })?.bytes;
                if bytes.len() as u64 != until - at {
                    return Err(damaged("is cut short".to_owned()));
                }
                self.window = (at, bytes);
                continue;
            }
            let from = (at - start) as usize;
            let part = bytes.slice(from..bytes.len().min(from + (end - at) as usize));
            crc = crc32c::crc32c_append(crc, &part);
            at += part.len() as u64;
            parts.push(part);
        }
        match crc == share.crc {
            true => Ok(parts),
            false => Err(damaged(format!("its CRC32C is {crc:08x}"))),
        }
    }
}

/// Ranges of lanes, those that touch as one.
fn joined(mut lanes: Vec<(LaneId, Seq, Seq)>) -> Vec<(LaneId, Seq, Seq)> {
    lanes.sort_unstable();
    let mut out: Vec<(LaneId, Seq, Seq)> = Vec::new();
    for (lane, from, to) in lanes {
        match out.last_mut().filter(|last| last.0 == lane && last.2 >= from) {
            Some(last) => last.2 = last.2.max(to),
            None => out.push((lane, from, to)),
        }
    }
    out
}

#[cfg(test)]
mod tests;
