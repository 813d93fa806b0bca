//! Writes hot segments: one task, fed after commit, in appends of whatever has gathered while the last was written.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidemark_proto::id::TopicPartition;
use tidemark_proto::record::stamp::Stamped;
use tokio::sync::mpsc;

use super::segment::{Bounds, Segment, delete, log_of};
use super::segments::{Inner, Offer};
use super::shelf::folder;

/// Created segments after which partitions of deleted topics are looked for.
const SWEEP: usize = 64;

type Gathered = BTreeMap<TopicPartition, Vec<Stamped>>;

/// Serves the queue until its last sender is gone.
pub(super) async fn run(inner: Arc<Inner>, mut queue: mpsc::Receiver<Offer>) {
    let mut writer = Writer::new(inner.clone());
    let mut failed = restart(&inner, &mut writer).await;
    while let Some(first) = queue.recv().await {
        let (mut gathered, mut bytes, mut count) = (Gathered::new(), 0, 0);
        let mut next = Some(first);
        while let Some(offer) = next.take().or_else(|| queue.try_recv().ok()) {
            bytes += offer.bytes;
            count += offer.batches.len() as u64;
            gathered.entry(offer.of).or_default().extend(offer.batches);
        }
        if failed || inner.is_off().is_some() {
            failed = inner.is_off() == Some(false) || restart(&inner, &mut writer).await;
        }
        if failed {
            inner.skipped.fetch_add(count, Ordering::Relaxed);
        } else {
            let mut work = std::mem::replace(&mut writer, Writer::new(inner.clone()));
            let done = move || {
                let result = work.write(gathered);
                (work, result)
            };
            let (back, result) = inner.tasks.blocking(done).await;
            writer = back;
            match result {
                Ok(()) => drop(inner.written.fetch_add(bytes as u64, Ordering::Relaxed)),
                Err(why) => {
                    inner.switch_off(&format!("{} cannot be written: {why}", inner.config.folder.display()));
                    inner.skipped.fetch_add(count, Ordering::Relaxed);
                    failed = true;
                }
            }
        }
        inner.queued.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Begins on an empty folder; whether that failed.
async fn restart(inner: &Arc<Inner>, writer: &mut Writer) -> bool {
    let mut fresh = Writer::new(inner.clone());
    let begun = inner.tasks.blocking(move || fresh.begin().map(|()| fresh)).await;
    match begun {
        Ok(fresh) => {
            *writer = fresh;
            inner.switch_on();
            false
        }
        Err(why) => {
            inner.switch_off(&format!("{} cannot be used: {why}", inner.config.folder.display()));
            true
        }
    }
}

/// The writing side of all segments.
struct Writer {
    inner: Arc<Inner>,
    /// The segment each partition goes on in.
    open: BTreeMap<TopicPartition, Segment>,
    /// Whose folder it is: a topic that was deleted and made again has its name.
    folders: BTreeMap<PathBuf, TopicPartition>,
    budget: u64,
    created: usize,
}

impl Writer {
    fn new(inner: Arc<Inner>) -> Writer {
        let budget = inner.config.bytes;
        Writer { inner, open: BTreeMap::new(), folders: BTreeMap::new(), budget, created: 0 }
    }

    fn begin(&mut self) -> io::Result<()> {
        let folder = &self.inner.config.folder;
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::create_dir_all(folder)?;
        self.faulty()?;
        let disk = rustix::fs::statvfs(folder)?;
        if disk.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let free = (disk.f_bavail * disk.f_frsize).saturating_sub(self.inner.config.room);
        self.budget = self.inner.config.bytes.min(free);
        match self.budget {
            0 => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    /// What a test has the disk say.
    fn faulty(&self) -> io::Result<()> {
        #[cfg(test)]
        if let Some(kind) = *self.inner.fault.lock() {
            return Err(kind.into());
        }
        Ok(())
    }

    fn write(&mut self, gathered: Gathered) -> io::Result<()> {
        self.empty_trash();
        for (of, batches) in gathered {
            match (self.inner.naming)(of.topic) {
                Some((topic, bounds)) => self.append(of, &topic, bounds, &batches)?,
                None => self.drop_partition(of),
            }
        }
        self.inner.shelf.lock().shrink(self.budget);
        self.empty_trash();
        Ok(())
    }

    fn append(
        &mut self,
        of: TopicPartition,
        topic: &str,
        bounds: Bounds,
        batches: &[Stamped],
    ) -> io::Result<()> {
        let mut rest = batches;
        while let Some(first) = rest.first() {
            self.faulty()?;
            if !self.inner.shelf.lock().wants(of, first.partition_leader_epoch()) {
                rest = &rest[1..];
                continue;
            }
            // Its segment may be off the shelf: found damaged, or of an older ownership.
            let held = |segment: &&Segment| self.inner.shelf.lock().ends_with(of, segment.base());
            let takes = self.open.get(&of).filter(held).map_or(0, |segment| segment.takes(rest, bounds));
            if takes == 0 {
                self.roll(of, topic, first)?;
                continue;
            }
            let (now, later) = rest.split_at(takes);
            let Some(segment) = self.open.get_mut(&of) else { break };
            let log = log_file(&self.inner, segment)?;
            let laid = segment.append(&log, now)?;
            let (base, next, len) = (segment.base(), segment.next(), segment.len());
            self.inner.shelf.lock().grow(of, base, &laid, next, len);
            rest = later;
        }
        Ok(())
    }

    /// Closes the partition's segment and begins another with `first`.
    fn roll(&mut self, of: TopicPartition, topic: &str, first: &Stamped) -> io::Result<()> {
        if let Some(segment) =
            self.open.remove(&of).filter(|s| self.inner.shelf.lock().ends_with(of, s.base()))
        {
            segment.close()?;
        }
        let base = first.base_offset();
        let folder = folder(&self.inner.config.folder, topic, of);
        if let Some(before) = self.folders.insert(folder.clone(), of).filter(|before| *before != of) {
            self.drop_partition(before);
        }
        if self.inner.shelf.lock().end(of).is_some_and(|end| end > base) {
            self.drop_partition(of); // its log is another one than it was: nothing of it can be kept
        }
        self.empty_trash();
        std::fs::create_dir_all(&folder)?;
        let (segment, log) = Segment::create(&folder, base)?;
        self.inner.files.lock().insert(segment.path().to_owned(), Arc::new(log), 1);
        self.inner.shelf.lock().open(of, first.partition_leader_epoch(), base, segment.path());
        self.open.insert(of, segment);
        self.created += 1;
        if self.created.is_multiple_of(SWEEP) {
            let partitions = self.inner.shelf.lock().partitions();
            let gone = partitions.into_iter().filter(|of| (self.inner.naming)(of.topic).is_none());
            gone.collect::<Vec<_>>().into_iter().for_each(|of| self.drop_partition(of));
        }
        Ok(())
    }

    fn drop_partition(&mut self, of: TopicPartition) {
        self.open.remove(&of);
        self.inner.shelf.lock().drop_partition(of);
        self.folders.retain(|_, owner| *owner != of);
    }

    /// Deletes the files of segments that are off the shelf, before any of them can be made anew.
    fn empty_trash(&self) {
        let trash = self.inner.shelf.lock().trash();
        for path in trash {
            self.inner.files.lock().remove(&*path);
            delete(&path);
        }
    }
}

fn log_file(inner: &Inner, segment: &Segment) -> io::Result<Arc<File>> {
    if let Some(file) = inner.files.lock().get(segment.path()) {
        return Ok(file.clone());
    }
    let file = Arc::new(File::options().read(true).write(true).open(log_of(segment.path()))?);
    inner.files.lock().insert(segment.path().to_owned(), file.clone(), 1);
    Ok(file)
}
