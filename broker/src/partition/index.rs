//! Where a partition's batches are: the newest in memory, the rest in parcels, older ones in runs.
//!
//! Pure. The three are contiguous: runs end where the first extent begins, extents end (at or beyond) where the
//! memory tail begins. Knows positions, reads nothing.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use tidemark_proto::id::{LaneId, Millis, Offset, Seq, TopicPartition};
use tidemark_proto::record::stamp::Stamped;
use tidemark_tiering::parcel::footer::{BatchEntry, Footer, Part};

/// A durable parcel.
#[derive(Debug)]
pub struct Parcel {
    /// Its lane.
    pub lane: LaneId,
    /// Its place in the lane.
    pub seq: Seq,
    /// Its object's name.
    pub key: String,
    /// What it holds.
    pub footer: Arc<Footer>,
    /// Bytes of the object.
    pub size: u64,
}

/// Batches of one partition that lie side by side in one parcel.
#[derive(Clone, Debug)]
pub struct Extent {
    parcel: Arc<Parcel>,
    part: usize,
    batches: Range<usize>,
}

/// A batch held in memory.
#[derive(Clone, Debug)]
struct Recent {
    base: Offset,
    last: Offset,
    max_timestamp: Millis,
    batch: Stamped,
}

/// Where to get some bytes of a partition.
#[derive(Clone, Debug)]
pub enum Source {
    /// Here they are.
    Memory(Vec<Stamped>),
    /// A byte range of a parcel.
    Stored(Stored),
    /// In a run: look up this offset there.
    Archived {
        /// First offset wanted.
        from: Offset,
        /// Offset where the parcels take over.
        until: Offset,
        /// How much of it.
        appetite: Appetite,
    },
}

/// Batches side by side in a parcel.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The object.
    pub parcel: Arc<Parcel>,
    /// Index into the footer's parts.
    pub part: usize,
    /// Which batches of the part.
    pub batches: Range<usize>,
    /// Their bytes in the object.
    pub bytes: Range<u64>,
    /// Whether others here will want the rest of the object: who reads first brings all of it.
    pub shared: bool,
}

impl Source {
    /// Offset behind its last batch; of what lies in runs, the most it may be.
    pub fn until(&self) -> Option<Offset> {
        match self {
            Source::Memory(batches) => batches.last().map(Stamped::next_offset),
            Source::Stored(stored) => stored.entries().last().map(|batch| batch.last_offset.plus(1)),
            Source::Archived { until, .. } => Some(*until),
        }
    }
}

impl Stored {
    /// The footer's word on each batch.
    pub fn entries(&self) -> &[BatchEntry] {
        &self.parcel.footer.parts[self.part].batches[self.batches.clone()]
    }
}

/// What a reader may take.
#[derive(Clone, Copy, Debug)]
pub struct Appetite {
    /// Bytes at most; whole batches only.
    pub bytes_max: usize,
    /// Whether the first batch is given however large it is (KIP-74).
    pub at_least_one: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Index {
    extents: VecDeque<Extent>,
    recent: VecDeque<Recent>,
}

impl Extent {
    /// The batches `batches` of part `part`.
    pub fn new(parcel: Arc<Parcel>, part: usize, batches: Range<usize>) -> Extent {
        debug_assert!(!batches.is_empty(), "an extent holds a batch");
        Extent { parcel, part, batches }
    }

    fn part(&self) -> &Part {
        &self.parcel.footer.parts[self.part]
    }

    fn entries(&self) -> &[BatchEntry] {
        &self.part().batches[self.batches.clone()]
    }

    fn base(&self) -> Offset {
        self.entries()[0].base_offset
    }

    fn last(&self) -> Offset {
        self.entries()[self.batches.len() - 1].last_offset
    }

