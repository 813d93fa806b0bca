//! The root page of a run's object: where its pages lie and what they begin and end with.

use tidemark_proto::id::{BrokerEpoch, LaneId, Life, Millis, Seq, TopicPartition};

use super::entry::Place;
use crate::format::scan::{Scan, put_partition};
use crate::format::{Damage, HEADER_LEN};

/// Last four bytes of a run's object.
pub const MAGIC: [u8; 4] = *b"RUNS";
/// A page is closed by the entry that makes it this long.
pub const PAGE: usize = 64 << 10;

const PAGE_LEN: usize = 24 + 24 + 8 + 4 + 4;
const LANE_LEN: usize = 8 + 4 + 16 + 8 + 8;

/// What an object of a run holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Root {
    /// 0 for a cut, above for merges.
    pub level: u32,
    /// Greatest timestamp of its records.
    pub max_timestamp: Millis,
    /// The parcels it was made from: lane and sequence range, the end exclusive.
    pub lanes: Vec<(LaneId, Seq, Seq)>,
    /// Its pages, in order.
    pub pages: Vec<Page>,
}

/// A page of partition entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its first partition.
    pub first: Place,
    /// Its last partition.
    pub last: Place,
    /// Where in the object.
    pub position: u64,
    /// How many bytes.
    pub length: u32,
    /// CRC32C of these bytes.
    pub crc: u32,
}

fn put_place(out: &mut Vec<u8>, place: Place) {
    out.extend_from_slice(&u32::from(place.0).to_be_bytes());
    put_partition(out, place.1);
}

fn parse_place(scan: &mut Scan) -> Result<Place, Damage> {
    let internal = match scan.u32()? {
        0 => false,
        1 => true,
        _ => return Err(Damage::new("bad fence key")),
    };
    Ok((internal, scan.partition()?))
}

impl Root {
    /// The pages that may hold an entry of `of`.
    pub fn pages_of(&self, of: TopicPartition) -> impl Iterator<Item = (usize, &Page)> {
        let holds = move |page: &Page, internal| page.first <= (internal, of) && (internal, of) <= page.last;
        self.pages.iter().enumerate().filter(move |(_, page)| holds(page, false) || holds(page, true))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(20 + self.lanes.len() * LANE_LEN + self.pages.len() * PAGE_LEN);
        out.extend_from_slice(&self.level.to_be_bytes());
        out.extend_from_slice(&self.max_timestamp.0.to_be_bytes());
        out.extend_from_slice(&(self.lanes.len() as u32).to_be_bytes());
        for (lane, from, to) in &self.lanes {
            out.extend_from_slice(&lane.epoch.0.to_be_bytes());
            out.extend_from_slice(&lane.lane.to_be_bytes());
            out.extend_from_slice(&lane.life.to_bytes());
            out.extend_from_slice(&from.0.to_be_bytes());
            out.extend_from_slice(&to.0.to_be_bytes());
        }
        out.extend_from_slice(&(self.pages.len() as u32).to_be_bytes());
        for page in &self.pages {
            put_place(&mut out, page.first);
            put_place(&mut out, page.last);
            out.extend_from_slice(&page.position.to_be_bytes());
            out.extend_from_slice(&page.length.to_be_bytes());
            out.extend_from_slice(&page.crc.to_be_bytes());
        }
        out
    }

    /// Reads the root page, which begins at `at` of its object; pages must tile up to there.
    pub(super) fn parse(bytes: &[u8], at: u64) -> Result<Root, Damage> {
        let mut scan = Scan::new(bytes);
        let (level, max_timestamp) = (scan.u32()?, Millis(scan.i64()?));
        let count = scan.count(LANE_LEN)?;
        let mut lanes = Vec::with_capacity(count);
        for _ in 0..count {
            let (epoch, lane) = (BrokerEpoch(scan.u64()?), scan.u32()?);
            let lane = LaneId { epoch, lane, life: Life::from_bytes(scan.array()?) };
            lanes.push((lane, Seq(scan.u64()?), Seq(scan.u64()?)));
        }
        let count = scan.count(PAGE_LEN)?;
        let mut pages: Vec<Page> = Vec::with_capacity(count);
        for _ in 0..count {
            let page = Page {
                first: parse_place(&mut scan)?,
                last: parse_place(&mut scan)?,
                position: scan.u64()?,
                length: scan.u32()?,
                crc: scan.u32()?,
            };
            let follows = match pages.last() {
                None => page.position >= HEADER_LEN as u64,
                Some(last) => {
                    last.last <= page.first && last.position + u64::from(last.length) == page.position
                }
            };
            if !follows || page.last < page.first || page.position > at {
                return Err(Damage::new("pages are out of order"));
            }
            pages.push(page);
        }
        scan.end()?;
        match pages.last() {
            Some(last) if last.position + u64::from(last.length) == at => {}
            _ => return Err(Damage::new("pages do not end where the root begins")),
        }
        Ok(Root { level, max_timestamp, lanes, pages })
    }

    /// Where the batches end.
    pub fn data_end(&self) -> u64 {
        self.pages.first().map_or(HEADER_LEN as u64, |page| page.position)
    }
}
