//! The course of a takeover: seal a node's lanes, wait until its sessions have lapsed, then commit (R11, R24).
//!
//! Sealing may take as long as the bucket does and runs beside everything else; what it learned is decided
//! on again when it is done, against whatever the image has become.

use std::sync::Arc;

use tidemark_proto::id::{BrokerEpoch, BrokerId, Life};
use tidemark_tiering::format::seal::Sealer;
use tidemark_tiering::lane;
use tidemark_tiering::witness::{Sight, saw};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::super::command::{Command, Reply, Sealed};
use super::super::shared::Shared;
use super::{Inner, Owner, Tell};

/// Ends one broker epoch.
pub(super) struct Course {
    pub node: BrokerId,
    pub epoch: BrokerEpoch,
    pub life: Life,
    /// Proven dead: there is no session to wait for.
    pub dead: bool,
    pub then: Then,
}

/// What follows the seals.
pub(super) enum Then {
    /// Its partitions are spread over the living.
    TakeOver,
    /// Its node id has a new life, which gets them.
    Register(Box<Command>, Tell),
}

impl Owner {
    /// Whether there is nothing left to end.
    pub(super) fn roll_ended(&self, course: &Course) -> bool {
        !self.durable.broker(course.node).is_some_and(|b| b.epoch == course.epoch && b.alive)
    }

    /// Asks whether a silent broker is dead for sure.
    pub(super) fn probe(&mut self, course: Course) {
        let address = self.durable.broker(course.node).map(|b| b.peer.clone()).unwrap_or_default();
        let (shared, inner) = (self.shared.clone(), self.inner.clone());
        let task = self.shared.seams.tasks.spawn(async move {
            let dead = shared.proven_dead(course.life, &address).await;
            let _ = inner.send(Inner::Probed { course, dead }).await;
        });
        self.tasks.push(task.abort_handle());
    }

    /// Starts a course: from now on the epoch is granted nothing.
    pub(super) fn start(&mut self, course: Course) {
        let now = Instant::now();
        self.roll.end(course.epoch, now);
        let (node, epoch) = (course.node, course.epoch);
        tracing::info!(%node, %epoch, dead = course.dead, "taking over a broker's lanes");
        // The node may hold a newer epoch by now, registered but not durable yet: its lane is none of this course's.
        let open = self.pending.open_lanes(node).filter(|(lane, _)| lane.epoch <= epoch);
        let lanes: Vec<_> = open.map(|(lane, row)| (lane, row.low)).collect();
        let by = Sealer {
            life: self.shared.life,
            nonce: self.nonce,
            next: self.generation.0,
            address: self.shared.peers.address(),
        };
        let cluster = self.durable.cluster();
        let (shared, inner) = (self.shared.clone(), self.inner.clone());
        let task = self.shared.seams.tasks.spawn(async move {
            let mut sealed = Vec::with_capacity(lanes.len());
            for (lane, low) in lanes {
                match lane::seal::seal(&shared.bucket, cluster, lane, low, &by, &shared.seams).await {
                    Ok(at) => sealed.push(Sealed { lane, at }),
                    // An object that this protocol does not write: an alarm, and slowly again.
                    Err(error) => {
                        tracing::error!(%lane, %error, "a lane cannot be sealed");
                        tokio::time::sleep(shared.timings.session).await;
                    }
                }
            }
            let _ = inner.send(Inner::Lapse(course, sealed)).await;
        });
        self.tasks.push(task.abort_handle());
    }

    /// The lanes are sealed: when may nobody be served under the old epoch any more?
    pub(super) fn lapse(&mut self, course: Course, sealed: Vec<Sealed>) {
        let lapses = self.roll.end(course.epoch, Instant::now());
        let address = self.durable.broker(course.node).map(|b| b.peer.clone()).unwrap_or_default();
        let (shared, inner) = (self.shared.clone(), self.inner.clone());
        let task = self.shared.seams.tasks.spawn(async move {
            wait(&shared, &course, &address, lapses).await;
            let _ = inner.send(Inner::Sealed(course, sealed)).await;
        });
        self.tasks.push(task.abort_handle());
    }

    /// Nobody reads under the old epoch: decide, on the image as it is now.
    pub(super) fn sealed(&mut self, course: Course, sealed: Vec<Sealed>) {
        match course.then {
            Then::TakeOver if self.roll_ended(&course) => {}
            Then::TakeOver => {
                let command = Command::TakeOver { node: course.node, epoch: course.epoch, sealed };
                if let Some(Reply::SealFirst { .. }) = self.would(&command) {
                    saw(Sight::SealBelowLow);
                    return self.start(course); // R11: the low mark has passed the seal meanwhile
                }
                saw(Sight::TakenOver);
                let (tell, _nobody) = oneshot::channel();
                self.submit(command, tell);
            }
            Then::Register(mut command, tell) => {
                if let Command::RegisterBroker { sealed: known, .. } = &mut *command {
                    *known = sealed;
                }
                self.submit(*command, tell);
            }
        }
    }
}

/// Waits for the lapse, or for proof that there is nobody whose session could matter.
async fn wait(shared: &Arc<Shared>, course: &Course, address: &str, lapses: Instant) {
    if course.dead || Instant::now() >= lapses {
        return;
    }
    let dead = async {
        while !shared.proven_dead(course.life, address).await {
            tokio::time::sleep(shared.timings.heartbeat).await;
        }
    };
    tokio::select! {
        biased;
        () = sleep_until(lapses) => {}
        () = dead => {}
    }
}
