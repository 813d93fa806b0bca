//! A store that misbehaves on purpose, for simulation and tests: seeded, in tokio's time, counted.
//!
//! Requests live on the store's own tasks: one that was sent lands, also when its sender gave up, was killed
//! or frozen. What was not injected is answered truly by the store beneath, so whatever a caller then loses,
//! it lost itself.

mod weather;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use tokio::time::Instant;

pub use weather::{Absence, Latency, Weather};

use super::memory::{exists, unsupported};
use super::meter::Verb;
use crate::seam::{Entropy, Tasks};

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// 503, and nothing was done.
    Error,
    /// Done, and answered with an error.
    LostAnswer,
    /// Done, and never answered.
    Deaf,
    /// 409 to a create, and nothing was done.
    Conflict,
    /// Never answered; done after so long, whatever has become of the sender.
    Late(Duration),
    /// Neither done nor answered.
    Hang,
    /// Done and answered, after so much longer.
    Stall(Duration),
    /// The body of the answer ends early.
    Truncate,
    /// 403, and nothing was done.
    Refuse,
    /// 404, no such bucket; nothing was done.
    NoBucket,
}

impl Fault {
    /// Its name in counts.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Error => "error",
            Fault::LostAnswer => "lost answer",
            Fault::Deaf => "deaf",
            Fault::Conflict => "conflict",
            Fault::Late(_) => "late",
            Fault::Hang => "hang",
            Fault::Stall(_) => "stall",
            Fault::Truncate => "truncate",
            Fault::Refuse => "refuse",
            Fault::NoBucket => "no bucket",
        }
    }
}

/// A store with faults. Clones share it.
#[derive(Clone, Debug)]
pub struct Faulty {
    inner: Arc<dyn ObjectStore>,
    sky: Arc<Mutex<Sky>>,
    entropy: Entropy,
    tasks: Tasks,
}

#[derive(Debug)]
struct Sky {
    weather: Weather,
    away: Option<(Absence, Option<Instant>)>,
    script: Vec<(Verb, String, Fault)>,
    line_free: Instant,
    counts: BTreeMap<&'static str, u64>,
}

/// What befalls one request, decided when it is sent.
struct Fate {
    before: Duration,
    after: Duration,
    fault: Option<Fault>,
}

impl Faulty {
    /// `inner` under `weather`. The store's own tasks are separate from any broker's: a kill does not reach them.
    pub fn new(inner: Arc<dyn ObjectStore>, weather: Weather, entropy: Entropy) -> Faulty {
        let sky = Sky {
            weather,
            away: None,
            script: Vec::new(),
            line_free: Instant::now(),
            counts: BTreeMap::new(),
        };
        Faulty { inner, sky: Arc::new(Mutex::new(sky)), entropy, tasks: Tasks::default() }
    }

    /// Changes the weather, for requests sent from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.sky.lock().weather = weather;
    }

    /// The store is away, for so long or until [`Faulty::back`].
    pub fn away(&self, how: Absence, time: Option<Duration>) {
        self.sky.lock().away = Some((how, time.map(|time| Instant::now() + time)));
    }

    /// The store is back.
    pub fn back(&self) {
        self.sky.lock().away = None;
    }

    /// The next `verb` on a key that contains `pattern` meets `fault`. Scripted faults come before the weather,
    /// in the order in which they were scripted.
    pub fn fail_next(&self, verb: Verb, pattern: &str, fault: Fault) {
        self.sky.lock().script.push((verb, pattern.to_owned(), fault));
    }

    /// Scripted faults that have not been met.
    pub fn scripted(&self) -> usize {
        self.sky.lock().script.len()
    }

    /// Forgets the scripted faults that have not been met.
    pub fn unscript(&self) {
        self.sky.lock().script.clear();
    }

    /// How often each fault was injected, by name (`away` for absences).
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.sky.lock().counts.clone()
    }

    fn fate(&self, verb: Verb, key: &str, bytes: usize) -> Fate {
        let now = Instant::now();
        let mut sky = self.sky.lock();
        let sky = &mut *sky;
        let latency = sky.weather.time(&self.entropy, key, bytes);
        let queued = match sky.weather.bandwidth {
            Some(rate) => {
                let free =
                    sky.line_free.max(now) + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
                sky.line_free = free;
                free - now
            }
            None => Duration::ZERO,
        };
        let share = latency.mul_f64(self.entropy.unit());
        let (before, after) = (queued + sky.weather.way(verb, key) + share, latency - share);
        if let Some((how, until)) = sky.away {
            if until.is_none_or(|until| now < until) {
                *sky.counts.entry("away").or_default() += 1;
                let fault = match how {
                    Absence::Refusing => Fault::Error,
                    Absence::Silent => Fault::Hang,
                    Absence::Missing => Fault::NoBucket,
                };
                return Fate { before, after, fault: Some(fault) };
            }
            sky.away = None;
        }
        let scripted = sky.script.iter().position(|(v, p, _)| *v == verb && key.contains(p.as_str()));
        let fault = match scripted {
            Some(i) => Some(sky.script.remove(i).2),
            None => sky.weather.draw(&self.entropy, verb, key),
        };
        if let Some(fault) = fault {
            *sky.counts.entry(fault.name()).or_default() += 1;
        }
        Fate { before, after, fault }
    }

    /// Runs one request by its fate. `act` runs on the store's tasks, at most once.
    async fn request<T, F>(&self, fate: Fate, location: &Path, act: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let Fate { before, after, fault } = fate;
        match fault {
            Some(Fault::Error | Fault::Conflict | Fault::Refuse | Fault::NoBucket) => {
                tokio::time::sleep(before + after).await;
                return Err(injected(fault, location));
            }
            Some(Fault::Hang) => return std::future::pending().await,
            _ => {}
        }
        let landing = before
            + match fault {
                Some(Fault::Late(time) | Fault::Stall(time)) => time,
                _ => Duration::ZERO,
            };
        let task = self.tasks.spawn(async move {
            tokio::time::sleep(landing).await;
            act.await
        });
        match fault {
            Some(Fault::Late(_) | Fault::Deaf) => return std::future::pending().await,
            Some(Fault::LostAnswer) => {
                task.await.ok();
                tokio::time::sleep(after).await;
                return Err(injected(fault, location));
            }
            _ => {}
        }
        let answer = task.await;
        tokio::time::sleep(after).await;
        match answer {
            Ok(Some(answer)) => answer,
            _ => Err(injected(Some(Fault::Error), location)), // the simulation is ending
        }
    }
}

