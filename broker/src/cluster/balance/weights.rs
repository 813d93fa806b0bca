//! Moves by what brokers carry: where one carries much more than another, something heavy goes, and if counts ask for it
//! something light comes back. Pure.

use std::collections::BTreeMap;

use tidemark_proto::id::{BrokerId, TopicPartition};

use super::super::image::Image;
use super::super::load::Load;
use super::{Avoid, Counts, TOLERANCE};

/// Differences below this are left alone: a move costs two requests and a pause of its producers.
const FLOOR: u64 = 1 << 20;

/// A difference matters where it is more than this part (in percent) of what a broker carries on average.
const WORTH: u64 = 30;

/// A partition goes where it weighs at least, and at most, this part (in percent) of the difference: less is not worth a
/// move, more would only turn the difference round.
const SHARE: std::ops::RangeInclusive<u64> = 15..=85;

/// Heavy partitions moved at a time.
const MOVES: usize = 8;

/// What brokers carry, as they told it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loads {
    brokers: BTreeMap<BrokerId, u64>,
    partitions: BTreeMap<TopicPartition, u64>,
}

impl Loads {
    /// A broker told this.
    pub fn add(&mut self, node: BrokerId, load: &Load) {
        self.brokers.insert(node, load.total());
        for (tp, weight) in &load.heaviest {
            *self.partitions.entry(*tp).or_default() += weight;
        }
    }

    fn of(&self, tp: TopicPartition) -> u64 {
        self.partitions.get(&tp).copied().unwrap_or(0)
    }
}

type Moves = Vec<(TopicPartition, BrokerId)>;

/// Moves that even out what the brokers in `led` carry, and a sentence that says why.
pub(super) fn weighed(
    image: &Image,
    led: &mut Counts,
    loads: &Loads,
    avoid: &Avoid,
) -> Option<(Moves, String)> {
    let mut carried: BTreeMap<BrokerId, u64> =
        led.keys().map(|node| (*node, loads.brokers.get(node).copied().unwrap_or(0))).collect();
    let ((from, most), (to, least)) = extremes(&carried, avoid)?;
    if !matters(&carried, most - least) {
        return None;
    }
    let mut shares = shares(image, led, loads, avoid);
    let mut moves = Vec::new();
    for _ in 0..MOVES {
        let Some(((from, most), (to, least))) = extremes(&carried, avoid) else { break };
        let gap = most - least;
        if !matters(&carried, gap) {
            break;
        }
        let Some((out, back)) = pair(&shares, led, loads, avoid, (from, to, gap)) else { break };
        let weight = loads.of(out) - back.map_or(0, |tp| loads.of(tp));
        *carried.entry(from).or_default() -= weight.min(most);
        *carried.entry(to).or_default() += weight;
        for (tp, giver, taker) in [(Some(out), from, to), (back, to, from)] {
            let Some(tp) = tp else { continue };
            shares.entry(giver).or_default().retain(|mine| *mine != tp);
            led.entry(giver).and_modify(|count| *count = count.saturating_sub(1));
            *led.entry(taker).or_default() += 1;
            moves.push((tp, taker));
        }
    }
    let now = |node: &BrokerId| tenths(carried.get(node).copied().unwrap_or(0));
    let why = format!(
        "{} by load: broker {from} carries {} MiB/s and broker {to} {}, afterwards {} and {}",
        moves.len(),
        tenths(most),
        tenths(least),
        now(&from),
        now(&to)
    );
    (!moves.is_empty()).then_some((moves, why))
}

fn matters(carried: &BTreeMap<BrokerId, u64>, gap: u64) -> bool {
    let mean = carried.values().sum::<u64>() / (carried.len() as u64).max(1);
    gap >= FLOOR && gap * 100 >= mean * WORTH
}

/// Who carries most, and who least of those that may be given something.
fn extremes(carried: &BTreeMap<BrokerId, u64>, avoid: &Avoid) -> Option<((BrokerId, u64), (BrokerId, u64))> {
    let copied = |(node, weight): (&BrokerId, &u64)| (*node, *weight);
    let most = carried.iter().max_by_key(|(_, weight)| **weight).map(copied)?;
    let may = carried.iter().filter(|(node, _)| **node != most.0 && !avoid.brokers.contains(node));
    let least = may.min_by_key(|(_, weight)| **weight).map(copied)?;
    Some((most, least))
}

/// What each broker leads and nobody assigned, the lightest first.
fn shares(
    image: &Image,
    led: &Counts,
    loads: &Loads,
    avoid: &Avoid,
) -> BTreeMap<BrokerId, Vec<TopicPartition>> {
    let mut shares = BTreeMap::<BrokerId, Vec<TopicPartition>>::new();
    for (tp, p) in image.partitions() {
        let leader = p.leader.filter(|node| led.contains_key(node));
        if let (Some(leader), true, false) = (leader, p.assigned.is_empty(), avoid.stuck(tp)) {
            shares.entry(leader).or_default().push(tp);
        }
    }
    shares.values_mut().for_each(|share| share.sort_by_key(|tp| (loads.of(*tp), *tp)));
    shares
}

