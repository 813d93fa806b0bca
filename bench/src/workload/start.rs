//! From the start of a broker's process to its first ack, after a kill -9 of the one before.
//!
//! The command is started again and again over the same data; each start is asked without pause, on fresh
//! connections, until one batch is acked by everyone.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_tiering::seam::Seams;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::batches::{Batches, Codec};
use super::cluster::{Cluster, Link};
use super::{Target, produce};
use crate::latency::Latency;
use crate::report::{Cell, Table};

const PAUSE: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(120);
const RECORD: usize = 100;

/// `tidemark-bench start`
#[derive(clap::Args, Clone, Debug)]
pub struct StartArgs {
    /// Where the broker listens
    #[command(flatten)]
    pub target: Target,
    /// Starts that are counted; one more comes before them and makes the topic
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub times: u32,
    /// The broker's command, which stays in the foreground
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

/// Starts the broker again and again.
pub async fn run_start(args: &StartArgs, seams: &Seams) -> Result<Table> {
    let target = &args.target;
    let batches = Batches::build(RECORD, RECORD, Codec::None, seams.clock.wall(), None, &seams.entropy);
    let (mut answer, mut ack) = (Latency::default(), Latency::default());
    for number in 0..=u64::from(args.times) {
        let began = Instant::now();
        let mut broker = spawn(&args.command)?;
        let bootstrap = Cluster::absent(&target.bootstrap, &target.topic, seams.tasks.clone());
        let link = until_answered(&bootstrap, &target.bootstrap, &mut broker, began).await?;
        let answered = began.elapsed();
        if number == 0 {
            Cluster::open(&target.bootstrap, &target.topic, target.partitions, seams.tasks.clone()).await?;
        }
        until_acked(&link, &target.topic, &batches, number, began).await?;
        if number > 0 {
            answer.record(answered);
            ack.record(began.elapsed());
        }
        broker.kill().await.context("the broker cannot be killed")?;
    }
    let mut table = Table::new(&[&["op"][..], &Latency::COLUMNS].concat());
    for (name, latency) in [("start to first answer", answer), ("start to first ack", ack)] {
        let mut row: Vec<Cell> = vec![name.into()];
        row.extend(latency.cells());
        table.push(row);
    }
    Ok(table)
}

fn spawn(command: &[String]) -> Result<Child> {
    let (program, arguments) = command.split_first().context("no command")?;
    let mut child = Command::new(program);
    child.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    child.spawn().with_context(|| format!("{program} cannot be started"))
}

async fn until_answered(
    cluster: &Cluster,
    address: &str,
    broker: &mut Child,
    began: Instant,
) -> Result<Link> {
    loop {
        match cluster.link(address, 0).await {
            Ok(link) => return Ok(link),
            Err(why) if began.elapsed() > PATIENCE => return Err(why),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
        if let Some(status) = broker.try_wait()? {
            bail!("the broker ended before it answered: {status}");
        }
    }
}

async fn until_acked(link: &Link, topic: &str, batches: &Batches, number: u64, began: Instant) -> Result<()> {
    loop {
        match produce::exchange(link, topic, 0, batches.stamped(number), -1, 30_000).await? {
            (ErrorCode::None, _) => return Ok(()),
            (code, _) if !code.is_retriable() || began.elapsed() > PATIENCE => bail!("no ack: {code}"),
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
}
