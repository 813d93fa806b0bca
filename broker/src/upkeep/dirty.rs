//! What of a partition is dirty, and whether that is enough to compact it: Kafka's rules, by shares.
//!
//! Pure. Only what runs hold without a hole from the log's start on is compacted, below the last stable offset, and no
//! share that is younger than `min.compaction.lag.ms`. What is not cut yet stays, as Kafka's active segment does.

use tidemark_proto::id::{Millis, Offset};

use crate::archive::Share;
use crate::config;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dirt {
    /// The first dirty offset.
    pub from: Offset,
    /// Where what may be compacted ends; at the border of a batch.
    pub until: Offset,
    /// Dirty bytes of all that may be compacted, 0 to 1.
    pub ratio: f64,
    /// The oldest of the dirty shares is as old as this.
    pub age_ms: i64,
}

impl Dirt {
    /// Of a log that starts at `start`, was compacted up to `cleaned` and is stable up to `stable`. `None` where nothing is
    /// dirty.
    pub fn of(
        shares: &[Share],
        start: Offset,
        (cleaned, stable): (Offset, Offset),
        now: Millis,
        topic: &config::Topic,
    ) -> Option<Dirt> {
        let from = cleaned.max(start);
        let (mut until, mut clean, mut dirty) = (None::<Offset>, 0.0, 0.0);
        let mut oldest: Option<Millis> = None;
        for share in shares.iter().filter(|share| share.last >= start) {
            let follows = until.map_or(share.base <= start, |end| share.base == end);
            let young = share.last >= from && is_young(share, now, topic);
            if !follows || young || share.base >= stable {
                break;
            }
            let end = share.last.plus(1).min(stable);
            let part = |from: Offset, to: Offset| {
                let (offsets, all) = ((to.0 - from.0).max(0), share.last.0 - share.base.0 + 1);
                share.bytes as f64 * offsets as f64 / all as f64
            };
            clean += part(share.base, end.min(from));
            dirty += part(share.base.max(from), end);
            if end > from {
                oldest = Some(oldest.map_or(share.max_timestamp, |oldest| oldest.min(share.max_timestamp)));
            }
            until = Some(share.last.plus(1));
        }
        let age_ms = now.0.saturating_sub(oldest?.0);
        Some(Dirt { from, until: until?.min(stable), ratio: dirty / (clean + dirty), age_ms })
    }

    /// Whether it is enough (Kafka: more than the ratio, or something has waited too long).
    pub fn is_enough(&self, topic: &config::Topic) -> bool {
        self.ratio > topic.min_cleanable_dirty_ratio || self.age_ms > topic.max_compaction_lag_ms
    }
}

fn is_young(share: &Share, now: Millis, topic: &config::Topic) -> bool {
    let lag = topic.min_compaction_lag_ms;
    lag > 0 && share.max_timestamp.0 > now.0.saturating_sub(lag)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use uuid::Uuid;

    use super::*;

    const NOW: Millis = Millis(1_000);

    fn shares(of: &[(i64, i64)]) -> Vec<Share> {
        let share = |(base, last): &(i64, i64)| Share {
            run: Uuid::nil(),
            base: Offset(*base),
            last: Offset(*last),
            max_timestamp: Millis(*last),
            position: 0,
            bytes: (last - base + 1) as u64 * 10,
        };
        of.iter().map(share).collect()
    }

    fn topic(sets: &[(&str, &str)]) -> config::Topic {
        let settings = config::Settings::load(None, &["tidemark.bucket=memory:".to_owned()]).unwrap();
        let sets: BTreeMap<String, String> =
            sets.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        config::Broker::new(settings).unwrap().topic(&sets)
    }

    fn dirt(of: &[(i64, i64)], start: i64, cleaned: i64, stable: i64) -> Option<(i64, i64, f64)> {
        let bounds = (Offset(cleaned), Offset(stable));
        let dirt = Dirt::of(&shares(of), Offset(start), bounds, NOW, &topic(&[]))?;
        Some((dirt.from.0, dirt.until.0, dirt.ratio))
    }

    #[test]
    fn what_lies_above_the_last_pass_is_dirty_up_to_what_is_stable() {
        let log = [(0, 9), (10, 19), (20, 39)];
        assert_eq!(dirt(&log, 0, 0, 100), Some((0, 40, 1.0)));
        assert_eq!(dirt(&log, 0, 20, 100), Some((20, 40, 0.5)));
        assert_eq!(dirt(&log, 0, 20, 30), Some((20, 30, 1.0 / 3.0)), "part of a share");
        assert_eq!(dirt(&log, 0, 40, 100), None);
        assert_eq!(dirt(&log, 0, 20, 20), None, "a transaction is open");
        assert_eq!(dirt(&log, 15, 0, 100), Some((15, 40, 25.0 / 30.0)), "what is deleted does not count");
    }

    #[test]
    fn nothing_beyond_a_hole_is_compacted() {
        assert_eq!(dirt(&[(0, 9), (11, 19)], 0, 0, 100), Some((0, 10, 1.0)));
        assert_eq!(dirt(&[(5, 9)], 0, 0, 100), None, "the front is not cut yet");
        assert_eq!(dirt(&[], 0, 0, 100), None);
    }

    #[test]
    fn young_shares_wait_and_old_ones_do_not() {
        let log = shares(&[(0, 9), (10, 950), (951, 960)]);
        let of = |sets: &[(&str, &str)], cleaned| {
            let topic = topic(sets);
            let dirt = Dirt::of(&log, Offset(0), (Offset(cleaned), Offset(5_000)), NOW, &topic)?;
            Some((dirt.until.0, dirt.is_enough(&topic)))
        };
        assert_eq!(of(&[("min.compaction.lag.ms", "50")], 0), Some((951, true)), "as old as the lag");
        assert_eq!(of(&[("min.compaction.lag.ms", "51")], 0), Some((10, true)));
        assert_eq!(of(&[], 951), Some((961, false)), "too little");
        assert_eq!(of(&[("max.compaction.lag.ms", "39")], 951), Some((961, true)), "too late");
        assert_eq!(of(&[("max.compaction.lag.ms", "40")], 951), Some((961, false)));
        assert_eq!(of(&[("min.cleanable.dirty.ratio", "0.01")], 951), Some((961, true)));
    }
}
