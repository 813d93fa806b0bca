//! A store in memory, for tests, simulation and `memory:`. Deterministic: its times come from the clock seam.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::RwLock;
use tidemark_proto::id::Millis;

use crate::seam::Clock;

/// A store in memory. Clones share the objects.
#[derive(Clone, Debug)]
pub struct Memory {
    objects: Arc<RwLock<BTreeMap<Path, Object>>>,
    clock: Arc<dyn Clock>,
}

#[derive(Clone, Debug)]
struct Object {
    bytes: Bytes,
    modified: Millis,
}

impl Memory {
    /// An empty store.
    pub fn new(clock: Arc<dyn Clock>) -> Memory {
        Memory { objects: Arc::default(), clock }
    }

    /// Puts `bytes` at `key` whatever it holds: damage for tests.
    pub fn overwrite(&self, key: &str, bytes: Bytes) {
        let object = Object { bytes, modified: self.clock.wall() };
        self.objects.write().insert(Path::from(key), object);
    }

    /// All objects, for a simulation's checks: no requests, no counting.
    pub fn dump(&self) -> Vec<(String, Bytes)> {
        let objects = self.objects.read();
        objects.iter().map(|(path, object)| (path.to_string(), object.bytes.clone())).collect()
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory:")
    }
}

pub(super) fn meta(location: &Path, size: u64, modified: Millis) -> ObjectMeta {
    let since = Duration::from_millis(u64::try_from(modified.0).unwrap_or(0));
    let last_modified = (SystemTime::UNIX_EPOCH + since).into();
    ObjectMeta { location: location.clone(), last_modified, size, e_tag: None, version: None }
}

pub(super) fn unsupported<T>(what: &str) -> Result<T> {
    Err(Error::NotSupported {
        source: format!("{what}: this store only creates, reads, lists and deletes").into(),
    })
}

pub(super) fn exists(location: &Path) -> Error {
    Error::AlreadyExists { path: location.to_string(), source: "there is an object".into() }
}

pub(super) fn absent(location: &Path) -> Error {
    Error::NotFound { path: location.to_string(), source: "there is no object".into() }
}

#[async_trait]
impl ObjectStore for Memory {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let object = Object { bytes: payload.into(), modified: self.clock.wall() };
        let mut objects = self.objects.write();
        match opts.mode {
            PutMode::Create if objects.contains_key(location) => return Err(exists(location)),
            PutMode::Create | PutMode::Overwrite => objects.insert(location.clone(), object),
            PutMode::Update(_) => return unsupported("conditional update"),
        };
        Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
    }

    async fn put_multipart_opts(
        &self,
        _location: &Path,
        _opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        unsupported("multipart upload")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let object = self.objects.read().get(location).cloned().ok_or_else(|| absent(location))?;
        let meta = meta(location, object.bytes.len() as u64, object.modified);
        options.check_preconditions(&meta)?;
        let range = match &options.range {
            Some(range) if !options.head => range
                .as_range(meta.size)
                .map_err(|e| Error::Generic { store: "memory", source: Box::new(e) })?,
            _ => 0..meta.size,
        };
        let bytes = match options.head {
            true => Bytes::new(),
            false => object.bytes.slice(range.start as usize..range.end as usize),
        };
        let payload = GetResultPayload::Stream(stream::once(async { Ok(bytes) }).boxed());
        Ok(GetResult { payload, meta, range, attributes: Default::default(), extensions: Default::default() })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let objects = self.objects.clone();
        let delete = move |location: Result<Path>| {
            let location = location?;
            objects.write().remove(&location);
            Ok(location)
        };
        locations.map(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.list_with_offset(prefix, &Path::default())
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.cloned().unwrap_or_default();
        let from = prefix.clone().max(offset.clone());
        let objects = self.objects.read();
        let listed: Vec<_> = objects
            .range((Bound::Excluded(from), Bound::Unbounded))
            .take_while(|(path, _)| path.as_ref().starts_with(prefix.as_ref()))
            .filter(|(path, _)| path.prefix_matches(&prefix))
            .map(|(path, object)| Ok(meta(path, object.bytes.len() as u64, object.modified)))
            .collect();
        stream::iter(listed).boxed()
    }

    async fn list_with_delimiter(&self, _prefix: Option<&Path>) -> Result<ListResult> {
        unsupported("listing by delimiter")
    }

    async fn copy_opts(&self, _from: &Path, _to: &Path, _options: CopyOptions) -> Result<()> {
        unsupported("copy")
    }
}
