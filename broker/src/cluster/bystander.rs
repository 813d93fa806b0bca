//! The metadata as the bucket alone tells it, to somebody who takes no part: no seal, no session, no peer.
//!
//! Reads to the tail once, by the rules every member reads by (E5-E7, E12). Whoever owns the log may commit more
//! meanwhile: what was read is true of its position, not of now.

use tidemark_proto::id::Position;
use tidemark_tiering::bucket::{Bucket, Kind, Patience, Span};
use tidemark_tiering::error::Error;
use tidemark_tiering::keys::{self, Name};
use tidemark_tiering::seam::Seams;

use super::election::{Reader, Step, Verdict};
use super::image::Image;
use super::log::{self, Object, SealFound};

/// Attempts before a store counts as out of reach.
const TRIES: Patience = Patience::Tries(5);

/// The image at the tail of the metadata log of `bucket`.
///
/// # Errors
/// Where the store does not answer, where the log is damaged, where it belongs to a newer build, and where there is none.
pub async fn read(bucket: &Bucket, seams: &Seams) -> Result<Image, Error> {
    let mut reader = Reader::new(Position::default(), seams.entropy.nonce());
    let mut image = Image::default();
    let mut judged: Option<SealFound> = None;
    loop {
        match reader.step() {
            Step::Get(at) => {
                let key = keys::meta(at);
                match bucket.get(Kind::Meta, &key, Span::All, TRIES).await? {
                    None => reader.saw_nothing(),
                    Some(found) => {
                        let object = log::open(image.cluster(), at, &found.bytes).map_err(|d| d.at(&key))?;
                        match object {
                            Object::Data(data) => {
                                log::apply(&mut image, &data).map_err(|d| d.at(&key))?;
                                reader.applied();
                            }
                            Object::Seal(seal) => {
                                reader.saw_seal(seal.by.nonce);
                                judged = Some(seal);
                            }
                        }
                    }
                }
            }
            Step::List(at) => {
                let verdict = reader.listed(newest_snapshot(bucket, at, TRIES).await?);
                if let (Verdict::Crossed { .. }, Some(seal)) = (verdict, judged.take()) {
                    image.cross(seal.cluster, seal.owner(at));
                }
            }
            Step::Load(at) => {
                let key = keys::snapshot(at);
                match bucket.get(Kind::Snapshot, &key, Span::All, TRIES).await? {
                    None => reader.snapshot_gone(),
                    Some(found) => {
                        let newer = log::open_snapshot(image.cluster(), Some(at), &found.bytes);
                        let newer = newer.map_err(|d| d.at(&key))?;
                        log::extends(&image, &newer).map_err(|d| d.at(&key))?;
                        reader.restarted(newer.position());
                        image = newer;
                    }
                }
            }
            Step::Rest => break,
        }
    }
    match image.too_new() {
        Some(why) => Err(Error::Fenced(why)),
        None if image.position() == Position::default() => {
            Err(Error::Gone { key: keys::meta(Position::default()) })
        }
        None => Ok(image),
    }
}

/// The newest snapshot above `at` that a listing shows.
pub(super) async fn newest_snapshot(
    bucket: &Bucket,
    at: Position,
    patience: Patience,
) -> Result<Option<Position>, Error> {
    let listed = bucket.list(Kind::Snapshot, keys::SNAPSHOTS, Some(&keys::snapshot(at)), patience).await?;
    let snapshots = listed.iter().filter_map(|object| match Name::parse(&object.key) {
        Some(Name::Snapshot(at)) => Some(at),
        _ => None,
    });
    Ok(snapshots.max())
}
