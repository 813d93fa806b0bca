//! Writes Rust from the tables: one module per message, types with `Wire` impls that call the runtime
//! in `src/kafka/wire`. The generated code is straight line, so that it compiles fast.

use std::fmt::Write;

use super::table::{Field, Kind, Message, Struct, Tables, Versions};

/// Modules and re-exports of every request and response.
pub fn messages(tables: &Tables) -> String {
    let mut out = String::new();
    for api in &tables.apis {
        for message in [&api.request, &api.response] {
            module(&mut out, message);
        }
        let name = &api.name;
        _ = write!(
            out,
            "impl wire::Request for {name}Request {{
    const KEY: ApiKey = ApiKey::{name};
    type Response = {name}Response;
}}
"
        );
    }
    out
}

/// Modules and re-exports of the messages no request carries as such.
pub fn data(tables: &Tables) -> String {
    let mut out = String::new();
    for message in &tables.data {
        module(&mut out, message);
    }
    out
}

/// The table of APIs and versions.
pub fn api_table(tables: &Tables) -> String {
    let mut out = String::from("&[\n");
    for api in &tables.apis {
        let ((oldest, _), (low, high)) = (api.request.versions, api.request.kafka);
        let flexible = api.request.flexible.unwrap_or(i16::MAX);
        _ = writeln!(out, "    row(ApiKey::{}, {oldest}, {low}, {high}, {flexible}),", api.name);
    }
    out + "]\n"
}

fn module(out: &mut String, message: &Message) {
    let (module, name) = (snake(&message.name), &message.name);
    let (low, high) = message.versions;
    _ = write!(
        out,
        "pub use {module}::{name};
/// [`{name}`] and the structs in it.
pub mod {module} {{
    use super::prelude::*;
"
    );
    for (at, one) in message.structs.iter().enumerate() {
        declare(out, message, one, at == 0);
        defaults(out, one);
        codec(out, message, one);
        errors(out, message, one);
    }
    let flexible = message.flexible.unwrap_or(i16::MAX);
    let errors = message.structs.first().filter(|root| tells_errors(message, root)).map_or("", |_| {
        "\n        fn each_error(&self, visit: &mut dyn FnMut(i16)) {\n            self.errors(visit);\n        }"
    });
    _ = write!(
        out,
        "    impl wire::Message for {name} {{
        const MIN: i16 = {low};
        const MAX: i16 = {high};
        const FLEXIBLE: i16 = {flexible};{errors}
    }}
}}
"
    );
}

/// Whether an error code is in the struct or in one within it.
fn tells_errors(message: &Message, one: &Struct) -> bool {
    message.name.ends_with("Response")
        && one.fields.iter().any(|field| match &field.kind {
            Kind::Struct(name) => tells_errors(message, message.structure(name)),
            _ => is_error(field),
        })
}

fn is_error(field: &Field) -> bool {
    field.name == "error_code" && field.kind == Kind::I16 && !field.array
}

/// Shows every error code of a struct to a visitor.
fn errors(out: &mut String, message: &Message, one: &Struct) {
    if !tells_errors(message, one) {
        return;
    }
    _ = writeln!(out, "    impl {} {{\n        fn errors(&self, visit: &mut dyn FnMut(i16)) {{", one.name);
    for field in &one.fields {
        let name = ident(field);
        let within = match &field.kind {
            Kind::Struct(name) => tells_errors(message, message.structure(name)),
            _ => false,
        };
        _ = match (within, field.array, field.nullable.is_some()) {
            _ if is_error(field) => writeln!(out, "            visit(self.{name});"),
            (false, ..) => continue,
            (true, false, false) => writeln!(out, "            self.{name}.errors(visit);"),
            (true, true, false) | (true, false, true) => {
                writeln!(out, "            self.{name}.iter().for_each(|one| one.errors(visit));")
            }
            (true, true, true) => {
                writeln!(out, "            self.{name}.iter().flatten().for_each(|one| one.errors(visit));")
            }
        };
    }
    out.push_str("        }\n    }\n");
}

fn declare(out: &mut String, message: &Message, one: &Struct, root: bool) {
    let (low, high) = message.versions;
    match root {
        true => _ = writeln!(out, "    /// Versions {}.", versions_text((low, high), high)),
        false => _ = writeln!(out, "    /// In [`{}`].", message.name),
    }
    let default = if needs_default(one) { "" } else { ", Default" };
    _ = writeln!(out, "    #[derive(Clone, Debug, PartialEq{default})]\n    pub struct {} {{", one.name);
    for field in &one.fields {
        _ = writeln!(
            out,
            "        /// {}\n        pub {}: {},",
            about(field, high),
            ident(field),
            rust_type(field)
        );
    }
    out.push_str("    }\n");
}

