//! LZ4 frames as Kafka speaks them: one frame, version 1, independent blocks, no dictionary.
//!
//! Our own reader and not `lz4_flex`'s, which takes a frame without its end mark for a sound one, and
//! linked blocks, which no Java consumer can read.

use std::hash::Hasher;

use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
use twox_hash::XxHash32;

const MAGIC: u32 = 0x184D_2204;
const RATIO_MAX: usize = 255;

const VERSION: u8 = 0b1100_0000;
const VERSION_1: u8 = 0b0100_0000;
const INDEPENDENT: u8 = 1 << 5;
const BLOCK_CHECKSUM: u8 = 1 << 4;
const CONTENT_SIZE: u8 = 1 << 3;
const CONTENT_CHECKSUM: u8 = 1 << 2;
const RESERVED: u8 = 1 << 1;
const DICTIONARY: u8 = 1;

pub(super) fn compress_into(plain: &[u8], out: &mut Vec<u8>) {
    use std::io::Write;
    let info = FrameInfo::new().block_mode(BlockMode::Independent).block_size(BlockSize::Max64KB);
    let mut encoder = FrameEncoder::with_frame_info(info, out);
    encoder.write_all(plain).expect("a Vec takes every byte");
    encoder.finish().expect("a Vec takes every byte");
}

/// An open frame: what its header said, and what has been seen since.
pub(super) struct Frame {
    block_max: usize,
    block_checksums: bool,
    content: Option<XxHash32>,
    size: Option<u64>,
    seen: u64,
}

/// A block that is wholly there.
pub(super) struct Block<'a> {
    bytes: &'a [u8],
    stored: bool,
    /// Output bytes it can fill at most.
    pub(super) room: usize,
}

impl Frame {
    /// Reads the frame's header.
    pub(super) fn open(rest: &mut &[u8]) -> Result<Frame, &'static str> {
        const SHORT: &str = "cut short within the frame's header";
        let (magic, after) = rest.split_first_chunk::<4>().ok_or(SHORT)?;
        if u32::from_le_bytes(*magic) != MAGIC {
            return Err("not an lz4 frame");
        }
        let [flags, block, ..] = *after else { return Err(SHORT) };
        if flags & VERSION != VERSION_1 || flags & RESERVED != 0 || block & 0b1000_1111 != 0 {
            return Err("unknown frame version or reserved bits");
        }
        if flags & INDEPENDENT == 0 || flags & DICTIONARY != 0 {
            return Err("linked blocks or a dictionary, which Kafka's clients cannot read");
        }
        let block_max = match block >> 4 & 7 {
            id @ 4..=7 => 1 << (8 + 2 * id),
            _ => return Err("unknown block size"),
        };
        let sized = flags & CONTENT_SIZE != 0;
        let described = if sized { 10 } else { 2 };
        let checksum = *after.get(described).ok_or(SHORT)?;
        if (XxHash32::oneshot(0, &after[..described]) >> 8) as u8 != checksum {
            return Err("wrong checksum of the frame's header");
        }
        let size = sized.then(|| u64::from_le_bytes(after[2..10].try_into().expect("eight bytes")));
        *rest = &after[described + 1..];
        Ok(Frame {
            block_max,
            block_checksums: flags & BLOCK_CHECKSUM != 0,
            content: (flags & CONTENT_CHECKSUM != 0).then(|| XxHash32::with_seed(0)),
            size,
            seen: 0,
        })
    }

    /// Takes the next block off `rest`; `None` at the end mark, once size and checksum hold. What follows
    /// the frame is not Kafka's.
    pub(super) fn next_block<'a>(&mut self, rest: &mut &'a [u8]) -> Result<Option<Block<'a>>, &'static str> {
        let word = take_word(rest)?;
        if word == 0 {
            self.end(rest)?;
            return Ok(None);
        }
        let (stored, length) = (word >> 31 == 1, (word & 0x7fff_ffff) as usize);
        if length > self.block_max {
            return Err("block larger than the frame allows");
        }
        let bytes = rest.get(..length).ok_or("cut short within a block")?;
        *rest = &rest[length..];
        if self.block_checksums && XxHash32::oneshot(0, bytes) != take_word(rest)? {
            return Err("wrong checksum of a block");
        }
        let room = if stored { length } else { self.block_max.min(length.saturating_mul(RATIO_MAX)) };
        Ok(Some(Block { bytes, stored, room }))
    }

    /// Expands `block` into `out`, which has its room.
    pub(super) fn expand(&mut self, block: &Block<'_>, out: &mut [u8]) -> Result<usize, &'static str> {
        let wrote = if block.stored {
            out.copy_from_slice(block.bytes);
            block.bytes.len()
        } else {
            lz4_flex::block::decompress_into(block.bytes, out).map_err(|_| "bad block")?
        };
        self.seen += wrote as u64;
        if let Some(content) = &mut self.content {
            content.write(&out[..wrote]);
        }
        Ok(wrote)
    }

    fn end(&mut self, rest: &mut &[u8]) -> Result<(), &'static str> {
        if self.size.is_some_and(|size| size != self.seen) {
            return Err("content is not of the size declared");
        }
        match &self.content {
            Some(content) if content.finish() as u32 != take_word(rest)? => {
                Err("wrong checksum of the content")
            }
            _ => Ok(()),
        }
    }
}

fn take_word(rest: &mut &[u8]) -> Result<u32, &'static str> {
    let (word, after) = rest.split_first_chunk::<4>().ok_or("cut short before the end mark")?;
    *rest = after;
    Ok(u32::from_le_bytes(*word))
}
