//! Reads with a check: R27, bytes are verified before they are served.
//!
//! What comes through the cache or from the bucket is in memory and checked every time; where it fails the check it
//! is read once more past the cache, whose copy may be the damaged one. A directory bucket's bytes are sent by the
//! kernel and pass through no memory of ours: they are read and checked the first time this process serves them,
//! whoever wrote them, and what held is remembered. That is the cheapest check that still proves the copy on the
//! disk: it costs one read and one checksum a byte, and brings the pages in for the kernel to send. A file that was
//! replaced or written to is another one (inode, size, times) and is checked anew; what rots on the disk after the
//! check is left to the reader's own checksum and the scrub.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};

use bytes::BytesMut;
use parking_lot::Mutex;
use tidemark_proto::kafka::pieces::{Piece, Pieces};
use tokio::sync::Semaphore;

use super::Reader;
use crate::bucket::{Kind, Patience, Span};
use crate::error::Error;
use crate::format::Damage;
use crate::lru::Lru;

/// More than this is checked off the reactor.
const INLINE: usize = 1 << 20;
/// Ranges remembered of one object.
const RANGES: usize = 256;
/// Files checked at a time, and buffers kept for that.
const TURNS: usize = 4;
/// A larger buffer is not kept.
const BUFFER: usize = 4 << 20;

/// Which state of a file it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &File) -> io::Result<Stamp> {
        let m = file.metadata()?;
        Ok(Stamp {
            device: m.dev(),
            inode: m.ino(),
            size: m.size(),
            modified: (m.mtime(), m.mtime_nsec()),
            changed: (m.ctime(), m.ctime_nsec()),
        })
    }
}

/// What checks of files share: turns, so that many readers do not start as many threads, and buffers, so that a check
/// touches no fresh memory.
#[derive(Debug)]
pub(super) struct Checks {
    turns: Semaphore,
    buffers: Mutex<Vec<BytesMut>>,
}

impl Checks {
    pub(super) fn new() -> Checks {
        Checks { turns: Semaphore::new(TURNS), buffers: Mutex::default() }
    }
}

/// Sorted ranges that neither touch nor overlap.
pub(crate) type Ranges = Vec<Range<u64>>;

/// What of a directory bucket's objects was verified.
#[derive(Debug)]
pub(super) struct Verified(Mutex<Lru<String, (Stamp, Ranges)>>);

impl Verified {
    pub(super) fn new(objects: usize) -> Verified {
        Verified(Mutex::new(Lru::new(objects)))
    }

    fn holds(&self, key: &str, stamp: Stamp, range: &Range<u64>) -> bool {
        let mut known = self.0.lock();
        let Some((as_of, ranges)) = known.get(key) else { return false };
        *as_of == stamp && contains(ranges, range)
    }

    fn note(&self, key: &str, stamp: Stamp, range: Range<u64>) {
        let mut known = self.0.lock();
        match known.get(key) {
            Some((as_of, ranges)) if *as_of == stamp => {
                join(ranges, range);
                ranges.truncate(RANGES);
            }
            _ => known.insert(key.to_owned(), (stamp, vec![range]), 1),
        }
    }

    pub(super) fn forget(&self, key: &str) {
        self.0.lock().remove(key);
    }
}

/// Whether sorted ranges hold all of `range`.
pub(crate) fn contains(ranges: &Ranges, range: &Range<u64>) -> bool {
    let at = ranges.partition_point(|r| r.end < range.end);
    ranges.get(at).is_some_and(|r| r.start <= range.start)
}

/// Adds a range to sorted ranges, melting together what touches.
pub(crate) fn join(ranges: &mut Ranges, new: Range<u64>) {
    let from = ranges.partition_point(|r| r.end < new.start);
    let until = ranges.partition_point(|r| r.start <= new.end);
    let start = ranges.get(from).map_or(new.start, |r| r.start.min(new.start));
    let end = match until.checked_sub(1).filter(|at| *at >= from) {
        Some(at) => ranges[at].end.max(new.end),
        None => new.end,
    };
    let start = if from < until { start } else { new.start };
    ranges.splice(from..until, std::iter::once(start..end));
}

