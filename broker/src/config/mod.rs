//! Configuration: one table of keys, and everything made from it.
//!
//! [`Settings`] are checked texts; [`Broker`] and [`Topic`] are what the code reads. The table (`keys/`) gives
//! parser, defaults, DescribeConfigs, `--help` and CONFIG.md. Knows no running broker.

mod broker;
mod client_metrics;
mod describe;
mod group;
pub mod keys;
mod listener;
mod live;
mod manual;
mod properties;
mod settings;
pub mod short_id;
mod table;
mod topic;

pub use broker::{Broker, Cache, Cut, Group, Offload, Timings, Wal};
pub use client_metrics::{ClientFacts, Subscription, check_client_metrics};
pub use describe::{
    ConfigRow, ConfigSource, ConfigSynonym, broker_rows, client_metrics_rows, group_rows, topic_rows,
};
pub use group::check_group;
pub use listener::Listener;
pub use live::Live;
pub use manual::{manual, usage};
pub use settings::{ConfigError, Settings};
pub use table::{Allowed, Key, Kind, Treatment, items};
pub use topic::{Compression, TimestampType, Topic, check_broker, check_topic, is_legacy_topic};
