//! What a store must do for us to trust it, as checks that every store passes: in tests, at start-up, by hand.
//!
//! Each check uses keys of its own and only the public bucket. A failure is one plain sentence that says what
//! the store did wrong and how to mend it.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use tidemark_proto::id::Life;
use tokio::time::Instant;

use super::{Body, Bucket, Fetched, Health, Kind, Patience, Placed, Span};
use crate::error::Error;
use crate::keys::{Name, PROBES};
use crate::seam::Entropy;

/// Why a store is not to be trusted, or cannot be used: one sentence with the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub String);

/// One property of a store.
#[derive(Clone, Copy)]
pub struct Check {
    /// Its name, a sentence with underscores.
    pub name: &'static str,
    /// The check itself.
    pub run: for<'a> fn(&'a Ground) -> BoxFuture<'a, Result<(), Fault>>,
}

/// The few that guard every start.
pub const FAST: [Check; 3] = [
    Check { name: "racing_creates_have_one_winner", run: |g| Box::pin(race(g, "race", 4)) },
    Check { name: "ranges_are_read_exactly", run: |g| Box::pin(ranges(g)) },
    Check { name: "listings_show_what_was_just_written", run: |g| Box::pin(listing(g)) },
];

/// All of them.
pub const FULL: [Check; 9] = [
    Check { name: "an_object_is_created_once", run: |g| Box::pin(create_twice(g)) },
    Check { name: "sixteen_racing_creates_have_one_winner", run: |g| Box::pin(races(g)) },
    Check { name: "a_missing_object_is_seen_once_it_is_written", run: |g| Box::pin(read_after_write(g)) },
    FAST[1],
    FAST[2],
    Check { name: "long_listings_come_whole_and_in_order", run: |g| Box::pin(long_listing(g)) },
    Check { name: "empty_objects_are_objects", run: |g| Box::pin(empty(g)) },
    Check { name: "big_objects_come_back_whole", run: |g| Box::pin(big(g)) },
    Check { name: "deleted_objects_are_gone", run: |g| Box::pin(delete(g)) },
];

/// Where checks play: keys under `probe/<life>/` that nobody else uses.
#[derive(Debug)]
pub struct Ground {
    bucket: Bucket,
    life: Life,
    entropy: Entropy,
    run: u64,
}

const PATIENCE: Patience = Patience::Tries(4);
const PLACE_WITHIN: Duration = Duration::from_secs(15);
const NONCE: usize = 16;
/// Longest quotation of a store's error in a sentence.
const GIST_CHARS: usize = 300;

impl Ground {
    /// A fresh ground.
    pub fn new(bucket: &Bucket, life: Life) -> Ground {
        let entropy = bucket.0.seams.entropy.clone();
        Ground { bucket: bucket.clone(), life, run: entropy.u64(), entropy }
    }

    fn key(&self, what: &str) -> String {
        Name::Probe { life: self.life, what: format!("{:016x}-{what}", self.run) }.to_string()
    }

    fn folder(&self) -> String {
        format!("{PROBES}{}/", self.life)
    }

    /// A body that no other writer makes: a nonce, then `len` bytes of a pattern.
    fn body(&self, len: usize) -> Body {
        let nonce = Bytes::copy_from_slice(&self.entropy.nonce().to_bytes());
        let pattern: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        Body::from(vec![nonce, Bytes::from(pattern)])
    }

    async fn place(&self, key: &str, body: &Body) -> Result<Placed, Fault> {
        let mut placing = std::pin::pin!(self.bucket.place(Kind::Probe, key, body, NONCE));
        let deadline = Instant::now() + PLACE_WITHIN;
        loop {
            if let Ok(placed) = tokio::time::timeout(Duration::from_millis(500), &mut placing).await {
                return Ok(placed);
            }
            match self.bucket.health() {
                Health::Ailing { why, needs_operator: true, .. } => return Err(unusable("written", &why)),
                Health::Ailing { why, .. } if Instant::now() >= deadline => {
                    return Err(unusable("written", &why));
                }
                // It answers, and says in turn that the object exists and that it does not.
                Health::Well if Instant::now() >= deadline => return Err(unseen("read")),
                _ => {}
            }
        }
    }

