//! The cluster's metadata: one fenced log in the bucket, folded into an image on every broker.
//!
//! Owns the metadata log, the election of its controller by seal (E1-E16), broker registration and sessions,
//! takeover of dead brokers' lanes, and the peer API. Knows no request, no record batch and no group.

mod check;
pub mod command;
pub mod image;
pub mod placement;
pub mod record;
pub mod state;

pub use command::{Command, Reply};
pub use image::Image;
