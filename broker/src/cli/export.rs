//! `tidemark export`: a range of a topic becomes files: plain Kafka log segments, lines of JSON, or Parquet.
//!
//! Speaks the Kafka protocol to any broker. Segments are Kafka's own files, byte for byte as fetched, control batches and
//! aborted ones too, so that a Kafka broker or its tools read them; they begin and end with whole batches.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;
use tidemark_proto::id::{BrokerId, Millis, PartitionIndex, TopicId};
use tidemark_proto::record::view::Batch;
use tidemark_tiering::keys::SegmentName;
use tidemark_tiering::segment::{Builder, Start};
use tokio_util::sync::CancellationToken;

use super::client::{self, Cluster, Place, Reader, Taken, To};
use super::format::Line;
use super::output::{self, Binary, note};
use super::range::Range;
use super::{Failure, parquet};

const WAIT: Duration = Duration::from_millis(250);
/// Bytes of tables' rows that are not written yet, of all partitions together.
const PENDING: usize = 256 << 20;

/// Write a range of a topic into a folder, as plain Kafka log segments, as lines of JSON or as Parquet.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  tidemark export orders --dir backup                    all of it, as Kafka's segment files
  tidemark export orders -p 3 --from 2026-11-01 --to 2026-11-02 --dir backup
  tidemark export orders --format json --dir backup      a line per record, a file per partition
  tidemark export orders --format parquet --dir tables   columns offset, timestamp, key, value, headers
  kafka-dump-log.sh --files backup/orders-0/00000000000000000000.log --deep-iteration")]
pub struct Export {
    #[command(flatten)]
    to: To,
    #[command(flatten)]
    range: Range,
    /// Into this folder: TOPIC-PARTITION/ with segments, TOPIC-PARTITION.jsonl or TOPIC-PARTITION.parquet. What is there
    /// already is refused.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// As what.
    #[arg(long, value_enum, default_value_t = Form::Kafka)]
    format: Form,
    /// Bytes at which a segment file ends.
    #[arg(long, default_value_t = 1 << 30, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..=(1 << 30)))]
    segment_bytes: u64,
    /// How keys and values are shown in JSON that are no text.
    #[arg(long, value_enum, default_value_t = Binary::Base64)]
    binary: Binary,
    /// In JSON and Parquet, leave out what transactions have not committed.
    #[arg(long)]
    read_committed: bool,
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Kafka's log segments with their indexes.
    Kafka,
    /// A JSON object a line.
    Json,
    /// A table for each partition, packed by zstd.
    Parquet,
}

/// What was written of one partition.
#[derive(Debug, Default, Serialize)]
struct Written {
    partition: i32,
    first: i64,
    last: i64,
    files: usize,
    bytes: u64,
}

impl Written {
    /// The only file of the partition.
    fn open(&mut self, path: &Path) -> Result<BufWriter<File>, Failure> {
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(|error| unwritable(folder, &error))?;
        self.files += 1;
        Ok(BufWriter::new(create(path)?))
    }
}

impl Export {
    /// Reads the range and writes it.
    pub fn run(self) -> Result<(), Failure> {
        client::stay(&self.to, async |cluster, stop| self.export(cluster, stop).await)
    }

    async fn export(&self, cluster: Arc<Cluster>, stop: CancellationToken) -> Result<(), Failure> {
        let now = cluster.seams.clock.wall();
        let read_committed = self.read_committed && self.format != Form::Kafka;
        let parts = self.range.resolve(&cluster, read_committed).await?;
        let mut reader = Reader::new(cluster, &self.range.topic, read_committed);
        reader.keep_batches(self.format == Form::Kafka);
        let mut files: BTreeMap<i32, Files> = BTreeMap::new();
        let pending = (PENDING / parts.len().max(1)).clamp(1 << 16, 16 << 20);
        for (place, part) in &parts {
            reader.add(place.1, part.from, Some(part.to));
            files.insert(place.1, Files::new(self, place, pending, now));
        }
        while !reader.is_done() {
            let taken = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Failure::Interrupted),
                taken = reader.poll(WAIT) => taken?,
            };
            reader.notes.drain(..).for_each(|text| note(&text));
            for (partition, batch) in reader.batches.drain(..) {
                if let Some(files) = files.get_mut(&partition) {
                    files.batch(&batch)?;
                }
            }
            for record in &taken {
                if let Some(files) = files.get_mut(&record.partition) {
                    files.record(record, self.binary)?;
                }
            }
        }
        for (partition, files) in files {
            let written = files.end()?;
            match self.to.json {
                true => super::say(&format!("{}\n", output::line(&written)?)),
                false if written.files == 0 => {
                    super::say(&format!("{}-{partition}: nothing there\n", self.range.topic))
                }
                false => super::say(&format!(
                    "{}-{partition}: offsets {} to {} in {} files, {} bytes\n",
                    self.range.topic, written.first, written.last, written.files, written.bytes
                )),
            }
        }
        Ok(())
    }
}

/// The files of one partition.
struct Files {
    topic: String,
    /// `DIR/TOPIC-PARTITION`.
    path: PathBuf,
    limit: u64,
    written: Written,
    log: Option<(Builder, BufWriter<File>)>,
    /// What is known where the last segment ended.
    start: Start,
    lines: Option<BufWriter<File>>,
    form: Form,
    table: Option<parquet::Writer<BufWriter<File>>>,
    /// Bytes of a table's rows that are not written yet.
    pending: usize,
    now: Millis,
}

