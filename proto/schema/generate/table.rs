//! Reads the schema tables (notation: `schema/README.md`) into plain data. Also used by tests, which
//! write random messages from the same data without the generated code.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Inclusive version range.
pub type Versions = (i16, i16);

/// One API: its request and response share versions and flexibility.
pub struct Api {
    pub key: i16,
    pub name: String,
    pub request: Message,
    pub response: Message,
}

/// One message; the first struct is the message itself.
pub struct Message {
    pub name: String,
    /// What the codec speaks.
    pub versions: Versions,
    /// What Kafka 4.3.1 speaks: the same, but for minima that are kept for older clients.
    pub kafka: Versions,
    pub flexible: Option<i16>,
    pub structs: Vec<Struct>,
}

pub struct Struct {
    pub name: String,
    pub fields: Vec<Field>,
}

pub struct Field {
    pub name: String,
    pub kind: Kind,
    pub array: bool,
    /// None: wherever the struct is.
    pub versions: Option<Versions>,
    pub nullable: Option<Versions>,
    pub tag: Option<u32>,
    pub default: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    Bool,
    I8,
    I16,
    U16,
    I32,
    U32,
    I64,
    F64,
    Uuid,
    Text,
    Bytes,
    Records,
    Struct(String),
}

/// Everything the folder declares.
pub struct Tables {
    pub apis: Vec<Api>,
    pub data: Vec<Message>,
}

impl Message {
    pub fn structure(&self, name: &str) -> &Struct {
        self.structs
            .iter()
            .find(|one| one.name == name)
            .expect("the reader checked that every struct is there")
    }

    pub fn is_flexible(&self, version: i16) -> bool {
        self.flexible.is_some_and(|first| version >= first)
    }
}

impl Field {
    pub fn present(&self, version: i16) -> bool {
        self.versions.is_none_or(|range| contains(range, version))
    }
}

pub fn contains((low, high): Versions, version: i16) -> bool {
    (low..=high).contains(&version)
}

/// Reads every `.txt` file of the folder.
pub fn read(folder: &Path) -> Result<Tables> {
    let mut tables = Tables { apis: Vec::new(), data: Vec::new() };
    let mut paths: Vec<_> = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.sort();
    for path in paths {
        if path.extension().is_some_and(|extension| extension == "txt") {
            read_file(&fs::read_to_string(&path)?, &mut tables)
                .map_err(|why| format!("{}: {why}", path.display()))?;
        }
    }
    tables.apis.sort_by_key(|api| api.key);
    Ok(tables)
}

fn read_file(text: &str, tables: &mut Tables) -> Result<()> {
    let mut lines: Vec<(usize, &str)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim_end();
        if !line.is_empty() {
            lines.push((number + 1, line));
        }
    }
    let mut rest = lines.as_slice();
    while let Some(((number, head), after)) = rest.split_first() {
        let words: Vec<&str> = head.split_whitespace().collect();
        match words.as_slice() {
            ["api", key, name, versions, rest_of_head @ ..] => {
                let span = span(versions, rest_of_head)?;
                let (request, after) = part("request", format!("{name}Request"), &span, after)?;
                let (response, after) = part("response", format!("{name}Response"), &span, after)?;
                tables.apis.push(Api { key: key.parse()?, name: (*name).to_owned(), request, response });
                rest = after;
            }
            ["data", name, versions, rest_of_head @ ..] => {
                let (message, after) = message((*name).to_owned(), &span(versions, rest_of_head)?, after)?;
                tables.data.push(message);
                rest = after;
            }
            _ => return Err(format!("line {number}: expected `api` or `data`").into()),
        }
    }
    Ok(())
}

type Lines<'a> = &'a [(usize, &'a str)];

fn part<'a>(word: &str, name: String, span: &Span, lines: Lines<'a>) -> Result<(Message, Lines<'a>)> {
    match lines.split_first() {
        Some(((_, line), after)) if *line == word => message(name, span, after),
        _ => Err(format!("{name}: expected `{word}`").into()),
    }
}

fn message<'a>(name: String, span: &Span, lines: Lines<'a>) -> Result<(Message, Lines<'a>)> {
    let end = lines
        .iter()
        .position(|(_, line)| {
            ["request", "response"].contains(line) || line.starts_with("api ") || line.starts_with("data ")
        })
        .unwrap_or(lines.len());
    let mut structs = BTreeMap::new();
    let mut order = vec![name.clone()];
    let used = structure(&name, 0, &lines[..end], span.versions.1, &mut structs, &mut order)?;
    if let Some((number, _)) = lines[..end].get(used) {
        return Err(format!("line {number}: unexpected indentation").into());
    }
    let structs: Vec<Struct> = order
        .into_iter()
        .map(|name| {
            let fields = structs.remove(&name).ok_or_else(|| format!("struct {name} has no members"))?;
            Ok(Struct { name, fields })
        })
        .collect::<Result<_>>()?;
    let &Span { versions, kafka, flexible } = span;
    Ok((Message { name, versions, kafka, flexible, structs }, &lines[end..]))
}