    async fn get(&self, key: &str, span: Span) -> Result<Option<Fetched>, Fault> {
        answered("read", self.bucket.get(Kind::Probe, key, span, PATIENCE)).await
    }

    /// Whether the bucket answers for an object that nobody wrote: with none, or with why not.
    pub async fn is_there(&self) -> Result<(), Fault> {
        match self.get(&self.key("nobody-wrote-this"), Span::All).await? {
            None => Ok(()),
            Some(_) => Err(unwritten()),
        }
    }

    async fn list(&self, after: Option<&str>) -> Result<Vec<String>, Fault> {
        let folder = self.folder();
        let listed = self.bucket.list(Kind::Probe, &folder, after, PATIENCE);
        let listed = answered("listed", listed).await?;
        Ok(listed.into_iter().map(|l| l.key).collect())
    }

    /// Deletes what the checks wrote, as far as that is allowed.
    pub async fn clean(&self) -> Result<(), Error> {
        let listed = self.bucket.list(Kind::Probe, &self.folder(), None, PATIENCE).await?;
        let keys = listed.into_iter().map(|l| l.key).collect();
        self.bucket.delete(Kind::Probe, keys, PATIENCE).await
    }
}

async fn answered<T>(done: &str, call: impl Future<Output = Result<T, Error>>) -> Result<T, Fault> {
    call.await.map_err(|error| match error {
        Error::Retry(why) => unusable(done, &why),
        other => unusable(done, &other.to_string()),
    })
}

/// A store that cannot be used at all, by what it said.
fn unusable(done: &str, why: &str) -> Fault {
    let has = |marks: &[&str]| marks.iter().any(|mark| why.contains(mark));
    let fix = if has(&["bucket does not exist", "NoSuchBucket"]) {
        "the bucket does not exist: create it, or correct its name"
    } else if has(&["169.254.169.254", "169.254.170.2", "metadata.google.internal"]) {
        "no credentials were set, and this machine has none of the cloud's: set tidemark.bucket.access.key and \
         tidemark.bucket.secret.key, or the cloud's usual variables (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
    } else if has(&["RequestTimeTooSkewed"]) {
        "this machine's clock is wrong: set it, and keep it set by NTP"
    } else if has(&["AuthorizationHeaderMalformed", "PermanentRedirect", "redirect without LOCATION"]) {
        "the bucket is in another region: set tidemark.bucket.region to it"
    } else if has(&["InvalidAccessKeyId", "SignatureDoesNotMatch", "valid authentication", "ExpiredToken"]) {
        "the store does not accept the credentials: check the access key and its secret"
    } else if has(&["AccessDenied", "necessary privileges", "Permission denied", "403 Forbidden"]) {
        "the credentials lack the right to do so: grant it, or use other credentials"
    } else if has(&["InvalidBucketName"]) {
        "the bucket's name is not allowed: correct it"
    } else if has(&["No space left"]) {
        "the disk is full: make room"
    } else if has(&["Read-only file system"]) {
        "the file system is mounted read-only: mount it writable"
    } else {
        "the store does not answer as it should: check its address, the network and the store's own log"
    };
    Fault(format!("Objects of the bucket cannot be {done}; {fix} ({}).", gist(why)))
}

