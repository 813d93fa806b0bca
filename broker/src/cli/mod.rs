//! The command line: `dev`, `serve`, `dump`, `probe`, `verify`, `scrub` and `tier` are the broker's own and need no running one; the
//! others are a Kafka client's and work with any Kafka broker.
//!
//! Exit codes: 0 done, 1 it failed while running, 2 the command line or the configuration is wrong, 130 stopped by Ctrl-C
//! before it was done. Errors are one sentence on stderr: what, and how to mend it.

mod client;
mod cluster;
mod cluster_file;
mod completions;
mod configs;
mod consume;
mod drain;
mod dump;
mod export;
mod format;
mod groups;
mod lanes;
mod logging;
mod offsets;
mod output;
mod parquet;
mod pattern;
mod position;
mod printer;
mod probe;
mod produce;
mod range;
mod records;
mod replay;
mod reset;
mod sample;
mod serve;
mod tier;
mod top;
mod topics;
mod verify;
mod watch;
mod when;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

use crate::config::{self, Broker, ConfigError, Settings};

/// The first exit code of a process that ran and failed.
const FAILED: u8 = 1;
/// The exit code of a wrong command line or configuration.
const WRONG: u8 = 2;
/// The exit code of a command that Ctrl-C ended before it was done, as shells have it.
const INTERRUPTED: u8 = 130;

const EXIT_CODES: &str = "\
Begin with `tidemark dev`: it needs nothing, and prints what to paste next.
All but dev, serve, dump, probe, verify, scrub and tier talk to any Kafka broker: --bootstrap HOST:PORT, or TIDEMARK_BOOTSTRAP.

Exit codes: 0 done, 1 it failed while running, 2 the command line or the configuration is wrong, 130 stopped by Ctrl-C.
Errors are one sentence on stderr: what is wrong, and how to mend it.";

/// A Kafka-compatible broker whose log is a bucket.
#[derive(Debug, Parser)]
#[command(
    name = "tidemark",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = EXIT_CODES
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a broker for trying things out: a directory is the bucket, Kafka on 127.0.0.1:9092.
    Dev {
        /// The directory; made if it is not there.
        #[arg(long, default_value = "./tidemark-data")]
        dir: PathBuf,
        #[command(flatten)]
        with: With,
    },
    /// Run a broker.
    #[command(after_long_help = config::usage())]
    Serve {
        /// A server.properties file, Kafka's or ours.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        with: With,
    },
    /// Print any object of the bucket as text.
    Dump {
        /// Its key in the bucket, such as meta/00000000000000000000/00000000000000000000, or a file that holds it.
        what: String,
        /// A server.properties file that names the bucket.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        with: With,
    },
    /// Find out whether an object store can be trusted with the log.
    Probe {
        /// A server.properties file that names the bucket.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        with: With,
    },
    Verify(verify::Verify),
    Scrub(verify::Scrub),
    Tier(tier::TierArgs),
    Topics(topics::Topics),
    Groups(groups::Groups),
    Offsets(offsets::Offsets),
    Configs(configs::Configs),
    Cluster(cluster::ClusterArgs),
    Produce(produce::Produce),
    Consume(consume::Consume),
    Export(export::Export),
    Replay(replay::Replay),
    Watch(watch::Watch),
    Top(top::Top),
    Completions(completions::Completions),
}

/// Which bucket is meant.
#[derive(Args, Debug)]
struct Of {
    /// A server.properties file that names the bucket.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    with: With,
}

impl Of {
    /// The broker's configuration; log lines go by it from now on.
    fn load(&self) -> Result<Broker, Failure> {
        let config = broker(self.config.as_deref(), &self.with, |_| {})?;
        logging::start(self.with.log_format);
        Ok(config)
    }
}

#[derive(Args, Debug)]
struct With {
    /// One setting, as in num.partitions=3; wins over the file, and may be given more than once.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// How log lines look. What is logged follows RUST_LOG (default: info).
    #[arg(long, value_enum, default_value_t = logging::Format::Text)]
    log_format: logging::Format,
}

/// Why a command ended badly.
#[derive(Debug)]
enum Failure {
    /// The command line or the configuration is wrong.
    Wrong(String),
    /// It failed while running.
    Failed(String),
    /// Ctrl-C ended it.
    Interrupted,
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::Wrong(error.0)
    }
}

