//! The objects of a segment as text. They have no header of ours: which one it is, its name says.

use std::fmt::Write;

use bytes::Bytes;
use tidemark_proto::record::view::Batches;

use crate::format::Damage;
use crate::segment::{Indexes, Layout, Manifest};

/// A `.log`: its batches, verified.
///
/// # Errors
/// Where it is damaged.
pub fn log(bytes: &Bytes) -> Result<String, Damage> {
    let (mut out, mut at, mut next) = (String::new(), 0, None);
    for batch in Batches::new(bytes.clone()) {
        let wrong = |what: String| Damage::new(format!("the batch at byte {at}: {what}"));
        let batch = batch.map_err(|error| wrong(error.to_string()))?;
        batch.verify_crc().map_err(|error| wrong(error.to_string()))?;
        let (base, last) = (batch.base_offset(), batch.last_offset());
        if next.is_some_and(|next| base < next) || last < base {
            return Err(wrong(format!("{base}..={last} does not follow the one before")));
        }
        let (epoch, size) = (batch.partition_leader_epoch(), batch.size());
        let (first, newest) = (batch.base_timestamp(), batch.max_timestamp());
        put(
            &mut out,
            format_args!("{base}..={last} epoch {epoch} at {at} + {size} crc {:08x}", batch.crc()),
        )?;
        put(&mut out, format_args!(" records {} attributes {:#06x}", batch.count(), batch.attributes()))?;
        put(&mut out, format_args!(" time {first}..{newest}"))?;
        if batch.has_producer_id() {
            let (id, epoch, first) = (batch.producer_id(), batch.producer_epoch(), batch.base_sequence());
            put(&mut out, format_args!(" producer {id}/{epoch} sequence {first}"))?;
        }
        put(&mut out, format_args!("\n"))?;
        at += size;
        next = Some(last.plus(1));
    }
    Ok(out)
}

/// A `.rsm-manifest`.
///
/// # Errors
/// Where it is damaged.
pub fn manifest(bytes: &Bytes) -> Result<String, Damage> {
    let manifest = Manifest::parse(bytes)?;
    let mut out = String::new();
    let (topic, topic_id, partition, id) = manifest.whose();
    let (base, last) = manifest.offsets();
    put(&mut out, format_args!("segment {id} of {topic} ({topic_id}) partition {partition}\n"))?;
    put(
        &mut out,
        format_args!("{base}..={last} in {} bytes newest {}\n", manifest.bytes(), manifest.max_timestamp()),
    )?;
    put(&mut out, format_args!("epochs"))?;
    for (epoch, start) in manifest.epochs() {
        put(&mut out, format_args!(" {epoch}@{start}"))?;
    }
    put(&mut out, format_args!("\n"))?;
    for (name, part) in NAMES.into_iter().zip(manifest.layout().parts()) {
        put(&mut out, format_args!("{name} at {} + {}\n", part.start, part.len()))?;
    }
    Ok(out)
}

const NAMES: [&str; 5] =
    ["offset index", "time index", "producer snapshot", "leader epochs", "transaction index"];

/// A `.indexes`, of which the manifest says where what lies.
///
/// # Errors
/// Where one of them is damaged.
pub fn indexes(bytes: &Bytes, manifest: &Bytes) -> Result<String, Damage> {
    let manifest = Manifest::parse(manifest)?;
    // What it should be, stands in the metadata.
    let layout = Layout { crc: crc32c::crc32c(bytes), ..manifest.layout() };
    let indexes = Indexes::parse(bytes.clone(), &layout, manifest.offsets(), manifest.bytes())?;
    let mut out = String::new();
    put(&mut out, format_args!("crc {:08x}\n", layout.crc))?;
    for (offset, position) in indexes.entries() {
        put(&mut out, format_args!("offset {offset} at {position}\n"))?;
    }
    for (time, offset) in indexes.moments() {
        put(&mut out, format_args!("time {time} offset {offset}\n"))?;
    }
    for (id, producer) in indexes.producers()?.all() {
        let (epoch, last) = (producer.epoch, producer.last_sequence);
        put(&mut out, format_args!("producer {id}/{epoch} sequence {last} offset {}", producer.last_offset))?;
        put(
            &mut out,
            format_args!(" time {} coordinator {}", producer.timestamp, producer.coordinator_epoch),
        )?;
        if let Some(first) = producer.open_txn {
            put(&mut out, format_args!(" open from {first}"))?;
        }
        put(&mut out, format_args!("\n"))?;
    }
    for (epoch, start) in indexes.epochs().all() {
        put(&mut out, format_args!("epoch {epoch} from {start}\n"))?;
    }
    for txn in indexes.aborted() {
        let (first, marker, stable) = (txn.first, txn.marker, txn.stable);
        put(
            &mut out,
            format_args!("aborted {first}..={marker} of producer {} stable {stable}\n", txn.producer),
        )?;
    }
    Ok(out)
}

fn put(out: &mut String, what: std::fmt::Arguments<'_>) -> Result<(), Damage> {
    out.write_fmt(what).map_err(|error| Damage::new(error.to_string()))
}
