//! Hostile bytes, by name: reliability.md's rows on counts, lengths, varints and tagged fields.

use std::time::Duration;

use bytes::Bytes;
use tidemark_proto::kafka::frame::decode_request;
use tidemark_proto::kafka::messages::{
    FetchRequest, FindCoordinatorRequest, MetadataRequest, ProduceRequest, SaslAuthenticateRequest,
};
use tidemark_proto::kafka::wire::{DecodeError, Decoder, Fault, Message, TAGS_MAX, TEXT_MAX};

use crate::random::varint;

fn fault<M: Message + std::fmt::Debug>(bytes: &[u8], version: i16) -> Fault {
    M::from_bytes(Bytes::copy_from_slice(bytes), version).expect_err("refused").fault
}

#[test]
fn array_count_of_two_billion_is_refused_before_allocation() {
    assert_eq!(fault::<MetadataRequest>(&i32::MAX.to_be_bytes(), 1), Fault::Count(i64::from(i32::MAX)));
    assert_eq!(fault::<MetadataRequest>(b"\xff\xff\xff\xff\x07", 9), Fault::Count(i64::from(i32::MAX) - 1));
    assert_eq!(fault::<MetadataRequest>(b"\xff\xff\xff\xff\x0f", 9), Fault::Length(i64::from(u32::MAX) - 1));
    // Inside an array, too: one topic of two billion partitions.
    let inner = b"\xff\xff\0\x01\0\0\0\x01\0\0\0\x01\0\x01t\x7f\xff\xff\xff";
    assert_eq!(fault::<ProduceRequest>(inner, 3), Fault::Count(i64::from(i32::MAX)));
}

#[test]
fn a_count_that_fits_but_would_take_too_much_memory_is_refused_before_allocation() {
    // Four million empty keys are four MiB on the wire and 128 MiB once they are texts.
    let mut bytes = vec![0];
    varint(&mut bytes, (4 << 20) + 1);
    bytes.resize(bytes.len() + (4 << 20), 1);
    bytes.push(0);
    assert_eq!(fault::<FindCoordinatorRequest>(&bytes, 4), Fault::Memory);
    // A bound of the caller's own holds as well, and what stays within it is read.
    let request = FindCoordinatorRequest { coordinator_keys: vec!["k".into(); 100], ..Default::default() };
    let bytes = request.to_bytes(4).expect("valid");
    let tight = FindCoordinatorRequest::decode(&mut Decoder::with_memory(bytes.clone(), 1_000), 4);
    assert_eq!(tight.expect_err("refused").fault, Fault::Memory);
    assert_eq!(FindCoordinatorRequest::decode(&mut Decoder::with_memory(bytes, 10_000), 4), Ok(request));
}

#[test]
fn negative_lengths_and_counts_are_refused() {
    assert_eq!(fault::<MetadataRequest>(&(-2_i32).to_be_bytes(), 1), Fault::Length(-2));
    assert_eq!(fault::<MetadataRequest>(&i32::MIN.to_be_bytes(), 1), Fault::Length(i64::from(i32::MIN)));
    assert_eq!(fault::<MetadataRequest>(b"\0\0\0\x01\xff\xfe", 1), Fault::Length(-2));
    assert_eq!(fault::<SaslAuthenticateRequest>(b"\x80\0\0\0", 0), Fault::Length(i64::from(i32::MIN)));
}

#[test]
fn lengths_beyond_the_frame_are_refused() {
    assert_eq!(fault::<MetadataRequest>(b"\0\0\0\x01\0\x09abc", 1), Fault::End);
    assert_eq!(fault::<SaslAuthenticateRequest>(b"\x7f\xff\xff\xffabc", 0), Fault::End);
}

#[test]
fn a_compact_string_longer_than_the_classic_length_allows_is_refused() {
    let mut bytes = vec![2];
    varint(&mut bytes, TEXT_MAX as u32 + 2);
    bytes.resize(bytes.len() + TEXT_MAX + 10, b'x');
    assert_eq!(fault::<MetadataRequest>(&bytes, 9), Fault::Length(TEXT_MAX as i64 + 1));
}

#[test]
fn a_varint_of_more_than_32_bits_is_refused() {
    assert_eq!(fault::<MetadataRequest>(b"\xff\xff\xff\xff\x10", 9), Fault::Varint);
    assert_eq!(fault::<MetadataRequest>(b"\xff\xff\xff\xff\xff\x01", 9), Fault::Varint);
    assert_eq!(fault::<MetadataRequest>(b"\xff\xff\xff", 9), Fault::End);
}

