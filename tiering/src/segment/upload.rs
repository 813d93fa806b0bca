//! Puts a segment into the bucket: log, indexes, manifest, in this order. What a crash leaves is garbage by its name.

use bytes::Bytes;

use super::build::Built;
use crate::bucket::{Body, Bucket, Kind, Placed};
use crate::error::Error;
use crate::keys::{self, SegmentName, SegmentPart};

/// What tells one writer's object from another's: as much of it as is compared, should a send's answer be lost.
const IDENTITY: usize = 4096;

/// Puts all three objects. Nobody else writes these names: the id is fresh.
///
/// # Errors
/// Where a name holds something else.
pub async fn put(bucket: &Bucket, name: &SegmentName, log: Vec<Bytes>, built: &Built) -> Result<(), Error> {
    let manifest = Bytes::from(built.manifest.encode());
    let objects = [
        (SegmentPart::Log, Body::from(log)),
        (SegmentPart::Indexes, Body::from(built.indexes.clone())),
        (SegmentPart::Manifest, Body::from(manifest)),
    ];
    for (part, body) in objects {
        let key = keys::segment(name, part);
        let identity = body.len().clamp(1, IDENTITY);
        if let Placed::Other(_) = bucket.place(Kind::Segment, &key, &body, identity).await {
            return Err(Error::Corrupt { key, why: "its fresh name holds another object".to_owned() });
        }
    }
    Ok(())
}
