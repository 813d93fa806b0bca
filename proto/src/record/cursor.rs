//! Reading forward through record bytes that come in pieces, without gathering them.

use super::BatchError;
use super::compress::Inflate;
use super::varint::unzigzag;

/// Where the pieces come from.
pub(crate) trait Pieces {
    /// The current piece.
    fn piece(&self) -> &[u8];
    /// Replaces it by the next one; false at the sound end.
    fn refill(&mut self) -> Result<bool, BatchError>;
}

impl Pieces for &[u8] {
    fn piece(&self) -> &[u8] {
        self
    }

    fn refill(&mut self) -> Result<bool, BatchError> {
        *self = &[];
        Ok(false)
    }
}

impl Pieces for Inflate<'_> {
    fn piece(&self) -> &[u8] {
        self.chunk()
    }

    fn refill(&mut self) -> Result<bool, BatchError> {
        Inflate::refill(self)
    }
}

/// Why a read stopped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The bytes end here.
    End,
    /// A varint has too many bytes or bits.
    Varint,
    /// The source failed.
    Source(BatchError),
}

/// A position in the pieces.
pub(crate) struct Cursor<P> {
    pieces: P,
    at: usize,
    /// Bytes passed in all.
    pub(crate) passed: u64,
}

impl<P: Pieces> Cursor<P> {
    pub(crate) fn new(pieces: P) -> Self {
        Cursor { pieces, at: 0, passed: 0 }
    }

    /// Whether nothing is left. Reading to the end is what verifies a codec's own checksum.
    pub(crate) fn at_end(&mut self) -> Result<bool, BatchError> {
        while self.at == self.pieces.piece().len() {
            self.at = 0;
            if !self.pieces.refill()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Stop> {
        if let Some(&byte) = self.pieces.piece().get(self.at) {
            self.at += 1;
            self.passed += 1;
            return Ok(byte);
        }
        match self.at_end() {
            Ok(false) => self.byte(),
            Ok(true) => Err(Stop::End),
            Err(error) => Err(Stop::Source(error)),
        }
    }

    pub(crate) fn skip(&mut self, mut bytes: u64) -> Result<(), Stop> {
        while bytes > 0 {
            let here = (self.pieces.piece().len() - self.at) as u64;
            let step = here.min(bytes);
            self.at += step as usize;
            self.passed += step;
            bytes -= step;
            if bytes > 0 && self.at_end().map_err(Stop::Source)? {
                return Err(Stop::End);
            }
        }
        Ok(())
    }

    pub(crate) fn varint(&mut self) -> Result<i32, Stop> {
        let raw = self.unsigned(5)?;
        // As in Java, the bits of a fifth byte past the 32nd fall away.
        Ok(unzigzag(raw & 0xffff_ffff) as i32)
    }

    pub(crate) fn varlong(&mut self) -> Result<i64, Stop> {
        Ok(unzigzag(self.unsigned(10)?))
    }

    fn unsigned(&mut self, bytes_max: u32) -> Result<u64, Stop> {
        let mut value = 0;
        for index in 0..bytes_max {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Stop::Varint)
    }
}
