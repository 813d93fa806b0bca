//! The raw store through the broker's own bucket layer: what a PUT or a GET of a size costs at a concurrency,
//! without a broker. The figures a broker is compared with. Every GET's bytes are compared with what was put.
//!
//! Objects are named `probe/<life>/…` and deleted at the end; what a killed run leaves is garbage by name.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use clap::ValueEnum;
use tidemark_tiering::bucket::{Body, Bucket, Config, Kind, Patience, Placed, Span};
use tidemark_tiering::seam::Seams;
use tokio::time::Instant;

use crate::cpu::Process;
use crate::latency::Latency;
use crate::report::{Cell, Table};

const OBJECTS_READ_MAX: u64 = 32;
const IDENTITY_BYTES: usize = 24;
const MIB: f64 = (1u64 << 20) as f64;

/// `tidemark-bench store`
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// file:///DIR, s3://BUCKET/PREFIX, gs://…, az://… or memory:
    #[arg(long)]
    pub bucket: String,
    /// Address of a server of one's own
    #[arg(long)]
    pub endpoint: Option<String>,
    /// Region
    #[arg(long)]
    pub region: Option<String>,
    /// What to do
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Op::Put, Op::Get])]
    pub ops: Vec<Op>,
    /// Object sizes in bytes, with K or M
    #[arg(long, value_delimiter = ',', default_value = "64K,1M,4M,8M", value_parser = crate::size::parse)]
    pub sizes: Vec<u64>,
    /// Operations in flight
    #[arg(long, value_delimiter = ',', default_value = "1,4,16")]
    pub concurrency: Vec<u32>,
    /// Of the operations of `mixed`, how many are GETs
    #[arg(long, default_value_t = 0.5)]
    pub get_share: f64,
    /// Seconds for each line of the table
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// Most bytes PUT for one line (they stay until the end)
    #[arg(long, default_value = "2G", value_parser = crate::size::parse)]
    pub bytes_max: u64,
    /// Process id of the store's server: its CPU time is shown
    #[arg(long)]
    pub pid: Option<u32>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What one line of the table does.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Conditional creates, as a parcel's.
    Put,
    /// Whole reads.
    Get,
    /// Both.
    Mixed,
}

struct Line {
    bucket: Bucket,
    prefix: String,
    filler: Bytes,
    next: AtomicU64,
    puts_max: u64,
    get_share: f64,
    readable: u64,
    seams: Seams,
}

/// Runs every line and gives the table.
pub async fn run(args: &Args, seams: &Seams) -> Result<Table> {
    let config = Config {
        endpoint: args.endpoint.clone(),
        region: args.region.clone(),
        create_directory: true,
        ..Config::new(&args.bucket)
    };
    let bucket = Bucket::open(&config, seams).map_err(|e| anyhow::anyhow!("{e}"))?;
    let prefix = format!("probe/{}", seams.entropy.life());
    let mut columns = vec!["op", "KiB", "in flight", "ops", "ops/s", "MiB/s"];
    columns.extend(Latency::COLUMNS);
    columns.extend(["own cpu s/GiB", "server cpu s/GiB"]);
    let mut table = Table::new(&columns);
    let mut made = Vec::new();
    let outcome = lines(args, &bucket, &prefix, seams, &mut table, &mut made).await;
    bucket
        .delete(Kind::Probe, made, Patience::Tries(5))
        .await
        .context("the benchmark's objects could not be deleted")?;
    outcome.map(|()| table)
}

async fn lines(
    args: &Args,
    bucket: &Bucket,
    prefix: &str,
    seams: &Seams,
    table: &mut Table,
    made: &mut Vec<String>,
) -> Result<()> {
    for &size in &args.sizes {
        ensure!(size >= IDENTITY_BYTES as u64, "an object has at least {IDENTITY_BYTES} bytes");
        for (n, &in_flight) in args.concurrency.iter().enumerate() {
            for &op in &args.ops {
                let (puts, readable) =
                    ((args.bytes_max / size).max(1), OBJECTS_READ_MAX.min(args.bytes_max / size).max(1));
                let line = Arc::new(Line {
                    bucket: bucket.clone(),
                    prefix: format!("{prefix}/{size}-{n}-{op:?}"),
                    filler: filler(size, seams),
                    next: AtomicU64::new(0),
                    puts_max: puts + readable,
                    get_share: args.get_share,
                    readable,
                    seams: seams.clone(),
                });
                if op != Op::Put {
                    for n in 0..line.readable {
                        line.put(n).await?;
                        made.push(line.key(n));
                    }
                    line.next.store(line.readable, Ordering::Relaxed);
                }
                let row = line.clone().measure(op, in_flight, args).await?;
                let first = if op == Op::Put { 0 } else { line.readable };
                made.extend((first..line.next.load(Ordering::Relaxed)).map(|n| line.key(n)));
                table.push(row);
            }
        }
    }
    Ok(())
}

