//! One request through the proxy: body in (bounded, shaped), the fault, upstream, answer out (shaped).
//! Headers pass as the client signed them, `Host` included; only hop-by-hop ones are dropped.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderMap, HeaderName};
use hyper::{Request, Response, StatusCode};
use tidemark_tiering::seam::Seams;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::counters::{Counters, add};
use super::faults::{Fault, Faults, Outage};
use super::shape::Shape;
use super::upstream::{Lease, Upstream};

const BODY_BYTES_MAX: usize = 64 << 20;
const HELD_BYTES_MAX: usize = 1 << 30;
const PERMIT_BYTES: usize = 64 << 10;
const LATE_MAX: usize = 256;
const OUTAGE_POLL: Duration = Duration::from_millis(50);

/// Why a connection must end without an answer.
#[derive(Debug, thiserror::Error)]
pub enum Hangup {
    /// Orderly close.
    #[error("closed by a fault")]
    Close,
    /// TCP reset.
    #[error("reset by a fault")]
    Reset,
    /// The client went away or broke the protocol.
    #[error("client: {0}")]
    Client(hyper::Error),
}

/// An answer's body.
pub type Out = UnsyncBoxBody<Bytes, Hangup>;

type Whole = Request<Full<Bytes>>;

/// What all connections share.
pub struct Proxy {
    /// The real store.
    pub upstream: Upstream,
    /// Counters.
    pub counters: Counters,
    faults: parking_lot::RwLock<Arc<Faults>>,
    seams: Seams,
    up: Shape,
    down: Shape,
    held: Arc<Semaphore>,
    late: Arc<Semaphore>,
}

impl Proxy {
    /// A proxy before `upstream`.
    pub fn new(upstream: Upstream, faults: Faults, seams: Seams) -> Arc<Proxy> {
        Arc::new(Proxy {
            upstream,
            counters: Counters::default(),
            faults: parking_lot::RwLock::new(Arc::new(faults)),
            seams,
            up: Shape::default(),
            down: Shape::default(),
            held: Arc::new(Semaphore::new(HELD_BYTES_MAX / PERMIT_BYTES)),
            late: Arc::new(Semaphore::new(LATE_MAX)),
        })
    }

    /// The faults in force.
    pub fn faults(&self) -> Arc<Faults> {
        self.faults.read().clone()
    }

    /// Puts other faults in force.
    pub fn set_faults(&self, faults: Faults) {
        *self.faults.write() = Arc::new(faults);
    }

