//! Read-ahead: a handle that sees its reader go on fetches what comes next, twice as much each time.
//!
//! What comes next is what its reader says of its route: legs, one after the other, each a part of an object. A reader that
//! says nothing of an object is taken to read all of it.

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

/// A part of an object that its reader reads from the beginning to the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    /// What the object is.
    pub kind: Kind,
    /// Its key.
    pub key: String,
    /// The bytes.
    pub range: Range<u64>,
    /// Bytes of the whole object.
    pub size: u64,
}

#[derive(Debug, Default)]
struct Place {
    /// The leg of the last read, and where that read ended.
    last: Option<(Leg, u64)>,
    window: u64,
}

impl Place {
    /// Notes a read, and says what to fetch ahead of the next, for which requests of `request` bytes are made.
    fn follow(
        &mut self,
        (kind, key): (Kind, &str),
        range: &Range<u64>,
        size: u64,
        route: &[Leg],
        (most, request): (u64, u64),
    ) -> Vec<Leg> {
        let holds =
            |leg: &Leg| leg.key == key && leg.range.start <= range.start && range.end <= leg.range.end;
        let at = route.iter().position(holds);
        let whole = || Leg { kind, key: key.to_owned(), range: 0..size, size };
        let here = at.map_or_else(whole, |at| route[at].clone());
        let onward = self.last.as_ref().is_some_and(|(leg, next)| match *leg == here {
            // Batches overlap reads a little; a reader never jumps by a chunk and is still reading on.
            true => range.start <= *next && range.start + CHUNK > *next,
            false => *next + CHUNK > leg.range.end && range.start < here.range.start + CHUNK,
        });
        self.window = if onward { (self.window * 2).max(FIRST).min(most) } else { 0 };
        let rest = Leg { range: range.end..here.range.end, ..here.clone() };
        self.last = Some((here, range.end));
        let after = at.map_or(&[][..], |at| &route[at + 1..]);
        let mut left = self.window;
        let mut ahead = Vec::new();
        for leg in std::iter::once(&rest).chain(after) {
            let length = (leg.range.end - leg.range.start).min(left);
            let part = leg.range.start..leg.range.start + length;
            let part = whole_requests(part, &leg.range, (self.window, request));
            if !part.is_empty() {
                ahead.push(Leg { range: part, ..leg.clone() });
            }
            left -= length;
            if left == 0 {
                break;
            }
        }
        ahead
    }
}

impl Handle {
    pub(super) fn new(reader: Reader) -> Handle {
        Handle { reader, place: Mutex::default() }
    }

    /// Most bytes that it reads ahead; 0 where that is of no use.
    pub fn window(&self) -> u64 {
        if self.reader.is_local() { 0 } else { self.reader.0.config.window }
    }

    /// Exactly the bytes `range` of an object; without its size there is no read-ahead. `route` is where its reader reads: the
    /// leg that it is in, and those that follow.
    pub async fn read(
        &self,
        kind: Kind,
        key: &str,
        range: Range<u64>,
        size: Option<u64>,
        route: &[Leg],
    ) -> Result<Pieces, Error> {
        if let Some(size) = size.filter(|_| !self.reader.is_local()) {
            let bounds = (self.reader.0.config.window, self.reader.0.config.chunks_per_get as u64 * CHUNK);
            let ahead = self.place.lock().follow((kind, key), &range, size, route, bounds);
            self.fetch(&ahead)?;
        }
        self.reader.read(kind, key, range, size).await
    }

