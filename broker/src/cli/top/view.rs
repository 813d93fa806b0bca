//! What two samples amount to: rates and lags, sorted. Knows no terminal.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cli::client::Place;
use crate::cli::sample::{Group, Sample};

/// All numbers of a frame.
#[derive(Clone, Debug, Serialize)]
pub struct View {
    /// The cluster's id.
    pub cluster: Option<String>,
    /// Records per second into all topics; `None` before there are two samples.
    pub records_in: Option<f64>,
    /// Partitions of all topics.
    pub partitions: usize,
    /// Those without a leader.
    pub offline: usize,
    /// Brokers by id.
    pub brokers: Vec<BrokerLine>,
    /// The busiest first.
    pub topics: Vec<TopicLine>,
    /// The furthest behind first.
    pub groups: Vec<GroupLine>,
    /// Why there is nothing newer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A broker.
#[derive(Clone, Debug, Serialize)]
pub struct BrokerLine {
    /// Its id.
    pub broker: i32,
    /// HOST:PORT.
    pub address: String,
    /// Its rack.
    pub rack: Option<String>,
    /// Whether it is the controller.
    pub controller: bool,
    /// Partitions it leads.
    pub leads: usize,
    /// Records per second into those.
    pub records_in: Option<f64>,
}

/// A topic.
#[derive(Clone, Debug, Serialize)]
pub struct TopicLine {
    /// Its name.
    pub topic: String,
    /// How many partitions it has.
    pub partitions: usize,
    /// Those without a leader.
    pub offline: usize,
    /// The sum of the ends of its partitions.
    pub end: i64,
    /// Records per second in.
    pub records_in: Option<f64>,
    /// Records per second that groups committed.
    pub records_out: Option<f64>,
    /// Records that the group furthest behind has before it.
    pub lag: Option<i64>,
}

/// A group.
#[derive(Clone, Debug, Serialize)]
pub struct GroupLine {
    /// Its name.
    pub group: String,
    /// Its state.
    pub state: String,
    /// Records it has before it.
    pub lag: i64,
    /// Records per second that it committed.
    pub records_out: Option<f64>,
    /// How much the lag grew per second.
    pub growth: Option<f64>,
    /// Seconds until it has caught up at this pace; `None` where it falls behind or stands.
    pub eta_s: Option<u64>,
}

impl View {
    /// What `now` says, and with `before` at what pace.
    pub fn new(before: Option<&Sample>, now: &Sample) -> View {
        let pace = Pace { before, now, seconds: before.map(|before| seconds(before, now)) };
        let mut topics: Vec<TopicLine> = now.topics.keys().map(|topic| pace.topic(topic)).collect();
        topics.sort_by(|a, b| {
            let busy = |line: &TopicLine| line.records_in.unwrap_or(0.0) + line.records_out.unwrap_or(0.0);
            busy(b).total_cmp(&busy(a)).then_with(|| a.topic.cmp(&b.topic))
        });
        let mut groups: Vec<GroupLine> =
            now.groups.iter().map(|(name, group)| pace.group(name, group)).collect();
        groups.sort_by(|a, b| b.lag.cmp(&a.lag).then_with(|| a.group.cmp(&b.group)));
        View {
            cluster: now.cluster.clone(),
            records_in: pace.rate(now.topics.keys().map(|topic| pace.came(topic, |_| true)).sum()),
            partitions: now.topics.values().map(BTreeMap::len).sum(),
            offline: topics.iter().map(|topic| topic.offline).sum(),
            brokers: now.brokers.keys().map(|id| pace.broker(*id)).collect(),
            topics,
            groups,
            note: None,
        }
    }
}

fn seconds(before: &Sample, now: &Sample) -> f64 {
    now.at.saturating_duration_since(before.at).as_secs_f64().max(0.001)
}

struct Pace<'a> {
    before: Option<&'a Sample>,
    now: &'a Sample,
    seconds: Option<f64>,
}

