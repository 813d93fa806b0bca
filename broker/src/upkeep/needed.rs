//! What of the log is still needed, and for how long: the one place that says so.
//!
//! Pure. A *share* is what one object of a run holds of a partition side by side; retention takes it as Kafka takes a
//! segment: whole, by its greatest timestamp, and only from the front of the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemark_proto::id::{Millis, Offset, TopicId, TopicPartition};
use tidemark_tiering::segment;

use crate::cluster::image::{Image, Partition};
use crate::config;
use crate::node::is_internal;

/// Whether anybody may still read a share that ends with `last`: its topic is there, the log starts at or below it, and
/// not all of it lies in segments. No object may be pinned yet; where one can be, this is where it counts.
pub fn is_needed(image: &Image, tp: TopicPartition, last: Offset) -> bool {
    image.partition(tp).is_some_and(|partition| last >= runs_needed_from(partition))
}

/// The first offset that a partition's runs are needed for. Below, the log is deleted or lies in segments: they follow on
/// each other and reach down to the log start, and one that reaches above it is never retired.
pub fn runs_needed_from(partition: &Partition) -> Offset {
    partition.log_start.max(partition.tiered().unwrap_or_default())
}

/// Whether the log reaches down to `last`.
pub fn is_in_log(image: &Image, tp: TopicPartition, last: Offset) -> bool {
    image.partition(tp).is_some_and(|partition| last >= partition.log_start)
}

/// Where the log of a partition that starts at `start` starts when its segments go that have outlived `policy`. One whose
/// records have no time is as old as the next that has one.
pub fn risen_past(start: Offset, segments: &[Arc<segment::Row>], policy: Policy, now: Millis) -> Offset {
    let mut newest = Millis(-1);
    let is_over = |row: &&Arc<segment::Row>| {
        newest = if row.max_timestamp.0 >= 0 { row.max_timestamp } else { newest };
        row.last >= start && policy.is_over(newest, now)
    };
    let over = segments.iter().rev().filter(is_over).map(|row| (row.base, row.last));
    risen(start, &mut over.collect::<Vec<_>>())
}

/// How long a topic's data is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Milliseconds; `None` for ever.
    pub ms: Option<i64>,
    /// Bytes a partition; `None` without bound.
    pub bytes: Option<u64>,
    /// Whether the topic is compacted.
    pub compacted: bool,
}

/// A span that a class is kept; the next one up is twice as long.
const SHORTEST_MS: i64 = 1 << 12;
const COMPACTED: u32 = 64;

impl Policy {
    /// Of a topic with these settings.
    pub fn of(name: &str, topic: &config::Topic) -> Policy {
        let deletes = topic.deleted && !is_internal(name);
        let bound = |value: i64| Some(value).filter(|value| deletes && *value >= 0);
        Policy {
            ms: bound(topic.retention_ms),
            bytes: bound(topic.retention_bytes).map(i64::unsigned_abs),
            compacted: topic.compacted || is_internal(name),
        }
    }

    /// Whether a share whose greatest timestamp is `newest` has outlived it (Kafka: older than, not as old as).
    pub fn is_over(&self, newest: Millis, now: Millis) -> bool {
        let over = |ms: &i64| newest.0 >= 0 && now.0.saturating_sub(newest.0) > *ms;
        self.ms.as_ref().is_some_and(over)
    }

    /// When that will be.
    pub fn over_at(&self, newest: Millis) -> Option<Millis> {
        let at = self.ms.filter(|_| newest.0 >= 0)?;
        Some(Millis(newest.0.saturating_add(at).saturating_add(1)))
    }

    /// What it has in common with others that are kept about as long: their data may lie in one object. Never 0.
    pub fn class(&self) -> u32 {
        let bucket = match self.ms {
            None => 0,
            Some(ms) => 1 + (ms / SHORTEST_MS).max(1).ilog2(),
        };
        1 + bucket + if self.compacted { COMPACTED } else { 0 }
    }
}

/// Whether topics of `class` are compacted.
pub fn is_compacted(class: u32) -> bool {
    class > COMPACTED
}

/// How much time the data of one object of a class may span: an eighth of what all its topics keep.
pub fn span(class: u32) -> Option<i64> {
    let bucket = class.checked_sub(1)? % COMPACTED;
    let shortest = SHORTEST_MS.checked_shl(bucket.checked_sub(1)?)?;
    Some((shortest / 8).max(1))
}

/// Policies of all topics, as of one look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies(BTreeMap<TopicId, Policy>);

impl Policies {
    /// Of the topics of `image`, by what brokers set now.
    pub fn of(image: &Image, config: &config::Broker) -> Policies {
        let of =
            |topic: &crate::cluster::image::Topic| Policy::of(&topic.name, &config.topic(&topic.configs));
        Policies(image.topics().map(|topic| (topic.id, of(topic))).collect())
    }

    /// A topic's; nothing is ever over of one that was not there.
    pub fn get(&self, topic: TopicId) -> Policy {
        self.0.get(&topic).copied().unwrap_or_default()
    }

    /// Whether a topic that both know keeps its data otherwise in `others`.
    pub fn differ(&self, others: &Policies) -> bool {
        self.0.iter().any(|(topic, policy)| others.0.get(topic).is_some_and(|other| other != policy))
    }

    /// The shortest time that any topic keeps its data.
    pub fn shortest(&self) -> Option<i64> {
        self.0.values().filter_map(|policy| policy.ms).min()
    }

    /// Whether some topic bounds the bytes of its partitions.
    pub fn bound_bytes(&self) -> bool {
        self.0.values().any(|policy| policy.bytes.is_some())
    }
}

