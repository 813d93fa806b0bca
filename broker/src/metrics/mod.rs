//! Metrics: what is counted, and `/metrics`.
//!
//! Names, types and help are rows of one table. Counters that handlers touch live here; everything else is read from
//! its owner by a source when somebody looks. Knows no socket.

mod latency;
mod process;
mod requests;
mod samples;
pub mod sources;
pub mod table;
mod topics;
mod upkeep;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::RwLock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

pub use latency::Latency;
pub use process::{Idle, process};
pub use requests::{Answered, Requests};
pub use samples::{Labels, Samples};
pub use topics::Topics;
pub use upkeep::Upkeep;

/// Adds what its owner knows.
pub type Source = Box<dyn Fn(&mut Samples) + Send + Sync>;

/// Asks an owner that has to be waited for.
pub type Asker = Box<dyn Fn() -> BoxFuture<'static, Samples> + Send + Sync>;

/// How long an owner may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// All metrics of a broker.
#[derive(Default)]
pub struct Metrics {
    /// By API.
    pub requests: Requests,
    /// By topic.
    pub topics: Topics,
    /// Of runs.
    pub upkeep: Upkeep,
    sources: RwLock<Vec<Source>>,
    askers: RwLock<Vec<Asker>>,
}

impl Metrics {
    /// Nothing counted yet.
    pub fn new() -> Arc<Metrics> {
        Arc::new(Metrics::default())
    }

    /// Asks `source` too, from now on.
    pub fn register(&self, source: impl Fn(&mut Samples) + Send + Sync + 'static) {
        self.sources.write().push(Box::new(source));
    }

    /// Asks the owner behind `asker` too, from now on. One that does not answer in time is left out.
    pub fn register_asker(&self, asker: impl Fn() -> BoxFuture<'static, Samples> + Send + Sync + 'static) {
        self.askers.write().push(Box::new(asker));
    }

    /// Everything, now.
    pub async fn samples(&self) -> Samples {
        let asked: Vec<_> = self.askers.read().iter().map(|asker| asker()).collect();
        let mut samples = Samples::default();
        for answer in asked {
            match tokio::time::timeout(PATIENCE, answer).await {
                Ok(more) => samples.merge(more),
                Err(_) => tracing::debug!("a source of metrics did not answer in time"),
            }
        }
        self.requests.samples(&mut samples);
        self.topics.samples(&mut samples);
        self.sources.read().iter().for_each(|source| source(&mut samples));
        samples
    }

    /// The text that Prometheus reads.
    pub async fn text(&self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self.samples().await));
        let mut out = String::new();
        match encode(&mut out, &registry) {
            Ok(()) => out,
            Err(error) => {
                tracing::error!(%error, "metrics could not be encoded");
                String::new()
            }
        }
    }
}

impl Collector for Samples {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        Samples::encode(self, encoder)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tidemark_proto::kafka::api::ApiKey;
    use tidemark_proto::kafka::error::ErrorCode;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_text_has_kafkas_names_with_and_without_topic() {
        let metrics = Metrics::new();
        metrics.messages_in("orders", 3, 300);
        metrics.messages_in("audit", 1, 50);
        metrics.bytes_rejected("audit", 7, ErrorCode::CorruptMessage);
        metrics.bytes_out("orders", 20);
        metrics.requests.answered(Answered {
            key: ApiKey::Produce,
            version: 13,
            bytes: 70,
            queue: Duration::ZERO,
            local: Duration::from_millis(1),
            remote: Duration::from_millis(40),
        });
        metrics.requests.told(ApiKey::Produce, &[(0, 2), (6, 1)]);
        metrics.register(|samples| samples.set("kafka_server_replicamanager_leadercount", 5.0));
        metrics.register_asker(|| {
            let mut samples = Samples::default();
            samples.set("tidemark_bucket_healthy", 1.0);
            Box::pin(async move { samples })
        });
        metrics.register_asker(|| Box::pin(std::future::pending()));
        let text = metrics.text().await;
        for line in [
            "# TYPE kafka_server_brokertopicmetrics_messagesin counter",
            "kafka_server_brokertopicmetrics_messagesin_total 4.0",
            "kafka_server_brokertopicmetrics_messagesin_total{topic=\"orders\"} 3.0",
            "kafka_server_brokertopicmetrics_bytesin_total 350.0",
            "kafka_server_brokertopicmetrics_bytesrejected_total{topic=\"audit\"} 7.0",
            "kafka_server_brokertopicmetrics_invalidmessagecrcrecords_total 1.0",
            "kafka_server_brokertopicmetrics_bytesout_total{topic=\"orders\"} 20.0",
            "kafka_network_requestmetrics_requests_total{request=\"Produce\",version=\"13\"} 1.0",
            "kafka_network_requestmetrics_totaltimems_count{request=\"Produce\"} 1.0",
            "kafka_network_requestmetrics_requestbytes_total{request=\"Produce\"} 70.0",
            "kafka_network_requestmetrics_errors_total{request=\"Produce\",error=\"NONE\"} 2.0",
            "kafka_network_requestmetrics_errors_total{request=\"Produce\",error=\"NOT_LEADER_OR_FOLLOWER\"} 1.0",
            "kafka_server_replicamanager_leadercount 5.0",
            "tidemark_bucket_healthy 1.0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        assert!(
            text.contains("kafka_network_requestmetrics_totaltimems{request=\"Produce\",quantile=\"0.99\"}")
        );
    }

    #[tokio::test]
    async fn a_forgotten_topic_is_no_longer_shown_but_stays_in_the_total() {
        let metrics = Metrics::new();
        metrics.messages_in("orders", 3, 300);
        metrics.topics.forget("orders");
        let text = metrics.text().await;
        assert!(!text.contains("orders"), "{text}");
        assert!(text.contains("kafka_server_brokertopicmetrics_messagesin_total 3.0"), "{text}");
    }

    #[test]
    fn every_metric_is_in_the_table_once() {
        let names: BTreeSet<&str> = table::ROWS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), table::ROWS.len());
        assert!(table::ROWS.iter().all(|row| !row.help.is_empty() && !row.name.ends_with("_total")));
    }
}
