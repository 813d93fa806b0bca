//! Reading, listing and deleting, with as much patience as the caller has.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResultPayload};
use tidemark_proto::id::Millis;

use super::attempt::Moved;
use super::meter::Verb;
use super::second::expected;
use super::trouble::Trouble;
use super::{Bucket, Fetched, Kind, Listed, Patience, Span};
use crate::error::Error;

/// No more than this is allocated on a store's word alone.
const TRUSTED: u64 = 64 << 20;
/// Objects on one page of a listing.
const PAGE: u64 = 1000;

impl Bucket {
    /// Bytes of an object; `Ok(None)` when it does not exist.
    pub async fn get(
        &self,
        kind: Kind,
        key: &str,
        span: Span,
        patience: Patience,
    ) -> Result<Option<Fetched>, Error> {
        let mut failed = 0;
        let bytes = expected(kind, &span);
        loop {
            match self.asked_twice_if_late(bytes, || self.get_once(kind, key, &span)).await {
                Ok(fetched) => return Ok(Some(fetched)),
                Err(Trouble::Absent) => return Ok(None),
                Err(trouble) => self.again(patience, &mut failed, &trouble).await?,
            }
        }
    }

    async fn get_once(&self, kind: Kind, key: &str, span: &Span) -> Result<Fetched, Trouble> {
        let range = match span {
            Span::All => None,
            Span::Range(r) => Some(GetRange::Bounded(r.start..r.end.max(r.start + 1))),
            Span::Tail(n) if self.0.options.suffix_reads => Some(GetRange::Suffix((*n).max(1))),
            Span::Tail(n) => {
                let size = self.head_once(kind, key).await?;
                if size == 0 {
                    return Ok(Fetched { bytes: Bytes::new(), size, start: 0 });
                }
                Some(GetRange::Bounded(size.saturating_sub((*n).max(1))..size))
            }
        };
        let mut fetched = match self.fetch(kind, key, range).await {
            Err(Trouble::Range(why)) => {
                let size = self.head_once(kind, key).await?;
                match span {
                    Span::Range(r) if r.start >= size => {
                        Fetched { bytes: Bytes::new(), size, start: r.start }
                    }
                    Span::Tail(_) if size == 0 => Fetched { bytes: Bytes::new(), size, start: 0 },
                    _ => return Err(Trouble::Unknown(why)),
                }
            }
            other => other?,
        };
        // An empty range was asked for as one byte: the wire has no empty ranges.
        match span {
            Span::Range(r) if r.is_empty() => fetched.bytes.clear(),
            Span::Tail(0) => (fetched.bytes, fetched.start) = (Bytes::new(), fetched.size),
            _ => {}
        }
        Ok(fetched)
    }

    async fn fetch(&self, kind: Kind, key: &str, range: Option<GetRange>) -> Result<Fetched, Trouble> {
        let work = async {
            let path = self.path(key).map_err(|e| Trouble::Refused(e.to_string()))?;
            let options = GetOptions { range: range.clone(), ..GetOptions::default() };
            let limit = self.0.options.attempt;
            let result = self.within(limit, self.0.store.get_opts(&path, options)).await?;
            let (size, due) = (result.meta.size, result.range.clone());
            if range.is_some_and(|asked| asked.as_range(size).ok().as_ref() != Some(&due)) {
                return Err(Trouble::Unknown("another range came than was asked for".to_owned()));
            }
            let bytes = match result.payload {
                GetResultPayload::Stream(mut stream) => {
                    let mut parts = Parts::new(due.end.saturating_sub(due.start));
                    // The limit is on silence: a slow but steady store may take its time.
                    while let Some(part) =
                        self.within(limit, async { stream.next().await.transpose() }).await?
                    {
                        parts.push(part)?;
                    }
                    parts.whole()?
                }
                payload => {
                    let result = object_store::GetResult { payload, ..result };
                    self.within(limit, result.bytes()).await?
                }
            };
            complete(&bytes, &due)?;
            let moved = bytes.len() as u64;
            Ok(Moved::bytes(Fetched { bytes, size, start: due.start }, moved))
        };
        self.attempt((kind, Verb::Get), key, work).await
    }

    /// The size of the object at `key`.
    async fn head_once(&self, kind: Kind, key: &str) -> Result<u64, Trouble> {
        match self.head(kind, key).await {
            // A HEAD's 404 has no body that says what is missing, the object or the bucket: ask so that it has one.
            Err(Trouble::Absent) => match self.fetch(kind, key, Some(GetRange::Bounded(0..1))).await {
                Ok(_) => Err(Trouble::Unknown("the object was there after all".to_owned())),
                Err(trouble) => Err(trouble),
            },
            answer => answer,
        }
    }

    async fn head(&self, kind: Kind, key: &str) -> Result<u64, Trouble> {
        let work = async {
            let path = self.path(key).map_err(|e| Trouble::Refused(e.to_string()))?;
            let options = GetOptions { head: true, ..GetOptions::default() };
            let result = self.within(self.0.options.attempt, self.0.store.get_opts(&path, options)).await?;
            Ok(Moved::bytes(result.meta.size, 0))
        };
        self.attempt((kind, Verb::Head), key, work).await
    }

