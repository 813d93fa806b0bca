use object_store::{GetOptions, PutOptions, PutPayload, PutResult, Result as StoreResult};

use super::*;

fn bytes(text: &'static str) -> Body {
    Body::from(Bytes::from_static(text.as_bytes()))
}

#[tokio::test(start_paused = true)]
async fn an_object_is_created_once_and_the_same_bytes_are_ours_again() {
    let bucket = Bucket::memory(&Seams::seeded(1));
    assert_eq!(bucket.place(Kind::Parcel, "a/b", &bytes("one-x"), 3).await, Placed::Ours);
    assert_eq!(bucket.place(Kind::Parcel, "a/b", &bytes("one-x"), 3).await, Placed::Ours);
    let other = bucket.place(Kind::Parcel, "a/b", &bytes("two-x"), 3).await;
    assert_eq!(other, Placed::Other(Bytes::from_static(b"one-x")));
    let longer = bucket.place(Kind::Parcel, "a/b", &bytes("one-xy"), 3).await;
    assert_eq!(longer, Placed::Other(Bytes::from_static(b"one-x")));
}

#[tokio::test(start_paused = true)]
async fn empty_objects_are_objects() {
    let bucket = Bucket::memory(&Seams::seeded(1));
    let empty = Body::default();
    assert_eq!(bucket.place(Kind::Seal, "empty", &empty, 16).await, Placed::Ours);
    assert_eq!(bucket.place(Kind::Seal, "empty", &empty, 16).await, Placed::Ours);
    assert_eq!(bucket.place(Kind::Seal, "empty", &bytes("x"), 16).await, Placed::Other(Bytes::new()));
    for span in [Span::All, Span::Range(0..10), Span::Range(5..10), Span::Tail(3), Span::Tail(0)] {
        let found = bucket.get(Kind::Seal, "empty", span.clone(), Patience::Tries(1)).await.unwrap().unwrap();
        assert_eq!((found.bytes.len(), found.size), (0, 0), "{span:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn spans_are_cut_to_the_object() {
    let bucket = Bucket::memory(&Seams::seeded(1));
    bucket.place(Kind::Run, "r", &bytes("0123456789"), 0).await;
    for (span, text, start) in [
        (Span::All, "0123456789", 0),
        (Span::Range(2..5), "234", 2),
        (Span::Range(8..50), "89", 8),
        (Span::Range(10..50), "", 10),
        (Span::Range(4..4), "", 4),
        (Span::Tail(3), "789", 7),
        (Span::Tail(30), "0123456789", 0),
        (Span::Tail(0), "", 10),
    ] {
        let found = bucket.get(Kind::Run, "r", span.clone(), Patience::Tries(1)).await.unwrap().unwrap();
        assert_eq!((&found.bytes[..], found.start, found.size), (text.as_bytes(), start, 10), "{span:?}");
    }
    assert_eq!(bucket.get(Kind::Run, "q", Span::All, Patience::Tries(1)).await, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn listings_are_sorted_and_begin_after_a_key() {
    let seams = Seams::seeded(1);
    let store = Arc::new(Memory::new(seams.clock.clone()));
    let options = Options { prefix: "cluster/a".into(), ..Options::default() };
    let bucket = Bucket::new(store.clone(), options, &seams);
    for key in ["meta/3", "meta/1", "meta/2/x", "metal/4", "other"] {
        bucket.place(Kind::Meta, key, &bytes("x"), 0).await;
    }
    let keys = async |prefix, after| {
        let listed = bucket.list(Kind::Meta, prefix, after, Patience::Tries(1)).await.unwrap();
        listed.into_iter().map(|l| l.key).collect::<Vec<_>>()
    };
    assert_eq!(keys("meta/", None).await, ["meta/1", "meta/2/x", "meta/3"]);
    assert_eq!(keys("meta/", Some("meta/1")).await, ["meta/2/x", "meta/3"]);
    assert_eq!(keys("", None).await.len(), 5);
    assert_eq!(keys("none/", None).await, Vec::<String>::new());
    assert!(store.dump().iter().all(|(key, _)| key.starts_with("cluster/a/")));
    bucket.delete(Kind::Meta, vec!["meta/1".into(), "gone".into()], Patience::Tries(1)).await.unwrap();
    assert_eq!(keys("meta/", None).await, ["meta/2/x", "meta/3"]);
}

#[tokio::test(start_paused = true)]
async fn every_request_is_counted_and_priced() {
    let seams = Seams::seeded(1);
    let store = Arc::new(Memory::new(seams.clock.clone()));
    let options = Options { prices: Prices::S3, ..Options::default() };
    let bucket = Bucket::new(store, options, &seams);
    bucket.place(Kind::Parcel, "p", &bytes("abc"), 0).await;
    bucket.place(Kind::Parcel, "p", &bytes("abc"), 0).await;
    bucket.list(Kind::Parcel, "", None, Patience::Tries(1)).await.unwrap();
    let rows: Vec<_> = bucket.meter().into_iter().map(|r| (r.verb, r.outcome, r.attempts, r.bytes)).collect();
    assert_eq!(
        rows,
        [
            (Verb::Put, Outcome::Done, 1, 3),
            (Verb::Put, Outcome::Exists, 1, 0),
            (Verb::Get, Outcome::Done, 1, 3),
            (Verb::List, Outcome::Done, 1, 0),
        ]
    );
    let dollars: f64 = bucket.meter().iter().map(|r| r.dollars).sum();
    assert!((dollars - (3.0 * 0.000_005 + 0.000_000_4)).abs() < 1e-12, "{dollars}");
}

/// A store whose next answers are scripted: each PUT may land, and then answers as told.
#[derive(Debug)]
struct Scripted {
    inner: Memory,
    puts: Mutex<Vec<(bool, &'static str)>>,
}

impl fmt::Display for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("scripted")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Scripted {
    async fn put_opts(&self, at: &Path, payload: PutPayload, opts: PutOptions) -> StoreResult<PutResult> {
        let next = self.puts.lock().pop();
        let Some((lands, answer)) = next else { return self.inner.put_opts(at, payload, opts).await };
        if lands {
            self.inner.put_opts(at, payload, opts).await.ok();
        }
        let (path, source) = (at.to_string(), answer.into());
        Err(match answer {
            "409" => object_store::Error::AlreadyExists { path, source },
            "403" => object_store::Error::PermissionDenied { path, source },
            "404" => object_store::Error::NotFound { path, source },
            "hang" => std::future::pending().await,
            _ => object_store::Error::Generic { store: "scripted", source },
        })
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        opts: object_store::PutMultipartOptions,
    ) -> StoreResult<Box<dyn object_store::MultipartUpload>> {
        self.inner.put_multipart_opts(at, opts).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> StoreResult<object_store::GetResult> {
        self.inner.get_opts(at, options).await
    }

    fn delete_stream(
        &self,
        at: futures::stream::BoxStream<'static, StoreResult<Path>>,
    ) -> futures::stream::BoxStream<'static, StoreResult<Path>> {
        self.inner.delete_stream(at)
    }

    fn list(
        &self,
        prefix: Option<&Path>,
    ) -> futures::stream::BoxStream<'static, StoreResult<object_store::ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<object_store::ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, o: object_store::CopyOptions) -> StoreResult<()> {
        self.inner.copy_opts(from, to, o).await
    }
}

async fn place_through(script: &[(bool, &'static str)], present: Option<&'static str>) -> (Placed, Bucket) {
    let seams = Seams::seeded(7);
    let inner = Memory::new(seams.clock.clone());
    if let Some(text) = present {
        inner.overwrite("k", Bytes::from_static(text.as_bytes()));
    }
    let puts = Mutex::new(script.iter().rev().copied().collect());
    let bucket = Bucket::new(Arc::new(Scripted { inner, puts }), Options::default(), &seams);
    let placed = bucket.place(Kind::Parcel, "k", &bytes("mine"), 4).await;
    (placed, bucket)
}

#[tokio::test(start_paused = true)]
async fn no_answer_of_the_store_is_believed_before_the_object_is_seen() {
    let other = Placed::Other(Bytes::from_static(b"other"));
    for (script, present, expected) in [
        (&[(true, "503")][..], None, Placed::Ours),
        (&[(false, "503")], None, Placed::Ours),
        (&[(true, "hang")], None, Placed::Ours),
        (&[(false, "hang"), (false, "reset")], None, Placed::Ours),
        (&[(false, "409")], None, Placed::Ours),
        (&[(true, "409")], None, Placed::Ours),
        (&[(false, "409"), (false, "409"), (true, "503")], None, Placed::Ours),
        (&[(false, "403"), (false, "404")], None, Placed::Ours),
        (&[], Some("other"), other.clone()),
        (&[(false, "503"), (false, "409")], Some("other"), other),
    ] {
        let (placed, _) = place_through(script, present).await;
        assert_eq!(placed, expected, "{script:?} {present:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusing_store_is_an_alarm_until_it_answers() {
    let seams = Seams::seeded(7);
    let inner = Memory::new(seams.clock.clone());
    let puts = Mutex::new(vec![(false, "403"); 1000]);
    let bucket = Bucket::new(Arc::new(Scripted { inner, puts }), Options::default(), &seams);
    let body = Body::default();
    let placing = bucket.place(Kind::Parcel, "k", &body, 0);
    assert!(tokio::time::timeout(Duration::from_secs(60), placing).await.is_err());
    assert!(matches!(bucket.health(), Health::Ailing { needs_operator: true, failures: 10.., .. }));
    bucket.get(Kind::Parcel, "k", Span::All, Patience::Tries(1)).await.unwrap();
    assert!(bucket.health().is_well());
}
