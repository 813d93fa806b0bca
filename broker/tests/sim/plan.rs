//! What one seed expands to: the cluster, its settings, and the weather.

use std::time::Duration;

use tidemark_tiering::bucket::faults::{Latency, Weather};
use tidemark_tiering::seam::Entropy;

/// The bucket's usual state during the storm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sky {
    /// No fault but those of blows.
    Clear,
    /// Gusts: rough for some seconds now and then.
    Gusts,
    /// Rough throughout.
    Rough,
}

/// What befalls the cluster for the most part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// Anything, in a world of any settings.
    Any,
    /// What two do at a time, one of them late: takeovers of the living, cuts and elections that others have overtaken.
    /// In a world that collects at once what it may.
    Races,
}

/// What one seed expands to.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// What befalls it.
    pub course: Course,
    /// Brokers.
    pub brokers: usize,
    /// How long faults go on.
    pub storm: Duration,
    /// The bucket's usual state.
    pub sky: Sky,
    /// Mean time between blows, ms.
    pub blow_every_ms: u64,
    /// `tidemark.cut.parcels`.
    pub cut_parcels: u64,
    /// `tidemark.cut.ms`.
    pub cut_ms: u64,
    /// `tidemark.delete.grace.ms`.
    pub grace_ms: u64,
    /// `tidemark.ack.doubt.ms`.
    pub doubt_ms: u64,
    /// `tidemark.stuck.ms`.
    pub stuck_ms: u64,
    /// `tidemark.hot.memory.bytes`: what a fetch finds in memory.
    pub hot_bytes: u64,
    /// Bytes of metadata log after which a snapshot is due.
    pub snapshot_min: u64,
    /// What a request weighs in that.
    pub request_weight: u64,
}

impl Plan {
    /// The plan of `seed`.
    pub fn of(seed: u64) -> Plan {
        let entropy = Entropy::seeded(seed ^ 0x7469_6465);
        let one_of =
            |choices: &[u64]| choices[usize::try_from(entropy.below(choices.len() as u64)).expect("small")];
        let plan = Plan {
            seed,
            course: [Course::Any, Course::Races, Course::Races]
                [usize::try_from(entropy.below(3)).expect("small")],
            brokers: 1 + usize::try_from(entropy.below(3)).expect("small"),
            storm: Duration::from_secs(20 + entropy.below(40)),
            sky: [Sky::Clear, Sky::Gusts, Sky::Gusts, Sky::Rough]
                [usize::try_from(entropy.below(4)).expect("small")],
            blow_every_ms: 800 + entropy.below(5_000),
            cut_parcels: one_of(&[8, 24, 100]),
            cut_ms: one_of(&[1_000, 4_000, 20_000]),
            grace_ms: one_of(&[50, 1_000, 9_000]),
            doubt_ms: one_of(&[1_000, 4_000, 60_000]),
            stuck_ms: one_of(&[3_000, 6_000, 15_000, 120_000]),
            hot_bytes: one_of(&[0, 4_096, 64 << 20]),
            snapshot_min: one_of(&[1_000, 8_000, 1 << 20]),
            request_weight: one_of(&[0, 500, 32 << 10]),
        };
        match plan.course {
            Course::Any => plan,
            Course::Races => Plan {
                brokers: 2 + usize::try_from(entropy.below(2)).expect("small"),
                blow_every_ms: 1_500 + entropy.below(3_000),
                cut_parcels: 8,
                cut_ms: one_of(&[500, 1_000]),
                grace_ms: one_of(&[1, 50]),
                snapshot_min: 1_000,
                request_weight: one_of(&[500, 32 << 10]),
                ..plan
            },
        }
    }

    /// The settings of a broker.
    pub fn settings(&self) -> Vec<String> {
        let mut sets = vec![
            "tidemark.bucket=memory:".to_owned(),
            "offsets.topic.num.partitions=2".to_owned(),
            "group.initial.rebalance.delay.ms=0".to_owned(),
            "tidemark.balance.ms=4000".to_owned(),
            "tidemark.move.timeout.ms=3000".to_owned(),
            // Every broker is a replica of everything, each in a rack of its own.
            "default.replication.factor=3".to_owned(),
            "replica.selector.class=org.apache.kafka.common.replica.RackAwareReplicaSelector".to_owned(),
        ];
        let numbers = [
            ("tidemark.cut.parcels", self.cut_parcels),
            ("tidemark.cut.ms", self.cut_ms),
            ("tidemark.delete.grace.ms", self.grace_ms),
            ("log.segment.delete.delay.ms", self.grace_ms), // the longer of the two holds
            ("tidemark.ack.doubt.ms", self.doubt_ms),
            ("tidemark.stuck.ms", self.stuck_ms),
            ("tidemark.hot.memory.bytes", self.hot_bytes),
        ];
        sets.extend(numbers.map(|(key, value)| format!("{key}={value}")));
        sets
    }

    /// The bucket when no gust blows.
    pub fn usual(&self) -> Weather {
        if self.sky == Sky::Rough { rough() } else { fair() }
    }
}

fn latency() -> Latency {
    Latency { p50: Duration::from_millis(8), p99: Duration::from_millis(40), ..Latency::default() }
}

/// A store that is well.
pub fn fair() -> Weather {
    Weather { latency: latency(), ..Weather::default() }
}

/// Every fault now and then, and late enough that what was sent lands in a later life.
pub fn rough() -> Weather {
    Weather {
        latency: latency(),
        late: 0.01,
        late_by: Duration::from_secs(20),
        conflicts: 0.01,
        stalls: 0.01,
        stall_for: Duration::from_secs(8),
        ..Weather::rough()
    }
}
