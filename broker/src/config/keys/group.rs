//! Keys of a group. Classic groups have none: what they keep to is set on brokers and by their members.

use crate::config::table::Kind::{Bool, Int, Text};
use crate::config::table::{Key, Synonym, key};

const CONSUMER: &str = "the new consumer group protocol is not built yet";
const SHARE: &str = "share groups are not built yet";
const STREAMS: &str = "streams groups are not built yet";

const fn number(
    name: &'static str,
    default: &'static str,
    low: i64,
    from: &'static [Synonym],
    why: &'static str,
    doc: &'static str,
) -> Key {
    key(name, Int, default, doc).at_least(low).from(from).note(why)
}

macro_rules! of {
    ($name:literal) => {
        &[Synonym { name: $name, times: 1 }]
    };
}

/// The rows.
pub const KEYS: &[Key] = &[
    number(
        "consumer.assignment.interval.ms",
        "1000",
        0,
        of!("group.consumer.assignment.interval.ms"),
        CONSUMER,
        "Least time between two assignments.",
    ),
    number(
        "consumer.heartbeat.interval.ms",
        "5000",
        1,
        of!("group.consumer.heartbeat.interval.ms"),
        CONSUMER,
        "Time between a member's heartbeats.",
    ),
    number(
        "consumer.session.timeout.ms",
        "45000",
        1,
        of!("group.consumer.session.timeout.ms"),
        CONSUMER,
        "Silence after which a member is taken for dead.",
    ),
    number(
        "share.assignment.interval.ms",
        "1000",
        0,
        of!("group.share.assignment.interval.ms"),
        SHARE,
        "Least time between two assignments.",
    ),
    key(
        "share.auto.offset.reset",
        Text,
        "latest",
        "Where a share group begins: earliest, latest or by_duration:PnDTnHnMn.nS.",
    )
    .note(SHARE),
    number(
        "share.delivery.count.limit",
        "5",
        2,
        of!("group.share.delivery.count.limit"),
        SHARE,
        "How often a record is delivered at most.",
    ),
    number(
        "share.heartbeat.interval.ms",
        "5000",
        1,
        of!("group.share.heartbeat.interval.ms"),
        SHARE,
        "Time between a member's heartbeats.",
    ),
    key(
        "share.isolation.level",
        Text,
        "read_uncommitted",
        "Whether records of open and aborted transactions are delivered.",
    )
    .one_of(&["read_committed", "read_uncommitted"])
    .note(SHARE),
    number(
        "share.partition.max.record.locks",
        "2000",
        100,
        of!("group.share.partition.max.record.locks"),
        SHARE,
        "Records of a partition that are out at once.",
    ),
    number(
        "share.record.lock.duration.ms",
        "30000",
        1000,
        of!("group.share.record.lock.duration.ms"),
        SHARE,
        "How long a record is held for a member.",
    ),
    key("share.renew.acknowledge.enable", Bool, "true", "Whether members may hold records longer.")
        .note(SHARE),
    number(
        "share.session.timeout.ms",
        "45000",
        1,
        of!("group.share.session.timeout.ms"),
        SHARE,
        "Silence after which a member is taken for dead.",
    ),
    number(
        "streams.assignment.interval.ms",
        "1000",
        0,
        of!("group.streams.assignment.interval.ms"),
        STREAMS,
        "Least time between two assignments.",
    ),
    number(
        "streams.heartbeat.interval.ms",
        "5000",
        1,
        of!("group.streams.heartbeat.interval.ms"),
        STREAMS,
        "Time between a member's heartbeats.",
    ),
    number(
        "streams.initial.rebalance.delay.ms",
        "3000",
        0,
        of!("group.streams.initial.rebalance.delay.ms"),
        STREAMS,
        "How long the first assignment waits for more members.",
    ),
    number(
        "streams.num.standby.replicas",
        "0",
        0,
        of!("group.streams.num.standby.replicas"),
        STREAMS,
        "Standby copies of a task's state.",
    ),
    number(
        "streams.session.timeout.ms",
        "45000",
        1,
        of!("group.streams.session.timeout.ms"),
        STREAMS,
        "Silence after which a member is taken for dead.",
    ),
];

type Bounds = (&'static str, Option<&'static str>, Option<&'static str>);

/// Keys whose bounds are broker keys: from, to.
pub const BOUNDS: &[Bounds] = &[
    within(
        "consumer.assignment.interval.ms",
        "group.consumer.min.assignment.interval.ms",
        "group.consumer.max.assignment.interval.ms",
    ),
    within(
        "consumer.heartbeat.interval.ms",
        "group.consumer.min.heartbeat.interval.ms",
        "group.consumer.max.heartbeat.interval.ms",
    ),
    within(
        "consumer.session.timeout.ms",
        "group.consumer.min.session.timeout.ms",
        "group.consumer.max.session.timeout.ms",
    ),
    within(
        "share.assignment.interval.ms",
        "group.share.min.assignment.interval.ms",
        "group.share.max.assignment.interval.ms",
    ),
    within(
        "share.delivery.count.limit",
        "group.share.min.delivery.count.limit",
        "group.share.max.delivery.count.limit",
    ),
    within(
        "share.heartbeat.interval.ms",
        "group.share.min.heartbeat.interval.ms",
        "group.share.max.heartbeat.interval.ms",
    ),
    within(
        "share.partition.max.record.locks",
        "group.share.min.partition.max.record.locks",
        "group.share.max.partition.max.record.locks",
    ),
    within(
        "share.record.lock.duration.ms",
        "group.share.min.record.lock.duration.ms",
        "group.share.max.record.lock.duration.ms",
    ),
    within(
        "share.session.timeout.ms",
        "group.share.min.session.timeout.ms",
        "group.share.max.session.timeout.ms",
    ),
    within(
        "streams.assignment.interval.ms",
        "group.streams.min.assignment.interval.ms",
        "group.streams.max.assignment.interval.ms",
    ),
    within(
        "streams.heartbeat.interval.ms",
        "group.streams.min.heartbeat.interval.ms",
        "group.streams.max.heartbeat.interval.ms",
    ),
    ("streams.num.standby.replicas", None, Some("group.streams.max.standby.replicas")),
    within(
        "streams.session.timeout.ms",
        "group.streams.min.session.timeout.ms",
        "group.streams.max.session.timeout.ms",
    ),
];

const fn within(name: &'static str, low: &'static str, high: &'static str) -> Bounds {
    (name, Some(low), Some(high))
}
