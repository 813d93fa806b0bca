//! Runs by the ranges they hold, so that a look-up need not go through all that ever were.
//!
//! Derived from the image's rows, never stored. An object of few topics is found by their exact ranges; of objects
//! with many, all are looked through, but only back to the version asked for. Rows of version 0 were named by a
//! build that did not note it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use tidemark_tiering::run::RunRow;

/// Rows in the order of their commits.
type Rows = Vec<Arc<RunRow>>;
/// The same, each with a pair of bounds.
type Wide = Vec<((u32, u32), Arc<RunRow>)>;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunIndex {
    points: BTreeMap<u32, Arc<Rows>>,
    wide: Arc<Wide>,
    /// Versions at which runs were named, one for each.
    committed: Arc<Vec<u64>>,
}

impl RunIndex {
    /// All rows, whatever their order.
    pub fn of<'a>(runs: impl Iterator<Item = &'a Arc<RunRow>>) -> RunIndex {
        let mut sorted: Vec<&Arc<RunRow>> = runs.collect();
        sorted.sort_by_key(|run| (run.committed, run.id));
        let mut index = RunIndex::default();
        sorted.into_iter().for_each(|run| index.insert(run));
        index
    }

    /// Takes a row in; they come in the order of their commits.
    pub fn insert(&mut self, run: &Arc<RunRow>) {
        Arc::make_mut(&mut self.committed).push(run.committed);
        for &(first, last) in &run.ranges {
            if first == last {
                let runs = Arc::make_mut(self.points.entry(first).or_default());
                if runs.last().is_none_or(|newest| newest.id != run.id) {
                    runs.push(run.clone());
                }
            } else {
                Arc::make_mut(&mut self.wide).push(((first, last), run.clone()));
            }
        }
    }

    /// The runs that may hold partitions of `range`, named at the version `since` or later; newest first.
    pub fn holding(&self, range: u32, since: u64) -> impl Iterator<Item = &Arc<RunRow>> {
        let points = self.points.get(&range).into_iter().flat_map(|runs| runs.iter().rev());
        let points = points.take_while(move |run| run.committed >= since).map(|run| (run.committed, run));
        let wide = self.wide.iter().rev().take_while(move |(_, run)| run.committed >= since);
        let wide = wide.filter(move |((first, last), _)| (*first..=*last).contains(&range));
        let mut found: Vec<_> = points.chain(wide.map(|(_, run)| (run.committed, run))).collect();
        found.sort_by_key(|(committed, run)| Reverse((*committed, run.id)));
        found.dedup_by(|a, b| a.1.id == b.1.id);
        found.into_iter().map(|(_, run)| run)
    }

    /// How many runs were named at the version `since` or later.
    pub fn since(&self, since: u64) -> usize {
        self.committed.len() - self.committed.partition_point(|committed| *committed < since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn run(n: u128, committed: u64, ranges: &[(u32, u32)]) -> Arc<RunRow> {
        Arc::new(RunRow { id: Uuid::from_u128(n), ranges: ranges.to_vec(), committed, ..RunRow::default() })
    }

    #[test]
    fn a_look_up_gives_what_may_hold_the_range_and_came_later() {
        let mut index = RunIndex::default();
        let runs = [
            run(1, 5, &[(7, 7), (9, 9)]),
            run(2, 6, &[(0, 100)]),
            run(3, 6, &[(9, 9)]),
            run(4, 8, &[(5, 8), (7, 7)]),
            run(5, 9, &[(8, 8)]),
        ];
        runs.iter().for_each(|run| index.insert(run));
        let found =
            |range, since| -> Vec<u128> { index.holding(range, since).map(|run| run.id.as_u128()).collect() };
        assert_eq!(found(7, 0), [4, 2, 1], "a run with two pairs that hold it is found once");
        assert_eq!((found(7, 6), found(7, 7), found(7, 9)), (vec![4, 2], vec![4], vec![]));
        assert_eq!((found(9, 0), found(8, 0), found(200, 0)), (vec![3, 2, 1], vec![5, 4, 2], vec![]));
        assert_eq!((index.since(0), index.since(6), index.since(10)), (5, 4, 0));
    }
}
