//! Peers over gRPC on the peer listener (`tidemark.peer.listen`), authenticated by [`Auth`].
//!
//! One channel per peer, opened when needed, and another for its read path, whose questions may wait long and must
//! not stand in the way of heartbeats. A refused connection is reported as such only where nothing was
//! sent. Message sizes are bounded: questions at 16 MiB, a snapshot at 1 GiB, what concerns reads at 8 MiB.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use parking_lot::Mutex;
use prost::Message;
use tidemark_proto::id::{Nonce, Position};
use tidemark_proto::rpc::peer::v1 as pb;
use tidemark_proto::rpc::peer::v1::peer_client::PeerClient;
use tidemark_proto::rpc::peer::v1::peer_server::{Peer, PeerServer};
use tidemark_tiering::seam::Seams;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

use super::auth::{Auth, Reject, ids};
use super::wire::{answer_from, answer_to, question_from, question_to, update_from, update_to};
use super::{Answer, PeerError, PeerNet, PeerService, Question, Updates};

const QUESTION_MAX: usize = 16 << 20;
const ANSWER_MAX: usize = 1 << 30;
const READ_MAX: usize = 8 << 20;
/// Calls of one peer at a time.
const STREAMS: u32 = 4_096;
/// Until a connection stands.
const CONNECT: Duration = Duration::from_millis(800);

/// The way to peers over TCP.
pub struct TcpPeers {
    address: String,
    auth: Arc<Auth>,
    seams: Seams,
    listener: Mutex<Option<TcpListener>>,
    peers: Mutex<BTreeMap<Way, Known>>,
}

/// What is asked of whom: each has a channel of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    Cluster,
    Reads,
}

/// One of the channels to a peer.
type Way = (String, Use);

#[derive(Clone)]
struct Known {
    channel: Channel,
    challenge: Nonce,
}

impl std::fmt::Debug for TcpPeers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TcpPeers({})", self.address)
    }
}

impl TcpPeers {
    /// Binds the peer listener. `host` is what others dial; by default the address that is bound. Without a
    /// secret only loopback is bound. The error is one sentence.
    pub async fn bind(
        listen: &str,
        host: Option<&str>,
        secret: Option<&str>,
        seams: &Seams,
    ) -> Result<TcpPeers, String> {
        let auth = Auth::new(secret, seams.entropy.fork());
        let listener = TcpListener::bind(listen).await.map_err(|error| {
            format!(
                "tidemark.peer.listen: cannot listen on {listen}: {error}; choose a free port of this machine"
            )
        })?;
        let bound = listener.local_addr().map_err(|error| format!("tidemark.peer.listen: {error}"))?;
        if !auth.has_secret() && !bound.ip().is_loopback() {
            return Err(format!(
                "tidemark.peer.listen = {listen} is not loopback: set tidemark.peer.secret, the same on all brokers"
            ));
        }
        let address = match host {
            Some(host) => format!("{host}:{}", bound.port()),
            None => SocketAddr::new(dialable(bound.ip()), bound.port()).to_string(),
        };
        let (listener, peers) = (Mutex::new(Some(listener)), Mutex::default());
        Ok(TcpPeers { address, auth: Arc::new(auth), seams: seams.clone(), listener, peers })
    }

