//! The gateway in this process: its gRPC listener, and a pipe for its way to Kafka.
//!
//! It is a client like any other: its connections count, are bounded and are asked who they are like those of all
//! clients; only their bytes do not leave the process. It drains before the Kafka edge does, which answers it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tidemark_gateway::connect::Task;
use tidemark_gateway::{Connect, Gateway, Io, Node, Surroundings, Tcp};
use tidemark_tiering::seam::Seams;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;

use crate::cluster::image::Endpoint;
use crate::server::{Server, Transport};

/// Bytes a pipe holds in each direction.
const PIPE_BYTES: usize = 256 << 10;

/// Binds `addr`; a failure is one sentence with the mend.
pub async fn bind(addr: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(addr).await.map_err(|error| {
        format!(
            "cannot listen on {addr} for gRPC: {error}; set tidemark.gateway.listen to a free address, or remove it for \
             no gateway"
        )
    })
}

/// A running gateway.
pub struct Running {
    addr: Option<SocketAddr>,
    stop: CancellationToken,
    done: JoinHandle<Option<()>>,
}

/// Serves `listener` before `server`, whose clients are told that it is at `own`.
pub fn serve(listener: TcpListener, server: &Server, own: Endpoint, seams: &Seams) -> Running {
    let addr = listener.local_addr().ok();
    let stop = CancellationToken::new();
    let (tasks, clock) = (seams.tasks.clone(), seams.clock.clone());
    let surroundings = Surroundings {
        spawn: Arc::new(move |task: Task| drop(tasks.spawn(task))),
        now: Arc::new(move || clock.wall()),
    };
    let gateway = Gateway::new(Arc::new(Pipes { server: server.clone(), own }), surroundings);
    let stopped = stop.clone().cancelled_owned();
    let done = seams.tasks.spawn(async move {
        let incoming = TcpListenerStream::new(listener);
        if let Err(error) = tidemark_gateway::serve(incoming, gateway, stopped).await {
            tracing::error!(%error, "the gateway ended");
        }
    });
    Running { addr, stop, done }
}

impl Running {
    /// Where it listens.
    pub fn addr(&self) -> Option<SocketAddr> {
        self.addr
    }

    /// Takes no new call and answers those that run; what is not done by `patience` is cut.
    pub async fn drain(&mut self, patience: Duration) {
        self.stop.cancel();
        if tokio::time::timeout(patience, &mut self.done).await.is_err() {
            tracing::warn!("gRPC calls cut: not answered within the drain time");
            self.done.abort();
        }
    }
}

/// A pipe to this broker, TCP to the others.
struct Pipes {
    server: Server,
    own: Endpoint,
}

impl Connect for Pipes {
    fn connect(&self, to: &Node) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        let here = match to {
            Node::Any => true,
            Node::At { host, port } => (host.as_str(), *port) == (self.own.host.as_str(), self.own.port),
        };
        if !here {
            return Tcp { bootstrap: String::new() }.connect(to);
        }
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let from = SocketAddr::from(([127, 0, 0, 1], 0));
        self.server.attach(Transport::stream(theirs), &self.own.listener, from);
        Box::pin(async move { Ok(Box::new(ours) as Box<dyn Io>) })
    }
}
