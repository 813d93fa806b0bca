//! Counters by topic (Kafka's BrokerTopicMetrics): one set for each topic and one for all together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::RwLock;
use tidemark_proto::kafka::error::ErrorCode;

use super::{Metrics, Samples};

/// Topics counted apart; beyond that only the total counts.
const TOPICS_MAX: usize = 200_000;

macro_rules! counters {
    ($($field:ident $name:literal,)*) => {
        #[derive(Debug, Default)]
        struct Counters {
            $($field: AtomicU64,)*
        }

        impl Counters {
            fn samples(&self, topic: Option<&str>, into: &mut Samples) {
                $(
                    let value = self.$field.load(Relaxed);
                    let labels = topic.map(|topic| ("topic", topic.to_owned())).into_iter().collect();
                    // A topic shows what it has; the total shows everything, so that dashboards find it.
                    if value > 0 || topic.is_none() {
                        into.add(concat!("kafka_server_brokertopicmetrics_", $name), labels, value as f64);
                    }
                )*
            }
        }
    };
}

counters! {
    messages_in "messagesin",
    bytes_in "bytesin",
    bytes_out "bytesout",
    bytes_rejected "bytesrejected",
    produce_requests "totalproducerequests",
    fetch_requests "totalfetchrequests",
    failed_produce "failedproducerequests",
    failed_fetch "failedfetchrequests",
    without_key "nokeycompactedtopicrecords",
    bad_magic "invalidmagicnumberrecords",
    bad_crc "invalidmessagecrcrecords",
    bad_sequence "invalidoffsetorsequencerecords",
}

/// See the module.
#[derive(Debug, Default)]
pub struct Topics {
    all: Counters,
    each: RwLock<BTreeMap<String, Arc<Counters>>>,
}

impl Topics {
    fn count(&self, topic: &str, add: impl Fn(&Counters)) {
        add(&self.all);
        if let Some(counters) = self.each.read().get(topic) {
            return add(counters);
        }
        let mut each = self.each.write();
        if each.len() < TOPICS_MAX {
            add(each.entry(topic.to_owned()).or_default());
        }
    }

    /// Stops showing a topic that is gone.
    pub fn forget(&self, topic: &str) {
        self.each.write().remove(topic);
    }

    pub(super) fn samples(&self, into: &mut Samples) {
        self.all.samples(None, into);
        for (topic, counters) in self.each.read().iter() {
            counters.samples(Some(topic), into);
        }
    }
}

impl Metrics {
    /// A batch was accepted.
    pub fn messages_in(&self, topic: &str, records: i64, bytes: usize) {
        self.topics.count(topic, |c| {
            c.messages_in.fetch_add(u64::try_from(records).unwrap_or(0), Relaxed);
            c.bytes_in.fetch_add(bytes as u64, Relaxed);
            c.produce_requests.fetch_add(1, Relaxed);
        });
    }

    /// A batch was refused.
    pub fn bytes_rejected(&self, topic: &str, bytes: usize, code: ErrorCode) {
        self.topics.count(topic, |c| {
            c.bytes_rejected.fetch_add(bytes as u64, Relaxed);
            c.produce_requests.fetch_add(1, Relaxed);
            c.failed_produce.fetch_add(1, Relaxed);
            match code {
                ErrorCode::CorruptMessage => c.bad_crc.fetch_add(1, Relaxed),
                ErrorCode::InvalidRecord => c.without_key.fetch_add(1, Relaxed),
                ErrorCode::UnsupportedForMessageFormat => c.bad_magic.fetch_add(1, Relaxed),
                ErrorCode::OutOfOrderSequenceNumber => c.bad_sequence.fetch_add(1, Relaxed),
                _ => 0,
            };
        });
    }

    /// Batches of a partition were fetched.
    pub fn bytes_out(&self, topic: &str, bytes: usize) {
        self.topics.count(topic, |c| {
            c.bytes_out.fetch_add(bytes as u64, Relaxed);
            c.fetch_requests.fetch_add(1, Relaxed);
        });
    }

    /// A fetch of a partition was refused.
    pub fn fetch_failed(&self, topic: &str) {
        self.topics.count(topic, |c| {
            c.fetch_requests.fetch_add(1, Relaxed);
            c.failed_fetch.fetch_add(1, Relaxed);
        });
    }
}