#[test]
fn null_is_refused_where_the_version_allows_none() {
    // Metadata's topics may be null from version 1 on, a topic's name from version 10 on.
    assert_eq!(fault::<MetadataRequest>(b"\xff\xff\xff\xff", 0), Fault::Null);
    assert!(MetadataRequest::from_bytes(Bytes::from_static(b"\xff\xff\xff\xff"), 1).is_ok());
    assert_eq!(fault::<MetadataRequest>(b"\0\0\0\x01\xff\xff", 1), Fault::Null);
}

#[test]
fn a_string_that_is_not_utf8_is_refused() {
    assert_eq!(fault::<MetadataRequest>(b"\0\0\0\x01\0\x02\xc3\x28", 1), Fault::Utf8);
}

/// Metadata version 12 with no topics, and `tags` behind it.
fn metadata_with_tags(tags: &[u8]) -> Vec<u8> {
    [b"\x01\x01\x00", tags].concat()
}

#[test]
fn a_million_unknown_tagged_fields_are_refused_in_bounded_time() {
    let mut tags = Vec::new();
    varint(&mut tags, 1_000_000);
    for tag in 0..1_000_000 {
        varint(&mut tags, 1_000 + tag);
        varint(&mut tags, 0);
    }
    let start = tokio::time::Instant::now();
    assert_eq!(fault::<MetadataRequest>(&metadata_with_tags(&tags), 12), Fault::TagCount(1_000_000));
    // The same million spread over a thousand topics is read, skipped, and takes no longer.
    let mut bytes = Vec::new();
    varint(&mut bytes, 1_001);
    for _ in 0..1_000 {
        bytes.extend([0; 17]);
        varint(&mut bytes, 1_000);
        for tag in 0..1_000 {
            varint(&mut bytes, tag);
            varint(&mut bytes, 0);
        }
    }
    bytes.extend(b"\x01\x00\x00");
    let request =
        MetadataRequest::from_bytes(Bytes::from(bytes), 12).expect("each topic is within the bound");
    assert_eq!(request.topics.map(|topics| topics.len()), Some(1_000));
    assert!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());
    const { assert!(TAGS_MAX >= 1_000) };
}

#[test]
fn a_duplicate_tag_and_tags_out_of_order_are_refused() {
    assert_eq!(
        fault::<MetadataRequest>(&metadata_with_tags(b"\x02\x09\x00\x09\x00"), 12),
        Fault::TagOrder(9)
    );
    assert_eq!(
        fault::<MetadataRequest>(&metadata_with_tags(b"\x02\x09\x00\x08\x00"), 12),
        Fault::TagOrder(8)
    );
    assert!(MetadataRequest::from_bytes(metadata_with_tags(b"\x02\x08\x00\x09\x00").into(), 12).is_ok());
}

/// Fetch version 12 with nothing in it, and `tags` behind it; tag 0 is the cluster id.
fn fetch_with_tags(tags: &[u8]) -> Result<FetchRequest, DecodeError> {
    let plain = FetchRequest::default().to_bytes(12).expect("valid");
    FetchRequest::from_bytes([&plain[..plain.len() - 1], tags].concat().into(), 12)
}

#[test]
fn a_tagged_field_must_take_the_size_it_declares() {
    assert_eq!(fetch_with_tags(b"\x01\x00\x02\x02x").expect("valid").cluster_id, Some("x".into()));
    assert_eq!(fetch_with_tags(b"\x01\x00\x03\x02x?").expect_err("too large").fault, Fault::TagSize(0));
    assert_eq!(fetch_with_tags(b"\x01\x00\x01\x02x").expect_err("too small").fault, Fault::End);
    assert_eq!(fetch_with_tags(b"\x01\x00\x7f\x02x").expect_err("beyond the frame").fault, Fault::End);
    assert_eq!(
        fetch_with_tags(b"\x01\x05\x7f\x02x").expect_err("unknown, beyond the frame").fault,
        Fault::End
    );
}

#[test]
fn bytes_behind_a_request_are_refused() {
    let frame = b"\0\x03\0\x01\0\0\0\x01\xff\xff\0\0\0\0trailing";
    assert_eq!(
        decode_request::<MetadataRequest>(Bytes::from_static(frame)).expect_err("refused").fault,
        Fault::Trailing(8)
    );
}

#[test]
fn a_version_the_codec_does_not_speak_is_refused_both_ways() {
    assert_eq!(fault::<ProduceRequest>(b"", 2), Fault::Version(2));
    assert_eq!(fault::<ProduceRequest>(b"", 14), Fault::Version(14));
    assert!(ProduceRequest::default().to_bytes(2).is_err());
}
