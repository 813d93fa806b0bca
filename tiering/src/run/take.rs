//! Reads a partition's batches out of slices, as a fetch wants them: whole, verified (R27), none copied.
//!
//! Slices are a run's or a hot segment's: stretches of whole batches side by side. Whole ones are taken as they are;
//! only where the reader's bounds fall inside one are its batches looked at.

use std::ops::Range;

use bytes::Bytes;
use tidemark_proto::id::Offset;
use tidemark_proto::kafka::pieces::Pieces;
use tidemark_proto::record::view::Batches;

use super::read::verify_slice;
use crate::bucket::Kind;
use crate::error::Error;
use crate::format::Damage;
use crate::parcel::Extent;
use crate::read::{Handle, Leg};

/// What a reader wants.
#[derive(Clone, Copy, Debug)]
pub struct Want {
    /// The first batch is the one that holds this offset, or the first above it.
    pub from: Offset,
    /// No batch that begins here or above.
    pub until: Offset,
    /// Bytes at most.
    pub bytes_max: usize,
    /// Whether one batch is given however large it is.
    pub at_least_one: bool,
}

/// What it gets.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Whole batches.
    pub pieces: Pieces,
    /// Where to go on; beyond the last offset there is when all of it was seen.
    pub next: Offset,
    /// There is more, and no room for it.
    pub full: bool,
}

/// Where slices lie.
pub trait Sliced: Sync {
    /// Its name, for errors.
    fn name(&self) -> &str;

    /// Its bytes `range`, which `check` has seen, now or at an earlier read (R27).
    fn read_checked<F>(
        &self,
        range: Range<u64>,
        check: F,
    ) -> impl Future<Output = Result<Pieces, Error>> + Send
    where
        F: Fn(&Pieces) -> Result<(), Damage> + Send + 'static;

    /// What a slice's bytes are checked by.
    fn check(&self) -> fn(&Bytes, Extent) -> Result<(), Damage> {
        verify_slice
    }

    /// What `pieces` of it are, in one buffer.
    fn load(&self, pieces: Pieces) -> impl Future<Output = Result<Bytes, Error>> + Send;
}

/// An object of a run, read by way of a handle.
#[derive(Clone, Copy, Debug)]
pub struct Object<'a> {
    /// Reads ahead.
    pub handle: &'a Handle,
    /// Its key.
    pub key: &'a str,
    /// Its size, where known.
    pub size: Option<u64>,
    /// Where its reader reads, as far as that is known.
    pub route: &'a [Leg],
}

impl Sliced for Object<'_> {
    fn name(&self) -> &str {
        self.key
    }

    async fn read_checked<F>(&self, range: Range<u64>, check: F) -> Result<Pieces, Error>
    where
        F: Fn(&Pieces) -> Result<(), Damage> + Send + 'static,
    {
        self.handle.read_checked(Kind::Run, self.key, range, self.size, self.route, check).await
    }

    async fn load(&self, pieces: Pieces) -> Result<Bytes, Error> {
        self.handle.load(pieces).await
    }
}

/// Takes what `want` allows of `slices`, which begin with the one that holds `want.from`, lie side by side, and end
/// with `last`. One look: unless it is full or at the end, more may be had from `next` on.
pub async fn take(
    from: &impl Sliced,
    slices: impl Iterator<Item = Extent>,
    last: Offset,
    want: Want,
) -> Result<Taken, Error> {
    let (chosen, full) = fitting(slices, want);
    let (Some(head), Some(tail)) = (chosen.first().copied(), chosen.last().copied()) else {
        let next = if full { want.from } else { last.plus(1) };
        return Ok(Taken { pieces: Pieces::new(), next, full });
    };
    let range = head.position..tail.position + tail.length;
    let check = from.check();
    let pieces = from.read_checked(range, move |pieces| verify(pieces, &chosen, check)).await?;
    let mut taken = Taken { pieces, next: tail.last_offset.plus(1).max(want.from), full };
    let large = head.length > want.bytes_max as u64;
    if head.base_offset < want.from || large {
        let bytes_max = if large { want.bytes_max } else { usize::MAX };
        let slice = taken.pieces.slice(0..head.length as usize);
        let part = choose(from, slice, Want { bytes_max, ..want }).await?;
        if let Some(next) = part.cut_at {
            (taken.next, taken.full) = (next, next < want.until);
            taken.pieces = taken.pieces.slice(part.range);
            return Ok(taken);
        }
        taken.pieces = taken.pieces.slice(part.range.start..usize::MAX);
    }
    if tail.last_offset >= want.until {
        let at = taken.pieces.len().saturating_sub(tail.length as usize);
        let slice = taken.pieces.slice(at..usize::MAX);
        let part = choose(from, slice, Want { bytes_max: usize::MAX, ..want }).await?;
        taken.next = part.cut_at.unwrap_or(taken.next);
        taken.pieces = taken.pieces.slice(0..at + part.range.end);
    }
    Ok(taken)
}

