//! Streams as other implementations write them, and damaged ones.

use bytes::Bytes;

use super::super::BatchError;
use super::super::compress::{RATIO_FREE, compress, decompress};
use super::*;

const LIMIT: usize = 1 << 20;

fn expand(codec: Compression, packed: &[u8]) -> Result<Vec<u8>, BatchError> {
    decompress(codec, &Bytes::copy_from_slice(packed), LIMIT).map(|plain| plain.to_vec())
}

fn refused(codec: Compression, packed: &[u8]) {
    assert!(matches!(expand(codec, packed), Err(BatchError::Stream { .. })), "{codec} {packed:02x?}");
}

/// `plain` of mixed texture: runs, text, noise.
fn mixed(size: usize) -> Vec<u8> {
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    (0..size)
        .map(|at| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(at as u64);
            match at / 1000 % 3 {
                0 => b'a',
                1 => (at % 50) as u8,
                _ => (seed >> 56) as u8,
            }
        })
        .collect()
}

#[test]
fn every_codec_returns_what_it_took() {
    for codec in Compression::ALL {
        for size in [0, 1, 100, 32 << 10, (32 << 10) + 1, 300_000] {
            let plain = mixed(size);
            assert_eq!(expand(codec, &compress(codec, &plain)), Ok(plain), "{codec} {size}");
        }
    }
}

#[test]
fn every_cut_of_a_stream_is_noticed() {
    for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let packed = compress(codec, &mixed(3000));
        // A framed snappy stream has no end mark: at a block's border, and after its header, it is whole.
        let whole = |cut| codec == Compression::Snappy && cut == 16;
        for cut in (0..packed.len()).filter(|cut| !whole(*cut)) {
            refused(codec, &packed[..cut]);
        }
    }
}

#[test]
fn a_flipped_bit_never_panics_nor_passes_a_cap() {
    for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let packed = compress(codec, &mixed(3000));
        for at in 0..packed.len() {
            for bit in 0..8 {
                let mut bad = packed.clone();
                bad[at] ^= 1 << bit;
                if let Ok(plain) = expand(codec, &bad) {
                    assert!(plain.len() <= LIMIT);
                }
            }
        }
    }
}

#[test]
fn snappy_is_read_bare_framed_and_concatenated() {
    let bare = [5, 4 << 2, b'h', b'e', b'l', b'l', b'o'];
    assert_eq!(expand(Compression::Snappy, &bare).unwrap(), b"hello");
    let java =
        [&[0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 7][..], &bare]
            .concat();
    assert_eq!(expand(Compression::Snappy, &java).unwrap(), b"hello");
    assert_eq!(expand(Compression::Snappy, &[&java[..], &java].concat()).unwrap(), b"hellohello");
    let two_blocks = [&java[..], &[0, 0, 0, 7], &bare].concat();
    assert_eq!(expand(Compression::Snappy, &two_blocks).unwrap(), b"hellohello");
}

/// CVE-2023-34455: a chunk length of 2 GiB must not be allocated.
#[test]
fn snappy_lengths_are_not_believed() {
    let header = &compress(Compression::Snappy, &[])[..];
    refused(Compression::Snappy, &[header, &[0x7f, 0xff, 0xff, 0xff], &[0; 9]].concat());
    refused(Compression::Snappy, &[header, &[0xff, 0xff, 0xff, 0xff], &[0; 9]].concat());
    refused(Compression::Snappy, &[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0]);
    let inside = [header, &[0, 0, 0, 7], &[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0]].concat();
    refused(Compression::Snappy, &inside);
}

/// Frame headers as Java (`60 40 82`), and the lz4 tool (`64 40 a7`: content checksum; `64 70 b9`: 4 MiB blocks)
/// write them.
#[test]
fn lz4_frames_of_other_writers_are_read() {
    let stored = [5, 0, 0, 0x80, b'h', b'e', b'l', b'l', b'o'];
    let end = [0, 0, 0, 0];
    let checksum = 0xfb00_77f9u32.to_le_bytes(); // xxh32("hello")
    let java = [&[4, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82][..], &stored, &end].concat();
    assert_eq!(expand(Compression::Lz4, &java).unwrap(), b"hello");
    let tool = [&[4, 0x22, 0x4d, 0x18, 0x64, 0x40, 0xa7][..], &stored, &end, &checksum].concat();
    assert_eq!(expand(Compression::Lz4, &tool).unwrap(), b"hello");
    let large = [&[4, 0x22, 0x4d, 0x18, 0x64, 0x70, 0xb9][..], &stored, &end, &checksum].concat();
    assert_eq!(expand(Compression::Lz4, &large).unwrap(), b"hello");
    let mut wrong = tool.clone();
    *wrong.last_mut().unwrap() ^= 1;
    refused(Compression::Lz4, &wrong);
    let mut header = java.clone();
    header[6] ^= 1;
    refused(Compression::Lz4, &header);
}

