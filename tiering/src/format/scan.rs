//! Bounded reading of fixed-width big-endian fields.
//!
//! Every read checks what remains, so a parser built from it neither panics nor allocates beyond its input.

use bytes::Buf;
use tidemark_proto::id::{PartitionIndex, TopicId, TopicPartition};
use uuid::Uuid;

use super::Damage;

/// A cursor over bytes from outside.
#[derive(Clone, Debug)]
pub struct Scan<'a>(&'a [u8]);

fn short() -> Damage {
    Damage::new("ends too early")
}

macro_rules! number {
    ($name:ident, $get:ident, $type:ty) => {
        #[doc = concat!("The next `", stringify!($type), "`.")]
        pub fn $name(&mut self) -> Result<$type, Damage> {
            self.0.$get().map_err(|_| short())
        }
    };
}

impl<'a> Scan<'a> {
    /// Starts at the front of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Scan<'a> {
        Scan(bytes)
    }

    number!(u8, try_get_u8, u8);
    number!(u16, try_get_u16, u16);
    number!(u32, try_get_u32, u32);
    number!(u64, try_get_u64, u64);
    number!(i16, try_get_i16, i16);
    number!(i32, try_get_i32, i32);
    number!(i64, try_get_i64, i64);

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let (head, rest) = self.0.split_first_chunk().ok_or_else(short)?;
        self.0 = rest;
        Ok(*head)
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Damage> {
        let (head, rest) = self.0.split_at_checked(len).ok_or_else(short)?;
        self.0 = rest;
        Ok(head)
    }

    /// A UUID.
    pub fn uuid(&mut self) -> Result<Uuid, Damage> {
        Ok(Uuid::from_bytes(self.array()?))
    }

    /// A partition: topic id, index.
    pub fn partition(&mut self) -> Result<TopicPartition, Damage> {
        Ok(TopicPartition { topic: TopicId(self.uuid()?), partition: PartitionIndex(self.i32()?) })
    }

    /// A `u32` count of things that take at least `each` bytes; refused when they cannot be there.
    pub fn count(&mut self, each: usize) -> Result<usize, Damage> {
        let count = self.u32()? as usize;
        if count > self.0.len() / each.max(1) {
            return Err(Damage::new(format!("{count} entries cannot be in {} bytes", self.0.len())));
        }
        Ok(count)
    }

    /// A UTF-8 string behind a `u16` length.
    pub fn string(&mut self) -> Result<&'a str, Damage> {
        let len = self.u16()?;
        std::str::from_utf8(self.take(usize::from(len))?).map_err(|_| Damage::new("a string is not UTF-8"))
    }

    /// Bytes not read yet.
    pub fn remaining(&self) -> usize {
        self.0.len()
    }

    /// Refuses bytes that are left over.
    pub fn end(self) -> Result<(), Damage> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(Damage::new(format!("{} bytes too many", self.0.len())))
    }
}

/// Appends a partition as [`Scan::partition`] reads it.
pub fn put_partition(out: &mut Vec<u8>, of: TopicPartition) {
    out.extend_from_slice(of.topic.0.as_bytes());
    out.extend_from_slice(&of.partition.0.to_be_bytes());
}

/// Appends a string as [`Scan::string`] reads it; longer ones are cut at the limit of their length field.
pub fn put_string(out: &mut Vec<u8>, text: &str) {
    let end = text.floor_char_boundary(usize::from(u16::MAX));
    out.extend_from_slice(&(end as u16).to_be_bytes());
    out.extend_from_slice(&text.as_bytes()[..end]);
}