    /// Carries one request, or says how its connection must end.
    pub async fn handle(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Out>, Hangup> {
        if let Some(verdict) = self.outage().await {
            return verdict;
        }
        let expected = body_bytes(&request);
        if expected > BODY_BYTES_MAX {
            return Ok(plain(StatusCode::PAYLOAD_TOO_LARGE, "the proxy takes bodies of at most 64 MiB"));
        }
        let permits = u32::try_from(expected.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX);
        let held = self.held.clone().acquire_many_owned(permits).await.map_err(|_| Hangup::Close)?;
        let Some(whole) = self.collect(request).await? else {
            return Ok(plain(StatusCode::PAYLOAD_TOO_LARGE, "the proxy takes bodies of at most 64 MiB"));
        };
        let faults = self.faults();
        let delay = faults.latency_ms + self.seams.entropy.below(faults.jitter_ms + 1);
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        match self.choose(&faults, &whole) {
            None => self.carry(whole, false).await,
            Some(fault) => self.suffer(fault, &faults, whole, held).await,
        }
    }

    async fn outage(&self) -> Option<Result<Response<Out>, Hangup>> {
        let outage = self.faults().outage;
        if outage == Outage::None {
            return None;
        }
        add(&self.counters.outages, 1);
        match outage {
            Outage::None => None,
            Outage::Error => Some(Ok(slow_down())),
            Outage::Reset => Some(Err(Hangup::Reset)),
            Outage::Hang => {
                while self.faults().outage == Outage::Hang {
                    tokio::time::sleep(OUTAGE_POLL).await;
                }
                Some(Err(Hangup::Close))
            }
        }
    }

    fn choose(&self, faults: &Faults, whole: &Whole) -> Option<Fault> {
        let roll = self.seams.entropy.unit();
        let fault = faults.draw(roll, whole.method().as_str(), whole.uri().path())?;
        if faults.budget.is_some() {
            let mut current = self.faults.write();
            let left = current.budget?.checked_sub(1)?;
            let mut next = Faults::clone(&current);
            next.budget = Some(left);
            *current = Arc::new(next);
        }
        self.counters.fault(fault);
        Some(fault)
    }

    async fn suffer(
        self: Arc<Self>,
        fault: Fault,
        faults: &Faults,
        whole: Whole,
        held: OwnedSemaphorePermit,
    ) -> Result<Response<Out>, Hangup> {
        let stall = Duration::from_millis(faults.stall_ms);
        match fault {
            Fault::SlowDown => Ok(slow_down()),
            Fault::Reset => Err(Hangup::Reset),
            Fault::Stored503 => {
                self.carry_out(whole).await;
                Ok(slow_down())
            }
            Fault::Lost => {
                self.carry_out(whole).await;
                Err(Hangup::Close)
            }
            Fault::StallBefore => {
                tokio::time::sleep(stall).await;
                self.carry(whole, false).await
            }
            Fault::StallAfter => {
                let answer = self.carry(whole, false).await;
                tokio::time::sleep(stall).await;
                answer
            }
            Fault::Cut => self.carry(whole, true).await,
            Fault::Late => {
                let close = Duration::from_millis(faults.close_ms);
                self.deliver_later(whole, faults.late_ms, held);
                tokio::time::sleep(close).await;
                Err(Hangup::Close)
            }
        }
    }

    /// The request outlives its client. Past `LATE_MAX` of them it is dropped instead.
    fn deliver_later(self: &Arc<Self>, whole: Whole, late_ms: u64, held: OwnedSemaphorePermit) {
        let Ok(slot) = self.late.clone().try_acquire_owned() else { return };
        let wait = Duration::from_millis(self.seams.entropy.below(late_ms + 1));
        let proxy = self.clone();
        self.seams.tasks.spawn(async move {
            tokio::time::sleep(wait).await;
            if let Some(status) = proxy.carry_out(whole).await {
                proxy.counters.late(status);
            }
            drop((slot, held));
        });
    }

    /// Sends the request upstream and reads the answer to its end.
    async fn carry_out(self: &Arc<Self>, whole: Whole) -> Option<u16> {
        let method = whole.method().to_string();
        match self.upstream.send(whole).await {
            Ok((answer, lease)) => {
                let status = answer.status().as_u16();
                self.counters.answer(&method, status);
                let mut body = answer.into_body();
                while let Some(frame) = body.frame().await {
                    if frame.is_err() {
                        return Some(status);
                    }
                }
                self.upstream.keep(lease);
                Some(status)
            }
            Err(error) => {
                add(&self.counters.upstream_errors, 1);
                tracing::debug!(%error, "upstream");
                None
            }
        }
    }

    /// Sends the request upstream and the answer back, half of its body only if `cut`.
    async fn carry(self: Arc<Self>, whole: Whole, cut: bool) -> Result<Response<Out>, Hangup> {
        let method = whole.method().to_string();
        let (answer, lease) = match self.upstream.send(whole).await {
            Ok(both) => both,
            Err(error) => {
                add(&self.counters.upstream_errors, 1);
                tracing::debug!(%error, "upstream");
                return Ok(plain(StatusCode::BAD_GATEWAY, "the upstream gave no answer"));
            }
        };
        self.counters.answer(&method, answer.status().as_u16());
        let (mut head, body) = answer.into_parts();
        drop_hop_by_hop(&mut head.headers);
        if body.is_end_stream() {
            self.upstream.keep(lease);
            return Ok(Response::from_parts(head, empty()));
        }
        let size = body.size_hint().exact();
        let allowed = if cut { size.unwrap_or(0) / 2 } else { u64::MAX };
        Ok(Response::from_parts(head, self.stream(body, lease, allowed)))
    }

    fn stream(self: Arc<Self>, body: Incoming, lease: Lease, allowed: u64) -> Out {
        let proxy = self;
        let start = Some((body, lease, allowed));
        let frames = futures::stream::unfold(start, move |state| {
            let proxy = proxy.clone();
            async move {
                let (mut body, lease, allowed) = state?;
                match body.frame().await {
                    None => {
                        proxy.upstream.keep(lease);
                        None
                    }
                    Some(Err(_)) => Some((Err(Hangup::Close), None)),
                    Some(Ok(frame)) => {
                        let len = frame.data_ref().map_or(0, Bytes::len);
                        if len as u64 > allowed {
                            return Some((Err(Hangup::Close), None));
                        }
                        proxy.down.pass(len, proxy.faults().down_rate).await;
                        add(&proxy.counters.bytes_down, len as u64);
                        Some((Ok(frame), Some((body, lease, allowed - len as u64))))
                    }
                }
            }
        });
        StreamBody::new(frames).boxed_unsync()
    }

    async fn collect(&self, request: Request<Incoming>) -> Result<Option<Whole>, Hangup> {
        let (mut head, mut body) = request.into_parts();
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(Hangup::Client)?.into_data() else { continue };
            if bytes.len() + data.len() > BODY_BYTES_MAX {
                return Ok(None);
            }
            self.up.pass(data.len(), self.faults().up_rate).await;
            add(&self.counters.bytes_up, data.len() as u64);
            bytes.extend_from_slice(&data);
        }
        drop_hop_by_hop(&mut head.headers);
        if let Some(path) = head.uri.path_and_query().cloned() {
            head.uri = hyper::Uri::from(path);
        }
        Ok(Some(Request::from_parts(head, Full::new(bytes.freeze()))))
    }
}

fn body_bytes(request: &Request<Incoming>) -> usize {
    if request.body().is_end_stream() {
        return 0;
    }
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    length.unwrap_or(BODY_BYTES_MAX)
}

fn drop_hop_by_hop(headers: &mut HeaderMap) {
    const NAMES: [HeaderName; 7] = [
        header::CONNECTION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::EXPECT,
        HeaderName::from_static("keep-alive"),
    ];
    for name in NAMES {
        headers.remove(name);
    }
}

fn empty() -> Out {
    body(Bytes::new())
}

fn body(bytes: impl Into<Bytes>) -> Out {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// An answer of the proxy's own.
pub fn plain(status: StatusCode, text: &str) -> Response<Out> {
    let mut answer = Response::new(body(format!("{text}\n")));
    *answer.status_mut() = status;
    answer
}

fn slow_down() -> Response<Out> {
    let xml = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>SlowDown</Code>\
               <Message>Please reduce your request rate.</Message></Error>";
    let mut answer = Response::new(body(xml));
    *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/xml"));
    answer
}
