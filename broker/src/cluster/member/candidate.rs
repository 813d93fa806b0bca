//! Standing for election: ask whether the controller is silent, wait, seal, read on (E7, E13, E14).

use std::collections::BTreeSet;

use futures::future::join_all;
use tidemark_proto::id::{ClusterId, Position, Seq};
use tidemark_tiering::bucket::{Body, Kind, Patience, Placed, Span};
use tidemark_tiering::format::HEADER_LEN;
use tidemark_tiering::format::seal::Sealer;
use tidemark_tiering::keys::{self, Name};
use tidemark_tiering::log::Options;
use tidemark_tiering::witness::{Sight, saw};
use tokio::time::{sleep, timeout};

use super::super::election::{Candidacy, Poll, Step, candidacy};
use super::super::log::{self, Object};
use super::super::peers::{Answer, PeerError, Question, Status};
use super::{Alarm, Member};

impl Member {
    /// Seals the tail, if that is what there is to do. Read on afterwards.
    pub(super) async fn stand(&mut self) -> Result<(), Alarm> {
        let poll = self.poll().await;
        let t = self.shared.timings.election;
        match candidacy(poll, self.seals, self.shared.seams.entropy.unit()) {
            Candidacy::Wait(share) => {
                sleep(t.mul_f64(share)).await;
                self.reader.look();
                Ok(())
            }
            Candidacy::Seal(share) => {
                let at = self.reader.at();
                if share > 0.0 {
                    sleep(t.mul_f64(share)).await;
                    // Another may have been faster.
                    self.reader.look();
                    if self.read().await? {
                        self.own().await; // an earlier seal of ours landed after all
                        return Ok(());
                    }
                    if self.reader.at() != at {
                        return Ok(());
                    }
                }
                if self.reader.step() != Step::Rest {
                    return Ok(()); // E7: only at the lowest absent key it knows
                }
                self.may_seal(at).await?;
                self.dead = self.image.controller().filter(|_| poll.dead).map(|c| c.life);
                self.seal(at).await;
                Ok(())
            }
        }
    }

    /// E14: what do the others know of the controller?
    async fn poll(&self) -> Poll {
        let me = self.shared.peers.address();
        let controller = self.image.controller().cloned();
        let mut addresses: BTreeSet<String> = self.image.live().map(|b| b.peer.clone()).collect();
        let others: BTreeSet<String> =
            addresses.iter().filter(|a| **a != me && !a.is_empty()).cloned().collect();
        addresses = others.clone();
        if let Some(c) = controller.as_ref().filter(|c| !c.address.is_empty() && c.address != me) {
            addresses.insert(c.address.clone());
        }
        let asked = addresses.iter().map(|address| async move {
            let ask = self.shared.peers.ask(address, Question::Status);
            (address, timeout(self.shared.timings.peer, ask).await)
        });
        let answers = join_all(asked).await;
        let at = self.reader.at();
        let mut poll = Poll { alone: true, ..Poll::default() };
        let within = u64::try_from(self.shared.timings.session.as_millis()).unwrap_or(u64::MAX);
        for (address, answer) in answers {
            let theirs = controller.as_ref().is_some_and(|c| c.address == *address);
            match answer {
                Ok(Ok(Answer::Status(status))) => {
                    let Status { life, cluster, applied, controller: owns, heard_ms, .. } = status;
                    if cluster != ClusterId::default() && cluster != self.image.cluster() {
                        continue; // not of this cluster
                    }
                    poll.ahead |= applied > at;
                    let same = applied.generation == at.generation;
                    poll.heard |= same && (owns || heard_ms < within);
                    poll.dead |= controller.as_ref().is_some_and(|c| theirs && c.life != life);
                    poll.alone &= !others.contains(address);
                }
                Ok(Err(PeerError::Refused)) => poll.dead |= theirs,
                _ => poll.alone &= !others.contains(address),
            }
        }
        // A controller that is us, or was a life before us at our address, is not alive.
        poll.dead |= controller.is_some_and(|c| c.address == me || c.life == self.shared.life);
        poll.dead |= self.image.controller().is_none();
        poll
    }

    /// E13: an absent object below others is lost, not the tail: alarm, never seal.
    async fn may_seal(&self, at: Position) -> Result<(), Alarm> {
        let bucket = &self.shared.bucket;
        if at == Position::default() {
            let lanes = bucket.list(Kind::Parcel, keys::LANES, None, Patience::Forever).await;
            return match lanes.map_err(|error| Alarm(error.to_string()))?.first() {
                None => Ok(()),
                Some(object) => Err(Alarm(format!(
                    "the bucket holds data ({}) but no metadata log: restore meta/, or start on an empty \
                     prefix",
                    object.key
                ))),
            };
        }
        let folder = format!("{}{:020}/", keys::META, at.generation.0);
        let after = keys::meta(at);
        let listed = bucket.list(Kind::Meta, &folder, Some(&after), Patience::Forever).await;
        let listed = listed.map_err(|error| Alarm(error.to_string()))?;
        let newest = listed.iter().rev().find_map(|object| match Name::parse(&object.key) {
            Some(Name::Meta(at)) => Some(at),
            _ => None,
        });
        let Some(newest) = newest else { return Ok(()) };
        let lost = |why: String| {
            Alarm(format!("the metadata log has no object at {at}, but {why}: it was lost; restore it"))
        };
        if newest.seq.0 >= at.seq.0 + Options::default().span as u64 {
            return Err(lost(format!("one at {newest}")));
        }
        let durable = self.durable_said(newest).await;
        if durable.is_some_and(|durable| durable > at.seq) {
            return Err(lost(format!("the one at {newest} was sent after it was durable")));
        }
        Ok(())
    }

    /// What the object at `at` says its author's commit was.
    async fn durable_said(&self, at: Position) -> Option<Seq> {
        let span = Span::All;
        let found =
            self.shared.bucket.get(Kind::Meta, &keys::meta(at), span, Patience::Tries(3)).await.ok()??;
        match log::open(self.image.cluster(), at, &found.bytes).ok()? {
            Object::Data(data) => Some(data.entry.durable),
            Object::Seal(_) => None,
        }
    }

    /// E7: PUTs a seal at the reader's own position; whatever comes of it is learned by reading on.
    async fn seal(&mut self, at: Position) {
        self.seals += 1;
        let cluster = match self.image.cluster() {
            none if none == ClusterId::default() => {
                self.shared.wanted.unwrap_or_else(|| ClusterId(self.shared.seams.entropy.uuid()))
            }
            cluster => cluster,
        };
        let by = Sealer {
            life: self.shared.life,
            nonce: self.reader.nonce(),
            next: at.generation.0 + 1,
            address: self.shared.peers.address(),
        };
        let body = Body::from(log::seal(cluster, at, &by));
        let key = keys::meta(at);
        let place = self.shared.bucket.place(Kind::Seal, &key, &body, HEADER_LEN);
        let found = match timeout(self.shared.timings.submit, place).await {
            Ok(Placed::Ours) => body.to_bytes(),
            Ok(Placed::Other(found)) => {
                saw(Sight::NotElected);
                found
            }
            Err(_) => return self.reader.look(), // no answer: read on
        };
        self.reader.look();
        // The PUT's answer is as good as a GET of the seal; data may have been shown in part only.
        if let Ok(Object::Seal(seal)) = log::open(self.image.cluster(), at, &found) {
            self.reader.saw_seal(seal.by.nonce);
            self.judged = Some(seal);
        }
    }
}
