//! What one seed expands to: the cluster, its settings, and the weather.

use std::time::Duration;

use tidemark_tiering::bucket::faults::{Latency, Weather};
use tidemark_tiering::seam::Entropy;

use crate::steps::{self, Step};

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
    /// Death at each step of the upkeep, one after the other, and nothing else.
    Steps(&'static [Step]),
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
    /// `tidemark.offload.bytes`; 0: no topic is tiered.
    pub offload_bytes: u64,
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
    /// `log.retention.ms`; 0: for ever, as far as a run goes.
    pub retention_ms: u64,
    /// `log.retention.check.interval.ms`.
    pub check_ms: u64,
    /// What a request weighs in that.
    pub request_weight: u64,
    /// `delete.retention.ms` of the compacted topic.
    pub delete_retention_ms: u64,
    /// `min.cleanable.dirty.ratio` of it, in percent.
    pub dirty_percent: u64,
}

impl Plan {
    /// The plan of `seed`.
    pub fn of(seed: u64) -> Plan {
        let entropy = Entropy::seeded(seed ^ 0x7469_6465);
        let one_of =
            |choices: &[u64]| choices[usize::try_from(entropy.below(choices.len() as u64)).expect("small")];
        let keys = Entropy::seeded(seed ^ 0x6b65_7973);
        let plan = Plan {
            seed,
            delete_retention_ms: [0, 500, 5_000, 60_000][usize::try_from(keys.below(4)).expect("small")],
            dirty_percent: [0, 30, 60][usize::try_from(keys.below(3)).expect("small")],
            course: [Course::Any, Course::Races, Course::Races]
                [usize::try_from(entropy.below(3)).expect("small")],
            brokers: 1 + usize::try_from(entropy.below(3)).expect("small"),
            storm: Duration::from_secs(20 + entropy.below(40)),
            sky: [Sky::Clear, Sky::Gusts, Sky::Gusts, Sky::Rough]
                [usize::try_from(entropy.below(4)).expect("small")],
            blow_every_ms: 800 + entropy.below(5_000),
            cut_parcels: one_of(&[8, 24, 100]),
            cut_ms: one_of(&[1_000, 4_000, 20_000]),
            // A draw of its own: seeds stay what they were.
            offload_bytes: [0, 400, 2_000, 12_000]
                [usize::try_from(Entropy::seeded(seed ^ 0x7365_676d).below(4)).expect("small")],
            grace_ms: one_of(&[50, 1_000, 9_000]),
            doubt_ms: one_of(&[1_000, 4_000, 60_000]),
            stuck_ms: one_of(&[3_000, 6_000, 15_000, 120_000]),
            hot_bytes: one_of(&[0, 4_096, 64 << 20]),
            snapshot_min: one_of(&[1_000, 8_000, 1 << 20]),
            request_weight: one_of(&[0, 500, 32 << 10]),
            retention_ms: one_of(&[0, 0, 1_500, 6_000, 20_000]),
            check_ms: one_of(&[300, 2_000]),
        };
        match plan.course {
            Course::Any | Course::Steps(_) => plan,
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

    /// A world of `brokers` that dies at each step of `table`, and collects at once what it may.
    pub fn of_steps(table: &'static [Step], offload_bytes: u64, brokers: usize) -> Plan {
        Plan {
            course: Course::Steps(table),
            brokers,
            storm: steps::LONGEST,
            sky: Sky::Clear,
            cut_parcels: 8,
            cut_ms: 500,
            offload_bytes,
            grace_ms: 50,
            doubt_ms: 4_000,
            stuck_ms: 15_000,
            hot_bytes: 0,
            snapshot_min: 1_000,
            request_weight: 500,
            retention_ms: 6_000,
            check_ms: 300,
            ..Plan::of(7)
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
            "log.cleaner.backoff.ms=200".to_owned(),
            // Every broker is a replica of everything, each in a rack of its own.
            "default.replication.factor=3".to_owned(),
            "replica.selector.class=org.apache.kafka.common.replica.RackAwareReplicaSelector".to_owned(),
        ];
        let numbers = [
            ("tidemark.cut.parcels", self.cut_parcels),
            ("tidemark.cut.ms", self.cut_ms),
            ("tidemark.offload.bytes", self.offload_bytes.max(1)),
            ("tidemark.offload.ms", 3_000),
            ("tidemark.offload.check.ms", 700),
            ("tidemark.delete.grace.ms", self.grace_ms),
            ("log.segment.delete.delay.ms", self.grace_ms), // the longer of the two holds
            ("tidemark.ack.doubt.ms", self.doubt_ms),
            ("log.retention.check.interval.ms", self.check_ms),
            ("tidemark.stuck.ms", self.stuck_ms),
            ("tidemark.hot.memory.bytes", self.hot_bytes),
        ];
        sets.extend(numbers.map(|(key, value)| format!("{key}={value}")));
        if self.retention_ms > 0 {
            sets.push(format!("log.retention.ms={}", self.retention_ms));
        }
        sets
    }

    /// The settings of the compacted topic.
    pub fn compacted(&self) -> [(&'static str, String); 3] {
        [
            ("cleanup.policy", "compact".to_owned()),
            ("min.cleanable.dirty.ratio", format!("{}", self.dirty_percent as f64 / 100.0)),
            ("delete.retention.ms", self.delete_retention_ms.to_string()),
        ]
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