/// The slices that there is room for, and whether some were left out for want of it.
fn fitting(slices: impl Iterator<Item = Extent>, want: Want) -> (Vec<Extent>, bool) {
    let mut chosen: Vec<Extent> = Vec::new();
    let mut length = 0;
    for slice in slices.take_while(|slice| slice.base_offset < want.until) {
        if length + slice.length > want.bytes_max as u64 && !(chosen.is_empty() && want.at_least_one) {
            return (chosen, true);
        }
        length += slice.length;
        chosen.push(slice);
    }
    (chosen, false)
}

/// The batches of one slice that are wanted.
struct Chosen {
    range: Range<usize>,
    /// Where the first batch begins that was left out at the end.
    cut_at: Option<Offset>,
}

async fn choose(from: &impl Sliced, slice: Pieces, want: Want) -> Result<Chosen, Error> {
    let bytes = from.load(slice).await?;
    choose_in(bytes, want).map_err(|damage| damage.at(from.name()))
}

fn choose_in(bytes: Bytes, want: Want) -> Result<Chosen, Damage> {
    let (mut at, mut range) = (0, None::<Range<usize>>);
    for batch in Batches::new(bytes) {
        let batch = batch.map_err(|error| Damage::new(error.to_string()))?;
        let end = at + batch.size();
        if batch.last_offset() >= want.from {
            let start = range.as_ref().map_or(at, |r| r.start);
            let fits = end - start <= want.bytes_max || (range.is_none() && want.at_least_one);
            if batch.base_offset() >= want.until || !fits {
                let range = range.unwrap_or(at..at);
                return Ok(Chosen { range, cut_at: Some(batch.base_offset()) });
            }
            range = Some(start..end);
        }
        at = end;
    }
    Ok(Chosen { range: range.unwrap_or(at..at), cut_at: None })
}

