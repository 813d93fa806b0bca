//! Chooses leaders: the living broker with the fewest partitions, ties to the lower node id.
//!
//! Pure; counts are taken from the image and kept up while one decision places many partitions.

use std::collections::BTreeSet;

use tidemark_proto::id::BrokerId;

use super::image::Image;
use super::record::Placed;

/// Hands out leaders evenly.
#[derive(Clone, Debug)]
pub struct Placement {
    /// (partitions led, node), so that the first is the least loaded.
    load: BTreeSet<(u32, BrokerId)>,
    /// Where each node's new chain entries begin.
    homes: std::collections::BTreeMap<BrokerId, Placed>,
}

impl Placement {
    /// Over the living brokers of `image`, without `except`; one that drains only where there is no other.
    pub fn over(image: &Image, except: Option<BrokerId>) -> Placement {
        let mut placement = Placement { load: BTreeSet::new(), homes: Default::default() };
        let others = || image.live().filter(|b| Some(b.node) != except);
        let all_drain = others().all(|b| image.drains(b.node));
        for broker in others().filter(|b| all_drain || !image.drains(b.node)) {
            if let Some(home) = home_of(image, broker.node) {
                placement.load.insert((image.led(broker.node), broker.node));
                placement.homes.insert(broker.node, home);
            }
        }
        placement
    }

    /// The least loaded broker, which now counts one partition more; `None` where nobody lives.
    pub fn least_loaded(&mut self) -> Option<Placed> {
        let (led, node) = self.load.pop_first()?;
        self.load.insert((led + 1, node));
        self.homes.get(&node).copied()
    }

    /// The given broker, if it lives.
    pub fn at(&mut self, node: BrokerId) -> Option<Placed> {
        let home = self.homes.get(&node).copied()?;
        if let Some(&(led, _)) = self.load.iter().find(|(_, n)| *n == node) {
            self.load.remove(&(led, node));
            self.load.insert((led + 1, node));
        }
        Some(home)
    }

    /// The first of `wanted` that lives, or else the least loaded.
    pub fn rather(&mut self, wanted: impl IntoIterator<Item = BrokerId>) -> Option<Placed> {
        let found = wanted.into_iter().find_map(|node| self.at(node));
        found.or_else(|| self.least_loaded())
    }

    /// The least loaded broker, uncounted.
    pub fn least(&self) -> Option<BrokerId> {
        self.load.first().map(|(_, node)| *node)
    }
}

/// The lane that `node` leads from now: the first open one of its newest epoch.
pub fn home_of(image: &Image, node: BrokerId) -> Option<Placed> {
    let broker = image.broker(node).filter(|b| b.alive)?;
    let (lane, row) = image.open_lanes(node).find(|(lane, _)| lane.epoch == broker.epoch)?;
    Some(Placed { node, lane, from: row.low })
}
