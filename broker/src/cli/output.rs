//! How answers look: a table for people, JSON for programs; text that says what bytes are.

use std::io::{BufRead, ErrorKind, IsTerminal, Write};

use comfy_table::{CellAlignment, ContentArrangement, Table as Grid, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tidemark_tiering::seam::Tasks;

use super::Failure;

/// Rows under heads. A head that begins with `>` is a column of numbers.
pub struct Table {
    grid: Grid,
}

impl Table {
    /// No rows yet.
    pub fn new(heads: &[&str]) -> Table {
        let mut grid = Grid::new();
        grid.load_style(presets::NOTHING);
        grid.set_content_arrangement(ContentArrangement::Disabled);
        grid.set_header(heads.iter().map(|head| head.trim_start_matches('>')));
        for (at, head) in heads.iter().enumerate() {
            if let Some(column) = grid.column_mut(at) {
                column.set_padding((0, 2));
                if head.starts_with('>') {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        Table { grid }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.grid.add_row(cells.into_iter());
    }

    /// Lines without blanks at their ends.
    pub fn text(&self) -> String {
        let mut text = self.grid.trim_fmt();
        text.push('\n');
        text
    }
}

/// Prints `value` as JSON, or the table.
pub fn show(json: bool, value: &impl Serialize, table: impl FnOnce() -> Table) -> Result<(), Failure> {
    match json {
        true => super::say(&format!("{}\n", pretty(value)?)),
        false => super::say(&table().text()),
    }
    Ok(())
}

/// Prints `value` as JSON, or the text.
pub fn show_text(json: bool, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
    match json {
        true => super::say(&format!("{}\n", pretty(value)?)),
        false => super::say(&text()),
    }
    Ok(())
}

fn pretty(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value)
        .map_err(|error| Failure::Failed(format!("cannot write JSON: {error}")))
}

/// One line of JSON.
pub fn line(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| Failure::Failed(format!("cannot write JSON: {error}")))
}

/// Writes to stdout what goes on and on; false when nobody reads any more.
pub fn pour(bytes: &[u8]) -> Result<bool, Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::Failed(format!("cannot write to stdout: {error}"))),
    }
}

/// A line on stderr, for what is no answer. Nowhere to say that it cannot be said.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "tidemark: {text}");
}

/// A bar, or what else shows progress on stderr, that looks as `template` says.
pub fn progress(bar: ProgressBar, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template);
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Asks on the terminal before something is lost; `yes` answers beforehand.
pub async fn confirm(tasks: &Tasks, question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Wrong(format!("{question} Nobody is here to be asked: say --yes")));
    }
    let _ = write!(std::io::stderr(), "{question} [y/N] ");
    // Off the reactor, so that Ctrl-C is heard meanwhile.
    let answer = tasks
        .blocking(|| {
            let mut answer = String::new();
            std::io::stdin().lock().read_line(&mut answer).map(|_| answer)
        })
        .await;
    match answer.is_ok_and(|answer| matches!(answer.trim(), "y" | "Y" | "yes")) {
        true => Ok(()),
        false => Err(Failure::Failed("nothing was changed".into())),
    }
}

/// A number, or a dash where there is none.
pub fn number(value: Option<i64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Numbers side by side.
pub fn list(values: &[i32]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Bytes in the largest unit that keeps a digit in front.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// How bytes that are no text are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Binary {
    /// As base64.
    Base64,
    /// As hexadecimal digits.
    Hex,
    /// As they are.
    Raw,
}

/// `bytes` in letters; `raw` counts as base64, for places that hold text only.
pub fn letters(bytes: &[u8], binary: Binary) -> String {
    match binary {
        Binary::Hex => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        Binary::Base64 | Binary::Raw => base64(bytes),
    }
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for at in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * at) & 63) as usize];
            out.push(if at <= group.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_right_and_lines_have_no_blanks_at_their_ends() {
        let mut table = Table::new(&["NAME", ">N"]);
        table.row(["a".into(), "10".into()]);
        table.row(["longer".into(), "7".into()]);
        assert_eq!(table.text(), "NAME     N\na       10\nlonger   7\n");
    }

    #[test]
    fn bytes_that_are_no_text_are_spelled_out() {
        for (bytes, letters) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"\xff\xfe\xfd\xfc", "//79/A=="),
        ] {
            assert_eq!(base64(bytes), letters);
        }
        assert_eq!(letters(b"\x00\xff", Binary::Hex), "00ff");
    }

    #[test]
    fn sizes_have_a_unit() {
        assert_eq!([size(0), size(1023), size(1536), size(5 << 30)], ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
    }
}
