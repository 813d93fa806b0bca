//! The codec held against itself, against hostile bytes, and against two other implementations: the
//! `kafka-protocol` crate and Apache Kafka's own Java client.

#[allow(dead_code, missing_docs)]
#[path = "../../schema/generate/table.rs"]
mod table;

mod apis;
mod bad_input;
mod crate_peer;
mod java;
mod random;
mod round_trip;
mod typed;

use std::path::Path;
use std::sync::LazyLock;

/// The schema tables, read once.
static TABLES: LazyLock<table::Tables> = LazyLock::new(|| {
    table::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("schema")).expect("the tables can be read")
});

/// Every message of the tables.
fn all_messages() -> impl Iterator<Item = &'static table::Message> {
    let spoken = TABLES.apis.iter().flat_map(|api| [&api.request, &api.response]);
    spoken.chain(&TABLES.data)
}

/// Every message in every version.
fn all_versions() -> impl Iterator<Item = (&'static table::Message, i16)> {
    all_messages()
        .flat_map(|message| (message.versions.0..=message.versions.1).map(move |version| (message, version)))
}
