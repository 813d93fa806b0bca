//! Load on any Kafka broker: produce, fetch, and both at once with end-to-end latency.
//! Knows the protocol through `proto` only; nothing here is Tidemark's own, so Apache Kafka runs the same.

pub mod batches;
pub mod cluster;
pub mod fetch;
pub mod produce;
pub mod start;
pub mod verify;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tidemark_tiering::seam::Seams;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::cpu::Process;
use crate::latency::Latency;
use crate::report::{Cell, Table};
use batches::{Batches, Codec};
use cluster::{Cluster, EARLIEST, LATEST};
use fetch::{Read, Sizes, Want};
use produce::{Due, Plan, Produced};
pub use start::{StartArgs, run_start};

const MIB: f64 = (1u64 << 20) as f64;
/// Batches of a partition that a mixed run's reader may be behind.
const BEHIND_MAX: usize = 1 << 16;
/// How long the readers of a mixed run may take for what is left after the last ack.
const DRAIN: Duration = Duration::from_secs(120);

/// Where the load goes.
#[derive(clap::Args, Clone, Debug)]
pub struct Target {
    /// HOST:PORT,…
    #[arg(long)]
    pub bootstrap: String,
    /// Topic
    #[arg(long, default_value = "bench")]
    pub topic: String,
    /// Create the topic with so many partitions if it does not exist; 0 = it must exist
    #[arg(long, default_value_t = 6)]
    pub partitions: u32,
    /// Connections to each leader
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub connections: u32,
    /// Process id of the broker: its CPU time and memory are shown
    #[arg(long)]
    pub pid: Option<u32>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `tidemark-bench produce`, and the producing half of `mixed`.
#[derive(clap::Args, Clone, Debug)]
pub struct ProduceArgs {
    /// Where
    #[command(flatten)]
    pub target: Target,
    /// Bytes of a record's value
    #[arg(long, default_value = "1K", value_parser = crate::size::parse)]
    pub record_size: u64,
    /// Bytes of a batch before compression
    #[arg(long, default_value = "128K", value_parser = crate::size::parse)]
    pub batch_size: u64,
    /// Compression
    #[arg(long, value_enum, default_value_t = Codec::None)]
    pub compression: Codec,
    /// Batch bytes per second over all partitions, an open loop; 0 = as fast as they are acked
    #[arg(long, default_value = "0", value_parser = crate::size::parse)]
    pub rate: u64,
    /// Seconds
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Batches due in the first so many seconds are not counted
    #[arg(long, default_value_t = 1.0)]
    pub warmup: f64,
    /// Most bytes; 0 = no limit
    #[arg(long, default_value = "0", value_parser = crate::size::parse)]
    pub bytes: u64,
    /// Batches in flight for each partition
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub in_flight: u32,
    /// acks=1 instead of all
    #[arg(long)]
    pub acks_one: bool,
    /// An idempotent producer, which resends what fails (at most 5 in flight)
    #[arg(long)]
    pub idempotent: bool,
    /// Read everything back and compare it with every ack
    #[arg(long)]
    pub verify: bool,
}

/// `tidemark-bench fetch`
#[derive(clap::Args, Clone, Debug)]
pub struct FetchArgs {
    /// Where
    #[command(flatten)]
    pub target: Target,
    /// Stop after so many seconds
    #[arg(long, default_value_t = 60.0)]
    pub seconds: f64,
    /// Read the log so many times over
    #[arg(long, default_value_t = 1)]
    pub passes: u32,
    /// Most bytes of an answer
    #[arg(long, default_value = "50M", value_parser = crate::size::parse)]
    pub max_bytes: u64,
    /// Most bytes of a partition in an answer
    #[arg(long, default_value = "1M", value_parser = crate::size::parse)]
    pub partition_max_bytes: u64,
    /// Check every batch's CRC
    #[arg(long)]
    pub crc: bool,
}

struct Run {
    produced: Vec<Produced>,
    seconds: f64,
    plan: Arc<Plan>,
}

struct Watch {
    own: Process,
    broker: Option<Process>,
}

impl Watch {
    fn begin(target: &Target) -> Result<Watch> {
        Ok(Watch { own: Process::own()?, broker: target.pid.map(Process::observe).transpose()? })
    }

