//! `tidemark dump KEY|FILE`: any object as text.

use std::path::Path;

use bytes::Bytes;
use tidemark_tiering::bucket::{Bucket, Config, Kind, Patience, Span};
use tidemark_tiering::dump;
use tidemark_tiering::seam::Seams;

use super::Failure;

/// Prints `what`: a file where there is one of that name, else an object of the bucket.
pub fn run(what: &str, bucket: impl Fn() -> Result<Config, Failure>) -> Result<(), Failure> {
    let read = |name: &str| match Path::new(name).is_file() {
        true => std::fs::read(name)
            .map(Bytes::from)
            .map_err(|error| Failure::Failed(format!("cannot read {name}: {error}"))),
        false => fetch(name, bucket().map_err(|failure| no_file(name, failure))?),
    };
    let bytes = read(what)?;
    // A segment's objects are Kafka's own: only their names tell what they are.
    let text = match what.rsplit_once('.') {
        Some((_, "log")) => dump::segment::log(&bytes),
        Some((_, "rsm-manifest")) => dump::segment::manifest(&bytes),
        Some((segment, "indexes")) => {
            dump::segment::indexes(&bytes, &read(&format!("{segment}.rsm-manifest"))?)
        }
        _ => dump::dump(&bytes),
    };
    match text {
        Ok(text) => {
            super::say(&text);
            Ok(())
        }
        Err(damage) => Err(Failure::Failed(format!("{what} cannot be printed: {damage}"))),
    }
}

fn no_file(what: &str, failure: Failure) -> Failure {
    match failure {
        Failure::Wrong(why) => Failure::Wrong(format!("{what} is no file here, and for a key {why}")),
        other => other,
    }
}

fn fetch(key: &str, config: Config) -> Result<Bytes, Failure> {
    super::serve::runtime()?.block_on(async {
        let bucket = Bucket::open(&config, &Seams::system()).map_err(|e| Failure::Failed(e.to_string()))?;
        // The kind only says under which name the request is counted.
        match bucket.get(Kind::Probe, key, Span::All, Patience::Tries(3)).await {
            Ok(Some(fetched)) => Ok(fetched.bytes),
            Ok(None) => Err(Failure::Failed(format!("{} holds no object {key}", config.url))),
            Err(error) => Err(Failure::Failed(format!("cannot read {key}: {error}"))),
        }
    })
}
