//! HTTP for operators: `/metrics`, `/ready`, `/live`, `/cluster`, `/cluster/chains/TOPIC`.
//!
//! Ready means: registered, and the bucket answers. Live means: the process can still answer. Knows no Kafka.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tidemark_tiering::seam::Seams;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Says whether the broker serves; the sentence says why not.
pub type Ready = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The metadata to look at: all but chains, or with a name the chains of that topic.
pub type Look = Arc<dyn Fn(Option<&str>) -> Option<serde_json::Value> + Send + Sync>;

/// What is shown.
#[derive(Clone)]
pub struct Shown {
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Whether it serves.
    pub ready: Ready,
    /// The cluster.
    pub look: Look,
}

/// Binds `addr`; a failure is one sentence with the mend.
pub async fn bind(addr: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(addr).await.map_err(|error| {
        format!("cannot listen on {addr} for HTTP: {error}; set tidemark.http.listen to a free address, or empty for none")
    })
}

/// Serves until `stop`.
pub fn serve(listener: TcpListener, shown: Shown, stop: CancellationToken, seams: &Seams) {
    let app = router(shown);
    seams.tasks.spawn(async move {
        let served = axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await;
        if let Err(error) = served {
            tracing::error!(%error, "HTTP ended");
        }
    });
}

fn router(shown: Shown) -> Router {
    Router::new()
        .route("/metrics", get(text))
        .route("/ready", get(is_ready))
        .route("/live", get(async || "live\n"))
        .route("/cluster", get(cluster))
        .route("/cluster/chains/{topic}", get(chains))
        .with_state(shown)
}

async fn cluster(State(shown): State<Shown>) -> Response {
    looked((shown.look)(None))
}

async fn chains(State(shown): State<Shown>, Path(topic): Path<String>) -> Response {
    looked((shown.look)(Some(&topic)))
}

fn looked(found: Option<serde_json::Value>) -> Response {
    match found {
        Some(found) => ([(header::CONTENT_TYPE, "application/json")], found.to_string()).into_response(),
        None => (StatusCode::NOT_FOUND, "there is no such topic\n").into_response(),
    }
}

async fn text(State(app): State<Shown>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.metrics.text().await)
}

async fn is_ready(State(app): State<Shown>) -> (StatusCode, String) {
    match (app.ready)() {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn get(addr: SocketAddr, path: &str) -> String {
        let mut io = TcpStream::connect(addr).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        io.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        io.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_paths_answer_and_readiness_says_why_not() {
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let ready: Ready = Arc::new(|| Err("the bucket does not answer".into()));
        let metrics = Metrics::new();
        metrics.messages_in("t", 1, 1);
        let look: Look = Arc::new(|topic: Option<&str>| {
            topic.is_none_or(|topic| topic == "t").then(|| serde_json::json!({ "of": topic }))
        });
        serve(listener, Shown { metrics, ready, look }, stop.clone(), &Seams::seeded(1));
        assert!(get(addr, "/cluster").await.ends_with(r#"{"of":null}"#));
        assert!(get(addr, "/cluster/chains/t").await.ends_with(r#"{"of":"t"}"#));
        assert!(get(addr, "/cluster/chains/u").await.starts_with("HTTP/1.1 404"));
        assert!(get(addr, "/live").await.starts_with("HTTP/1.1 200"));
        let metrics = get(addr, "/metrics").await;
        assert!(metrics.contains("openmetrics") && metrics.contains("messagesin_total 1.0"), "{metrics}");
        let ready = get(addr, "/ready").await;
        assert!(
            ready.starts_with("HTTP/1.1 503") && ready.ends_with("the bucket does not answer\n"),
            "{ready}"
        );
        assert!(bind(addr).await.unwrap_err().contains("tidemark.http.listen"));
        stop.cancel();
    }
}
