//! Against Apache Kafka's own jars (`tests/java/CodecOracle.java`), where they and a JVM are at hand:
//! `TIDEMARK_KAFKA_LIBS` names their folder, else the acceptance cache is looked into. Without them the
//! tests say so and pass.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bytes::Bytes;
use tidemark_proto::kafka::api::TABLE;
use tidemark_proto::kafka::error::ErrorCode;

use crate::random::{self, Extra};
use crate::table::{Field, Kind, Message, Struct, Versions};
use crate::typed::typed;
use crate::{all_messages, all_versions};

/// The jars' folder, or None with a notice.
fn jars() -> Option<PathBuf> {
    let named = std::env::var_os("TIDEMARK_KAFKA_LIBS").map(PathBuf::from);
    let cached =
        || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/tidemark-acceptance/kafka-libs/4.3.1"));
    let folder = named.or_else(cached)?;
    let java = Command::new("java").arg("-version").stderr(Stdio::null()).status();
    if folder.join("kafka-clients-4.3.1.jar").exists() && java.is_ok_and(|status| status.success()) {
        return Some(folder);
    }
    eprintln!("SKIPPED: no JVM, or no Kafka 4.3.1 jars in {}", folder.display());
    None
}

/// Runs the oracle; `input` goes through a file, so that neither side waits for the other.
fn oracle(jars: &Path, words: &[&str], input: &str) -> String {
    let path = std::env::temp_dir().join(format!("tidemark-oracle-{}-{}", words[0], std::process::id()));
    std::fs::write(&path, input).expect("the temporary folder is writable");
    let run = Command::new("java")
        .args(["-cp", &format!("{}/*", jars.display()), "-XX:TieredStopAtLevel=1"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/java/CodecOracle.java"))
        .args(words)
        .stdin(File::open(&path).expect("just written"))
        .stderr(Stdio::inherit())
        .output()
        .expect("java was there a moment ago");
    _ = std::fs::remove_file(&path);
    assert!(run.status.success(), "the oracle failed");
    String::from_utf8(run.stdout).expect("the oracle prints UTF-8")
}

#[test]
fn the_java_client_reads_and_writes_the_same_bytes() {
    let Some(jars) = jars() else { return };
    let mut cases = Vec::new();
    let mut input = String::new();
    for (message, version) in all_versions() {
        for seed in 100..112 {
            let bytes = random::message(message, version, seed, Extra::None);
            _ = writeln!(input, "{} {version} {}", message.name, hex(&bytes));
            cases.push((&message.name, version, bytes));
        }
    }
    let answers = oracle(&jars, &["echo"], &input);
    assert_eq!(answers.lines().count(), cases.len());
    let mut wrong = Vec::new();
    for ((name, version, bytes), answer) in cases.iter().zip(answers.lines()) {
        if answer != hex(bytes) {
            wrong.push(format!("{name} version {version}: {}", &answer[..answer.len().min(200)]));
        }
        assert_eq!((typed(name).ours)(Bytes::from(bytes.clone()), *version).as_deref(), Ok(&bytes[..]));
    }
    wrong.dedup();
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    println!("{} messages agree with the Java client", cases.len());
}

#[test]
fn the_tables_say_what_kafkas_schemas_say() {
    let Some(jars) = jars() else { return };
    let names: Vec<&str> =
        std::iter::once("facts").chain(all_messages().map(|message| message.name.as_str())).collect();
    let theirs = oracle(&jars, &names, "");
    let mut ours = String::new();
    for message in all_messages() {
        let flexible = message.flexible.map(|first| (first, message.versions.1));
        _ = writeln!(ours, "{} {} flexible {}", message.name, shown(Some(message.versions)), shown(flexible));
        members(&mut ours, &message.name, message, &message.structs[0], message.versions);
    }
    for (ours, theirs) in ours.lines().zip(theirs.lines()) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(ours.lines().count(), theirs.lines().count());
}

fn members(out: &mut String, path: &str, message: &Message, one: &Struct, outer: Versions) {
    for field in &one.fields {
        let Some(present) = intersection(field.versions.unwrap_or(outer), outer) else { continue };
        let name = format!("{path}/{}", field.name);
        let nullable = field.nullable.and_then(|range| intersection(range, present));
        let tag = field.tag.map_or("-".to_owned(), |tag| tag.to_string());
        let default = field.default.as_deref().unwrap_or("-");
        let (kind, present_text, nullable) = (kafka_type(field), shown(Some(present)), shown(nullable));
        _ = writeln!(out, "{name} {kind} {present_text} nullable {nullable} tag {tag} default {default}");
        if let Kind::Struct(inner) = &field.kind {
            members(out, &name, message, message.structure(inner), present);
        }
    }
}

fn kafka_type(field: &Field) -> String {
    let element = match &field.kind {
        Kind::Bool => "bool",
        Kind::I8 => "int8",
        Kind::I16 => "int16",
        Kind::U16 => "uint16",
        Kind::I32 => "int32",
        Kind::U32 => "uint32",
        Kind::I64 => "int64",
        Kind::F64 => "float64",
        Kind::Uuid => "uuid",
        Kind::Text => "string",
        Kind::Bytes => "bytes",
        Kind::Records => "records",
        Kind::Struct(name) => name,
    };
    format!("{}{element}", if field.array { "[]" } else { "" })
}

fn intersection(one: Versions, other: Versions) -> Option<Versions> {
    let both = (one.0.max(other.0), one.1.min(other.1));
    (both.0 <= both.1).then_some(both)
}

fn shown(range: Option<Versions>) -> String {
    range.map_or("-".to_owned(), |(low, high)| format!("{low}-{high}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        _ = write!(out, "{byte:02x}");
        out
    })
}

#[test]
fn errors_keys_and_headers_are_kafkas() {
    let Some(jars) = jars() else { return };
    let theirs = oracle(&jars, &["codes"], "");
    let theirs: BTreeSet<&str> = theirs.lines().collect();
    let mut ours = BTreeSet::new();
    for code in ErrorCode::ALL {
        ours.insert(format!("error {} {} {}", code.code(), code.name(), code.is_retriable()));
    }
    let errors = theirs.iter().filter(|line| line.starts_with("error"));
    assert_eq!(errors.count(), ErrorCode::ALL.len());
    for row in TABLE {
        let number = row.key.as_i16();
        ours.insert(format!("api {number} {} {}-{}", row.name, row.min, row.max));
        for version in row.min..=row.max {
            let (request, response) =
                (row.key.request_header_version(version), row.key.response_header_version(version));
            ours.insert(format!("header {number} {version} {request} {response}"));
        }
    }
    let unknown: Vec<&String> = ours.iter().filter(|line| !theirs.contains(line.as_str())).collect();
    assert!(unknown.is_empty(), "Kafka does not say: {unknown:#?}");
}
