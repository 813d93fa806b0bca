//! A directory bucket's objects are files: reads are slices of them, for the kernel to send.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use tidemark_proto::kafka::pieces::{FileSlice, Pieces};

use super::Reader;
use crate::error::Error;

/// Open files by key, the least recently used closed first. Objects never change, so an open one stays true.
#[derive(Debug)]
pub(super) struct Files {
    most: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    files: BTreeMap<String, (u64, OpenFile)>,
    used: BTreeMap<u64, String>,
    tick: u64,
}

#[derive(Clone, Debug)]
struct OpenFile {
    file: Arc<File>,
    len: u64,
}

impl Files {
    pub(super) fn new(most: usize) -> Files {
        Files { most: most.max(1), open: Mutex::default() }
    }

    fn get(&self, key: &str) -> Option<OpenFile> {
        let open = &mut *self.open.lock();
        let (used, file) = open.files.get_mut(key)?;
        open.tick += 1;
        let name = open.used.remove(used)?;
        *used = open.tick;
        open.used.insert(open.tick, name);
        Some(file.clone())
    }

    fn keep(&self, key: &str, file: OpenFile) {
        let open = &mut *self.open.lock();
        open.tick += 1;
        let tick = open.tick;
        if let Some((used, _)) = open.files.insert(key.to_owned(), (tick, file)) {
            open.used.remove(&used);
        }
        open.used.insert(tick, key.to_owned());
        while open.files.len() > self.most {
            let Some((_, oldest)) = open.used.pop_first() else { break };
            open.files.remove(&oldest);
        }
    }

    pub(super) fn forget(&self, key: &str) {
        let open = &mut *self.open.lock();
        if let Some((used, _)) = open.files.remove(key) {
            open.used.remove(&used);
        }
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.open.lock().files.len()
    }
}

impl Reader {
    /// A slice of the object's file.
    pub(super) async fn file(&self, key: &str, range: Range<u64>) -> Result<Pieces, Error> {
        let found = match self.0.files.get(key) {
            Some(found) => found,
            None => {
                let path =
                    self.0.bucket.local_path(key).ok_or_else(|| Error::Gone { key: key.to_owned() })?;
                let open = move || -> io::Result<OpenFile> {
                    let file = File::open(path)?;
                    let len = file.metadata()?.len();
                    Ok(OpenFile { file: Arc::new(file), len })
                };
                let found = match self.0.seams.tasks.blocking(open).await {
                    Ok(found) => found,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {
                        return Err(Error::Gone { key: key.to_owned() });
                    }
                    Err(e) => return Err(Error::Retry(format!("{key} cannot be opened: {e}"))),
                };
                self.0.files.keep(key, found.clone());
                found
            }
        };
        if range.end > found.len {
            let why = format!("it ends at byte {}, and byte {} was asked for", found.len, range.end);
            return Err(Error::Corrupt { key: key.to_owned(), why });
        }
        let len = usize::try_from(range.end - range.start).map_err(|e| Error::Full(e.to_string()))?;
        Ok(Pieces::from(FileSlice { file: found.file, offset: range.start, len }))
    }
}
