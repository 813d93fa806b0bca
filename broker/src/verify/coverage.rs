//! Which offsets of a partition are held, by what, and which by nothing. Pure.

use tidemark_proto::id::Offset;

/// Where bytes of a log are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// A parcel of a lane.
    Parcel,
    /// A share of a run's object.
    Run,
    /// A segment.
    Segment,
}

impl Tier {
    /// All tiers.
    pub const ALL: [Tier; 3] = [Tier::Parcel, Tier::Run, Tier::Segment];
}

/// One stretch of offsets that one object holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First offset.
    pub base: Offset,
    /// Last offset.
    pub last: Offset,
    /// Where it is.
    pub tier: Tier,
    /// Its bytes there.
    pub bytes: u64,
}

/// What is known of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    pieces: Vec<Piece>,
    told: Offset,
}

impl Coverage {
    /// Some object holds `piece`.
    pub fn add(&mut self, piece: Piece) {
        self.pieces.push(piece);
    }

    /// Some state says that the log reaches to `end`.
    pub fn told(&mut self, end: Offset) {
        self.told = self.told.max(end);
    }

    /// Offset after the last that is held or told of; `log_start` where there is none.
    pub fn end(&self, log_start: Offset) -> Offset {
        let held = self.pieces.iter().map(|piece| piece.last.plus(1)).max();
        held.unwrap_or(log_start).max(self.told).max(log_start)
    }

    /// Bytes in a tier, of pieces that reach `log_start`.
    pub fn bytes(&self, tier: Tier, log_start: Offset) -> u64 {
        self.pieces.iter().filter(|p| p.tier == tier && p.last >= log_start).map(|p| p.bytes).sum()
    }

    /// The stretches from `log_start` to [`Self::end`] that nothing holds: first and last offset of each.
    pub fn holes(&mut self, log_start: Offset) -> Vec<(Offset, Offset)> {
        self.pieces.sort_by_key(|piece| (piece.base, piece.last));
        let (mut next, mut holes) = (log_start, Vec::new());
        for piece in &self.pieces {
            if piece.base > next {
                holes.push((next, Offset(piece.base.0 - 1)));
            }
            next = next.max(piece.last.plus(1));
        }
        if self.told > next {
            holes.push((next, Offset(self.told.0 - 1)));
        }
        holes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pieces: &[(i64, i64)]) -> Coverage {
        let mut coverage = Coverage::default();
        for (base, last) in pieces {
            let (base, last) = (Offset(*base), Offset(*last));
            coverage.add(Piece { base, last, tier: Tier::Run, bytes: 10 });
        }
        coverage
    }

    #[test]
    fn a_log_that_overlaps_itself_has_no_hole() {
        let mut coverage = of(&[(5, 9), (0, 6), (8, 8), (10, 12)]);
        assert_eq!(coverage.holes(Offset(0)), []);
        assert_eq!(coverage.end(Offset(0)), Offset(13));
        assert_eq!(coverage.bytes(Tier::Run, Offset(9)), 20);
        assert_eq!(coverage.bytes(Tier::Parcel, Offset(0)), 0);
    }

    #[test]
    fn what_nothing_holds_is_told_before_between_and_behind() {
        let mut coverage = of(&[(3, 4), (7, 9)]);
        coverage.told(Offset(12));
        let holes = [(1, 2), (5, 6), (10, 11)].map(|(from, to)| (Offset(from), Offset(to)));
        assert_eq!(coverage.holes(Offset(1)), holes);
        assert_eq!(coverage.holes(Offset(8)), holes[2..]);
        assert_eq!(coverage.end(Offset(0)), Offset(12));
    }

    #[test]
    fn an_empty_log_ends_where_it_starts() {
        let mut coverage = Coverage::default();
        assert_eq!(coverage.holes(Offset(7)), []);
        assert_eq!(coverage.end(Offset(7)), Offset(7));
    }
}