fn about(field: &Field, newest: i16) -> String {
    let mut about = match field.versions {
        Some(range) => format!("Versions {}.", versions_text(range, newest)),
        None => "All versions.".to_owned(),
    };
    if let Some(range) = field.nullable {
        match Some(range) == field.versions || range.0 == 0 {
            true => about.push_str(" Nullable."),
            false => _ = write!(about, " Nullable in {}.", versions_text(range, newest)),
        }
    }
    if let Some(tag) = field.tag {
        _ = write!(about, " Tag {tag}.");
    }
    if let Some(default) = &field.default {
        _ = write!(about, " Default {default}.");
    }
    about
}

fn versions_text((low, high): Versions, newest: i16) -> String {
    match (low == high, high == newest) {
        (true, _) => low.to_string(),
        (_, true) => format!("{low}+"),
        _ => format!("{low}-{high}"),
    }
}

fn needs_default(one: &Struct) -> bool {
    one.fields.iter().any(|field| match &field.default {
        Some(default) => default != "null",
        None => field.nullable.is_some() && field.kind != Kind::Records,
    })
}

fn defaults(out: &mut String, one: &Struct) {
    if !needs_default(one) {
        return;
    }
    _ = writeln!(
        out,
        "    impl Default for {} {{\n        fn default() -> Self {{\n            Self {{",
        one.name
    );
    for field in &one.fields {
        _ = writeln!(out, "                {}: {},", ident(field), default_of(field));
    }
    out.push_str("            }\n        }\n    }\n");
}

fn default_of(field: &Field) -> String {
    match field.default.as_deref() {
        Some("null") => "None".to_owned(),
        Some(value) => value.to_owned(),
        None if field.nullable.is_some() && field.kind != Kind::Records => {
            "Some(Default::default())".to_owned()
        }
        None => "Default::default()".to_owned(),
    }
}

