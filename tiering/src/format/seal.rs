//! A seal's body: who ended the log, and what comes next.
//!
//! The header of a seal names the log it ends (its epoch or generation, lane, life) and the place; its nonce
//! is the object's own. The author is in the body.

use bytes::Bytes;
use tidemark_proto::id::{Life, Nonce};

use super::scan::{Scan, put_string};
use super::{Damage, Header, Kind, object, open};

/// A seal is never longer than this, header included; every parcel below it in size has to be read to tell.
pub const SEAL_MAX: u64 = 2_048;

/// Longest address that is kept, in bytes.
const ADDRESS_MAX: usize = 1_024;

/// Who sealed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sealer {
    /// The author's life.
    pub life: Life,
    /// The author's nonce: in the metadata log, that of the ownership that follows (E7).
    pub nonce: Nonce,
    /// The next generation (metadata log), or the author's broker epoch or generation (lanes).
    pub next: u64,
    /// Where the author is reached.
    pub address: String,
}

/// The bytes of the seal that `header` (of kind seal) and its author make.
pub fn encode(header: Header, by: &Sealer) -> Vec<Bytes> {
    debug_assert_eq!(header.kind, Kind::Seal);
    let mut body = Vec::with_capacity(42 + by.address.len());
    body.extend_from_slice(&by.life.to_bytes());
    body.extend_from_slice(&by.nonce.to_bytes());
    body.extend_from_slice(&by.next.to_be_bytes());
    put_string(&mut body, &by.address[..by.address.floor_char_boundary(ADDRESS_MAX)]);
    object(header, body)
}

/// Reads and verifies a whole seal.
pub fn parse(bytes: &Bytes) -> Result<(Header, Sealer), Damage> {
    let (header, body) = open(bytes)?;
    if header.kind != Kind::Seal {
        return Err(Damage::new(format!("is a {}, not a seal", header.kind)));
    }
    let mut scan = Scan::new(&body);
    let by = Sealer {
        life: Life::from_bytes(scan.array()?),
        nonce: Nonce::from_bytes(scan.array()?),
        next: scan.u64()?,
        address: scan.string()?.to_owned(),
    };
    scan.end()?;
    Ok((header, by))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_proto::id::{ClusterId, Seq};

    #[test]
    fn seal_comes_back_and_no_flip_passes() {
        let by = Sealer { life: Life(1), nonce: Nonce(2), next: 3, address: "10.0.0.1:9999".into() };
        let header = Header::new(Kind::Seal, ClusterId::default(), 4, 5, Seq(6), Life(7), Nonce(8));
        let bytes = Bytes::from(encode(header, &by).concat());
        assert!(bytes.len() as u64 <= SEAL_MAX);
        assert_eq!(parse(&bytes).unwrap().1, by);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&Bytes::from(bad)).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn an_absurd_address_is_cut_and_the_seal_stays_small() {
        let by = Sealer { address: "ä".repeat(40_000), ..Sealer::default() };
        let header = Header::new(Kind::Seal, ClusterId::default(), 0, 0, Seq(0), Life(0), Nonce(0));
        let bytes = Bytes::from(encode(header, &by).concat());
        assert!(bytes.len() as u64 <= SEAL_MAX);
        assert_eq!(parse(&bytes).unwrap().1.address.len(), ADDRESS_MAX);
    }
}
