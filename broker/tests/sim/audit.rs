//! What the bucket holds at the end, looked at without any broker.

use std::collections::BTreeMap;

use tidemark_tiering::bucket::Memory;
use tidemark_tiering::format::{Header, Kind};
use tidemark_tiering::keys::Name;

use crate::check::Violation;

/// Every log of the bucket: its objects in order, each with whether it is a seal.
fn logs(memory: &Memory) -> BTreeMap<String, Vec<(u64, bool)>> {
    let mut logs: BTreeMap<String, Vec<(u64, bool)>> = BTreeMap::new();
    for (key, bytes) in memory.dump() {
        let Some((log, seq)) = key.rsplit_once('/') else { continue };
        let (Ok(seq), Ok(header)) = (seq.parse(), Header::parse(&bytes)) else { continue };
        if matches!(Name::parse(&key), Some(Name::Parcel { .. } | Name::Meta(_))) {
            logs.entry(log.to_owned()).or_default().push((seq, header.kind == Kind::Seal));
        }
    }
    logs.values_mut().for_each(|objects| objects.sort_unstable());
    logs
}

/// Which rare objects there are.
pub fn objects(memory: &Memory) -> BTreeMap<&'static str, u64> {
    let mut counts = BTreeMap::from([("R13 void parcel", 0), ("E3 void metadata", 0)]);
    for (log, objects) in logs(memory) {
        let Some(sealed) = objects.iter().find(|(_, seal)| *seal).map(|(seq, _)| *seq) else { continue };
        let void = objects.iter().filter(|(seq, seal)| *seq > sealed && !seal).count() as u64;
        let name = if log.starts_with("wal/") { "R13 void parcel" } else { "E3 void metadata" };
        *counts.entry(name).or_default() += void;
    }
    counts
}

/// What no broker would tell: every object is whole, and has the name it says.
pub fn audit(memory: &Memory) -> Vec<Violation> {
    let broken = |(key, bytes): (String, bytes::Bytes)| {
        let why = tidemark_tiering::dump::dump(&bytes).err()?;
        Some(Violation { kind: "bucket-audit", what: format!("{key}: {why}") })
    };
    memory.dump().into_iter().filter_map(broken).collect()
}
