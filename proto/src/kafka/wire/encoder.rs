//! [`Encoder`]: collects a message as [`Pieces`]. What it writes itself gathers in buffers; records
//! and file ranges join as pieces, never copied.

use bytes::{Bytes, BytesMut};

use super::super::pieces::{Piece, Pieces};
use super::{EncodeError, Nullable, TEXT_MAX, Wire};

/// Bytes of a frame's length prefix.
const PREFIX: usize = 4;

/// Writes values behind each other.
#[derive(Debug, Default)]
pub struct Encoder {
    /// The first buffer of a framed encoder, kept mutable until its length is known.
    head: Option<BytesMut>,
    framed: bool,
    done: Pieces,
    buffer: BytesMut,
}

impl Encoder {
    /// An empty encoder.
    pub fn new() -> Encoder {
        Encoder::default()
    }

    /// An encoder of a frame: [`Encoder::finish`] puts the 4-byte length in front.
    pub fn framed() -> Encoder {
        let mut encoder =
            Encoder { framed: true, buffer: BytesMut::with_capacity(256), ..Encoder::default() };
        encoder.put(&[0; PREFIX]);
        encoder
    }

    /// Appends bytes by copying them.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Appends pieces without copying them.
    pub fn put_pieces(&mut self, pieces: &Pieces) {
        if pieces.is_empty() {
            return;
        }
        self.close_buffer();
        self.done.extend(pieces.clone());
    }

    /// An unsigned varint.
    pub fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.put(&[value as u8 | 0x80]);
            value >>= 7;
        }
        self.put(&[value as u8]);
    }

    /// Everything written; the length of a frame is put in front of it.
    pub fn finish(mut self) -> Pieces {
        self.close_buffer();
        let Some(mut head) = self.head else { return self.done };
        let length = head.len() - PREFIX + self.done.len();
        let length = u32::try_from(length).expect("try_finish checks the length of frames from outside");
        head[..PREFIX].copy_from_slice(&length.to_be_bytes());
        let mut all = Pieces::from(head.freeze());
        all.extend(self.done);
        all
    }

    /// As [`Encoder::finish`], refusing a frame whose length its prefix cannot say.
    pub fn try_finish(self) -> Result<Pieces, EncodeError> {
        let length = self.len();
        if length > i32::MAX as usize {
            return Err(EncodeError::TooLong(length));
        }
        Ok(self.finish())
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.head.as_ref().map_or(0, BytesMut::len) + self.done.len() + self.buffer.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn close_buffer(&mut self) {
        let written = self.buffer.split();
        if self.framed && self.head.is_none() {
            self.head = Some(written);
        } else {
            self.done.push(written.freeze());
        }
    }

    fn short_length(&mut self, length: Option<usize>, f: bool) -> Result<(), EncodeError> {
        if let Some(length) = length.filter(|length| *length > TEXT_MAX) {
            return Err(EncodeError::TooLong(length));
        }
        match f {
            true => self.varint(length.map_or(0, |length| length as u32 + 1)),
            false => self.put(&length.map_or(-1, |length| length as i16).to_be_bytes()),
        }
        Ok(())
    }

    pub(super) fn long_length(&mut self, length: Option<usize>, f: bool) -> Result<(), EncodeError> {
        if let Some(length) = length.filter(|length| *length >= i32::MAX as usize) {
            return Err(EncodeError::TooLong(length));
        }
        match f {
            true => self.varint(length.map_or(0, |length| length as u32 + 1)),
            false => self.put(&length.map_or(-1, |length| length as i32).to_be_bytes()),
        }
        Ok(())
    }

    pub(super) fn text(&mut self, text: Option<&str>, f: bool) -> Result<(), EncodeError> {
        self.short_length(text.map(str::len), f)?;
        self.put(text.unwrap_or_default().as_bytes());
        Ok(())
    }

    pub(super) fn blob(&mut self, bytes: Option<&Bytes>, f: bool) -> Result<(), EncodeError> {
        self.long_length(bytes.map(Bytes::len), f)?;
        self.put(bytes.map_or(&[], |bytes| bytes.as_ref()));
        Ok(())
    }

    pub(super) fn array<T: Wire>(
        &mut self,
        elements: Option<&[T]>,
        v: i16,
        f: bool,
    ) -> Result<(), EncodeError> {
        self.long_length(elements.map(<[T]>::len), f)?;
        for element in elements.unwrap_or_default() {
            element.write(self, v, f)?;
        }
        Ok(())
    }

    /// A value or null, where null is fine only if `allowed`.
    pub fn nullable<T: Nullable>(
        &mut self,
        value: &Option<T>,
        v: i16,
        f: bool,
        allowed: bool,
    ) -> Result<(), EncodeError> {
        if value.is_none() && !allowed {
            return Err(EncodeError::Null(v));
        }
        T::write_nullable(value.as_ref(), self, v, f)
    }

    /// No tagged fields.
    pub fn no_tags(&mut self) {
        self.put(&[0]);
    }

    /// The collected tagged fields.
    pub fn tags(&mut self, tags: Tags) -> Result<(), EncodeError> {
        self.varint(tags.count);
        for piece in tags.fields.finish().0 {
            match piece {
                Piece::Bytes(bytes) => self.put(&bytes),
                Piece::File(_) => self.put_pieces(&Pieces::from_iter([piece])),
            }
        }
        Ok(())
    }
}

/// Collects a struct's tagged fields: how many there are, and their bytes, in rising order of tags.
#[derive(Debug, Default)]
pub struct Tags {
    count: u32,
    fields: Encoder,
}

impl Tags {
    /// Adds the field that `write` writes.
    pub fn add(
        &mut self,
        tag: u32,
        write: impl FnOnce(&mut Encoder) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        let mut field = Encoder::new();
        write(&mut field)?;
        let size = u32::try_from(field.len()).map_err(|_| EncodeError::TooLong(field.len()))?;
        self.count += 1;
        self.fields.varint(tag);
        self.fields.varint(size);
        self.fields.put_pieces(&field.finish());
        Ok(())
    }
}
