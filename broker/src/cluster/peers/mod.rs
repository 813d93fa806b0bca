//! How brokers reach one another: two questions a follower and a candidate ask, one of the read path, and one stream.
//!
//! [`PeerNet`] has two implementations: gRPC over TCP, authenticated ([`tcp`]), and one inside a process for
//! the simulator ([`memory`]). Knows nothing of what the answers mean; a refused connection is told apart
//! from silence because it proves a life dead (E15).

pub mod auth;
pub mod memory;
pub mod tcp;
mod wire;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tidemark_proto::id::{BrokerEpoch, BrokerId, ClusterId, Life, Position};
use tidemark_proto::kafka::error::ErrorCode;
use tokio::sync::mpsc;

use super::command::{Command, Reply};
use super::load::Load;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Who is the controller, as far as you know? (E14)
    Status,
    /// A broker epoch lives.
    Heartbeat(Heartbeat),
    /// Decide this, if you are the controller.
    Submit(Command),
    /// What the read path of one broker asks that of another; carried unread.
    Read(Bytes),
}

/// A broker epoch lives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// The node.
    pub node: BrokerId,
    /// Its epoch.
    pub epoch: BrokerEpoch,
    /// Its life.
    pub life: Life,
    /// Whether somebody reads there, so that the session is to be renewed (E15).
    pub has_readers: bool,
    /// How far it has applied the log.
    pub applied: Position,
    /// The newest `tidemark.version` it knows; 0: it knows of none.
    pub level: i16,
    /// What it serves, now and then.
    pub load: Option<Load>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Question::Status`].
    Status(Status),
    /// To [`Question::Heartbeat`].
    Heartbeat(Beat),
    /// To [`Question::Submit`]: the reply is durable at the position.
    Reply(Result<Reply, ErrorCode>, Position),
    /// To [`Question::Read`]; empty where nothing is served.
    Read(Bytes),
}

/// What a life knows about the controller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The answering life.
    pub life: Life,
    /// Its cluster.
    pub cluster: ClusterId,
    /// How far it has applied the log.
    pub applied: Position,
    /// Whether it owns that generation.
    pub controller: bool,
    /// The address of the owner it knows.
    pub address: String,
    /// Milliseconds since it last heard from that owner.
    pub heard_ms: u64,
}

/// What became of a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// The epoch lives; the session is as it was (nobody reads, or no proof of ownership was to be had).
    Alive,
    /// The epoch lives and its session is renewed, from the moment the heartbeat was sent.
    Granted,
    /// The epoch is over: register again.
    Fenced,
    /// Ask somebody else.
    NotController,
}

/// One step of the log, told to a follower that stands exactly before it (E16).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// The object at the follower's position.
    Object(Bytes),
    /// The counted seal at the follower's position.
    Seal(Bytes),
    /// A snapshot object to restart from.
    Snapshot(Bytes),
    /// Nothing new; the controller lives.
    Alive,
}

/// Why a peer did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Nothing listens there: the life that did is dead.
    #[error("the connection was refused")]
    Refused,
    /// Unknown.
    #[error("no answer: {0}")]
    Unreachable(String),
    /// It does not trust us, or we do not trust it.
    #[error("not authenticated: {0}")]
    Denied(String),
    /// It is not the controller.
    #[error("not the controller")]
    NotController,
}

/// Updates from a controller; ends when either side is done.
pub type Updates = mpsc::Receiver<Update>;

/// The way to the peers.
#[async_trait]
pub trait PeerNet: Send + Sync + fmt::Debug {
    /// Where this process is reached.
    fn address(&self) -> String;

    /// Answers with `service` from now on.
    fn serve(&self, service: Arc<dyn PeerService>);

    /// Asks the peer at `to`.
    async fn ask(&self, to: &str, question: Question) -> Result<Answer, PeerError>;

    /// Follows the controller at `to` from a position.
    async fn follow(&self, to: &str, from: Position) -> Result<Updates, PeerError>;
}

/// What answers peers.
#[async_trait]
pub trait PeerService: Send + Sync {
    /// Answers a question.
    async fn answer(&self, question: Question) -> Answer;

    /// Starts telling a follower; `None` if this is not the controller.
    async fn follow(&self, from: Position) -> Option<Updates>;
}

/// What answers the read paths of other brokers.
#[async_trait]
pub trait Readable: Send + Sync {
    /// Answers [`Question::Read`]; may wait as long as the question says.
    async fn read(&self, question: Bytes) -> Bytes;
}
