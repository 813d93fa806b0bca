//! Generated gRPC messages, clients and servers, one module per package of `src/rpc/*.proto`.
//!
//! `tidemark.peer.v1` is `rpc::peer::v1`, and so on. Clients are made over a channel
//! (`SomeClient::new(channel)`); there is no ambient `connect`.
#![allow(clippy::all, clippy::unwrap_used, clippy::large_futures, missing_docs)]

include!(concat!(env!("OUT_DIR"), "/rpc.rs"));

/// Descriptors of every package, encoded, as server reflection wants them.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/rpc.bin"));
