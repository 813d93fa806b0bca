//! [`Decoder`]: reads a frame without trusting it.
//!
//! Invariants: a count or length is held against what is left before anything is allocated for it; the
//! decoded form takes at most a fixed multiple of the frame; texts, byte strings and records are
//! slices of the frame; time is linear in the frame.

use bytes::Bytes;
use uuid::Uuid;

use super::{DecodeError, Fault, Nullable, TEXT_MAX, Wire};

/// Most tagged fields one struct may carry, known or not.
pub const TAGS_MAX: u32 = 1024;

/// Decoded arrays may take this many times the frame, and [`MEMORY_FLOOR`] bytes more.
const MEMORY_FACTOR: usize = 8;
const MEMORY_FLOOR: usize = 1 << 20;

/// Reads values from the front of a frame.
#[derive(Debug)]
pub struct Decoder {
    bytes: Bytes,
    at: usize,
    end: usize,
    memory: usize,
}

impl Decoder {
    /// A decoder of the whole of `bytes`.
    pub fn new(bytes: Bytes) -> Decoder {
        let memory = bytes.len().saturating_mul(MEMORY_FACTOR).saturating_add(MEMORY_FLOOR);
        Decoder::with_memory(bytes, memory)
    }

    /// As [`Decoder::new`], with a bound of its own on the bytes that decoded arrays may take.
    pub fn with_memory(bytes: Bytes, memory: usize) -> Decoder {
        let end = bytes.len();
        Decoder { bytes, at: 0, end, memory }
    }

    /// Bytes not read yet.
    pub fn remaining(&self) -> usize {
        self.end - self.at
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.at
    }

    /// Takes the bytes not read yet.
    pub fn rest(&mut self) -> Bytes {
        let rest = self.bytes.slice(self.at..self.end);
        self.at = self.end;
        rest
    }

