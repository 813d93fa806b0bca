//! Every store passes the same checks; one that ignores the conditional create is refused.
//!
//! `TIDEMARK_TEST_S3=endpoint,key,secret,bucket` adds a real S3 server.

// Helpers of tests are tests too, and measurements are printed.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tidemark_tiering::bucket::probe::{self, Level};
use tidemark_tiering::bucket::{Bucket, Config, Memory, Options};
use tidemark_tiering::seam::Seams;

async fn passes(bucket: &Bucket, seams: &Seams) {
    for level in [Level::Fast, Level::Full] {
        let report = probe::run(bucket, seams.entropy.life(), level).await.unwrap();
        assert_eq!(report.left, None);
        for (name, took) in report.checks {
            println!("{:>9.1} ms  {name}", took.as_secs_f64() * 1e3);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn memory_conforms() {
    let seams = Seams::seeded(1);
    passes(&Bucket::memory(&seams), &seams).await;
}

#[tokio::test]
async fn a_directory_conforms_and_is_probed_quickly() {
    let (seams, dir) = (Seams::system(), tempfile::tempdir().unwrap());
    let bucket = Bucket::open(&Config::new(format!("file://{}", dir.path().display())), &seams).unwrap();
    passes(&bucket, &seams).await;
    let start = tokio::time::Instant::now();
    probe::run(&bucket, seams.entropy.life(), Level::Fast).await.unwrap();
    println!("fast probe: {:?}", start.elapsed());
}

#[tokio::test]
async fn a_real_s3_server_conforms() {
    let Ok(text) = std::env::var("TIDEMARK_TEST_S3") else {
        println!("skipped: set TIDEMARK_TEST_S3=endpoint,key,secret,bucket");
        return;
    };
    let [endpoint, key, secret, name] = text.split(',').collect::<Vec<_>>()[..] else {
        panic!("TIDEMARK_TEST_S3 is endpoint,key,secret,bucket");
    };
    let seams = Seams::system();
    let mut config = Config::new(format!("s3://{name}/conformance-{}", seams.entropy.life()));
    config.endpoint = Some(endpoint.to_owned());
    config.access_key = Some(key.to_owned());
    config.secret_key = Some(secret.into());
    passes(&Bucket::open(&config, &seams).unwrap(), &seams).await;

    let elsewhere = Config { url: "s3://no-such-bucket-here".into(), ..config.clone() };
    let sentence = refusal(&elsewhere, &seams).await;
    assert!(sentence.contains("bucket does not exist: create it"), "{sentence}");

    let wrong = Config { secret_key: Some("not-the-secret".into()), ..config };
    let sentence = refusal(&wrong, &seams).await;
    assert!(sentence.contains("credentials"), "{sentence}");
    assert!(!sentence.contains("not-the-secret"), "{sentence}");
}

async fn refusal(config: &Config, seams: &Seams) -> String {
    let bucket = Bucket::open(config, seams).unwrap();
    probe::run(&bucket, seams.entropy.life(), Level::Fast).await.unwrap_err().to_string()
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_refused_in_time() {
    let seams = Seams::system();
    let mut config = Config::new("s3://bucket");
    config.endpoint = Some("http://127.0.0.1:9".to_owned());
    config.access_key = Some("a".to_owned());
    config.secret_key = Some("b".into());
    let bucket = Bucket::open(&config, &seams).unwrap();
    let failure = probe::run(&bucket, seams.entropy.life(), Level::Fast).await.unwrap_err();
    assert!(failure.to_string().contains("check its address"), "{failure}");
}

/// How a store may be broken.
#[derive(Clone, Copy, Debug)]
enum Broken {
    IgnoresIfNoneMatch,
    ReadsStale,
    IgnoresRange,
}

/// A store that answers wrongly.
#[derive(Debug)]
struct BrokenStore {
    inner: Memory,
    how: Broken,
}

impl fmt::Display for BrokenStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.how)
    }
}

#[async_trait]
impl ObjectStore for BrokenStore {
    async fn put_opts(&self, at: &Path, payload: PutPayload, mut opts: PutOptions) -> Result<PutResult> {
        if let Broken::IgnoresIfNoneMatch = self.how {
            opts.mode = PutMode::Overwrite;
        }
        self.inner.put_opts(at, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        o: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, o).await
    }

    async fn get_opts(&self, at: &Path, mut options: GetOptions) -> Result<GetResult> {
        match self.how {
            Broken::ReadsStale => {
                let source = "not replicated yet".into();
                return Err(object_store::Error::NotFound { path: at.to_string(), source });
            }
            Broken::IgnoresRange => options.range = None,
            Broken::IgnoresIfNoneMatch => {}
        }
        self.inner.get_opts(at, options).await
    }

    fn delete_stream(&self, at: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(at)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[tokio::test(start_paused = true)]
async fn broken_stores_are_refused_with_a_sentence_that_helps() {
    for (how, words) in [
        (Broken::IgnoresIfNoneMatch, "ignores 'If-None-Match: *'"),
        (Broken::ReadsStale, "not strongly consistent"),
        (Broken::IgnoresRange, "does not read ranges"),
    ] {
        for level in [Level::Fast, Level::Full] {
            let seams = Seams::seeded(3);
            let inner = Memory::new(seams.clock.clone());
            let store = Arc::new(BrokenStore { inner, how });
            let bucket = Bucket::new(store, Options::default(), &seams);
            let probing = probe::run(&bucket, seams.entropy.life(), level);
            let probing = tokio::time::timeout(std::time::Duration::from_secs(60), probing);
            let failure = probing.await.expect("refused in time").unwrap_err();
            assert!(failure.to_string().contains(words), "{how:?}: {failure}");
            assert_eq!(failure.to_string().lines().count(), 1);
        }
    }
}
