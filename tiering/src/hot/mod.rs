//! The hot tier: what of the log is on this machine. It may vanish at any time; only speed is lost.

pub mod chunks;
pub mod disks;
mod hybrid;
mod segment;
pub mod segments;
mod shelf;
mod writer;
