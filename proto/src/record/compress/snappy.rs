//! Snappy blocks, bare or in xerial's framing: a 16-byte header, then blocks behind their length.
//! Java and sarama write the framing; some clients write one bare block. Both are read.

/// `\x82SNAPPY\0`, version 1, readable by version 1.
const HEADER: [u8; 16] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1];
/// How much xerial puts in a block.
const BLOCK: usize = 32 << 10;
/// The densest element is a 3-byte copy of 64 bytes.
const RATIO_MAX: usize = 22;

pub(super) fn compress_into(plain: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&HEADER);
    let mut encoder = snap::raw::Encoder::new();
    for block in plain.chunks(BLOCK) {
        let packed = encoder.compress_vec(block).expect("a block of 32 KiB is within snappy's limits");
        out.extend_from_slice(&(packed.len() as u32).to_be_bytes());
        out.extend_from_slice(&packed);
    }
}

/// What follows xerial's header, if it is there. Its two version words are not looked at, as in Java.
pub(super) fn strip_header(bytes: &[u8]) -> Option<&[u8]> {
    (bytes.len() >= HEADER.len() && bytes[..8] == HEADER[..8]).then(|| &bytes[HEADER.len()..])
}

/// The next block of a framed stream. Streams may be concatenated, headers and all.
pub(super) fn next_block<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, &'static str> {
    while let Some(after) = strip_header(rest) {
        *rest = after;
    }
    if rest.is_empty() {
        return Ok(None);
    }
    let (length, after) = rest.split_first_chunk::<4>().ok_or("cut short within a block's length")?;
    let length = u32::from_be_bytes(*length) as usize;
    let block = after.get(..length).ok_or("cut short within a block")?;
    *rest = &after[length..];
    Ok(Some(block))
}

/// The size a block declares, once it is plausible for the bytes there are.
pub(super) fn block_size(block: &[u8]) -> Result<usize, &'static str> {
    let size = snap::raw::decompress_len(block).map_err(|_| "bad block header")?;
    if size > block.len().saturating_mul(RATIO_MAX) {
        return Err("declares more than its bytes can hold");
    }
    Ok(size)
}

pub(super) fn decompress(block: &[u8], out: &mut [u8]) -> Result<usize, &'static str> {
    snap::raw::Decoder::new().decompress(block, out).map_err(|_| "bad block")
}
