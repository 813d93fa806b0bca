//! Creating an object exactly once, whatever the store answers (R4).
//!
//! 200 is ours. "Already exists" (412, and 409, which `object_store` reports alike) means read and compare:
//! equal bytes are ours, other bytes are theirs, no object means send again. Everything else means unknown:
//! send the same bytes again. Nothing here gives up; whoever drops the call does, and the request may
//! still land afterwards.

use bytes::Bytes;
use object_store::{PutMode, PutOptions};

use super::attempt::Moved;
use super::meter::Verb;
use super::trouble::Trouble;
use super::{Body, Bucket, Kind, Patience, Span};
use crate::planted::{self, Bug};
use crate::witness::{Sight, saw};

/// Whose object a key holds, for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placed {
    /// Ours: created now, or by an earlier send of the same bytes.
    Ours,
    /// Another's: the first 4 KiB of it.
    Other(Bytes),
}

/// How much of another's object [`Placed::Other`] shows.
pub const SHOWN: usize = 4096;

impl Bucket {
    /// Creates `key` with `body`, or learns what it already holds.
    ///
    /// Two objects are the same if they are equally long and agree in the first `identity` bytes: these must
    /// hold what tells writers apart (a nonce). With `identity` 0 the whole body is compared.
    pub async fn place(&self, kind: Kind, key: &str, body: &Body, identity: usize) -> Placed {
        let (mut failed, mut unknown) = (0, false);
        loop {
            match self.create(kind, key, body).await {
                Ok(()) => {
                    if unknown {
                        saw(Sight::Unknown);
                    }
                    return Placed::Ours;
                }
                Err(Trouble::Exists) if planted::is(Bug::AnyConflictIsMine) => return Placed::Ours,
                Err(Trouble::Exists) => {
                    let settled = self.settle(kind, key, body, identity).await;
                    saw(match settled {
                        Some(Placed::Ours) => Sight::Own412,
                        Some(Placed::Other(_)) => Sight::Other412,
                        None => Sight::Absent412,
                    });
                    if let Some(placed) = settled {
                        return placed;
                    }
                }
                Err(_) => unknown = true,
            }
            self.pause(failed).await;
            failed += 1;
        }
    }

    /// One conditional create.
    pub(super) async fn create(&self, kind: Kind, key: &str, body: &Body) -> Result<(), Trouble> {
        let work = async {
            let path = self.path(key).map_err(|e| Trouble::Refused(e.to_string()))?;
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            let put = self.0.store.put_opts(&path, body.payload(), options);
            match self.within(self.limit(body.len()), put).await {
                Ok(_) => Ok(Moved::bytes((), body.len() as u64)),
                // A create cannot miss its object; it misses the bucket.
                Err(Trouble::Absent) => Err(Trouble::Refused("the bucket does not exist".to_owned())),
                Err(trouble) => Err(trouble),
            }
        };
        self.attempt((kind, Verb::Put), key, work).await
    }

    /// Reads what `key` holds; `None` when it holds nothing after all.
    async fn settle(&self, kind: Kind, key: &str, body: &Body, identity: usize) -> Option<Placed> {
        let identity = if identity == 0 { body.len() } else { identity };
        let span = Span::Range(0..identity.max(SHOWN) as u64);
        // Forever: there is no error to meet.
        let found = self.get(kind, key, span, Patience::Forever).await.ok()??;
        let head = &found.bytes[..found.bytes.len().min(identity)];
        let ours = found.size == body.len() as u64
            && head.len() == identity.min(body.len())
            && body.starts_with(head);
        Some(if ours {
            Placed::Ours
        } else {
            Placed::Other(found.bytes.slice(..found.bytes.len().min(SHOWN)))
        })
    }
}
