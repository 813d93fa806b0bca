//! How the primitive types, strings, arrays and records stand on the wire.

use bytes::Bytes;
use uuid::Uuid;

use super::super::pieces::Pieces;
use super::super::text::Text;
use super::{DecodeError, Decoder, EncodeError, Encoder, Fault, Nullable, Wire};

macro_rules! number {
    ($($raw:ty)*) => {$(
        impl Wire for $raw {
            const MIN_LEN: usize = size_of::<$raw>();

            #[inline]
            fn read(d: &mut Decoder, _: i16, _: bool) -> Result<Self, DecodeError> {
                d.array_of().map(<$raw>::from_be_bytes)
            }

            #[inline]
            fn write(&self, e: &mut Encoder, _: i16, _: bool) -> Result<(), EncodeError> {
                e.put(&self.to_be_bytes());
                Ok(())
            }
        }
    )*};
}

number!(i8 i16 u16 i32 u32 i64 f64);

impl Wire for bool {
    const MIN_LEN: usize = 1;

    #[inline]
    fn read(d: &mut Decoder, _: i16, _: bool) -> Result<Self, DecodeError> {
        d.array_of().map(|[byte]| byte != 0)
    }

    #[inline]
    fn write(&self, e: &mut Encoder, _: i16, _: bool) -> Result<(), EncodeError> {
        e.put(&[u8::from(*self)]);
        Ok(())
    }
}

impl Wire for Uuid {
    const MIN_LEN: usize = 16;

    fn read(d: &mut Decoder, _: i16, _: bool) -> Result<Self, DecodeError> {
        d.uuid()
    }

    fn write(&self, e: &mut Encoder, _: i16, _: bool) -> Result<(), EncodeError> {
        e.put(self.as_bytes());
        Ok(())
    }
}

/// A value with a null, where it may not be null.
fn not_null<T: Nullable>(d: &mut Decoder, v: i16, f: bool) -> Result<T, DecodeError> {
    T::read_nullable(d, v, f)?.ok_or_else(|| d.fault(Fault::Null))
}

impl Nullable for Text {
    #[inline(never)]
    fn read_nullable(d: &mut Decoder, _: i16, f: bool) -> Result<Option<Self>, DecodeError> {
        let Some(bytes) = d.text(f)? else { return Ok(None) };
        Text::try_from(bytes).map(Some).map_err(|_| d.fault(Fault::Utf8))
    }

    #[inline(never)]
    fn write_nullable(value: Option<&Self>, e: &mut Encoder, _: i16, f: bool) -> Result<(), EncodeError> {
        e.text(value.map(Text::as_str), f)
    }
}

impl Wire for Text {
    const MIN_LEN: usize = 1;

    fn read(d: &mut Decoder, v: i16, f: bool) -> Result<Self, DecodeError> {
        not_null(d, v, f)
    }

    fn write(&self, e: &mut Encoder, v: i16, f: bool) -> Result<(), EncodeError> {
        Text::write_nullable(Some(self), e, v, f)
    }
}

impl Nullable for Bytes {
    #[inline(never)]
    fn read_nullable(d: &mut Decoder, _: i16, f: bool) -> Result<Option<Self>, DecodeError> {
        d.blob(f)
    }

    #[inline(never)]
    fn write_nullable(value: Option<&Self>, e: &mut Encoder, _: i16, f: bool) -> Result<(), EncodeError> {
        e.blob(value, f)
    }
}

impl Wire for Bytes {
    const MIN_LEN: usize = 1;

    fn read(d: &mut Decoder, v: i16, f: bool) -> Result<Self, DecodeError> {
        not_null(d, v, f)
    }

    fn write(&self, e: &mut Encoder, v: i16, f: bool) -> Result<(), EncodeError> {
        Bytes::write_nullable(Some(self), e, v, f)
    }
}

/// Records: in, one slice of the frame; out, whatever pieces they are.
impl Nullable for Pieces {
    fn read_nullable(d: &mut Decoder, _: i16, f: bool) -> Result<Option<Self>, DecodeError> {
        Ok(d.blob(f)?.map(Pieces::from))
    }

    fn write_nullable(value: Option<&Self>, e: &mut Encoder, _: i16, f: bool) -> Result<(), EncodeError> {
        e.long_length(value.map(Pieces::len), f)?;
        if let Some(pieces) = value {
            e.put_pieces(pieces);
        }
        Ok(())
    }
}

impl<T: Wire> Nullable for Vec<T> {
    fn read_nullable(d: &mut Decoder, v: i16, f: bool) -> Result<Option<Self>, DecodeError> {
        d.array(v, f)
    }

    fn write_nullable(value: Option<&Self>, e: &mut Encoder, v: i16, f: bool) -> Result<(), EncodeError> {
        e.array(value.map(Vec::as_slice), v, f)
    }
}

impl<T: Wire> Wire for Vec<T> {
    const MIN_LEN: usize = 1;

    fn read(d: &mut Decoder, v: i16, f: bool) -> Result<Self, DecodeError> {
        not_null(d, v, f)
    }

    fn write(&self, e: &mut Encoder, v: i16, f: bool) -> Result<(), EncodeError> {
        e.array(Some(self), v, f)
    }
}