impl Pace<'_> {
    fn rate(&self, records: i64) -> Option<f64> {
        self.seconds.map(|seconds| (records as f64 / seconds * 10.0).round() / 10.0)
    }

    /// Records that came into partitions of a topic with such a leader.
    fn came(&self, topic: &str, led: impl Fn(i32) -> bool) -> i64 {
        let (Some(before), Some(now)) =
            (self.before.and_then(|before| before.topics.get(topic)), self.now.topics.get(topic))
        else {
            return 0;
        };
        let came = |(index, now): (&i32, &crate::cli::sample::Partition)| {
            let end = before.get(index)?.end?;
            led(now.leader).then_some((now.end? - end).max(0))
        };
        now.iter().filter_map(came).sum()
    }

    fn broker(&self, id: i32) -> BrokerLine {
        let seen = self.now.brokers.get(&id).cloned().unwrap_or_default();
        let led = |partition: &&crate::cli::sample::Partition| partition.leader == id;
        BrokerLine {
            broker: id,
            address: seen.address,
            rack: seen.rack,
            controller: self.now.controller == id,
            leads: self.now.topics.values().map(|topic| topic.values().filter(led).count()).sum(),
            records_in: self
                .rate(self.now.topics.keys().map(|topic| self.came(topic, |leader| leader == id)).sum()),
        }
    }

    fn topic(&self, topic: &str) -> TopicLine {
        let partitions = self.now.topics.get(topic);
        let all = || partitions.into_iter().flat_map(BTreeMap::values);
        let lag = |group: &Group| {
            let behind: Vec<i64> =
                self.behind(group).filter(|(place, _)| place.0 == topic).map(|b| b.1).collect();
            (!behind.is_empty()).then(|| behind.iter().sum::<i64>())
        };
        TopicLine {
            topic: topic.to_owned(),
            partitions: all().count(),
            offline: all().filter(|partition| partition.leader < 0).count(),
            end: all().filter_map(|partition| partition.end).sum(),
            records_in: self.rate(self.came(topic, |_| true)),
            records_out: self.rate(
                self.now.groups.iter().map(|(name, group)| self.committed(name, group, Some(topic))).sum(),
            ),
            lag: self.now.groups.values().filter_map(lag).max(),
        }
    }

    fn group(&self, name: &str, group: &Group) -> GroupLine {
        let lag = self.behind(group).map(|behind| behind.1).sum();
        let records_out = self.rate(self.committed(name, group, None));
        let growth = self.before.and_then(|before| {
            let then = Pace { before: None, now: before, seconds: None };
            let lag_then: i64 = then.behind(before.groups.get(name)?).map(|behind| behind.1).sum();
            self.rate(lag - lag_then)
        });
        let shrinks = growth.filter(|growth| *growth < 0.0 && lag > 0);
        GroupLine {
            group: name.to_owned(),
            state: group.state.clone(),
            lag,
            records_out,
            growth,
            eta_s: shrinks.map(|growth| (lag as f64 / -growth).ceil() as u64),
        }
    }

    /// Records before the group, by partition; of partitions whose end is known.
    fn behind<'b>(&'b self, group: &'b Group) -> impl Iterator<Item = (&'b Place, i64)> {
        let behind = |(place, committed): (&'b Place, &'b i64)| {
            Some((place, (self.now.end(place)? - committed).max(0)))
        };
        group.committed.iter().filter_map(behind)
    }

    /// Records that the group moved on by, in one topic or in all.
    fn committed(&self, name: &str, group: &Group, topic: Option<&str>) -> i64 {
        let Some(then) = self.before.and_then(|before| before.groups.get(name)) else { return 0 };
        let moved = |(place, now): (&Place, &i64)| Some((now - then.committed.get(place)?).max(0));
        let of_topic = |(place, _): &(&Place, &i64)| topic.is_none_or(|topic| place.0 == topic);
        group.committed.iter().filter(of_topic).filter_map(moved).sum()
    }
}

#[cfg(test)]
pub mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::cli::sample::{Broker, Partition};

    /// Topic `t` with two partitions led by 1 and 2, and group `g`.
    pub fn sample(at: Instant, ends: [i64; 2], committed: [i64; 2]) -> Sample {
        let partition = |leader, end| Partition { leader, in_sync: vec![leader], end: Some(end) };
        let place = |partition| ("t".to_owned(), partition);
        let broker = |id: i32| (id, Broker { address: format!("h:{id}"), rack: None });
        let group = Group {
            state: "Stable".into(),
            committed: BTreeMap::from([(place(0), committed[0]), (place(1), committed[1])]),
        };
        Sample {
            at,
            cluster: Some("c".into()),
            controller: 1,
            brokers: BTreeMap::from([broker(1), broker(2)]),
            topics: BTreeMap::from([
                ("idle".into(), BTreeMap::from([(0, Partition { leader: -1, in_sync: vec![], end: None })])),
                ("t".into(), BTreeMap::from([(0, partition(1, ends[0])), (1, partition(2, ends[1]))])),
            ]),
            groups: BTreeMap::from([("g".into(), group)]),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn rates_lags_and_the_time_to_catch_up_follow_from_two_samples() {
        let then = Instant::now();
        let before = sample(then, [100, 100], [0, 100]);
        let now = sample(then + Duration::from_secs(2), [120, 100], [60, 100]);
        let view = View::new(Some(&before), &now);
        assert_eq!((view.records_in, view.partitions, view.offline), (Some(10.0), 3, 1));
        assert_eq!(view.brokers.iter().map(|b| b.records_in).collect::<Vec<_>>(), [Some(10.0), Some(0.0)]);
        let topic = &view.topics[0];
        assert_eq!((topic.topic.as_str(), topic.end, topic.lag), ("t", 220, Some(60)), "the busiest first");
        assert_eq!((topic.records_in, topic.records_out), (Some(10.0), Some(30.0)));
        let group = &view.groups[0];
        assert_eq!((group.lag, group.records_out, group.growth), (60, Some(30.0), Some(-20.0)));
        assert_eq!(group.eta_s, Some(3));
        let first = View::new(None, &now);
        assert_eq!((first.records_in, first.groups[0].lag, first.groups[0].eta_s), (None, 60, None));
    }
}