    async fn known(&self, way: &Way) -> Result<Known, PeerError> {
        let to = &way.0;
        if let Some(known) = self.peers.lock().get(way).cloned() {
            return Ok(known);
        }
        let endpoint = Endpoint::from_shared(format!("http://{to}"))
            .map_err(|error| PeerError::Unreachable(error.to_string()))?
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5));
        let channel = endpoint.connect().await.map_err(|error| refused(&error))?;
        let known = Known { channel, challenge: Nonce(0) };
        self.peers.lock().insert(way.clone(), known.clone());
        Ok(known)
    }

    fn forget(&self, way: &Way) {
        self.peers.lock().remove(way);
    }

    fn challenged(&self, way: &Way, challenge: Nonce) {
        if let Some(known) = self.peers.lock().get_mut(way) {
            known.challenge = challenge;
        }
    }

    fn client(&self, channel: Channel, of: Use) -> PeerClient<Channel> {
        let most = if of == Use::Reads { READ_MAX } else { ANSWER_MAX };
        PeerClient::new(channel).max_decoding_message_size(most).max_encoding_message_size(QUESTION_MAX)
    }

    /// One question on the wire; `Ok(None)`: again, with the challenge now known.
    async fn once(&self, way: &Way, body: &Bytes) -> Result<Option<Answer>, PeerError> {
        let known = self.known(way).await?;
        let question = self.auth.question(known.challenge, body.clone());
        let nonce = nonce_of(&question);
        let answer = self.client(known.channel, way.1).ask(question).await.map_err(|status| {
            self.forget(way);
            unreachable(&status)
        })?;
        let (challenge, body) = self.auth.take_answer(nonce, 0, answer.into_inner()).map_err(denied)?;
        self.challenged(way, challenge);
        answer_from(body)
    }

    /// Opens a stream; its first message is an answer like any other.
    async fn open(&self, way: &Way, body: &Bytes) -> Result<Option<Updates>, PeerError> {
        let known = self.known(way).await?;
        let question = self.auth.question(known.challenge, body.clone());
        let nonce = nonce_of(&question);
        let stream = self.client(known.channel, way.1).follow(question).await;
        let mut stream = match stream {
            Ok(stream) => stream.into_inner(),
            Err(status) if status.code() == tonic::Code::FailedPrecondition => {
                return Err(PeerError::NotController);
            }
            Err(status) => {
                self.forget(way);
                return Err(unreachable(&status));
            }
        };
        let first = stream.message().await.map_err(|status| unreachable(&status))?;
        let first = first.ok_or_else(|| PeerError::Unreachable("an empty stream".to_owned()))?;
        let (challenge, body) = self.auth.take_answer(nonce, 0, first).map_err(denied)?;
        self.challenged(way, challenge);
        let Some(first) = update_from(body)? else { return Ok(None) };
        let (tx, rx) = mpsc::channel(16);
        let auth = self.auth.clone();
        self.seams.tasks.spawn(async move {
            let mut next = Some(first);
            let mut n = 0;
            while let Some(update) = next.take() {
                if tx.send(update).await.is_err() {
                    return;
                }
                n += 1;
                let Ok(Some(envelope)) = stream.message().await else { return };
                let Ok((_, body)) = auth.take_answer(nonce, n, envelope) else { return };
                next = update_from(body).ok().flatten();
            }
        });
        Ok(Some(rx))
    }
}

/// How often a question is repeated for a challenge or a connection that was stale.
const TRIES: usize = 3;

#[async_trait]
impl PeerNet for TcpPeers {
    fn address(&self) -> String {
        self.address.clone()
    }

