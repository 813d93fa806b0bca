//! Where this broker is, as its cloud's instance metadata tells: the availability zone (`tidemark.rack.auto`).
//!
//! Three clouds answer at one link-local address, each to its own question; all are asked at once, in plain HTTP, and
//! have little time: outside of a cloud nobody answers. Answers are bounded, and used only where they look like a zone.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::handshake;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Where clouds tell an instance about itself.
pub const METADATA: &str = "169.254.169.254:80";

/// For all questions together.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// Largest answer.
const MOST: usize = 64 << 10;
/// Longest zone name.
const NAME: usize = 128;

/// The zone of this instance, asked at `metadata` (host:port); `None` where no cloud tells one in time.
pub async fn of_instance(metadata: &str) -> Option<String> {
    let in_time = |zone| async { timeout(PATIENCE, zone).await.ok().flatten() };
    let clouds: [futures::future::BoxFuture<'_, Option<String>>; 3] =
        [Box::pin(aws(metadata)), Box::pin(google(metadata)), Box::pin(azure(metadata))];
    futures::future::join_all(clouds.map(in_time)).await.into_iter().flatten().next()
}

/// With a session token (IMDSv2), which instances may insist on.
async fn aws(metadata: &str) -> Option<String> {
    let token = Ask {
        method: Method::PUT,
        path: "/latest/api/token",
        header: ("x-aws-ec2-metadata-token-ttl-seconds", "60"),
    };
    let token = token.of(metadata).await?;
    let header = ("x-aws-ec2-metadata-token", token.trim());
    let zone = Ask { method: Method::GET, path: "/latest/meta-data/placement/availability-zone", header };
    zone_named(&zone.of(metadata).await?)
}

/// `projects/123/zones/europe-west1-b`.
async fn google(metadata: &str) -> Option<String> {
    let header = ("metadata-flavor", "Google");
    let ask = Ask { method: Method::GET, path: "/computeMetadata/v1/instance/zone", header };
    zone_named(ask.of(metadata).await?.rsplit('/').next()?)
}

/// A region, and the number of a zone in it.
async fn azure(metadata: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Compute {
        location: String,
        zone: String,
    }
    let path = "/metadata/instance/compute?api-version=2021-02-01&format=json";
    let ask = Ask { method: Method::GET, path, header: ("metadata", "true") };
    let Compute { location, zone } = serde_json::from_str(&ask.of(metadata).await?).ok()?;
    zone_named(&zone)?;
    zone_named(&format!("{location}-{zone}"))
}

fn zone_named(text: &str) -> Option<String> {
    let text = text.trim();
    let named = !text.is_empty()
        && text.len() <= NAME
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    named.then(|| text.to_owned())
}

struct Ask<'a> {
    method: Method,
    path: &'a str,
    header: (&'static str, &'a str),
}

impl Ask<'_> {
    /// The text of a good answer.
    async fn of(self, metadata: &str) -> Option<String> {
        let (name, value) = self.header;
        let request = Request::builder().method(self.method).uri(self.path).header("host", metadata);
        let request =
            request.header(name, value).header("content-length", "0").body(Empty::<Bytes>::new()).ok()?;
        let stream = TcpStream::connect(metadata).await.ok()?;
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
        let answer = async {
            let answer = sender.send_request(request).await.ok()?;
            let good = answer.status() == StatusCode::OK;
            let body = Limited::new(answer.into_body(), MOST).collect().await.ok()?.to_bytes();
            String::from_utf8(body.to_vec()).ok().filter(|_| good)
        };
        // The connection is driven beside what is said on it; it may end first.
        let driven = async {
            connection.await.ok();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            answer = answer => answer,
            () = driven => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::HeaderMap;
    use axum::routing::{get, put};
    use tidemark_tiering::seam::Seams;
    use tokio::net::TcpListener;

    use super::*;

    async fn cloud(routes: Router) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap().to_string();
        Seams::seeded(1).tasks.spawn(async move { axum::serve(listener, routes).await });
        at
    }

    fn with(headers: &HeaderMap, name: &str, value: &str, answer: &str) -> (StatusCode, String) {
        match headers.get(name).is_some_and(|found| found == value) {
            true => (StatusCode::OK, answer.to_owned()),
            false => (StatusCode::UNAUTHORIZED, "who are you?".to_owned()),
        }
    }

    #[tokio::test]
    async fn aws_tells_its_zone_to_who_has_a_token() {
        let token =
            |h: HeaderMap| async move { with(&h, "x-aws-ec2-metadata-token-ttl-seconds", "60", "t0k") };
        let zone = |h: HeaderMap| async move { with(&h, "x-aws-ec2-metadata-token", "t0k", "eu-west-1b") };
        let routes = Router::new()
            .route("/latest/api/token", put(token))
            .route("/latest/meta-data/placement/availability-zone", get(zone));
        assert_eq!(of_instance(&cloud(routes).await).await.as_deref(), Some("eu-west-1b"));
    }

    #[tokio::test]
    async fn google_tells_a_path_of_which_the_zone_is_the_end() {
        let zone = |h: HeaderMap| async move {
            with(&h, "metadata-flavor", "Google", "projects/42/zones/europe-west1-b")
        };
        let routes = Router::new().route("/computeMetadata/v1/instance/zone", get(zone));
        assert_eq!(of_instance(&cloud(routes).await).await.as_deref(), Some("europe-west1-b"));
    }

    #[tokio::test]
    async fn azure_tells_a_zone_by_number_or_none() {
        for (zone, rack) in [("2", Some("westeurope-2")), ("", None)] {
            let told = format!(r#"{{"location":"westeurope","zone":"{zone}","name":"vm"}}"#);
            let answer = move |h: HeaderMap| async move { with(&h, "metadata", "true", &told) };
            let routes = Router::new().route("/metadata/instance/compute", get(answer));
            assert_eq!(of_instance(&cloud(routes).await).await.as_deref(), rack);
        }
    }

    #[tokio::test]
    async fn who_does_not_answer_or_talks_nonsense_costs_little_time_and_gives_no_rack() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let begun = tokio::time::Instant::now();
        assert_eq!(of_instance(&silent.local_addr().unwrap().to_string()).await, None);
        assert!(begun.elapsed() < PATIENCE * 2);
        let nonsense = || async { "<html>log in</html>" };
        let routes = Router::new().route("/computeMetadata/v1/instance/zone", get(nonsense));
        assert_eq!(of_instance(&cloud(routes).await).await, None);
        let endless = || async { "z".repeat(MOST + 1) };
        let routes = Router::new().route("/computeMetadata/v1/instance/zone", get(endless));
        assert_eq!(of_instance(&cloud(routes).await).await, None);
    }
}
