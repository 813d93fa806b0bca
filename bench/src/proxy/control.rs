//! The control port: `GET /faults`, `PUT /faults` (replace; missing fields are off), `PATCH /faults` (change
//! the fields named), `GET /counters`. JSON both ways.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::Value;

use super::faults::Faults;
use super::forward::Proxy;

const BODY_BYTES_MAX: usize = 64 << 10;

/// Answers one control request.
pub async fn handle(
    proxy: Arc<Proxy>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let method = request.method().clone();
    let answer = match (&method, request.uri().path()) {
        (&Method::GET, "/faults") => serde_json::to_string_pretty(&*proxy.faults()),
        (&Method::GET, "/counters") => serde_json::to_string_pretty(&proxy.counters.snapshot()),
        (&Method::PUT | &Method::PATCH, "/faults") => {
            return Ok(match change(&proxy, request, method == Method::PATCH).await {
                Ok(faults) => json(StatusCode::OK, serde_json::to_string_pretty(&faults)),
                Err(why) => json(StatusCode::BAD_REQUEST, serde_json::to_string(&why)),
            });
        }
        _ => {
            return Ok(json(
                StatusCode::NOT_FOUND,
                serde_json::to_string("GET|PUT|PATCH /faults, GET /counters"),
            ));
        }
    };
    Ok(json(StatusCode::OK, answer))
}

async fn change(proxy: &Proxy, request: Request<Incoming>, merge: bool) -> Result<Faults, String> {
    let body =
        Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await.map_err(|e| e.to_string())?;
    let given: Value = serde_json::from_slice(&body.to_bytes()).map_err(|e| e.to_string())?;
    let whole = if merge { merged(&proxy.faults(), given)? } else { given };
    let faults: Faults = serde_json::from_value(whole).map_err(|e| e.to_string())?;
    if let Some(why) = faults.fault() {
        return Err(why);
    }
    proxy.set_faults(faults.clone());
    Ok(faults)
}

fn merged(now: &Faults, changes: Value) -> Result<Value, String> {
    let Value::Object(changes) = changes else { return Err("an object is expected".into()) };
    let mut whole = serde_json::to_value(now).map_err(|e| e.to_string())?;
    for (name, value) in changes {
        whole[name] = value;
    }
    Ok(whole)
}

fn json(status: StatusCode, text: serde_json::Result<String>) -> Response<Full<Bytes>> {
    let (status, text) = match text {
        Ok(text) => (status, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    let mut answer = Response::new(Full::from(text + "\n"));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    answer
}
