//! The end of an object whose header's CRC covers a footer: `footer · copy of the header · length · magic`.
//!
//! One read of the tail identifies such an object and gives its footer, verified.

use super::{Damage, HEADER_LEN, Header, Kind};

/// Copy of the header, footer length, magic.
pub const TRAILER_LEN: usize = HEADER_LEN + 8;

/// What the end of an object's bytes gave.
#[derive(Debug)]
pub enum Split<'a> {
    /// Header and footer, verified against each other; the footer begins at this place of the object.
    Whole(Header, &'a [u8], u64),
    /// The footer begins before the bytes at hand: this many of the last bytes are needed.
    Needs(u64),
}

/// Appends the trailer to `out`, which holds the footer, and gives the header's bytes. `before` is the length of
/// what lies between header and footer.
pub fn finish(out: &mut Vec<u8>, header: &mut Header, before: u64, magic: [u8; 4]) -> [u8; HEADER_LEN] {
    let length = out.len();
    let head = header.encode(before + (length + TRAILER_LEN) as u64, [&out[..]]);
    out.extend_from_slice(&head);
    out.extend_from_slice(&(length as u32).to_be_bytes());
    out.extend_from_slice(&magic);
    head
}

/// Takes the last bytes of an object of `size` bytes apart. Checks all but whose object it is.
pub fn split(tail: &[u8], size: u64, kind: Kind, magic: [u8; 4]) -> Result<Split<'_>, Damage> {
    let short = size > tail.len() as u64;
    let Some((rest, trailer)) = tail.split_last_chunk::<TRAILER_LEN>() else {
        return match short {
            true => Ok(Split::Needs(TRAILER_LEN as u64)),
            false => Err(Damage::new(format!("shorter than a {kind}'s trailer"))),
        };
    };
    if trailer[TRAILER_LEN - 4..] != magic {
        return Err(Damage::new(format!("does not end as a {kind} does")));
    }
    let header = Header::parse(trailer)?;
    if header.kind != kind {
        return Err(Damage::new(format!("is a {}, not a {kind}", header.kind)));
    }
    let mut length = [0; 4];
    length.copy_from_slice(&trailer[HEADER_LEN..HEADER_LEN + 4]);
    let length = u64::from(u32::from_be_bytes(length));
    if header.body_length.checked_add(HEADER_LEN as u64) != Some(size) {
        let said = header.body_length;
        return Err(Damage::new(format!("the object is {size} bytes, its body should be {said}")));
    }
    let needs = length + TRAILER_LEN as u64;
    if needs > header.body_length {
        return Err(Damage::new("the footer is longer than the object"));
    }
    let Some(at) = (rest.len() as u64).checked_sub(length) else {
        return match short {
            true => Ok(Split::Needs(needs)),
            false => Err(Damage::new("the footer is longer than the object")),
        };
    };
    let footer = &rest[at as usize..];
    header.verify([footer])?;
    Ok(Split::Whole(header, footer, size - needs))
}
