//! Writing an object's bytes where nobody sees them yet, past the page cache where the file system can.
//!
//! The file has no name (`O_TMPFILE`) until it is linked, so a crash leaves nothing behind; where the file
//! system cannot do that it is staged under `.staging/` by a name of its own. Direct writes need aligned
//! buffers: a few are kept and used again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use object_store::PutPayload;
use parking_lot::Mutex;
use rustix::fs::{AtFlags, CWD, OFlags};

use super::Failed;

/// Below this the page cache is no detour.
const DIRECT_FROM: usize = 64 << 10;
/// Both ends of a direct write lie on such a border, in the file and in memory.
const ALIGN: usize = 4096;
/// One direct write; a 4 MiB parcel is one.
const BUFFER: usize = 4 << 20;
/// Buffers kept between writes.
const KEPT: usize = 4;

#[derive(Debug)]
pub(super) struct Stage {
    root: PathBuf,
    direct: AtomicBool,
    nameless: AtomicBool,
    next: AtomicU64,
    buffers: Mutex<Vec<Aligned>>,
}

/// A synced file that is not an object yet.
#[derive(Debug)]
pub(super) struct Staged {
    file: File,
    name: Option<PathBuf>,
}

impl Stage {
    /// Proves that `root` can be written, and learns how.
    pub(super) fn open(root: &Path) -> io::Result<Stage> {
        let stage = Stage {
            root: root.to_owned(),
            direct: AtomicBool::new(true),
            nameless: AtomicBool::new(true),
            next: AtomicU64::new(0),
            buffers: Mutex::default(),
        };
        stage.create(true)?;
        Ok(stage)
    }

    /// Writes and syncs `payload`.
    pub(super) fn write(&self, payload: &PutPayload) -> Result<Staged, Failed> {
        let len = payload.content_length();
        let direct = len >= DIRECT_FROM && self.direct.load(Ordering::Relaxed);
        let mut staged = self.create(direct)?;
        // `create` may have learnt that direct writes cannot be had.
        if direct && self.direct.load(Ordering::Relaxed) {
            match self.write_direct(&staged.file, payload) {
                Err(e) if e.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
                    self.direct.store(false, Ordering::Relaxed);
                    staged = self.create(false)?;
                    write_all(&mut staged.file, payload)?;
                }
                written => written?,
            }
        } else {
            write_all(&mut staged.file, payload)?;
        }
        staged.file.sync_all().map_err(Failed::Sync)?;
        Ok(staged)
    }

    fn write_direct(&self, file: &File, payload: &PutPayload) -> io::Result<()> {
        let mut buffer = self.buffers.lock().pop().unwrap_or_else(Aligned::new);
        let written = buffer.write(file, payload);
        let mut kept = self.buffers.lock();
        if kept.len() < KEPT {
            kept.push(buffer);
        }
        written
    }

    fn create(&self, direct: bool) -> io::Result<Staged> {
        let want_direct = direct && self.direct.load(Ordering::Relaxed);
        if self.nameless.load(Ordering::Relaxed) {
            let opened = open(&self.root, OFlags::TMPFILE, want_direct);
            match opened {
                Ok(file) => return Ok(Staged { file, name: None }),
                Err(e) if want_direct && refused(&e) => {
                    self.direct.store(false, Ordering::Relaxed);
                    return self.create(false);
                }
                Err(e) if refused(&e) || e.kind() == io::ErrorKind::IsADirectory => {
                    self.nameless.store(false, Ordering::Relaxed);
                    self.direct.store(true, Ordering::Relaxed);
                    return self.create(direct);
                }
                Err(e) => return Err(e),
            }
        }
        let folder = self.root.join(".staging");
        fs::create_dir_all(&folder)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = folder.join(format!("{}-{number}", std::process::id()));
        fs::remove_file(&name).ok(); // of a dead process with the same id
        match open(&name, OFlags::CREATE | OFlags::EXCL, want_direct) {
            Ok(file) => Ok(Staged { file, name: Some(name) }),
            Err(e) if want_direct && refused(&e) => {
                self.direct.store(false, Ordering::Relaxed);
                self.create(false)
            }
            Err(e) => Err(e),
        }
    }
}

/// The answers of a file system that does not know the flag.
fn refused(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::INVAL, Errno::OPNOTSUPP].iter().any(|e| error.raw_os_error() == Some(e.raw_os_error()))
}

fn open(path: &Path, flags: OFlags, direct: bool) -> io::Result<File> {
    let direct = if direct { OFlags::DIRECT } else { OFlags::empty() };
    let flags = (flags | direct).bits().cast_signed();
    OpenOptions::new().write(true).custom_flags(flags).mode(0o640).open(path)
}

fn write_all(file: &mut File, payload: &PutPayload) -> io::Result<()> {
    payload.iter().try_for_each(|part| file.write_all(part))
}

impl Staged {
    /// Gives the file its name; `false` if the name is taken.
    pub(super) fn link(&self, target: &Path) -> io::Result<bool> {
        let linked = match &self.name {
            Some(name) => fs::hard_link(name, target),
            None => {
                let open = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                rustix::fs::linkat(CWD, open, CWD, target, AtFlags::SYMLINK_FOLLOW).map_err(io::Error::from)
            }
        };
        match linked {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(e),
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            fs::remove_file(name).ok();
        }
    }
}

/// A buffer from which direct writes can be made.
#[derive(Debug)]
struct Aligned {
    memory: Vec<u8>,
    start: usize,
}

impl Aligned {
    fn new() -> Aligned {
        let memory = vec![0; BUFFER + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN);
        Aligned { memory, start }
    }

    /// Writes `payload` to an empty file, padded to the border, then cuts the padding off.
    fn write(&mut self, file: &File, payload: &PutPayload) -> io::Result<()> {
        let len = payload.content_length();
        let (mut filled, mut at) = (0, 0u64);
        for mut part in payload.iter().map(|part| &part[..]) {
            while !part.is_empty() {
                let n = part.len().min(BUFFER - filled);
                let from = self.start + filled;
                self.memory[from..from + n].copy_from_slice(&part[..n]);
                (filled, part) = (filled + n, &part[n..]);
                if filled == BUFFER {
                    file.write_all_at(&self.memory[self.start..self.start + BUFFER], at)?;
                    (filled, at) = (0, at + BUFFER as u64);
                }
            }
        }
        if filled > 0 {
            let padded = filled.next_multiple_of(ALIGN);
            self.memory[self.start + filled..self.start + padded].fill(0);
            file.write_all_at(&self.memory[self.start..self.start + padded], at)?;
            if padded != filled {
                file.set_len(len as u64)?;
            }
        }
        Ok(())
    }
}
