//! Tidemark's wire vocabulary: ids, the Kafka protocol, record batches, RPC definitions.
//!
//! Owns the bytes and their meaning. Knows no policy, no clock and no store.

pub mod client;
pub mod id;
pub mod kafka;
pub mod record;
pub mod rpc;
