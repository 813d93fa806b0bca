//! Which objects of a lane may be deleted.
//!
//! Pure. R20: only below a low mark that is committed, and only after a grace and what runs name by reference or
//! a pin holds has been taken out by the caller. R21: never a seal; `sealed` bounds everything here.

use tidemark_proto::id::{LaneId, Seq};

use crate::bucket::Listed;
use crate::keys;

/// The parcels that became garbage when the low mark rose from `from` to `low`.
pub fn parcels_below(lane: LaneId, from: Seq, low: Seq, sealed: Option<Seq>) -> Vec<String> {
    let end = sealed.map_or(low, |sealed| low.min(sealed));
    (from.0..end.0).map(|seq| keys::parcel(&lane, Seq(seq))).collect()
}

/// Of a listing of the lane's folder: what lies below the low mark. Late copies re-create what was deleted there.
/// What is void above a seal stays (R20 allows nothing else, and seals may be among it).
pub fn garbage(lane: LaneId, low: Seq, sealed: Option<Seq>, listed: &[Listed]) -> Vec<String> {
    let end = sealed.map_or(low, |sealed| low.min(sealed));
    let folder = keys::lane(&lane);
    let seq_of = |key: &str| -> Option<Seq> {
        let seq = Seq(key.strip_prefix(&folder)?.parse().ok()?);
        (keys::parcel(&lane, seq) == key).then_some(seq)
    };
    let keys = listed.iter().map(|object| &object.key);
    keys.filter(|key| seq_of(key).is_some_and(|seq| seq < end)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_proto::id::{BrokerEpoch, Life, Millis};

    const LANE: LaneId = LaneId { epoch: BrokerEpoch(1), lane: 0, life: Life(2) };

    fn listed(seqs: impl IntoIterator<Item = u64>) -> Vec<Listed> {
        let key = |seq| keys::parcel(&LANE, Seq(seq));
        seqs.into_iter().map(|seq| Listed { key: key(seq), size: 1, modified: Millis(0) }).collect()
    }

    #[test]
    fn r21_the_seal_is_never_named() {
        for low in 0..12 {
            for sealed in [None, Some(Seq(0)), Some(Seq(5)), Some(Seq(9))] {
                let seal = sealed.map(|seq| keys::parcel(&LANE, seq));
                let below = parcels_below(LANE, Seq(0), Seq(low), sealed);
                let swept = garbage(LANE, Seq(low), sealed, &listed(0..20));
                assert!(below.iter().chain(&swept).all(|key| Some(key) != seal.as_ref()), "low {low}");
            }
        }
    }

    #[test]
    fn r20_garbage_is_below_the_low_mark() {
        let swept = garbage(LANE, Seq(3), Some(Seq(5)), &listed(0..8));
        let want: Vec<_> = [0, 1, 2].map(|seq| keys::parcel(&LANE, Seq(seq))).into();
        assert_eq!(swept, want);
        let mut foreign = listed([0]);
        foreign[0].key.push('x');
        assert!(garbage(LANE, Seq(3), None, &foreign).is_empty());
    }

    #[test]
    fn parcels_from_the_old_low_mark_to_the_new_one() {
        let keys: Vec<_> = [4, 5].map(|seq| keys::parcel(&LANE, Seq(seq))).into();
        assert_eq!(parcels_below(LANE, Seq(4), Seq(6), None), keys);
        assert!(parcels_below(LANE, Seq(6), Seq(6), None).is_empty());
    }
}
