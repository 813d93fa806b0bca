//! The reader of the metadata log: what to look at next, and what a look means (E5-E7, E16). Pure.
//!
//! Follower, candidate and starting process are this one machine at a position. A 404 never ends a
//! generation, and a seal counts only after a LIST *sent after* it was seen shows no snapshot above it, so
//! between [`Reader::saw_seal`] and [`Reader::listed`] lies one listing that the driver sends. Knows no
//! bytes, no image and no store; checked against the model `tiering/model/src/bin/election.rs`.

use tidemark_proto::id::{Generation, Nonce, Position, Seq};

/// What the driver does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// GET the object at the position.
    Get(Position),
    /// LIST the snapshots above the position, now.
    List(Position),
    /// GET the snapshot at the position.
    Load(Position),
    /// This is the tail: wait to be told, or look again.
    Rest,
}

/// What a listing decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A snapshot above the position: restart from it.
    Restart,
    /// Nothing there and no snapshot above: the tail.
    Tail,
    /// The seal counts: the reader is in the next generation.
    Crossed {
        /// Its owner's nonce.
        owner: Nonce,
        /// Whether that is the reader's own current nonce: it owns the generation (E7).
        mine: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Reading,
    Looking,
    Judging(Nonce),
    Loading(Position),
    Tail,
}

/// The reader.
#[derive(Clone, Debug)]
pub struct Reader {
    at: Position,
    phase: Phase,
    nonce: Nonce,
}

impl Reader {
    /// A reader that stands at `at`, whose seals would carry `nonce`.
    pub fn new(at: Position, nonce: Nonce) -> Reader {
        Reader { at, phase: Phase::Reading, nonce }
    }

    /// The position: everything below is applied.
    pub fn at(&self) -> Position {
        self.at
    }

    /// The nonce of the ownership it stands for.
    pub fn nonce(&self) -> Nonce {
        self.nonce
    }

    /// What to do next.
    pub fn step(&self) -> Step {
        match self.phase {
            Phase::Reading => Step::Get(self.at),
            Phase::Looking | Phase::Judging(_) => Step::List(self.at),
            Phase::Loading(at) => Step::Load(at),
            Phase::Tail => Step::Rest,
        }
    }

    /// The object at the position is data, and was applied.
    pub fn applied(&mut self) {
        self.at.seq = self.at.seq.next();
        self.phase = Phase::Reading;
    }

    /// The object at the position is a seal with this nonce: list (E6). Also for one's own seal whose PUT
    /// was answered 200.
    pub fn saw_seal(&mut self, owner: Nonce) {
        self.phase = Phase::Judging(owner);
    }

    /// There is no object at the position: list (E5).
    pub fn saw_nothing(&mut self) {
        self.phase = Phase::Looking;
    }

    /// The listing asked for by [`Step::List`] was answered: the greatest snapshot it showed.
    pub fn listed(&mut self, newest: Option<Position>) -> Verdict {
        if let Some(newest) = newest.filter(|newest| *newest > self.at) {
            self.phase = Phase::Loading(newest);
            return Verdict::Restart;
        }
        match self.phase {
            Phase::Judging(owner) => {
                let mine = owner == self.nonce;
                self.cross();
                Verdict::Crossed { owner, mine }
            }
            _ => {
                self.phase = Phase::Tail;
                Verdict::Tail
            }
        }
    }

    /// The snapshot to restart from was read and applied (E12: it lies ahead).
    pub fn restarted(&mut self, at: Position) {
        debug_assert!(at > self.at, "E12: a restart only goes forward");
        self.at = at;
        self.phase = Phase::Reading;
    }

    /// The snapshot is gone: a greater one took its place, list again (E5).
    pub fn snapshot_gone(&mut self) {
        self.phase = Phase::Looking;
    }

    /// Looks again from the position: time passed, a seal was sent (E7), or a peer knows more.
    pub fn look(&mut self) {
        self.phase = Phase::Reading;
    }

    /// Was told of a counted seal at the position (E6, E16).
    pub fn told_seal(&mut self) {
        self.cross();
    }

    /// E4: an ownership ended. Goes on at its commit under a fresh nonce; the old one is never used again.
    pub fn ended(&mut self, commit: Position, fresh: Nonce) {
        debug_assert!(commit >= self.at && fresh != self.nonce);
        *self = Reader::new(commit, fresh);
    }

    fn cross(&mut self) {
        self.at = Position { generation: Generation(self.at.generation.0 + 1), seq: Seq(0) };
        self.phase = Phase::Reading;
    }
}

/// What asking the peers told about the controller (E14).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Poll {
    /// A peer has applied beyond the reader's tail.
    pub ahead: bool,
    /// The controller answers, or a peer heard from it within a session.
    pub heard: bool,
    /// The controller's life is proven dead.
    pub dead: bool,
    /// Nobody else could be a candidate.
    pub alone: bool,
}

/// What a reader at the tail does, having asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Candidacy {
    /// Look again after this share of T.
    Wait(f64),
    /// Wait this share of T; if the tail is still the tail then, seal it.
    Seal(f64),
}

/// E14: seals only into silence. The n-th seal of a life waits T x 2^n, randomised by `unit` in [0, 1), so
/// that two which reach the bucket but not each other do not depose one another for ever. A controller that
/// is proven dead need not be waited for, only other candidates.
pub fn candidacy(poll: Poll, seals: u32, unit: f64) -> Candidacy {
    if poll.ahead {
        return Candidacy::Wait(0.05);
    }
    if poll.heard {
        return Candidacy::Wait(0.5 + unit);
    }
    match (seals, poll.dead, poll.alone) {
        (0, true, true) => Candidacy::Seal(0.0),
        (0, true, false) => Candidacy::Seal(0.2 * unit),
        (n, _, _) => Candidacy::Seal((0.5 + unit) * f64::from(1u32 << n.min(6))),
    }
}
