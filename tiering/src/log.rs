//! A fenced object log: numbered objects, each created once, in order, ended by a seal.
//!
//! Lanes and the metadata are such logs. Owns the window (what is sent, durable, committed, fenced) and the
//! driver that keeps it full. Knows neither what an object holds nor what a commit means to its user.

pub mod append;
pub mod latency;
#[cfg(test)]
pub mod script;
pub mod window;

pub use append::{Appender, Event, Options};
pub use latency::Latencies;
pub use window::{Committed, Limits, Window};
