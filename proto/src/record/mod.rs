//! Record batches, format v2: the one form in which records travel, rest and are counted.
//!
//! Owns the 61-byte header, the record grammar, compression and what a produced batch must satisfy.
//! A batch is a slice of the frame it came in: nothing here copies record bytes, save where the header
//! under the checksum must change. Knows no offset assignment, no producer window and no store.

mod attributes;
mod cursor;
mod error;
mod lookup;
mod varint;
mod walk;

pub mod build;
pub mod compress;
pub mod control;
pub mod records;
pub mod stamp;
pub mod validate;
pub mod view;

pub use attributes::{Compression, TimestampType};
pub use error::BatchError;
pub use lookup::{find_by_timestamp, max_timestamp};

#[cfg(test)]
mod tests;
