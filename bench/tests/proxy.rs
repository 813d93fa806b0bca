//! The fault proxy before a small store of our own: what the client sees, and what the store got.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tidemark_bench::proxy::faults::{Fault, Faults};
use tidemark_bench::proxy::{self, Listening};
use tidemark_tiering::seam::Tasks;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// What the store holds: path → (the `Host` it was sent under, the body).
type Objects = Arc<Mutex<BTreeMap<String, (String, Bytes)>>>;

async fn store_answers(
    objects: Objects,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    let host = request.headers()["host"].to_str().unwrap().to_owned();
    if request.method() == Method::GET {
        let found = objects.lock().get(&path).map(|(_, body)| body.clone());
        let mut answer = Response::new(Full::new(found.clone().unwrap_or_default()));
        *answer.status_mut() = if found.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
        return Ok(answer);
    }
    let body = request.into_body().collect().await.unwrap().to_bytes();
    objects.lock().insert(path, (host, body));
    Ok(Response::new(Full::default()))
}

struct World {
    listening: Listening,
    objects: Objects,
    tasks: Tasks,
}

impl World {
    async fn with(faults: Faults) -> World {
        let (objects, tasks) = (Objects::default(), Tasks::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = format!("http://{}", listener.local_addr().unwrap());
        let (held, spawn) = (objects.clone(), tasks.clone());
        tasks.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let held = held.clone();
                spawn.spawn(async move {
                    let service = service_fn(move |request| store_answers(held.clone(), request));
                    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        let free: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let args = proxy::Args { listen: free, upstream, control: free, seed: Some(7), faults };
        World { listening: proxy::start(&args).await.unwrap(), objects, tasks }
    }

    /// One request on a new connection: status and whole body, or how it failed.
    async fn ask(
        &self,
        to: SocketAddr,
        method: &str,
        path: &str,
        body: Bytes,
    ) -> Result<(u16, Bytes), String> {
        let stream = TcpStream::connect(to).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let ended = self.tasks.spawn(async move { connection.await.map_err(|e| format!("{e:?}")) });
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "bucket.example")
            .body(Full::new(body));
        let answer = match sender.send_request(request.unwrap()).await {
            Ok(answer) => answer,
            Err(error) => return Err(format!("{error:?} {:?}", ended.await)),
        };
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.map_err(|e| format!("{e:?}"))?;
        Ok((status, body.to_bytes()))
    }

    async fn send(&self, method: &str, path: &str, body: &'static [u8]) -> Result<(u16, Bytes), String> {
        self.ask(self.listening.listen, method, path, Bytes::from_static(body)).await
    }

    fn count(&self, fault: Fault) -> u64 {
        self.listening.proxy.counters.snapshot().faults[&fault]
    }
}

#[tokio::test]
async fn a_request_passes_with_its_host_and_raw_path() {
    let world = World::with(Faults::default()).await;
    assert_eq!(world.send("PUT", "/b/a%20b+c?x=%2F&y", b"body").await.unwrap().0, 200);
    let (path, (host, body)) =
        world.objects.lock().first_key_value().map(|(k, v)| (k.clone(), v.clone())).unwrap();
    assert_eq!(
        (path.as_str(), host.as_str(), &body[..]),
        ("/b/a%20b+c?x=%2F&y", "bucket.example", &b"body"[..])
    );
    assert_eq!(
        world.send("GET", "/b/a%20b+c?x=%2F&y", b"").await.unwrap(),
        (200, Bytes::from_static(b"body"))
    );
    assert_eq!(world.send("GET", "/absent", b"").await.unwrap().0, 404);
}

#[tokio::test]
async fn a_lost_answer_is_stored_and_a_refused_one_is_not() {
    let world = World::with(Faults { lost: 1.0, ..Faults::default() }).await;
    world.send("PUT", "/lost", b"1").await.unwrap_err();
    assert!(world.objects.lock().contains_key("/lost"));
    world.listening.proxy.set_faults(Faults { slow_down: 1.0, ..Faults::default() });
    let (status, body) = world.send("PUT", "/slow", b"1").await.unwrap();
    assert!(status == 503 && body.windows(8).any(|w| w == b"SlowDown"), "{status} {body:?}");
    assert!(!world.objects.lock().contains_key("/slow"));
    world.listening.proxy.set_faults(Faults { stored_503: 1.0, ..Faults::default() });
    assert_eq!(world.send("PUT", "/both", b"1").await.unwrap().0, 503);
    assert!(world.objects.lock().contains_key("/both"));
    assert_eq!([Fault::Lost, Fault::SlowDown, Fault::Stored503].map(|f| world.count(f)), [1, 1, 1]);
}

#[tokio::test]
async fn a_late_put_lands_after_its_client_is_gone() {
    let world = World::with(Faults { late: 1.0, late_ms: 400, ..Faults::default() }).await;
    world.send("PUT", "/late", b"1").await.unwrap_err();
    assert!(!world.objects.lock().contains_key("/late"));
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert!(world.objects.lock().contains_key("/late"));
    assert_eq!(world.listening.proxy.counters.snapshot().late_delivered[&200], 1);
}

#[tokio::test]
async fn a_reset_is_a_tcp_reset() {
    let world = World::with(Faults { reset: 1.0, ..Faults::default() }).await;
    let error = world.send("PUT", "/x", b"1").await.unwrap_err();
    assert!(error.contains("ConnectionReset"), "{error}");
    assert!(world.objects.lock().is_empty());
}

#[tokio::test]
async fn a_cut_answer_is_noticed_and_a_budget_ends_it() {
    let world = World::with(Faults::default()).await;
    let body: &'static [u8] = &[7; 300_000];
    world.send("PUT", "/big", body).await.unwrap();
    world.listening.proxy.set_faults(Faults { cut: 1.0, budget: Some(1), ..Faults::default() });
    world.send("GET", "/big", b"").await.unwrap_err();
    assert_eq!(world.send("GET", "/big", b"").await.unwrap().1.len(), body.len());
    assert_eq!((world.count(Fault::Cut), world.listening.proxy.faults().budget), (1, Some(0)));
}

#[tokio::test]
async fn a_stall_and_the_bandwidth_cap_take_their_time() {
    let world = World::with(Faults { stall: 1.0, stall_ms: 300, ..Faults::default() }).await;
    let began = Instant::now();
    assert_eq!(world.send("PUT", "/s", b"1").await.unwrap().0, 200);
    assert!(began.elapsed() >= Duration::from_millis(300));
    world.listening.proxy.set_faults(Faults {
        up_rate: 1_000_000,
        down_rate: 1_000_000,
        ..Faults::default()
    });
    let body: &'static [u8] = &[1; 300_000];
    for (method, body) in [("PUT", body), ("GET", &b""[..])] {
        let began = Instant::now();
        world.send(method, "/shaped", body).await.unwrap();
        let took = began.elapsed();
        assert!(
            (Duration::from_millis(200)..Duration::from_millis(1500)).contains(&took),
            "{method} {took:?}"
        );
    }
}

#[tokio::test]
async fn the_control_port_changes_faults_and_shows_counters() {
    let world = World::with(Faults { stall_ms: 9, ..Faults::default() }).await;
    let control = world.listening.control;
    let patch = Bytes::from_static(br#"{"slow_down": 1.0, "outage": "none"}"#);
    assert_eq!(world.ask(control, "PATCH", "/faults", patch).await.unwrap().0, 200);
    assert_eq!(*world.listening.proxy.faults(), Faults { slow_down: 1.0, stall_ms: 9, ..Faults::default() });
    assert_eq!(world.send("PUT", "/x", b"1").await.unwrap().0, 503);
    let bad = Bytes::from_static(br#"{"slow_dawn": 1.0}"#);
    assert_eq!(world.ask(control, "PATCH", "/faults", bad).await.unwrap().0, 400);
    let (_, text) = world.ask(control, "GET", "/counters", Bytes::new()).await.unwrap();
    let counters: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(counters["faults"]["slow_down"], 1);
    let none = Bytes::from_static(b"{}");
    assert_eq!(world.ask(control, "PUT", "/faults", none).await.unwrap().0, 200);
    assert_eq!(world.send("PUT", "/x", b"1").await.unwrap().0, 200);
}

#[tokio::test]
async fn an_outage_hangs_until_it_ends() {
    let hang = Faults { outage: proxy::faults::Outage::Hang, ..Faults::default() };
    let world = World::with(hang).await;
    let asked = world.send("PUT", "/x", b"1");
    tokio::pin!(asked);
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut asked).await.is_err());
    world.listening.proxy.set_faults(Faults::default());
    asked.await.unwrap_err();
    assert!(world.objects.lock().is_empty());
    assert_eq!(world.send("PUT", "/x", b"1").await.unwrap().0, 200);
}
