//! Looks partitions up in the objects of runs: root and pages are cached, batches are not.
//!
//! R27: every page is checked against the root's CRC of it, the root against the header's; what a look-up gives
//! is checked batch by batch with [`verify_slice`] by whoever reads the bytes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tidemark_proto::id::{ClusterId, Offset, TopicPartition};
use tidemark_proto::record::view::Batches;

use super::entry::{Partition, parse_page};
use super::root::{MAGIC, Page, Root};
use crate::bucket::{Bucket, Fetched, Kind, Patience, Span};
use crate::error::Error;
use crate::format::tail::{Split, TRAILER_LEN, split};
use crate::format::{self, Damage, HEADER_LEN, Header};
use crate::parcel::Extent;

/// Bytes of pages and roots kept.
const CACHED: usize = 64 << 20;
/// What the first read of an object takes: nearly every root, and the last pages with it.
const TAIL: u64 = 64 << 10;

/// Reads runs of one bucket.
#[derive(Debug)]
pub struct Reader {
    bucket: Bucket,
    cluster: ClusterId,
    cache: Mutex<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    roots: BTreeMap<String, Arc<Root>>,
    pages: BTreeMap<(String, usize), Arc<Vec<Arc<Partition>>>>,
    order: VecDeque<(String, Option<usize>, usize)>,
    bytes: usize,
}

impl Reader {
    /// A reader with an empty cache.
    pub fn new(bucket: Bucket, cluster: ClusterId) -> Reader {
        Reader { bucket, cluster, cache: Mutex::default() }
    }

    /// The entries of `of` in the object at `key`, by offset: more than one where another lane held the
    /// partition in between, or where it did not fit.
    pub async fn find(&self, key: &str, of: TopicPartition) -> Result<Vec<Arc<Partition>>, Error> {
        let root = self.root(key).await?;
        let mut found = Vec::new();
        for (at, page) in root.pages_of(of) {
            let entries = self.page(key, at, page).await?;
            found.extend(entries.iter().filter(|entry| entry.of == of).cloned());
        }
        found.sort_by_key(|entry| entry.base_offset);
        Ok(found)
    }

    /// Every entry of the object at `key`.
    pub async fn entries(&self, key: &str) -> Result<Vec<Arc<Partition>>, Error> {
        let root = self.root(key).await?;
        let mut found = Vec::new();
        for (at, page) in root.pages.iter().enumerate() {
            found.extend(self.page(key, at, page).await?.iter().cloned());
        }
        Ok(found)
    }

    /// The verified bytes of an extent of the object at `key`.
    pub async fn bytes(&self, key: &str, extent: Extent) -> Result<Bytes, Error> {
        let range = extent.position..extent.position + extent.length;
        let fetched = self.fetch(key, Span::Range(range)).await?;
        verify_slice(&fetched.bytes, extent).map_err(|damage| damage.at(key))?;
        Ok(fetched.bytes)
    }

    /// The root page of the object at `key`.
    pub async fn root(&self, key: &str) -> Result<Arc<Root>, Error> {
        if let Some(root) = self.cache.lock().roots.get(key) {
            return Ok(root.clone());
        }
        let mut fetched = self.fetch(key, Span::Tail(TAIL)).await?;
        let at = |damage: Damage| damage.at(key);
        if let Split::Needs(tail) = parse_tail(&fetched).map_err(at)? {
            fetched = self.fetch(key, Span::Tail(tail)).await?;
        }
        let Split::Whole(header, bytes, position) = parse_tail(&fetched).map_err(at)? else {
            return Err(Damage::new("its root's length changed between two reads").at(key));
        };
        if header.cluster != self.cluster {
            let (found, ours) = (header.cluster, self.cluster);
            return Err(Damage::new(format!("belongs to cluster {found}, not {ours}")).at(key));
        }
        let root = Arc::new(Root::parse(bytes, position).map_err(at)?);
        self.keep_pages(key, &root, &fetched).map_err(at)?;
        self.cache.lock().keep_root(key, root.clone(), bytes.len());
        Ok(root)
    }

    /// The pages that came with the root.
    fn keep_pages(&self, key: &str, root: &Root, fetched: &Fetched) -> Result<(), Damage> {
        for (at, page) in root.pages.iter().enumerate().filter(|(_, page)| page.position >= fetched.start) {
            let from = (page.position - fetched.start) as usize;
            let Some(bytes) = fetched.bytes.get(from..from + page.length as usize) else { continue };
            let entries = Arc::new(read_page(bytes, page)?.into_iter().map(Arc::new).collect::<Vec<_>>());
            self.cache.lock().keep_page(key, at, entries, page.length as usize);
        }
        Ok(())
    }

    /// The entries of page `at` of the object at `key`.
    pub async fn page(&self, key: &str, at: usize, page: &Page) -> Result<Arc<Vec<Arc<Partition>>>, Error> {
        if let Some(entries) = self.cache.lock().pages.get(&(key.to_owned(), at)) {
            return Ok(entries.clone());
        }
        let range = page.position..page.position + u64::from(page.length);
        let fetched = self.fetch(key, Span::Range(range)).await?;
        let entries = read_page(&fetched.bytes, page).map_err(|damage| damage.at(key))?;
        let entries = Arc::new(entries.into_iter().map(Arc::new).collect::<Vec<_>>());
        self.cache.lock().keep_page(key, at, entries.clone(), page.length as usize);
        Ok(entries)
    }

