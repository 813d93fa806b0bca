//! What the bucket holds at the end, looked at without any broker.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidemark_broker::archive::tier::name_of;
use tidemark_broker::cluster::image::{Image, Partition, Topic};
use tidemark_proto::id::TopicPartition;
use tidemark_tiering::bucket::Memory;
use tidemark_tiering::dump;
use tidemark_tiering::format::{Header, Kind};
use tidemark_tiering::keys::{self, Name, SegmentPart};

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
        let read = match key.rsplit_once('.').map(|(_, part)| part) {
            Some("log") => dump::segment::log(&bytes),
            Some("rsm-manifest") => dump::segment::manifest(&bytes),
            // The manifest beside it, should there be one, tells what is in it.
            Some("indexes") => Ok(String::new()),
            _ => dump::dump(&bytes),
        };
        let why = read.err()?;
        Some(Violation { kind: "bucket-audit", what: format!("{key}: {why}") })
    };
    memory.dump().into_iter().filter_map(broken).collect()
}

/// The objects of all segments that can be read.
fn segments(image: &Image) -> impl Iterator<Item = String> {
    let of_topic = |topic: &Arc<Topic>| {
        let of_partition = |(tp, partition): (TopicPartition, &Partition)| -> Vec<String> {
            let rows = partition.segments().iter().filter(|row| row.state.is_readable());
            let names = rows.map(|row| name_of(topic, tp, row));
            names.flat_map(|name| SegmentPart::ALL.map(|part| keys::segment(&name, part))).collect()
        };
        topic.partitions().flat_map(of_partition).collect::<Vec<String>>()
    };
    image.topics().flat_map(of_topic)
}

/// Runs, checkpoints and segments that are named and not there, or there and not named.
pub fn compare(memory: &Memory, image: &Image) -> Vec<Violation> {
    let there: BTreeSet<String> = memory.dump().into_iter().map(|(key, _)| key).collect();
    let is_orphan = |key: &&String| match Name::parse(key) {
        Some(Name::Run { id, .. }) => image.run(id).is_none(),
        Some(Name::Checkpoint { id }) => image.checkpoint(id).is_none(),
        Some(Name::Segment { segment, .. }) => {
            let of = TopicPartition { topic: segment.topic_id, partition: segment.partition };
            image.segments(of).iter().all(|row| row.id != segment.id)
        }
        _ => false,
    };
    let orphans = there.iter().filter(is_orphan);
    let runs = image.runs().map(|run| run.key.clone());
    let missing = runs.chain(segments(image)).filter(|key| !there.contains(key));
    let orphans = orphans.map(|key| Violation { kind: "orphan", what: format!("nobody names {key}") });
    let missing = missing.map(|key| Violation { kind: "named-missing", what: format!("{key} is not there") });
    orphans.chain(missing).collect()
}
