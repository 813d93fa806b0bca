//! When the controller looks whether brokers lead their shares, and acts on it.

use tidemark_proto::id::BrokerEpoch;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::balance::balance;
use super::super::command::Command;
use super::Owner;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Balancer {
    due: Option<Instant>,
    /// The epochs that lived at the last tick: a cluster that changes is left to settle.
    living: Vec<BrokerEpoch>,
}

impl Owner {
    /// Plans moves where they are due and pay.
    pub(super) fn balance_if_due(&mut self, now: Instant) {
        let Some(every) = self.shared.timings.balance else { return };
        let living: Vec<BrokerEpoch> = self.durable.live().map(|b| b.epoch).collect();
        if self.balancer.living != living {
            self.balancer.living = living;
            self.balancer.due = Some(now + every);
        }
        if self.balancer.due.is_none_or(|due| now < due) {
            return;
        }
        self.balancer.due = Some(now + every);
        let Some(plan) = balance(&self.pending, &self.overdue.avoid(now)) else { return };
        tracing::info!(moves = plan.moves.len(), why = plan.why, "balancing");
        self.submit(Command::PlanMoves { moves: plan.moves }, oneshot::channel().0);
    }
}
