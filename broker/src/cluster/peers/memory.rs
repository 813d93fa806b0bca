//! Peers inside one process, for the simulator and tests: same contract as TCP, driven by tokio's time.
//!
//! Each node answers from a task of its own [`Tasks`](tidemark_tiering::seam::Tasks), so that a kill refuses
//! connections and a freeze is silence. Links can be cut, and delayed by a seeded random time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tidemark_proto::id::Position;
use tidemark_tiering::seam::{Entropy, Seams};
use tokio::sync::{mpsc, oneshot};

use super::{Answer, PeerError, PeerNet, PeerService, Question, Updates};

/// The network that some [`MemoryPeers`] share.
#[derive(Clone, Debug)]
pub struct MemoryNet(Arc<Net>);

#[derive(Debug)]
struct Net {
    nodes: Mutex<BTreeMap<String, mpsc::Sender<Call>>>,
    cuts: Mutex<BTreeSet<(String, String)>>,
    latency: Duration,
    entropy: Entropy,
}

#[derive(Debug)]
enum Call {
    Ask(Question, oneshot::Sender<Answer>),
    Follow(Position, oneshot::Sender<Option<Updates>>),
}

/// Calls that wait at a node, at most.
const QUEUE: usize = 256;

impl MemoryNet {
    /// A network whose messages take up to `latency` each way.
    pub fn new(entropy: Entropy, latency: Duration) -> MemoryNet {
        let (nodes, cuts) = (Mutex::default(), Mutex::default());
        MemoryNet(Arc::new(Net { nodes, cuts, latency, entropy }))
    }

    /// A node at `address`; its tasks are those of `seams`.
    pub fn node(&self, address: &str, seams: &Seams) -> MemoryPeers {
        MemoryPeers { net: self.clone(), address: address.to_owned(), seams: seams.clone() }
    }

    /// Nothing passes between `a` and `b` any more.
    pub fn cut(&self, a: &str, b: &str) {
        let mut cuts = self.0.cuts.lock();
        cuts.insert((a.to_owned(), b.to_owned()));
        cuts.insert((b.to_owned(), a.to_owned()));
    }

    /// Everything passes between `a` and `b` again.
    pub fn mend(&self, a: &str, b: &str) {
        let mut cuts = self.0.cuts.lock();
        cuts.remove(&(a.to_owned(), b.to_owned()));
        cuts.remove(&(b.to_owned(), a.to_owned()));
    }

    /// Everything passes again.
    pub fn heal(&self) {
        self.0.cuts.lock().clear();
    }

    async fn travel(&self, from: &str, to: &str) {
        let most = u64::try_from(self.0.latency.as_micros()).unwrap_or(0);
        if most > 0 {
            tokio::time::sleep(Duration::from_micros(self.0.entropy.below(most) + 1)).await;
        }
        if self.0.cuts.lock().contains(&(from.to_owned(), to.to_owned())) {
            std::future::pending::<()>().await;
        }
    }

    fn is_cut(&self, a: &str, b: &str) -> bool {
        self.0.cuts.lock().contains(&(a.to_owned(), b.to_owned()))
    }
}

/// One node's way to the others.
#[derive(Clone, Debug)]
pub struct MemoryPeers {
    net: MemoryNet,
    address: String,
    seams: Seams,
}

impl MemoryPeers {
    async fn call<T>(&self, to: &str, make: impl FnOnce(oneshot::Sender<T>) -> Call) -> Result<T, PeerError> {
        self.net.travel(&self.address, to).await;
        let node = self.net.0.nodes.lock().get(to).cloned();
        let (tell, told) = oneshot::channel();
        // A node whose tasks were killed dropped its end: its port is closed.
        node.ok_or(PeerError::Refused)?.send(make(tell)).await.map_err(|_| PeerError::Refused)?;
        let answer = told.await.map_err(|_| PeerError::Unreachable("it went away".to_owned()))?;
        self.net.travel(to, &self.address).await;
        Ok(answer)
    }
}

#[async_trait]
impl PeerNet for MemoryPeers {
    fn address(&self) -> String {
        self.address.clone()
    }

    fn serve(&self, service: Arc<dyn PeerService>) {
        let (tx, mut rx) = mpsc::channel(QUEUE);
        self.net.0.nodes.lock().insert(self.address.clone(), tx);
        let tasks = self.seams.tasks.clone();
        self.seams.tasks.spawn(async move {
            while let Some(call) = rx.recv().await {
                let service = service.clone();
                tasks.spawn(async move {
                    // Whoever asked may have given up.
                    match call {
                        Call::Ask(question, tell) => drop(tell.send(service.answer(question).await)),
                        Call::Follow(from, tell) => drop(tell.send(service.follow(from).await)),
                    }
                });
            }
        });
    }

    async fn ask(&self, to: &str, question: Question) -> Result<Answer, PeerError> {
        self.call(to, |tell| Call::Ask(question, tell)).await
    }

    async fn follow(&self, to: &str, from: Position) -> Result<Updates, PeerError> {
        let updates = self.call(to, |tell| Call::Follow(from, tell)).await?;
        let mut updates = updates.ok_or(PeerError::NotController)?;
        let (tx, rx) = mpsc::channel(QUEUE);
        let (net, me, to) = (self.net.clone(), self.address.clone(), to.to_owned());
        self.seams.tasks.spawn(async move {
            while let Some(update) = updates.recv().await {
                net.travel(&to, &me).await;
                if net.is_cut(&me, &to) || tx.send(update).await.is_err() {
                    return;
                }
            }
        });
        Ok(rx)
    }
}
