//! Kafka semantics over a bucket.
//!
//! Owns partitions, groups, metadata and the Kafka network edge. Knows no bucket format: bytes and objects
//! are `tidemark-tiering`'s.

pub mod api;
pub mod archive;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod gateway;
pub mod group;
pub mod http;
pub mod ledger;
pub mod loggers;
pub mod metrics;
pub mod near;
pub mod node;
pub mod overview;
pub mod ownership;
pub mod partition;
pub mod quota;
pub mod rack;
pub mod server;
pub mod upkeep;
pub mod verify;
