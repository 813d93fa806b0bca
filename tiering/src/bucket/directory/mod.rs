//! A directory as a store: one file per object, durable before success, created once by `link(2)`.
//!
//! An object appears under its name only whole and synced; success is answered only once the name is synced
//! too. Names that begin with a dot are ours (staging, locks) and are never objects. A failed sync poisons the
//! store: the kernel may have dropped the pages, so nothing written later could be believed.

mod lock;
mod names;
mod stage;
mod walk;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

use super::config::OpenError;
use super::memory::{absent, exists, unsupported};
use crate::seam::Tasks;

pub use lock::{DirLock, LockState};

/// A directory as a store. Clones share it.
#[derive(Clone, Debug)]
pub struct Directory {
    shared: Arc<Shared>,
    tasks: Tasks,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    /// Held so that the file system cannot be unmounted, and a replaced directory is noticed.
    held: File,
    names: names::Names,
    stage: stage::Stage,
    poison: Mutex<Option<String>>,
}

impl Directory {
    /// Opens a directory that exists, and proves that it can be written.
    pub fn open(root: &FilePath, tasks: &Tasks) -> std::result::Result<Directory, OpenError> {
        let shown = root.display();
        let found = std::fs::metadata(root).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                OpenError(format!("The bucket directory {shown} does not exist; make it first."))
            }
            _ => OpenError(format!("The bucket directory {shown} cannot be read: {e}.")),
        })?;
        if !found.is_dir() {
            return Err(OpenError(format!("The bucket {shown} is a file; name a directory.")));
        }
        let unwritable = |e: io::Error| {
            OpenError(format!(
                "The bucket directory {shown} cannot be written ({e}); let the user that runs tidemark write to it."
            ))
        };
        let stage = stage::Stage::open(root).map_err(unwritable)?;
        let names = names::Names::new(root.to_owned());
        let held = File::open(root).map_err(unwritable)?;
        let shared = Shared { root: root.to_owned(), held, names, stage, poison: Mutex::new(None) };
        Ok(Directory { shared: Arc::new(shared), tasks: tasks.clone() })
    }
}

impl Shared {
    /// Whether the directory is still the one that was opened: in another, every object would seem absent.
    fn present(&self) -> io::Result<()> {
        let held = self.held.metadata()?;
        match std::fs::metadata(&self.root) {
            Ok(now) if (now.dev(), now.ino()) == (held.dev(), held.ino()) => Ok(()),
            _ => {
                let root = self.root.display();
                Err(io::Error::other(format!(
                    "the directory {root} was taken away: the bucket does not exist"
                )))
            }
        }
    }

    /// What an error on the file of an object means.
    fn failed(&self, location: &Path, error: io::Error) -> Error {
        let missing = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
        match self.present() {
            // A key one of whose folders is an object names nothing.
            Ok(()) if missing => absent(location),
            Err(gone) if missing => failed(location, gone),
            _ => failed(location, error),
        }
    }

    fn file(&self, location: &Path) -> PathBuf {
        self.root.join(location.as_ref())
    }

    /// Creates an object; `false` if there is one already.
    fn create(&self, location: &Path, payload: &PutPayload) -> io::Result<bool> {
        self.present()?;
        if let Some(why) = &*self.poison.lock() {
            return Err(io::Error::other(why.clone()));
        }
        let target = self.file(location);
        let folder = target.parent().unwrap_or(&self.root);
        self.names.make(folder).map_err(|e| self.poisoned(e))?;
        let created = if target.symlink_metadata().is_ok() {
            false
        } else {
            let staged = self.stage.write(payload).map_err(|e| self.poisoned(e))?;
            staged.link(&target)?
        };
        // Of an object that is there already, too: "exists" is read as durable.
        self.names.sync(folder).map_err(|e| self.poisoned(e))?;
        Ok(created)
    }

    fn poisoned(&self, failed: Failed) -> io::Error {
        match failed {
            Failed::Before(error) => error,
            Failed::Sync(error) => {
                let why = format!("a sync of {} failed ({error}); restart tidemark", self.root.display());
                *self.poison.lock() = Some(why.clone());
                io::Error::other(why)
            }
        }
    }

