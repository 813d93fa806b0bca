//! The cluster as the rest of the broker sees it: the image, commands, the session.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tidemark_proto::id::{BrokerEpoch, BrokerId, ClusterId, LaneId, Life, Position};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_tiering::bucket::Bucket;
use tidemark_tiering::seam::Seams;
use tidemark_tiering::watch;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::command::{Command, Reply, Sealed};
use super::image::{Endpoint, Image};
use super::level;
use super::load::Traffic;
use super::member::{Member, StartError};
use super::peers::{Answer, Beat, Heartbeat, PeerError, PeerNet, Question, Readable};
use super::session::Session;
use super::shared::{Service, Shared, Unanswered};
use super::state::Rules;
use super::timings::Timings;

/// Who this process is to the cluster.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// `node.id`; unset: the controller gives one.
    pub node: Option<BrokerId>,
    /// This run of the process.
    pub life: Life,
    /// Where clients reach it.
    pub endpoints: Vec<Endpoint>,
    /// `broker.rack`.
    pub rack: Option<String>,
}

/// What [`Cluster::start`] needs.
#[derive(Debug)]
pub struct Start {
    /// The world.
    pub seams: Seams,
    /// The bucket.
    pub bucket: Bucket,
    /// Who we are.
    pub identity: Identity,
    /// `cluster.id`, where one is configured or found in log.dirs.
    pub cluster: Option<ClusterId>,
    /// The way to the others.
    pub peers: Arc<dyn PeerNet>,
    /// Times.
    pub timings: Timings,
    /// What decisions need besides metadata.
    pub rules: Rules,
}

/// A broker epoch that this life got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The node id.
    pub node: BrokerId,
    /// The epoch.
    pub epoch: BrokerEpoch,
    /// The lane it opened.
    pub lane: LaneId,
}

/// The cluster. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
    identity: Arc<Mutex<Identity>>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cluster({})", self.shared.image().position())
    }
}

impl Cluster {
    /// Joins the cluster of the bucket, or makes it: returns once the log is read and a controller, perhaps
    /// this life, is known to be alive. Waits as long as the bucket does not answer.
    pub async fn start(start: Start) -> Result<Cluster, StartError> {
        let Start { seams, bucket, identity, cluster, peers, timings, rules } = start;
        let shared = Arc::new(Shared {
            seams: seams.clone(),
            bucket,
            peers,
            timings,
            rules,
            life: identity.life,
            wanted: cluster,
            session: Session::new(timings.session),
            traffic: Traffic::default(),
            images: watch::Sender::new(Arc::new(Image::default())),
            owner: Mutex::default(),
            heard: Mutex::default(),
            registered: Mutex::default(),
            alarm: Mutex::default(),
            readable: OnceLock::new(),
            balancing: Mutex::default(),
        });
        shared.peers.serve(Arc::new(Service(shared.clone())));
        let (ready, is_ready) = oneshot::channel();
        seams.tasks.spawn(Member::new(shared.clone(), ready).run());
        is_ready.await.unwrap_or_else(|_| Err(StartError("the process is ending".to_owned())))?;
        seams.tasks.spawn(beat(shared.clone()));
        Ok(Cluster { shared, identity: Arc::new(Mutex::new(identity)) })
    }

    /// The newest image this broker knows; everything in it is durable.
    pub fn image(&self) -> Arc<Image> {
        self.shared.image()
    }

    /// Changes of the image.
    pub fn watch(&self) -> watch::Receiver<Arc<Image>> {
        self.shared.images.subscribe()
    }

