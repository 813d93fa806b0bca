//! The controller's roll of broker epochs: who was heard when, and until when each may serve reads. Pure.
//!
//! A takeover commits only once the old session has lapsed (R24, E15), so new leaders may serve as soon as
//! they see it. Lives granted by older controllers are bounded by [`Roll::new`]'s `inherited`. Soft state:
//! nothing here is persisted. Times are arguments.

use std::collections::BTreeMap;
use std::time::Duration;

use tidemark_proto::id::{BrokerEpoch, BrokerId};
use tokio::time::Instant;

use super::image::Image;
use super::level::FIRST;
use super::timings::Timings;

/// See the module.
#[derive(Debug)]
pub(super) struct Roll {
    timings: Timings,
    inherited: Instant,
    rows: BTreeMap<BrokerEpoch, Row>,
}

#[derive(Debug)]
struct Row {
    node: BrokerId,
    heard: Instant,
    granted: Instant,
    probed: bool,
    ending: bool,
    /// The newest `tidemark.version` it knows.
    level: i16,
}

/// A broker that has not been heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Silent {
    pub node: BrokerId,
    pub epoch: BrokerEpoch,
    /// For as long as a session: take it over. Else: see whether it can be proven dead.
    pub over: bool,
}

impl Roll {
    /// At the start of an ownership whose seal was known to stand at `sealed`: every broker gets a session's
    /// time to find us, and may have been granted reads by the one before for T_ctl + T_session after it.
    pub fn new(timings: Timings, sealed: Instant) -> Roll {
        let inherited = sealed + timings.control + timings.session + timings.skew;
        Roll { timings, inherited, rows: BTreeMap::new() }
    }

    /// Follows the image: new epochs appear, ended ones go. `first` = the image the ownership began with.
    pub fn follow(&mut self, image: &Image, now: Instant, first: bool) {
        let granted = if first { self.inherited } else { now };
        let live: BTreeMap<BrokerEpoch, BrokerId> = image.live().map(|b| (b.epoch, b.node)).collect();
        self.rows.retain(|epoch, _| live.contains_key(epoch));
        for (epoch, node) in live {
            let row = Row { node, heard: now, granted, probed: false, ending: false, level: FIRST };
            self.rows.entry(epoch).or_insert(row);
        }
    }

    /// A heartbeat came.
    pub fn heard(&mut self, epoch: BrokerEpoch, level: i16, now: Instant) {
        if let Some(row) = self.rows.get_mut(&epoch) {
            (row.heard, row.probed, row.level) = (now, false, level.max(FIRST));
        }
    }

    /// The newest `tidemark.version` that each epoch knows.
    pub fn levels(&self) -> Vec<(BrokerEpoch, i16)> {
        self.rows.iter().map(|(epoch, row)| (*epoch, row.level)).collect()
    }

    /// Grants or renews a session, unless the epoch is being ended.
    pub fn grant(&mut self, epoch: BrokerEpoch, now: Instant) -> bool {
        let Some(row) = self.rows.get_mut(&epoch).filter(|row| !row.ending) else { return false };
        row.granted = row.granted.max(now + self.timings.session + self.timings.skew);
        true
    }

    /// No grants from now on; the moment from which nobody serves reads under the epoch.
    pub fn end(&mut self, epoch: BrokerEpoch, now: Instant) -> Instant {
        let Some(row) = self.rows.get_mut(&epoch) else { return now };
        row.ending = true;
        row.granted.max(now)
    }

    /// Who has not been heard for two heartbeats (told once) or for a session (told until it ends).
    pub fn silent(&mut self, now: Instant) -> Vec<Silent> {
        let Timings { heartbeat, session, skew, .. } = self.timings;
        let mut out = Vec::new();
        for (epoch, row) in &mut self.rows {
            let silence = now.saturating_duration_since(row.heard);
            let over = silence >= session + skew;
            if row.ending || !(over || (silence >= heartbeat * 2 + skew && !row.probed)) {
                continue;
            }
            row.probed = true;
            out.push(Silent { node: row.node, epoch: *epoch, over });
        }
        out
    }

    /// How often [`Roll::silent`] is worth asking.
    pub fn tick(&self) -> Duration {
        self.timings.heartbeat / 2
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::image::Broker;
    use super::*;

    fn roll(now: Instant) -> Roll {
        let mut image = Image::default();
        let broker = Broker { node: BrokerId(1), epoch: BrokerEpoch(7), alive: true, ..Broker::default() };
        Arc::make_mut(&mut image.brokers).insert(broker.node, Arc::new(broker));
        let mut roll = Roll::new(Timings::default(), now);
        roll.follow(&image, now, true);
        roll
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_controller_waits_out_sessions_it_did_not_grant() {
        let now = Instant::now();
        let t = Timings::default();
        assert_eq!(roll(now).end(BrokerEpoch(7), now), now + t.control + t.session + t.skew);
    }

    #[tokio::test(start_paused = true)]
    async fn an_ending_epoch_is_granted_nothing_more() {
        let now = Instant::now();
        let mut roll = roll(now);
        let later = now + Duration::from_secs(60);
        assert!(roll.grant(BrokerEpoch(7), later));
        let t = Timings::default();
        let lapse = roll.end(BrokerEpoch(7), later);
        assert_eq!(lapse, later + t.session + t.skew);
        assert!(!roll.grant(BrokerEpoch(7), later));
        assert_eq!(roll.end(BrokerEpoch(7), later), lapse);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_probed_once_and_then_over() {
        let now = Instant::now();
        let mut roll = roll(now);
        let at = |ms| now + Duration::from_millis(ms);
        assert_eq!(roll.silent(at(1_100)), []);
        let silent = |over| vec![Silent { node: BrokerId(1), epoch: BrokerEpoch(7), over }];
        assert_eq!(roll.silent(at(1_200)), silent(false));
        assert_eq!(roll.silent(at(2_000)), []);
        assert_eq!(roll.silent(at(2_700)), silent(true));
        roll.heard(BrokerEpoch(7), 5, at(2_800));
        assert_eq!(roll.levels(), [(BrokerEpoch(7), 5)]);
        assert_eq!(roll.silent(at(2_900)), []);
    }
}