    fn stored(&self, from: usize, until: usize) -> Stored {
        let part = self.part();
        let (from, until) = (self.batches.start + from, self.batches.start + until);
        let size = |r: Range<usize>| part.batches[r].iter().map(BatchEntry::stored).sum::<u64>();
        let start = part.position + size(0..from);
        let bytes = start..start + size(from..until);
        Stored { parcel: self.parcel.clone(), part: self.part, batches: from..until, bytes, shared: false }
    }
}

impl Index {
    /// Notes a batch that was just appended.
    pub fn push_recent(&mut self, base: Offset, last: Offset, max_timestamp: Millis, batch: Stamped) {
        self.recent.push_back(Recent { base, last, max_timestamp, batch });
    }

    /// The batches in memory among offsets `base` to `last`.
    pub fn recent(&self, base: Offset, last: Offset) -> Vec<Stamped> {
        let first = self.recent.partition_point(|r| r.base < base);
        let within = self.recent.range(first..).take_while(|r| r.last <= last);
        within.map(|r| r.batch.clone()).collect()
    }

    /// Notes where durable batches lie; extents arrive in the order of offsets.
    pub fn push_extent(&mut self, extent: Extent) {
        debug_assert!(
            self.extents.back().is_none_or(|e| e.last() < extent.base()),
            "extents follow each other"
        );
        self.extents.push_back(extent);
    }

    /// Lets go of memory up to and including `last`, which must be durable.
    pub fn forget_recent(&mut self, last: Offset) {
        while self.recent.front().is_some_and(|r| r.last <= last) {
            self.recent.pop_front();
        }
    }

    /// Lets go of extents in `lane` below `low`: a run holds them.
    pub fn forget_extents(&mut self, lane: LaneId, low: Seq) {
        self.extents.retain(|e| e.parcel.lane != lane || e.parcel.seq >= low);
    }

    /// These batches, where all of them are in memory.
    pub fn at_hand(&self, entries: &[BatchEntry]) -> Option<Vec<Stamped>> {
        let first = entries.first()?.base_offset;
        let at = self.recent.partition_point(|r| r.base < first);
        let found = self.recent.range(at..).zip(entries).map_while(|(recent, entry)| {
            (recent.base == entry.base_offset && recent.last == entry.last_offset)
                .then(|| recent.batch.clone())
        });
        let found: Vec<Stamped> = found.collect();
        (found.len() == entries.len()).then_some(found)
    }

    /// First offset that is not in a run.
    pub fn archived_until(&self) -> Option<Offset> {
        let extent = self.extents.front().map(Extent::base);
        let recent = self.recent.front().map(|r| r.base);
        extent.into_iter().chain(recent).min()
    }

    /// How many extents there are.
    pub fn extent_count(&self) -> usize {
        self.extents.len()
    }

    /// Bytes held by the extents, for size metrics.
    pub fn stored_bytes(&self) -> u64 {
        self.extents.iter().map(|e| e.stored(0, e.batches.len()).bytes).map(|r| r.end - r.start).sum()
    }

    /// Where the batches from the one that holds `from` up to `until` (exclusive) are, as far as `appetite` goes. Stops
    /// where parcels and memory leave a hole: runs hold what is in it. Returns the bytes chosen; an archived source
    /// counts as the whole appetite, and there is none without appetite.
    pub fn plan(&self, from: Offset, until: Offset, end: Offset, appetite: Appetite) -> (Vec<Source>, usize) {
        self.plan_with(&self.recent, from, until, end, appetite)
    }

    /// The same for who has only the bucket to read: memory is passed over. What is committed is in parcels or runs.
    pub fn plan_in_bucket(
        &self,
        from: Offset,
        until: Offset,
        end: Offset,
        appetite: Appetite,
    ) -> (Vec<Source>, usize) {
        self.plan_with(&VecDeque::new(), from, until, end, appetite)
    }

