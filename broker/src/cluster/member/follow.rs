//! Following the controller's stream (E16): no bucket request while it lasts.
//!
//! An update is taken only at exactly the reader's position, verified like an object of the bucket; the seal
//! it tells of was counted by its owner, once and for ever (E6).

use bytes::Bytes;
use tidemark_tiering::format::Damage;
use tokio::time::{Instant, timeout};

use super::super::log::{self, Object};
use super::super::peers::{PeerError, Update};
use super::{Alarm, Member, alarm};

impl Member {
    /// Follows until the controller is silent; whether it was heard at all.
    pub(super) async fn follow(&mut self) -> Result<bool, Alarm> {
        let Some(controller) = self.image.controller().cloned() else { return Ok(false) };
        let to = controller.address;
        if to.is_empty() || to == self.shared.peers.address() {
            return Ok(false); // it was we, or a life before us
        }
        let shared = self.shared.clone();
        let asked = timeout(shared.timings.peer, shared.peers.follow(&to, self.reader.at())).await;
        let mut updates = match asked {
            Ok(Ok(updates)) => updates,
            Ok(Err(PeerError::Denied(why))) => {
                tracing::error!(controller = to, why, "the controller and we do not trust each other");
                return Ok(false);
            }
            Ok(Err(_)) | Err(_) => return Ok(false),
        };
        let mut heard = false;
        while let Ok(Some(update)) = timeout(shared.timings.session, updates.recv()).await {
            self.told(update).map_err(|damage| alarm(&to, &damage))?;
            heard = true;
            *shared.heard.lock() = Some(Instant::now());
            self.check_cluster()?;
            self.publish();
            self.is_ready();
        }
        self.reader.look();
        Ok(heard)
    }

    fn told(&mut self, update: Update) -> Result<(), Damage> {
        let at = self.reader.at();
        match update {
            Update::Alive => Ok(()),
            Update::Object(bytes) => self.saw(at, &bytes),
            Update::Seal(bytes) => self.told_seal(&bytes),
            Update::Snapshot(bytes) => {
                let image = log::open_snapshot(self.image.cluster(), None, &bytes)?;
                self.crossed = None;
                self.restart(image, bytes.len() as u64)
            }
        }
    }

    fn told_seal(&mut self, bytes: &Bytes) -> Result<(), Damage> {
        let at = self.reader.at();
        match log::open(self.image.cluster(), at, bytes)? {
            Object::Seal(seal) => {
                self.reader.told_seal();
                self.cross(at, seal);
                Ok(())
            }
            Object::Data(_) => Err(Damage::new("data where a seal was told")),
        }
    }
}