impl Reader {
    /// Exactly the bytes `range` of an object, of which `check` has seen these or, on a directory bucket, earlier
    /// ones. `check` must depend on nothing but the object and the range.
    ///
    /// # Errors
    /// As [`Reader::read`]; what `check` says of the bytes, as [`Error::Corrupt`].
    pub async fn read_checked<F>(
        &self,
        kind: Kind,
        key: &str,
        range: Range<u64>,
        size: Option<u64>,
        check: F,
    ) -> Result<Pieces, Error>
    where
        F: Fn(&Pieces) -> Result<(), Damage> + Send + 'static,
    {
        let pieces = self.read(kind, key, range.clone(), size).await?;
        self.checked(kind, key, range, pieces, check).await
    }

    pub(super) async fn checked<F>(
        &self,
        kind: Kind,
        key: &str,
        range: Range<u64>,
        pieces: Pieces,
        check: F,
    ) -> Result<Pieces, Error>
    where
        F: Fn(&Pieces) -> Result<(), Damage> + Send + 'static,
    {
        if pieces.0.iter().any(|piece| matches!(piece, Piece::File(_))) {
            return self.checked_file(key, range, pieces, check).await;
        }
        let (checked, check) = self.look(pieces.clone(), check).await;
        let Err(damage) = checked else { return Ok(pieces) };
        tracing::warn!(key, %damage, "bytes fail their check: reading them again, from the bucket itself");
        let patience = Patience::Tries(self.0.config.tries);
        let again = self.0.bucket.get(kind, key, Span::Range(range), patience).await?;
        let again = again.ok_or_else(|| Error::Gone { key: key.to_owned() })?;
        let pieces = Pieces::from(again.bytes);
        let (checked, _) = self.look(pieces.clone(), check).await;
        checked.map_err(|damage| damage.at(key))?;
        Ok(pieces)
    }

    async fn look<F>(&self, pieces: Pieces, check: F) -> (Result<(), Damage>, F)
    where
        F: Fn(&Pieces) -> Result<(), Damage> + Send + 'static,
    {
        if pieces.len() <= INLINE {
            return (check(&pieces), check);
        }
        self.0.seams.tasks.blocking(move || (check(&pieces), check)).await
    }

    async fn checked_file<F>(
        &self,
        key: &str,
        range: Range<u64>,
        pieces: Pieces,
        check: F,
    ) -> Result<Pieces, Error>
    where
        F: Fn(&Pieces) -> Result<(), Damage> + Send + 'static,
    {
        let Some(Piece::File(slice)) = pieces.0.first().cloned() else { return Ok(pieces) };
        let unreadable = |e: io::Error| Error::Retry(format!("{key} cannot be read: {e}"));
        let stamp = Stamp::of(&slice.file).map_err(unreadable)?;
        if self.0.verified.holds(key, stamp, &range) {
            return Ok(pieces);
        }
        let _turn = self.0.checks.turns.acquire().await;
        if self.0.verified.holds(key, stamp, &range) {
            return Ok(pieces);
        }
        let mut buffer = self.0.checks.buffers.lock().pop().unwrap_or_default();
        let work = move || -> io::Result<_> {
            buffer.resize(slice.len, 0);
            slice.file.read_exact_at(&mut buffer, slice.offset)?;
            let bytes = buffer.freeze();
            let checked = check(&Pieces::from(bytes.clone()));
            Ok((checked, bytes.try_into_mut().ok()))
        };
        let (checked, buffer) = self.0.seams.tasks.blocking(work).await.map_err(unreadable)?;
        if let Some(buffer) = buffer.filter(|buffer| buffer.capacity() <= BUFFER) {
            self.0.checks.buffers.lock().push(buffer);
        }
        checked.map_err(|damage| damage.at(key))?;
        self.0.verified.note(key, stamp, range);
        Ok(pieces)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_hold_exactly_what_was_noted(noted in prop::collection::vec((0u64..60, 1u64..9), 0..30), asked in (0u64..60, 1u64..9)) {
            let mut ranges = Vec::new();
            let mut truth = [false; 80];
            for (start, len) in noted {
                join(&mut ranges, start..start + len);
                (start..start + len).for_each(|at| truth[at as usize] = true);
            }
            prop_assert!(ranges.windows(2).all(|w| w[0].end < w[1].start), "{ranges:?}");
            let file = File::open("/dev/null").unwrap();
            let (verified, stamp) = (Verified::new(1), Stamp::of(&file).unwrap());
            ranges.into_iter().for_each(|range| verified.note("a", stamp, range));
            let asked = asked.0..asked.0 + asked.1;
            let due = asked.clone().all(|at| truth[at as usize]);
            prop_assert_eq!(verified.holds("a", stamp, &asked), due);
        }
    }
}