    /// Starts a broker epoch (R1): the first of this life, or another after a fence. Everything led by this
    /// node's older epoch, sealed and lapsed by then, is led by this one.
    pub async fn register(&self) -> Result<Registration, ErrorCode> {
        *self.shared.registered.lock() = None;
        self.shared.session.ended();
        let Identity { node, life, endpoints, rack } = self.identity.lock().clone();
        let peer = self.shared.peers.address();
        let command = Command::RegisterBroker { node, life, endpoints, rack, peer, sealed: Vec::new() };
        let (reply, at) = loop {
            // Patient: an older life's session may have to lapse, and there is nothing else to do.
            match self.submit_at(command.clone()).await {
                Ok(done) => break done,
                Err(code) if code.is_retriable() => sleep(self.shared.timings.heartbeat).await,
                Err(code) => return Err(code),
            }
        };
        let Reply::Registered { node, epoch } = reply else { return Err(ErrorCode::UnknownServerError) };
        self.applied(at, self.shared.timings.submit).await?;
        self.identity.lock().node = Some(node);
        *self.shared.registered.lock() = Some((node, epoch));
        Ok(Registration { node, epoch, lane: LaneId { epoch, lane: 0, life } })
    }

    /// Has the controller decide `command`; returns once that is durable and applied in this broker's image.
    pub async fn submit(&self, command: Command) -> Result<Reply, ErrorCode> {
        let (reply, at) = self.submit_at(command).await?;
        self.applied(at, self.shared.timings.submit).await?;
        Ok(reply)
    }

    async fn submit_at(&self, command: Command) -> Result<(Reply, Position), ErrorCode> {
        let deadline = Instant::now() + self.shared.timings.submit;
        let mut pause = Duration::from_millis(5);
        loop {
            let asked = self.ask_this_controller(Question::Submit(command.clone()));
            let unanswered = match timeout_at(deadline, asked).await {
                Ok(Ok(Answer::Reply(Ok(reply), at))) => return Ok((reply, at)),
                Ok(Ok(Answer::Reply(Err(ErrorCode::NotController), _))) => Unanswered::Unasked,
                Ok(Ok(Answer::Reply(Err(ErrorCode::RequestTimedOut), _))) => Unanswered::Unknown,
                Ok(Ok(Answer::Reply(Err(code), _))) => return Err(code),
                Ok(Ok(_)) => return Err(ErrorCode::UnknownServerError),
                Ok(Err(unanswered)) => unanswered,
                Err(_) => return Err(ErrorCode::RequestTimedOut),
            };
            if unanswered == Unanswered::Unknown && !command.may_repeat() {
                return Err(ErrorCode::RequestTimedOut);
            }
            if Instant::now() + pause >= deadline {
                return Err(ErrorCode::RequestTimedOut);
            }
            sleep(pause).await;
            pause = (pause * 2).min(self.shared.timings.heartbeat);
        }
    }

    /// Asks the controller of now; one that is deposed meanwhile need not be waited for.
    async fn ask_this_controller(&self, question: Question) -> Result<Answer, Unanswered> {
        let generation = |image: &Image| image.controller().map(|c| c.generation);
        let now = generation(&self.shared.image());
        let mut images = self.watch();
        tokio::select! {
            biased;
            answer = self.shared.ask_controller(question) => answer,
            _ = images.wait_for(|image| generation(image) != now) => Err(Unanswered::Unknown),
        }
    }

    /// Waits until this broker's image has reached `at`.
    async fn applied(&self, at: Position, most: Duration) -> Result<(), ErrorCode> {
        let mut images = self.watch();
        match timeout(most, images.wait_for(|image| image.position() >= at)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(ErrorCode::RequestTimedOut),
        }
    }

    /// Has `readable` answer the read paths of other brokers from now on.
    pub fn answer_reads(&self, readable: Arc<dyn Readable>) {
        self.shared.readable.set(readable).ok();
    }

    /// Asks the read path of `broker`.
    pub async fn ask_reads(&self, broker: BrokerId, question: Bytes) -> Result<Bytes, PeerError> {
        let image = self.image();
        let to = image.broker(broker).filter(|row| row.alive).map(|row| row.peer.as_str());
        let to = to.ok_or_else(|| PeerError::Unreachable("it is not alive".to_owned()))?;
        match self.shared.peers.ask(to, Question::Read(question)).await? {
            Answer::Read(answer) => Ok(answer),
            _ => Err(PeerError::Unreachable("an answer to something else".to_owned())),
        }
    }

