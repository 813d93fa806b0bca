//! A member of the cluster: reads the log, follows the controller, becomes it when nobody else is.
//!
//! The thin driver of [`Reader`]: it fetches what the machine asks for, folds what was found into the image,
//! publishes the image, and runs an [`Owner`] for as long as an ownership lasts. One task; whatever else this
//! process does reads the published image.

mod candidate;
mod follow;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidemark_proto::id::{ClusterId, Life, Position};
use tidemark_tiering::bucket::{Kind, Patience, Span};
use tidemark_tiering::format::Damage;
use tidemark_tiering::keys;
use tidemark_tiering::witness::{Sight, saw};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::bystander::newest_snapshot;
use super::election::{Reader, Step, Verdict};
use super::image::Image;
use super::log::{self, Object, SealFound};
use super::owner::{Kept, Owner, Won};
use super::shared::Shared;

/// Why a cluster could not be joined: one sentence, with the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

/// Why the member stands still: the log cannot be read on. A human must look.
#[derive(Clone, Debug)]
struct Alarm(String);

/// A seal costs a reader a GET and a LIST (E6).
const SEAL_REQUESTS: u64 = 2;

/// Between looks at a log that cannot be read on.
const ALARM_PAUSE: Duration = Duration::from_secs(5);

pub(super) struct Member {
    shared: Arc<Shared>,
    image: Image,
    reader: Reader,
    kept: Kept,
    /// The seal at the reader's position that is being judged.
    judged: Option<SealFound>,
    /// The seal that opened the generation the reader is in, and when it was known to stand.
    crossed: Option<(Position, SealFound, Instant)>,
    /// Seals sent since this life last followed or owned (E14).
    seals: u32,
    /// The life before, if it is proven dead.
    dead: Option<Life>,
    ready: Option<oneshot::Sender<Result<(), StartError>>>,
}

impl Member {
    pub fn new(shared: Arc<Shared>, ready: oneshot::Sender<Result<(), StartError>>) -> Member {
        let reader = Reader::new(Position::default(), shared.seams.entropy.nonce());
        Member {
            shared,
            image: Image::default(),
            reader,
            kept: Kept::default(),
            judged: None,
            crossed: None,
            seals: 0,
            dead: None,
            ready: Some(ready),
        }
    }

    /// For ever.
    pub async fn run(mut self) {
        loop {
            match self.step().await {
                Ok(()) => *self.shared.alarm.lock() = None,
                Err(Alarm(why)) => {
                    tracing::error!(at = %self.reader.at(), why, "the metadata log cannot be read on");
                    if let Some(ready) = self.ready.take() {
                        let _ = ready.send(Err(StartError(why)));
                        return;
                    }
                    *self.shared.alarm.lock() = Some(why);
                    tokio::time::sleep(ALARM_PAUSE).await;
                    self.reader.look();
                }
            }
        }
    }

    /// Reads to the tail, then follows, owns or stands for election until that ends.
    async fn step(&mut self) -> Result<(), Alarm> {
        if self.read().await? {
            self.own().await;
            return Ok(());
        }
        if self.follow().await? {
            self.seals = 0;
        }
        self.stand().await
    }

    /// Reads until the tail (`false`), or until it owns the generation (`true`).
    async fn read(&mut self) -> Result<bool, Alarm> {
        loop {
            let mine = match self.reader.step() {
                Step::Get(at) => self.get(at).await?,
                Step::List(at) => self.list(at).await?,
                Step::Load(at) => self.load(at).await?,
                Step::Rest => {
                    self.check_cluster()?;
                    self.publish();
                    return Ok(false);
                }
            };
            if mine {
                self.check_cluster()?;
                self.publish();
                return Ok(true);
            }
        }
    }

    async fn get(&mut self, at: Position) -> Result<bool, Alarm> {
        let key = keys::meta(at);
        let found = self.shared.bucket.get(Kind::Meta, &key, Span::All, Patience::Forever).await;
        match found.map_err(|error| Alarm(error.to_string()))? {
            None => self.reader.saw_nothing(),
            Some(found) => self.saw(at, &found.bytes).map_err(|damage| alarm(&key, &damage))?,
        }
        Ok(false)
    }

    /// Takes in the object at the reader's position.
    fn saw(&mut self, at: Position, bytes: &Bytes) -> Result<(), Damage> {
        match log::open(self.image.cluster(), at, bytes)? {
            Object::Data(data) => {
                log::apply(&mut self.image, &data)?;
                #[cfg(test)]
                self.image.check();
                self.kept.data.insert(at);
                self.kept.since += bytes.len() as u64 + self.shared.timings.request_weight;
                self.reader.applied();
            }
            Object::Seal(seal) => {
                self.reader.saw_seal(seal.by.nonce);
                self.judged = Some(seal);
            }
        }
        Ok(())
    }

