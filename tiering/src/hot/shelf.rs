//! Which offsets the hot segments hold, and where: the map of the hot tier.
//!
//! Pure. Segments of a partition rise and do not overlap; between them there may be holes, inside them none.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tidemark_proto::id::{LeaderEpoch, Offset, TopicPartition};

use super::segment::Laid;
use crate::parcel::Extent;
use crate::run::Want;

/// Look-ups land on stretches of at least this many bytes.
const SLICE: u64 = 64 << 10;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    logs: BTreeMap<TopicPartition, VecDeque<Row>>,
    /// All segments, the oldest first; some are gone already.
    order: VecDeque<(TopicPartition, Offset)>,
    bytes: u64,
    segments: usize,
    /// The ownership each partition is under: batches of an older one are not taken any more.
    led: BTreeMap<TopicPartition, LeaderEpoch>,
    /// Files of segments that were taken out and not deleted yet.
    trash: Vec<Arc<Path>>,
}

#[derive(Debug)]
struct Row {
    path: Arc<Path>,
    base: Offset,
    next: Offset,
    len: u64,
    slices: Vec<Laid>,
    verified: Arc<Mutex<Vec<Range<u64>>>>,
}

/// A stretch of a segment for a reader.
#[derive(Debug)]
pub(super) struct Found {
    /// The segment, as in [`super::segment::Segment::path`].
    pub path: Arc<Path>,
    /// Its first offset.
    pub base: Offset,
    /// Slices from the one that holds the offset wanted on, as far as there is room for, and one more.
    pub slices: Vec<Extent>,
    /// Last offset of the segment.
    pub last: Offset,
    /// What of the file was verified.
    pub verified: Arc<Mutex<Vec<Range<u64>>>>,
}

impl Shelf {
    /// A partition is owned anew: what an older ownership left may be void, and goes (R13).
    pub fn lead(&mut self, of: TopicPartition, epoch: LeaderEpoch) {
        self.led.insert(of, epoch);
        self.drop_partition(of);
    }

    /// Whether batches of `epoch` belong to the partition's log.
    pub fn wants(&self, of: TopicPartition, epoch: LeaderEpoch) -> bool {
        self.led.get(&of).is_none_or(|led| epoch >= *led)
    }

    /// A segment was created for a batch of `epoch`. Where that is of an older ownership by now, it is trash.
    pub fn open(&mut self, of: TopicPartition, epoch: LeaderEpoch, base: Offset, path: &Path) {
        if !self.wants(of, epoch) {
            self.trash.push(Arc::from(path));
            return;
        }
        let row = Row {
            path: Arc::from(path),
            base,
            next: base,
            len: 0,
            slices: Vec::new(),
            verified: Arc::default(),
        };
        self.logs.entry(of).or_default().push_back(row);
        self.segments += 1;
        if self.order.len() > 2 * self.segments + 64 {
            let logs = &self.logs;
            let held = |(of, base): &_| logs.get(of).is_some_and(|rows| rows.iter().any(|r| r.base == *base));
            self.order.retain(held);
        }
        self.order.push_back((of, base));
    }

    /// The newest segment of a partition, which begins with `base`, got batches up to `next`, and has `len` bytes now.
    pub fn grow(&mut self, of: TopicPartition, base: Offset, laid: &[Laid], next: Offset, len: u64) {
        let newest = self.logs.get_mut(&of).and_then(VecDeque::back_mut);
        let Some(row) = newest.filter(|row| row.base == base) else { return };
        for batch in laid {
            if row.slices.last().is_none_or(|slice| batch.at - slice.at >= SLICE) {
                row.slices.push(*batch);
            }
        }
        self.bytes += len - row.len;
        (row.next, row.len) = (next, len);
    }

    /// Whether the newest segment of a partition is the one that begins with `base`.
    pub fn ends_with(&self, of: TopicPartition, base: Offset) -> bool {
        self.logs.get(&of).and_then(VecDeque::back).is_some_and(|row| row.base == base)
    }