fn verify(
    pieces: &Pieces,
    extents: &[Extent],
    check: fn(&Bytes, Extent) -> Result<(), Damage>,
) -> Result<(), Damage> {
    let mut at = 0;
    for extent in extents {
        let end = at + extent.length as usize;
        let bytes = pieces.slice(at..end).into_bytes();
        check(&bytes.map_err(|error| Damage::new(error.to_string()))?, *extent)?;
        at = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidemark_proto::id::{LeaderEpoch, Millis, TopicPartition};
    use tidemark_proto::record::build::Builder;
    use tidemark_proto::record::stamp::Stamped;

    use super::*;
    use crate::bucket::{Body, Bucket, Config, Placed};
    use crate::hot::chunks::MemoryChunks;
    use crate::read::{ReadConfig, Reader};
    use crate::run::{Partition, Slice};
    use crate::seam::Seams;

    const KEY: &str = "run/abcd/0-share";
    const AT: usize = 1000;

    /// Batches of two offsets each, `slices` of them (and of other sizes) side by side.
    struct Share {
        handle: Handle,
        entry: Partition,
        batches: Vec<(Offset, Bytes)>,
        _dir: Option<tempfile::TempDir>,
    }

    async fn share(on_disk: bool, sizes: &[(usize, bool)]) -> Share {
        let (mut bytes, mut slices, mut batches) = (vec![0; AT], Vec::new(), Vec::new());
        for (i, (size, opens)) in sizes.iter().enumerate() {
            let base = Offset(100 + 2 * i as i64);
            let mut builder = Builder::new();
            builder.append(Millis(1), None, Some(&vec![i as u8; *size])).append(Millis(2), None, None);
            let batch = Stamped::new(&builder.build(), base, LeaderEpoch(3)).to_bytes();
            if i == 0 || *opens {
                let at = (bytes.len() - AT) as u32;
                slices.push(Slice { base_offset: base, at, max_timestamp: Millis(2) });
            }
            bytes.extend_from_slice(&batch);
            batches.push((base, batch));
        }
        let entry = Partition {
            of: TopicPartition::default(),
            internal: false,
            base_offset: Offset(100),
            last_offset: Offset(99 + 2 * sizes.len() as i64),
            max_timestamp: Millis(2),
            position: AT as u64,
            length: (bytes.len() - AT) as u64,
            crc: 0,
            batches: sizes.len() as u32,
            state: None,
            slices,
        };
        let dir = on_disk.then(|| tempfile::tempdir().unwrap());
        let seams = if on_disk { Seams::system() } else { Seams::seeded(4) };
        let bucket = match &dir {
            Some(dir) => {
                Bucket::open(&Config::new(format!("file://{}", dir.path().display())), &seams).unwrap()
            }
            None => Bucket::memory(&seams),
        };
        assert_eq!(bucket.place(Kind::Run, KEY, &Body::from(Bytes::from(bytes)), 16).await, Placed::Ours);
        let chunks = Arc::new(MemoryChunks::new(8 << 20));
        let handle = Reader::new(&bucket, chunks, ReadConfig::default(), &seams).handle();
        Share { handle, entry, batches, _dir: dir }
    }

    impl Share {
        async fn take(&self, want: Want) -> Result<Taken, Error> {
            let object = Object { handle: &self.handle, key: KEY, size: None, route: &[] };
            take(&object, self.entry.extents(want.from), self.entry.last_offset, want).await
        }

        /// What a reader of batches one by one would get.
        fn due(&self, want: Want, got: usize) -> Vec<u8> {
            let within = |(base, _): &&(Offset, Bytes)| base.plus(1) >= want.from && *base < want.until;
            let mut due = Vec::new();
            for (_, batch) in self.batches.iter().filter(within) {
                if due.len() < got {
                    due.extend_from_slice(batch);
                }
            }
            due
        }

        async fn read_all(&self, from: Offset, until: Offset, bytes_max: usize) {
            let mut next = from;
            while next < until && next <= self.entry.last_offset {
                let want = Want { from: next, until, bytes_max, at_least_one: true };
                let taken = self.take(want).await.unwrap();
                let bytes = taken.pieces.into_bytes().unwrap();
                assert!(bytes == self.due(want, bytes.len()), "{want:?}");
                let batches: Vec<_> = Batches::new(bytes.clone()).map(Result::unwrap).collect();
                assert!(bytes.len() <= bytes_max || batches.len() == 1, "{want:?}: {} bytes", bytes.len());
                assert!(!batches.is_empty(), "{want:?}");
                assert_eq!(batches[0].base_offset().0 / 2, next.0.max(100) / 2, "{want:?}");
                let end = batches.last().unwrap().next_offset();
                assert!(
                    taken.next >= end && (taken.next == end || taken.next >= until),
                    "{want:?} {}",
                    taken.next
                );
                next = taken.next;
            }
        }
    }

    #[tokio::test]
    async fn whole_batches_come_within_any_bounds_from_memory_and_from_files() {
        let sizes = [(10, true), (700, false), (3, false), (2000, true), (1, true), (1, false), (50, false)];
        for on_disk in [false, true] {
            let share = share(on_disk, &sizes).await;
            for from in 90..114 {
                for until in [from + 1, 103, 106, 107, 200] {
                    for bytes_max in [0, 90, 900, 3000, 1 << 20] {
                        share.read_all(Offset(from), Offset(until.max(101)), bytes_max).await;
                    }
                }
            }
        }
    }

    #[tokio::test]
    async fn without_room_nothing_comes_and_the_place_is_kept() {
        let share = share(false, &[(10, true), (700, true)]).await;
        let want = Want { from: Offset(101), until: Offset(104), bytes_max: 20, at_least_one: false };
        let taken = share.take(want).await.unwrap();
        assert!(taken.pieces.is_empty() && taken.full && taken.next == Offset(101));
    }

    #[tokio::test]
    async fn a_damaged_batch_is_not_served() {
        let mut share = share(false, &[(10, true), (700, true)]).await;
        share.entry.position += 1;
        let want = Want { from: Offset(100), until: Offset(104), bytes_max: 20, at_least_one: true };
        let taken = share.take(want).await;
        assert!(matches!(taken, Err(Error::Corrupt { .. })), "{taken:?}");
    }
}