    /// `true` if it owns the next generation.
    async fn list(&mut self, at: Position) -> Result<bool, Alarm> {
        let newest = newest_snapshot(&self.shared.bucket, at, Patience::Forever).await;
        let newest = newest.map_err(|error| Alarm(error.to_string()))?;
        match self.reader.listed(newest) {
            Verdict::Restart => {
                if self.judged.take().is_some() {
                    saw(Sight::VoidSeal);
                }
                Ok(false)
            }
            Verdict::Tail => Ok(false),
            Verdict::Crossed { mine, .. } => {
                let seal = self.judged.take().ok_or_else(|| Alarm("no seal is being judged".to_owned()))?;
                self.cross(at, seal);
                if mine {
                    saw(Sight::Elected);
                }
                Ok(mine)
            }
        }
    }

    /// The seal at `at` counts: the reader is in the generation it opens.
    fn cross(&mut self, at: Position, seal: SealFound) {
        self.image.cross(seal.cluster, seal.owner(at));
        self.kept.since += SEAL_REQUESTS * self.shared.timings.request_weight;
        tracing::info!(generation = %self.image.position().generation, owner = seal.by.address, "metadata generation");
        self.crossed = Some((at, seal, Instant::now()));
    }

    async fn load(&mut self, at: Position) -> Result<bool, Alarm> {
        let key = keys::snapshot(at);
        let found = self.shared.bucket.get(Kind::Snapshot, &key, Span::All, Patience::Forever).await;
        let Some(found) = found.map_err(|error| Alarm(error.to_string()))? else {
            self.reader.snapshot_gone();
            return Ok(false);
        };
        let size = found.bytes.len() as u64;
        let image = log::open_snapshot(self.image.cluster(), Some(at), &found.bytes)
            .map_err(|damage| alarm(&key, &damage))?;
        self.restart(image, size).map_err(|damage| alarm(&key, &damage))?;
        Ok(false)
    }

    /// E12: only forward, on the same history.
    fn restart(&mut self, image: Image, size: u64) -> Result<(), Damage> {
        log::extends(&self.image, &image)?;
        #[cfg(test)]
        image.check();
        saw(Sight::Restarted);
        self.reader.restarted(image.position());
        self.kept.data = self.kept.data.split_off(&image.position());
        (self.kept.since, self.kept.snapshot) = (0, size);
        self.judged = None;
        self.image = image;
        Ok(())
    }

    fn publish(&self) {
        self.shared.images.send_if_modified(|published| {
            let moved = published.position() != self.image.position();
            if moved {
                *published = Arc::new(self.image.clone());
            }
            moved
        });
    }

    /// Two clusters on one prefix: whoever came second must not touch it. Nor may a build that is too old.
    fn check_cluster(&self) -> Result<(), Alarm> {
        if let Some(why) = self.image.too_new() {
            return Err(Alarm(why));
        }
        let (found, wanted) = (self.image.cluster(), self.shared.wanted);
        match wanted {
            Some(wanted) if found != ClusterId::default() && wanted != found => Err(Alarm(format!(
                "the bucket prefix belongs to cluster {found}, but this broker is of cluster {wanted}: give \
                 it its own prefix in tidemark.bucket, or remove cluster.id (and the stale log.dirs)"
            ))),
            _ => Ok(()),
        }
    }

    fn is_ready(&mut self) {
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(Ok(())); // the starter may have given up
        }
    }

    async fn own(&mut self) {
        let Some((at, seal, sealed)) = self.crossed.clone() else { return };
        self.is_ready();
        let won = Won {
            image: std::mem::take(&mut self.image),
            nonce: self.reader.nonce(),
            seal: (at, seal.bytes),
            sealed,
            dead: self.dead.take(),
            kept: std::mem::take(&mut self.kept),
        };
        let ended = Owner::run(self.shared.clone(), won).await;
        *self.shared.heard.lock() = None;
        if ended.committed {
            self.seals = 0;
        }
        (self.image, self.kept) = (ended.image, ended.kept);
        self.reader.ended(self.image.position(), self.shared.seams.entropy.nonce());
        self.publish();
    }
}

fn alarm(key: &str, damage: &Damage) -> Alarm {
    Alarm(format!("{key}: {damage}"))
}
