//! How a command meets the runtime, and Ctrl-C.

use std::sync::Arc;

use tidemark_tiering::seam::Seams;
use tokio_util::sync::CancellationToken;

use super::{Cluster, To};
use crate::cli::Failure;
use crate::cli::serve;

/// Runs a question: Ctrl-C ends it where it is.
pub fn ask(to: &To, work: impl AsyncFnOnce(Arc<Cluster>) -> Result<(), Failure>) -> Result<(), Failure> {
    run(to, async |cluster, signals: &mut serve::Signals| {
        tokio::select! {
            biased;
            () = signals.next() => Err(Failure::Interrupted),
            done = work(cluster) => done,
        }
    })
}

/// Runs what goes on until it is stopped: the first Ctrl-C asks it to end, the second ends it.
pub fn stay(
    to: &To,
    work: impl AsyncFnOnce(Arc<Cluster>, CancellationToken) -> Result<(), Failure>,
) -> Result<(), Failure> {
    run(to, async |cluster, signals: &mut serve::Signals| {
        let stop = CancellationToken::new();
        let mut work = std::pin::pin!(work(cluster, stop.clone()));
        tokio::select! {
            biased;
            () = signals.next() => stop.cancel(),
            done = &mut work => return done,
        }
        tokio::select! {
            biased;
            () = signals.next() => Err(Failure::Interrupted),
            done = &mut work => done,
        }
    })
}

fn run(
    to: &To,
    work: impl AsyncFnOnce(Arc<Cluster>, &mut serve::Signals) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let runtime = serve::runtime()?;
    let done = runtime.block_on(async {
        let mut signals = serve::Signals::new()?;
        work(Arc::new(Cluster::new(to, Seams::system())), &mut signals).await
    });
    // A read of the terminal may never end: it is not waited for.
    runtime.shutdown_background();
    done
}
