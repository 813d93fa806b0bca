//! Questions to the task: what a fetch may read, bounds, look-ups by time and epoch, numbers for metrics.

use tidemark_proto::id::{LeaderEpoch, Offset, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;

use super::super::index::{Appetite, Index, Source};
use super::super::{Ask, Bounds, Instant, Look, Query, Row, Vitals};
use super::{Open, Slot, Task};

impl Task {
    fn find(&self, tp: TopicPartition, current: Option<LeaderEpoch>) -> Result<&Open, ErrorCode> {
        let open = match self.partitions.get(&tp) {
            Some(Slot::Open(open)) if open.is_released() => return Err(ErrorCode::NotLeaderOrFollower),
            Some(Slot::Open(open)) => open,
            Some(Slot::Offline) => return Err(ErrorCode::KafkaStorageError),
            Some(Slot::Opening { .. }) | None => return Err(ErrorCode::NotLeaderOrFollower),
        };
        match current.map(|c| c.cmp(&open.state.leader_epoch())) {
            Some(std::cmp::Ordering::Less) => Err(ErrorCode::FencedLeaderEpoch),
            Some(std::cmp::Ordering::Greater) => Err(ErrorCode::UnknownLeaderEpoch),
            _ => Ok(open),
        }
    }

    pub(super) fn on_query(&mut self, query: Query) {
        match query {
            Query::Plan { asks, bytes_max, in_bucket, waiter, reply } => {
                let mut room = bytes_max;
                let mut first = true;
                let looks = asks.iter().map(|ask| self.look(ask, in_bucket, &mut room, &mut first)).collect();
                if let Some(waiter) = waiter {
                    for ask in &asks {
                        if let Some(Slot::Open(open)) = self.partitions.get_mut(&ask.tp) {
                            open.waiters.add(waiter.clone());
                        }
                    }
                }
                reply.send(looks).ok();
            }
            Query::Bounds { of, reply } => {
                let bounds = of.into_iter().map(|(tp, current)| self.find(tp, current).map(Open::bounds));
                reply.send(bounds.collect()).ok();
            }
            Query::Time { tp, instant, from, until, reply } => {
                reply.send(self.find(tp, None).map(|open| open.find_time(instant, from, until))).ok();
            }
            Query::EpochEnd { tp, current, asked, reply } => {
                reply.send(self.find(tp, current).map(|open| open.state.epoch_end(asked))).ok();
            }
            Query::EpochAt { tp, offset, reply } => {
                reply.send(self.find(tp, None).map(|open| open.state.epoch_at(offset))).ok();
            }
            Query::LogStarts { to, reply } => {
                for (tp, offset) in to {
                    self.raise_log_start(tp, offset);
                }
                reply.send(()).ok();
            }
            Query::Producers { tp, reply } => {
                reply.send(self.find(tp, None).map(|open| open.state.producers())).ok();
            }
            Query::Vitals { reply } => {
                reply.send(self.vitals()).ok();
            }
            Query::Survey { reply } => {
                let rows = self.partitions.iter().filter_map(|(tp, slot)| match slot {
                    Slot::Open(open) => Some(open.row(*tp)),
                    _ => None,
                });
                reply.send(rows.collect()).ok();
            }
        }
    }

    fn vitals(&self) -> Vitals {
        let count = |of: fn(&Slot) -> bool| self.partitions.values().filter(|slot| of(slot)).count();
        Vitals {
            lane: self.lane.gauges(),
            parked: self.parked.len(),
            opening: count(|slot| matches!(slot, Slot::Opening { .. })),
            offline: count(|slot| matches!(slot, Slot::Offline)),
        }
    }

    /// Also of one that is being opened: recovery looked at older metadata.
    pub(super) fn raise_log_start(&mut self, tp: TopicPartition, to: Offset) {
        match self.partitions.get_mut(&tp) {
            Some(Slot::Open(open)) => {
                open.state.raise_log_start(to);
                open.base.producers.forget_aborted(to);
                // Who waits below it learns that it is gone.
                open.waiters.wake_all();
            }
            Some(Slot::Opening { log_start, .. }) => *log_start = to.max(*log_start),
            Some(Slot::Offline) | None => return,
        }
        self.hot.start(tp, to);
    }

    fn look(
        &self,
        ask: &Ask,
        in_bucket: bool,
        room: &mut usize,
        first: &mut bool,
    ) -> Result<Look, ErrorCode> {
        let open = self.find(ask.tp, ask.leader_epoch)?;
        let bounds = open.bounds();
        if ask.offset < bounds.log_start || ask.offset > open.state.end() {
            return Err(ErrorCode::OffsetOutOfRange);
        }
        let until = if ask.committed { bounds.lso } else { bounds.hw };
        let appetite = Appetite { bytes_max: ask.bytes_max.min(*room), at_least_one: *first };
        let plan = if in_bucket { Index::plan_in_bucket } else { Index::plan };
        let (sources, bytes) = plan(&open.index, ask.offset, until, open.state.end(), appetite);
        *first &= bytes == 0;
        *room = room.saturating_sub(bytes);
        let end = || sources.iter().filter_map(Source::until).max();
        let within = |until| open.state.aborted(ask.offset, until);
        let aborted = ask.committed.then(|| end().map_or_else(Vec::new, within));
        Ok(Look { bounds, sources, bytes, aborted })
    }
}

impl Open {
    fn bounds(&self) -> Bounds {
        Bounds {
            log_start: self.state.log_start(),
            hw: self.state.hw(),
            lso: self.state.lso(),
            leader_epoch: self.state.leader_epoch(),
        }
    }

    fn find_time(&self, instant: Instant, from: Offset, until: Offset) -> Option<Source> {
        let from = from.max(self.state.log_start());
        match instant {
            Instant::AtOrAfter(target) => self.index.find_time(target, from, until),
            Instant::Largest => {
                let largest = self.index.max_timestamp(from, until)?;
                self.index.find_time(largest, from, until)
            }
        }
    }

    fn row(&self, tp: TopicPartition) -> Row {
        Row {
            tp,
            bounds: self.bounds(),
            end: self.state.end(),
            producers: self.state.producer_count(),
            stored_bytes: self.index.stored_bytes(),
            extents: self.index.extent_count(),
            waiting: self.waiters.count(),
        }
    }
}
