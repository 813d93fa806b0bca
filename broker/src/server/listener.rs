//! Listening sockets: bound first, so that the node knows its ports, and accepting later.
//!
//! A port of 0 becomes a free one. A failed bind is one sentence with the mend. Knows no protocol.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

use super::connection::Transport;
use super::{Limits, Server};

/// Where clients are told to go: one per listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Name of the listener.
    pub listener: String,
    /// Host to tell clients.
    pub host: String,
    /// Port to tell clients.
    pub port: u16,
}

/// A bound listener that does not accept yet (the kernel already queues clients).
#[derive(Debug)]
pub struct Bound {
    name: Arc<str>,
    listener: TcpListener,
    addr: SocketAddr,
}

/// Why a listener could not be bound, as one sentence that says how to mend it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BindError(String);

impl Bound {
    /// Binds `host:port` (an empty host means every address) with a queue of `backlog`. Needs a runtime.
    pub fn bind(name: &str, host: &str, port: u16, backlog: u32) -> Result<Bound, BindError> {
        let fail = |what: &str| {
            let place = if host.is_empty() { format!("*:{port}") } else { format!("{host}:{port}") };
            BindError(format!("cannot listen on {name}://{place}: {what}"))
        };
        let addr = match host {
            // Every address of both families, where the machine has both.
            "" if has_ipv6() => SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
            "" => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
            host => (host, port)
                .to_socket_addrs()
                .ok()
                .and_then(|mut found| found.next())
                .ok_or_else(|| fail("the host does not resolve; name an address of this machine"))?,
        };
        let listener = open(addr, backlog).map_err(|error| {
            fail(match error.kind() {
                io::ErrorKind::AddrInUse => "the port is in use; stop what holds it or choose another port",
                io::ErrorKind::PermissionDenied => "no permission; choose a port from 1024 upwards",
                io::ErrorKind::AddrNotAvailable => {
                    "that address is not this machine's; name one that is, or 0.0.0.0"
                }
                _ => return BindError(format!("cannot listen on {name}://{addr}: {error}")),
            })
        })?;
        let addr = listener.local_addr().map_err(|error| fail(&error.to_string()))?;
        Ok(Bound { name: Arc::from(name), listener, addr })
    }

    /// The listener's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address it is bound to, with the real port.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

fn has_ipv6() -> bool {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP));
    socket.is_ok_and(|socket| socket.bind(&SocketAddr::from((Ipv6Addr::LOCALHOST, 0)).into()).is_ok())
}

fn open(addr: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if addr.ip() == Ipv6Addr::UNSPECIFIED {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    TcpListener::from_std(socket.into())
}

/// Accepts until the server drains.
pub async fn accept(server: Server, bound: Bound) {
    let name = bound.name.to_string();
    loop {
        let accepted = tokio::select! {
            biased;
            () = server.0.drain.cancelled() => return,
            accepted = bound.listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, addr)) => {
                let wait = server.pace();
                if !wait.is_zero() {
                    tokio::select! {
                        biased;
                        () = server.0.drain.cancelled() => return,
                        () = tokio::time::sleep(wait) => {}
                    }
                }
                tune(&socket, &server.0.limits);
                server.attach(Transport::Tcp(socket), &name, addr);
            }
            Err(error) => {
                // Out of descriptors, mostly: others must end first.
                server.0.log.line(|skipped| tracing::warn!(%error, skipped, "accept failed"));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn tune(socket: &TcpStream, limits: &Limits) {
    let _ = socket.set_nodelay(true);
    let raw = SockRef::from(socket);
    let _ = raw.set_tcp_keepalive(&TcpKeepalive::new());
    if let Some(bytes) = limits.send_buffer_bytes {
        let _ = raw.set_send_buffer_size(bytes);
    }
    if let Some(bytes) = limits.receive_buffer_bytes {
        let _ = raw.set_recv_buffer_size(bytes);
    }
}
