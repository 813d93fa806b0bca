//! The newest offset of each key, in bounded memory.
//!
//! An open table of 24 bytes an entry: half of a SHA-256 of the key, and an offset. Keys that anybody may choose must
//! not be made to meet there, since the older of two would count as superseded; so it is not a faster hash. It doubles
//! up to its bound, and past it only for who adds more than there is room for.

use sha2::{Digest, Sha256};
use tidemark_proto::id::Offset;

/// Bytes of one entry.
const SLOT: usize = size_of::<Slot>();
/// Entries of the smallest table.
const LEAST: usize = 1 << 10;

#[derive(Clone, Copy)]
struct Slot {
    hash: [u8; 16],
    /// -1: nothing is here.
    offset: i64,
}

const FREE: Slot = Slot { hash: [0; 16], offset: -1 };

/// See the module.
pub struct Newest {
    slots: Vec<Slot>,
    used: usize,
    /// Entries it may have without growing past its bound.
    most: usize,
}

impl std::fmt::Debug for Newest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Newest({} of {} keys)", self.used, self.most)
    }
}

impl Newest {
    /// An empty one that takes at most `bytes`.
    pub fn within(bytes: usize) -> Newest {
        let slots = (bytes / SLOT).max(LEAST);
        let slots = if slots.is_power_of_two() { slots } else { slots.next_power_of_two() / 2 };
        Newest { slots: Vec::new(), used: 0, most: filled(slots) }
    }

    /// Keys in it.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        self.slots.len() * SLOT
    }

    /// Whether `keys` more have room, all of them new.
    pub fn has_room(&self, keys: usize) -> bool {
        self.used + keys <= self.most
    }

    /// Notes that `key` is at `offset`, which is above all others.
    pub fn put(&mut self, key: &[u8], offset: Offset) {
        if self.used >= filled(self.slots.len()) {
            self.grow();
        }
        let hash = hash_of(key);
        let at = place(&self.slots, &hash);
        let slot = &mut self.slots[at];
        self.used += usize::from(slot.offset < 0);
        *slot = Slot { hash, offset: offset.0.max(slot.offset) };
    }

    /// Where the newest record of `key` is, if it has been seen.
    pub fn get(&self, key: &[u8]) -> Option<Offset> {
        if self.slots.is_empty() {
            return None;
        }
        let slot = self.slots[place(&self.slots, &hash_of(key))];
        (slot.offset >= 0).then_some(Offset(slot.offset))
    }

    fn grow(&mut self) {
        let mut slots = vec![FREE; (self.slots.len() * 2).max(LEAST)];
        for slot in self.slots.iter().filter(|slot| slot.offset >= 0) {
            let at = place(&slots, &slot.hash);
            slots[at] = *slot;
        }
        self.slots = slots;
    }
}

/// Entries that a table of so many slots has at most.
fn filled(slots: usize) -> usize {
    slots / 4 * 3
}

fn hash_of(key: &[u8]) -> [u8; 16] {
    let whole = Sha256::digest(key);
    let mut half = [0; 16];
    half.copy_from_slice(&whole[..16]);
    half
}

/// The slot of `hash`, or the free one where it belongs. There is a free one always, and the table has 2^n slots.
fn place(slots: &[Slot], hash: &[u8; 16]) -> usize {
    let mask = slots.len() - 1;
    let [a, b, c, d, e, f, g, h, ..] = *hash;
    let mut at = u64::from_be_bytes([a, b, c, d, e, f, g, h]) as usize & mask;
    while slots[at].offset >= 0 && slots[at].hash != *hash {
        at = (at + 1) & mask;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_newest_offset_however_often_the_table_grows() {
        let mut newest = Newest::within(1 << 20);
        assert_eq!((newest.get(b"k"), newest.is_empty()), (None, true));
        for offset in 0..60_000i64 {
            newest.put(&(offset % 20_000).to_be_bytes(), Offset(offset));
        }
        assert_eq!(newest.len(), 20_000);
        for key in 0..20_000i64 {
            assert_eq!(newest.get(&key.to_be_bytes()), Some(Offset(key + 40_000)));
        }
        assert_eq!(newest.get(&20_000i64.to_be_bytes()), None);
        assert_eq!(newest.get(b""), None, "an empty key is a key");
        newest.put(b"", Offset(7));
        assert_eq!(newest.get(b""), Some(Offset(7)));
    }

    #[test]
    fn it_stays_within_its_bound_for_as_long_as_room_is_asked_for() {
        for bytes in [0, 30_000, 100_000, 1 << 20] {
            let mut newest = Newest::within(bytes);
            let mut keys = 0i64;
            while newest.has_room(1) {
                newest.put(&keys.to_be_bytes(), Offset(keys));
                keys += 1;
            }
            assert!(newest.bytes() <= bytes.max(LEAST * SLOT), "{bytes}: {}", newest.bytes());
            assert!(keys as usize >= bytes / SLOT / 2 * 3 / 4, "{bytes}: {keys}");
        }
    }
}
