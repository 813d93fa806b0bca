//! Frames: the 4-byte length, the header of requests and responses, and the message behind it.

use bytes::Bytes;

use super::api::ApiKey;
use super::pieces::Pieces;
use super::text::Text;
use super::wire::{DecodeError, Decoder, EncodeError, Encoder, Message, Nullable, Request, Wire};

/// What stands before a request's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// The API's number, which may be one nobody knows.
    pub api_key: i16,
    /// Version of the message that follows.
    pub api_version: i16,
    /// What the response must repeat.
    pub correlation_id: i32,
    /// The client's name for itself; null is none.
    pub client_id: Option<Text>,
}

/// Reads the header of a request whose length prefix is gone. A key nobody knows is read as one that
/// is not flexible.
pub fn decode_request_header(d: &mut Decoder) -> Result<RequestHeader, DecodeError> {
    let api_key = i16::read(d, 0, false)?;
    let api_version = i16::read(d, 0, false)?;
    let correlation_id = i32::read(d, 0, false)?;
    // The client id keeps its 16-bit length in flexible headers too.
    let client_id = Text::read_nullable(d, 0, false)?;
    if ApiKey::from_i16(api_key).is_some_and(|key| key.request_header_version(api_version) >= 2) {
        d.skip_tags()?;
    }
    Ok(RequestHeader { api_key, api_version, correlation_id, client_id })
}

/// A whole request: header and message, nothing behind it. The frame's length prefix is gone.
pub fn decode_request<R: Request>(frame: Bytes) -> Result<(RequestHeader, R), DecodeError> {
    let mut d = Decoder::new(frame);
    let header = decode_request_header(&mut d)?;
    let request = R::decode(&mut d, header.api_version)?;
    d.finish()?;
    Ok((header, request))
}

/// A response's frame, length first.
pub fn encode_response(
    correlation_id: i32,
    header_version: i16,
    response: &impl Message,
    version: i16,
) -> Result<Pieces, EncodeError> {
    let mut e = Encoder::framed();
    correlation_id.write(&mut e, 0, false)?;
    if header_version >= 1 {
        e.no_tags();
    }
    response.encode(&mut e, version)?;
    e.try_finish()
}

/// A request's frame, length first.
pub fn encode_request<R: Request>(
    correlation_id: i32,
    client_id: Option<&Text>,
    request: &R,
    version: i16,
) -> Result<Pieces, EncodeError> {
    let mut e = Encoder::framed();
    R::KEY.as_i16().write(&mut e, 0, false)?;
    version.write(&mut e, 0, false)?;
    correlation_id.write(&mut e, 0, false)?;
    Text::write_nullable(client_id, &mut e, 0, false)?;
    if R::KEY.request_header_version(version) >= 2 {
        e.no_tags();
    }
    request.encode(&mut e, version)?;
    e.try_finish()
}

/// Reads a response's header and returns its correlation id. The frame's length prefix is gone.
pub fn decode_response_header(d: &mut Decoder, header_version: i16) -> Result<i32, DecodeError> {
    let correlation_id = i32::read(d, 0, false)?;
    if header_version >= 1 {
        d.skip_tags()?;
    }
    Ok(correlation_id)
}

#[cfg(test)]
mod tests {
    use super::super::wire::TEXT_MAX;
    use super::*;
    use crate::kafka::messages::{
        ApiVersionsRequest, ApiVersionsResponse, FetchResponse, HeartbeatRequest, fetch_response,
    };

    #[test]
    fn a_request_comes_back_as_it_was_sent_in_classic_and_flexible_versions() {
        for version in 0..=4 {
            let request = HeartbeatRequest { group_id: "g".into(), generation_id: 3, ..Default::default() };
            let client = Text::from("me");
            let frame = encode_request(9, Some(&client), &request, version).unwrap().into_bytes().unwrap();
            assert_eq!(frame[..4], (frame.len() as i32 - 4).to_be_bytes());
            let (header, read) = decode_request::<HeartbeatRequest>(frame.slice(4..)).unwrap();
            assert_eq!(read, request);
            assert_eq!((header.api_key, header.api_version, header.correlation_id), (12, version, 9));
            assert_eq!(header.client_id, Some(client));
        }
    }

    #[test]
    fn the_header_of_an_unknown_api_is_still_read() {
        let mut d = Decoder::new(Bytes::from_static(b"\x7f\xff\0\x09\0\0\0\x05\xff\xffbody"));
        let header = decode_request_header(&mut d).unwrap();
        assert_eq!((header.api_key, header.correlation_id, header.client_id), (i16::MAX, 5, None));
        assert_eq!(&d.rest()[..], b"body");
    }

    #[test]
    fn a_client_id_of_any_bytes_a_string_may_hold_is_read_as_it_is() {
        let odd = Text::from(["\0\n\r\x1b[31m", &"x".repeat(TEXT_MAX - 9)].concat());
        assert_eq!(odd.len(), TEXT_MAX - 1);
        let frame =
            encode_request(1, Some(&odd), &HeartbeatRequest::default(), 4).unwrap().into_bytes().unwrap();
        let mut d = Decoder::new(frame.slice(4..));
        assert_eq!(decode_request_header(&mut d).unwrap().client_id, Some(odd.clone()));
        assert!(!format!("{odd:?}").contains(['\0', '\n', '\x1b']), "Debug is what log lines show");
        let too_long = Text::from("x".repeat(TEXT_MAX + 1));
        assert!(encode_request(1, Some(&too_long), &HeartbeatRequest::default(), 4).is_err());
    }

    #[test]
    fn the_answer_to_api_versions_has_no_tags_in_its_header() {
        let header = ApiVersionsRequest::KEY.response_header_version(4);
        let frame = encode_response(1, header, &ApiVersionsResponse::default(), 4).unwrap();
        assert_eq!(&frame.into_bytes().unwrap()[4..10], b"\0\0\0\x01\0\0");
    }

    #[test]
    fn records_are_pieces_of_the_frame_and_never_copied() {
        let records = Bytes::from(vec![7; 1000]);
        let partition = fetch_response::PartitionData {
            records: Some(Pieces::from(records.clone())),
            ..Default::default()
        };
        let topic = fetch_response::FetchableTopicResponse {
            partitions: vec![partition.clone(), partition],
            ..Default::default()
        };
        let response = FetchResponse { responses: vec![topic], ..Default::default() };
        let frame = encode_response(1, 1, &response, 12).unwrap();
        let shared = frame.0.iter().filter(|piece| match piece {
            super::super::pieces::Piece::Bytes(bytes) => bytes.as_ptr() == records.as_ptr(),
            super::super::pieces::Piece::File(_) => false,
        });
        assert_eq!((shared.count(), frame.0.len()), (2, 5));
        let frame = frame.into_bytes().unwrap();
        assert_eq!(frame[..4], (frame.len() as i32 - 4).to_be_bytes());
        let mut d = Decoder::new(frame.slice(4..));
        assert_eq!(decode_response_header(&mut d, 1), Ok(1));
        assert_eq!(FetchResponse::decode(&mut d, 12).unwrap(), response);
        d.finish().unwrap();
    }
}
