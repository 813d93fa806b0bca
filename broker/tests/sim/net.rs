//! The simulated network: in-process pipes with latency, cuts and resets between named places.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidemark_broker::server::{Server, Transport};
use tidemark_tiering::seam::{Entropy, Tasks};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// Somebody with a place in the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The broker in this slot.
    Broker(usize),
    /// A client.
    Client(u32),
}

/// Who can be reached by whom.
#[derive(Clone)]
pub struct Net {
    inner: Arc<Mutex<Inner>>,
    entropy: Entropy,
    tasks: Tasks,
}

struct Inner {
    doors: BTreeMap<u16, (usize, Server)>,
    cut: BTreeSet<(Place, Place)>,
    latency: Duration,
}

impl Net {
    /// A healthy network.
    pub fn new(entropy: Entropy, tasks: Tasks) -> Net {
        let inner =
            Inner { doors: BTreeMap::new(), cut: BTreeSet::new(), latency: Duration::from_micros(200) };
        Net { inner: Arc::new(Mutex::new(inner)), entropy, tasks }
    }

    /// Port of the broker in `slot`.
    pub fn port(slot: usize) -> u16 {
        9092 + u16::try_from(slot).expect("few brokers")
    }

    /// Puts a broker's edge at its port, or takes it away.
    pub fn set_door(&self, slot: usize, server: Option<Server>) {
        let mut inner = self.inner.lock();
        match server {
            Some(server) => inner.doors.insert(Net::port(slot), (slot, server)),
            None => inner.doors.remove(&Net::port(slot)),
        };
    }

    /// Cuts both directions between two places, or mends them.
    pub fn set_cut(&self, a: Place, b: Place, cut: bool) {
        let mut inner = self.inner.lock();
        for pair in [(a, b), (b, a)] {
            if cut {
                inner.cut.insert(pair)
            } else {
                inner.cut.remove(&pair)
            };
        }
    }

    /// Mends everything.
    pub fn heal(&self) {
        self.inner.lock().cut.clear();
    }

    /// Whether bytes pass from `a` to `b`.
    pub fn passes(&self, a: Place, b: Place) -> bool {
        !self.inner.lock().cut.contains(&(a, b))
    }

    /// A connection to `port`; `None` when nobody is there.
    pub fn connect(&self, from: Place, port: u16) -> Option<DuplexStream> {
        let (slot, server) = self.inner.lock().doors.get(&port).cloned()?;
        let to = Place::Broker(slot);
        if !self.passes(from, to) {
            return None;
        }
        let (client, near) = tokio::io::duplex(64 << 10);
        let (far, broker) = tokio::io::duplex(64 << 10);
        let ip = match from {
            Place::Client(n) => IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n)),
            Place::Broker(n) => IpAddr::V4(Ipv4Addr::from(0x0a01_0000 + u32::try_from(n).expect("few"))),
        };
        server.attach(Transport::stream(broker), "PLAINTEXT", SocketAddr::new(ip, 40_000));
        let (near_read, near_write) = tokio::io::split(near);
        let (far_read, far_write) = tokio::io::split(far);
        self.tasks.spawn(self.clone().pump(from, to, near_read, far_write));
        self.tasks.spawn(self.clone().pump(to, from, far_read, near_write));
        Some(client)
    }

    async fn pump(
        self,
        from: Place,
        to: Place,
        mut read: tokio::io::ReadHalf<DuplexStream>,
        mut write: tokio::io::WriteHalf<DuplexStream>,
    ) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let Ok(n) = read.read(&mut buffer).await else { return };
            if n == 0 {
                write.shutdown().await.ok();
                return;
            }
            let latency = self.inner.lock().latency;
            tokio::time::sleep(latency + latency.mul_f64(self.entropy.unit())).await;
            // What is sent into a cut is held back, as TCP would; a long one is for the client's timeout.
            while !self.passes(from, to) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            if write.write_all(&buffer[..n]).await.is_err() {
                return;
            }
        }
    }
}
