//! The Kafka protocol: API keys, error codes, frames and messages.
//!
//! Bytes from outside are bounded before anything is allocated for them; records are slices of the
//! frame on the way in and pieces on the way out, never copied. Knows no policy: what is served, and
//! how, is the broker's business.

pub mod api;
pub mod error;
pub mod frame;
pub mod internal;
pub mod messages;
pub mod pieces;
pub mod text;
pub mod wire;
