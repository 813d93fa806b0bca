//! `tidemark-bench`: the command line.
#![allow(clippy::print_stdout)] // a command-line tool

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tidemark_bench::report::Table;
use tidemark_bench::{proxy, store, workload};
use tidemark_tiering::seam::Seams;

#[derive(Parser)]
#[command(
    name = "tidemark-bench",
    version,
    about = "Load, raw-store figures and faults for Kafka brokers and S3 servers"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Produce to any Kafka broker
    Produce(workload::ProduceArgs),
    /// Read a whole topic from any Kafka broker
    Fetch(workload::FetchArgs),
    /// Produce and read along: end-to-end latency
    Mixed(workload::ProduceArgs),
    /// Start a broker again and again after a kill -9: time to its first answer and its first ack
    Start(workload::StartArgs),
    /// A fault proxy to put before a real S3 server
    Proxy(proxy::Args),
    /// The raw store: PUT and GET by size and concurrency
    Store(store::Args),
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidemark-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let seams = Seams::system();
        match cli.command {
            Command::Produce(args) => print(&workload::run_produce(&args, &seams).await?, args.target.json),
            Command::Fetch(args) => print(&workload::run_fetch(&args, &seams).await?, args.target.json),
            Command::Mixed(args) => print(&workload::run_mixed(&args, &seams).await?, args.target.json),
            Command::Start(args) => print(&workload::run_start(&args, &seams).await?, args.target.json),
            Command::Proxy(args) => run_proxy(&args).await,
            Command::Store(args) => print(&store::run(&args, &seams).await?, args.json),
        }
    })
}

async fn run_proxy(args: &proxy::Args) -> Result<()> {
    let listening = proxy::start(args).await?;
    println!("proxy http://{} -> {}, control http://{}", listening.listen, args.upstream, listening.control);
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        biased;
        _ = term.recv() => {}
        done = tokio::signal::ctrl_c() => done?,
    }
    println!("{}", serde_json::to_string(&listening.proxy.counters.snapshot())?);
    Ok(())
}

fn print(table: &Table, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(&table.to_json())?);
    } else {
        print!("{table}");
    }
    Ok(())
}
