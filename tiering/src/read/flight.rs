//! One flight per chunk: whoever wants a chunk that is on its way waits for it; nobody fetches it twice.
//!
//! Flights run on tasks of their own, so a reader that goes away takes nothing from the others. A flight looks
//! in the cache first, then joins its missing neighbours into one request, and lands in the cache before it
//! is forgotten.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::watch;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Reader;
use crate::bucket::{Kind, Patience, Span};
use crate::error::Error;
use crate::hot::chunks::{CHUNK, ChunkKey};

type Landed = Option<Result<Bytes, Error>>;

/// Chunks on their way.
type Air = BTreeMap<ChunkKey, watch::Receiver<Landed>>;

#[derive(Debug)]
pub(super) struct Flights {
    air: Mutex<Air>,
    all: Arc<Semaphore>,
    ahead: Arc<Semaphore>,
}

/// Chunks to fetch and where to say so.
type Plan = Vec<(u32, watch::Sender<Landed>)>;

/// What flights ahead hold on to until all of them have landed.
type Budget = Option<OwnedSemaphorePermit>;

impl Flights {
    pub(super) fn new(all: usize, ahead: usize) -> Flights {
        Flights {
            air: Mutex::default(),
            all: Arc::new(Semaphore::new(all.max(1))),
            ahead: Arc::new(Semaphore::new(ahead)),
        }
    }

    #[cfg(test)]
    pub(super) fn flying(&self) -> usize {
        self.air.lock().len()
    }
}

impl Reader {
    /// Joins or starts the flights of chunks.
    pub(super) fn join(
        &self,
        kind: Kind,
        object: &Arc<str>,
        numbers: Vec<u32>,
        size: Option<u64>,
    ) -> Vec<(u32, impl Future<Output = Result<Bytes, Error>> + use<>)> {
        let mut plan = Plan::new();
        let mut joined = Vec::with_capacity(numbers.len());
        let mut air = self.0.flights.air.lock();
        for number in numbers {
            let key = ChunkKey { object: object.clone(), number };
            let flying = air.get(&key).cloned();
            joined.push((number, landed(flying.unwrap_or_else(|| depart(&mut air, &mut plan, key)))));
        }
        drop(air);
        self.launch(kind, object, plan, size, None);
        joined
    }

    /// Starts the flights of chunks that nobody asked for yet, of all that are not on their way or of none: a part of a
    /// request costs as much as all of it. Whether there was budget for them.
    pub(super) fn ahead(&self, kind: Kind, object: &Arc<str>, numbers: Vec<u32>, size: u64) -> bool {
        let mut plan = Plan::new();
        let mut air = self.0.flights.air.lock();
        let key = |number| ChunkKey { object: object.clone(), number };
        let fresh: Vec<ChunkKey> =
            numbers.into_iter().map(key).filter(|key| !air.contains_key(key)).collect();
        let permits = u32::try_from(fresh.len()).unwrap_or(u32::MAX);
        let Ok(budget) = self.0.flights.ahead.clone().try_acquire_many_owned(permits) else { return false };
        fresh.into_iter().for_each(|key| drop(depart(&mut air, &mut plan, key)));
        drop(air);
        self.launch(kind, object, plan, Some(size), Some(budget));
        true
    }

    fn launch(&self, kind: Kind, object: &Arc<str>, plan: Plan, size: Option<u64>, budget: Budget) {
        if plan.is_empty() {
            return;
        }
        let (reader, object) = (self.clone(), object.clone());
        self.0.seams.tasks.spawn(async move { reader.fly(kind, object, plan, size, budget).await });
    }

    async fn fly(&self, kind: Kind, object: Arc<str>, plan: Plan, size: Option<u64>, budget: Budget) {
        let budget = Arc::new(budget);
        let mut run = Plan::new();
        for (number, sender) in plan {
            let key = ChunkKey { object: object.clone(), number };
            if let Some(bytes) = self.0.cache.get(&key).await {
                self.land(key, sender, Ok(bytes));
                continue;
            }
            let neighbour = run.last().is_none_or(|(last, _)| last + 1 == number);
            if !neighbour || run.len() >= self.0.config.chunks_per_get {
                self.request(kind, &object, std::mem::take(&mut run), size, &budget);
            }
            run.push((number, sender));
        }
        self.request(kind, &object, run, size, &budget);
    }

    /// Fetches neighbours by one request, on a task of its own.
    fn request(&self, kind: Kind, object: &Arc<str>, run: Plan, size: Option<u64>, budget: &Arc<Budget>) {
        let Some((first, _)) = run.first() else { return };
        let start = u64::from(*first) * CHUNK;
        let end = (start + run.len() as u64 * CHUNK).min(size.unwrap_or(u64::MAX)).max(start + 1);
        let (reader, object, budget) = (self.clone(), object.clone(), budget.clone());
        self.0.seams.tasks.spawn(async move {
            // Never closed; a run larger than the whole budget takes all of it.
            let permits = run.len().min(reader.0.config.chunks_in_flight.max(1)) as u32;
            let _permits = reader.0.flights.all.acquire_many(permits).await;
            let patience = Patience::Tries(reader.0.config.tries);
            let fetched = reader.0.bucket.get(kind, &object, Span::Range(start..end), patience).await;
            let fetched = match fetched {
                Ok(Some(fetched)) => Ok(fetched.bytes),
                Ok(None) => Err(Error::Gone { key: object.to_string() }),
                Err(error) => Err(error),
            };
            let alone = run.len() == 1;
            for (i, (number, sender)) in run.into_iter().enumerate() {
                let key = ChunkKey { object: object.clone(), number };
                let chunk = fetched.clone().map(|bytes| part(&bytes, i, alone));
                if let Ok(bytes) = &chunk {
                    // A chunk that ends early is the last one, or the object is damaged: the reader tells.
                    reader.0.cache.insert(key.clone(), bytes.clone());
                }
                reader.land(key, sender, chunk);
            }
            drop(budget);
        });
    }

    fn land(&self, key: ChunkKey, sender: watch::Sender<Landed>, chunk: Result<Bytes, Error>) {
        self.0.flights.air.lock().remove(&key);
        sender.send_replace(Some(chunk));
    }
}

/// Chunk `i` of what one request brought; copied, so that a cached chunk does not hold on to its neighbours.
fn part(bytes: &Bytes, i: usize, alone: bool) -> Bytes {
    if alone {
        return bytes.clone();
    }
    let chunk = CHUNK as usize;
    Bytes::copy_from_slice(&bytes[(i * chunk).min(bytes.len())..((i + 1) * chunk).min(bytes.len())])
}

/// A new flight.
fn depart(air: &mut Air, plan: &mut Plan, key: ChunkKey) -> watch::Receiver<Landed> {
    let (sender, receiver) = watch::channel(None);
    plan.push((key.number, sender));
    air.insert(key, receiver.clone());
    receiver
}

async fn landed(mut receiver: watch::Receiver<Landed>) -> Result<Bytes, Error> {
    match receiver.wait_for(Option::is_some).await {
        Ok(landed) => landed.clone().unwrap_or_else(|| Err(Error::Retry("no answer".to_owned()))),
        // The process is ending, or its tasks were killed.
        Err(_) => Err(Error::Retry("the read was given up".to_owned())),
    }
}
