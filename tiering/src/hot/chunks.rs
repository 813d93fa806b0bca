//! The chunk cache: 1 MiB pieces of objects in the bucket, kept in memory and, if there is a disk, on it.
//!
//! A chunk's key is an object's name, which is never given twice, and a number: its bytes never change, so a
//! cache can only be right or empty. What comes back from a disk is checked here; whoever serves batches still
//! checks theirs (R27). A cache is never the only copy of anything.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

pub use super::hybrid::Hybrid;

/// Size of a chunk; the last one of an object may be shorter.
pub const CHUNK: u64 = 1 << 20;

/// A chunk of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkKey {
    /// The object's key in the bucket.
    pub object: Arc<str>,
    /// Bytes `number * CHUNK` and on.
    pub number: u32,
}

/// How large a chunk cache may be.
#[derive(Clone, Debug)]
pub struct ChunkConfig {
    /// Bytes in memory.
    pub memory: usize,
    /// Where on a disk, and how many bytes; `None` for memory only.
    pub disk: Option<(PathBuf, u64)>,
}

/// What a chunk cache holds and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkStats {
    /// Lookups answered from memory.
    pub memory_hits: u64,
    /// Lookups answered from the disk.
    pub disk_hits: u64,
    /// Lookups not answered.
    pub misses: u64,
    /// Chunks that came back damaged from the disk, or not at all.
    pub damaged: u64,
    /// Bytes in memory.
    pub memory_bytes: u64,
}

/// A cache of chunks.
#[async_trait]
pub trait ChunkCache: Send + Sync + fmt::Debug {
    /// The chunk, if it is in memory.
    fn peek(&self, key: &ChunkKey) -> Option<Bytes>;

    /// The chunk, if it is held at all.
    async fn get(&self, key: &ChunkKey) -> Option<Bytes>;

    /// Offers a chunk that was just read. A chunk that is held already stays as it is.
    fn insert(&self, key: ChunkKey, bytes: Bytes);

    /// Counters.
    fn stats(&self) -> ChunkStats;

    /// Why the cache works less well than configured, for an alarm.
    fn alarm(&self) -> Option<String>;

    /// Finishes writing; lookups may go on, inserts are lost.
    async fn close(&self);
}

/// Opens the cache that `config` asks for. A disk that cannot be used costs an alarm and nothing else: the
/// cache is then in memory only.
pub async fn open(config: &ChunkConfig) -> Arc<dyn ChunkCache> {
    let Some((directory, bytes)) = &config.disk else { return Arc::new(MemoryChunks::new(config.memory)) };
    match Hybrid::open(directory, config.memory, *bytes).await {
        Ok(cache) => Arc::new(cache),
        Err(why) => {
            let why = format!("the cache disk at {} cannot be used: {why}", directory.display());
            tracing::error!(why, "caching in memory only");
            Arc::new(MemoryChunks { alarm: Some(why), ..MemoryChunks::new(config.memory) })
        }
    }
}

/// A cache in memory: least recently used goes first. Deterministic.
#[derive(Debug)]
pub struct MemoryChunks {
    capacity: usize,
    held: Mutex<Held>,
    alarm: Option<String>,
}

#[derive(Debug, Default)]
struct Held {
    chunks: BTreeMap<ChunkKey, (u64, Bytes)>,
    /// Keys by last use.
    used: BTreeMap<u64, ChunkKey>,
    tick: u64,
    bytes: usize,
    stats: ChunkStats,
}

impl MemoryChunks {
    /// A cache of at most `capacity` bytes.
    pub fn new(capacity: usize) -> MemoryChunks {
        MemoryChunks { capacity, held: Mutex::default(), alarm: None }
    }
}

impl Held {
    fn touch(&mut self, key: &ChunkKey) -> Option<Bytes> {
        let (used, bytes) = self.chunks.get_mut(key)?;
        let bytes = bytes.clone();
        self.tick += 1;
        self.used.remove(used);
        *used = self.tick;
        self.used.insert(self.tick, key.clone());
        Some(bytes)
    }
}

#[async_trait]
impl ChunkCache for MemoryChunks {
    fn peek(&self, key: &ChunkKey) -> Option<Bytes> {
        let mut held = self.held.lock();
        let found = held.touch(key);
        held.stats.memory_hits += u64::from(found.is_some());
        found
    }

    async fn get(&self, key: &ChunkKey) -> Option<Bytes> {
        let found = self.peek(key);
        self.held.lock().stats.misses += u64::from(found.is_none());
        found
    }

    fn insert(&self, key: ChunkKey, bytes: Bytes) {
        let mut held = self.held.lock();
        if bytes.len() > self.capacity || held.chunks.contains_key(&key) {
            return;
        }
        held.tick += 1;
        let tick = held.tick;
        held.bytes += bytes.len();
        held.used.insert(tick, key.clone());
        held.chunks.insert(key, (tick, bytes));
        while held.bytes > self.capacity {
            let Some((_, oldest)) = held.used.pop_first() else { break };
            if let Some((_, bytes)) = held.chunks.remove(&oldest) {
                held.bytes -= bytes.len();
            }
        }
    }

    fn stats(&self) -> ChunkStats {
        let held = self.held.lock();
        ChunkStats { memory_bytes: held.bytes as u64, ..held.stats }
    }

    fn alarm(&self) -> Option<String> {
        self.alarm.clone()
    }

    async fn close(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> ChunkKey {
        ChunkKey { object: "run/a/b".into(), number }
    }

    #[tokio::test]
    async fn the_least_recently_used_chunk_goes_first() {
        let cache = MemoryChunks::new(300);
        for n in 0..3 {
            cache.insert(key(n), Bytes::from(vec![n as u8; 100]));
        }
        assert!(cache.get(&key(0)).await.is_some());
        cache.insert(key(3), Bytes::from(vec![3; 100]));
        assert!(cache.get(&key(1)).await.is_none());
        for n in [0, 2, 3] {
            assert_eq!(cache.get(&key(n)).await.unwrap(), vec![n as u8; 100]);
        }
        let stats = cache.stats();
        assert_eq!((stats.memory_hits, stats.misses, stats.memory_bytes), (4, 1, 300));
    }

    #[tokio::test]
    async fn a_held_chunk_is_never_replaced_and_a_giant_is_not_kept() {
        let cache = MemoryChunks::new(300);
        cache.insert(key(0), Bytes::from_static(b"first"));
        cache.insert(key(0), Bytes::from_static(b"second"));
        cache.insert(key(1), Bytes::from(vec![0; 301]));
        assert_eq!(cache.get(&key(0)).await.unwrap(), "first");
        assert!(cache.get(&key(1)).await.is_none());
    }

    #[tokio::test]
    async fn a_disk_that_cannot_be_used_costs_an_alarm_and_nothing_else() {
        let disk = Some((PathBuf::from("/proc/self/cache"), 1 << 30));
        let cache = open(&ChunkConfig { memory: 1 << 20, disk }).await;
        cache.insert(key(0), Bytes::from_static(b"chunk"));
        assert_eq!(cache.get(&key(0)).await.unwrap(), "chunk");
        assert!(cache.alarm().unwrap().contains("/proc/self/cache"));
    }
}