fn injected(fault: Option<Fault>, location: &Path) -> Error {
    match fault {
        Some(Fault::Conflict) => exists(location),
        Some(Fault::Refuse) => Error::PermissionDenied {
            path: location.to_string(),
            source: "403 AccessDenied (injected)".into(),
        },
        Some(Fault::NoBucket) => Error::NotFound {
            path: location.to_string(),
            source: "404 <Code>NoSuchBucket</Code> (injected)".into(),
        },
        _ => Error::Generic { store: "faulty", source: "503 SlowDown (injected)".into() },
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let mut fate = self.fate(Verb::Put, location.as_ref(), payload.content_length());
        if fate.fault == Some(Fault::Conflict) && opts.mode != PutMode::Create {
            fate.fault = Some(Fault::Error);
        }
        let (inner, at) = (self.inner.clone(), location.clone());
        self.request(fate, location, async move { inner.put_opts(&at, payload, opts).await }).await
    }

    async fn put_multipart_opts(
        &self,
        _location: &Path,
        _opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        unsupported("multipart upload")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let verb = if options.head { Verb::Head } else { Verb::Get };
        let bytes = match &options.range {
            Some(object_store::GetRange::Bounded(r)) => (r.end.saturating_sub(r.start)) as usize,
            _ => 0,
        };
        let fate = self.fate(verb, location.as_ref(), bytes);
        let truncated = fate.fault == Some(Fault::Truncate);
        let mute = fate.fault == Some(Fault::NoBucket) && options.head; // a HEAD's answer has no body
        let (inner, at) = (self.inner.clone(), location.clone());
        let read = async move { inner.get_opts(&at, options).await };
        let result = match self.request(fate, location, read).await {
            Err(Error::NotFound { path, .. }) if mute => {
                return Err(Error::NotFound { path, source: "404".into() });
            }
            result => result?,
        };
        if !truncated {
            return Ok(result);
        }
        let (meta, range) = (result.meta.clone(), result.range.clone());
        let (attributes, extensions) = (result.attributes.clone(), result.extensions.clone());
        let whole = result.bytes().await?;
        let cut: Bytes = whole.slice(..self.entropy.below(whole.len() as u64) as usize);
        let payload = GetResultPayload::Stream(stream::once(async { Ok(cut) }).boxed());
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let faulty = self.clone();
        let delete = move |location: Result<Path>| {
            let faulty = faulty.clone();
            async move {
                let location = location?;
                let fate = faulty.fate(Verb::Delete, location.as_ref(), 0);
                let (inner, at) = (faulty.inner.clone(), location.clone());
                let act = async move {
                    let one = stream::once(async { Ok(at) }).boxed();
                    inner.delete_stream(one).try_collect::<Vec<_>>().await
                };
                faulty.request(fate, &location, act).await.map(|_| location)
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.list_with_offset(prefix, &Path::default())
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let (faulty, prefix, offset) = (self.clone(), prefix.cloned().unwrap_or_default(), offset.clone());
        let listed = async move {
            let fate = faulty.fate(Verb::List, prefix.as_ref(), 0);
            let truncated = fate.fault == Some(Fault::Truncate);
            let (inner, folder) = (faulty.inner.clone(), prefix.clone());
            let act = async move {
                inner.list_with_offset(Some(&folder), &offset).try_collect::<Vec<ObjectMeta>>().await
            };
            match faulty.request(fate, &prefix, act).await {
                Ok(mut listed) if truncated => {
                    listed.truncate(faulty.entropy.below(listed.len() as u64) as usize);
                    let broken = Err(injected(None, &prefix)); // a page failed
                    listed.into_iter().map(Ok).chain([broken]).collect()
                }
                Ok(listed) => listed.into_iter().map(Ok).collect::<Vec<_>>(),
                Err(error) => vec![Err(error)],
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

#[cfg(test)]
mod tests;
