//! Any object as text, for people and for goldens. Verifies what it prints.

pub mod segment;

use std::fmt::Write;

use bytes::Bytes;

use crate::format::{Damage, Header, Kind, open, seal};
use crate::parcel::{self, Fact, Footer};
use crate::run::{self, Partition, Root, State};

/// The object as text. Bodies that other crates define are given as their length.
pub fn dump(bytes: &Bytes) -> Result<String, Damage> {
    let header = Header::parse(bytes)?;
    let mut out = String::new();
    let done = match header.kind {
        Kind::Parcel => parcel(&mut out, bytes)?,
        Kind::Seal => sealed(&mut out, bytes)?,
        Kind::Run => {
            let (header, root, partitions) = run::open(bytes)?;
            head(&mut out, &header).and_then(|()| runs(&mut out, &root, &partitions))
        }
        Kind::Checkpoint => {
            let (header, checkpoint) = run::checkpoint::parse(bytes)?;
            head(&mut out, &header).and_then(|()| {
                checkpoint.states.iter().try_for_each(|(of, found)| state(&mut out, &of.to_string(), found))
            })
        }
        _ => {
            let (header, body) = open(bytes)?;
            head(&mut out, &header).and_then(|()| writeln!(out, "body {} bytes", body.len()))
        }
    };
    done.map_err(|error| Damage::new(error.to_string()))?;
    Ok(out)
}

fn head(out: &mut String, header: &Header) -> std::fmt::Result {
    let Header { version, kind, cluster, epoch, lane, seq, life, nonce, key_id, body_length, crc } = header;
    writeln!(out, "{kind} v{version} cluster {cluster}")?;
    writeln!(out, "epoch {epoch} lane {lane} seq {seq} life {life} nonce {nonce}")?;
    writeln!(out, "key {key_id} body {body_length} bytes crc {crc:08x}")
}

fn sealed(out: &mut String, bytes: &Bytes) -> Result<std::fmt::Result, Damage> {
    let (header, by) = seal::parse(bytes)?;
    Ok(head(out, &header).and_then(|()| {
        writeln!(out, "by life {} nonce {} next {} address {:?}", by.life, by.nonce, by.next, by.address)
    }))
}

fn parcel(out: &mut String, bytes: &Bytes) -> Result<std::fmt::Result, Damage> {
    let (header, footer) = parcel::read::open(bytes)?;
    Ok(head(out, &header).and_then(|()| contents(out, &footer)))
}

fn contents(out: &mut String, footer: &Footer) -> std::fmt::Result {
    for part in &footer.parts {
        let kind = if part.internal { " internal" } else { "" };
        writeln!(out, "{}{kind} at {} + {}", part.of, part.position, part.length)?;
        for (extent, batch) in part.extents() {
            write!(
                out,
                "  {}..={} epoch {} at {} + {} crc {:08x} records {} attributes {:#06x} time {}..{}",
                batch.base_offset,
                batch.last_offset,
                batch.leader_epoch,
                extent.position,
                extent.length,
                batch.crc,
                batch.count,
                batch.attributes,
                batch.base_timestamp,
                batch.max_timestamp
            )?;
            if batch.producer_id.0 >= 0 {
                let (id, epoch) = (batch.producer_id, batch.producer_epoch);
                write!(out, " producer {id}/{epoch} sequence {}", batch.base_sequence)?;
            }
            if let Some(marker) = batch.marker {
                let what = if marker.commit { "commit" } else { "abort" };
                write!(out, " {what} by coordinator epoch {}", marker.coordinator_epoch)?;
            }
            if batch.by_reference {
                write!(out, " by reference")?;
            }
            writeln!(out)?;
        }
    }
    for fact in &footer.facts {
        match fact {
            Fact::LogStart { of, leader_epoch, offset } => {
                writeln!(out, "log start of {of} is {offset} (epoch {leader_epoch})")?;
            }
            Fact::SnapshotRef { of, leader_epoch, offset, key } => {
                writeln!(out, "state of {of} before {offset} (epoch {leader_epoch}) is in {key}")?;
            }
        }
    }
    Ok(())
}

fn runs(out: &mut String, root: &Root, partitions: &[Partition]) -> std::fmt::Result {
    writeln!(out, "level {} newest {} pages {}", root.level, root.max_timestamp, root.pages.len())?;
    for (lane, from, to) in &root.lanes {
        writeln!(out, "from lane {lane} life {} parcels {from}..{to}", lane.life)?;
    }
    for partition in partitions {
        let Partition { of, base_offset, last_offset, position, length, crc, batches, .. } = partition;
        let kind = if partition.internal { " internal" } else { "" };
        write!(out, "{of}{kind} {base_offset}..={last_offset} at {position} + {length} crc {crc:08x} ")?;
        writeln!(out, "batches {batches} newest {}", partition.max_timestamp)?;
        for slice in &partition.slices {
            writeln!(out, "  {} at + {} newest {}", slice.base_offset, slice.at, slice.max_timestamp)?;
        }
        if let Some(found) = &partition.state {
            state(out, "  state", found)?;
        }
    }
    Ok(())
}

fn state(out: &mut String, name: &str, state: &State) -> std::fmt::Result {
    write!(out, "{name} {}..{} epochs", state.log_start, state.end)?;
    state.epochs.iter().try_for_each(|(epoch, start)| write!(out, " {epoch}@{start}"))?;
    writeln!(out, " snapshot {} bytes", state.snapshot.len())
}
