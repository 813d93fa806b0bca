//! Connections to the real store, kept for re-use. A request is sent once: again only if hyper proves that
//! not a byte of it went out.

use std::sync::atomic::AtomicU64;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tidemark_tiering::seam::Tasks;
use tokio::net::TcpStream;

use super::counters::add;

const IDLE_MAX: usize = 128;

type Sender = SendRequest<Full<Bytes>>;

/// A pool of HTTP/1.1 connections to one address.
pub struct Upstream {
    address: String,
    tasks: Tasks,
    idle: Mutex<Vec<Sender>>,
    opened: AtomicU64,
}

/// A connection to give back when its answer has been read.
pub struct Lease(Sender);

impl Upstream {
    /// `http://host:port` or `host:port`.
    pub fn new(url: &str, tasks: Tasks) -> Result<Upstream> {
        let address = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
        anyhow::ensure!(
            !address.contains('/') && address.contains(':'),
            "the upstream {url} must be http://HOST:PORT (the proxy speaks plain HTTP only)"
        );
        Ok(Upstream {
            address: address.to_owned(),
            tasks,
            idle: Mutex::new(Vec::new()),
            opened: AtomicU64::new(0),
        })
    }

    /// Sends and waits for the head of the answer.
    pub async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<(Response<Incoming>, Lease)> {
        loop {
            let pooled = self.idle.lock().pop();
            let fresh = pooled.is_none();
            let mut sender = match pooled {
                Some(sender) => sender,
                None => self.connect().await?,
            };
            if sender.ready().await.is_err() {
                anyhow::ensure!(!fresh, "the upstream closed a new connection at once");
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(answer) => return Ok((answer, Lease(sender))),
                Err(mut refused) => match refused.take_message() {
                    Some(unsent) if !fresh => request = unsent,
                    _ => return Err(refused.into_error().into()),
                },
            }
        }
    }

    /// Takes a connection back.
    pub fn keep(&self, lease: Lease) {
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_MAX && !lease.0.is_closed() {
            idle.push(lease.0);
        }
    }

    async fn connect(&self) -> Result<Sender> {
        let stream = TcpStream::connect(&self.address)
            .await
            .with_context(|| format!("cannot reach the upstream {}", self.address))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        add(&self.opened, 1);
        self.tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        Ok(sender)
    }
}
