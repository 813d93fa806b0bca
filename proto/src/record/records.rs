//! The records of a batch, decoded: for compaction, coordinators and clients, never on the produce path.

use bytes::{Buf, Bytes};

use super::compress::{self, TRUSTED_LIMIT};
use super::cursor::{Cursor, Stop};
use super::view::Batch;
use super::{BatchError, TimestampType};
use crate::id::{Millis, Offset};

/// One record; key, value and headers are slices of the batch, or of its expanded form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp, by the clock the batch names; -1 is none.
    pub timestamp: Millis,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; `None` deletes the key where the topic is compacted.
    pub value: Option<Bytes>,
    /// Its headers, in order; names may repeat.
    pub headers: Vec<Header>,
}

/// A record header. The name is UTF-8 by convention only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its name.
    pub key: Bytes,
    /// Its value.
    pub value: Option<Bytes>,
}

/// Decodes the records of one batch. The first error is the last item.
#[derive(Debug)]
pub struct Records {
    batch: Batch,
    rest: Bytes,
    index: i32,
}

impl Records {
    /// Over a batch that was validated when it came in.
    pub fn new(batch: &Batch) -> Result<Records, BatchError> {
        Self::bounded(batch, TRUSTED_LIMIT)
    }

    /// Over a batch that may expand to at most `limit` bytes.
    pub fn bounded(batch: &Batch, limit: usize) -> Result<Records, BatchError> {
        let rest = compress::decompress(batch.compression()?, &batch.payload(), limit)?;
        Ok(Records { batch: batch.clone(), rest, index: 0 })
    }

    fn record(&mut self) -> Result<Record, &'static str> {
        let length = usize::try_from(varint(&mut self.rest)?).map_err(|_| "negative size")?;
        if length > self.rest.len() {
            return Err("the records end before it does");
        }
        let mut body = self.rest.split_to(length);
        if body.is_empty() {
            return Err("its fields do not fill its size");
        }
        body.advance(1);
        let timestamp_delta = read(&mut body, |cursor| cursor.varlong())?;
        let offset_delta = varint(&mut body)?;
        let key = field(&mut body)?;
        let value = field(&mut body)?;
        let headers = headers(&mut body)?;
        if !body.is_empty() {
            return Err("its fields do not fill its size");
        }
        let timestamp = match self.batch.timestamp_type() {
            TimestampType::CreateTime => Millis(self.batch.base_timestamp().0.wrapping_add(timestamp_delta)),
            TimestampType::LogAppendTime => self.batch.max_timestamp(),
        };
        let offset = Offset(self.batch.base_offset().0.wrapping_add(i64::from(offset_delta)));
        Ok(Record { offset, timestamp, key, value, headers })
    }
}

impl Iterator for Records {
    type Item = Result<Record, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let index = self.index;
        if index >= self.batch.count() {
            let over = std::mem::take(&mut self.rest);
            return (!over.is_empty())
                .then_some(Err(BatchError::Record { index, why: "more records than the batch counts" }));
        }
        self.index += 1;
        match self.record() {
            Ok(record) => Some(Ok(record)),
            Err(why) => {
                self.index = i32::MAX;
                self.rest.clear();
                Some(Err(BatchError::Record { index, why }))
            }
        }
    }
}

fn headers(body: &mut Bytes) -> Result<Vec<Header>, &'static str> {
    let count = usize::try_from(varint(body)?).map_err(|_| "impossible header count")?;
    // A header has at least two bytes: the count is bounded before anything is allocated.
    if count > body.len() / 2 {
        return Err("impossible header count");
    }
    let mut headers = Vec::with_capacity(count);
    for _ in 0..count {
        let key = field(body)?.ok_or("a header without a name")?;
        headers.push(Header { key, value: field(body)? });
    }
    Ok(headers)
}

fn field(body: &mut Bytes) -> Result<Option<Bytes>, &'static str> {
    let length = varint(body)?;
    if length < -1 {
        return Err("negative field length");
    }
    let Ok(length) = usize::try_from(length) else { return Ok(None) };
    if length > body.len() {
        return Err("a field runs past its record");
    }
    Ok(Some(body.split_to(length)))
}

fn varint(body: &mut Bytes) -> Result<i32, &'static str> {
    read(body, |cursor| cursor.varint())
}

fn read<T>(
    body: &mut Bytes,
    with: impl FnOnce(&mut Cursor<&[u8]>) -> Result<T, Stop>,
) -> Result<T, &'static str> {
    let mut cursor = Cursor::new(&body[..]);
    let value = with(&mut cursor).map_err(|stop| match stop {
        Stop::Varint => "a varint is too long",
        Stop::End | Stop::Source(_) => "its fields run past its size",
    })?;
    let passed = cursor.passed as usize;
    body.advance(passed);
    Ok(value)
}