/// What a store's error says, without the document around it.
fn gist(why: &str) -> String {
    let within = |tag: &str| {
        let (_, rest) = why.split_once(&format!("<{tag}>"))?;
        rest.split_once('<').map(|(text, _)| text).filter(|text| !text.is_empty())
    };
    match (within("Code"), within("Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ if why.chars().count() > GIST_CHARS => why.chars().take(GIST_CHARS).chain(['…']).collect(),
        _ => why.to_owned(),
    }
}

fn overwritten() -> Fault {
    Fault(
        "The store wrote over an object that was to be created only once: it ignores 'If-None-Match: *', so two \
         brokers could both believe that they own a partition; use a store with conditional writes (a current \
         S3, MinIO, Google Cloud Storage, Azure, or a directory), and no proxy that drops the header."
            .into(),
    )
}

async fn create_twice(ground: &Ground) -> Result<(), Fault> {
    let (key, first) = (ground.key("once"), ground.body(100));
    let foreign =
        "The store says that an object exists which nobody wrote; check for another user of the prefix.";
    if ground.place(&key, &first).await? != Placed::Ours {
        return Err(Fault(foreign.into()));
    }
    if ground.place(&key, &ground.body(100)).await? == Placed::Ours {
        return Err(overwritten());
    }
    if ground.place(&key, &first).await? != Placed::Ours {
        return Err(Fault("The store changed an object that nobody may change; do not use it.".into()));
    }
    Ok(())
}

async fn races(ground: &Ground) -> Result<(), Fault> {
    for round in 0..3 {
        race(ground, &format!("race-{round}"), 16).await?;
    }
    Ok(())
}

async fn race(ground: &Ground, what: &str, racers: usize) -> Result<(), Fault> {
    let key = ground.key(what);
    if ground.get(&key, Span::All).await?.is_some() {
        return Err(unwritten());
    }
    let bodies: Vec<Body> = (0..racers).map(|_| ground.body(48)).collect();
    let placed = join_all(bodies.iter().map(|body| ground.place(&key, body))).await;
    let placed = placed.into_iter().collect::<Result<Vec<_>, _>>()?;
    let Some(held) = ground.get(&key, Span::All).await? else { return Err(unseen("read")) };
    let winners: Vec<usize> = (0..racers).filter(|i| placed[*i] == Placed::Ours).collect();
    let [winner] = winners[..] else { return Err(overwritten()) };
    if held.bytes != bodies[winner].to_bytes() {
        return Err(overwritten());
    }
    let told = placed.iter().all(|p| match p {
        Placed::Ours => true,
        Placed::Other(bytes) => *bytes == held.bytes,
    });
    if told { Ok(()) } else { Err(overwritten()) }
}

fn unwritten() -> Fault {
    Fault("The store holds an object that nobody wrote; use a prefix of its own.".into())
}

fn unseen(done: &str) -> Fault {
    Fault(format!(
        "An object that the store confirmed could not be {done} right away: it is not strongly consistent; \
         use one that is, and no cache or lazy replica before it."
    ))
}

async fn read_after_write(ground: &Ground) -> Result<(), Fault> {
    for round in 0..4 {
        let (key, body) = (ground.key(&format!("fresh-{round}")), ground.body(1000));
        if ground.get(&key, Span::All).await?.is_some() {
            return Err(unwritten());
        }
        ground.place(&key, &body).await?;
        match ground.get(&key, Span::All).await? {
            None => return Err(unseen("read")),
            Some(held) if held.bytes != body.to_bytes() => {
                return Err(Fault(
                    "The store gave back other bytes than were written; do not use it.".into(),
                ));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

async fn ranges(ground: &Ground) -> Result<(), Fault> {
    let (key, body) = (ground.key("ranges"), ground.body(984));
    ground.place(&key, &body).await?;
    let whole = body.to_bytes();
    for (span, due) in [
        (Span::Range(10..200), 10..200),
        (Span::Range(900..5000), 900..1000),
        (Span::Tail(64), 936..1000),
        (Span::Tail(5000), 0..1000),
    ] {
        let wrong = match ground.get(&key, span.clone()).await {
            Ok(None) => return Err(unseen("read")),
            Ok(Some(f)) if f.bytes == whole.slice(due.clone()) && f.size == 1000 => continue,
            Ok(Some(f)) => format!("{} bytes of {}", f.bytes.len(), f.size),
            Err(Fault(why)) => why,
        };
        return Err(Fault(format!(
            "The store does not read ranges of objects exactly (asked for {span:?}, got: {wrong}); \
             use another store, or a proxy before it that passes the Range header."
        )));
    }
    Ok(())
}

async fn listing(ground: &Ground) -> Result<(), Fault> {
    let keys: Vec<String> = (0..3).map(|i| ground.key(&format!("list-{i}"))).collect();
    for (i, key) in keys.iter().enumerate() {
        ground.place(key, &ground.body(10)).await?;
        let seen = ground.list(Some(&keys[0])).await?;
        if i > 0 && !seen.contains(key) {
            return Err(unseen("listed"));
        }
        if seen.iter().any(|seen| seen <= &keys[0]) {
            return Err(Fault("The store lists keys below the one a listing was to begin after.".into()));
        }
    }
    Ok(())
}

async fn long_listing(ground: &Ground) -> Result<(), Fault> {
    let bodies = (0..40).map(|i| (ground.key(&format!("many-{i:04}")), ground.body(1)));
    let keys: BTreeSet<String> = bodies.clone().map(|(key, _)| key).collect();
    let placing = bodies.map(|(key, body)| async move { ground.place(&key, &body).await });
    join_all(placing).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let listed = ground.list(None).await?;
    if !listed.is_sorted() || keys.iter().any(|key| !listed.contains(key)) {
        return Err(unseen("listed"));
    }
    Ok(())
}

async fn empty(ground: &Ground) -> Result<(), Fault> {
    let (key, none) = (ground.key("empty"), Body::default());
    let lost = "The store does not keep empty objects; use another.";
    if ground.place(&key, &none).await? != Placed::Ours {
        return Err(Fault(lost.into()));
    }
    for span in [Span::All, Span::Range(0..10), Span::Tail(10)] {
        match ground.get(&key, span).await? {
            Some(f) if f.bytes.is_empty() && f.size == 0 => {}
            _ => return Err(Fault(lost.into())),
        }
    }
    match ground.place(&key, &ground.body(1)).await? {
        Placed::Ours => Err(overwritten()),
        Placed::Other(_) => Ok(()),
    }
}

async fn big(ground: &Ground) -> Result<(), Fault> {
    let (key, body) = (ground.key("big"), ground.body((8 << 20) + 1));
    ground.place(&key, &body).await?;
    let whole = body.to_bytes();
    let len = whole.len();
    for (span, due) in [(Span::All, 0..len), (Span::Range(4_000_000..6_000_000), 4_000_000..6_000_000)] {
        match ground.get(&key, span).await? {
            None => return Err(unseen("read")),
            Some(f) if f.bytes == whole.slice(due) && f.size == len as u64 => {}
            Some(_) => {
                return Err(Fault(
                    "The store gave back other bytes than were written; do not use it.".into(),
                ));
            }
        }
    }
    Ok(())
}

async fn delete(ground: &Ground) -> Result<(), Fault> {
    let keys: Vec<String> = (0..3).map(|i| ground.key(&format!("doomed-{i}"))).collect();
    for key in &keys {
        ground.place(key, &ground.body(10)).await?;
    }
    let mut doomed = keys.clone();
    doomed.push(ground.key("never-written"));
    answered("deleted", ground.bucket.delete(Kind::Probe, doomed, PATIENCE)).await?;
    let listed = ground.list(None).await?;
    for key in &keys {
        if ground.get(key, Span::All).await?.is_some() || listed.contains(key) {
            return Err(Fault(
                "The store still shows objects that it deleted: it is not strongly consistent; use one that is."
                    .into(),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stores_error_is_quoted_by_code_and_message_and_never_at_length() {
        let why =
            "404: <Error><Code>NoSuchBucket</Code><Message>It is not there</Message><Key>x</Key></Error>";
        let Fault(sentence) = unusable("read", why);
        assert!(sentence.ends_with("(NoSuchBucket: It is not there)."), "{sentence}");
        assert_eq!(gist("connection refused"), "connection refused");
        assert!(gist(&"x".repeat(5000)).len() < 400);
    }

    #[test]
    fn row_51_each_way_a_store_refuses_has_its_own_mend() {
        for (why, mend) in [
            ("error sending request for http://169.254.169.254/latest/api/token", "no credentials were set"),
            ("<Error><Code>AuthorizationHeaderMalformed</Code></Error>", "set tidemark.bucket.region"),
            ("301: <Code>PermanentRedirect</Code>", "set tidemark.bucket.region"),
            ("<Code>RequestTimeTooSkewed</Code>", "clock is wrong"),
            ("<Code>SignatureDoesNotMatch</Code>", "check the access key and its secret"),
            ("403 Forbidden: <Code>AccessDenied</Code>", "grant it"),
            ("status code: 403 Forbidden: ", "grant it"),
            // A key's random part may spell any number.
            ("GET http://127.0.0.1:9/bucket/probe/b7fe403a404/x - HTTP error", "check its address"),
            ("404: <Code>NoSuchBucket</Code>", "create it"),
            ("connection refused", "check its address"),
        ] {
            let Fault(sentence) = unusable("written", why);
            assert!(sentence.contains(mend), "{why}: {sentence}");
        }
    }
}