    fn plan_with(
        &self,
        recent: &VecDeque<Recent>,
        from: Offset,
        until: Offset,
        end: Offset,
        appetite: Appetite,
    ) -> (Vec<Source>, usize) {
        if from >= until || (appetite.bytes_max == 0 && !appetite.at_least_one) {
            return (Vec::new(), 0);
        }
        let mut plan = Plan { sources: Vec::new(), taken: 0, next: from, appetite };
        let in_memory = recent.front().map_or(end, |r| r.base);
        let first = self.extents.partition_point(|e| e.last() < from);
        for extent in self.extents.range(first..) {
            let wanted = plan.next < until.min(in_memory) && extent.base() <= plan.next;
            if !wanted || !plan.take_extent(extent, until.min(in_memory)) {
                break;
            }
        }
        let first = recent.partition_point(|r| r.last < plan.next);
        plan.take_recent(recent.range(first..), until);
        if plan.taken == 0 && plan.sources.is_empty() {
            let after = |base: Offset| (base > from).then_some(base);
            let extent = self.extents.iter().find_map(|e| after(e.base()));
            let resumes = extent.into_iter().chain(after(in_memory)).chain([until]).min().unwrap_or(until);
            let here = self.extents.iter().any(|e| e.base() <= from && from <= e.last()) || in_memory <= from;
            if !here {
                let source = Source::Archived { from, until: resumes, appetite };
                return (vec![source], appetite.bytes_max.max(1));
            }
        }
        (plan.sources, plan.taken)
    }

    /// The first batch below `until` whose largest timestamp is at or above `target` (KIP-79), not looking at runs.
    pub fn find_time(&self, target: Millis, from: Offset, until: Offset) -> Option<Source> {
        let in_memory = self.recent.front().map(|r| r.base);
        for extent in &self.extents {
            for (at, entry) in extent.entries().iter().enumerate() {
                let here = entry.last_offset >= from && entry.base_offset < until;
                let shadowed = in_memory.is_some_and(|m| entry.base_offset >= m);
                if here && !shadowed && entry.max_timestamp >= target {
                    return Some(Source::Stored(extent.stored(at, at + 1)));
                }
            }
        }
        let hit = |r: &&Recent| r.last >= from && r.base < until && r.max_timestamp >= target;
        self.recent.iter().find(hit).map(|r| Source::Memory(vec![r.batch.clone()]))
    }

    /// The largest timestamp below `until`, not looking at runs; of equal ones the first.
    pub fn max_timestamp(&self, from: Offset, until: Offset) -> Option<Millis> {
        let entries = self.extents.iter().flat_map(|e| e.entries());
        let stored =
            entries.filter(|b| b.last_offset >= from && b.base_offset < until).map(|b| b.max_timestamp);
        let recent = self.recent.iter().filter(|r| r.last >= from && r.base < until).map(|r| r.max_timestamp);
        stored.chain(recent).max()
    }
}

/// A plan in the making.
struct Plan {
    sources: Vec<Source>,
    taken: usize,
    next: Offset,
    appetite: Appetite,
}

impl Plan {
    fn has_room(&self, length: usize) -> bool {
        (self.taken == 0 && self.appetite.at_least_one) || self.taken + length <= self.appetite.bytes_max
    }

    /// Takes what fits of an extent; whether all of it up to `until` did.
    fn take_extent(&mut self, extent: &Extent, until: Offset) -> bool {
        let entries = extent.entries();
        let start = entries.partition_point(|b| b.last_offset < self.next);
        let mut stop = start;
        while stop < entries.len() && entries[stop].base_offset < until {
            let length = usize::try_from(entries[stop].stored()).unwrap_or(usize::MAX);
            if !self.has_room(length) {
                break;
            }
            self.taken += length;
            self.next = entries[stop].last_offset.plus(1);
            stop += 1;
        }
        if stop > start {
            self.sources.push(Source::Stored(extent.stored(start, stop)));
        }
        stop == entries.len()
    }

    fn take_recent<'a>(&mut self, recent: impl Iterator<Item = &'a Recent>, until: Offset) {
        let mut batches = Vec::new();
        for r in recent {
            if r.base > self.next || r.base >= until || !self.has_room(r.batch.len()) {
                break;
            }
            self.taken += r.batch.len();
            self.next = r.last.plus(1);
            batches.push(r.batch.clone());
        }
        if !batches.is_empty() {
            self.sources.push(Source::Memory(batches));
        }
    }
}

/// Finds the part of `tp` in a footer.
pub fn part_of(footer: &Footer, tp: TopicPartition) -> Option<usize> {
    footer.parts.iter().position(|p| p.of == tp)
}