    fn serve(&self, service: Arc<dyn PeerService>) {
        let Some(listener) = self.listener.lock().take() else { return };
        let auth = self.auth.clone();
        let serving = Serving { service, auth, seams: self.seams.clone(), said: OnceLock::new() };
        let peer = PeerServer::new(serving)
            .max_decoding_message_size(QUESTION_MAX)
            .max_encoding_message_size(ANSWER_MAX);
        self.seams.tasks.spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let served = Server::builder()
                .tcp_nodelay(true)
                .max_concurrent_streams(STREAMS)
                .add_service(peer)
                .serve_with_incoming(incoming);
            if let Err(error) = served.await {
                tracing::error!(%error, "the peer listener ended");
            }
        });
    }

    async fn ask(&self, to: &str, question: Question) -> Result<Answer, PeerError> {
        let submit = matches!(question, Question::Submit(_));
        let of = if matches!(question, Question::Read(_)) { Use::Reads } else { Use::Cluster };
        let way = (to.to_owned(), of);
        let body = question_to(&question)?;
        let mut last = PeerError::Unreachable("it keeps changing its challenge".to_owned());
        for _ in 0..TRIES {
            match self.once(&way, &body).await {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) => {}
                // The channel was of a life before: what may be asked twice is asked on a fresh one.
                Err(PeerError::Unreachable(why)) if !submit => last = PeerError::Unreachable(why),
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    async fn follow(&self, to: &str, from: Position) -> Result<Updates, PeerError> {
        let follow = pb::Follow { generation: from.generation.0, seq: from.seq.0 };
        let question = pb::Question { kind: Some(pb::question::Kind::Follow(follow)) };
        let body = Bytes::from(question.encode_to_vec());
        let way = (to.to_owned(), Use::Cluster);
        for _ in 0..TRIES {
            match self.open(&way, &body).await {
                Ok(Some(updates)) => return Ok(updates),
                Ok(None) | Err(PeerError::Unreachable(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(PeerError::Unreachable("no stream".to_owned()))
    }
}

struct Serving {
    service: Arc<dyn PeerService>,
    auth: Arc<Auth>,
    seams: Seams,
    /// A wrong secret is said once, not with every packet.
    said: OnceLock<()>,
}

impl Serving {
    /// The question's nonce and body, or what to answer instead.
    fn take(&self, envelope: pb::Envelope) -> Result<(Nonce, Bytes), Nonce> {
        self.auth.take_question(envelope).map_err(|(nonce, reject)| {
            if reject == Reject::Forged && self.said.set(()).is_ok() {
                tracing::warn!("a peer does not know our tidemark.peer.secret: it is refused");
            }
            nonce
        })
    }
}

type Sending = Pin<Box<dyn Stream<Item = Result<pb::Envelope, Status>> + Send>>;

#[async_trait]
impl Peer for Serving {
    type FollowStream = Sending;

    async fn ask(&self, request: Request<pb::Envelope>) -> Result<Response<pb::Envelope>, Status> {
        let (nonce, body) = match self.take(request.into_inner()) {
            Ok(taken) => taken,
            Err(nonce) => return Ok(Response::new(self.auth.answer(nonce, 0, again_answer()))),
        };
        let question = question_from(body).map_err(Status::invalid_argument)?;
        let answer = self.service.answer(question).await;
        let body = answer_to(&answer).map_err(Status::internal)?;
        Ok(Response::new(self.auth.answer(nonce, 0, body)))
    }

    async fn follow(&self, request: Request<pb::Envelope>) -> Result<Response<Sending>, Status> {
        let (nonce, body) = match self.take(request.into_inner()) {
            Ok(taken) => taken,
            Err(nonce) => {
                let again = pb::Update { kind: None }.encode_to_vec().into();
                let one = futures::stream::iter([Ok(self.auth.answer(nonce, 0, again))]);
                return Ok(Response::new(Box::pin(one)));
            }
        };
        let from = follow_from(body)?;
        let updates = self.service.follow(from).await;
        let mut updates = updates.ok_or_else(|| Status::failed_precondition("not the controller"))?;
        let (tx, rx) = mpsc::channel(16);
        let auth = self.auth.clone();
        self.seams.tasks.spawn(async move {
            let mut n = 0;
            while let Some(update) = updates.recv().await {
                if tx.send(Ok(auth.answer(nonce, n, update_to(&update)))).await.is_err() {
                    return;
                }
                n += 1;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }
}

fn follow_from(body: Bytes) -> Result<Position, Status> {
    let question = pb::Question::decode(body).map_err(|e| Status::invalid_argument(e.to_string()))?;
    match question.kind {
        Some(pb::question::Kind::Follow(f)) => {
            Ok(Position { generation: f.generation.into(), seq: f.seq.into() })
        }
        _ => Err(Status::invalid_argument("not a follow")),
    }
}

fn again_answer() -> Bytes {
    pb::Answer { kind: Some(pb::answer::Kind::Again(true)) }.encode_to_vec().into()
}

fn nonce_of(envelope: &pb::Envelope) -> Nonce {
    ids(envelope).map_or(Nonce(0), |(_, nonce)| nonce)
}

fn denied(_: Reject) -> PeerError {
    PeerError::Denied("tidemark.peer.secret differs between the brokers".to_owned())
}

fn unreachable(status: &Status) -> PeerError {
    PeerError::Unreachable(status.message().to_owned())
}

/// Whether a connect failed because nothing listens.
fn refused(error: &tonic::transport::Error) -> PeerError {
    let mut cause = error.source();
    while let Some(inner) = cause {
        let io = inner.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused) {
            return PeerError::Refused;
        }
        cause = inner.source();
    }
    PeerError::Unreachable(error.to_string())
}

/// An address others on this machine can dial when all addresses are bound.
fn dialable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(v4) if v4.is_unspecified() => IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        IpAddr::V6(v6) if v6.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        ip => ip,
    }
}
