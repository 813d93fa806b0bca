//! `tidemark produce`: lines become records.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use serde::Serialize;
use tidemark_gateway::partition::of_key;
use tidemark_proto::record::Compression;
use tidemark_proto::record::records::Header;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::client::{self, Acks, Cluster, To, Writer};
use super::{Failure, output};

/// A line waits no longer than this for company.
const LINGER: Duration = Duration::from_millis(50);
const READ_BYTES: usize = 1 << 20;
/// A line longer than this is no record a broker would take.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// Write records: a line each, from stdin or a file.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  echo hello | tidemark produce greetings
  tidemark produce orders --file orders.txt --key-separator : --compression zstd
  echo ada: | tidemark produce users --key-separator : --null ''      deletes ada where the topic is compacted")]
pub struct Produce {
    #[command(flatten)]
    to: To,
    /// The topic's name; it must exist.
    topic: String,
    /// Read this file instead of stdin.
    #[arg(short, long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// What stands between key and value; lines have no key without it.
    #[arg(short, long, value_name = "TEXT")]
    key_separator: Option<String>,
    /// A value that stands for null.
    #[arg(long, value_name = "TEXT")]
    null: Option<String>,
    /// A header of every record; may be given more than once.
    #[arg(short = 'H', long = "header", value_name = "KEY=VALUE")]
    headers: Vec<String>,
    /// Write to this partition; else the key decides, as Kafka's clients do it, or batches take turns.
    #[arg(short, long)]
    partition: Option<i32>,
    /// How batches are packed.
    #[arg(short, long, value_enum, default_value_t = Codec::None)]
    compression: Codec,
    /// Who must have a record: all replicas in sync, the leader, or nobody who says so.
    #[arg(short, long, value_enum, default_value_t = AcksArg::All)]
    acks: AcksArg,
    /// Let a record be written twice where an answer is lost (acks=all writes once otherwise).
    #[arg(long)]
    no_idempotence: bool,
    /// Most bytes of a batch, before it is packed.
    #[arg(
        long,
        default_value_t = 256 << 10,
        value_name = "BYTES",
        value_parser = clap::value_parser!(u32).range(1..=64 << 20)
    )]
    batch_bytes: u32,
    /// Say nothing at the end.
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Codec {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AcksArg {
    #[value(alias = "-1")]
    All,
    #[value(name = "1", alias = "leader")]
    Leader,
    #[value(name = "0", alias = "none")]
    None,
}

#[derive(Serialize)]
struct Report {
    topic: String,
    records: u64,
    bytes: u64,
    partitions: Vec<PartitionReport>,
}

#[derive(Serialize)]
struct PartitionReport {
    partition: i32,
    records: u64,
    first: i64,
    last: i64,
}

/// What a line holds.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
}

impl Produce {
    /// Writes until the input ends, or Ctrl-C.
    pub fn run(self) -> Result<(), Failure> {
        let headers = self.headers.iter().map(|pair| header(pair)).collect::<Result<Vec<_>, _>>()?;
        if self.key_separator.as_deref() == Some("") {
            return Err(Failure::Wrong("--key-separator needs at least one letter".into()));
        }
        let to = self.to.clone();
        client::stay(&to, async |cluster, stop| {
            let acks = match self.acks {
                AcksArg::All => Acks::All,
                AcksArg::Leader => Acks::Leader,
                AcksArg::None => Acks::None,
            };
            let codec = match self.compression {
                Codec::None => Compression::None,
                Codec::Gzip => Compression::Gzip,
                Codec::Snappy => Compression::Snappy,
                Codec::Lz4 => Compression::Lz4,
                Codec::Zstd => Compression::Zstd,
            };
            let idempotent = acks == Acks::All && !self.no_idempotence;
            let mut writer = Writer::open(cluster.clone(), &self.topic, acks, codec, idempotent).await?;
            if let Some(partition) = self.partition
                && !(0..i64::from(writer.partitions())).contains(&i64::from(partition))
            {
                return Err(Failure::Failed(format!(
                    "{} has no partition {partition}; it has 0 to {}",
                    self.topic,
                    writer.partitions().saturating_sub(1)
                )));
            }
            let bytes = self.copy(&cluster, &mut writer, &headers, &stop).await?;
            self.report(&writer, bytes)
        })
    }