    /// All objects in the folder `prefix` (`""` for the bucket), with keys above `after`, sorted by key.
    pub async fn list(
        &self,
        kind: Kind,
        prefix: &str,
        after: Option<&str>,
        patience: Patience,
    ) -> Result<Vec<Listed>, Error> {
        let mut failed = 0;
        loop {
            match self.asked_twice_if_late(0, || self.list_once(kind, prefix, after)).await {
                Ok(listed) => return Ok(listed),
                Err(trouble) => self.again(patience, &mut failed, &trouble).await?,
            }
        }
    }

    async fn list_once(&self, kind: Kind, prefix: &str, after: Option<&str>) -> Result<Vec<Listed>, Trouble> {
        let work = async {
            let refused = |e: object_store::path::Error| Trouble::Refused(e.to_string());
            let folder = self.path(prefix.trim_end_matches('/')).map_err(refused)?;
            let mut stream = match after {
                Some(after) => {
                    self.0.store.list_with_offset(Some(&folder), &self.path(after).map_err(refused)?)
                }
                None => self.0.store.list(Some(&folder)),
            };
            let mut listed = Vec::new();
            let limit = self.0.options.attempt;
            while let Some(meta) = self.within(limit, async { stream.next().await.transpose() }).await? {
                let Some(key) = self.key(&meta.location) else { continue };
                if after.is_none_or(|after| key.as_str() > after) {
                    let modified = Millis(meta.last_modified.timestamp_millis());
                    listed.push(Listed { key, size: meta.size, modified });
                }
            }
            listed.sort_by(|a, b| a.key.cmp(&b.key));
            listed.dedup_by(|a, b| a.key == b.key);
            let requests = (listed.len() as u64).div_ceil(PAGE).max(1);
            Ok(Moved { value: listed, bytes: 0, requests })
        };
        // A folder without objects does not exist in some stores.
        match self.attempt((kind, Verb::List), prefix, work).await {
            Err(Trouble::Absent) => Ok(Vec::new()),
            other => other,
        }
    }

    /// Deletes objects; one that does not exist counts as deleted.
    pub async fn delete(&self, kind: Kind, mut keys: Vec<String>, patience: Patience) -> Result<(), Error> {
        keys.sort();
        keys.dedup();
        let mut failed = 0;
        for batch in keys.chunks(PAGE as usize) {
            loop {
                match self.delete_once(kind, batch).await {
                    Ok(()) => break,
                    Err(trouble) => self.again(patience, &mut failed, &trouble).await?,
                }
            }
        }
        Ok(())
    }

    async fn delete_once(&self, kind: Kind, keys: &[String]) -> Result<(), Trouble> {
        let work = async {
            let paths: Vec<_> = keys.iter().map(|key| Ok(self.path(key)?)).collect();
            let mut stream = self.0.store.delete_stream(futures::stream::iter(paths).boxed());
            let limit = self.limit(0);
            while self.within(limit, deleted(&mut stream)).await? {}
            let requests = keys.len().div_ceil(self.0.options.delete_batch.max(1)) as u64;
            Ok(Moved { value: (), bytes: 0, requests })
        };
        self.attempt((kind, Verb::Delete), keys.first().map_or("", String::as_str), work).await
    }

    async fn again(&self, patience: Patience, failed: &mut u32, trouble: &Trouble) -> Result<(), Error> {
        *failed = failed.saturating_add(1);
        if !patience.allows(*failed) {
            return Err(Error::Retry(trouble.text().to_owned()));
        }
        self.pause(*failed - 1).await;
        Ok(())
    }
}

/// Whether one more object was deleted; `false` at the end. One that was not there is deleted too.
async fn deleted(stream: &mut BoxStream<'static, object_store::Result<Path>>) -> object_store::Result<bool> {
    match stream.next().await {
        Some(Ok(_) | Err(object_store::Error::NotFound { .. })) => Ok(true),
        Some(Err(error)) => Err(error),
        None => Ok(false),
    }
}

/// A body cut short is no body.
fn complete(bytes: &Bytes, due: &Range<u64>) -> Result<(), Trouble> {
    let due = due.end.saturating_sub(due.start);
    if bytes.len() as u64 == due {
        return Ok(());
    }
    Err(Trouble::Unknown(format!("{} bytes came where {due} were due", bytes.len())))
}

/// Collects a body; copies only when it comes in more than one part.
struct Parts {
    due: u64,
    first: Option<Bytes>,
    rest: BytesMut,
}

impl Parts {
    fn new(due: u64) -> Parts {
        Parts { due, first: None, rest: BytesMut::new() }
    }

    fn push(&mut self, part: Bytes) -> Result<(), Trouble> {
        if self.first.is_none() && self.rest.is_empty() {
            self.first = Some(part);
            return Ok(());
        }
        if let Some(first) = self.first.take() {
            self.rest.reserve(usize::try_from(self.due.min(TRUSTED)).unwrap_or(0));
            self.rest.extend_from_slice(&first);
        }
        if (self.rest.len() + part.len()) as u64 > self.due {
            return Err(Trouble::Unknown(format!("more than the {} bytes due came", self.due)));
        }
        self.rest.extend_from_slice(&part);
        Ok(())
    }

    fn whole(self) -> Result<Bytes, Trouble> {
        Ok(self.first.unwrap_or_else(|| self.rest.freeze()))
    }
}
