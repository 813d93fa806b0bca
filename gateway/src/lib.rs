//! Other front doors to Kafka: gRPC produce, with health and reflection.
//!
//! The gateway is a Kafka client and nothing more: it speaks over TCP, or over an in-process pipe when a
//! broker hosts it, and holds no truth. It knows no clock and starts no task by itself ([`Surroundings`]).

pub mod connect;
pub mod grpc;

mod incoming;
pub mod partition;
mod pool;
mod produce;
mod status;

pub use connect::{Connect, Io, Node, Surroundings, Tcp};
pub use grpc::serve;
pub use produce::Gateway;
