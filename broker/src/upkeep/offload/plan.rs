//! What is offloaded next: pure.

use std::sync::Arc;
use std::time::Duration;

use tidemark_proto::id::{LeaderEpoch, Millis, Offset, TopicPartition};
use tidemark_tiering::segment;

use super::super::needed::{Policy, risen_by_size, risen_past};
use crate::config;

/// A `local.retention.*` that says: as `retention.*`.
const AS_WHOLE: i64 = -2;
/// Below this, time alone makes no segment: requests cost more than they bring.
const LEAST: u64 = 16 << 20;

/// When a partition's data becomes a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// At once when so many bytes have gathered; a segment has no more, but for one batch that is larger.
    pub bytes: u64,
    /// After the time below with so many.
    pub least: u64,
    /// Since there was something to offload.
    pub after: Duration,
}

impl Limits {
    /// Of a topic.
    pub fn of(config: &config::Offload, topic: &config::Topic) -> Limits {
        let bytes = config.bytes.min(u64::try_from(topic.segment_bytes).unwrap_or(u64::MAX));
        let after = Duration::from_millis(u64::try_from(topic.segment_ms).unwrap_or(u64::MAX));
        Limits { bytes, least: bytes.min(LEAST), after: config.after.min(after) }
    }
}

/// What a partition has gathered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub of: TopicPartition,
    /// The epoch under which it is led here.
    pub leader_epoch: LeaderEpoch,
    /// Where its last segment ends, or its log starts.
    pub from: Offset,
    /// The last stable offset: what lies above may yet be aborted, and its marker is not there.
    pub until: Offset,
    /// About the bytes in between.
    pub pending: u64,
    /// Since there were any.
    pub waited: Duration,
    /// When they go.
    pub limits: Limits,
}

impl Candidate {
    /// Whether it is time.
    pub fn is_due(&self) -> bool {
        let Limits { bytes, least, after } = self.limits;
        self.from < self.until && (self.pending >= bytes || (self.pending >= least && self.waited >= after))
    }
}

/// How long a topic's data stays on the leader's disk (`local.retention.*`).
pub fn local(topic: &config::Topic) -> Policy {
    let or = |local: i64, whole: i64| Some(if local == AS_WHOLE { whole } else { local }).filter(|v| *v >= 0);
    Policy {
        ms: or(topic.local_retention_ms, topic.retention_ms),
        bytes: or(topic.local_retention_bytes, topic.retention_bytes).map(i64::unsigned_abs),
        compacted: false,
    }
}

/// From where on it stays there, of a log that starts at `start` with `pending` bytes above its segments. Only what is in
/// segments goes.
pub fn local_start(
    start: Offset,
    segments: &[Arc<segment::Row>],
    pending: u64,
    policy: Policy,
    now: Millis,
) -> Offset {
    let by_time = risen_past(start, segments, policy, now);
    let held = || segments.iter().filter(|row| row.last >= start).map(|row| (row.base, row.last, row.bytes));
    let bytes = pending + held().map(|(_, _, bytes)| bytes).sum::<u64>();
    policy.bytes.map_or(by_time, |keep| by_time.max(risen_by_size(start, bytes, keep, held())))
}

/// Who is next: of those that are due the one with the most.
pub fn next(candidates: &[Candidate]) -> Option<Candidate> {
    let due = candidates.iter().filter(|candidate| candidate.is_due());
    due.max_by_key(|candidate| (candidate.pending, std::cmp::Reverse(candidate.of))).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::tests::tp;

    fn candidate(partition: i32, pending: u64, waited: u64) -> Candidate {
        Candidate {
            of: tp(1, partition),
            leader_epoch: LeaderEpoch(0),
            from: Offset(5),
            until: Offset(9),
            pending,
            waited: Duration::from_secs(waited),
            limits: Limits { bytes: 64 << 20, least: LEAST, after: Duration::from_secs(1800) },
        }
    }

    #[test]
    fn a_segments_worth_goes_at_once_and_a_quarter_of_one_after_a_while() {
        assert!(candidate(0, 64 << 20, 0).is_due());
        assert!(!candidate(0, (64 << 20) - 1, 1799).is_due());
        assert!(candidate(0, 16 << 20, 1800).is_due());
        assert!(!candidate(0, (16 << 20) - 1, u64::MAX / 1000).is_due(), "a trickle stays in runs");
        let open = Candidate { until: Offset(5), ..candidate(0, 64 << 20, 0) };
        assert!(!open.is_due(), "an open transaction holds what lies above its first record");
    }

    #[test]
    fn the_fullest_goes_first() {
        let all = [candidate(0, 70 << 20, 0), candidate(1, 90 << 20, 0), candidate(2, 1 << 20, 9999)];
        assert_eq!(next(&all).map(|next| next.of), Some(tp(1, 1)));
        assert_eq!(next(&all[2..]), None);
    }

    #[test]
    fn only_what_is_in_segments_leaves_the_disk() {
        let row = |base, last, at| {
            let (base, last) = (Offset(base), Offset(last));
            let (max_timestamp, bytes) = (Millis(at), 100);
            Arc::new(segment::Row { base, last, max_timestamp, bytes, ..segment::Row::default() })
        };
        let rows = [row(0, 9, 10), row(10, 19, 20)];
        let kept = |ms, bytes| {
            let policy = Policy { ms, bytes, compacted: false };
            local_start(Offset(3), &rows, 50, policy, Millis(100)).0
        };
        assert_eq!((kept(None, None), kept(Some(85), None), kept(Some(0), None)), (3, 10, 20));
        assert_eq!((kept(None, Some(200)), kept(None, Some(150)), kept(None, Some(0))), (3, 10, 20));
        assert_eq!(kept(Some(85), Some(0)), 20, "the tighter one counts");
    }

    #[test]
    fn a_topic_may_ask_for_smaller_and_younger_segments_but_not_for_larger_ones() {
        let settings = config::Settings::load(None, &["tidemark.bucket=memory:".into()]).unwrap();
        let broker = config::Broker::new(settings).unwrap();
        let (config, topic) = (&broker.offload, |segment_bytes: i64, segment_ms: i64| {
            let set = [("segment.bytes", segment_bytes), ("segment.ms", segment_ms)];
            broker.topic(&set.map(|(key, value)| (key.to_owned(), value.to_string())).into())
        });
        let limits = Limits::of(config, &topic(1 << 30, 7 * 86_400_000));
        assert_eq!((limits.bytes, limits.least, limits.after.as_secs()), (64 << 20, LEAST, 1800));
        let limits = Limits::of(config, &topic(1 << 20, 60_000));
        assert_eq!((limits.bytes, limits.least, limits.after.as_secs()), (1 << 20, 1 << 20, 60));
    }
}