/// Where a log that starts at `start` starts when of `over`, shares that have outlived retention, those at its front go.
pub fn risen(start: Offset, over: &mut [(Offset, Offset)]) -> Offset {
    over.sort_unstable();
    over.iter().fold(start, |start, (base, last)| match *base <= start && start <= *last {
        true => last.plus(1),
        false => start,
    })
}

/// Where the log starts when as many of `shares` (first and last offset, bytes), in order, go from its front as leave at
/// least `keep` bytes of `bytes`. What is not in runs yet stays, and all behind it.
pub fn risen_by_size(
    start: Offset,
    bytes: u64,
    keep: u64,
    shares: impl Iterator<Item = (Offset, Offset, u64)>,
) -> Offset {
    let (mut start, mut spare) = (start, bytes.saturating_sub(keep));
    for (base, last, size) in shares {
        let Some(rest) = spare.checked_sub(size).filter(|_| base <= start) else { break };
        (start, spare) = (start.max(last.plus(1)), rest);
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(ms: Option<i64>) -> Policy {
        Policy { ms, ..Policy::default() }
    }

    #[test]
    fn a_share_goes_when_it_is_older_than_retention_and_never_without_a_time() {
        let week = kept(Some(100));
        assert!(!week.is_over(Millis(50), Millis(150)), "as old as");
        assert!(week.is_over(Millis(50), Millis(151)));
        assert_eq!(week.over_at(Millis(50)), Some(Millis(151)));
        assert!(!week.is_over(Millis(1_000), Millis(151)), "of the future");
        assert!(
            !week.is_over(Millis(-1), Millis(i64::MAX)) && !kept(None).is_over(Millis(0), Millis(i64::MAX))
        );
        assert!(kept(Some(0)).is_over(Millis(5), Millis(6)));
        assert!(!kept(Some(i64::MAX)).is_over(Millis(0), Millis(i64::MAX)));
    }

    #[test]
    fn only_the_front_of_a_log_goes() {
        let of = |shares: &[(i64, i64)]| -> Vec<(Offset, Offset)> {
            shares.iter().map(|(base, last)| (Offset(*base), Offset(*last))).collect()
        };
        let from = |start, shares: &[(i64, i64)]| risen(Offset(start), &mut of(shares)).0;
        assert_eq!(from(0, &[(10, 19), (0, 9)]), 20);
        assert_eq!(from(0, &[(10, 19)]), 0, "what is before it stays");
        assert_eq!(from(5, &[(0, 9), (20, 29)]), 10);
        assert_eq!(from(30, &[(0, 9), (20, 29)]), 30);
        assert_eq!(from(0, &[]), 0);
    }

    #[test]
    fn runs_are_needed_above_segments_and_the_log_start() {
        let row = |base, last, max| {
            let (base, last) = (Offset(base), Offset(last));
            Arc::new(segment::Row { base, last, max_timestamp: Millis(max), ..segment::Row::default() })
        };
        let rows = vec![row(0, 9, 50), row(10, 19, 60), row(20, 29, 55)];
        let partition = |start, rows: &[Arc<segment::Row>]| Partition {
            log_start: Offset(start),
            segments: (!rows.is_empty()).then(|| Arc::new(rows.to_vec())),
            ..Partition::default()
        };
        assert_eq!(runs_needed_from(&partition(0, &[])), Offset(0));
        assert_eq!(runs_needed_from(&partition(5, &rows[..1])), Offset(10));
        assert_eq!(runs_needed_from(&partition(12, &rows[..1])), Offset(12));
        let past = |start, now| risen_past(Offset(start), &rows, kept(Some(100)), Millis(now)).0;
        assert_eq!((past(0, 150), past(0, 151), past(0, 160), past(0, 161)), (0, 10, 10, 30));
        assert_eq!(past(3, 156), 10, "one that is over behind one that is not stays");
        assert_eq!(past(35, 1_000), 35);
        let untimed = [row(0, 9, -1), row(10, 19, 60), row(20, 29, -1)];
        let past = |now| risen_past(Offset(0), &untimed, kept(Some(100)), Millis(now)).0;
        assert_eq!((past(160), past(161), past(9_999)), (0, 20, 20), "as old as the next that has a time");
    }

    #[test]
    fn by_size_at_least_the_bound_is_left() {
        let shares = [(0, 9), (10, 19), (20, 29), (40, 49)];
        let shares = shares.map(|(base, last)| (Offset(base), Offset(last), 100));
        let from = |keep| risen_by_size(Offset(3), 450, keep, shares.into_iter()).0;
        assert_eq!((from(450), from(351), from(350), from(249)), (3, 3, 10, 20));
        assert_eq!(from(0), 30, "what lies between is in parcels yet");
    }

    #[test]
    fn a_class_spans_an_eighth_of_what_each_of_its_topics_keeps() {
        for ms in [0, 1, 5_000, 60_000, 3_600_000, 604_800_000, 31_536_000_000, i64::MAX] {
            let span = span(kept(Some(ms)).class()).expect("it ends");
            assert!(span <= (ms.max(SHORTEST_MS) / 8).max(1) && span >= ms / 16, "{ms}: {span}");
        }
        assert_eq!(span(kept(None).class()), None);
        let compacted = Policy { compacted: true, ..kept(None) };
        assert_ne!(compacted.class(), kept(None).class());
        let longest = kept(Some(i64::MAX));
        assert!(is_compacted(compacted.class()) && !is_compacted(longest.class()) && !is_compacted(0));
        assert_eq!((span(compacted.class()), span(0)), (None, None));
    }
}
