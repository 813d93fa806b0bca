//! How `consume` prints a record: by a format such as `%p:%o %k=%v\n`, or as a line of JSON.

use std::borrow::Cow;

use serde::Serialize;
use tidemark_proto::record::records::Record;

use super::output::{Binary, letters};
use super::when;

/// A piece of a format.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Topic,
    Partition,
    Offset,
    Key,
    Value,
    KeyBytes,
    ValueBytes,
    Timestamp,
    Time,
    Headers,
}

/// A format, parsed.
#[derive(Clone, Debug)]
pub struct Format {
    parts: Vec<Part>,
    binary: Binary,
    null: String,
}

/// What `%` letters mean.
pub const LETTERS: &str = "\
%t topic   %p partition   %o offset     %k key    %v value (%s too)
%T time in ms   %D time as a date   %h headers   %K bytes of the key   %S bytes of the value
%% a percent sign   \\n \\t \\r \\0 \\\\ as usual";

impl Format {
    /// Reads a format; bytes that are no text are shown as `binary` says, null as `null`.
    pub fn parse(text: &str, binary: Binary, null: &str) -> Result<Format, String> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            match letter {
                '\\' => plain.push(match letters.next() {
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some('r') => '\r',
                    Some('0') => '\0',
                    Some('\\') => '\\',
                    other => {
                        return Err(format!(
                            "\\{} is no escape; there are \\n \\t \\r \\0 \\\\",
                            shown(other)
                        ));
                    }
                }),
                '%' => {
                    let part = match letters.next() {
                        Some('%') => {
                            plain.push('%');
                            continue;
                        }
                        Some('t') => Part::Topic,
                        Some('p') => Part::Partition,
                        Some('o') => Part::Offset,
                        Some('k') => Part::Key,
                        Some('v' | 's') => Part::Value,
                        Some('K') => Part::KeyBytes,
                        Some('S') => Part::ValueBytes,
                        Some('T') => Part::Timestamp,
                        Some('D') => Part::Time,
                        Some('h') => Part::Headers,
                        other => {
                            return Err(format!(
                                "%{} means nothing; %t %p %o %k %v %T %D %h %K %S and %% do, as --help explains",
                                shown(other)
                            ));
                        }
                    };
                    if !plain.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut plain)));
                    }
                    parts.push(part);
                }
                letter => plain.push(letter),
            }
        }
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Format { parts, binary, null: null.to_owned() })
    }

    /// Appends the record.
    pub fn write(&self, topic: &str, partition: i32, record: &Record, out: &mut Vec<u8>) {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Topic => out.extend_from_slice(topic.as_bytes()),
                Part::Partition => out.extend_from_slice(partition.to_string().as_bytes()),
                Part::Offset => out.extend_from_slice(record.offset.0.to_string().as_bytes()),
                Part::Key => self.bytes(record.key.as_deref(), out),
                Part::Value => self.bytes(record.value.as_deref(), out),
                Part::KeyBytes => self.length(record.key.as_deref(), out),
                Part::ValueBytes => self.length(record.value.as_deref(), out),
                Part::Timestamp => out.extend_from_slice(record.timestamp.0.to_string().as_bytes()),
                Part::Time => out.extend_from_slice(when::show(record.timestamp).as_bytes()),
                Part::Headers => {
                    for (at, header) in record.headers.iter().enumerate() {
                        if at > 0 {
                            out.push(b',');
                        }
                        self.bytes(Some(&header.key), out);
                        out.push(b'=');
                        self.bytes(header.value.as_deref(), out);
                    }
                }
            }
        }
    }

    fn length(&self, bytes: Option<&[u8]>, out: &mut Vec<u8>) {
        let length = bytes.map_or(-1, |bytes| bytes.len() as i64);
        out.extend_from_slice(length.to_string().as_bytes());
    }

    fn bytes(&self, bytes: Option<&[u8]>, out: &mut Vec<u8>) {
        match bytes {
            None => out.extend_from_slice(self.null.as_bytes()),
            Some(bytes) if self.binary == Binary::Raw || std::str::from_utf8(bytes).is_ok() => {
                out.extend_from_slice(bytes);
            }
            Some(bytes) => out.extend_from_slice(letters(bytes, self.binary).as_bytes()),
        }
    }
}