    /// Offset after the last one held of a partition.
    pub fn end(&self, of: TopicPartition) -> Option<Offset> {
        self.logs.get(&of)?.back().map(|row| row.next)
    }

    /// The segment that holds `want.from`.
    pub fn find(&self, of: TopicPartition, want: Want) -> Option<Found> {
        let rows = self.logs.get(&of)?;
        let row = rows.get(rows.partition_point(|row| row.next <= want.from))?;
        if row.base > want.from || row.slices.is_empty() {
            return None;
        }
        let first = row.slices.partition_point(|slice| slice.base <= want.from).saturating_sub(1);
        let mut found = Vec::new();
        let mut bytes = 0;
        for at in first..row.slices.len() {
            let extent = row.extent(at);
            bytes += extent.length;
            found.push(extent);
            if bytes > want.bytes_max as u64 || extent.last_offset >= want.until {
                break;
            }
        }
        let last = Offset(row.next.0 - 1);
        Some(Found {
            path: row.path.clone(),
            base: row.base,
            slices: found,
            last,
            verified: row.verified.clone(),
        })
    }

    /// Takes a segment out.
    pub fn drop_segment(&mut self, of: TopicPartition, base: Offset) -> bool {
        let Some(rows) = self.logs.get_mut(&of) else { return false };
        let Some(row) = rows.iter().position(|row| row.base == base).and_then(|at| rows.remove(at)) else {
            return false;
        };
        if rows.is_empty() {
            self.logs.remove(&of);
        }
        self.bytes -= row.len;
        self.segments -= 1;
        self.trash.push(row.path);
        true
    }

    /// Takes the segments out that end at or below `start`, but never the newest.
    pub fn start(&mut self, of: TopicPartition, start: Offset) {
        let rows = self.logs.get(&of).into_iter().flatten().rev().skip(1);
        let below: Vec<Offset> = rows.filter(|row| row.next <= start).map(|row| row.base).collect();
        for base in below {
            self.drop_segment(of, base);
        }
    }

    /// Takes all segments of a partition out.
    pub fn drop_partition(&mut self, of: TopicPartition) {
        let rows = self.logs.remove(&of).unwrap_or_default();
        self.bytes -= rows.iter().map(|row| row.len).sum::<u64>();
        self.segments -= rows.len();
        self.trash.extend(rows.into_iter().map(|row| row.path));
    }

    /// Takes the oldest segments out until at most `bytes` are left.
    pub fn shrink(&mut self, bytes: u64) {
        while self.bytes > bytes
            && let Some((of, base)) = self.order.pop_front()
        {
            self.drop_segment(of, base);
        }
    }

    /// Takes everything out; its files are as good as gone.
    pub fn clear(&mut self) {
        *self = Shelf { led: std::mem::take(&mut self.led), ..Shelf::default() };
    }

    /// Files to be deleted.
    pub fn trash(&mut self) -> Vec<Arc<Path>> {
        std::mem::take(&mut self.trash)
    }

    /// The partitions with a segment.
    pub fn partitions(&self) -> Vec<TopicPartition> {
        self.logs.keys().copied().collect()
    }

    /// Bytes of all log files.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many segments there are.
    pub fn segments(&self) -> usize {
        self.segments
    }
}

impl Row {
    fn extent(&self, at: usize) -> Extent {
        let slice = self.slices[at];
        let (next, end) = self.slices.get(at + 1).map_or((self.next, self.len), |s| (s.base, s.at));
        Extent {
            base_offset: slice.base,
            last_offset: Offset(next.0 - 1),
            position: slice.at,
            length: end - slice.at,
        }
    }
}

/// The folder of a partition's segments, as Kafka names it.
pub(super) fn folder(root: &Path, topic: &str, of: TopicPartition) -> PathBuf {
    root.join(format!("{topic}-{}", of.partition))
}
