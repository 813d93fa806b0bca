//! A checkpoint: the state of every partition a lane's owner leads, as of a cut.
//!
//! Where a takeover starts from, instead of walking run footers back to a partition's last batch. One object,
//! one read, one CRC.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidemark_proto::id::{ClusterId, LaneId, Seq, TopicPartition};
use uuid::Uuid;

use super::entry::State;
use crate::bucket::{Body, Bucket, Kind, Patience, Span};
use crate::error::Error;
use crate::format::scan::{Scan, put_partition};
use crate::format::{self, Damage, Header, open};

/// What a checkpoint's object holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The lane whose owner's partitions these are.
    pub lane: LaneId,
    /// The state is that below this parcel.
    pub upto: Seq,
    /// By partition.
    pub states: BTreeMap<TopicPartition, State>,
}

/// What the metadata keeps of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckpointRow {
    /// Its id.
    pub id: Uuid,
    /// Its key.
    pub key: String,
    /// The lane.
    pub lane: LaneId,
    /// The state is that below this parcel.
    pub upto: Seq,
    /// Size.
    pub bytes: u64,
    /// Version of the metadata at which it was named; 0 before.
    pub committed: u64,
}

const SMALLEST: usize = 20 + 24;

/// The object's bytes; `header` names lane and `upto`.
pub fn encode<'a>(header: Header, states: impl IntoIterator<Item = (&'a TopicPartition, &'a State)>) -> Body {
    let mut body = vec![0; 4];
    let mut count = 0u32;
    for (of, state) in states {
        put_partition(&mut body, *of);
        state.put(&mut body);
        count += 1;
    }
    body[..4].copy_from_slice(&count.to_be_bytes());
    Body::from(format::object(header, body))
}

/// Reads a whole checkpoint.
pub fn parse(bytes: &Bytes) -> Result<(Header, Checkpoint), Damage> {
    let (header, body) = open(bytes)?;
    if header.kind != format::Kind::Checkpoint {
        return Err(Damage::new(format!("is a {}, not a checkpoint", header.kind)));
    }
    let mut scan = Scan::new(&body);
    let count = scan.count(SMALLEST)?;
    let mut states = BTreeMap::new();
    for _ in 0..count {
        let of = scan.partition()?;
        if states.last_key_value().is_some_and(|(last, _)| *last >= of) {
            return Err(Damage::new(format!("partition {of} is out of order")));
        }
        states.insert(of, State::parse(&mut scan)?);
    }
    scan.end()?;
    Ok((header, Checkpoint { lane: header.lane_id(), upto: header.seq, states }))
}

/// Reads the checkpoint at `key` from the bucket.
pub async fn read(bucket: &Bucket, cluster: ClusterId, key: &str) -> Result<Checkpoint, Error> {
    let fetched = bucket.get(Kind::Checkpoint, key, Span::All, Patience::Forever).await?;
    let fetched = fetched.ok_or_else(|| Error::Gone { key: key.to_owned() })?;
    let (header, checkpoint) = parse(&fetched.bytes).map_err(|damage| damage.at(key))?;
    if header.cluster != cluster {
        return Err(Damage::new(format!("belongs to cluster {}, not {cluster}", header.cluster)).at(key));
    }
    Ok(checkpoint)
}
