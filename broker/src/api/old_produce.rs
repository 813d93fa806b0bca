//! Produce v0-2: listed because old librdkafka goes wrong without them (KAFKA-18659), and refused.
//!
//! Every partition is answered UNSUPPORTED_VERSION; nothing is written. The two messages are drawn here since the codec
//! does not speak them: Kafka dropped them in 4.0 (KIP-896).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::pieces::Pieces;
use tidemark_proto::kafka::text::Text;
use tidemark_proto::kafka::wire::{DecodeError, Decoder, EncodeError, Encoder, Nullable, Wire};

use super::{Ctx, Started};
use crate::server::Answer;

struct Topic {
    name: Text,
    partitions: Vec<Partition>,
}

struct Partition(i32);

impl Wire for Partition {
    const MIN_LEN: usize = 8;

    fn read(d: &mut Decoder, v: i16, f: bool) -> Result<Partition, DecodeError> {
        let index = i32::read(d, v, f)?;
        Bytes::read_nullable(d, v, f)?;
        Ok(Partition(index))
    }

    fn write(&self, e: &mut Encoder, v: i16, f: bool) -> Result<(), EncodeError> {
        self.0.write(e, v, f)?;
        ErrorCode::UnsupportedVersion.code().write(e, v, f)?;
        (-1_i64).write(e, v, f)?;
        if v >= 2 { (-1_i64).write(e, v, f) } else { Ok(()) }
    }
}

impl Wire for Topic {
    const MIN_LEN: usize = 6;

    fn read(d: &mut Decoder, v: i16, f: bool) -> Result<Topic, DecodeError> {
        Ok(Topic { name: Text::read(d, v, f)?, partitions: Vec::read(d, v, f)? })
    }

    fn write(&self, e: &mut Encoder, v: i16, f: bool) -> Result<(), EncodeError> {
        self.name.write(e, v, f)?;
        self.partitions.write(e, v, f)
    }
}

/// Refuses the request.
pub fn start(ctx: &Arc<Ctx>, mut decoder: Decoder) -> Result<Started, DecodeError> {
    let acks = i16::read(&mut decoder, ctx.version, false)?;
    i32::read(&mut decoder, ctx.version, false)?;
    let topics = Vec::<Topic>::read(&mut decoder, ctx.version, false)?;
    let answer = match (acks, encode(ctx, &topics)) {
        (0, _) => Answer::Close(format!("unsupported version {} of Produce", ctx.version)),
        (_, Ok(frame)) => Answer::Reply { frame, mute: Duration::ZERO },
        (_, Err(error)) => Answer::Close(format!("an answer could not be encoded: {error}")),
    };
    Ok(Started::Free(Box::pin(async move { answer })))
}

fn encode(ctx: &Ctx, topics: &Vec<Topic>) -> Result<Pieces, EncodeError> {
    let mut e = Encoder::framed();
    ctx.correlation.write(&mut e, ctx.version, false)?;
    topics.write(&mut e, ctx.version, false)?;
    if ctx.version >= 1 {
        0_i32.write(&mut e, ctx.version, false)?;
    }
    e.try_finish()
}

#[cfg(test)]
mod tests {
    use tidemark_proto::kafka::api::ApiKey;

    use super::*;

    #[tokio::test]
    async fn every_partition_is_refused_in_the_form_of_its_version() {
        let mut body = b"\0\x01\0\0\0\x09\0\0\0\x01\0\x01t\0\0\0\x02".to_vec();
        body.extend(b"\0\0\0\x00\0\0\0\x03abc\0\0\0\x05\xff\xff\xff\xff");
        for (version, length) in [(0, 4 + 4 + 3 + 4 + 2 * 14), (1, 47), (2, 63)] {
            let ctx = Arc::new(Ctx::local(ApiKey::Produce, version));
            let Ok(Started::Free(finish)) = start(&ctx, Decoder::new(Bytes::from(body.clone()))) else {
                panic!()
            };
            let Answer::Reply { frame, .. } = finish.await else { panic!() };
            let frame = frame.into_bytes().unwrap();
            assert_eq!(frame.len(), 4 + length, "v{version}");
            assert_eq!(
                &frame[19..29],
                b"\0\0\0\x00\0\x23\xff\xff\xff\xff",
                "v{version}: partition 0, code 35"
            );
        }
        body.pop();
        let ctx = Arc::new(Ctx::local(ApiKey::Produce, 2));
        assert!(start(&ctx, Decoder::new(Bytes::from(body))).is_err());
    }
}
