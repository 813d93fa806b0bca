//! A lane: the fenced write-ahead log of one broker epoch, which belongs to one life (R1).
//!
//! Owns when a parcel closes (the dial), the writer's order of durability, the seal that ends a lane, and
//! reading a sealed lane back by recorded bounds. Knows partitions only as names in footers, and nothing of
//! leaders, epochs of leaders, or who may seal whom: the metadata decides that.

pub mod recover;
pub mod seal;
pub mod state;
pub mod writer;

pub use crate::format::seal::Sealer;
pub use recover::{batches, footer, footers};
pub use seal::seal;
pub use state::{Dial, State};
pub use writer::{Event, Gauges, Options, OwnParcel, Writer};

#[cfg(test)]
mod tests;
