//! A directory bucket's objects are files: reads are slices of them, for the kernel to send.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use tidemark_proto::kafka::pieces::{FileSlice, Pieces};

use super::Reader;
use crate::error::Error;
use crate::lru::Lru;

/// Open files by key. Objects never change, so an open one stays true.
#[derive(Debug)]
pub(super) struct Files(Mutex<Lru<String, OpenFile>>);

#[derive(Clone, Debug)]
struct OpenFile {
    file: Arc<File>,
    len: u64,
}

impl Files {
    pub(super) fn new(most: usize) -> Files {
        Files(Mutex::new(Lru::new(most)))
    }

    fn get(&self, key: &str) -> Option<OpenFile> {
        self.0.lock().get(key).map(|open| open.clone())
    }

    fn keep(&self, key: &str, file: OpenFile) {
        self.0.lock().insert(key.to_owned(), file, 1);
    }

    pub(super) fn forget(&self, key: &str) {
        self.0.lock().remove(key);
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.lock().len()
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
