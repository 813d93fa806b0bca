//! Who may speak on the peer listener: both sides prove that they know `tidemark.peer.secret`.
//!
//! Every message carries an HMAC-SHA256 over its direction, the answering life's challenge, the request's
//! nonce, its place in a stream and its body, so none can be forged, moved or replayed. The challenge changes
//! with the life and before the memory of seen nonces would overflow. Without a secret there is no tag, and
//! the listener binds to loopback only. Secrecy is TLS's business, not this one's.

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use parking_lot::Mutex;
use sha2::Sha256;
use tidemark_proto::id::Nonce;
use tidemark_proto::rpc::peer::v1::Envelope;
use tidemark_tiering::seam::Entropy;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// A question.
    Question,
    /// Its answer, or the `n`-th update of a stream.
    Answer(u64),
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// The sender does not know the secret (or we do not).
    Forged,
    /// It is for another challenge, or was seen before: ask again with ours.
    Again,
}

/// Nonces remembered under one challenge.
const SEEN: usize = 1 << 16;

/// Signs and checks.
pub struct Auth {
    secret: Option<Vec<u8>>,
    entropy: Entropy,
    seen: Mutex<(Nonce, BTreeSet<Nonce>)>,
}

impl Auth {
    /// With a secret, or without one.
    pub fn new(secret: Option<&str>, entropy: Entropy) -> Auth {
        let secret = secret.filter(|s| !s.is_empty()).map(|s| s.as_bytes().to_vec());
        let seen = Mutex::new((entropy.nonce(), BTreeSet::new()));
        Auth { secret, entropy, seen }
    }

    /// Whether there is a secret.
    pub fn has_secret(&self) -> bool {
        self.secret.is_some()
    }

    /// A question for the life whose challenge is `challenge`.
    pub fn question(&self, challenge: Nonce, body: Bytes) -> Envelope {
        self.sign(Direction::Question, challenge, self.entropy.nonce(), body)
    }

    /// The answer to `question`, or the `n`-th update; carries our challenge.
    pub fn answer(&self, question: Nonce, n: u64, body: Bytes) -> Envelope {
        let challenge = self.seen.lock().0;
        self.sign(Direction::Answer(n), challenge, question, body)
    }

    fn sign(&self, direction: Direction, challenge: Nonce, nonce: Nonce, body: Bytes) -> Envelope {
        let tag =
            self.mac(direction, challenge, nonce, &body).map(|mac| mac.finalize().into_bytes().to_vec());
        Envelope {
            body,
            nonce: nonce.to_bytes().to_vec().into(),
            challenge: challenge.to_bytes().to_vec().into(),
            tag: tag.unwrap_or_default().into(),
        }
    }

    /// Checks a question; gives its nonce and body. Each is taken once.
    pub fn take_question(&self, envelope: Envelope) -> Result<(Nonce, Bytes), (Nonce, Reject)> {
        let (challenge, nonce) = ids(&envelope).ok_or((Nonce(0), Reject::Forged))?;
        if !self.verifies(Direction::Question, challenge, nonce, &envelope) {
            return Err((nonce, Reject::Forged));
        }
        let mut seen = self.seen.lock();
        if seen.0 != challenge {
            return Err((nonce, Reject::Again));
        }
        if seen.1.len() >= SEEN {
            *seen = (self.entropy.nonce(), BTreeSet::new());
            return Err((nonce, Reject::Again));
        }
        match seen.1.insert(nonce) {
            true => Ok((nonce, envelope.body)),
            false => Err((nonce, Reject::Again)),
        }
    }

    /// Checks the answer to `question`, or the `n`-th update; gives the challenge to use next and the body.
    pub fn take_answer(&self, question: Nonce, n: u64, envelope: Envelope) -> Result<(Nonce, Bytes), Reject> {
        let (challenge, nonce) = ids(&envelope).ok_or(Reject::Forged)?;
        let ours = nonce == question && self.verifies(Direction::Answer(n), challenge, nonce, &envelope);
        if ours { Ok((challenge, envelope.body)) } else { Err(Reject::Forged) }
    }

