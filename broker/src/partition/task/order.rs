//! What the node tells the task, and what becomes of it: partitions come, open and go; cuts take parcels over.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemark_proto::id::{LaneId, LeaderEpoch, Millis, Seq, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_tiering::lane::Sealer;
use tidemark_tiering::parcel::Footer;
use tidemark_tiering::planted::{self, Bug};
use tokio::sync::oneshot;

use super::super::base::Base;
use super::super::opening::Opened;
use super::super::producer::Producers;
use super::super::state::State;
use super::super::waiters::Waiters;
use super::{EXPIRY, Open, Options, Slot, Task};

/// A partition that this lane's owner is to serve.
#[derive(Clone, Debug)]
pub struct Lead {
    /// Which.
    pub tp: TopicPartition,
    /// Epoch of this ownership.
    pub leader_epoch: LeaderEpoch,
    /// Of an internal topic: its data lies beside the footer.
    pub internal: bool,
}

/// What the node tells the task.
#[derive(Debug)]
pub enum Order {
    /// These partitions are ours; recovery of them is under way and answers through [`Order::Opened`].
    Lead(Vec<Lead>),
    /// These are not ours any more.
    Resign(Vec<TopicPartition>),
    /// What recovery found; answered once it is in force.
    Opened(Vec<Opened>, oneshot::Sender<()>),
    /// A cut up to `upto` is committed: the parcels below are in runs.
    Cut {
        /// New low mark of the lane.
        upto: Seq,
        /// The partitions' bases as of it.
        bases: Vec<(TopicPartition, Base)>,
    },
    /// A dead lane's low mark rose: what lies below it is in runs.
    Low {
        /// The lane.
        lane: LaneId,
        /// Its low mark.
        low: Seq,
    },
    /// What a cut of everything durable needs: the committed end, its parcels, the bases below them.
    CutInput {
        /// Answer.
        reply: oneshot::Sender<CutInput>,
    },
    /// Settings have changed.
    Tune(Options),
    /// The metadata says that the lane is sealed, by somebody else (R14).
    Fence,
    /// Drain, seal the lane as its owner (R12), and end.
    Close {
        /// Who seals.
        by: Sealer,
    },
}

/// See [`Order::CutInput`].
#[derive(Debug)]
pub struct CutInput {
    /// Exclusive end: everything below is durable.
    pub upto: Seq,
    /// The parcels since the low mark, in order.
    pub parcels: Vec<(Seq, Arc<Footer>, u64)>,
    /// Every open partition's base as of the low mark.
    pub bases: BTreeMap<TopicPartition, (LeaderEpoch, Base)>,
}

impl Task {
    pub(super) fn on_order(&mut self, order: Order) {
        match order {
            Order::Lead(leads) => {
                for lead in leads {
                    let slot = Slot::Opening { lead: lead.clone(), deferred: Vec::new() };
                    let before = self.partitions.insert(lead.tp, slot);
                    before.into_iter().for_each(|s| self.drop_slot(s));
                }
            }
            Order::Resign(partitions) => {
                for tp in partitions {
                    let slot = self.partitions.remove(&tp);
                    slot.into_iter().for_each(|s| self.drop_slot(s));
                }
            }
            Order::Opened(found, done) => {
                found.into_iter().for_each(|o| self.on_opened(o));
                done.send(()).ok();
            }
            Order::Cut { upto, bases } => {
                for (tp, base) in bases {
                    if let Some(Slot::Open(open)) = self.partitions.get_mut(&tp) {
                        open.base = base;
                        open.state.forget_expired(&mut open.base);
                        open.index.forget_extents(self.id, upto);
                    }
                }
                self.lane.set_low(upto);
            }
            Order::Low { lane, low } => {
                self.lows.insert(lane, low);
                for slot in self.partitions.values_mut() {
                    if let Slot::Open(open) = slot {
                        open.index.forget_extents(lane, low);
                    }
                }
            }
            Order::Tune(options) => {
                self.options = options;
                self.expire_producers();
            }
            Order::CutInput { reply } => {
                let upto = self.handled;
                let parcels = self.parcels(Seq(0), upto);
                let bases = self.partitions.iter().filter_map(|(tp, slot)| match slot {
                    Slot::Open(open) => Some((*tp, (open.state.leader_epoch(), open.base.clone()))),
                    _ => None,
                });
                reply.send(CutInput { upto, parcels, bases: bases.collect() }).ok();
            }
            Order::Fence | Order::Close { .. } => unreachable!("handled by the loop"),
        }
    }

    fn on_opened(&mut self, found: Opened) {
        let Some(Slot::Opening { lead, .. }) = self.partitions.get(&found.tp) else { return };
        if lead.leader_epoch != found.leader_epoch {
            return; // an older order's recovery; the newer one's is under way
        }
        let slot = match found.result {
            Ok((mut base, mut index)) => {
                for (lane, low) in &self.lows {
                    index.forget_extents(*lane, *low);
                }
                base.producers.refresh(self.clock.wall());
                if planted::is(Bug::ProducersForgotten) {
                    base.producers = Producers::default();
                }
                let state = State::open(base.clone(), found.leader_epoch);
                let internal = lead.internal;
                Slot::Open(Box::new(Open {
                    opened: tokio::time::Instant::now(),
                    state,
                    index,
                    waiters: Waiters::default(),
                    base,
                    internal,
                }))
            }
            Err(error) => {
                tracing::error!(partition = %found.tp, %error, "partition is offline: its log cannot be recovered");
                Slot::Offline
            }
        };
        if let Some(Slot::Opening { deferred, .. }) = self.partitions.insert(found.tp, slot) {
            for (number, at, write) in deferred {
                self.on_write(number, at, write);
            }
        }
    }

    /// Producers idle since before it are forgotten.
    fn producer_deadline(&self) -> Millis {
        Millis(self.clock.wall().0.saturating_sub(self.options.producer_expiration_ms))
    }

    pub(super) fn expire_producers(&mut self) {
        self.expire_at = tokio::time::Instant::now() + EXPIRY;
        let deadline = self.producer_deadline();
        for slot in self.partitions.values_mut() {
            if let Slot::Open(open) = slot {
                open.state.expire_producers(deadline);
            }
        }
    }

    fn drop_slot(&mut self, slot: Slot) {
        match slot {
            Slot::Opening { deferred, .. } => {
                for (number, at, _) in deferred {
                    let refused = Err(ErrorCode::NotLeaderOrFollower);
                    if let Some((ticket, wait)) = self.tickets.decide(number, at, refused, None) {
                        match wait {
                            Some(seq) if seq >= self.handled => self.parked.park(seq, ticket),
                            _ => ticket.answer(ErrorCode::NotLeaderOrFollower),
                        }
                    }
                }
            }
            Slot::Open(mut open) => open.waiters.wake_all(),
            Slot::Offline => {}
        }
    }
}