impl Files {
    fn new(export: &Export, place: &Place, pending: usize, now: Millis) -> Files {
        let path = export.dir.join(format!("{}-{}", place.0, place.1));
        let written = Written { partition: place.1, first: -1, last: -1, ..Written::default() };
        Files {
            topic: place.0.clone(),
            path,
            limit: export.segment_bytes,
            written,
            log: None,
            start: Start::default(),
            lines: None,
            form: export.format,
            table: None,
            pending,
            now,
        }
    }

    /// Adds a batch to the segment, or begins another with it.
    fn batch(&mut self, batch: &Batch) -> Result<(), Failure> {
        let room = |(builder, _): &(Builder, _)| {
            builder.takes(batch) && builder.len() + batch.size() as u64 <= self.limit
        };
        if self.log.as_ref().is_some_and(|log| !room(log)) {
            self.close()?;
        }
        if self.log.is_none() {
            let base = batch.base_offset();
            std::fs::create_dir_all(&self.path).map_err(|error| unwritable(&self.path, &error))?;
            let file = create(&self.path.join(format!("{:020}.log", base.0)))?;
            self.log = Some((Builder::new(base, std::mem::take(&mut self.start)), BufWriter::new(file)));
        }
        let Some((builder, file)) = &mut self.log else { return Ok(()) };
        let wrong = |why: String| Failure::Failed(format!("{}: {why}", self.path.display()));
        builder.add(batch).map_err(|damage| wrong(damage.to_string()))?;
        file.write_all(batch.bytes()).map_err(|error| unwritable(&self.path, &error))?;
        self.wrote(batch.base_offset().0, batch.last_offset().0, batch.size());
        Ok(())
    }

    /// Adds a record to the lines, or to the table.
    fn record(&mut self, taken: &Taken, binary: Binary) -> Result<(), Failure> {
        if self.form == Form::Parquet {
            return self.row(taken);
        }
        let path = self.beside("jsonl");
        let file = match &mut self.lines {
            Some(file) => file,
            None => {
                let file = self.written.open(&path)?;
                self.lines.insert(file)
            }
        };
        let line = output::line(&Line::new(&self.topic, taken.partition, &taken.record, binary))?;
        let done = file.write_all(line.as_bytes()).and_then(|()| file.write_all(b"\n"));
        done.map_err(|error| unwritable(&path, &error))?;
        let offset = taken.record.offset.0;
        self.wrote(offset, offset, line.len() + 1);
        Ok(())
    }

    /// Adds a record to the table.
    fn row(&mut self, taken: &Taken) -> Result<(), Failure> {
        let path = self.beside("parquet");
        let failed = |error: std::io::Error| unwritable(&path, &error);
        let table = match &mut self.table {
            Some(table) => table,
            None => {
                let file = self.written.open(&path)?;
                self.table.insert(parquet::Writer::new(file, self.pending).map_err(failed)?)
            }
        };
        table.add(&taken.record).map_err(failed)?;
        let offset = taken.record.offset.0;
        self.wrote(offset, offset, 0);
        Ok(())
    }

    /// `DIR/TOPIC-PARTITION.EXTENSION`.
    fn beside(&self, extension: &str) -> PathBuf {
        PathBuf::from(format!("{}.{extension}", self.path.display()))
    }

    fn wrote(&mut self, first: i64, last: i64, bytes: usize) {
        if self.written.first < 0 {
            self.written.first = first;
        }
        self.written.last = last;
        self.written.bytes += bytes as u64;
    }

    /// Ends the segment: its index files.
    fn close(&mut self) -> Result<(), Failure> {
        let Some((builder, mut file)) = self.log.take() else { return Ok(()) };
        file.flush().map_err(|error| unwritable(&self.path, &error))?;
        // Of the names only the base is used: these files tell neither topic nor segment.
        let name = SegmentName {
            topic: self.topic.clone(),
            topic_id: TopicId::default(),
            partition: PartitionIndex(self.written.partition),
            base: builder.base(),
            id: uuid::Uuid::nil(),
        };
        let built = builder.finish(&name, BrokerId(-1), self.now);
        let extensions = ["index", "timeindex", "snapshot", "leader-epoch-checkpoint", "txnindex"];
        for (extension, part) in extensions.into_iter().zip(built.row.indexes.parts()) {
            let path = match extension {
                "leader-epoch-checkpoint" => self.path.join(extension),
                // Kafka names a snapshot by the offset up to which it holds.
                "snapshot" => self.path.join(format!("{:020}.snapshot", built.row.last.0 + 1)),
                _ => self.path.join(format!("{:020}.{extension}", built.row.base.0)),
            };
            if !part.is_empty() || extension != "txnindex" {
                std::fs::write(&path, &built.indexes[part]).map_err(|error| unwritable(&path, &error))?;
            }
        }
        self.written.files += 1;
        self.start = built.end;
        Ok(())
    }

    fn end(mut self) -> Result<Written, Failure> {
        self.close()?;
        if let Some(mut lines) = self.lines.take() {
            lines.flush().map_err(|error| unwritable(&self.path, &error))?;
        }
        if let Some(table) = self.table.take() {
            let path = self.beside("parquet");
            let done = table.finish().and_then(|file| file.get_ref().metadata());
            self.written.bytes = done.map_err(|error| unwritable(&path, &error))?.len();
        }
        Ok(self.written)
    }
}

fn create(path: &Path) -> Result<File, Failure> {
    OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| unwritable(path, &error))
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Failed(format!("cannot write {}: {error}", path.display()))
}
