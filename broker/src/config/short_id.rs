//! UUIDs in the 22 letters that Kafka's tools write and show: URL-safe base64 without padding.

use uuid::Uuid;

const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const LENGTH: usize = 22;

/// The id in 22 letters.
pub fn to_letters(id: Uuid) -> String {
    let bits = id.as_u128();
    let letter = |at: usize| match at {
        21 => (bits & 0b11) << 4,
        at => bits >> (122 - 6 * at),
    };
    (0..LENGTH).map(|at| char::from(LETTERS[(letter(at) & 63) as usize])).collect()
}

/// The id that 22 letters spell.
pub fn from_letters(text: &str) -> Option<Uuid> {
    if text.len() != LENGTH {
        return None;
    }
    let mut bits: u128 = 0;
    for (at, byte) in text.bytes().enumerate() {
        let value = LETTERS.iter().position(|letter| *letter == byte)? as u128;
        bits = match at {
            21 if value & 0b1111 != 0 => return None,
            21 => bits | value >> 4,
            at => bits | value << (122 - 6 * at),
        };
    }
    Some(Uuid::from_u128(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_their_letters() {
        assert_eq!(to_letters(Uuid::nil()), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(to_letters(Uuid::from_u128(u128::MAX)), "_____________________w");
        let id = Uuid::from_u128(0x4f2c_9b4e_2f0d_4e5c_9a52_0d6c_0f5b_2a11);
        assert_eq!(to_letters(id), "TyybTi8NTlyaUg1sD1sqEQ");
        assert_eq!(from_letters(&to_letters(id)), Some(id));
    }

    #[test]
    fn other_texts_spell_no_id() {
        for text in
            ["", "short", "_______________________", "!!!!!!!!!!!!!!!!!!!!!!", "_____________________x"]
        {
            assert_eq!(from_letters(text), None, "{text}");
        }
    }
}
