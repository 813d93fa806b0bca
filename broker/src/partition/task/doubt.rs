//! R23: an answer that came after T_ack proves nothing by itself. Only a read of the metadata, begun after it came, tells
//! that nobody had sealed the lane; until then nothing from it on is acknowledged.

use std::sync::Arc;

use tidemark_proto::id::{LaneId, Seq};
use tidemark_tiering::witness::{Sight, saw};

use super::Task;

/// Asks whether the lane is still unsealed, where an answer came too late to be trusted by itself (R23).
pub type Prove = Arc<dyn Fn(LaneId) -> futures::future::BoxFuture<'static, bool> + Send + Sync>;

/// A proof under way (R23). It speaks only for answers that came before it was asked for.
pub(super) struct Doubt {
    pub(super) proof: futures::future::BoxFuture<'static, bool>,
    /// What the proof sets free.
    pub(super) until: Seq,
    /// A slow answer came since: it needs a proof of its own.
    pub(super) again: bool,
}

impl Task {
    pub(super) fn ask(&self, until: Seq) -> Doubt {
        Doubt { proof: (self.prove)(self.id), until, again: false }
    }

    /// Whether the lane is still ours: what the proof spoke for is committed, and what came too late for it is asked
    /// about anew.
    pub(super) fn on_proven(&mut self, proven: bool) -> bool {
        let doubt = self.doubt.take().expect("a proof was under way");
        saw(if proven { Sight::SlowProven } else { Sight::SlowRefused });
        if proven {
            self.commit(doubt.until);
            self.doubt = doubt.again.then(|| self.ask(self.lane.commit()));
        }
        proven
    }
}
