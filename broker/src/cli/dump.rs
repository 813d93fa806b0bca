//! `tidemark dump KEY|FILE`: any object as text.

use std::path::Path;

use bytes::Bytes;
use tidemark_tiering::bucket::{Bucket, Config, Kind, Patience, Span};
use tidemark_tiering::dump::dump;
use tidemark_tiering::seam::Seams;

use super::Failure;

/// Prints `what`: a file where there is one of that name, else an object of the bucket.
pub fn run(what: &str, bucket: impl FnOnce() -> Result<Config, Failure>) -> Result<(), Failure> {
    let bytes = match Path::new(what).is_file() {
        true => Bytes::from(
            std::fs::read(what).map_err(|error| Failure::Failed(format!("cannot read {what}: {error}")))?,
        ),
        false => fetch(what, bucket().map_err(|failure| no_file(what, failure))?)?,
    };
    match dump(&bytes) {
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