#[test]
fn lz4_frames_with_every_checksum_and_a_size_are_read() {
    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
    use std::io::Write;
    let plain = mixed(200_000);
    for (block, size) in
        [(BlockSize::Max64KB, None), (BlockSize::Max256KB, Some(200_000)), (BlockSize::Max4MB, None)]
    {
        let info = FrameInfo::new()
            .block_mode(BlockMode::Independent)
            .block_size(block)
            .block_checksums(true)
            .content_checksum(true)
            .content_size(size);
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(&plain).unwrap();
        let packed = encoder.finish().unwrap();
        assert_eq!(expand(Compression::Lz4, &packed), Ok(plain.clone()));
        let mut bad = packed.clone();
        bad[100] ^= 1;
        refused(Compression::Lz4, &bad);
    }
    // Linked blocks: no Java consumer could read them.
    let mut encoder =
        FrameEncoder::with_frame_info(FrameInfo::new().block_mode(BlockMode::Linked), Vec::new());
    encoder.write_all(&plain).unwrap();
    refused(Compression::Lz4, &encoder.finish().unwrap());
}

#[test]
fn gzip_members_follow_one_another_and_rubbish_does_not() {
    // As Python's gzip writes it: name field, no time.
    let member = compress(Compression::Gzip, b"hello");
    let named = [
        &[0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 2, 0xff][..],
        b"file.txt\0",
        &[0xcb, 0x48, 0xcd, 0xc9, 0xc9, 7, 0, 0x86, 0xa6, 0x10, 0x36, 5, 0, 0, 0],
    ]
    .concat();
    assert_eq!(expand(Compression::Gzip, &named).unwrap(), b"hello");
    assert_eq!(expand(Compression::Gzip, &[&member[..], &named].concat()).unwrap(), b"hellohello");
    refused(Compression::Gzip, &[&member[..], b"rubbish"].concat());
    let mut wrong = named.clone();
    wrong[named_crc(&named)] ^= 1;
    refused(Compression::Gzip, &wrong);
}

fn named_crc(member: &[u8]) -> usize {
    member.len() - 8
}

#[test]
fn zstd_frames_without_a_content_size_and_in_a_row_are_read() {
    // Streaming writers (Java, librdkafka) give a window instead of a size: 0x58 is 2 MiB.
    let raw = [0x29, 0, 0, b'h', b'e', b'l', b'l', b'o'];
    let streamed = [&[0x28, 0xb5, 0x2f, 0xfd, 0, 0x58][..], &raw].concat();
    let sized = [&[0x28, 0xb5, 0x2f, 0xfd, 0x20, 5][..], &raw].concat();
    assert_eq!(expand(Compression::Zstd, &streamed).unwrap(), b"hello");
    assert_eq!(expand(Compression::Zstd, &sized).unwrap(), b"hello");
    assert_eq!(expand(Compression::Zstd, &[&sized[..], &streamed].concat()).unwrap(), b"hellohello");
    refused(Compression::Zstd, &[&sized[..], b"rubbish"].concat());
    // 0x68 asks for 8 MiB, 0x70 for 16 MiB.
    assert!(expand(Compression::Zstd, &[&[0x28, 0xb5, 0x2f, 0xfd, 0, 0x68][..], &raw].concat()).is_ok());
    refused(Compression::Zstd, &[&[0x28, 0xb5, 0x2f, 0xfd, 0, 0x70][..], &raw].concat());
}

#[test]
fn a_stream_stops_at_the_cap_and_at_the_ratio() {
    let zeros = vec![0; 16 << 20];
    for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let packed = Bytes::from(compress(codec, &zeros));
        assert_eq!(decompress(codec, &packed, LIMIT), Err(BatchError::Expands { limit: LIMIT }), "{codec}");
    }
    let packed = Bytes::from(compress(Compression::Zstd, &zeros));
    assert!(packed.len() * 1000 < RATIO_FREE);
    let stopped = decompress(Compression::Zstd, &packed, usize::MAX);
    assert_eq!(stopped, Err(BatchError::Expands { limit: RATIO_FREE }));
    let modest = Bytes::from(compress(Compression::Zstd, &zeros[..RATIO_FREE]));
    assert_eq!(decompress(Compression::Zstd, &modest, usize::MAX).unwrap().len(), RATIO_FREE);
}

#[test]
fn a_thread_that_met_damage_reads_the_next_stream() {
    for codec in [Compression::Gzip, Compression::Lz4, Compression::Zstd] {
        let packed = compress(codec, &mixed(200_000));
        refused(codec, &packed[..packed.len() / 2]);
        assert_eq!(expand(codec, &packed), Ok(mixed(200_000)), "{codec}");
    }
}
