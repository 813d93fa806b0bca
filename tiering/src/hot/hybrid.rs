//! The chunk cache on memory and NVMe. The only file that names foyer.
//!
//! Rules that keep foyer's known faults out of reach: keys are immutable, nothing is ever removed, and a key
//! that is held is not inserted again. Its silent losses (a burst drops writes) are only misses. A chunk
//! carries its own checksum.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use foyer::{
    BlockEngineConfig, Code, DeviceBuilder, FsDeviceBuilder, HybridCache, HybridCacheBuilder,
    HybridCachePolicy, RecoverMode, Source,
};

use super::chunks::{CHUNK, ChunkCache, ChunkKey, ChunkStats};

/// A cache in memory and on a disk.
#[derive(Debug)]
pub struct Hybrid {
    cache: HybridCache<ChunkKey, Chunk>,
    directory: PathBuf,
    memory_hits: AtomicU64,
    disk_hits: AtomicU64,
    misses: AtomicU64,
    damaged: AtomicU64,
}

#[derive(Clone, Debug)]
struct Chunk {
    crc: u32,
    bytes: Bytes,
}

/// The disk is divided into blocks; a chunk lies within one.
const BLOCK: u64 = 64 << 20;
const SMALL_BLOCK: u64 = 16 << 20;
/// Bytes that may wait to be written; beyond, foyer drops them.
const WAITING: usize = 64 << 20;
/// Free space on the disk below which an alarm is due.
const ROOM: u64 = 256 << 20;

impl Hybrid {
    /// Opens the cache in `directory`, with what it held before.
    pub async fn open(directory: &Path, memory: usize, disk: u64) -> io::Result<Hybrid> {
        std::fs::create_dir_all(directory)?;
        writable(directory)?;
        let block = if disk >= 16 * BLOCK { BLOCK } else { SMALL_BLOCK };
        let disk = disk.max(4 * SMALL_BLOCK) / block * block;
        let size = |bytes: u64| usize::try_from(bytes).map_err(io::Error::other);
        let device = FsDeviceBuilder::new(directory).with_capacity(size(disk)?).build();
        let engine = BlockEngineConfig::new(device.map_err(io::Error::other)?)
            .with_block_size(size(block)?)
            .with_submit_queue_size_threshold(WAITING);
        let cache = HybridCacheBuilder::new()
            .with_name("chunks")
            .with_policy(HybridCachePolicy::WriteOnInsertion)
            .memory(memory)
            // A shard keeps its newest chunk whatever its share is.
            .with_shards((memory / (16 << 20)).clamp(1, 8))
            .with_weighter(|key: &ChunkKey, chunk: &Chunk| key.object.len() + chunk.bytes.len() + 64)
            .storage()
            .with_engine_config(engine)
            .with_recover_mode(RecoverMode::Quiet)
            .build()
            .await
            .map_err(io::Error::other)?;
        Ok(Hybrid {
            cache,
            directory: directory.to_owned(),
            memory_hits: AtomicU64::new(0),
            disk_hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
        })
    }
}

fn writable(directory: &Path) -> io::Result<()> {
    let proof = directory.join(".tidemark-write-test");
    std::fs::write(&proof, b"x")?;
    std::fs::remove_file(&proof)
}

#[async_trait]
impl ChunkCache for Hybrid {
    fn peek(&self, key: &ChunkKey) -> Option<Bytes> {
        let found = self.cache.memory().get(key)?;
        self.memory_hits.fetch_add(1, Ordering::Relaxed);
        Some(found.value().bytes.clone())
    }

    async fn get(&self, key: &ChunkKey) -> Option<Bytes> {
        let (count, found) = match self.cache.get(key).await {
            Ok(Some(entry)) if entry.source() == Source::Disk => {
                let chunk = entry.value();
                match crc32c::crc32c(&chunk.bytes) == chunk.crc {
                    true => (&self.disk_hits, Some(chunk.bytes.clone())),
                    false => (&self.damaged, None),
                }
            }
            Ok(Some(entry)) => (&self.memory_hits, Some(entry.value().bytes.clone())),
            Ok(None) => (&self.misses, None),
            Err(error) => {
                tracing::warn!(%error, "the cache disk failed to read a chunk");
                (&self.damaged, None)
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
        found
    }

    fn insert(&self, key: ChunkKey, bytes: Bytes) {
        if bytes.len() as u64 > CHUNK || self.cache.memory().contains(&key) {
            return;
        }
        let crc = crc32c::crc32c(&bytes);
        self.cache.insert(key, Chunk { crc, bytes });
    }

    fn stats(&self) -> ChunkStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ChunkStats {
            memory_hits: read(&self.memory_hits),
            disk_hits: read(&self.disk_hits),
            misses: read(&self.misses),
            damaged: read(&self.damaged),
            memory_bytes: self.cache.memory().usage() as u64,
        }
    }

    fn alarm(&self) -> Option<String> {
        let shown = self.directory.display();
        match rustix::fs::statvfs(&self.directory) {
            Err(e) => Some(format!("the cache disk at {shown} is gone: {e}")),
            Ok(disk) if disk.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) => {
                Some(format!("the cache disk at {shown} is read-only"))
            }
            Ok(disk) if disk.f_bavail * disk.f_frsize < ROOM => {
                Some(format!("the cache disk at {shown} is nearly full"))
            }
            Ok(_) => None,
        }
    }

