//! An HTTP proxy that stands before a real S3 server and makes it behave like a bad day in the cloud.
//! It knows requests and bytes, not S3: signed headers pass untouched. Everything is bounded: connections,
//! bytes held, late deliveries.

pub mod control;
pub mod counters;
pub mod faults;
pub mod forward;
pub mod shape;
pub mod upstream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tidemark_tiering::seam::{Entropy, Seams, Tasks};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use faults::Faults;
use forward::{Hangup, Proxy};
use upstream::Upstream;

const CONNECTIONS_MAX: usize = 1024;
const CONTROL_CONNECTIONS_MAX: usize = 16;

/// `tidemark-bench proxy`
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Where clients connect; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// The real store, http://HOST:PORT.
    #[arg(long)]
    pub upstream: String,
    /// Where faults are changed and counters read while it runs; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub control: SocketAddr,
    /// Makes the choice of faults repeatable for one order of requests.
    #[arg(long)]
    pub seed: Option<u64>,
    /// The faults to begin with.
    #[command(flatten)]
    pub faults: Faults,
}

/// A proxy that listens.
pub struct Listening {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where it is controlled.
    pub control: SocketAddr,
    /// Its state.
    pub proxy: Arc<Proxy>,
}

/// Starts the proxy on tasks of its own.
pub async fn start(args: &Args) -> Result<Listening> {
    if let Some(why) = args.faults.fault() {
        anyhow::bail!("{why}");
    }
    let mut seams = Seams::system();
    if let Some(seed) = args.seed {
        seams.entropy = Entropy::seeded(seed);
    }
    let tasks = seams.tasks.clone();
    let upstream = Upstream::new(&args.upstream, tasks.clone())?;
    let data = bind(args.listen).await?;
    let control = bind(args.control).await?;
    let proxy = Proxy::new(upstream, args.faults.clone(), seams);
    let listening =
        Listening { listen: data.local_addr()?, control: control.local_addr()?, proxy: proxy.clone() };
    tasks.spawn(serve_data(data, proxy.clone(), tasks.clone()));
    tasks.spawn(serve_control(control, proxy, tasks.clone()));
    Ok(listening)
}

async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_data(listener: TcpListener, proxy: Arc<Proxy>, tasks: Tasks) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let stream = accept(&listener).await;
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        counters::add(&proxy.counters.connections, 1);
        let proxy = proxy.clone();
        tasks.spawn(async move {
            if let Err(error) = connection(stream, proxy).await {
                tracing::debug!(%error, "connection ended");
            }
            drop(slot);
        });
    }
}

async fn connection(stream: TcpStream, proxy: Arc<Proxy>) -> Result<()> {
    stream.set_nodelay(true)?;
    // hyper owns the stream; a second handle lets a reset be asked for, and outlives hyper's to make it.
    let stream = stream.into_std()?;
    let handle = stream.try_clone()?;
    let stream = TcpStream::from_std(stream)?;
    let reset = Arc::new(AtomicBool::new(false));
    let asked = reset.clone();
    let service = service_fn(move |request| {
        let (proxy, reset) = (proxy.clone(), reset.clone());
        async move {
            let answer = proxy.handle(request).await;
            if matches!(answer, Err(Hangup::Reset)) {
                reset.store(true, Ordering::Relaxed);
            }
            answer
        }
    });
    let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    if asked.load(Ordering::Relaxed) {
        socket2::SockRef::from(&handle).set_linger(Some(Duration::ZERO))?;
    }
    served.map_err(Into::into)
}

async fn serve_control(listener: TcpListener, proxy: Arc<Proxy>, tasks: Tasks) {
    let slots = Arc::new(Semaphore::new(CONTROL_CONNECTIONS_MAX));
    loop {
        let stream = accept(&listener).await;
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let proxy = proxy.clone();
        tasks.spawn(async move {
            let service = service_fn(move |request| control::handle(proxy.clone(), request));
            let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            if let Err(error) = served {
                tracing::debug!(%error, "control connection ended");
            }
            drop(slot);
        });
    }
}
