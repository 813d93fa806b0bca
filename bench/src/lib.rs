//! Load generator, raw-store benchmark and fault proxy. Uses the product only through what a client or an
//! operator sees, and the bucket layer for the raw-store figures.

pub mod cpu;
pub mod latency;
pub mod proxy;
pub mod report;
pub mod size;
pub mod store;
pub mod workload;
