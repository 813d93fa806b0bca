//! `tidemark probe`: every conformance check against the configured bucket, one line each.

use tidemark_tiering::bucket::probe::{Level, run as probe};
use tidemark_tiering::bucket::{Bucket, Config};
use tidemark_tiering::seam::Seams;

use super::Failure;

/// Probes the bucket.
pub fn run(config: Config) -> Result<(), Failure> {
    super::serve::runtime()?.block_on(async {
        let seams = Seams::system();
        let url = config.url.clone();
        let bucket = Bucket::open(&config, &seams).map_err(|error| Failure::Failed(error.to_string()))?;
        let found = probe(&bucket, seams.entropy.life(), Level::Full).await;
        let report = found.map_err(|failure| Failure::Failed(format!("{}: {failure}", failure.check)))?;
        for (check, took) in &report.checks {
            super::say(&format!("ok  {check}  {:.1} ms\n", took.as_secs_f64() * 1000.0));
        }
        if let Some(left) = &report.left {
            super::say(&format!("note: the probe's objects were left behind: {left}\n"));
        }
        super::say(&format!("{url} can be trusted with a log\n"));
        Ok(())
    })
}
