//! Moves that take too long: when each began as this controller sees it, and which were called off lately.
//!
//! A successor has so long to read, and then the leader so long to let go. What was called off is not planned again at
//! once by the balancer, each time twice as long. Soft state: a new controller counts anew. Times are arguments.

use std::collections::BTreeMap;
use std::time::Duration;

use tidemark_proto::id::{BrokerId, TopicPartition};
use tidemark_tiering::witness::{Sight, saw_many};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::balance::Avoid;
use super::super::command::Command;
use super::super::image::Image;
use super::Owner;

/// Looks in the time that a move has.
const LOOKS: u32 = 8;

/// The longest time between two looks: each walks over all partitions.
const RARELY: Duration = Duration::from_secs(5);

/// The balancer waits at most 2 to this times as long as a move has.
const DOUBLINGS: u32 = 4;

/// Moves remembered as called off; beyond it some are forgotten early.
const STRUCK_MAX: usize = 10_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Overdue {
    looked: Option<Instant>,
    under_way: BTreeMap<TopicPartition, UnderWay>,
    struck: BTreeMap<(TopicPartition, BrokerId), Strike>,
}

#[derive(Clone, Copy, Debug)]
struct UnderWay {
    planned: u64,
    ready: bool,
    since: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Strike {
    times: u32,
    until: Instant,
}

impl Overdue {
    /// The moves that have taken longer than `limit`, each with the version of its plan, if it is time to look.
    fn look(&mut self, image: &Image, now: Instant, limit: Duration) -> Vec<(TopicPartition, u64)> {
        let every = (limit / LOOKS).min(RARELY);
        if self.looked.is_some_and(|looked| now < looked + every) {
            return Vec::new();
        }
        self.looked = Some(now);
        self.struck.retain(|_, strike| now < strike.until + limit * (1 << DOUBLINGS));
        let before = std::mem::take(&mut self.under_way);
        let mut overdue = Vec::new();
        for (tp, successor) in image.moving() {
            let (planned, ready) = (successor.planned, successor.ready);
            let known = before.get(&tp).filter(|m| (m.planned, m.ready) == (planned, ready));
            let since = known.map_or(now, |m| m.since);
            self.under_way.insert(tp, UnderWay { planned, ready, since });
            if now >= since + limit {
                self.strike((tp, successor.node), now, limit);
                overdue.push((tp, planned));
            }
        }
        overdue
    }

    fn strike(&mut self, which: (TopicPartition, BrokerId), now: Instant, limit: Duration) {
        let times = self.struck.get(&which).map_or(0, |strike| strike.times + 1).min(DOUBLINGS);
        self.struck.insert(which, Strike { times, until: now + limit * (1 << times) });
        if self.struck.len() > STRUCK_MAX {
            self.struck.pop_first();
        }
    }

    /// What the balancer is to leave alone.
    pub(super) fn avoid(&self, now: Instant) -> Avoid {
        let lately = self.struck.iter().filter(|(_, strike)| now < strike.until);
        Avoid::new(lately.map(|(which, _)| *which))
    }
}

impl Owner {
    /// Calls off what takes too long.
    pub(super) fn call_off_if_due(&mut self, now: Instant) {
        let moves = self.overdue.look(&self.durable, now, self.shared.timings.moving);
        let Some((tp, _)) = moves.first() else { return };
        tracing::warn!(moves = moves.len(), first = %tp, "moves take too long and are called off: the partitions stay");
        saw_many(Sight::CalledOff, moves.len());
        self.submit(Command::CallOff { moves }, oneshot::channel().0);
    }
}

#[cfg(test)]
mod tests {
    use tidemark_proto::id::{PartitionIndex, TopicId};
    use uuid::Uuid;

    use super::super::super::record::Record;
    use super::*;

    const LIMIT: Duration = Duration::from_secs(8);

    fn image() -> Image {
        let mut image = Image::default();
        image.apply(&Record::TopicCreated {
            id: TopicId(Uuid::from_u128(1)),
            name: "t".into(),
            replication: 1,
            configs: BTreeMap::new(),
            placed: vec![None],
        });
        image
    }

    fn plan(image: &mut Image, to: Option<i32>) -> (TopicPartition, u64) {
        let (topic, partition) = (TopicId(Uuid::from_u128(1)), PartitionIndex(0));
        let partitions = vec![(topic, vec![partition])];
        image.apply(&Record::MovesPlanned { to: to.map(BrokerId), partitions });
        (TopicPartition { topic, partition }, image.version())
    }

    #[tokio::test(start_paused = true)]
    async fn a_move_has_its_time_to_be_read_and_again_to_be_let_go() {
        let (mut overdue, mut image, start) = (Overdue::default(), image(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        let (tp, planned) = plan(&mut image, Some(2));
        assert_eq!(overdue.look(&image, at(0), LIMIT), []);
        assert_eq!(overdue.look(&image, at(7), LIMIT), []);
        let partitions = vec![(tp.topic, vec![tp.partition])];
        let from = tidemark_proto::id::Seq(0);
        image.apply(&Record::SuccessorReady { node: BrokerId(2), from, partitions });
        assert_eq!(overdue.look(&image, at(8), LIMIT), []);
        assert_eq!(overdue.look(&image, at(15), LIMIT), []);
        assert_eq!(overdue.look(&image, at(16), LIMIT), [(tp, planned)]);
    }

    #[tokio::test(start_paused = true)]
    async fn another_plan_has_its_own_time() {
        let (mut overdue, mut image, start) = (Overdue::default(), image(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        plan(&mut image, Some(2));
        overdue.look(&image, at(0), LIMIT);
        let (tp, second) = plan(&mut image, Some(2));
        assert_eq!(overdue.look(&image, at(7), LIMIT), []);
        assert_eq!(overdue.look(&image, at(14), LIMIT), []);
        assert_eq!(overdue.look(&image, at(15), LIMIT), [(tp, second)]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_called_off_is_avoided_each_time_twice_as_long() {
        let (mut overdue, mut image, start) = (Overdue::default(), image(), Instant::now());
        let mut now = start;
        for times in [1, 2, 4] {
            let (tp, _) = plan(&mut image, Some(2));
            overdue.look(&image, now, LIMIT);
            now += LIMIT;
            assert_eq!(overdue.look(&image, now, LIMIT).len(), 1);
            plan(&mut image, None);
            let avoided = |overdue: &Overdue, at| overdue.avoid(at).holds(tp, BrokerId(2));
            assert!(avoided(&overdue, now + LIMIT * times - Duration::from_secs(1)));
            assert!(!avoided(&overdue, now) || !overdue.avoid(now).holds(tp, BrokerId(3)));
            now += LIMIT * times;
            assert!(!avoided(&overdue, now));
        }
    }
}
