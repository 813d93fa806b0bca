//! Records on their way to stdout, as lines.

use clap::Args;

use super::Failure;
use super::client::Taken;
use super::format::{Format, Line};
use super::output::{self, Binary};

/// How records look.
#[derive(Args, Clone, Debug)]
pub struct Look {
    /// How a record is printed.
    #[arg(long, default_value = "%v\\n", value_name = "FORMAT", conflicts_with = "json")]
    format: String,
    /// How keys and values are shown that are no text.
    #[arg(long, value_enum, default_value_t = Binary::Base64)]
    binary: Binary,
    /// How null is shown by --format.
    #[arg(long, default_value = "null", value_name = "TEXT")]
    null: String,
}

impl Look {
    /// Prints records of `topic`, at most `left`; a JSON object a line where `json`.
    ///
    /// # Errors
    /// Where the format is none.
    pub fn printer(&self, topic: &str, json: bool, left: Option<u64>) -> Result<Printer, Failure> {
        let parse = || Format::parse(&self.format, self.binary, &self.null);
        let format = if json { Ok(None) } else { parse().map(Some) };
        let format = format.map_err(|why| Failure::Wrong(format!("--format: {why}")))?;
        Ok(Printer { topic: topic.to_owned(), format, binary: self.binary, left, buffer: Vec::new() })
    }
}

/// See the module.
pub struct Printer {
    topic: String,
    format: Option<Format>,
    binary: Binary,
    left: Option<u64>,
    buffer: Vec<u8>,
}

impl Printer {
    /// Prints; how many were, and false when no more are wanted.
    pub fn print(&mut self, taken: &[Taken]) -> Result<(usize, bool), Failure> {
        let room = self
            .left
            .map_or(taken.len(), |left| taken.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        for Taken { partition, record } in &taken[..room] {
            match &self.format {
                Some(format) => format.write(&self.topic, *partition, record, &mut self.buffer),
                None => {
                    let line = Line::new(&self.topic, *partition, record, self.binary);
                    self.buffer.extend_from_slice(output::line(&line)?.as_bytes());
                    self.buffer.push(b'\n');
                }
            }
        }
        let read = output::pour(&self.buffer)?;
        self.buffer.clear();
        if !read {
            // Whoever reads has enough.
            return Ok((0, false));
        }
        self.left = self.left.map(|left| left - room as u64);
        Ok((room, self.left != Some(0)))
    }
}
