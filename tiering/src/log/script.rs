//! A store for tests whose PUTs do as a script says, key by key.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use tokio::time::sleep;

use crate::bucket::{self, Bucket, Memory};
use crate::seam::Seams;

/// What happens to one PUT.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// Stored and answered after so long.
    After(Duration),
    /// Stored; the answer is lost.
    Lost,
    /// 409: nothing is stored, the store says that the object exists.
    Conflict,
    /// 503: nothing is stored.
    Fail,
    /// Nothing is answered; it lands after so long, whatever becomes of the sender.
    Late(Duration),
    /// Nothing is answered and nothing lands.
    Hang,
}

/// See the module. Clones share the script and the objects.
#[derive(Clone, Debug)]
pub struct Script {
    /// What is stored.
    pub memory: Memory,
    acts: Arc<Mutex<BTreeMap<String, VecDeque<Act>>>>,
    puts: Arc<Mutex<Vec<(String, Bytes)>>>,
    usual: Arc<Mutex<Duration>>,
    seams: Seams,
}

impl Script {
    /// An empty store; a PUT takes 10 ms.
    pub fn new(seams: &Seams) -> Script {
        Script {
            memory: Memory::new(seams.clock.clone()),
            acts: Arc::default(),
            puts: Arc::default(),
            usual: Arc::new(Mutex::new(Duration::from_millis(10))),
            seams: seams.clone(),
        }
    }

    /// A free bucket over it.
    pub fn bucket(&self) -> Bucket {
        Bucket::new(Arc::new(self.clone()), bucket::Options::default(), &self.seams)
    }

    /// The next PUTs of `key`.
    pub fn script(&self, key: &str, acts: &[Act]) {
        self.acts.lock().entry(key.to_owned()).or_default().extend(acts);
    }

    /// What a PUT without a script takes.
    pub fn usual(&self, takes: Duration) {
        *self.usual.lock() = takes;
    }

    /// Every PUT that was sent: key and bytes.
    pub fn puts(&self) -> Vec<(String, Bytes)> {
        self.puts.lock().clone()
    }

    /// How often `key` was sent.
    pub fn sent(&self, key: &str) -> usize {
        self.puts.lock().iter().filter(|(sent, _)| sent == key).count()
    }

    /// The bytes stored at `key`.
    pub fn stored(&self, key: &str) -> Option<Bytes> {
        self.memory.dump().into_iter().find_map(|(found, bytes)| (found == key).then_some(bytes))
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("script:")
    }
}

fn broken(why: &str) -> Error {
    Error::Generic { store: "script", source: why.to_owned().into() }
}

#[async_trait]
impl ObjectStore for Script {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let key = location.to_string();
        self.puts.lock().push((key.clone(), payload.clone().into()));
        let act = self.acts.lock().get_mut(&key).and_then(VecDeque::pop_front);
        let act = act.unwrap_or(Act::After(*self.usual.lock()));
        match act {
            Act::After(takes) => {
                sleep(takes).await;
                self.memory.put_opts(location, payload, opts).await
            }
            Act::Lost => {
                self.memory.put_opts(location, payload, opts).await?;
                Err(broken("connection reset"))
            }
            Act::Conflict => Err(Error::AlreadyExists { path: key, source: "409".into() }),
            Act::Fail => Err(broken("503 SlowDown")),
            Act::Late(takes) => {
                let (memory, location) = (self.memory.clone(), location.clone());
                // Its own set: the sender's death does not stop it.
                crate::seam::Tasks::default().spawn(async move {
                    sleep(takes).await;
                    let _ = memory.put_opts(&location, payload, opts).await;
                });
                std::future::pending().await
            }
            Act::Hang => std::future::pending().await,
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.memory.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.memory.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.memory.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.memory.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.memory.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.memory.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.memory.copy_opts(from, to, options).await
    }
}
