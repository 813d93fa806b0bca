//! Kafka's feature levels: what this broker knows, and what is finalized.
//!
//! A feature stands here once its handlers work, and Kafka's are then finalized at their highest level until somebody
//! sets another: so there is no transaction.version and no group.version yet. What is set lives in the metadata.
//! `tidemark.version` is ours: see [`level`].

use crate::cluster::Image;
use crate::cluster::level;

/// A feature.
#[derive(Debug)]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// Lowest level known.
    pub min: i16,
    /// Highest level known.
    pub max: i16,
    /// The level of a cluster in which nobody has set one.
    unset: i16,
}

/// Every feature. kraft.version cannot change: there is no quorum whose form it would name.
pub const FEATURES: &[Feature] = &[
    Feature { name: METADATA, min: 7, max: 30, unset: 30 },
    Feature { name: KRAFT, min: 0, max: 1, unset: 1 },
    Feature { name: level::FEATURE, min: level::FIRST, max: level::NEWEST, unset: level::FIRST },
];

/// The version of Kafka's metadata, which its tools take for the cluster's version.
pub const METADATA: &str = "metadata.version";

/// The form of Kafka's quorum.
pub const KRAFT: &str = "kraft.version";

impl Feature {
    /// The feature of this name.
    pub fn find(name: &str) -> Option<&'static Feature> {
        FEATURES.iter().find(|feature| feature.name == name)
    }

    /// The level that is finalized.
    pub fn finalized(&self, image: &Image) -> i16 {
        image.features().get(self.name).copied().unwrap_or(self.unset)
    }
}

/// Rises with every change of the finalized levels, on every broker alike.
pub fn epoch(image: &Image) -> i64 {
    i64::try_from(image.version()).unwrap_or(i64::MAX)
}
