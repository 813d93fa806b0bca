//! The stream to the followers (E16): each stands exactly before the next update it is told.
//!
//! A ring of the newest objects catches up who is nearly there; anybody else gets a snapshot. A follower that
//! does not keep up is dropped and comes again.

use std::collections::VecDeque;

use bytes::Bytes;
use tidemark_proto::id::{Life, Nonce, Position};
use tokio::sync::mpsc;

use super::super::image::Image;
use super::super::log;
use super::super::peers::{Update, Updates};

/// Updates that may wait for a follower.
const BACKLOG: usize = 256;
/// Objects and bytes kept to catch up followers.
const RING: usize = 512;
const RING_BYTES: usize = 8 << 20;

#[derive(Debug)]
pub(super) struct Followers {
    ring: VecDeque<(Position, Update, usize)>,
    bytes: usize,
    to: Vec<mpsc::Sender<Update>>,
}

impl Followers {
    /// With the seal that opened the generation.
    pub fn new((at, seal): (Position, Bytes)) -> Followers {
        let size = seal.len();
        let ring = VecDeque::from([(at, Update::Seal(seal), size)]);
        Followers { ring, bytes: size, to: Vec::new() }
    }

    /// An object was committed.
    pub fn object(&mut self, at: Position, bytes: Bytes) {
        self.bytes += bytes.len();
        self.ring.push_back((at, Update::Object(bytes.clone()), bytes.len()));
        while self.ring.len() > RING || self.bytes > RING_BYTES {
            let Some((_, _, size)) = self.ring.pop_front() else { break };
            self.bytes -= size;
        }
        self.tell(&Update::Object(bytes));
    }

    /// The controller lives.
    pub fn alive(&mut self) {
        self.tell(&Update::Alive);
    }

    fn tell(&mut self, update: &Update) {
        self.to.retain(|to| to.try_send(update.clone()).is_ok());
    }

    /// A new follower at `from`; `None` for one that knows more than we do.
    pub fn add(&mut self, durable: &Image, from: Position, life: Life) -> Option<Updates> {
        let mut first: Vec<Update> = if from == durable.position() {
            Vec::new()
        } else if let Some(start) = self.ring.iter().position(|(at, _, _)| *at == from) {
            self.ring.iter().skip(start).map(|(_, update, _)| update.clone()).collect()
        } else if from < durable.position() {
            // Not an object of the bucket: its nonce names nothing.
            vec![Update::Snapshot(Bytes::from(log::snapshot(durable, life, Nonce(0)).concat()))]
        } else {
            return None;
        };
        first.push(Update::Alive);
        let (to, updates) = mpsc::channel(first.len() + BACKLOG);
        first.into_iter().for_each(|update| drop(to.try_send(update)));
        self.to.push(to);
        Some(updates)
    }
}
