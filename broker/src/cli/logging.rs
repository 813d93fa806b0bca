//! Log lines to stderr, as text or JSON, chosen by `RUST_LOG`.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, reload};

use crate::loggers::Loggers;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging; only the first call counts.
pub fn start(format: Format) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let begun = filter.to_string();
    let colours = std::io::stderr().is_terminal();
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .log_internal_errors(false);
    let registry = tracing_subscriber::registry().with(filter);
    let started = match format {
        Format::Text => registry.with(lines).try_init(),
        Format::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    if started.is_err() {
        tracing::debug!("logging was started before");
        return;
    }
    let sink = move |filter: &str| match EnvFilter::try_new(filter).map(|filter| handle.reload(filter)) {
        Ok(Ok(())) => tracing::info!(filter, "log levels changed"),
        wrong => tracing::error!(filter, ?wrong, "log levels kept as they were"),
    };
    Loggers::of_process().start(&begun, Box::new(sink));
}
