//! The generator: schema tables in, Rust out.

pub mod rust;
pub mod table;