fn filler(size: u64, seams: &Seams) -> Bytes {
    let mut bytes = BytesMut::with_capacity(size as usize);
    while (bytes.len() as u64) < size {
        bytes.extend_from_slice(&seams.entropy.u64().to_le_bytes());
    }
    bytes.freeze().slice(..size as usize)
}

impl Line {
    fn key(&self, n: u64) -> String {
        format!("{}/{n:08}", self.prefix)
    }

    /// Told apart by a head of its own; the rest is shared, so that building it costs nothing.
    fn body(&self, n: u64) -> Body {
        let mut head = BytesMut::from(&self.filler[..IDENTITY_BYTES]);
        head[..8].copy_from_slice(&n.to_be_bytes());
        Body::from(vec![head.freeze(), self.filler.slice(IDENTITY_BYTES..)])
    }

    async fn put(&self, n: u64) -> Result<()> {
        let placed = self.bucket.place(Kind::Probe, &self.key(n), &self.body(n), IDENTITY_BYTES).await;
        ensure!(placed == Placed::Ours, "{} already holds another object", self.key(n));
        Ok(())
    }

    async fn get(&self, n: u64) -> Result<()> {
        let key = self.key(n);
        let got = self.bucket.get(Kind::Probe, &key, Span::All, Patience::Tries(5)).await;
        let got = got.map_err(|e| anyhow::anyhow!("{e:?}"))?.with_context(|| format!("{key} is gone"))?;
        let same = got.bytes.len() == self.filler.len()
            && got.bytes[..8] == n.to_be_bytes()
            && got.bytes[8..] == self.filler[8..];
        ensure!(same, "{key} holds other bytes than were put");
        Ok(())
    }

    async fn worker(self: Arc<Self>, op: Op, until: Instant) -> Result<(Latency, u64)> {
        let (mut latency, mut gets) = (Latency::default(), 0);
        while Instant::now() < until {
            let get = op == Op::Get || (op == Op::Mixed && self.seams.entropy.unit() < self.get_share);
            let began = Instant::now();
            if get {
                self.get(self.seams.entropy.below(self.readable)).await?;
                gets += 1;
            } else {
                let n = self.next.fetch_add(1, Ordering::Relaxed);
                if n >= self.puts_max {
                    self.next.fetch_sub(1, Ordering::Relaxed);
                    break;
                }
                self.put(n).await?;
            }
            latency.record(began.elapsed());
        }
        Ok((latency, gets))
    }

    async fn measure(self: Arc<Self>, op: Op, in_flight: u32, args: &Args) -> Result<Vec<Cell>> {
        let (own, server) = (Process::own()?, args.pid.map(Process::observe).transpose()?);
        let began = Instant::now();
        let until = began + Duration::from_secs_f64(args.seconds);
        let workers: Vec<_> =
            (0..in_flight).map(|_| self.seams.tasks.spawn(self.clone().worker(op, until))).collect();
        let mut latency = Latency::default();
        for worker in workers {
            let (theirs, _) = worker.await?.context("the run was stopped")??;
            latency.merge(&theirs);
        }
        let seconds = began.elapsed().as_secs_f64();
        let size = self.filler.len() as u64;
        let bytes = latency.count() * size;
        let name = format!("{op:?}").to_lowercase();
        let mut row: Vec<Cell> = vec![
            name.into(),
            Cell::Number(size as f64 / 1024.0, 0),
            u64::from(in_flight).into(),
            latency.count().into(),
            (latency.count() as f64 / seconds).into(),
            (bytes as f64 / MIB / seconds).into(),
        ];
        row.extend(latency.cells());
        row.push(own.usage()?.cpu_per_gib(bytes).into());
        row.push(match server {
            Some(server) => server.usage()?.cpu_per_gib(bytes).into(),
            None => "-".into(),
        });
        Ok(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_operation_runs_and_leaves_nothing_behind() {
        let dir = std::env::temp_dir().join(format!("tidemark-bench-store-{}", std::process::id()));
        let args = Args {
            bucket: format!("file://{}", dir.display()),
            endpoint: None,
            region: None,
            ops: vec![Op::Put, Op::Get, Op::Mixed],
            sizes: vec![1024, 5000],
            concurrency: vec![1, 3],
            get_share: 0.5,
            seconds: 0.1,
            bytes_max: 100_000,
            pid: Some(std::process::id()),
            json: false,
        };
        let seams = Seams::system();
        let table = run(&args, &seams).await.unwrap();
        let rows = table.to_json();
        assert_eq!(rows.as_array().unwrap().len(), 12);
        assert!(rows.as_array().unwrap().iter().all(|row| row["ops"].as_i64() > Some(0)), "{table}");
        let mut left = Vec::new();
        files_under(&dir, &mut left);
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(left, Vec::<std::path::PathBuf>::new());
    }

    fn files_under(dir: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { files_under(&path, found) } else { found.push(path) }
        }
    }
}