    async fn close(&self) {
        if let Err(error) = self.cache.close().await {
            tracing::warn!(%error, "the cache disk failed to close");
        }
    }
}

impl Code for ChunkKey {
    fn encode(&self, writer: &mut impl Write) -> foyer::Result<()> {
        let len = u32::try_from(self.object.len()).unwrap_or(u32::MAX);
        let mut put = |bytes: &[u8]| writer.write_all(bytes).map_err(foyer::Error::io_error);
        put(&len.to_be_bytes())?;
        put(self.object.as_bytes())?;
        put(&self.number.to_be_bytes())
    }

    fn decode(reader: &mut impl Read) -> foyer::Result<Self> {
        let len = u32_from(reader)?;
        let object = String::from_utf8(bytes_from(reader, u64::from(len), 1024)?).map_err(damaged)?;
        Ok(ChunkKey { object: Arc::from(object), number: u32_from(reader)? })
    }

    fn estimated_size(&self) -> usize {
        self.object.len() + 8
    }
}

impl Code for Chunk {
    fn encode(&self, writer: &mut impl Write) -> foyer::Result<()> {
        let len = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        let mut put = |bytes: &[u8]| writer.write_all(bytes).map_err(foyer::Error::io_error);
        put(&self.crc.to_be_bytes())?;
        put(&len.to_be_bytes())?;
        put(&self.bytes)
    }

    fn decode(reader: &mut impl Read) -> foyer::Result<Self> {
        let (crc, len) = (u32_from(reader)?, u32_from(reader)?);
        Ok(Chunk { crc, bytes: Bytes::from(bytes_from(reader, u64::from(len), CHUNK)?) })
    }

    fn estimated_size(&self) -> usize {
        self.bytes.len() + 8
    }
}

fn u32_from(reader: &mut impl Read) -> foyer::Result<u32> {
    let mut raw = [0; 4];
    reader.read_exact(&mut raw).map_err(foyer::Error::io_error)?;
    Ok(u32::from_be_bytes(raw))
}

fn bytes_from(reader: &mut impl Read, len: u64, most: u64) -> foyer::Result<Vec<u8>> {
    if len > most {
        return Err(damaged("a length beyond any that is written"));
    }
    let mut bytes = vec![0; len as usize];
    reader.read_exact(&mut bytes).map_err(foyer::Error::io_error)?;
    Ok(bytes)
}

fn damaged(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> foyer::Error {
    foyer::Error::io_error(io::Error::new(io::ErrorKind::InvalidData, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> ChunkKey {
        ChunkKey { object: "run/abcd/0-some-uuid".into(), number }
    }

    fn bytes(number: u32) -> Bytes {
        (0..CHUNK as u32).map(|i| (i ^ number) as u8).collect::<Vec<u8>>().into()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn chunks_come_back_from_the_disk_after_memory_and_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Hybrid::open(dir.path(), 4 << 20, 256 << 20).await.unwrap();
        for n in 0..32 {
            // Paced: what comes faster than the disk takes it is let go of, which is not what is tested here.
            cache.insert(key(n), bytes(n));
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        cache.close().await;
        drop(cache);
        let cache = Hybrid::open(dir.path(), 4 << 20, 256 << 20).await.unwrap();
        for n in 0..32 {
            assert!(cache.get(&key(n)).await.is_none_or(|held| held == bytes(n)), "{n}");
        }
        let stats = cache.stats();
        assert!(stats.disk_hits >= 24, "{stats:?}");
        assert!(stats.memory_bytes <= 4 << 20, "{stats:?}");
        assert!(cache.peek(&key(1000)).is_none() && cache.get(&key(1000)).await.is_none());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn damage_on_the_disk_is_a_miss() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Hybrid::open(dir.path(), 4 << 20, 128 << 20).await.unwrap();
        for n in 0..16 {
            cache.insert(key(n), bytes(n));
        }
        cache.close().await;
        drop(cache);
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let path = entry.unwrap().path();
            let mut held = std::fs::read(&path).unwrap();
            held.iter_mut().skip(8192 + 5000).step_by(700_001).for_each(|b| *b ^= 0x10);
            std::fs::write(&path, held).unwrap();
        }
        let cache = Hybrid::open(dir.path(), 4 << 20, 128 << 20).await.unwrap();
        for n in 0..16 {
            assert!(cache.get(&key(n)).await.is_none_or(|held| held == bytes(n)), "{n}");
        }
    }

    #[test]
    fn lengths_from_the_disk_are_bounded_before_memory_is_taken() {
        let mut huge = vec![0; 4];
        huge.extend([0xff; 4]);
        assert!(Chunk::decode(&mut &huge[..]).is_err());
        assert!(ChunkKey::decode(&mut &[0xff; 4][..]).is_err());
    }
}
