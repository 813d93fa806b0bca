//! The Rust clients' side of the line protocol (see ../../README.md): a request a line in, an answer a line out.

use std::io::{BufRead, Write};
use std::time::Duration;

pub use serde_json::{Value, json};

/// How long one operation may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// An error, with Kafka's code where the library gives one.
pub struct Failure(pub Option<i32>, pub String);

/// What an operation comes to.
pub type Outcome = Result<Value, Failure>;

/// An error without a code.
pub fn failed(error: impl std::fmt::Display) -> Failure {
    Failure(None, error.to_string())
}

/// A request of the driver.
pub struct Request(pub Value);

impl Request {
    /// A text, or nothing.
    pub fn text(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or("")
    }

    /// A number, or another.
    pub fn number(&self, name: &str, other: i64) -> i64 {
        self.0[name].as_i64().unwrap_or(other)
    }

    /// How many records.
    pub fn count(&self) -> usize {
        usize::try_from(self.number("count", 0)).unwrap_or(0)
    }

    /// A partition.
    pub fn partition(&self) -> i32 {
        i32::try_from(self.number("partition", -1)).unwrap_or(-1)
    }

    /// How many partitions.
    pub fn partitions(&self) -> i32 {
        i32::try_from(self.number("partitions", 0)).unwrap_or(0)
    }

    /// Texts by name.
    pub fn pairs(&self, name: &str) -> Vec<(String, String)> {
        let pair = |(key, value): (&String, &Value)| (key.clone(), value.as_str().unwrap_or("").to_owned());
        self.0[name].as_object().map(|pairs| pairs.iter().map(pair).collect()).unwrap_or_default()
    }

    /// Key, value and time of record `i`.
    pub fn record(&self, i: usize) -> (Option<String>, Vec<u8>, Option<i64>) {
        let key = format!("{}-{i}", self.0["prefix"].as_str().unwrap_or("r"));
        let value = match self.0["size"].as_u64() {
            Some(size) => "x".repeat(size as usize),
            None => format!("{key}|{}", "x".repeat(i * 37 % 1000)),
        };
        let at = self.0["timestamp"].as_i64().map(|at| at + 1000 * i as i64);
        let keyless = self.0["keyless"].as_bool().unwrap_or(false);
        (Some(key).filter(|_| !keyless), value.into_bytes(), at)
    }
}

/// A record as the driver wants it.
pub fn row(partition: i32, offset: i64, key: Option<&[u8]>, value: &[u8], at: i64) -> Value {
    json!([partition, offset, String::from_utf8_lossy(key.unwrap_or_default()), crc32fast::hash(value), at])
}

/// Writes a line.
pub fn emit(line: &Value) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("the driver listens");
}

/// Reads a line; nothing when the driver is gone.
pub fn next() -> Option<Request> {
    let mut line = String::new();
    match std::io::stdin().lock().read_line(&mut line) {
        Ok(read) if read > 0 => Some(Request(serde_json::from_str(&line).expect("the driver writes JSON"))),
        _ => None,
    }
}

/// Answers requests until the driver is gone.
pub fn serve(mut answer: impl FnMut(&str, &Request) -> Outcome) {
    while let Some(request) = next() {
        let line = match answer(request.text("op"), &request) {
            Ok(result) => json!({"ok": if result.is_null() { json!({}) } else { result }}),
            Err(Failure(code, message)) => {
                eprintln!("{message}");
                json!({"error": code, "message": message})
            }
        };
        emit(&line);
    }
}