/// Runs the command line `args`, the program's name first.
pub fn run(args: impl IntoIterator<Item = std::ffi::OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // Nowhere to say that nothing can be said.
            let _ = error.print();
            return if asked { ExitCode::SUCCESS } else { ExitCode::from(WRONG) };
        }
    };
    match execute(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Wrong(why)) => tell(&why, WRONG),
        Err(Failure::Failed(why)) => tell(&why, FAILED),
        Err(Failure::Interrupted) => ExitCode::from(INTERRUPTED),
    }
}

/// Prints to stdout. Whoever reads it may have gone; that is no failure of ours.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn tell(why: &str, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "tidemark: {why}");
    ExitCode::from(code)
}

fn execute(command: Command) -> Result<(), Failure> {
    match command {
        Command::Dev { dir, with } => {
            let dir = std::path::absolute(&dir)
                .map_err(|error| Failure::Wrong(format!("--dir {}: {error}", dir.display())))?;
            let config = broker(None, &with, |settings| dev_defaults(settings, &dir))?;
            logging::start(with.log_format);
            serve::run(config, Some(&dir))
        }
        Command::Serve { config, with } => {
            let config = broker(config.as_deref(), &with, |_| {})?;
            logging::start(with.log_format);
            serve::run(config, None)
        }
        Command::Dump { what, config, with } => {
            let bucket = || broker(config.as_deref(), &with, |_| {}).map(|config| config.bucket);
            logging::start(with.log_format);
            dump::run(&what, bucket)
        }
        Command::Probe { config, with } => {
            let config = broker(config.as_deref(), &with, |_| {})?;
            logging::start(with.log_format);
            probe::run(config.bucket)
        }
        Command::Verify(verify) => verify.run(),
        Command::Scrub(scrub) => scrub.run(),
        Command::Tier(tier) => tier.run(),
        Command::Topics(topics) => topics.run(),
        Command::Groups(groups) => groups.run(),
        Command::Offsets(offsets) => offsets.run(),
        Command::Configs(configs) => configs.run(),
        Command::Cluster(cluster) => cluster.run(),
        Command::Produce(produce) => produce.run(),
        Command::Consume(consume) => consume.run(),
        Command::Export(export) => export.run(),
        Command::Replay(replay) => replay.run(),
        Command::Watch(watch) => watch.run(),
        Command::Top(top) => top.run(),
        Command::Completions(completions) => completions.run(),
    }
}

fn broker(
    file: Option<&std::path::Path>,
    with: &With,
    defaults: impl FnOnce(&mut Settings),
) -> Result<Broker, Failure> {
    let mut settings = Settings::load(file, &with.sets)?;
    defaults(&mut settings);
    Ok(Broker::new(settings)?)
}

/// What `dev` sets unless told otherwise: everything on this machine, and no waiting for a second group member.
fn dev_defaults(settings: &mut Settings, dir: &std::path::Path) {
    settings.set_default("tidemark.bucket", &format!("file://{}", dir.display()));
    settings.set_default("node.id", "1");
    settings.set_default("tidemark.http.listen", "127.0.0.1:9464");
    settings.set_default("group.initial.rebalance.delay.ms", "0");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_every_command_has_help() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
        }
    }

    #[test]
    fn wrong_lines_and_wrong_settings_end_with_2() {
        let code = |args: &[&str]| format!("{:?}", run(args.iter().map(|arg| (*arg).into())));
        let wrong = format!("{:?}", ExitCode::from(WRONG));
        for args in [
            &["tidemark", "fly"][..],
            &["tidemark", "serve", "--set"],
            &["tidemark", "serve", "--set", "num.partitions=x"],
            &["tidemark", "serve"],
            &["tidemark", "serve", "--config", "/no/such/file"],
        ] {
            assert_eq!(code(args), wrong, "{args:?}");
        }
        assert_eq!(code(&["tidemark", "--version"]), format!("{:?}", ExitCode::SUCCESS));
    }

    #[test]
    fn dev_needs_no_setting_and_yields_to_those_given() {
        let mut settings = Settings::load(None, &["node.id=4".into()]).unwrap();
        dev_defaults(&mut settings, std::path::Path::new("/tmp/x"));
        let config = Broker::new(settings).unwrap();
        assert_eq!(config.bucket.url, "file:///tmp/x");
        assert_eq!(config.node_id.map(|id| id.0), Some(4));
        assert_eq!(config.listeners[0].port, 9092);
    }
}
