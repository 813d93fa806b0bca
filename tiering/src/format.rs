//! The one header of every object, and bounded reading of what follows it (drawn in `FORMAT.md`).
//!
//! Owns the 96 header bytes and their CRC32C, big-endian and fixed-width throughout. A header is *parsed*
//! (structure) and then *verified* against the bytes its CRC covers: the whole body, or for a parcel its
//! footer, whose entries cover the rest. Knows no key, no store and no meaning of a body.

pub mod scan;
pub mod seal;
pub mod tail;

use std::fmt;

use bytes::Bytes;
use tidemark_proto::id::{BrokerEpoch, ClusterId, LaneId, Life, Nonce, Seq};

use crate::error::Error;
use scan::Scan;

/// First four bytes of every object.
pub const MAGIC: [u8; 4] = *b"TDMK";
/// Format version this build writes; it reads every version up to it.
pub const VERSION: u8 = 1;
/// Bytes of a header. It holds the nonce, so it is also the identity that R4 compares.
pub const HEADER_LEN: usize = 96;

/// What an object is, as its header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// What one PUT of a lane makes durable.
    Parcel,
    /// Ends a fenced log for ever.
    Seal,
    /// Records of the metadata log.
    Meta,
    /// Fold of the metadata log.
    Snapshot,
    /// Sorted output of a cut or merge.
    Run,
    /// End offsets and state of a lane's partitions.
    Checkpoint,
    /// Written by the start-up probe.
    Probe,
    /// A partition's older segment entries.
    Manifest,
}

const KINDS: [Kind; 8] = [
    Kind::Parcel,
    Kind::Seal,
    Kind::Meta,
    Kind::Snapshot,
    Kind::Run,
    Kind::Checkpoint,
    Kind::Probe,
    Kind::Manifest,
];

impl Kind {
    fn code(self) -> u8 {
        self as u8 + 1
    }

    fn from_code(code: u8) -> Option<Kind> {
        KINDS.get(usize::from(code).checked_sub(1)?).copied()
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Parcel => "parcel",
            Kind::Seal => "seal",
            Kind::Meta => "meta",
            Kind::Snapshot => "snapshot",
            Kind::Run => "run",
            Kind::Checkpoint => "checkpoint",
            Kind::Probe => "probe",
            Kind::Manifest => "manifest",
        })
    }
}

/// Why bytes are not the object they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Damage(pub String);

impl Damage {
    /// A reason.
    pub fn new(why: impl Into<String>) -> Damage {
        Damage(why.into())
    }

    /// The damage, blamed on an object.
    pub fn at(self, key: &str) -> Error {
        Error::Corrupt { key: key.to_owned(), why: self.0 }
    }
}

/// An object's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Format version.
    pub version: u8,
    /// What the object is.
    pub kind: Kind,
    /// Whose cluster it belongs to.
    pub cluster: ClusterId,
    /// Broker epoch of a lane's objects, generation of the metadata log's, else the creator's epoch.
    pub epoch: u64,
    /// Lane number; 0 outside lanes.
    pub lane: u32,
    /// Sequence number in its log; 0 outside logs.
    pub seq: Seq,
    /// The life that owns the log (in a seal: of the sealed log, its author is in the body).
    pub life: Life,
    /// Makes these bytes unlike any other.
    pub nonce: Nonce,
    /// Encryption key; 0 means none.
    pub key_id: u32,
    /// Bytes after the header; set by [`Header::encode`].
    pub body_length: u64,
    /// CRC32C of the header before it and of the covered bytes; set by [`Header::encode`].
    pub crc: u32,
}

impl Header {
    /// A header for an object of `life`'s log `(epoch, lane)` at `seq`.
    pub fn new(
        kind: Kind,
        cluster: ClusterId,
        epoch: u64,
        lane: u32,
        seq: Seq,
        life: Life,
        nonce: Nonce,
    ) -> Header {
        let (version, key_id, body_length, crc) = (VERSION, 0, 0, 0);
        Header { version, kind, cluster, epoch, lane, seq, life, nonce, key_id, body_length, crc }
    }

