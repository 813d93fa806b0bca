//! What the node tells the task, and what becomes of it: partitions come, open and go; cuts take parcels over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidemark_proto::id::{LaneId, LeaderEpoch, Millis, Offset, Seq, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::record::stamp::Stamped;
use tidemark_tiering::lane::Sealer;
use tidemark_tiering::parcel::Footer;
use tidemark_tiering::planted::{self, Bug};
use tidemark_tiering::upkeep::cut;
use tokio::sync::oneshot;

use super::super::base::Base;
use super::super::opening::Opened;
use super::super::producer::Producers;
use super::super::state::State;
use super::super::waiters::Waiters;
use super::release::Settled;
use super::{EXPIRY, Open, Options, Slot, Task, Write};

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
    /// These are to go to others (R17): nothing is appended any more, what comes is held. Answered with a bound once
    /// what was appended is durable; from then on they are not read here either.
    Release {
        /// Which; those that are not open stay.
        partitions: Vec<TopicPartition>,
        /// Answer.
        settled: oneshot::Sender<Settled>,
    },
    /// The bound has no answer yet: who was held is not kept waiting for longer.
    Stall(Vec<TopicPartition>),
    /// These stay after all.
    Keep(Vec<TopicPartition>),
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
    /// The metadata raised log starts. An order, so that it comes after the one to lead.
    LogStarts(Vec<(TopicPartition, Offset)>),
    /// Compaction has been over these logs up to an offset: memory lets go of what it took from there.
    Cleaned(Vec<(TopicPartition, Offset)>),
    /// What the next stretch of a cut needs: parcels, their batches as far as they are in memory, bases.
    CutInput {
        /// Which stretch.
        ask: CutAsk,
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
#[derive(Clone, Copy, Debug)]
pub struct CutAsk {
    /// Where the stretch begins.
    pub from: Seq,
    /// Bytes of batches at which it is full; 0 asks for bases only.
    pub bytes: u64,
    /// Whether all bases are wanted, or those of the partitions in the stretch.
    pub whole: bool,
}

/// See [`Order::CutInput`].
#[derive(Debug)]
pub struct CutInput {
    /// Where the stretch ends, exclusive.
    pub upto: Seq,
    /// Where what is durable ends.
    pub committed: Seq,
    /// The parcels of the stretch, in order.
    pub parcels: Vec<(Seq, Arc<Footer>, u64)>,
    /// Their parts that are in memory whole.
    pub at_hand: BTreeMap<(Seq, TopicPartition), Vec<Stamped>>,
    /// Partitions as of the low mark, open ones and such as have left, each with the epoch they were led under.
    pub bases: Vec<(TopicPartition, LeaderEpoch, Base)>,
}

impl Task {
    pub(super) fn on_order(&mut self, order: Order) {
        match order {
            Order::Lead(leads) => {
                for lead in leads {
                    self.hot.lead(lead.tp, lead.leader_epoch);
                    self.depart(lead.tp);
                    let slot =
                        Slot::Opening { lead: lead.clone(), deferred: Vec::new(), log_start: Offset(0) };
                    let before = self.partitions.insert(lead.tp, slot);
                    before.into_iter().for_each(|s| self.drop_slot(s));
                }
            }
            Order::Resign(partitions) => {
                for tp in partitions {
                    self.depart(tp);
                    let slot = self.partitions.remove(&tp);
                    slot.into_iter().for_each(|s| self.drop_slot(s));
                }
            }
            Order::LogStarts(to) => to.into_iter().for_each(|(tp, to)| self.raise_log_start(tp, to)),
            Order::Cleaned(upto) => {
                for (tp, upto) in upto.into_iter().filter(|(_, upto)| *upto > Offset(0)) {
                    if let Some(Slot::Open(open)) = self.partitions.get_mut(&tp) {
                        open.index.forget_recent(Offset(upto.0 - 1));
                    }
                }
            }
            Order::Release { partitions, settled } => self.on_release(partitions, settled),
            Order::Stall(partitions) => self.on_stall(&partitions),
            Order::Keep(partitions) => self.on_keep(&partitions),
            Order::Opened(found, done) => {
                found.into_iter().for_each(|o| self.on_opened(o));
                done.send(()).ok();
            }
            Order::Cut { upto, bases } => {
                for (tp, base) in bases {
                    if let Some(departed) = self.departed.get_mut(&tp) {
                        departed.cut(&base);
                    }
                    if let Some(Slot::Open(open)) = self.partitions.get_mut(&tp) {
                        if base.end > open.base.end {
                            open.base = base;
                            open.state.forget_expired(&mut open.base);
                        }
                        open.index.forget_extents(self.id, upto);
                    }
                }
                self.departed.retain(|_, departed| departed.until > upto);
                self.lows.insert(self.id, upto);
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
            Order::CutInput { ask, reply } => {
                reply.send(self.cut_input(ask)).ok();
            }
            Order::Fence | Order::Close { .. } => unreachable!("handled by the loop"),
        }
    }

    fn cut_input(&self, ask: CutAsk) -> CutInput {
        let mut parcels = match ask.bytes {
            0 => Vec::new(),
            _ => self.parcels(ask.from, self.handled),
        };
        let sizes = parcels.iter().map(|(_, footer, _)| footer.batch_bytes());
        parcels.truncate(cut::stretch(sizes, ask.bytes));
        let upto = parcels.last().map_or(ask.from, |(seq, ..)| seq.next());
        let parts = || parcels.iter().flat_map(|(seq, footer, _)| footer.parts.iter().map(|p| (*seq, p)));
        let open = |tp: &TopicPartition| match self.partitions.get(tp) {
            Some(Slot::Open(open)) => Some(open),
            _ => None,
        };
        let found = parts().filter_map(|(seq, part)| {
            let batches = open(&part.of)?.index.at_hand(&part.batches)?;
            Some(((seq, part.of), batches))
        });
        let base = |tp: TopicPartition| {
            let here = open(&tp).map(|open| (tp, open.state.leader_epoch(), open.base.clone()));
            here.or_else(|| self.departed.get(&tp).map(|left| (tp, left.leader_epoch, left.base.clone())))
        };
        let bases = match ask.whole {
            true => self.partitions.keys().filter_map(|tp| base(*tp)).collect(),
            false => {
                let touched: BTreeSet<_> = parts().map(|(_, part)| part.of).collect();
                touched.into_iter().filter_map(base).collect()
            }
        };
        CutInput { upto, committed: self.handled, at_hand: found.collect(), bases, parcels }
    }

    fn on_opened(&mut self, found: Opened) {
        let Some(Slot::Opening { lead, log_start, .. }) = self.partitions.get(&found.tp) else { return };
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
                base.raise_log_start(*log_start);
                let state = State::open(base.clone(), found.leader_epoch);
                let internal = lead.internal;
                Slot::Open(Box::new(Open {
                    opened: tokio::time::Instant::now(),
                    state,
                    index,
                    waiters: Waiters::default(),
                    base,
                    internal,
                    leaving: None,
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
            Slot::Opening { deferred, .. } => self.refuse_writes(deferred),
            Slot::Open(mut open) => {
                open.waiters.wake_all();
                self.refuse_writes(open.leaving.map(|leaving| leaving.held).unwrap_or_default());
            }
            Slot::Offline => {}
        }
    }

    /// Answers writes that were put off, with what else their requests hold.
    pub(super) fn refuse_writes(&mut self, writes: Vec<(u64, usize, Write)>) {
        for (number, at, _) in writes {
            let refused = Err(ErrorCode::NotLeaderOrFollower);
            if let Some((ticket, wait)) = self.tickets.decide(number, at, refused, None) {
                match wait {
                    Some(seq) if seq >= self.handled => self.parked.park(seq, ticket),
                    _ => ticket.answer(ErrorCode::NotLeaderOrFollower),
                }
            }
        }
    }
}