    /// Refuses bytes that are left over.
    pub fn finish(&self) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            left => Err(self.fault(Fault::Trailing(left))),
        }
    }

    /// The fault, at this position.
    pub fn fault(&self, fault: Fault) -> DecodeError {
        DecodeError { at: self.at, fault }
    }

    /// Takes `len` bytes as a slice of the frame.
    pub fn take(&mut self, len: usize) -> Result<Bytes, DecodeError> {
        if len > self.remaining() {
            return Err(self.fault(Fault::End));
        }
        let slice = self.bytes.slice(self.at..self.at + len);
        self.at += len;
        Ok(slice)
    }

    /// Takes `N` bytes by value.
    #[inline]
    pub fn array_of<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        match self.bytes.get(self.at..self.end).and_then(|rest| rest.first_chunk::<N>()) {
            Some(chunk) => {
                self.at += N;
                Ok(*chunk)
            }
            None => Err(self.fault(Fault::End)),
        }
    }

    /// An unsigned varint of at most 32 bits.
    pub fn varint(&mut self) -> Result<u32, DecodeError> {
        let mut value: u32 = 0;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array_of::<1>()?;
            if shift == 28 && byte > 0x0f {
                return Err(self.fault(Fault::Varint));
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        Ok(value)
    }

    /// A length or count whose classic form is 16 bits wide; None is null.
    fn short_length(&mut self, f: bool) -> Result<Option<usize>, DecodeError> {
        let length = if f { self.compact_length()? } else { i64::from(i16::from_be_bytes(self.array_of()?)) };
        self.checked_length(length)
    }

    /// A length or count whose classic form is 32 bits wide; None is null.
    fn long_length(&mut self, f: bool) -> Result<Option<usize>, DecodeError> {
        let length = if f { self.compact_length()? } else { i64::from(i32::from_be_bytes(self.array_of()?)) };
        self.checked_length(length)
    }

    fn compact_length(&mut self) -> Result<i64, DecodeError> {
        Ok(i64::from(self.varint()?) - 1)
    }

    fn checked_length(&self, length: i64) -> Result<Option<usize>, DecodeError> {
        match length {
            -1 => Ok(None),
            0..=0x7fff_ffff => Ok(Some(length as usize)),
            _ => Err(self.fault(Fault::Length(length))),
        }
    }

    /// Bytes of a string, or null; at most [`TEXT_MAX`].
    pub(super) fn text(&mut self, f: bool) -> Result<Option<Bytes>, DecodeError> {
        let Some(len) = self.short_length(f)? else { return Ok(None) };
        if len > TEXT_MAX {
            return Err(self.fault(Fault::Length(len as i64)));
        }
        self.take(len).map(Some)
    }

    /// A byte string or records, or null.
    pub(super) fn blob(&mut self, f: bool) -> Result<Option<Bytes>, DecodeError> {
        let Some(len) = self.long_length(f)? else { return Ok(None) };
        self.take(len).map(Some)
    }

    /// An array, or null. The count is refused before anything is allocated for it if the rest of the
    /// message cannot hold that many, or if they would take more memory than the message may.
    pub(super) fn array<T: Wire>(&mut self, v: i16, f: bool) -> Result<Option<Vec<T>>, DecodeError> {
        let Some(count) = self.count(T::MIN_LEN, size_of::<T>(), f)? else { return Ok(None) };
        let mut elements = Vec::with_capacity(count);
        for _ in 0..count {
            elements.push(T::read(self, v, f)?);
        }
        Ok(Some(elements))
    }

    fn count(&mut self, min_len: usize, size: usize, f: bool) -> Result<Option<usize>, DecodeError> {
        let Some(count) = self.long_length(f)? else { return Ok(None) };
        if count > self.remaining() / min_len {
            return Err(self.fault(Fault::Count(count as i64)));
        }
        match self.memory.checked_sub(count.saturating_mul(size)) {
            Some(left) => self.memory = left,
            None => return Err(self.fault(Fault::Memory)),
        }
        Ok(Some(count))
    }

    /// A value or null, where null is fine only if `allowed`.
    pub fn nullable<T: Nullable>(
        &mut self,
        v: i16,
        f: bool,
        allowed: bool,
    ) -> Result<Option<T>, DecodeError> {
        let value = T::read_nullable(self, v, f)?;
        if value.is_none() && !allowed {
            return Err(self.fault(Fault::Null));
        }
        Ok(value)
    }

    /// The byte before a nullable struct.
    pub fn struct_is_null(&mut self) -> Result<bool, DecodeError> {
        let [sign] = self.array_of::<1>()?;
        Ok((sign as i8) < 0)
    }

    /// A UUID.
    pub(super) fn uuid(&mut self) -> Result<Uuid, DecodeError> {
        Ok(Uuid::from_bytes(self.array_of()?))
    }

    /// Tagged fields: `known` reads the field of a tag and says whether it knows it. Fields it does not
    /// know are skipped; a known one must take exactly the size it declares.
    pub fn tags(
        &mut self,
        mut known: impl FnMut(&mut Decoder, u32) -> Result<bool, DecodeError>,
    ) -> Result<(), DecodeError> {
        let count = self.tag_count()?;
        let mut lowest = 0;
        for _ in 0..count {
            let (tag, end) = self.tag_head(lowest)?;
            lowest = i64::from(tag) + 1;
            let outer = std::mem::replace(&mut self.end, end);
            let start = self.at;
            let was_known = known(self, tag);
            self.end = outer;
            if !was_known? {
                self.at = start.max(end);
            } else if self.at != end {
                return Err(self.fault(Fault::TagSize(tag)));
            }
        }
        Ok(())
    }

    /// Tagged fields of a struct that knows none.
    pub fn skip_tags(&mut self) -> Result<(), DecodeError> {
        let count = self.tag_count()?;
        let mut lowest = 0;
        for _ in 0..count {
            let (tag, end) = self.tag_head(lowest)?;
            lowest = i64::from(tag) + 1;
            self.at = end;
        }
        Ok(())
    }

    fn tag_count(&mut self) -> Result<u32, DecodeError> {
        match self.varint()? {
            count if count > TAGS_MAX => Err(self.fault(Fault::TagCount(count))),
            count => Ok(count),
        }
    }

    /// A tag of at least `lowest`, and where its field ends.
    fn tag_head(&mut self, lowest: i64) -> Result<(u32, usize), DecodeError> {
        let tag = self.varint()?;
        if i64::from(tag) < lowest {
            return Err(self.fault(Fault::TagOrder(tag)));
        }
        let size = self.varint()? as usize;
        if size > self.remaining() {
            return Err(self.fault(Fault::End));
        }
        Ok((tag, self.at + size))
    }
}
