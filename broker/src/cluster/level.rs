//! `tidemark.version`: which records the metadata may hold, so that neighbouring versions can share a cluster.
//!
//! A cluster is made at the newest level its first controller knows; one made before there were levels is at the first.
//! What a level brought is written only once it is finalized, and that only when every living broker knows it. From then
//! on a build that does not is refused. A level never goes down: what was written at it is in the log.

use super::image::Image;
use super::record::Record;
use super::wire::number_of;

/// The feature's name.
pub const FEATURE: &str = "tidemark.version";

/// What every build knows.
pub const FIRST: i16 = 1;

/// What this build knows.
pub const NEWEST: i16 = 2;

/// The level that brought segments.
pub const SEGMENTS: i16 = 2;

impl Image {
    /// The finalized level.
    pub fn level(&self) -> i16 {
        self.features().get(FEATURE).copied().unwrap_or(FIRST)
    }

    /// Why this build cannot be part of the cluster, if it cannot.
    pub fn too_new(&self) -> Option<String> {
        let level = self.level();
        (level > NEWEST).then(|| {
            format!(
                "the cluster is finalized at {FEATURE} {level}, and this build knows levels up to {NEWEST}: start a newer \
                 one"
            )
        })
    }
}

/// The level that brought the kind of records with this number in the schema.
fn of_kind(number: u64) -> i16 {
    match number {
        0..24 => FIRST,
        _ => 2,
    }
}

/// Whether all of `records` may be written at `level`.
pub(super) fn admits(level: i16, records: &[Record]) -> bool {
    level >= NEWEST || records.iter().all(|record| of_kind(number_of(record)) <= level)
}

#[cfg(test)]
mod tests {
    use tidemark_proto::id::{BrokerId, Position};

    use super::*;

    #[test]
    fn a_kind_of_record_belongs_to_the_level_that_brought_it() {
        assert_eq!(number_of(&Record::LogSwept { below: Position::default() }), 19);
        assert_eq!(number_of(&Record::BrokerRemoved { node: BrokerId(300) }), 4);
        assert_eq!([of_kind(1), of_kind(23), of_kind(24), of_kind(99)], [1, 1, 2, 2]);
        assert!(admits(FIRST, &[Record::LogSwept { below: Position::default() }]));
    }

    #[test]
    fn a_build_is_too_old_above_the_newest_level_it_knows() {
        let mut image = Image::default();
        assert_eq!((image.level(), image.too_new()), (FIRST, None));
        let mut set = |level| image.apply(&Record::FeatureLevel { name: FEATURE.into(), level });
        set(NEWEST);
        set(NEWEST + 1);
        assert!(image.too_new().is_some_and(|why| why.contains("start a newer one")));
    }
}
