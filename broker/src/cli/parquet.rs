//! Parquet: records as rows of a column format that tools for tables read.
//!
//! Rows wait until they are a group's worth of bytes; what is pending is bounded by that. A file without its footer is none.

use std::io::{self, Write};
use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::errors::{ParquetError, Result as Written};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use tidemark_proto::record::records::Record;

/// A row is a record. Headers are a list of pairs, as the format's own rules draw lists.
const SCHEMA: &str = "message record {
    REQUIRED INT64 offset;
    OPTIONAL INT64 timestamp (TIMESTAMP(MILLIS, true));
    OPTIONAL BYTE_ARRAY key;
    OPTIONAL BYTE_ARRAY value;
    REQUIRED GROUP headers (LIST) {
        REPEATED GROUP list {
            REQUIRED GROUP element {
                REQUIRED BYTE_ARRAY key (STRING);
                OPTIONAL BYTE_ARRAY value;
            }
        }
    }
}";

/// What a column has gathered for the group: values, and for each entry how much of its path is there and where it repeats.
#[derive(Default)]
struct Gathered<T> {
    values: Vec<T>,
    definition: Vec<i16>,
    repetition: Vec<i16>,
}

impl<T> Gathered<T> {
    fn push(&mut self, repetition: i16, definition: i16, value: Option<T>) {
        self.values.extend(value);
        self.definition.push(definition);
        self.repetition.push(repetition);
    }

    /// An entry of a field that may be absent.
    fn optional(&mut self, value: Option<T>) {
        self.push(0, i16::from(value.is_some()), value);
    }
}

/// The rows of one group, column by column.
#[derive(Default)]
struct Group {
    offsets: Gathered<i64>,
    timestamps: Gathered<i64>,
    keys: Gathered<ByteArray>,
    values: Gathered<ByteArray>,
    names: Gathered<ByteArray>,
    contents: Gathered<ByteArray>,
    bytes: usize,
}

/// Bytes of their own: those of a record may hold on to all of the answer that brought them.
fn own(bytes: &[u8]) -> ByteArray {
    ByteArray::from(bytes.to_vec())
}

impl Group {
    fn add(&mut self, record: &Record) {
        self.offsets.push(0, 0, Some(record.offset.0));
        self.timestamps.optional(Some(record.timestamp.0).filter(|at| *at >= 0));
        self.keys.optional(record.key.as_deref().map(own));
        self.values.optional(record.value.as_deref().map(own));
        for (number, header) in record.headers.iter().enumerate() {
            let repetition = i16::from(number > 0);
            self.names.push(repetition, 1, Some(own(String::from_utf8_lossy(&header.key).as_bytes())));
            let content = header.value.as_deref().map(own);
            self.contents.push(repetition, 1 + i16::from(content.is_some()), content);
            self.bytes += header.key.len() + header.value.as_ref().map_or(0, |value| value.len());
        }
        if record.headers.is_empty() {
            [&mut self.names, &mut self.contents].into_iter().for_each(|column| column.push(0, 0, None));
        }
        let length = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, |bytes| bytes.len());
        self.bytes += 16 + length(&record.key) + length(&record.value);
    }

    fn write<W: Write + Send>(self, out: &mut SerializedFileWriter<W>) -> Written<()> {
        let mut numbers = [self.offsets, self.timestamps].into_iter();
        let mut texts = [self.keys, self.values, self.names, self.contents].into_iter();
        let mut group = out.next_row_group()?;
        while let Some(mut column) = group.next_column()? {
            let other = || ParquetError::General("a column that the schema does not have".to_owned());
            match column.untyped() {
                ColumnWriter::Int64ColumnWriter(writer) => {
                    let from = numbers.next().ok_or_else(other)?;
                    writer.write_batch(&from.values, Some(&from.definition), Some(&from.repetition))?;
                }
                ColumnWriter::ByteArrayColumnWriter(writer) => {
                    let from = texts.next().ok_or_else(other)?;
                    writer.write_batch(&from.values, Some(&from.definition), Some(&from.repetition))?;
                }
                _ => return Err(other()),
            }
            column.close()?;
        }
        group.close().map(drop)
    }
}

