//! Writes random but valid messages straight from the tables, without the generated code: a second,
//! interpreting encoder that the generated one is compared with.

use crate::table::{Field, Kind, Message, Struct, contains};

/// SplitMix64: a seed decides everything.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

/// How a message is varied beyond its random values.
#[derive(Clone, Copy, PartialEq)]
pub enum Extra {
    None,
    /// Every struct of a flexible version carries two tagged fields that nobody knows.
    UnknownTags,
}

/// One valid message of this version.
pub fn message(message: &Message, version: i16, seed: u64, extra: Extra) -> Vec<u8> {
    let flexible = message.is_flexible(version);
    let mut writer = Writer { message, version, flexible, random: Random(seed), extra, out: Vec::new() };
    writer.structure(&message.structs[0], false);
    writer.out
}

struct Writer<'a> {
    message: &'a Message,
    version: i16,
    flexible: bool,
    random: Random,
    extra: Extra,
    out: Vec<u8>,
}

impl Writer<'_> {
    fn structure(&mut self, one: &Struct, told: bool) {
        for field in &one.fields {
            if field.tag.is_none() && field.present(self.version) {
                self.field(field, told);
            }
        }
        if self.flexible {
            self.tags(one);
        }
    }

    fn tags(&mut self, one: &Struct) {
        let mut fields: Vec<&Field> =
            one.fields.iter().filter(|field| field.tag.is_some() && field.present(self.version)).collect();
        fields.sort_by_key(|field| field.tag);
        fields.retain(|_| !self.random.one_in(3));
        let unknown: &[u32] = if self.extra == Extra::UnknownTags { &[1_000, u32::MAX] } else { &[] };
        varint(&mut self.out, (fields.len() + unknown.len()) as u32);
        for field in fields {
            let outer = std::mem::take(&mut self.out);
            self.field(field, true);
            let value = std::mem::replace(&mut self.out, outer);
            varint(&mut self.out, field.tag.expect("only tagged fields are here"));
            varint(&mut self.out, value.len() as u32);
            self.out.extend(value);
        }
        for tag in unknown {
            varint(&mut self.out, *tag);
            varint(&mut self.out, 3);
            self.out.extend(b"\xff\xfe\xfd");
        }
    }

    /// A value; `told` means that it must not be the default, as the encoder would leave it out.
    fn field(&mut self, field: &Field, told: bool) {
        let nullable = field.nullable.is_some_and(|range| contains(range, self.version));
        if nullable && self.random.one_in(4) && !told {
            return self.null(field);
        }
        if !field.array {
            if nullable && matches!(field.kind, Kind::Struct(_)) {
                self.out.push(1);
            }
            return self.value(&field.kind, told);
        }
        let count = match self.random.below(12) {
            0 if !told => 0,
            11 if !matches!(field.kind, Kind::Struct(_)) => 130,
            other => 1 + other as usize % 3,
        };
        self.long_length(count);
        for _ in 0..count {
            self.value(&field.kind, told);
        }
    }

    fn null(&mut self, field: &Field) {
        match (&field.kind, field.array, self.flexible) {
            (Kind::Struct(_), false, _) => self.out.push(0xff),
            (_, _, true) => self.out.push(0),
            (Kind::Text, false, false) => self.out.extend((-1_i16).to_be_bytes()),
            _ => self.out.extend((-1_i32).to_be_bytes()),
        }
    }

    fn value(&mut self, kind: &Kind, told: bool) {
        let number = self.number(told);
        match kind {
            Kind::Bool => self.out.push(u8::from(told || number & 1 == 1)),
            Kind::I8 => self.out.push(number as u8),
            Kind::I16 | Kind::U16 => self.out.extend((number as u16).to_be_bytes()),
            Kind::I32 | Kind::U32 => self.out.extend((number as u32).to_be_bytes()),
            Kind::I64 => self.out.extend(number.to_be_bytes()),
            Kind::F64 => self.out.extend(((number >> 12) as f64).to_be_bytes()),
            Kind::Uuid => {
                let high = self.random.next();
                self.out.extend(high.to_be_bytes());
                self.out.extend(number.to_be_bytes());
            }
            Kind::Text => self.text(told),
            Kind::Bytes | Kind::Records => {
                let length = [0, 1, 20, 127, 200][self.random.below(5) as usize];
                self.long_length(length);
                for _ in 0..length {
                    let byte = self.random.next() as u8;
                    self.out.push(byte);
                }
            }
            Kind::Struct(name) => {
                let message = self.message;
                self.structure(message.structure(name), told);
            }
        }
    }

    /// Numbers at the edges of their types half of the time. A told one is never a default: each of
    /// its bytes differs from 0 and 0xff, and the highest is below 0x80.
    fn number(&mut self, told: bool) -> u64 {
        if told {
            return (self.random.next() & 0x3e3e_3e3e_3e3e_3e3e) | 0x4040_4040_4040_4040;
        }
        match self.random.below(10) {
            0 => 0,
            1 => 1,
            2 => u64::MAX,
            3 => 0x7fff_7fff_7fff_7fff,
            4 => 0x8000_8000_8000_8000,
            _ => self.random.next(),
        }
    }

    fn text(&mut self, told: bool) {
        let text = match self.random.below(8) {
            0 if !told => String::new(),
            1 => "naïve-ключ-主题-🦀".to_owned(),
            2 => "x".repeat(300),
            3 => "y".repeat(126),
            other => format!("t{}", self.random.below(10_u64.pow(other as u32))),
        };
        match self.flexible {
            true => varint(&mut self.out, text.len() as u32 + 1),
            false => self.out.extend((text.len() as i16).to_be_bytes()),
        }
        self.out.extend(text.as_bytes());
    }

    fn long_length(&mut self, length: usize) {
        match self.flexible {
            true => varint(&mut self.out, length as u32 + 1),
            false => self.out.extend((length as i32).to_be_bytes()),
        }
    }
}

/// An unsigned varint.
pub fn varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
