//! The cluster's metadata: one fenced log in the bucket, folded into an image on every broker.
//!
//! Owns the metadata log, the election of its controller by seal (E1-E16), broker registration and sessions,
//! takeover of dead brokers' lanes, and the peer API. Knows no request, no record batch and no group.

pub mod balance;
pub mod bystander;
mod check;
pub mod command;
pub mod election;
mod handle;
pub mod image;
pub mod level;
pub mod load;
pub mod log;
mod member;
mod owner;
pub mod peers;
pub mod placement;
pub mod quota;
pub mod record;
mod roll;
pub mod runs;
mod session;
mod shared;
pub mod state;
#[cfg(test)]
mod tests;
mod timings;
pub mod wire;

pub use command::{Command, Reply};
pub use handle::{Cluster, Identity, Registration, Start};
pub use image::Image;
pub use member::StartError;
pub use session::Session;
pub use state::Rules;
pub use timings::Timings;
