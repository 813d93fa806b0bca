//! What is measured at one moment, and its text form.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::table::{Kind, ROWS, find};

/// Labels of a sample.
pub type Labels = Vec<(&'static str, String)>;

/// A measured value.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Number(f64),
    Histogram { sum: f64, count: u64, buckets: Vec<(f64, u64)> },
}

/// Samples by metric.
#[derive(Clone, Debug, Default)]
pub struct Samples(BTreeMap<&'static str, Vec<(Labels, Value)>>);

impl Samples {
    /// Adds a number to the metric `name`, which must be in the table.
    pub fn add(&mut self, name: &'static str, labels: Labels, value: f64) {
        self.push(name, labels, Value::Number(value));
    }

    /// Adds a number without labels.
    pub fn set(&mut self, name: &'static str, value: f64) {
        self.add(name, Vec::new(), value);
    }

    /// Adds a histogram: each bucket with its upper bound (the last one infinite) and own count.
    pub fn histogram(&mut self, name: &'static str, labels: Labels, sum: f64, buckets: Vec<(f64, u64)>) {
        let count = buckets.iter().map(|(_, n)| n).sum();
        self.push(name, labels, Value::Histogram { sum, count, buckets });
    }

    fn push(&mut self, name: &'static str, labels: Labels, value: Value) {
        debug_assert!(find(name).is_some(), "{name} is not in the metrics table");
        self.0.entry(name).or_default().push((labels, value));
    }

    /// Takes in other samples.
    pub fn merge(&mut self, other: Samples) {
        for (name, rows) in other.0 {
            self.0.entry(name).or_default().extend(rows);
        }
    }

    /// The sum of a metric's numbers over all labels; what tests look at.
    pub fn sum(&self, name: &str) -> f64 {
        let rows = self.0.get(name).map_or(&[][..], Vec::as_slice);
        rows.iter().map(|(_, value)| if let Value::Number(number) = value { *number } else { 0.0 }).sum()
    }

    pub(super) fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for row in ROWS {
            let Some(samples) = self.0.get(row.name) else { continue };
            let kind = match row.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut metric = encoder.encode_descriptor(row.name, row.help, None::<&Unit>, kind)?;
            for (labels, value) in samples {
                if labels.is_empty() {
                    one(&mut metric, row.kind, value)?;
                } else {
                    one(&mut metric.encode_family(labels)?, row.kind, value)?;
                }
            }
        }
        Ok(())
    }
}

fn one(metric: &mut MetricEncoder<'_>, kind: Kind, value: &Value) -> fmt::Result {
    type NoLabels = [(&'static str, &'static str); 0];
    match (value, kind) {
        (Value::Number(number), Kind::Counter) => metric.encode_counter::<NoLabels, _, f64>(number, None),
        (Value::Number(number), _) => metric.encode_gauge(number),
        (Value::Histogram { sum, count, buckets }, _) => {
            metric.encode_histogram::<NoLabels>(*sum, *count, buckets, None)
        }
    }
}