    /// A header for an object of a lane.
    pub fn of_lane(kind: Kind, cluster: ClusterId, lane: LaneId, seq: Seq, nonce: Nonce) -> Header {
        Header::new(kind, cluster, lane.epoch.0, lane.lane, seq, lane.life, nonce)
    }

    /// The lane it belongs to (meaningful for parcels and seals).
    pub fn lane_id(&self) -> LaneId {
        LaneId { epoch: BrokerEpoch(self.epoch), lane: self.lane, life: self.life }
    }

    /// Sets body length and CRC, and gives the bytes. `covered` is what the CRC covers besides the header.
    pub fn encode<'a>(
        &mut self,
        body_length: u64,
        covered: impl IntoIterator<Item = &'a [u8]>,
    ) -> [u8; HEADER_LEN] {
        self.body_length = body_length;
        let mut bytes = self.fields();
        self.crc = crc_over(&bytes, covered);
        bytes[92..].copy_from_slice(&self.crc.to_be_bytes());
        bytes
    }

    /// Reads the first 96 bytes of `bytes`: structure only, see [`Header::verify`].
    pub fn parse(bytes: &[u8]) -> Result<Header, Damage> {
        let mut scan =
            Scan::new(bytes.get(..HEADER_LEN).ok_or_else(|| Damage::new("shorter than a header"))?);
        if scan.array::<4>()? != MAGIC {
            return Err(Damage::new("not a Tidemark object: wrong magic"));
        }
        let version = scan.u8()?;
        if version == 0 || version > VERSION {
            return Err(Damage::new(format!("format version {version}, this build reads 1 to {VERSION}")));
        }
        let code = scan.u8()?;
        let kind = Kind::from_code(code).ok_or_else(|| Damage::new(format!("unknown kind {code}")))?;
        let zero = scan.u16()?;
        let cluster = ClusterId(scan.uuid()?);
        let header = Header {
            version,
            kind,
            cluster,
            epoch: scan.u64()?,
            lane: scan.u32()?,
            seq: Seq(scan.u64()?),
            life: Life::from_bytes(scan.array()?),
            nonce: Nonce::from_bytes(scan.array()?),
            key_id: scan.u32()?,
            body_length: scan.u64()?,
            crc: {
                let reserved = scan.u32()?;
                if zero != 0 || reserved != 0 {
                    return Err(Damage::new("reserved header bytes are not zero"));
                }
                scan.u32()?
            },
        };
        Ok(header)
    }

    /// Checks the CRC over the header's fields and `covered`.
    pub fn verify<'a>(&self, covered: impl IntoIterator<Item = &'a [u8]>) -> Result<(), Damage> {
        let found = crc_over(&self.fields(), covered);
        if found == self.crc {
            return Ok(());
        }
        Err(Damage::new(format!("CRC32C is {found:08x}, the header says {:08x}", self.crc)))
    }

    /// Checks that this is `kind` at `seq` of `lane` in `cluster` (R13).
    pub fn expect_lane(&self, kind: Kind, cluster: ClusterId, lane: LaneId, seq: Seq) -> Result<(), Damage> {
        if self.cluster != cluster {
            return Err(Damage::new(format!("belongs to cluster {}, not {cluster}", self.cluster)));
        }
        if self.lane_id() != lane || self.seq != seq {
            let (found, at) = (self.lane_id(), self.seq);
            return Err(Damage::new(format!(
                "is object {at} of lane {found} of life {}, not {seq} of lane {lane} of life {}",
                found.life, lane.life
            )));
        }
        if self.kind != kind {
            return Err(Damage::new(format!("is a {}, not a {kind}", self.kind)));
        }
        Ok(())
    }

    /// All fields with a zero CRC.
    fn fields(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4] = self.version;
        bytes[5] = self.kind.code();
        bytes[8..24].copy_from_slice(self.cluster.0.as_bytes());
        bytes[24..32].copy_from_slice(&self.epoch.to_be_bytes());
        bytes[32..36].copy_from_slice(&self.lane.to_be_bytes());
        bytes[36..44].copy_from_slice(&self.seq.0.to_be_bytes());
        bytes[44..60].copy_from_slice(&self.life.to_bytes());
        bytes[60..76].copy_from_slice(&self.nonce.to_bytes());
        bytes[76..80].copy_from_slice(&self.key_id.to_be_bytes());
        bytes[80..88].copy_from_slice(&self.body_length.to_be_bytes());
        bytes
    }
}

