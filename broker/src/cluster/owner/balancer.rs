//! When the controller looks whether brokers carry their shares, and acts on it.

use std::collections::BTreeMap;
use std::time::Duration;

use tidemark_proto::id::BrokerEpoch;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::balance::{Loads, balance};
use super::super::command::Command;
use super::super::image::Image;
use super::super::load::{Load, SMOOTH};
use super::Owner;

/// What a broker told longer ago is not known.
const FRESH: Duration = Duration::from_secs(20);

/// After moves by load their effect shows in the weights before there are others.
const SETTLE: Duration = Duration::from_secs(4 * SMOOTH.as_secs());

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Balancer {
    due: Option<Instant>,
    /// The epochs that lived at the last tick: a cluster that changes is left to settle.
    living: Vec<BrokerEpoch>,
    told: BTreeMap<BrokerEpoch, (Instant, Load)>,
    /// No moves by load until then.
    settled: Option<Instant>,
}

impl Balancer {
    /// A broker told what it serves.
    pub(super) fn heard(&mut self, epoch: BrokerEpoch, load: Load, now: Instant) {
        self.told.insert(epoch, (now, load));
    }

    /// What every broker carries, if all have told it lately and the last moves by it have had their effect.
    fn loads(&self, image: &Image, now: Instant) -> Option<Loads> {
        if self.settled.is_some_and(|at| now < at) {
            return None;
        }
        let mut loads = Loads::default();
        for broker in image.live() {
            let (_, load) = self.told.get(&broker.epoch).filter(|(at, _)| now < *at + FRESH)?;
            loads.add(broker.node, load);
        }
        Some(loads)
    }
}

impl Owner {
    /// Plans moves where they are due and pay.
    pub(super) fn balance_if_due(&mut self, now: Instant) {
        let Some(every) = self.shared.timings.balance else { return };
        let living: Vec<BrokerEpoch> = self.durable.live().map(|b| b.epoch).collect();
        if self.balancer.living != living {
            self.balancer.told.retain(|epoch, _| living.contains(epoch));
            self.balancer.living = living;
            self.balancer.due = Some(now + every);
            self.balancer.settled = Some(now + SETTLE);
        }
        if self.balancer.due.is_none_or(|due| now < due) {
            return;
        }
        self.balancer.due = Some(now + every);
        let loads = self.balancer.loads(&self.durable, now);
        let Some(plan) = balance(&self.pending, &self.overdue.avoid(now), loads.as_ref()) else { return };
        tracing::info!(moves = plan.moves.len(), why = plan.why, "balancing");
        if loads.is_some() {
            self.balancer.settled = Some(now + SETTLE);
        }
        *self.shared.balancing.lock() = Some(plan.why);
        self.submit(Command::PlanMoves { moves: plan.moves }, oneshot::channel().0);
    }
}