    fn read(
        &self,
        location: &Path,
        options: &GetOptions,
    ) -> Result<(ObjectMeta, std::ops::Range<u64>, Bytes)> {
        let file = File::open(self.file(location)).map_err(|e| self.failed(location, e))?;
        let found = file.metadata().map_err(|e| failed(location, e))?;
        if found.is_dir() {
            return Err(absent(location));
        }
        let meta = walk::meta(location.clone(), &found);
        options.check_preconditions(&meta)?;
        let range = match &options.range {
            Some(range) if !options.head => range
                .as_range(meta.size)
                .map_err(|e| Error::Generic { store: "directory", source: Box::new(e) })?,
            _ => 0..meta.size,
        };
        let due = if options.head { 0 } else { range.end - range.start };
        let mut bytes = vec![0; usize::try_from(due).map_err(|e| failed(location, io::Error::other(e)))?];
        file.read_exact_at(&mut bytes, range.start).map_err(|e| failed(location, e))?;
        Ok((meta, range, Bytes::from(bytes)))
    }
}

/// What failed: something harmless, or a sync, after which nothing is known.
#[derive(Debug)]
enum Failed {
    Before(io::Error),
    Sync(io::Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Failed {
        Failed::Before(error)
    }
}

fn failed(location: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            Error::PermissionDenied { path: location.to_string(), source: Box::new(error) }
        }
        _ => Error::Generic { store: "directory", source: Box::new(error) },
    }
}

/// Keys with a part that begins with a dot are never objects.
fn check(location: &Path) -> Result<()> {
    if location.as_ref().is_empty() || location.parts().any(|part| part.as_ref().starts_with('.')) {
        return unsupported("a key part that begins with a dot");
    }
    Ok(())
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file://{}", self.shared.root.display())
    }
}

#[async_trait]
impl ObjectStore for Directory {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        check(location)?;
        if opts.mode != PutMode::Create {
            return unsupported("overwriting");
        }
        let (shared, at) = (self.shared.clone(), location.clone());
        match self.tasks.blocking(move || shared.create(&at, &payload)).await {
            Ok(true) => Ok(PutResult { e_tag: None, version: None, extensions: Default::default() }),
            Ok(false) => Err(exists(location)),
            Err(e) => Err(failed(location, e)),
        }
    }

    async fn put_multipart_opts(
        &self,
        _location: &Path,
        _opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        unsupported("multipart upload")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        check(location)?;
        let (shared, at) = (self.shared.clone(), location.clone());
        let (meta, range, bytes) = self.tasks.blocking(move || shared.read(&at, &options)).await?;
        let payload = GetResultPayload::Stream(stream::once(async { Ok(bytes) }).boxed());
        Ok(GetResult { payload, meta, range, attributes: Default::default(), extensions: Default::default() })
    }

    /// Not synced: an object that comes back after a crash is garbage, found again by name.
    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let directory = self.clone();
        let delete = move |location: Result<Path>| {
            let Directory { shared, tasks } = directory.clone();
            async move {
                let location = location?;
                check(&location)?;
                let file = shared.file(&location);
                match tasks.blocking(move || std::fs::remove_file(file)).await {
                    Ok(()) => Ok(location),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(location),
                    Err(e) => Err(failed(&location, e)),
                }
            }
        };
        locations.map(delete).buffered(8).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.list_with_offset(prefix, &Path::default())
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let Directory { shared, tasks } = self.clone();
        let (prefix, offset) = (prefix.cloned().unwrap_or_default(), offset.clone());
        let listed = async move {
            let walk = move || {
                let listed = walk::walk(&shared.root, &prefix, &offset)?;
                shared.present().map(|()| listed)
            };
            let walked = tasks.blocking(walk).await;
            match walked {
                Ok(listed) => listed.into_iter().map(Ok).collect(),
                Err(e) => vec![Err(Error::Generic { store: "directory", source: Box::new(e) })],
            }
        };
        stream::once(listed).flat_map(stream::iter).boxed()
    }

    async fn list_with_delimiter(&self, _prefix: Option<&Path>) -> Result<ListResult> {
        unsupported("listing by delimiter")
    }

    async fn copy_opts(&self, _from: &Path, _to: &Path, _options: CopyOptions) -> Result<()> {
        unsupported("copy")
    }
}