fn crc_over<'a>(fields: &[u8; HEADER_LEN], covered: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    covered.into_iter().fold(crc32c::crc32c(&fields[..92]), crc32c::crc32c_append)
}

/// A whole object of any kind but parcel: header, then a body that the CRC covers.
pub fn object(mut header: Header, body: impl Into<Bytes>) -> Vec<Bytes> {
    let body = body.into();
    let head = header.encode(body.len() as u64, [&body[..]]);
    vec![Bytes::copy_from_slice(&head), body]
}

/// Parses and verifies a whole object of any kind but parcel; gives its header and body.
pub fn open(bytes: &Bytes) -> Result<(Header, Bytes), Damage> {
    let header = Header::parse(bytes)?;
    if header.kind == Kind::Parcel {
        return Err(Damage::new("is a parcel"));
    }
    let body = bytes.slice(HEADER_LEN..);
    if body.len() as u64 != header.body_length {
        let (found, said) = (body.len(), header.body_length);
        return Err(Damage::new(format!("body is {found} bytes, the header says {said}")));
    }
    header.verify([&body[..]])?;
    Ok((header, body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn header() -> Header {
        let cluster = ClusterId(Uuid::from_u128(7));
        Header::new(Kind::Meta, cluster, 3, 0, Seq(9), Life(11), Nonce(13))
    }

    fn flat(pieces: Vec<Bytes>) -> Bytes {
        Bytes::from(pieces.concat())
    }

    #[test]
    fn header_and_body_come_back() {
        let bytes = flat(object(header(), &b"records"[..]));
        let (found, body) = open(&bytes).unwrap();
        assert_eq!(&body[..], b"records");
        assert_eq!((found.kind, found.epoch, found.seq), (Kind::Meta, 3, Seq(9)));
        assert_eq!(found.body_length, 7);
    }

    #[test]
    fn every_bit_flip_and_every_truncation_is_refused() {
        let bytes = flat(object(header(), &b"some records"[..]));
        for at in 0..bytes.len() {
            assert!(open(&bytes.slice(..at)).is_err(), "truncated to {at}");
            for bit in 0..8 {
                let mut bad = bytes.to_vec();
                bad[at] ^= 1 << bit;
                assert!(open(&Bytes::from(bad)).is_err(), "bit {bit} of byte {at}");
            }
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(open(&Bytes::from(longer)).is_err());
    }

    #[test]
    fn foreign_header_is_named() {
        let lane = LaneId { epoch: BrokerEpoch(1), lane: 0, life: Life(5) };
        let mine = Header::of_lane(Kind::Parcel, ClusterId::default(), lane, Seq(1), Nonce(1));
        let expect = |cluster, lane, seq| mine.expect_lane(Kind::Parcel, cluster, lane, seq);
        assert!(expect(ClusterId::default(), lane, Seq(1)).is_ok());
        assert!(expect(ClusterId(Uuid::from_u128(1)), lane, Seq(1)).is_err());
        assert!(expect(ClusterId::default(), LaneId { life: Life(6), ..lane }, Seq(1)).is_err());
        assert!(expect(ClusterId::default(), lane, Seq(2)).is_err());
        assert!(mine.expect_lane(Kind::Seal, ClusterId::default(), lane, Seq(1)).is_err());
    }

    proptest! {
        #[test]
        fn parse_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = open(&Bytes::from(bytes));
        }
    }
}