/// Reads the members of one struct at `depth`; returns how many lines they took.
fn structure(
    name: &str,
    depth: usize,
    lines: Lines<'_>,
    newest: i16,
    structs: &mut BTreeMap<String, Vec<Field>>,
    order: &mut Vec<String>,
) -> Result<usize> {
    let mut fields: Vec<Field> = Vec::new();
    let mut at = 0;
    while let Some((number, line)) = lines.get(at) {
        let indent = line.len() - line.trim_start().len();
        if indent < depth * 2 {
            break;
        }
        if indent > depth * 2 {
            let Some(Kind::Struct(inner)) = fields.last().map(|field| field.kind.clone()) else {
                return Err(format!("line {number}: members of something that is no struct").into());
            };
            at += structure(&inner, depth + 1, &lines[at..], newest, structs, order)?;
            continue;
        }
        let field = field(line, newest).map_err(|why| format!("line {number}: {why}"))?;
        if let Kind::Struct(inner) = &field.kind
            && !order.contains(inner)
        {
            order.push(inner.clone());
        }
        fields.push(field);
        at += 1;
    }
    if structs.insert(name.to_owned(), fields).is_some() {
        return Err(format!("struct {name} has members twice").into());
    }
    Ok(at)
}

fn field(line: &str, newest: i16) -> Result<Field> {
    let mut words = line.split_whitespace().peekable();
    let name = words.next().ok_or("a field needs a name")?.to_owned();
    let kind = words.next().ok_or("a field needs a type")?;
    let (array, kind) = match kind.strip_prefix('[').and_then(|kind| kind.strip_suffix(']')) {
        Some(element) => (true, element),
        None => (false, kind),
    };
    let kind = kind_of(kind);
    let is_range = |word: &&str| word.starts_with(|first: char| first.is_ascii_digit());
    let versions = words.next_if(is_range).map(|word| range(word, newest)).transpose()?;
    let mut field = Field { name, kind, array, versions, nullable: None, tag: None, default: None };
    while let Some(word) = words.next() {
        match word {
            "nullable" => {
                let null = words.next_if(is_range).map(|word| range(word, newest)).transpose()?;
                field.nullable = Some(null.or(versions).unwrap_or((0, newest)));
            }
            "tag" => field.tag = Some(words.next().ok_or("a tag needs a number")?.parse()?),
            "=" => field.default = Some(words.next().ok_or("a default needs a value")?.to_owned()),
            other => return Err(format!("`{other}` is not known").into()),
        }
    }
    Ok(field)
}

fn kind_of(word: &str) -> Kind {
    match word {
        "bool" => Kind::Bool,
        "i8" => Kind::I8,
        "i16" => Kind::I16,
        "u16" => Kind::U16,
        "i32" => Kind::I32,
        "u32" => Kind::U32,
        "i64" => Kind::I64,
        "f64" => Kind::F64,
        "uuid" => Kind::Uuid,
        "string" => Kind::Text,
        "bytes" => Kind::Bytes,
        "records" => Kind::Records,
        other => Kind::Struct(other.to_owned()),
    }
}

fn range(word: &str, newest: i16) -> Result<Versions> {
    if let Some(low) = word.strip_suffix('+') {
        return Ok((low.parse()?, newest));
    }
    match word.split_once('-') {
        Some((low, high)) => Ok((low.parse()?, high.parse()?)),
        None => Ok((word.parse()?, word.parse()?)),
    }
}

/// What a header line says of versions.
struct Span {
    versions: Versions,
    kafka: Versions,
    flexible: Option<i16>,
}

fn span(versions: &str, rest: &[&str]) -> Result<Span> {
    let kafka = range(versions, i16::MAX)?;
    let (flexible, rest) = match rest {
        ["never", "flexible", rest @ ..] => (None, rest),
        ["flexible", from, rest @ ..] => (Some(from.trim_end_matches('+').parse()?), rest),
        _ => return Err("expected `flexible N+` or `never flexible`".into()),
    };
    let oldest = match rest {
        [] => kafka.0,
        ["since", oldest] => oldest.parse()?,
        _ => return Err("expected `since N` or nothing more".into()),
    };
    Ok(Span { versions: (oldest, kafka.1), kafka, flexible })
}