    async fn copy(
        &self,
        cluster: &Cluster,
        writer: &mut Writer,
        headers: &[Header],
        stop: &CancellationToken,
    ) -> Result<u64, Failure> {
        let (mut input, progress) = self.open().await?;
        let mut turn = cluster.seams.entropy.below(u64::from(writer.partitions())) as u32;
        let mut line = Vec::new();
        let mut bytes = 0;
        // Until when the oldest line that waits may wait.
        let mut due: Option<Instant> = None;
        loop {
            let read = (&mut input).take(LINE_BYTES_MAX);
            let mut read = std::pin::pin!(read);
            // A read that is given up keeps what it has in `line`, and goes on from there.
            let got = tokio::select! {
                biased;
                () = stop.cancelled() => None,
                got = read.read_until(b'\n', &mut line) => Some(got),
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    writer.flush().await?;
                    due = None;
                    turn = (turn + 1) % writer.partitions().max(1);
                    continue;
                }
            };
            match got {
                Some(Ok(_)) if !line.is_empty() => {}
                Some(Err(error)) => return Err(Failure::Failed(format!("cannot read the input: {error}"))),
                _ => break,
            }
            bytes += line.len() as u64;
            progress.inc(line.len() as u64);
            if line.len() as u64 >= LINE_BYTES_MAX {
                return Err(Failure::Failed(format!("a line is longer than {LINE_BYTES_MAX} bytes")));
            }
            self.add(cluster, writer, &line, headers, turn);
            line.clear();
            let until = *due.get_or_insert_with(|| Instant::now() + LINGER);
            if writer.fullest() >= self.batch_bytes as usize || Instant::now() >= until {
                writer.flush().await?;
                due = None;
                turn = (turn + 1) % writer.partitions().max(1);
            }
        }
        writer.flush().await?;
        progress.finish_and_clear();
        Ok(bytes)
    }

    fn add(&self, cluster: &Cluster, writer: &mut Writer, line: &[u8], headers: &[Header], turn: u32) {
        let parsed = parse(line, self.key_separator.as_deref(), self.null.as_deref());
        let partition = match (self.partition, parsed.key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => of_key(key, writer.partitions().max(1)) as i32,
            (None, None) => turn as i32,
        };
        writer.add(partition, cluster.seams.clock.wall(), parsed.key, parsed.value, headers);
    }

    async fn open(&self) -> Result<(Box<dyn AsyncBufRead + Unpin>, ProgressBar), Failure> {
        let Some(path) = &self.file else {
            let typed = std::io::IsTerminal::is_terminal(&std::io::stdin());
            let progress =
                if typed || self.quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
            let progress = output::progress(progress, "{spinner} {bytes} {bytes_per_sec}");
            let input = BufReader::with_capacity(READ_BYTES, tokio::io::stdin());
            return Ok((Box::new(input), progress));
        };
        let unreadable = |error| Failure::Failed(format!("cannot read {}: {error}", path.display()));
        let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
        let length = file.metadata().await.map_err(unreadable)?.len();
        let progress = if self.quiet { ProgressBar::hidden() } else { ProgressBar::new(length) };
        let progress = output::progress(progress, "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
        Ok((Box::new(BufReader::with_capacity(READ_BYTES, file)), progress))
    }

    fn report(&self, writer: &Writer, bytes: u64) -> Result<(), Failure> {
        let partitions: Vec<PartitionReport> = writer
            .sent
            .iter()
            .map(|(partition, sent)| PartitionReport {
                partition: *partition,
                records: sent.records,
                first: sent.first,
                last: sent.last,
            })
            .collect();
        let records = partitions.iter().map(|p| p.records).sum();
        if self.to.json {
            let report = Report { topic: self.topic.clone(), records, bytes, partitions };
            super::say(&format!("{}\n", output::line(&report)?));
        } else if !self.quiet {
            let (count, size) = (partitions.len(), output::size(bytes));
            output::note(&format!(
                "{records} records ({size}) written to {count} partitions of {}",
                self.topic
            ));
        }
        Ok(())
    }
}

fn header(pair: &str) -> Result<Header, Failure> {
    let (key, value) = pair
        .split_once('=')
        .ok_or_else(|| Failure::Wrong(format!("--header {pair}: write it as trace=abc")))?;
    Ok(Header { key: key.to_owned().into(), value: Some(value.to_owned().into()) })
}

/// Takes a line apart; its end is no part of it.
fn parse<'a>(line: &'a [u8], separator: Option<&str>, null: Option<&str>) -> Line<'a> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let split = separator.and_then(|separator| {
        let at = line.windows(separator.len()).position(|window| window == separator.as_bytes())?;
        Some((&line[..at], &line[at + separator.len()..]))
    });
    let (key, value) = match split {
        Some((key, value)) => (Some(key), value),
        None => (None, line),
    };
    Line { key, value: Some(value).filter(|value| null.is_none_or(|null| *value != null.as_bytes())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        let line = |key: Option<&'static str>, value: Option<&'static str>| Line {
            key: key.map(str::as_bytes),
            value: value.map(str::as_bytes),
        };
        assert_eq!(parse(b"a:b\n", None, None), line(None, Some("a:b")));
        assert_eq!(parse(b"a:b:c\r\n", Some(":"), None), line(Some("a"), Some("b:c")));
        assert_eq!(parse(b"a=>", Some("=>"), Some("")), line(Some("a"), None));
        assert_eq!(parse(b"none", Some(":"), Some("NULL")), line(None, Some("none")));
        assert_eq!(parse(b"\n", None, None), line(None, Some("")));
    }

    #[test]
    fn headers_need_a_name_and_a_value() {
        assert_eq!(header("a=b=c").unwrap().value.as_deref(), Some(&b"b=c"[..]));
        assert!(header("a").is_err());
    }
}