    /// As [`Handle::read`], with a check as [`Reader::read_checked`] does it.
    pub async fn read_checked<F>(
        &self,
        kind: Kind,
        key: &str,
        range: Range<u64>,
        size: Option<u64>,
        route: &[Leg],
        check: F,
    ) -> Result<Pieces, Error>
    where
        F: Fn(&Pieces) -> Result<(), Damage> + Send + 'static,
    {
        let pieces = self.read(kind, key, range.clone(), size, route).await?;
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

    /// Starts to fetch as much as there is budget for.
    fn fetch(&self, ahead: &[Leg]) -> Result<(), Error> {
        let config = &self.reader.0.config;
        let most = config.chunks_per_get.min(config.chunks_ahead).max(1);
        for leg in ahead {
            let object: Arc<str> = Arc::from(&*leg.key);
            let missing = |number: &u32| {
                self.reader.0.cache.peek(&ChunkKey { object: object.clone(), number: *number }).is_none()
            };
            let missing: Vec<u32> = chunks(&leg.range)?.filter(missing).collect();
            for neighbours in missing.chunk_by(|a, b| a + 1 == *b).flat_map(|run| run.chunks(most)) {
                if !self.reader.ahead(leg.kind, &object, neighbours.to_vec(), leg.size) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// As much of `part`, the beginning of `all`, as makes whole requests of `request` bytes: whose window holds several waits
/// until one is full, or would ask for each chunk by itself.
fn whole_requests(part: Range<u64>, all: &Range<u64>, (window, request): (u64, u64)) -> Range<u64> {
    if window < 2 * request || part.end == all.end {
        return part;
    }
    let end = if all.end - all.start <= request { part.start } else { part.end - part.end % request };
    part.start..end.max(part.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    const BOUNDS: (u64, u64) = (32 * MIB, 8 * MIB);

    fn leg(key: &str, range: Range<u64>, size: u64) -> Leg {
        Leg { kind: Kind::Run, key: key.to_owned(), range, size }
    }

    /// Reads on in `key`, a MiB at a time, and gives what was to be fetched ahead at last.
    fn read(
        place: &mut Place,
        route: &[Leg],
        key: &str,
        mib: Range<u64>,
        size: u64,
    ) -> Vec<(String, Range<u64>)> {
        let mut ahead = Vec::new();
        for at in mib {
            ahead = place.follow((Kind::Run, key), &(at * MIB..(at + 1) * MIB), size * MIB, route, BOUNDS);
        }
        ahead.into_iter().map(|s| (s.key, s.range.start / MIB..s.range.end.div_ceil(MIB))).collect()
    }

    #[test]
    fn who_is_far_ahead_asks_for_whole_requests_only() {
        let ask = |part: Range<u64>| {
            let (all, part) = (part.start..100 * MIB, part);
            whole_requests(part, &all, (28 * MIB, 8 * MIB)).end / MIB
        };
        assert_eq!((0..4).map(|at| ask(at * MIB..(at + 29) * MIB)).collect::<Vec<_>>(), [24, 24, 24, 32]);
        assert_eq!(ask(80 * MIB..100 * MIB), 100, "the end is no request's beginning");
        let near = whole_requests(MIB..16 * MIB - 1, &(MIB..100 * MIB), (15 * MIB, 8 * MIB));
        assert_eq!(near.end, 16 * MIB - 1, "so near that what is next is wanted soon");
        let short = whole_requests(9 * MIB..10 * MIB, &(9 * MIB..14 * MIB), (32 * MIB, 8 * MIB));
        assert!(short.is_empty(), "a leg that one request can bring is not brought by two");
    }

    #[test]
    fn the_window_doubles_while_the_reader_reads_on() {
        let mut place = Place::default();
        let mut windows = Vec::new();
        for at in 0..9 {
            let range = at * MIB..(at + 1) * MIB;
            place.follow((Kind::Run, "a"), &range, 1 << 40, &[], BOUNDS);
            windows.push(place.window / 1024);
        }
        assert_eq!(windows, [0, 512, 1024, 2048, 4096, 8192, 16_384, 32_768, 32_768]);
    }

    #[test]
    fn a_jump_ends_read_ahead_and_the_next_object_keeps_it() {
        let mut place = Place::default();
        read(&mut place, &[], "a", 0..4, 4);
        assert_eq!(read(&mut place, &[], "b", 0..1, 100), [("b".to_owned(), 1..5)]);
        assert!(read(&mut place, &[], "b", 50..51, 100).is_empty());
        assert!(read(&mut place, &[], "c", 20..21, 100).is_empty());
    }

    #[test]
    fn a_route_leads_from_one_object_into_the_next_and_past_the_parts_of_others() {
        let route = vec![
            leg("a", 10 * MIB..14 * MIB, 32 * MIB),
            leg("b", 20 * MIB..22 * MIB, 32 * MIB),
            leg("c", MIB..MIB + 100, 32 * MIB),
            leg("d", 0..64 * MIB, 64 * MIB),
        ];
        let mut place = Place::default();
        assert!(
            read(&mut place, &route, "a", 10..11, 32).is_empty(),
            "whoever has read once may not read on"
        );
        assert_eq!(read(&mut place, &route, "a", 11..12, 32), [("a".to_owned(), 12..13)]);
        read(&mut place, &route, "a", 12..13, 32);
        assert_eq!(read(&mut place, &route, "a", 13..14, 32), [("b".to_owned(), 20..22)]);
        let ahead = read(&mut place, &route, "b", 20..21, 32);
        assert_eq!(ahead, [("b".to_owned(), 21..22), ("c".to_owned(), 1..2), ("d".to_owned(), 0..3)]);
        read(&mut place, &route, "b", 21..22, 32);
        place.follow((Kind::Run, "c"), &(MIB..MIB + 100), 32 * MIB, &route, BOUNDS);
        assert_eq!(read(&mut place, &route, "d", 0..1, 64), [("d".to_owned(), 1..32)]);
    }

    #[test]
    fn nothing_is_read_beyond_the_end() {
        let mut place = Place::default();
        assert!(read(&mut place, &[], "a", 0..2, 2).is_empty());
        assert_eq!(place.window, FIRST);
    }
}
