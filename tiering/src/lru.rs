//! A map of bounded size: what was used longest ago goes first. Ordered, so that it is the same for the same seed.

use std::borrow::Borrow;
use std::collections::BTreeMap;

/// See the module. Every entry weighs one unless the caller says otherwise.
#[derive(Debug)]
pub struct Lru<K, V> {
    most: usize,
    weight: usize,
    tick: u64,
    held: BTreeMap<K, Held<V>>,
    used: BTreeMap<u64, K>,
}

#[derive(Debug)]
struct Held<V> {
    used: u64,
    weight: usize,
    value: V,
}

impl<K: Ord + Clone, V> Lru<K, V> {
    /// Empty; weighs at most `most`, but always keeps the newest entry.
    pub fn new(most: usize) -> Lru<K, V> {
        Lru { most, weight: 0, tick: 0, held: BTreeMap::new(), used: BTreeMap::new() }
    }

    /// The entry, which counts as used now.
    pub fn get<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let held = self.held.get_mut(key)?;
        self.tick += 1;
        let name = self.used.remove(&held.used)?;
        held.used = self.tick;
        self.used.insert(self.tick, name);
        Some(&mut held.value)
    }

    /// Puts an entry in, in the place of one of the same key, and takes out what is too much then.
    pub fn insert(&mut self, key: K, value: V, weight: usize) {
        self.remove(&key);
        self.tick += 1;
        self.weight += weight;
        self.used.insert(self.tick, key.clone());
        self.held.insert(key, Held { used: self.tick, weight, value });
        while self.weight > self.most && self.held.len() > 1 {
            let Some((_, oldest)) = self.used.pop_first() else { break };
            if let Some(gone) = self.held.remove(&oldest) {
                self.weight -= gone.weight;
            }
        }
    }

    /// Takes an entry out.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let gone = self.held.remove(key)?;
        self.used.remove(&gone.used);
        self.weight -= gone.weight;
        Some(gone.value)
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_longest_ago_goes_first_and_the_newest_always_stays() {
        let mut lru = Lru::new(3);
        let keys = |lru: &Lru<i32, i32>| (0..9).filter(|k| lru.held.contains_key(k)).collect::<Vec<_>>();
        for n in 0..3 {
            lru.insert(n, n * 10, 1);
        }
        assert_eq!(lru.get(&0), Some(&mut 0));
        lru.insert(3, 30, 1);
        assert_eq!(keys(&lru), [0, 2, 3]);
        lru.insert(4, 40, 2);
        assert_eq!(keys(&lru), [3, 4]);
        lru.insert(5, 50, 9);
        assert_eq!((keys(&lru), lru.get(&5)), (vec![5], Some(&mut 50)));
        assert_eq!((lru.remove(&5), lru.remove(&5), lru.is_empty()), (Some(50), None, true));
        lru.insert(1, 10, 3);
        assert_eq!(lru.len(), 1);
    }
}
