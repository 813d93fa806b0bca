//! Objects of the metadata log: data, seals and snapshots, built and read with every check (E1, E2, E9).
//!
//! A header's CRC covers the whole object; its cluster, generation and sequence must be those of the key it
//! was read from. What an object says is folded in by [`apply`], which refuses one that was decided on
//! another history (`prev`, M4).

use bytes::Bytes;
use tidemark_proto::id::{ClusterId, Generation, Life, Nonce, Position};
use tidemark_tiering::format::seal::{Sealer, parse as parse_seal};
use tidemark_tiering::format::{self, Damage, Header, Kind};

use super::image::{Controller, Image, Link};
use super::wire::{Entry, snapshot_from, snapshot_of};

/// An object of the log, opened.
#[derive(Clone, Debug)]
pub enum Object {
    /// Data.
    Data(Box<Data>),
    /// A seal; whether it counts is not in it (E6).
    Seal(SealFound),
}

/// Data of the log.
#[derive(Clone, Debug)]
pub struct Data {
    /// What it is called in the next one's `prev`.
    pub link: Link,
    /// What it says.
    pub entry: Entry,
}

/// A seal that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealFound {
    /// The cluster in its header: at (0, 0) it names the cluster.
    pub cluster: ClusterId,
    /// Who sealed.
    pub by: Sealer,
    /// The whole object, to be told to followers.
    pub bytes: Bytes,
}

impl SealFound {
    /// The owner of the generation that follows `at`, if this seal at `at` counts.
    pub fn owner(&self, at: Position) -> Controller {
        Controller {
            generation: Generation(at.generation.0 + 1),
            nonce: self.by.nonce,
            life: self.by.life,
            node: None,
            address: self.by.address.clone(),
        }
    }
}

/// The bytes of the data object at `at`, and what the next one's `prev` says.
pub fn data(cluster: ClusterId, at: Position, life: Life, nonce: Nonce, entry: &Entry) -> (Vec<Bytes>, Link) {
    let header = Header::new(Kind::Meta, cluster, at.generation.0, 0, at.seq, life, nonce);
    let pieces = format::object(header, entry.encode());
    let crc = Header::parse(&pieces[0]).map_or(0, |header| header.crc);
    (pieces, Link { nonce, crc })
}

/// The bytes of a seal at `at`; `by.nonce` is the ownership that follows.
pub fn seal(cluster: ClusterId, at: Position, by: &Sealer) -> Vec<Bytes> {
    let header = Header::new(Kind::Seal, cluster, at.generation.0, 0, at.seq, by.life, by.nonce);
    format::seal::encode(header, by)
}

/// The bytes of the snapshot at `image.position()`.
pub fn snapshot(image: &Image, life: Life, nonce: Nonce) -> Vec<Bytes> {
    let at = image.position();
    let header = Header::new(Kind::Snapshot, image.cluster(), at.generation.0, 0, at.seq, life, nonce);
    format::object(header, snapshot_of(image))
}

/// Opens the object read from the key of `at`. A cluster of all zeros (nothing known yet) matches any.
pub fn open(cluster: ClusterId, at: Position, bytes: &Bytes) -> Result<Object, Damage> {
    let header = Header::parse(bytes)?;
    expect(&header, cluster, at)?;
    match header.kind {
        Kind::Meta => {
            let (header, body) = format::open(bytes)?;
            let entry = Entry::decode(body).map_err(|why| Damage::new(why.to_string()))?;
            let link = Link { nonce: header.nonce, crc: header.crc };
            Ok(Object::Data(Box::new(Data { link, entry })))
        }
        Kind::Seal => {
            let (header, by) = parse_seal(bytes)?;
            Ok(Object::Seal(SealFound { cluster: header.cluster, by, bytes: bytes.clone() }))
        }
        other => Err(Damage::new(format!("a {other} in the metadata log"))),
    }
}

/// Opens the snapshot read from the key of `at`, or told by a peer.
pub fn open_snapshot(cluster: ClusterId, at: Option<Position>, bytes: &Bytes) -> Result<Image, Damage> {
    let (header, body) = format::open(bytes)?;
    if header.kind != Kind::Snapshot {
        return Err(Damage::new(format!("a {} instead of a snapshot", header.kind)));
    }
    let found = Position { generation: Generation(header.epoch), seq: header.seq };
    expect(&header, cluster, at.unwrap_or(found))?;
    snapshot_from(header.cluster, found, body).map_err(|why| Damage::new(why.to_string()))
}

fn expect(header: &Header, cluster: ClusterId, at: Position) -> Result<(), Damage> {
    if cluster != ClusterId::default() && header.cluster != cluster {
        return Err(Damage::new(format!("belongs to cluster {}, not {cluster}", header.cluster)));
    }
    let found = Position { generation: Generation(header.epoch), seq: header.seq };
    if found != at {
        return Err(Damage::new(format!("says it is {found}, not {at}")));
    }
    Ok(())
}

/// Folds `data` into the image that stands at its position (M4: only if it was decided on that image).
pub fn apply(image: &mut Image, data: &Data) -> Result<(), Damage> {
    if data.entry.prev != image.link() {
        let (said, is) = (data.entry.prev, image.link());
        return Err(Damage::new(format!("a fork: it was decided after {said:?}, the log holds {is:?}")));
    }
    for record in &data.entry.records {
        image.apply(record);
    }
    image.advance(data.link);
    Ok(())
}

/// E12: a restart only goes forward, on the same history.
pub fn extends(old: &Image, new: &Image) -> Result<(), Damage> {
    let known = old.cluster() != ClusterId::default();
    if new.position() <= old.position() || new.version() < old.version() {
        return Err(Damage::new("a snapshot that goes back"));
    }
    if known && new.cluster() != old.cluster() {
        return Err(Damage::new("a snapshot of another cluster"));
    }
    Ok(())
}
