//! Locks in a directory bucket: who holds one is alive on this machine; the kernel frees it with the process.
//!
//! Advisory, and proof of death only for processes that are known to have held it (design.md §7).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;

/// A held lock; dropping it frees it.
#[derive(Debug)]
pub struct DirLock {
    file: File,
    path: PathBuf,
}

/// What is known of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockState {
    /// A live process holds it.
    Held,
    /// It was held, and its process is dead.
    Free,
    /// Nobody held it, or it was given back in good order.
    Absent,
}

impl DirLock {
    /// Takes the lock `name`; `None` if another process, or another part of this one, holds it.
    pub fn acquire(root: &Path, name: &str) -> io::Result<Option<DirLock>> {
        let path = path(root, name)?;
        fs::create_dir_all(root.join(".lock"))?;
        for _ in 0..20 {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if names(&path, &file)? => return Ok(Some(DirLock { file, path })),
                Ok(()) => {} // its holder gave it back, and took the name away, meanwhile
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(e) => return Err(e.into()),
            }
            wait_for_lookers();
        }
        Ok(None)
    }

    /// Looks at the lock `name`.
    pub fn state(root: &Path, name: &str) -> io::Result<LockState> {
        let file = match File::open(path(root, name)?) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(LockState::Absent),
            Err(e) => return Err(e),
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(LockState::Free),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(LockState::Held),
            Err(e) => Err(e.into()),
        }
    }
}

impl Drop for DirLock {
    fn drop(&mut self) {
        fs::remove_file(&self.path).ok();
        rustix::fs::flock(&self.file, FlockOperation::Unlock).ok();
    }
}

/// Who looks at a lock holds it, shared, for an instant.
#[allow(clippy::disallowed_methods)] // a lock is taken once, at start, off the simulator
fn wait_for_lookers() {
    std::thread::sleep(Duration::from_millis(2));
}

/// Whether `path` still names `file`.
fn names(path: &Path, file: &File) -> io::Result<bool> {
    let ours = file.metadata()?.ino();
    match fs::metadata(path) {
        Ok(named) => Ok(named.ino() == ours),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

fn path(root: &Path, name: &str) -> io::Result<PathBuf> {
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if !plain {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a lock's name is letters, digits and '-'"));
    }
    Ok(root.join(".lock").join(name))
}
