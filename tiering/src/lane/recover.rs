//! Reading a sealed lane back, by the bounds the metadata recorded.
//!
//! R13: exactly the range that is asked for, in order, every header's identity and every CRC checked; a gap,
//! mismatch or bit flip is `Corrupt` and names the object: nothing is skipped, truncated or taken for the
//! end. R15: an object that is not there is `Gone`, and the caller reads the metadata again. Store errors are
//! retried for ever; whoever drops the stream gives up.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tidemark_proto::id::{ClusterId, LaneId, Seq};

use crate::bucket::{Bucket, Fetched, Kind, Patience, Span};
use crate::error::Error;
use crate::format;
use crate::keys;
use crate::parcel::read::{Tail, parse_tail};
use crate::parcel::{BatchEntry, Footer, verify_batches};

/// Footers read at a time.
const AT_A_TIME: usize = 64;
/// Footers longer than [`TAIL`] read at a time: they are as long as their batches are many.
const LONG_AT_A_TIME: usize = 4;
/// What one read takes; nearly every footer is shorter.
const TAIL: u64 = 64 << 10;

/// The footers of the parcels `range`, in order: each with its number and its object's size. The first error
/// ends the stream. Holds the ends of [`AT_A_TIME`] parcels and [`LONG_AT_A_TIME`] longer footers at most.
pub fn footers(
    bucket: &Bucket,
    cluster: ClusterId,
    lane: LaneId,
    range: Range<Seq>,
) -> impl Stream<Item = Result<(Seq, Arc<Footer>, u64), Error>> + Send + use<> {
    let (bucket, again) = (bucket.clone(), bucket.clone());
    let mut failed = false;
    stream::iter(range.start.0..range.end.0)
        .map(move |seq| {
            let bucket = bucket.clone();
            async move { Ok((Seq(seq), end_of(&bucket, cluster, lane, Seq(seq), TAIL).await?)) }
        })
        .buffered(AT_A_TIME)
        .map(move |found: Result<(Seq, End), Error>| {
            let bucket = again.clone();
            async move {
                let (seq, end) = found?;
                let (footer, size) = whole(&bucket, cluster, lane, seq, end).await?;
                Ok((seq, footer, size))
            }
        })
        .buffered(LONG_AT_A_TIME)
        .take_while(move |item| {
            let before = std::mem::replace(&mut failed, item.is_err());
            std::future::ready(!before)
        })
}

/// The footer of one parcel and the size of its object.
pub async fn footer(
    bucket: &Bucket,
    cluster: ClusterId,
    lane: LaneId,
    seq: Seq,
) -> Result<(Arc<Footer>, u64), Error> {
    let end = end_of(bucket, cluster, lane, seq, TAIL).await?;
    whole(bucket, cluster, lane, seq, end).await
}

/// What the end of a parcel gave.
enum End {
    Whole(Arc<Footer>, u64),
    /// The footer is longer: this many of the last bytes are needed.
    Needs(u64),
}

async fn end_of(
    bucket: &Bucket,
    cluster: ClusterId,
    lane: LaneId,
    seq: Seq,
    bytes: u64,
) -> Result<End, Error> {
    let key = keys::parcel(&lane, seq);
    let fetched = fetch(bucket, &key, Span::Tail(bytes)).await?;
    match read_tail(&fetched, &key)? {
        Tail::Needs(bytes) => Ok(End::Needs(bytes)),
        Tail::Whole(header, footer) => {
            header.expect_lane(format::Kind::Parcel, cluster, lane, seq).map_err(|damage| damage.at(&key))?;
            Ok(End::Whole(footer, fetched.size))
        }
    }
}

async fn whole(
    bucket: &Bucket,
    cluster: ClusterId,
    lane: LaneId,
    seq: Seq,
    mut end: End,
) -> Result<(Arc<Footer>, u64), Error> {
    if let End::Needs(bytes) = end {
        end = end_of(bucket, cluster, lane, seq, bytes).await?;
    }
    match end {
        End::Whole(footer, size) => Ok((footer, size)),
        End::Needs(_) => {
            let key = keys::parcel(&lane, seq);
            Err(format::Damage::new("its footer's length changed between two reads").at(&key))
        }
    }
}

/// The bytes of neighbouring batches of one parcel, verified (R27): `position` is that of the first of
/// `batches`, which lie side by side.
pub async fn batches(
    bucket: &Bucket,
    lane: LaneId,
    seq: Seq,
    position: u64,
    batches: &[BatchEntry],
) -> Result<Bytes, Error> {
    let length: u64 = batches.iter().map(BatchEntry::stored).sum();
    if length == 0 {
        return Ok(Bytes::new());
    }
    let key = keys::parcel(&lane, seq);
    let fetched = fetch(bucket, &key, Span::Range(position..position + length)).await?;
    verify_batches(&fetched.bytes, batches).map_err(|damage| damage.at(&key))?;
    Ok(fetched.bytes)
}

/// What is wrong may be a tail that is not a parcel's but a seal's: the whole of a seal is at hand then.
fn read_tail(fetched: &Fetched, key: &str) -> Result<Tail, Error> {
    parse_tail(&fetched.bytes, fetched.size).map_err(|damage| {
        let seal = format::seal::parse(&fetched.bytes).is_ok();
        let damage = if seal { format::Damage::new("a seal inside the recorded bounds") } else { damage };
        damage.at(key)
    })
}

async fn fetch(bucket: &Bucket, key: &str, span: Span) -> Result<Fetched, Error> {
    let fetched = bucket.get(Kind::Parcel, key, span, Patience::Forever).await?;
    fetched.ok_or_else(|| Error::Gone { key: key.to_owned() })
}
