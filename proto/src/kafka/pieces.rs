//! [`Pieces`]: a byte string as a list of shared buffers and file ranges, so that records are never
//! copied on their way into a response and hot files may be sent by the kernel.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

/// A range of an open file.
#[derive(Clone, Debug)]
pub struct FileSlice {
    /// The file; stays open for as long as a slice of it lives.
    pub file: Arc<File>,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: usize,
}

impl FileSlice {
    /// Reads the range by `pread`; a file that ends before it is an error.
    pub fn read(&self) -> io::Result<Bytes> {
        let mut buffer = BytesMut::zeroed(self.len);
        self.file.read_exact_at(&mut buffer, self.offset)?;
        Ok(buffer.freeze())
    }
}

impl PartialEq for FileSlice {
    fn eq(&self, other: &FileSlice) -> bool {
        Arc::ptr_eq(&self.file, &other.file) && (self.offset, self.len) == (other.offset, other.len)
    }
}

/// One part of a byte string.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// Bytes in memory.
    Bytes(Bytes),
    /// Bytes in a file.
    File(FileSlice),
}

impl Piece {
    /// Number of bytes.
    pub fn len(&self) -> usize {
        match self {
            Piece::Bytes(bytes) => bytes.len(),
            Piece::File(slice) => slice.len,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Bytes> for Piece {
    fn from(bytes: Bytes) -> Piece {
        Piece::Bytes(bytes)
    }
}

impl From<FileSlice> for Piece {
    fn from(slice: FileSlice) -> Piece {
        Piece::File(slice)
    }
}

/// A byte string in parts. Equality is of the parts, so cutting the same bytes differently differs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pieces(pub Vec<Piece>);

/// Field type of the protocol's "records": null, or whole record batches.
pub type Records = Option<Pieces>;

impl Pieces {
    /// The empty byte string.
    pub const fn new() -> Pieces {
        Pieces(Vec::new())
    }

    /// Number of bytes in all pieces.
    pub fn len(&self) -> usize {
        self.0.iter().map(Piece::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Piece::is_empty)
    }

    /// Adds a piece at the end; an empty one is left out, and a file range that follows on the last one joins it.
    pub fn push(&mut self, piece: impl Into<Piece>) {
        let piece = piece.into();
        if piece.is_empty() {
            return;
        }
        if let (Some(Piece::File(last)), Piece::File(next)) = (self.0.last_mut(), &piece)
            && Arc::ptr_eq(&last.file, &next.file)
            && last.offset + last.len as u64 == next.offset
        {
            last.len += next.len;
            return;
        }
        self.0.push(piece);
    }

    /// The same byte string from `range.start` up to `range.end`, as far as there is one; nothing is copied or read.
    pub fn slice(&self, range: Range<usize>) -> Pieces {
        let mut out = Pieces::new();
        let mut at = 0;
        for piece in &self.0 {
            let (from, until) = (range.start.max(at), range.end.min(at + piece.len()));
            if from < until {
                let (from, len) = (from - at, until - from);
                match piece {
                    Piece::Bytes(bytes) => out.push(bytes.slice(from..from + len)),
                    Piece::File(slice) => {
                        let offset = slice.offset + from as u64;
                        out.push(FileSlice { file: slice.file.clone(), offset, len });
                    }
                }
            }
            at += piece.len();
        }
        out
    }

    /// Adds all pieces of another byte string at the end.
    pub fn extend(&mut self, other: Pieces) {
        for piece in other.0 {
            self.push(piece);
        }
    }

    /// The bytes in one buffer. A single buffer is returned as it is; anything else is copied, and
    /// file ranges are read on the calling thread.
    pub fn into_bytes(mut self) -> io::Result<Bytes> {
        if let [Piece::Bytes(_)] = self.0.as_slice() {
            match self.0.pop() {
                Some(Piece::Bytes(bytes)) => return Ok(bytes),
                other => self.0.extend(other),
            }
        }
        let mut whole = BytesMut::with_capacity(self.len());
        for piece in &self.0 {
            match piece {
                Piece::Bytes(bytes) => whole.extend_from_slice(bytes),
                Piece::File(slice) => whole.extend_from_slice(&slice.read()?),
            }
        }
        Ok(whole.freeze())
    }
}

impl From<Bytes> for Pieces {
    fn from(bytes: Bytes) -> Pieces {
        Pieces(vec![Piece::Bytes(bytes)])
    }
}

impl From<FileSlice> for Pieces {
    fn from(slice: FileSlice) -> Pieces {
        Pieces(vec![Piece::File(slice)])
    }
}

impl FromIterator<Piece> for Pieces {
    fn from_iter<I: IntoIterator<Item = Piece>>(pieces: I) -> Pieces {
        let mut all = Pieces::new();
        for piece in pieces {
            all.push(piece);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_single_buffer_is_returned_without_a_copy() {
        let bytes = Bytes::from(b"records".to_vec());
        let whole = Pieces::from(bytes.clone()).into_bytes().unwrap();
        assert_eq!(whole.as_ptr(), bytes.as_ptr());
    }

    #[test]
    fn buffers_and_file_ranges_join_in_order() {
        let path = std::env::temp_dir().join(format!("tidemark-pieces-{}", std::process::id()));
        File::create(&path).unwrap().write_all(b"0123456789").unwrap();
        let file = Arc::new(File::open(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
        let mut pieces = Pieces::from(Bytes::from_static(b"ab"));
        pieces.push(FileSlice { file: file.clone(), offset: 3, len: 4 });
        pieces.push(Bytes::from_static(b"yz"));
        assert_eq!(pieces.len(), 8);
        assert_eq!(&pieces.clone().into_bytes().unwrap()[..], b"ab3456yz");
        for range in [0..8, 1..2, 1..7, 3..5, 7..8, 4..4] {
            let due = &b"ab3456yz"[range.clone()];
            assert_eq!(&pieces.slice(range.clone()).into_bytes().unwrap()[..], due, "{range:?}");
        }
        assert_eq!(&pieces.into_bytes().unwrap()[..], b"ab3456yz");
        assert!(Pieces::from(FileSlice { file, offset: 8, len: 4 }).into_bytes().is_err());
    }

    #[test]
    fn file_ranges_that_follow_each_other_become_one() {
        let file = Arc::new(File::open("/dev/null").unwrap());
        let slice = |offset, len| FileSlice { file: file.clone(), offset, len };
        let mut pieces = Pieces::new();
        [slice(5, 3), slice(8, 2), slice(11, 1)].into_iter().for_each(|s| pieces.push(s));
        assert_eq!(pieces.0, [Piece::File(slice(5, 5)), Piece::File(slice(11, 1))]);
    }
}
