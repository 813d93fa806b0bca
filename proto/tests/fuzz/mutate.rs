//! The dice and what they do to bytes.

/// SplitMix64: small, seeded, good enough for mutation.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `bound`, which is not zero.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.word() % bound as u64) as usize
    }

    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// Values at the edges of every width and of varints.
const EDGES: [i64; 16] = [
    0,
    1,
    -1,
    -2,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    i64::MAX,
    i64::MIN,
    0x3fff,
];

/// Does one to five small things to `bytes`; `other` lends pieces.
pub fn mutate(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..1 + random.below(5) {
        let at = random.below(bytes.len() + 1);
        match random.below(8) {
            0 => flip(random, bytes, at),
            1 => bytes.truncate(at),
            2 => {
                let value = random.word() as u8;
                bytes.insert(at, value);
            }
            3 => {
                let to = (at + random.below(16)).min(bytes.len());
                bytes.drain(at..to);
            }
            4 => edge(random, bytes, at),
            5 if !other.is_empty() => {
                let from = random.below(other.len());
                let to = (from + 1 + random.below(64)).min(other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            6 => {
                let to = (at + 1 + random.below(32)).min(bytes.len());
                let again = bytes[at..to].to_vec();
                bytes.splice(at..at, again);
            }
            _ => {
                let value = random.word() as u8;
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
        }
    }
}

fn flip(random: &mut Random, bytes: &mut [u8], at: usize) {
    let bit = 1 << random.below(8);
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= bit;
    }
}

fn edge(random: &mut Random, bytes: &mut [u8], at: usize) {
    let width = *random.pick(&[1, 2, 4, 8]);
    let value = random.pick(&EDGES).to_be_bytes();
    if let Some(place) = bytes.get_mut(at..at + width) {
        place.copy_from_slice(&value[8 - width..]);
    }
}
