//! Counters and times by API (Kafka's RequestMetrics).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tidemark_proto::kafka::api::ApiKey;
use tidemark_proto::kafka::error::ErrorCode;

use super::{Latency, Samples};

const KEYS: usize = 128;
const VERSIONS: usize = 32;
/// Codes from -1 on that are counted apart.
const CODES: usize = 256;
const SHARES: [(&str, f64); 6] =
    [("0.50", 0.5), ("0.75", 0.75), ("0.95", 0.95), ("0.98", 0.98), ("0.99", 0.99), ("0.999", 0.999)];

/// One answered request.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// The API.
    pub key: ApiKey,
    /// The version.
    pub version: i16,
    /// Bytes of the request.
    pub bytes: usize,
    /// From its arrival to its start.
    pub queue: Duration,
    /// In the ordered first phase.
    pub local: Duration,
    /// In the second phase: waiting for the bucket, mostly.
    pub remote: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct Requests([OnceLock<Box<Api>>; KEYS]);

#[derive(Debug)]
struct Api {
    versions: [AtomicU64; VERSIONS],
    errors: [AtomicU64; CODES],
    bytes: AtomicU64,
    answer_bytes: AtomicU64,
    total: Latency,
    queue: Latency,
    local: Latency,
    remote: Latency,
    send: Latency,
}

impl Default for Requests {
    fn default() -> Requests {
        Requests([const { OnceLock::new() }; KEYS])
    }
}

impl Default for Api {
    fn default() -> Api {
        Api {
            versions: [const { AtomicU64::new(0) }; VERSIONS],
            errors: [const { AtomicU64::new(0) }; CODES],
            bytes: AtomicU64::new(0),
            answer_bytes: AtomicU64::new(0),
            total: Latency::default(),
            queue: Latency::default(),
            local: Latency::default(),
            remote: Latency::default(),
            send: Latency::default(),
        }
    }
}

impl Requests {
    fn api(&self, key: i16) -> Option<&Api> {
        let slot = self.0.get(usize::try_from(key).ok()?)?;
        Some(slot.get_or_init(Box::default))
    }

    /// Counts a request whose answer is ready.
    pub fn answered(&self, request: Answered) {
        let Answered { key, version, bytes, queue, local, remote } = request;
        let Some(api) = self.api(key.as_i16()) else { return };
        if let Some(count) = usize::try_from(version).ok().and_then(|v| api.versions.get(v)) {
            count.fetch_add(1, Relaxed);
        }
        api.bytes.fetch_add(bytes as u64, Relaxed);
        api.queue.add(queue);
        api.local.add(local);
        api.remote.add(remote);
        api.total.add(queue + local + remote);
    }

    /// Counts the error codes of an answer.
    pub fn told(&self, key: ApiKey, codes: &[(i16, u64)]) {
        let Some(api) = self.api(key.as_i16()) else { return };
        for (code, times) in codes {
            if let Some(count) = usize::try_from(i32::from(*code) + 1).ok().and_then(|at| api.errors.get(at))
            {
                count.fetch_add(*times, Relaxed);
            }
        }
    }

    /// Counts an answer that the socket has taken.
    pub fn sent(&self, key: i16, bytes: usize, sending: Duration) {
        if let Some(api) = self.api(key) {
            api.answer_bytes.fetch_add(bytes as u64, Relaxed);
            api.send.add(sending);
        }
    }

    pub(super) fn samples(&self, into: &mut Samples) {
        for key in ApiKey::ALL {
            let slot = usize::try_from(key.as_i16()).ok().and_then(|key| self.0.get(key));
            let Some(api) = slot.and_then(OnceLock::get) else { continue };
            // Kafka tells consumers' fetches from followers'; ours are all consumers'.
            let request = if *key == ApiKey::Fetch { "FetchConsumer" } else { key.name() };
            let label = || ("request", request.to_owned());
            for (version, count) in api.versions.iter().enumerate() {
                let count = count.load(Relaxed);
                if count > 0 {
                    let labels = vec![label(), ("version", version.to_string())];
                    into.add("kafka_network_requestmetrics_requests", labels, count as f64);
                }
            }
            for (code, count) in (-1_i16..).zip(&api.errors) {
                let count = count.load(Relaxed);
                if count > 0 {
                    let error = ErrorCode::from_code(code).name().to_owned();
                    into.add(
                        "kafka_network_requestmetrics_errors",
                        vec![label(), ("error", error)],
                        count as f64,
                    );
                }
            }
            let bytes = api.bytes.load(Relaxed) as f64;
            into.add("kafka_network_requestmetrics_requestbytes", vec![label()], bytes);
            let bytes = api.answer_bytes.load(Relaxed) as f64;
            into.add("kafka_network_requestmetrics_responsebytes", vec![label()], bytes);
            let count = api.total.count() as f64;
            into.add("kafka_network_requestmetrics_totaltimems_count", vec![label()], count);
            for (name, latency) in [
                ("kafka_network_requestmetrics_totaltimems", &api.total),
                ("kafka_network_requestmetrics_requestqueuetimems", &api.queue),
                ("kafka_network_requestmetrics_localtimems", &api.local),
                ("kafka_network_requestmetrics_remotetimems", &api.remote),
                ("kafka_network_requestmetrics_responsesendtimems", &api.send),
            ] {
                let Some(values) = latency.quantiles(&SHARES.map(|(_, share)| share)) else { continue };
                for ((quantile, _), value) in SHARES.iter().zip(values) {
                    into.add(name, vec![label(), ("quantile", (*quantile).to_owned())], value);
                }
            }
        }
    }
}