    async fn fetch(&self, key: &str, span: Span) -> Result<Fetched, Error> {
        let fetched = self.bucket.get(Kind::Run, key, span, Patience::Forever).await?;
        fetched.ok_or_else(|| Error::Gone { key: key.to_owned() })
    }
}

impl Cache {
    fn keep_root(&mut self, key: &str, root: Arc<Root>, bytes: usize) {
        if self.roots.insert(key.to_owned(), root).is_none() {
            self.kept((key.to_owned(), None, bytes));
        }
    }

    fn keep_page(&mut self, key: &str, at: usize, entries: Arc<Vec<Arc<Partition>>>, bytes: usize) {
        if self.pages.insert((key.to_owned(), at), entries).is_none() {
            self.kept((key.to_owned(), Some(at), bytes));
        }
    }

    fn kept(&mut self, what: (String, Option<usize>, usize)) {
        self.bytes += what.2;
        self.order.push_back(what);
        while self.bytes > CACHED {
            let Some((key, page, bytes)) = self.order.pop_front() else { break };
            self.bytes -= bytes;
            match page {
                None => drop(self.roots.remove(&key)),
                Some(at) => drop(self.pages.remove(&(key, at))),
            }
        }
    }
}

fn parse_tail(fetched: &Fetched) -> Result<Split<'_>, Damage> {
    split(&fetched.bytes, fetched.size, format::Kind::Run, MAGIC)
}

fn read_page(bytes: &[u8], page: &Page) -> Result<Vec<Partition>, Damage> {
    let found = crc32c::crc32c(bytes);
    if found != page.crc || bytes.len() != page.length as usize {
        return Err(Damage::new(format!("page at {}: CRC32C is {found:08x}", page.position)));
    }
    let entries = parse_page(bytes)?;
    let fences = entries.first().map(Partition::place).zip(entries.last().map(Partition::place));
    if fences != Some((page.first, page.last)) {
        return Err(Damage::new(format!("page at {}: not between its fences", page.position)));
    }
    Ok(entries)
}

/// Checks that `bytes` are the whole batches of `extent`: offsets rise within it, every CRC is true (R27).
pub fn verify_slice(bytes: &Bytes, extent: Extent) -> Result<(), Damage> {
    let wrong = |what: String| Damage::new(format!("offsets from {}: {what}", extent.base_offset));
    if bytes.len() as u64 != extent.length {
        return Err(wrong(format!("{} bytes instead of {}", bytes.len(), extent.length)));
    }
    let mut next = extent.base_offset;
    for batch in Batches::new(bytes.clone()) {
        let batch = batch.map_err(|error| wrong(error.to_string()))?;
        batch.verify_crc().map_err(|error| wrong(error.to_string()))?;
        let first = next == extent.base_offset;
        let (base, last) = (batch.base_offset(), batch.last_offset());
        if base < next || (first && base != next) || last > extent.last_offset || last < base {
            return Err(wrong(format!("a batch of {base}..={last} where {next} is due")));
        }
        next = Offset(last.0 + 1);
    }
    Ok(())
}

/// Verifies every byte of a whole object of a run (scrub, dump).
pub fn open(bytes: &Bytes) -> Result<(Header, Root, Vec<Partition>), Damage> {
    let whole = split(bytes, bytes.len() as u64, format::Kind::Run, MAGIC)?;
    let Split::Whole(header, root, at) = whole else {
        return Err(Damage::new("the footer is longer than the object"));
    };
    let root = Root::parse(root, at)?;
    let copy = bytes.len() - TRAILER_LEN;
    if bytes[..HEADER_LEN] != bytes[copy..copy + HEADER_LEN] {
        return Err(Damage::new("the header and its copy differ"));
    }
    let mut entries: Vec<Partition> = Vec::new();
    let mut end = HEADER_LEN as u64;
    for page in &root.pages {
        let range = page.position as usize..page.position as usize + page.length as usize;
        for entry in read_page(&bytes[range], page)? {
            let follows = entries
                .last()
                .is_none_or(|last| (last.place(), last.last_offset) < (entry.place(), entry.base_offset));
            if entry.position != end || !follows || end + entry.length > root.data_end() {
                return Err(Damage::new(format!("partition {} does not follow the one before", entry.of)));
            }
            let data = bytes.slice(end as usize..(end + entry.length) as usize);
            if crc32c::crc32c(&data) != entry.crc {
                return Err(Damage::new(format!("partition {}: its CRC32C is wrong", entry.of)));
            }
            for extent in entry.extents(entry.base_offset) {
                let from = (extent.position - end) as usize;
                verify_slice(&data.slice(from..from + extent.length as usize), extent)?;
            }
            end += entry.length;
            entries.push(entry);
        }
    }
    if end != root.data_end() {
        return Err(Damage::new("the partitions do not end where the pages begin"));
    }
    Ok((header, root, entries))
}
