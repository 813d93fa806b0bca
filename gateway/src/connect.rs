//! What the gateway asks of whoever hosts it: connections, tasks and the time.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use futures::future::BoxFuture;
use tidemark_proto::id::Millis;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A byte stream to a broker.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Which broker is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// Any broker: where metadata is asked for.
    Any,
    /// The one that listens there, as metadata says.
    At {
        /// Host name or address.
        host: String,
        /// Port.
        port: u16,
    },
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::Any => f.write_str("any broker"),
            Node::At { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// Opens connections. A broker that hosts the gateway gives one end of a pipe for [`Node::Any`], and for
/// its own address.
pub trait Connect: Send + Sync + 'static {
    /// Opens one connection.
    fn connect(&self, to: &Node) -> BoxFuture<'static, io::Result<Box<dyn Io>>>;
}

/// Connections over TCP.
#[derive(Clone, Debug)]
pub struct Tcp {
    /// `host:port` of a broker to begin with.
    pub bootstrap: String,
}

impl Connect for Tcp {
    fn connect(&self, to: &Node) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        let address = match to {
            Node::Any => self.bootstrap.clone(),
            Node::At { host, port } => match host.contains(':') {
                true => format!("[{host}]:{port}"),
                false => format!("{host}:{port}"),
            },
        };
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Io>)
        })
    }
}

/// A future that a host runs on a task.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send + 'static>>;

/// The host's tasks and clock.
#[derive(Clone)]
pub struct Surroundings {
    /// Runs a future on a task of its own.
    pub spawn: Arc<dyn Fn(Task) + Send + Sync>,
    /// The wall clock, for records without a timestamp.
    pub now: Arc<dyn Fn() -> Millis + Send + Sync>,
}

impl fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Surroundings")
    }
}
