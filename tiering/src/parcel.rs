//! A parcel: what one PUT of a lane makes durable, for many partitions at once.
//!
//! `header · batches grouped by partition, internal topics last · footer · copy of the header · trailer`.
//! The tail alone identifies and describes the parcel, so recovery reads one range. The header's CRC covers
//! the footer; the footer tiles the batches and holds what their own CRCs leave out: no byte is uncovered,
//! and building takes no second pass over the data. Knows nothing of lanes' order, fences or stores.

pub mod build;
pub mod footer;
pub mod read;

pub use build::{Built, Entry, build};
pub use footer::{BatchEntry, Extent, Fact, Footer, Marker, Part};
pub use read::{Tail, verify_batches, verify_pieces};

#[cfg(test)]
mod tests;