fn codec(out: &mut String, message: &Message, one: &Struct) {
    let name = &one.name;
    let mut tagged: Vec<&Field> = one.fields.iter().filter(|field| field.tag.is_some()).collect();
    tagged.sort_by_key(|field| field.tag);
    let plain = || one.fields.iter().filter(|field| field.tag.is_none());
    _ = write!(
        out,
        "    impl wire::Wire for {name} {{
        const MIN_LEN: usize = {};
        fn read(d: &mut Decoder, v: i16, f: bool) -> Result<Self, DecodeError> {{
            let mut m = Self::default();
",
        min_len(message, one)
    );
    for field in plain() {
        let read = read_call(field, message.versions);
        _ = writeln!(
            out,
            "            {}",
            when(field, message.versions, &format!("m.{} = {read};", ident(field)))
        );
    }
    if message.flexible.is_some() && tagged.is_empty() {
        out.push_str("            if f { d.skip_tags()?; }\n");
    } else if message.flexible.is_some() {
        out.push_str("            if f { d.tags(|d, tag| { match tag {\n");
        for field in &tagged {
            let (tag, read) = (field.tag.unwrap_or_default(), read_call(field, message.versions));
            let guard = condition(field.versions, message.versions).map(|test| format!(" if {test}"));
            _ = writeln!(
                out,
                "                {tag}{} => m.{} = {read},",
                guard.unwrap_or_default(),
                ident(field)
            );
        }
        out.push_str("                _ => return Ok(false),\n            } Ok(true) })?; }\n");
    }
    _ = write!(
        out,
        "            _ = (v, f);
            Ok(m)
        }}
        fn write(&self, e: &mut Encoder, v: i16, f: bool) -> Result<(), EncodeError> {{
"
    );
    for field in plain() {
        _ = writeln!(
            out,
            "            {}",
            when(field, message.versions, &format!("{};", write_call(field, message.versions)))
        );
    }
    if message.flexible.is_some() && tagged.is_empty() {
        out.push_str("            if f { e.no_tags(); }\n");
    } else if message.flexible.is_some() {
        out.push_str("            if f {\n                let mut t = Tags::default();\n");
        for field in &tagged {
            let mut test = differs(field);
            if let Some(versions) = condition(field.versions, message.versions) {
                test = format!("{versions} && {test}");
            }
            let write = write_call(field, message.versions);
            _ = writeln!(
                out,
                "                if {test} {{ t.add({}, |e| {{ {write}; Ok(()) }})?; }}",
                field.tag.unwrap_or_default()
            );
        }
        out.push_str("                e.tags(t)?;\n            }\n");
    }
    out.push_str("            _ = (&e, v, f);\n            Ok(())\n        }\n    }\n");
    if one_is_nullable(message, name) {
        _ = writeln!(out, "    wire::nullable_struct!({name});");
    }
}

fn one_is_nullable(message: &Message, name: &str) -> bool {
    let named = Kind::Struct(name.to_owned());
    let fields = || message.structs.iter().flat_map(|one| &one.fields);
    fields().any(|field| field.kind == named && !field.array && field.nullable.is_some())
}

fn read_call(field: &Field, all: Versions) -> String {
    match (&field.kind, field.nullable) {
        (_, Some(range)) => {
            format!("d.nullable(v, f, {})?", condition(Some(range), all).unwrap_or_else(|| "true".to_owned()))
        }
        _ => "wire::Wire::read(d, v, f)?".to_owned(),
    }
}

fn write_call(field: &Field, all: Versions) -> String {
    let name = ident(field);
    match field.nullable {
        Some(range) => {
            let test = condition(Some(range), all).unwrap_or_else(|| "true".to_owned());
            format!("e.nullable(&self.{name}, v, f, {test})?")
        }
        None => format!("wire::Wire::write(&self.{name}, e, v, f)?"),
    }
}

fn when(field: &Field, all: Versions, statement: &str) -> String {
    match condition(field.versions, all) {
        Some(test) => format!("if {test} {{ {statement} }}"),
        None => statement.to_owned(),
    }
}

/// The test that `v` is in the range, or None if it always is.
fn condition(range: Option<Versions>, (oldest, newest): Versions) -> Option<String> {
    let (low, high) = range?;
    match (low > oldest, high < newest) {
        (false, false) => None,
        (true, false) => Some(format!("v >= {low}")),
        (false, true) => Some(format!("v <= {high}")),
        (true, true) if low == high => Some(format!("v == {low}")),
        (true, true) => Some(format!("({low}..={high}).contains(&v)")),
    }
}

/// The test that a tagged field is not its default, and so must be written.
fn differs(field: &Field) -> String {
    let name = ident(field);
    match (field.default.as_deref(), &field.kind) {
        (Some("null"), _) => format!("self.{name}.is_some()"),
        (Some("true"), _) => format!("!self.{name}"),
        (Some(value), _) => format!("self.{name} != {value}"),
        (None, Kind::Bool) if !field.array => format!("self.{name}"),
        (None, Kind::Uuid) if !field.array => format!("!self.{name}.is_nil()"),
        (None, Kind::Text | Kind::Bytes) if field.nullable.is_none() => format!("!self.{name}.is_empty()"),
        (None, _) if field.array && field.nullable.is_none() => format!("!self.{name}.is_empty()"),
        (None, _) => format!(
            "self.{name} != {}",
            match default_of(field).as_str() {
                "Default::default()" => format!("<{}>::default()", rust_type(field)),
                other => other.to_owned(),
            }
        ),
    }
}

/// The fewest bytes any version of the struct takes: bounds array counts before anything is allocated.
fn min_len(message: &Message, one: &Struct) -> usize {
    let (low, high) = message.versions;
    let lengths = (low..=high).map(|version| struct_len(message, one, version));
    lengths.min().unwrap_or(1).max(1)
}

fn struct_len(message: &Message, one: &Struct, version: i16) -> usize {
    let flexible = message.is_flexible(version);
    let fields = one.fields.iter().filter(|field| field.tag.is_none() && field.present(version));
    let length = |field: &Field| match (&field.kind, field.array) {
        (_, true) => {
            if flexible {
                1
            } else {
                4
            }
        }
        (Kind::Bool | Kind::I8, _) => 1,
        (Kind::I16 | Kind::U16, _) => 2,
        (Kind::I32 | Kind::U32, _) => 4,
        (Kind::I64 | Kind::F64, _) => 8,
        (Kind::Uuid, _) => 16,
        (Kind::Text, _) => {
            if flexible {
                1
            } else {
                2
            }
        }
        (Kind::Bytes | Kind::Records, _) => {
            if flexible {
                1
            } else {
                4
            }
        }
        (Kind::Struct(_), _) if field.nullable.is_some() => 1,
        (Kind::Struct(name), _) => struct_len(message, message.structure(name), version),
    };
    fields.map(length).sum::<usize>() + usize::from(flexible)
}

fn rust_type(field: &Field) -> String {
    let element = match &field.kind {
        Kind::Bool => "bool",
        Kind::I8 => "i8",
        Kind::I16 => "i16",
        Kind::U16 => "u16",
        Kind::I32 => "i32",
        Kind::U32 => "u32",
        Kind::I64 => "i64",
        Kind::F64 => "f64",
        Kind::Uuid => "Uuid",
        Kind::Text => "Text",
        Kind::Bytes => "Bytes",
        Kind::Records => return "Records".to_owned(),
        Kind::Struct(name) => name,
    };
    let whole = if field.array { format!("Vec<{element}>") } else { element.to_owned() };
    if field.nullable.is_some() { format!("Option<{whole}>") } else { whole }
}

fn ident(field: &Field) -> String {
    match field.name.as_str() {
        "match" | "type" => format!("r#{}", field.name),
        name => name.to_owned(),
    }
}

fn snake(name: &str) -> String {
    let mut out = String::new();
    for (at, letter) in name.chars().enumerate() {
        if letter.is_ascii_uppercase() && at > 0 {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}
