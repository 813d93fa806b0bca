//! What the bucket holds at the end, looked at without any broker.

use std::collections::{BTreeMap, BTreeSet};

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

/// Objects that landed above a seal. They are looked for now and then: what collects garbage takes them too.
#[derive(Debug, Default)]
pub struct Voids(BTreeSet<(String, u64)>);

impl Voids {
    /// Takes in what there is now.
    pub fn look(&mut self, memory: &Memory) {
        for (log, objects) in logs(memory) {
            let sealed = objects.iter().find(|(_, seal)| *seal).map_or(u64::MAX, |(seq, _)| *seq);
            let void = objects.iter().filter(|(seq, seal)| *seq > sealed && !seal);
            self.0.extend(void.map(|(seq, _)| (log.clone(), *seq)));
        }
    }

    /// How many there were, by the rule that makes them void.
    pub fn counts(&self) -> [(&'static str, u64); 2] {
        let parcels = self.0.iter().filter(|(log, _)| log.starts_with("wal/")).count() as u64;
        [("R13 void parcel", parcels), ("E3 void metadata", self.0.len() as u64 - parcels)]
    }
}

/// What no broker would tell: every object is whole, and has the name it says.
pub fn audit(memory: &Memory) -> Vec<Violation> {
    let broken = |(key, bytes): (String, bytes::Bytes)| {
        let why = tidemark_tiering::dump::dump(&bytes).err()?;
        Some(Violation { kind: "bucket-audit", what: format!("{key}: {why}") })
    };
    memory.dump().into_iter().filter_map(broken).collect()
}