fn shown(letter: Option<char>) -> String {
    letter.map_or_else(|| " at the end".to_owned(), String::from)
}

/// A record as JSON. What is no text is spelled out, and a field beside it says how.
#[derive(Serialize)]
pub struct Line<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    timestamp: i64,
    key: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_encoding: Option<&'static str>,
    value: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_encoding: Option<&'static str>,
    headers: Vec<HeaderLine<'a>>,
}

#[derive(Serialize)]
struct HeaderLine<'a> {
    key: Cow<'a, str>,
    value: Option<Cow<'a, str>>,
}

impl<'a> Line<'a> {
    /// Of a record.
    pub fn new(topic: &'a str, partition: i32, record: &'a Record, binary: Binary) -> Line<'a> {
        let way = if binary == Binary::Hex { "hex" } else { "base64" };
        let text = |bytes: &'a [u8]| match std::str::from_utf8(bytes) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => Cow::Owned(letters(bytes, binary)),
        };
        let encoding =
            |bytes: Option<&[u8]>| bytes.filter(|bytes| std::str::from_utf8(bytes).is_err()).map(|_| way);
        Line {
            topic,
            partition,
            offset: record.offset.0,
            timestamp: record.timestamp.0,
            key: record.key.as_deref().map(text),
            key_encoding: encoding(record.key.as_deref()),
            value: record.value.as_deref().map(text),
            value_encoding: encoding(record.value.as_deref()),
            headers: record
                .headers
                .iter()
                .map(|h| HeaderLine { key: text(&h.key), value: h.value.as_deref().map(text) })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tidemark_proto::id::{Millis, Offset};
    use tidemark_proto::record::records::Header;

    use super::*;

    fn record() -> Record {
        Record {
            offset: Offset(7),
            timestamp: Millis(0),
            key: None,
            value: Some(Bytes::from_static(b"\xff")),
            headers: vec![
                Header { key: Bytes::from_static(b"a"), value: Some(Bytes::from_static(b"1")) },
                Header { key: Bytes::from_static(b"b"), value: None },
            ],
        }
    }

    fn written(format: &str, binary: Binary) -> Vec<u8> {
        let mut out = Vec::new();
        Format::parse(format, binary, "-").unwrap().write("t", 3, &record(), &mut out);
        out
    }

    #[test]
    fn a_format_says_what_is_printed() {
        assert_eq!(written(r"%t-%p@%o %k %v %h%%\n", Binary::Base64), b"t-3@7 - /w== a=1,b=-%\n");
        assert_eq!(written("%K %S %T %D", Binary::Hex), b"-1 1 0 1970-01-01T00:00:00.000Z");
        assert_eq!(written("%s", Binary::Raw), b"\xff");
        assert_eq!(written("%s", Binary::Hex), b"ff");
    }

    #[test]
    fn what_a_format_cannot_say_is_an_error_that_lists_what_it_can() {
        for wrong in ["%", "%q", r"\", r"\q"] {
            assert!(Format::parse(wrong, Binary::Hex, "").is_err(), "{wrong}");
        }
        assert!(Format::parse("%q", Binary::Hex, "").unwrap_err().contains("%t %p"));
    }

    #[test]
    fn json_says_how_bytes_are_spelled() {
        let record = record();
        let line = serde_json::to_string(&Line::new("t", 3, &record, Binary::Base64)).unwrap();
        assert_eq!(
            line,
            r#"{"topic":"t","partition":3,"offset":7,"timestamp":0,"key":null,"value":"/w==","value_encoding":"base64","#
                .to_owned()
                + r#""headers":[{"key":"a","value":"1"},{"key":"b","value":null}]}"#
        );
    }
}
