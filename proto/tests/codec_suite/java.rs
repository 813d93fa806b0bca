//! Against Apache Kafka's own jars (`tests/java/CodecOracle.java`), where they and a JVM are at hand:
//! `TIDEMARK_KAFKA_LIBS` names their folder, else the acceptance cache is looked into. Without them the
//! tests say so and pass. Versions that Kafka 4 dropped are held against the 3.9.1 client, whose jar is
//! looked for in `../3.9.1`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use tidemark_proto::kafka::api::TABLE;
use tidemark_proto::kafka::error::ErrorCode;

use crate::random::{self, Extra};
use crate::table::{Field, Kind, Message, Struct, Versions, contains};
use crate::typed::typed;
use crate::{all_messages, all_versions};

/// The jars' folder, or None with a notice.
fn folder_of_jars() -> Option<PathBuf> {
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

/// The class path of the 4.3.1 client.
fn new_jars() -> Option<String> {
    Some(format!("{}/*", folder_of_jars()?.display()))
}

/// The class path of the 3.9.1 client, which borrows its libraries from 4.3.1, or None with a notice.
fn old_jars() -> Option<String> {
    let jars = folder_of_jars()?;
    let old = jars.parent()?.join("3.9.1/kafka-clients-3.9.1.jar");
    if old.exists() {
        return Some(format!("{}:{}/*", old.display(), jars.display()));
    }
    eprintln!("SKIPPED: no {}", old.display());
    None
}

/// Runs the oracle; `input` goes through a file, so that neither side waits for the other.
fn oracle(jars: &str, words: &[&str], input: &str) -> String {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("tidemark-oracle-{}-{run}", std::process::id()));
    std::fs::write(&path, input).expect("the temporary folder is writable");
    let run = Command::new("java")
        .args(["-cp", jars, "-XX:TieredStopAtLevel=1"])
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
    let Some(jars) = new_jars() else { return };
    echo(&jars, all_versions().filter(|(message, version)| contains(message.kafka, *version)));
}

#[test]
fn the_3_9_client_reads_and_writes_the_same_bytes_of_versions_kafka_4_dropped() {
    let Some(jars) = old_jars() else { return };
    echo(&jars, all_versions().filter(|(message, version)| *version < message.kafka.0));
}

/// Random messages must come back from the Java client as they were sent.
fn echo<'a>(jars: &str, versions: impl Iterator<Item = (&'a Message, i16)>) {
    let mut cases = Vec::new();
    let mut input = String::new();
    for (message, version) in versions {
        for seed in 100..112 {
            let bytes = random::message(message, version, seed, Extra::None);
            _ = writeln!(input, "{} {version} {}", message.name, hex(&bytes));
            cases.push((&message.name, version, bytes));
        }
    }
    let answers = oracle(jars, &["echo"], &input);
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
    assert!(cases.len() >= 12 * 10, "only {} messages compared", cases.len());
}

#[test]
fn the_tables_say_what_kafkas_schemas_say() {
    let Some(jars) = new_jars() else { return };
    let names = all_messages().map(|message| message.name.as_str());
    let theirs = oracle(&jars, &Vec::from_iter(["facts"].into_iter().chain(names)), "");
    let mut ours = String::new();
    for message in all_messages() {
        let flexible = message.flexible.map(|first| (first, message.kafka.1));
        _ = writeln!(ours, "{} {} flexible {}", message.name, shown(Some(message.kafka)), shown(flexible));
        members(&mut ours, &message.name, message, &message.structs[0], message.kafka);
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
    let Some(jars) = new_jars() else { return };
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
