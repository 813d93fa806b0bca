//! Read-ahead: a handle that sees its reader go on fetches what comes next, twice as much each time.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tidemark_proto::kafka::pieces::{Piece, Pieces};

use super::{Reader, chunks};
use crate::bucket::Kind;
use crate::error::Error;
use crate::format::Damage;
use crate::hot::chunks::{CHUNK, ChunkKey};

/// The first read-ahead.
const FIRST: u64 = 512 << 10;

/// One reader's place. Reads through it are answered as [`Reader::read`] answers them.
#[derive(Debug)]
pub struct Handle {
    reader: Reader,
    place: Mutex<Place>,
}

#[derive(Debug, Default)]
struct Place {
    key: String,
    next: u64,
    size: u64,
    window: u64,
}

impl Place {
    /// Notes a read, and says what to fetch ahead of the next.
    fn follow(&mut self, key: &str, range: &Range<u64>, size: u64, most: u64) -> Range<u64> {
        let same = self.key == key;
        // Batches overlap reads a little; a reader never jumps by a chunk and is still reading on.
        let onward = same && range.start <= self.next && range.start + CHUNK > self.next;
        let next_object =
            !same && !self.key.is_empty() && self.next + CHUNK > self.size && range.start < CHUNK;
        self.window = match (onward, next_object) {
            (true, _) => (self.window * 2).max(FIRST).min(most),
            (_, true) => self.window,
            _ => 0,
        };
        if !same {
            key.clone_into(&mut self.key);
        }
        (self.next, self.size) = (range.end, size);
        range.end..range.end.saturating_add(self.window).min(size)
    }
}

impl Handle {
    pub(super) fn new(reader: Reader) -> Handle {
        Handle { reader, place: Mutex::default() }
    }

    /// Exactly the bytes `range` of an object; without its size there is no read-ahead.
    pub async fn read(
        &self,
        kind: Kind,
        key: &str,
        range: Range<u64>,
        size: Option<u64>,
    ) -> Result<Pieces, Error> {
        let reading = self.reader.read(kind, key, range.clone(), size);
        if let Some(size) = size.filter(|_| self.reader.0.bucket.directory().is_none()) {
            let most = self.reader.0.config.window;
            let ahead = self.place.lock().follow(key, &range, size, most);
            let request = self.reader.0.config.chunks_per_get as u64 * CHUNK;
            self.fetch(kind, key, whole_requests(ahead, size, request), size)?;
        }
        reading.await
    }

    /// As [`Handle::read`], with a check as [`Reader::read_checked`] does it.
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
        self.reader.checked(kind, key, range, pieces, check).await
    }

    /// What `pieces` are, in one buffer; files are read off the reactor.
    pub async fn load(&self, pieces: Pieces) -> Result<Bytes, Error> {
        let unreadable = |e: io::Error| Error::Retry(format!("a file cannot be read: {e}"));
        match pieces.0.iter().any(|piece| matches!(piece, Piece::File(_))) {
            true => self.reader.0.seams.tasks.blocking(move || pieces.into_bytes()).await.map_err(unreadable),
            false => pieces.into_bytes().map_err(unreadable),
        }
    }

    fn fetch(&self, kind: Kind, key: &str, ahead: Range<u64>, size: u64) -> Result<(), Error> {
        if ahead.is_empty() {
            return Ok(());
        }
        let object: Arc<str> = Arc::from(key);
        let cached =
            |number| self.reader.0.cache.peek(&ChunkKey { object: object.clone(), number }).is_some();
        let missing = chunks(&ahead)?.filter(|number| !cached(*number)).collect();
        drop(self.reader.join(kind, &object, missing, Some(size), true));
        Ok(())
    }
}

/// As much of `ahead` as makes whole requests of `request` bytes: who is far ahead of its reader waits until one is full,
/// or it would ask for each chunk by itself.
fn whole_requests(ahead: Range<u64>, size: u64, request: u64) -> Range<u64> {
    let far = ahead.end.saturating_sub(ahead.start) >= 2 * request;
    match far && ahead.end < size {
        true => ahead.start..ahead.end - ahead.end % request,
        false => ahead,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn who_is_far_ahead_asks_for_whole_requests_only() {
        let ask = |range: Range<u64>| whole_requests(range, 100 * MIB, 8 * MIB).end / MIB;
        assert_eq!((0..4).map(|at| ask(at * MIB..(at + 29) * MIB)).collect::<Vec<_>>(), [24, 24, 24, 32]);
        assert_eq!(ask(MIB..16 * MIB), 16, "so near that what is next is wanted soon");
        assert_eq!(ask(80 * MIB..100 * MIB), 100, "the end is no request's beginning");
    }

    #[test]
    fn the_window_doubles_while_the_reader_reads_on() {
        let mut place = Place::default();
        let mut at = 0;
        let mut windows = Vec::new();
        for _ in 0..9 {
            let ahead = place.follow("a", &(at..at + MIB), 1 << 40, 32 * MIB);
            windows.push((ahead.end - ahead.start) / 1024);
            at += MIB;
        }
        assert_eq!(windows, [0, 512, 1024, 2048, 4096, 8192, 16_384, 32_768, 32_768]);
    }

    #[test]
    fn a_jump_ends_read_ahead_and_the_next_object_keeps_it() {
        let mut place = Place::default();
        for at in 0..4 {
            place.follow("a", &(at * MIB..(at + 1) * MIB), 4 * MIB, 32 * MIB);
        }
        let ahead = place.follow("b", &(0..MIB), 100 * MIB, 32 * MIB);
        assert_eq!(ahead, MIB..3 * MIB);
        assert!(place.follow("b", &(50 * MIB..51 * MIB), 100 * MIB, 32 * MIB).is_empty());
        assert!(place.follow("c", &(20 * MIB..21 * MIB), 100 * MIB, 32 * MIB).is_empty());
    }

    #[test]
    fn nothing_is_read_beyond_the_end() {
        let mut place = Place::default();
        place.follow("a", &(0..MIB), 2 * MIB, 32 * MIB);
        assert_eq!(place.follow("a", &(MIB..2 * MIB), 2 * MIB, 32 * MIB), 2 * MIB..2 * MIB);
    }
}