    fn verifies(&self, direction: Direction, challenge: Nonce, nonce: Nonce, envelope: &Envelope) -> bool {
        match self.mac(direction, challenge, nonce, &envelope.body) {
            Some(mac) => mac.verify_slice(&envelope.tag).is_ok(), // in constant time
            None => envelope.tag.is_empty(),
        }
    }

    fn mac(&self, direction: Direction, challenge: Nonce, nonce: Nonce, body: &[u8]) -> Option<Hmac<Sha256>> {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(self.secret.as_ref()?).ok()?;
        let (direction, n) = match direction {
            Direction::Question => (0u8, 0),
            Direction::Answer(n) => (1, n),
        };
        mac.update(b"tidemark peer 1");
        mac.update(&[direction]);
        mac.update(&n.to_be_bytes());
        mac.update(&challenge.to_bytes());
        mac.update(&nonce.to_bytes());
        mac.update(body); // last, so that its length needs no telling
        Some(mac)
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Auth(secret: {})", if self.has_secret() { "set" } else { "none" })
    }
}

/// Challenge and nonce.
pub fn ids(envelope: &Envelope) -> Option<(Nonce, Nonce)> {
    let read = |bytes: &[u8]| Some(Nonce::from_bytes(bytes.try_into().ok()?));
    Some((read(&envelope.challenge)?, read(&envelope.nonce)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(a: Option<&str>, b: Option<&str>) -> (Auth, Auth) {
        (Auth::new(a, Entropy::seeded(1)), Auth::new(b, Entropy::seeded(2)))
    }

    fn challenge(auth: &Auth) -> Nonce {
        auth.seen.lock().0
    }

    #[test]
    fn a_question_is_taken_once_and_its_answer_fits_only_it() {
        let (client, server) = pair(Some("s"), Some("s"));
        let question = client.question(challenge(&server), Bytes::from_static(b"q"));
        let (nonce, body) = server.take_question(question.clone()).unwrap();
        assert_eq!(&body[..], b"q");
        assert_eq!(server.take_question(question).unwrap_err().1, Reject::Again, "replayed");
        let answer = server.answer(nonce, 0, Bytes::from_static(b"a"));
        assert!(client.take_answer(nonce, 0, answer.clone()).is_ok());
        assert!(client.take_answer(nonce, 1, answer.clone()).is_err(), "another place in the stream");
        assert!(client.take_answer(Nonce(3), 0, answer).is_err(), "another question");
    }

    #[test]
    fn whoever_lacks_the_secret_is_refused_and_refuses() {
        for (a, b) in [(None, Some("s")), (Some("s"), None), (Some("s"), Some("t"))] {
            let (client, server) = pair(a, b);
            let question = client.question(challenge(&server), Bytes::new());
            assert_eq!(server.take_question(question).unwrap_err().1, Reject::Forged);
            assert!(client.take_answer(Nonce(1), 0, server.answer(Nonce(1), 0, Bytes::new())).is_err());
        }
    }

    #[test]
    fn a_changed_body_is_forged_and_another_lifes_challenge_is_refused() {
        let (client, server) = pair(Some("s"), Some("s"));
        let mut question = client.question(challenge(&server), Bytes::from_static(b"q"));
        question.body = Bytes::from_static(b"p");
        assert_eq!(server.take_question(question).unwrap_err().1, Reject::Forged);
        let question = client.question(Nonce(9), Bytes::new());
        assert_eq!(server.take_question(question).unwrap_err().1, Reject::Again);
    }

    #[test]
    fn memory_of_nonces_is_bounded_by_a_new_challenge() {
        let (client, server) = pair(None, None);
        let first = challenge(&server);
        for _ in 0..SEEN {
            server.take_question(client.question(first, Bytes::new())).unwrap();
        }
        assert!(server.take_question(client.question(first, Bytes::new())).is_err());
        assert_ne!(challenge(&server), first);
        assert!(server.take_question(client.question(challenge(&server), Bytes::new())).is_ok());
    }
}
