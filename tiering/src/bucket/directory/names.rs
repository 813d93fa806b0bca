//! Making names durable: folders are made once, and the sync of a folder is shared by all who wait for it.
//!
//! A caller's sync always begins after its own change, so nothing is answered before it is on the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::Failed;

/// Folders remembered; beyond, they are looked at again.
const REMEMBERED: usize = 16_384;

#[derive(Debug)]
pub(super) struct Names {
    root: PathBuf,
    /// Folders whose own names are known to be durable.
    durable: Mutex<BTreeSet<PathBuf>>,
    folders: Mutex<BTreeMap<PathBuf, Arc<Folder>>>,
}

#[derive(Debug)]
struct Folder {
    file: File,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Syncs asked for, begun (up to this many asked) and done.
    asked: u64,
    done: u64,
    running: bool,
    failed: Option<String>,
}

impl Names {
    pub(super) fn new(root: PathBuf) -> Names {
        Names { durable: Mutex::new(BTreeSet::from([root.clone()])), folders: Mutex::default(), root }
    }

    /// Makes `folder`, durably, with all above it.
    pub(super) fn make(&self, folder: &Path) -> Result<(), Failed> {
        // Held throughout: whoever finds a folder here may rely on its name being synced.
        let mut durable = self.durable.lock();
        if durable.contains(folder) {
            return Ok(());
        }
        if durable.len() >= REMEMBERED {
            durable.clear();
            durable.insert(self.root.clone());
        }
        let missing: Vec<&Path> = folder.ancestors().take_while(|f| !durable.contains(*f)).collect();
        for folder in missing.into_iter().rev() {
            match fs::create_dir(folder) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e.into()),
                _ => {}
            }
            if let Some(parent) = folder.parent() {
                File::open(parent)?.sync_all().map_err(Failed::Sync)?;
            }
            durable.insert(folder.to_owned());
        }
        Ok(())
    }

    /// Syncs the names in `folder` that are there now.
    pub(super) fn sync(&self, folder: &Path) -> Result<(), Failed> {
        self.folder(folder)?.sync()
    }

    fn folder(&self, path: &Path) -> io::Result<Arc<Folder>> {
        let mut folders = self.folders.lock();
        if let Some(folder) = folders.get(path) {
            return Ok(folder.clone());
        }
        if folders.len() >= 64 {
            folders.retain(|_, folder| Arc::strong_count(folder) > 1);
        }
        let state = Mutex::default();
        let folder = Arc::new(Folder { file: File::open(path)?, state, changed: Condvar::new() });
        folders.insert(path.to_owned(), folder.clone());
        Ok(folder)
    }
}

impl Folder {
    fn sync(&self) -> Result<(), Failed> {
        let mut state = self.state.lock();
        state.asked += 1;
        let mine = state.asked;
        loop {
            if let Some(why) = &state.failed {
                return Err(Failed::Sync(io::Error::other(why.clone())));
            }
            if state.done >= mine {
                return Ok(());
            }
            if state.running {
                self.changed.wait(&mut state);
                continue;
            }
            state.running = true;
            let covers = state.asked;
            drop(state);
            let synced = self.file.sync_all();
            state = self.state.lock();
            state.running = false;
            match synced {
                Ok(()) => state.done = covers,
                Err(e) => state.failed = Some(e.to_string()),
            }
            self.changed.notify_all();
        }
    }
}