/// What goes from one broker to another so that they carry nearly the same, and what comes back for it.
fn pair(
    shares: &BTreeMap<BrokerId, Vec<TopicPartition>>,
    led: &Counts,
    loads: &Loads,
    avoid: &Avoid,
    (from, to, gap): (BrokerId, BrokerId, u64),
) -> Option<(TopicPartition, Option<TopicPartition>)> {
    let fits =
        |tp: &&TopicPartition| SHARE.contains(&(loads.of(**tp) * 100 / gap.max(1))) && !avoid.holds(**tp, to);
    let out = shares.get(&from)?.iter().filter(fits).min_by_key(|tp| loads.of(**tp).abs_diff(gap / 2))?;
    let count = |node: &BrokerId| led.get(node).copied().unwrap_or(0);
    let (giver, taker) = (count(&from).saturating_sub(1), count(&to) + 1);
    if taker.saturating_sub(giver) <= (taker / TOLERANCE).max(1) {
        return Some((*out, None));
    }
    let back = shares.get(&to)?.iter().find(|tp| !avoid.holds(**tp, from))?;
    (loads.of(*back) * 2 <= loads.of(*out)).then_some((*out, Some(*back)))
}

/// MiB, with one digit behind the point.
fn tenths(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) >> 20;
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{image, one, tp};
    use super::super::{Balance, balance};
    use super::*;
    use crate::cluster::record::Record;

    const MIB: u64 = 1 << 20;

    fn plan(image: &Image, brokers: &[(i32, &[(i32, u64)])]) -> Option<Balance> {
        let mut loads = Loads::default();
        for (node, partitions) in brokers {
            let heaviest = partitions.iter().map(|(index, mib)| (tp(*index), *mib * MIB)).collect();
            loads.add(BrokerId(*node), &Load { heaviest, rest: 0 });
        }
        balance(image, &Avoid::default(), Some(&loads))
    }

    fn moved(image: &Image, brokers: &[(i32, &[(i32, u64)])]) -> Vec<(i32, i32)> {
        let moves = plan(image, brokers).map(|plan| plan.moves).unwrap_or_default();
        moves.into_iter().map(|(tp, node)| (tp.partition.0, node.0)).collect()
    }

    #[test]
    fn a_heavy_partition_goes_to_who_carries_little_and_a_light_one_comes_back() {
        let image = image(2, &[1, 1, 2, 2]);
        let brokers: [(i32, &[(i32, u64)]); 2] = [(1, &[(0, 40), (1, 40)]), (2, &[(2, 1), (3, 2)])];
        assert_eq!(moved(&image, &brokers), [(0, 2), (2, 1)]);
        let why = plan(&image, &brokers).unwrap().why;
        assert_eq!(why, "2 by load: broker 1 carries 80.0 MiB/s and broker 2 3.0, afterwards 41.0 and 42.0");
    }

    #[test]
    fn nothing_comes_back_where_counts_allow_it() {
        let image = image(2, &[1, 1, 2]);
        assert_eq!(moved(&image, &[(1, &[(0, 40), (1, 40)]), (2, &[(2, 2)])]), [(0, 2)]);
    }

    #[test]
    fn small_differences_and_what_a_move_would_not_mend_are_left_alone() {
        let image = image(2, &[1, 1, 2, 2]);
        assert_eq!(moved(&image, &[(1, &[(0, 30), (1, 30)]), (2, &[(2, 25), (3, 25)])]), []);
        assert_eq!(moved(&image, &[(1, &[(0, 0), (1, 0)]), (2, &[])]), []);
        let giant = [(1, &[(0, 90), (1, 0)][..]), (2, &[(2, 1), (3, 1)][..])];
        assert_eq!(moved(&image, &giant), [], "it would only be broker 2 then");
    }

    #[test]
    fn what_somebody_assigned_stays_whatever_it_weighs() {
        let mut image = image(2, &[1, 1, 2, 2]);
        let replicas = vec![BrokerId(1)];
        image.apply(&Record::ReplicasAssigned { replicas, partitions: one(0) });
        let brokers: [(i32, &[(i32, u64)]); 2] = [(1, &[(0, 40), (1, 30)]), (2, &[(2, 1), (3, 2)])];
        assert_eq!(moved(&image, &brokers), [(1, 2), (2, 1)]);
    }

    #[test]
    fn evenness_comes_first_and_what_was_moved_by_load_stays() {
        let image = image(2, &[1, 1, 1, 1]);
        let brokers: [(i32, &[(i32, u64)]); 2] = [(1, &[(0, 40), (1, 40)]), (2, &[])];
        let plan = plan(&image, &brokers).unwrap();
        assert!(plan.why.contains("for evenness"), "{}", plan.why);
        let after = super::super::tests::image(2, &[2, 1, 1, 2]);
        assert_eq!(moved(&after, &[(1, &[(1, 40), (2, 1)]), (2, &[(0, 40), (3, 2)])]), []);
    }
}
