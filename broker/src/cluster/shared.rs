//! What the parts of a cluster member share: seams, the published image, the way to the controller.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;
use tidemark_proto::id::{BrokerEpoch, BrokerId, ClusterId, Life, Position};
use tidemark_tiering::bucket::Bucket;
use tidemark_tiering::seam::Seams;
use tidemark_tiering::watch;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::command::{Command, Reply};
use super::image::Image;
use super::load::Traffic;
use super::peers::{
    Answer, Beat, Heartbeat, PeerError, PeerNet, PeerService, Question, Readable, Status, Updates,
};
use super::session::Session;
use super::state::Rules;
use super::timings::Timings;
use tidemark_proto::kafka::error::ErrorCode;

/// What the owner of the generation is asked, by its own broker or by a peer.
#[derive(Debug)]
pub(super) enum Ask {
    Heartbeat(Heartbeat, oneshot::Sender<Beat>),
    Submit(Command, oneshot::Sender<(Result<Reply, ErrorCode>, Position)>),
    Follow(Position, oneshot::Sender<Option<Updates>>),
}

/// Questions that wait for the owner, at most.
pub(super) const QUEUE: usize = 1_024;

pub(super) struct Shared {
    pub seams: Seams,
    pub bucket: Bucket,
    pub peers: Arc<dyn PeerNet>,
    pub timings: Timings,
    pub rules: Rules,
    pub life: Life,
    /// The id this cluster must have, where one is configured.
    pub wanted: Option<ClusterId>,
    pub session: Session,
    pub traffic: Traffic,
    pub images: watch::Sender<Arc<Image>>,
    /// Set while this life owns the newest generation it knows.
    pub owner: Mutex<Option<mpsc::Sender<Ask>>>,
    /// When the owner was last heard, by whoever follows it.
    pub heard: Mutex<Option<Instant>>,
    /// The broker epoch this life registered.
    pub registered: Mutex<Option<(BrokerId, BrokerEpoch)>>,
    /// Why this member stands still, for `/ready` and the log.
    pub alarm: Mutex<Option<String>>,
    /// What answers the read paths of others, once there is any.
    pub readable: OnceLock<Arc<dyn Readable>>,
    /// Why the balancer moved what it moved last, while this life is the controller.
    pub balancing: Mutex<Option<String>>,
}

/// Why the controller did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// It was not asked: nothing happened.
    Unasked,
    /// It was asked, and may have done it.
    Unknown,
}

impl Shared {
    pub fn image(&self) -> Arc<Image> {
        self.images.borrow().clone()
    }

    /// Asks the owner of the generation, here or at its address.
    pub async fn ask_controller(&self, question: Question) -> Result<Answer, Unanswered> {
        let local = self.owner.lock().clone();
        if let Some(owner) = local {
            return ask_owner(&owner, question).await;
        }
        let Some(to) = self.image().controller().map(|c| c.address.clone()).filter(|to| !to.is_empty())
        else {
            return Err(Unanswered::Unasked);
        };
        if to == self.peers.address() {
            return Err(Unanswered::Unasked); // it was us, once
        }
        self.peers.ask(&to, question).await.map_err(|error| match error {
            PeerError::Refused | PeerError::NotController | PeerError::Denied(_) => Unanswered::Unasked,
            PeerError::Unreachable(_) => Unanswered::Unknown,
        })
    }

    /// What this life knows about the controller (E14).
    pub fn status(&self) -> Status {
        let image = self.image();
        let controller = self.owner.lock().is_some();
        let heard = self.heard.lock().map(|at| at.elapsed().as_millis());
        Status {
            life: self.life,
            cluster: image.cluster(),
            applied: image.position(),
            controller,
            address: image.controller().map(|c| c.address.clone()).unwrap_or_default(),
            heard_ms: heard.and_then(|ms| u64::try_from(ms).ok()).unwrap_or(u64::MAX),
        }
    }

    /// Whether the life that was reached at `address` is proven dead (E15): nothing listens there, or
    /// another life does.
    pub async fn proven_dead(&self, life: Life, address: &str) -> bool {
        if life == self.life {
            return false;
        }
        if address == self.peers.address() {
            return true; // it listened where we do
        }
        match timeout(self.timings.peer, self.peers.ask(address, Question::Status)).await {
            Ok(Err(PeerError::Refused)) => true,
            Ok(Ok(Answer::Status(status))) => status.life != life,
            _ => false,
        }
    }
}

/// Puts a question to the owner in this process.
async fn ask_owner(owner: &mpsc::Sender<Ask>, question: Question) -> Result<Answer, Unanswered> {
    match question {
        Question::Status => Err(Unanswered::Unasked),
        Question::Heartbeat(heartbeat) => {
            let (tell, told) = oneshot::channel();
            let ask = Ask::Heartbeat(heartbeat, tell);
            owner.send(ask).await.map_err(|_| Unanswered::Unasked)?;
            Ok(Answer::Heartbeat(told.await.unwrap_or(Beat::NotController)))
        }
        Question::Submit(command) => {
            let (tell, told) = oneshot::channel();
            owner.send(Ask::Submit(command, tell)).await.map_err(|_| Unanswered::Unasked)?;
            let (reply, at) = told.await.map_err(|_| Unanswered::Unknown)?;
            Ok(Answer::Reply(reply, at))
        }
        Question::Read(_) => Err(Unanswered::Unasked),
    }
}

/// Answers the peers from what is shared.
pub(super) struct Service(pub Arc<Shared>);

#[async_trait::async_trait]
impl PeerService for Service {
    async fn answer(&self, question: Question) -> Answer {
        let submit = matches!(question, Question::Submit(_));
        let owner = match question {
            Question::Status => return Answer::Status(self.0.status()),
            Question::Read(body) => {
                let Some(readable) = self.0.readable.get() else { return Answer::Read(Bytes::new()) };
                return Answer::Read(readable.read(body).await);
            }
            _ => self.0.owner.lock().clone(),
        };
        let unanswered = match owner {
            Some(owner) => match ask_owner(&owner, question).await {
                Ok(answer) => return answer,
                Err(unanswered) => unanswered,
            },
            None => Unanswered::Unasked,
        };
        match (submit, unanswered) {
            (false, _) => Answer::Heartbeat(Beat::NotController),
            (true, Unanswered::Unasked) => Answer::Reply(Err(ErrorCode::NotController), Position::default()),
            (true, Unanswered::Unknown) => {
                Answer::Reply(Err(ErrorCode::RequestTimedOut), Position::default())
            }
        }
    }

    async fn follow(&self, from: Position) -> Option<Updates> {
        let owner = self.0.owner.lock().clone()?;
        let (tell, told) = oneshot::channel();
        owner.send(Ask::Follow(from, tell)).await.ok()?;
        told.await.ok()?
    }
}
