//! Answers that wait for a parcel to become durable, as plain data.
//!
//! Refusals are parked too where they rest on state that is not durable, so that nobody learns of a fact that a
//! takeover may undo. Knows no channel: what is released goes back to the caller.

use std::collections::BTreeMap;

use tidemark_proto::id::Seq;

/// Answers by the sequence whose commit releases them.
#[derive(Debug)]
pub struct Parked<T> {
    waiting: BTreeMap<Seq, Vec<T>>,
    count: usize,
}

impl<T> Default for Parked<T> {
    fn default() -> Self {
        Parked { waiting: BTreeMap::new(), count: 0 }
    }
}

impl<T> Parked<T> {
    /// Parks `answer` until `seq` is committed.
    pub fn park(&mut self, seq: Seq, answer: T) {
        self.waiting.entry(seq).or_default().push(answer);
        self.count += 1;
    }

    /// Everything that waited for a sequence below `upto`, in order of sequence, then of arrival.
    pub fn release(&mut self, upto: Seq) -> Vec<T> {
        let later = self.waiting.split_off(&upto);
        let due: Vec<T> = std::mem::replace(&mut self.waiting, later).into_values().flatten().collect();
        self.count -= due.len();
        due
    }

    /// Everything, for a lane that has ended.
    pub fn release_all(&mut self) -> Vec<T> {
        self.count = 0;
        std::mem::take(&mut self.waiting).into_values().flatten().collect()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True when none waits.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_leave_in_order_and_only_below_the_bound() {
        let mut parked = Parked::default();
        parked.park(Seq(3), "c");
        parked.park(Seq(1), "a");
        parked.park(Seq(1), "b");
        assert!(parked.release(Seq(1)).is_empty());
        assert_eq!(parked.release(Seq(3)), ["a", "b"]);
        assert_eq!((parked.len(), parked.release_all()), (1, vec!["c"]));
        assert!(parked.is_empty());
    }
}
