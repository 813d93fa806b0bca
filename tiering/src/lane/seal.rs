//! Ending a lane for ever: the seal at its first absent key.
//!
//! R10: the first absent key is found by scanning contiguously upward from the low mark, and the conditional
//! create decides. A listing only shortens the scan: it names keys, and everything it names that is small
//! enough to be a seal is read. A writer that outruns the scan is stopped by a wall: a seal well ahead of it,
//! which counts only if it is reached contiguously, like any other. R20, R21: nothing deletes a seal.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use tidemark_proto::id::{ClusterId, LaneId, Seq};

use crate::bucket::{Body, Bucket, Kind, Patience, Placed, Span};
use crate::error::Error;
use crate::format::seal::{SEAL_MAX, Sealer, encode, parse};
use crate::format::{self, HEADER_LEN, Header};
use crate::keys;
use crate::planted::{self, Bug};
use crate::seam::Seams;
use crate::witness::{Sight, saw};

/// Reads at a time.
const READS: usize = 64;

/// Seals `lane`, whose objects below `low` are collected; gives the seal's place, whoever's seal it is. Goes on
/// until the store answers. The caller commits it guarded by `low` being still the low mark (R11).
pub async fn seal(
    bucket: &Bucket,
    cluster: ClusterId,
    lane: LaneId,
    low: Seq,
    by: &Sealer,
    seams: &Seams,
) -> Result<Seq, Error> {
    let mut seq = low;
    let (mut lost, mut walled) = (0, false);
    loop {
        if lost == 0 {
            match listed(bucket, cluster, lane, seq).await? {
                Ahead::Seal(seq) => {
                    saw(Sight::SealMet);
                    return Ok(seq);
                }
                Ahead::Data(end) => seq = end,
            }
        }
        if planted::is(Bug::NoSeal) {
            return Ok(seq);
        }
        match try_at(bucket, cluster, lane, seq, by, seams).await? {
            format::Kind::Seal if planted::is(Bug::SealDeleted) => {
                bucket.delete(Kind::Seal, vec![keys::parcel(&lane, seq)], Patience::Forever).await?;
                return Ok(seq);
            }
            format::Kind::Seal => return Ok(seq),
            _ => {
                saw(Sight::SealLost);
                (seq, lost) = (seq.next(), lost + 1);
            }
        }
        if lost >= RACES && !walled {
            wall(bucket, cluster, lane, seq, by, seams).await?;
            saw(Sight::Walled);
            (walled, lost) = (true, 0);
        }
    }
}

/// Keys that may be lost to a living writer before it is walled in.
const RACES: u32 = 3;

/// Puts a seal where the writer has not come yet, so that the scan ends.
async fn wall(
    bucket: &Bucket,
    cluster: ClusterId,
    lane: LaneId,
    seq: Seq,
    by: &Sealer,
    seams: &Seams,
) -> Result<(), Error> {
    let mut ahead = 64;
    while try_at(bucket, cluster, lane, Seq(seq.0 + ahead), by, seams).await? != format::Kind::Seal {
        ahead *= 2;
    }
    Ok(())
}

/// Creates a seal at `seq`, or learns what stands there.
async fn try_at(
    bucket: &Bucket,
    cluster: ClusterId,
    lane: LaneId,
    seq: Seq,
    by: &Sealer,
    seams: &Seams,
) -> Result<format::Kind, Error> {
    let key = keys::parcel(&lane, seq);
    let header = Header::of_lane(format::Kind::Seal, cluster, lane, seq, seams.entropy.nonce());
    let body = Body::from(encode(header, by));
    match bucket.place(Kind::Seal, &key, &body, HEADER_LEN).await {
        Placed::Ours => {
            saw(Sight::SealPlaced);
            Ok(format::Kind::Seal)
        }
        Placed::Other(found) => {
            let kind = what_is(cluster, lane, seq, &found, &key)?;
            if kind == format::Kind::Seal {
                saw(Sight::SealMet);
            }
            Ok(kind)
        }
    }
}

/// How far the lane goes without a gap.
enum Ahead {
    Seal(Seq),
    Data(Seq),
}

/// The first key the listing lacks, unless a seal stands below it. A listing that fails shortens nothing.
async fn listed(bucket: &Bucket, cluster: ClusterId, lane: LaneId, low: Seq) -> Result<Ahead, Error> {
    let after = low.0.checked_sub(1).map(|before| keys::parcel(&lane, Seq(before)));
    let folder = keys::lane(&lane);
    let found = bucket.list(Kind::Parcel, &folder, after.as_deref(), Patience::Tries(2)).await;
    let Ok(found) = found else { return Ok(Ahead::Data(low)) };
    let mut end = low;
    let mut small = Vec::new();
    for object in found {
        if object.key != keys::parcel(&lane, end) {
            break;
        }
        if object.size <= SEAL_MAX {
            small.push((end, object.key));
        }
        end = end.next();
    }
    let heads = stream::iter(small).map(|(seq, key)| async move {
        let span = Span::Range(0..SEAL_MAX);
        let fetched = bucket.get(Kind::Seal, &key, span, Patience::Forever).await?;
        let Some(fetched) = fetched else { return Ok(Some(Ahead::Data(seq))) };
        match what_is(cluster, lane, seq, &fetched.bytes, &key)? {
            format::Kind::Seal => Ok(Some(Ahead::Seal(seq))),
            _ => Ok::<_, Error>(None),
        }
    });
    let mut heads = heads.buffered(READS);
    while let Some(stop) = heads.try_next().await? {
        if let Some(stop) = stop {
            return Ok(stop);
        }
    }
    Ok(Ahead::Data(end))
}

/// Whether the object at `seq` is data of this lane or its seal; anything else is damage (R4).
fn what_is(
    cluster: ClusterId,
    lane: LaneId,
    seq: Seq,
    found: &Bytes,
    key: &str,
) -> Result<format::Kind, Error> {
    let header = Header::parse(found).map_err(|damage| damage.at(key))?;
    let header = match header.kind {
        format::Kind::Seal => parse(found).map_err(|damage| damage.at(key))?.0,
        _ => header,
    };
    header
        .expect_lane(header.kind, cluster, lane, seq)
        .and_then(|()| match header.kind {
            format::Kind::Seal | format::Kind::Parcel => Ok(header.kind),
            other => Err(format::Damage::new(format!("a {other} in a lane"))),
        })
        .map_err(|damage| damage.at(key))
}

/// The author of the seal of `lane` at `seq`, if `found` is that.
pub fn of_lane(cluster: ClusterId, lane: LaneId, seq: Seq, found: &Bytes) -> Option<Sealer> {
    let (header, by) = parse(found).ok()?;
    header.expect_lane(format::Kind::Seal, cluster, lane, seq).ok()?;
    Some(by)
}