    const COLUMNS: [&'static str; 4] =
        ["own cpu s/GiB", "broker cpu s/GiB", "broker RSS MiB", "broker peak MiB"];

    fn cells(&self, bytes: u64) -> Result<Vec<Cell>> {
        let own = self.own.usage()?.cpu_per_gib(bytes).into();
        let Some(broker) = &self.broker else { return Ok(vec![own, "-".into(), "-".into(), "-".into()]) };
        let usage = broker.usage()?;
        Ok(vec![own, usage.cpu_per_gib(bytes).into(), usage.rss_mib.into(), usage.peak_mib.into()])
    }
}

/// Produces, and verifies if asked.
pub async fn run_produce(args: &ProduceArgs, seams: &Seams) -> Result<Table> {
    let (cluster, plan) = prepare(args, seams).await?;
    let starts = cluster.offsets(LATEST).await?;
    let watch = Watch::begin(&args.target)?;
    let run = produce_all(plan, seams, None).await?;
    let mut table = Table::new(&[&["op"][..], &PRODUCE_COLUMNS, &Latency::COLUMNS, &Watch::COLUMNS].concat());
    let (mut row, bytes) = produce_row(&run);
    row.extend(watch.cells(bytes)?);
    table.push(row);
    if args.verify {
        let records = verify_all(&cluster, &run, &starts).await?;
        note(&format!("verified: every acked record of {records} is there once, in order, at its offset"));
    }
    Ok(table)
}

/// Reads the whole topic.
pub async fn run_fetch(args: &FetchArgs, seams: &Seams) -> Result<Table> {
    let target = &args.target;
    let cluster = Arc::new(Cluster::open(&target.bootstrap, &target.topic, 0, seams.tasks.clone()).await?);
    let (starts, ends) = (cluster.offsets(EARLIEST).await?, cluster.offsets(LATEST).await?);
    let sizes =
        Sizes { answer: i32::try_from(args.max_bytes)?, partition: i32::try_from(args.partition_max_bytes)? };
    let mut table = Table::new(
        &[&["op", "records", "MiB", "s", "MiB/s"][..], &Latency::COLUMNS, &Watch::COLUMNS].concat(),
    );
    for _ in 0..args.passes {
        let watch = Watch::begin(target)?;
        let began = Instant::now();
        let until = began + Duration::from_secs_f64(args.seconds);
        let crc = args.crc;
        let tasks: Vec<_> = shares(&starts, &ends, target.connections as usize)
            .into_iter()
            .enumerate()
            .map(|(slot, wants)| {
                let check = move |_: usize, batch: tidemark_proto::record::view::Batch| {
                    if crc { Ok(batch.verify_crc()?) } else { Ok(()) }
                };
                seams.tasks.spawn(fetch::read(cluster.clone(), wants, slot, sizes, until, check))
            })
            .collect();
        let mut whole = Read::default();
        for task in tasks {
            let read = task.await?.context("the run was stopped")??;
            whole.bytes += read.bytes;
            whole.records += read.records;
            whole.latency.merge(&read.latency);
        }
        let seconds = began.elapsed().as_secs_f64();
        let mib = whole.bytes as f64 / MIB;
        let mut row: Vec<Cell> =
            vec!["fetch".into(), whole.records.into(), mib.into(), seconds.into(), (mib / seconds).into()];
        row.extend(whole.latency.cells());
        row.extend(watch.cells(whole.bytes)?);
        table.push(row);
    }
    Ok(table)
}

/// Produces and reads along; the second row is the way from when a batch was due to when it was read.
pub async fn run_mixed(args: &ProduceArgs, seams: &Seams) -> Result<Table> {
    let (cluster, plan) = prepare(args, seams).await?;
    let starts = cluster.offsets(LATEST).await?;
    let watch = Watch::begin(&args.target)?;
    let (stop, stopped) = tidemark_tiering::watch::channel(None);
    let (mut senders, mut readers) = (Vec::new(), Vec::new());
    for (partition, &next) in starts.iter().enumerate() {
        let (sender, receiver) = mpsc::channel(BEHIND_MAX);
        senders.push(sender);
        let want = Want { partition, next, end: i64::MAX };
        readers.push(seams.tasks.spawn(follow(plan.clone(), want, receiver, stopped.clone())));
    }
    let run = produce_all(plan, seams, Some(senders)).await?;
    let ends = cluster.offsets(LATEST).await?;
    stop.send_replace(Some(ends));
    let (mut latency, mut bytes) = (Latency::default(), 0);
    for reader in readers {
        let (theirs, read) = reader.await?.context("the run was stopped")??;
        latency.merge(&theirs);
        bytes += read;
    }
    let mut table = Table::new(&[&["op"][..], &PRODUCE_COLUMNS, &Latency::COLUMNS, &Watch::COLUMNS].concat());
    let (mut row, _) = produce_row(&run);
    row.extend(watch.cells(bytes)?);
    let mut end_to_end: Vec<Cell> = vec!["end to end".into()];
    end_to_end.extend(row[1..=PRODUCE_COLUMNS.len()].to_vec());
    end_to_end.extend(latency.cells());
    end_to_end.extend(row[1 + PRODUCE_COLUMNS.len() + Latency::COLUMNS.len()..].to_vec());
    table.push(row);
    table.push(end_to_end);
    if args.verify {
        verify_all(&cluster, &run, &starts).await?;
    }
    Ok(table)
}

/// Follows one partition until the end offsets are known and reached.
async fn follow(
    plan: Arc<Plan>,
    mut want: Want,
    mut sent: mpsc::Receiver<Due>,
    stopped: tidemark_tiering::watch::Receiver<Option<Vec<i64>>>,
) -> Result<(Latency, u64)> {
    let (mut latency, mut bytes) = (Latency::default(), 0);
    let mut due: VecDeque<Due> = VecDeque::new();
    let mut drain_until = None;
    loop {
        if let Some(ends) = stopped.borrow().as_ref() {
            want.end = ends[want.partition];
        }
        if want.next >= want.end {
            return Ok((latency, bytes));
        }
        if want.end < i64::MAX {
            let until = *drain_until.get_or_insert(Instant::now() + DRAIN);
            ensure!(
                Instant::now() < until,
                "partition {} was not read to its end in {DRAIN:?}",
                want.partition
            );
        }
        let mut next = want.next;
        let see = |_: usize, batch: tidemark_proto::record::view::Batch| {
            next = batch.next_offset().0;
            bytes += batch.size() as u64;
            let number = plan.batches.check(&batch)?;
            while let Ok(one) = sent.try_recv() {
                due.push_back(one);
            }
            while due.front().is_some_and(|one| one.number < number) {
                due.pop_front();
            }
            if let Some(one) = due.pop_front_if(|one| one.number == number && one.at >= plan.warm) {
                latency.record(one.at.elapsed());
            }
            Ok(())
        };
        let slot = usize::MAX / 2 + want.partition % plan.connections;
        let until = Instant::now() + Duration::from_millis(200);
        fetch::read(plan.cluster.clone(), vec![want], slot, Sizes::default(), until, see).await?;
        want.next = next;
    }
}

async fn prepare(args: &ProduceArgs, seams: &Seams) -> Result<(Arc<Cluster>, Arc<Plan>)> {
    ensure!(
        !args.idempotent || args.in_flight <= 5,
        "an idempotent producer has at most 5 batches in flight"
    );
    ensure!(args.batch_size <= 64 << 20, "a batch has at most 64 MiB");
    let target = &args.target;
    let cluster =
        Cluster::open(&target.bootstrap, &target.topic, target.partitions, seams.tasks.clone()).await?;
    let cluster = Arc::new(cluster);
    let producer = if args.idempotent { Some(cluster.producer_id().await?) } else { None };
    let batches = Batches::build(
        usize::try_from(args.record_size)?,
        usize::try_from(args.batch_size)?,
        args.compression,
        seams.clock.wall(),
        producer,
        &seams.entropy,
    );
    let partitions = cluster.partitions();
    let interval = (args.rate > 0)
        .then(|| Duration::from_secs_f64(batches.bytes() as f64 * partitions as f64 / args.rate as f64));
    let per_partition = args.bytes.div_ceil(batches.bytes() as u64 * partitions as u64);
    let begin = Instant::now() + Duration::from_millis(50);
    let plan = Plan {
        cluster: cluster.clone(),
        batches,
        acks: if args.acks_one { 1 } else { -1 },
        timeout_ms: 30_000,
        in_flight: args.in_flight as usize,
        connections: target.connections as usize,
        interval,
        begin,
        end: begin + Duration::from_secs_f64(args.seconds),
        batches_max: if args.bytes > 0 { per_partition } else { u64::MAX },
        warm: begin + Duration::from_secs_f64(args.warmup.min(args.seconds / 2.0)),
        idempotent: args.idempotent,
    };
    Ok((cluster, Arc::new(plan)))
}

async fn produce_all(plan: Arc<Plan>, seams: &Seams, sent: Option<Vec<mpsc::Sender<Due>>>) -> Result<Run> {
    let partitions = plan.cluster.partitions();
    let mut sent: Vec<_> = match sent {
        Some(sent) => sent.into_iter().map(Some).collect(),
        None => vec![None; partitions],
    };
    let one = |p: usize| seams.tasks.spawn(produce::partition(plan.clone(), p, sent[p].take()));
    let tasks: Vec<_> = (0..partitions).map(one).collect();
    let mut produced = Vec::new();
    for task in tasks {
        produced.push(task.await?.context("the run was stopped")??);
    }
    let seconds = plan.warm.elapsed().as_secs_f64();
    Ok(Run { produced, seconds, plan })
}

const PRODUCE_COLUMNS: [&str; 7] = ["records", "MiB", "s", "MiB/s", "records/s", "failed", "retries"];

/// The counted part of a run, and the bytes of the whole of it.
fn produce_row(run: &Run) -> (Vec<Cell>, u64) {
    let mut latency = Latency::default();
    let (mut counted, mut acked, mut failed, mut retries) = (0, 0, 0, 0);
    for one in &run.produced {
        latency.merge(&one.latency);
        counted += one.counted;
        acked += one.acked.len() as u64;
        failed += one.failed.len() as u64;
        retries += one.retries;
        for error in &one.errors {
            note(&format!("met: {error}"));
        }
    }
    let batch = run.plan.batches.bytes() as u64;
    let records = counted * u64::from(run.plan.batches.records());
    let mib = (counted * batch) as f64 / MIB;
    let mut row: Vec<Cell> = vec!["produce".into(), records.into(), mib.into(), run.seconds.into()];
    row.extend([Cell::from(mib / run.seconds), Cell::Number(records as f64 / run.seconds, 0)]);
    row.extend([Cell::from(failed), Cell::from(retries)]);
    row.extend(latency.cells());
    (row, acked * batch)
}

async fn verify_all(cluster: &Arc<Cluster>, run: &Run, starts: &[i64]) -> Result<u64> {
    let ends = cluster.offsets(LATEST).await?;
    let mut records = 0;
    for (partition, (&next, &end)) in starts.iter().zip(&ends).enumerate() {
        let range = Want { partition, next, end };
        records +=
            verify::partition(cluster.clone(), &run.plan.batches, range, &run.produced[partition]).await?;
    }
    Ok(records)
}

/// The partitions of each connection.
fn shares(starts: &[i64], ends: &[i64], connections: usize) -> Vec<Vec<Want>> {
    let mut shares = vec![Vec::new(); connections.clamp(1, starts.len().max(1))];
    let slots = shares.len();
    for (partition, (&next, &end)) in starts.iter().zip(ends).enumerate() {
        shares[partition % slots].push(Want { partition, next, end });
    }
    shares
}

/// Notes go beside the table, which may be JSON on standard output.
fn note(text: &str) {
    eprintln!("{text}");
}
