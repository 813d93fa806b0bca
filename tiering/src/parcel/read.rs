//! Reads a parcel back from bytes: the tail for its footer, ranges for its batches, the whole for a scrub.

use std::sync::Arc;

use bytes::Bytes;
use tidemark_proto::id::{LeaderEpoch, Offset};
use tidemark_proto::kafka::pieces::Pieces;
use tidemark_proto::record::view::Batch;

use super::footer::{BatchEntry, Footer};
use crate::format::tail::{Split, TRAILER_LEN, split};
use crate::format::{Damage, HEADER_LEN, Header, Kind};

/// Last four bytes of a parcel.
pub const MAGIC: [u8; 4] = *b"PRCL";

/// What the end of a parcel's bytes gave.
#[derive(Clone, Debug)]
pub enum Tail {
    /// Header and footer, verified against each other.
    Whole(Header, Arc<Footer>),
    /// The footer begins before the bytes at hand: this many of the last bytes are needed.
    Needs(u64),
}

/// Parses the last bytes of a parcel of `size` bytes. Checks all but whose parcel it is.
pub fn parse_tail(tail: &[u8], size: u64) -> Result<Tail, Damage> {
    let (header, bytes, at) = match split(tail, size, Kind::Parcel, MAGIC)? {
        Split::Whole(header, bytes, at) => (header, bytes, at),
        Split::Needs(bytes) => return Ok(Tail::Needs(bytes)),
    };
    let footer = Footer::parse(bytes)?;
    if footer.end() != at {
        return Err(Damage::new("the batches do not end where the footer begins"));
    }
    Ok(Tail::Whole(header, Arc::new(footer)))
}

/// Verifies every byte of a whole parcel (scrub, dump): header twice, footer, each batch.
pub fn open(bytes: &Bytes) -> Result<(Header, Arc<Footer>), Damage> {
    let Tail::Whole(header, footer) = parse_tail(bytes, bytes.len() as u64)? else {
        return Err(Damage::new("the footer is longer than the object"));
    };
    let (head, copy) = (&bytes[..HEADER_LEN], bytes.len() - TRAILER_LEN);
    if head != &bytes[copy..copy + HEADER_LEN] {
        return Err(Damage::new("the header and its copy differ"));
    }
    for part in &footer.parts {
        let range = part.position as usize..(part.position + part.length) as usize;
        verify_batches(&bytes.slice(range), part.batches.iter())?;
    }
    Ok((header, footer))
}

/// Checks that `bytes` are exactly these batches: offset, leader epoch, length, CRC as the footer says, and
/// the CRC true (R27). By-reference entries take no bytes.
pub fn verify_batches<'a>(
    bytes: &Bytes,
    batches: impl IntoIterator<Item = &'a BatchEntry>,
) -> Result<(), Damage> {
    verify_pieces(&Pieces::from(bytes.clone()), batches)
}

/// As [`verify_batches`]; of bytes in several buffers only a batch that lies across two of them is copied.
pub fn verify_pieces<'a>(
    pieces: &Pieces,
    batches: impl IntoIterator<Item = &'a BatchEntry>,
) -> Result<(), Damage> {
    let (mut at, whole) = (0usize, pieces.len());
    for entry in batches.into_iter().filter(|entry| !entry.by_reference) {
        let end = at + entry.length as usize;
        if end > whole {
            return Err(Damage::new(format!("batch {} is cut short", entry.base_offset)));
        }
        let bytes = pieces.slice(at..end).into_bytes();
        verify_batch(bytes.map_err(|error| Damage::new(error.to_string()))?, entry)?;
        at = end;
    }
    if at != whole {
        return Err(Damage::new(format!("{} bytes behind the last batch", whole - at)));
    }
    Ok(())
}

fn verify_batch(bytes: Bytes, entry: &BatchEntry) -> Result<(), Damage> {
    let wrong = |why: String| Damage::new(format!("batch {}: {why}", entry.base_offset));
    let batch = Batch::parse(bytes).map_err(|error| wrong(error.to_string()))?;
    let found = (batch.base_offset(), batch.partition_leader_epoch(), batch.crc());
    let said: (Offset, LeaderEpoch, u32) = (entry.base_offset, entry.leader_epoch, entry.crc);
    if found != said {
        let text = |(offset, epoch, crc)| format!("offset {offset}, epoch {epoch}, CRC {crc:08x}");
        return Err(wrong(format!("has {}; the footer says {}", text(found), text(said))));
    }
    if batch.size() != entry.length as usize {
        return Err(wrong("its length is not the footer's".into()));
    }
    batch.verify_crc().map_err(|error| wrong(error.to_string()))?;
    Ok(())
}