/// Writes one file.
pub struct Writer<W: Write> {
    out: SerializedFileWriter<W>,
    /// Bytes after which a group of rows ends.
    limit: usize,
    group: Group,
}

impl<W: Write + Send> Writer<W> {
    /// Begins a file whose groups have about `limit` bytes before they are packed.
    ///
    /// # Errors
    /// Where `out` has some.
    pub fn new(out: W, limit: usize) -> io::Result<Writer<W>> {
        let schema = parse_message_type(SCHEMA).map_err(failed)?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_created_by(concat!("tidemark version ", env!("CARGO_PKG_VERSION")).to_owned())
            .build();
        let out = SerializedFileWriter::new(out, Arc::new(schema), Arc::new(properties)).map_err(failed)?;
        Ok(Writer { out, limit, group: Group::default() })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// Where `out` has some.
    pub fn add(&mut self, record: &Record) -> io::Result<()> {
        self.group.add(record);
        match self.group.bytes >= self.limit {
            true => self.end_group(),
            false => Ok(()),
        }
    }

    fn end_group(&mut self) -> io::Result<()> {
        std::mem::take(&mut self.group).write(&mut self.out).map_err(failed)
    }

    /// Writes what is left, and the footer. Gives back what it wrote to.
    ///
    /// # Errors
    /// Where `out` has some.
    pub fn finish(mut self) -> io::Result<W> {
        if self.group.bytes > 0 {
            self.end_group()?;
        }
        let mut out = self.out.into_inner().map_err(failed)?;
        out.flush()?;
        Ok(out)
    }
}

fn failed(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(cause) => match cause.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(other) => io::Error::other(other),
        },
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use tidemark_proto::id::{Millis, Offset};
    use tidemark_proto::record::records::Header;

    use super::*;

    fn record(offset: i64) -> Record {
        let header = |value: Option<&'static [u8]>| Header {
            key: Bytes::from_static(b"h"),
            value: value.map(Bytes::from_static),
        };
        Record {
            offset: Offset(offset),
            timestamp: Millis(offset - 1),
            key: (offset % 2 == 0).then(|| Bytes::from_static(b"key")),
            value: Some(Bytes::from_static(b"value")),
            headers: [header(None), header(Some(b"x"))][..offset as usize % 3].to_vec(),
        }
    }

    fn written(limit: usize) -> SerializedFileReader<Bytes> {
        let mut writer = Writer::new(Vec::new(), limit).unwrap();
        (0..20).for_each(|offset| writer.add(&record(offset)).unwrap());
        SerializedFileReader::new(Bytes::from(writer.finish().unwrap())).unwrap()
    }

    #[test]
    fn what_is_written_is_read_back_with_its_nulls_and_headers() {
        let rows: Vec<String> =
            written(1 << 20).get_row_iter(None).unwrap().map(|row| row.unwrap().to_string()).collect();
        assert_eq!(rows.len(), 20);
        assert_eq!(
            rows[0],
            "{offset: 0, timestamp: null, key: [107, 101, 121], value: [118, 97, 108, 117, 101], headers: []}"
        );
        assert!(rows[5].contains("offset: 5,") && rows[5].contains("key: null"), "{}", rows[5]);
        assert!(
            rows[5].ends_with("headers: [{key: \"h\", value: null}, {key: \"h\", value: [120]}]}"),
            "{}",
            rows[5]
        );
    }

    #[test]
    fn groups_are_as_small_as_asked() {
        let groups = |limit| written(limit).metadata().num_row_groups();
        assert_eq!([groups(1), groups(1 << 20)], [20, 1]);
    }
}