    /// Waits until this broker's image has reached `at`; whether it did within `most`.
    pub async fn reaches(&self, at: Position, most: Duration) -> bool {
        self.applied(at, most).await.is_ok()
    }

    /// This broker's session (R24).
    pub fn session(&self) -> Session {
        self.shared.session.clone()
    }

    /// R23: whether, by a read that a controller with a fresh proof answered after this call, `lane` is not
    /// sealed. `false` also when nobody answers.
    pub async fn prove_unsealed(&self, lane: LaneId) -> bool {
        let mine = self.shared.registered.lock().is_some_and(|(_, epoch)| epoch == lane.epoch);
        mine && self.shared.session.prove().await
            && self.image().lane(lane).is_some_and(|row| row.sealed.is_none())
    }

    /// Counts what is served here.
    pub fn traffic(&self) -> &Traffic {
        &self.shared.traffic
    }

    /// Whether this life owns the newest generation it knows.
    pub fn is_controller(&self) -> bool {
        self.shared.owner.lock().is_some()
    }

    /// Why the balancer moved what it moved last, if this life is the controller and it did.
    pub fn balancing(&self) -> Option<String> {
        self.shared.balancing.lock().clone()
    }

    /// Why the metadata log cannot be read on, if so.
    pub fn alarm(&self) -> Option<String> {
        self.shared.alarm.lock().clone()
    }

    /// Leaves cleanly (R12): the lanes of this epoch were sealed by their owner at these bounds; others lead
    /// its partitions from the reply on. The session ends first.
    pub async fn leave(&self, sealed: Vec<Sealed>) -> Result<(), ErrorCode> {
        let Some((node, epoch)) = self.shared.registered.lock().take() else { return Ok(()) };
        self.shared.session.ended();
        match self.submit(Command::TakeOver { node, epoch, sealed }).await? {
            Reply::SealFirst { .. } => Err(ErrorCode::InvalidRequest),
            _ => Ok(()),
        }
    }
}

impl Command {
    /// Whether doing it twice is as good as once, so that an unclear answer may be asked for again.
    pub(super) fn may_repeat(&self) -> bool {
        !matches!(self, Command::DeleteTopics { .. } | Command::CreatePartitions { .. })
    }
}

/// Between two heartbeats that tell what is served.
const LOAD_EVERY: Duration = Duration::from_secs(5);

/// Heartbeats, for ever: that the epoch lives and, with readers, for a fresh session.
async fn beat(shared: Arc<Shared>) {
    let mut told = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = shared.session.nudged() => {}
            () = sleep(shared.timings.heartbeat) => {}
        }
        let Some((node, epoch)) = *shared.registered.lock() else {
            shared.session.round();
            continue;
        };
        let sent = Instant::now();
        let (life, applied) = (shared.life, shared.image().position());
        let has_readers = shared.session.has_readers(sent);
        let due = sent >= told + LOAD_EVERY;
        let load = due.then(|| shared.traffic.told(sent));
        told = if due { sent } else { told };
        let level = level::NEWEST;
        let heartbeat = Heartbeat { node, epoch, life, has_readers, applied, level, load };
        let asked = shared.ask_controller(Question::Heartbeat(heartbeat));
        match timeout(shared.timings.peer, asked).await {
            Ok(Ok(Answer::Heartbeat(Beat::Granted))) if is_registered(&shared, epoch) => {
                shared.session.renewed(sent);
            }
            Ok(Ok(Answer::Heartbeat(Beat::Fenced))) if is_registered(&shared, epoch) => {
                tracing::warn!(%node, %epoch, "this broker epoch is over: another life or a takeover ended it");
                *shared.registered.lock() = None;
                shared.session.ended();
            }
            _ => {}
        }
        shared.session.round();
    }
}

/// An answer may come after the epoch it was for has been left.
fn is_registered(shared: &Shared, epoch: BrokerEpoch) -> bool {
    shared.registered.lock().is_some_and(|(_, now)| now == epoch)
}
