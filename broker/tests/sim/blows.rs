//! What befalls the world: blows, and what ends each of them. They overlap.

use std::sync::Arc;
use std::time::Duration;

use tidemark_broker::cluster::command::Command;
use tidemark_proto::id::BrokerId;
use tidemark_tiering::bucket::faults::{Absence, Faulty, Weather};
use tidemark_tiering::seam::Tasks;
use tokio::time::{Instant, sleep, sleep_until};

use crate::broker::Broker;
use crate::net::{Net, Place};
use crate::plan::{Course, Sky, fair, rough};
use crate::world::World;

/// What ends a blow.
pub enum Mend {
    /// A broker starts in this slot, unless there is one.
    Start(usize),
    /// What is left of the broker in this slot ends, and another starts.
    Restart(usize),
    /// These tasks stop.
    Freeze(Tasks),
    /// They run on, and what this broker sends is quick again.
    Thaw(Tasks, Arc<Faulty>),
    /// These end.
    Kill(Tasks),
    /// These two hear one another again.
    Peers(String, String),
    /// What is sent this way is quick again.
    Quick(Arc<Faulty>),
    /// Clients reach this slot again.
    Clients(usize),
    /// The bucket is back.
    Bucket,
    /// The bucket is back for the broker in this slot.
    BucketOf(usize),
    /// The weather is the usual one.
    Weather,
}

impl World {
    /// Blows fall until `until`; what has not ended by then is left to [`World::calm`].
    pub async fn storm(&mut self, until: Instant) {
        let mut next = Instant::now() + self.pause();
        while Instant::now() < until {
            let mend = self.mends.iter().map(|(at, _)| *at).min();
            sleep_until(mend.unwrap_or(until).min(next).min(until)).await;
            let now = Instant::now();
            while let Some(i) = self.mends.iter().position(|(at, _)| *at <= now) {
                let (_, mend) = self.mends.remove(i);
                self.mend(mend);
            }
            self.supervise();
            if now >= next {
                let slot = usize::try_from(self.entropy.below(self.plan.brokers as u64)).expect("an index");
                self.blow(slot);
                next = now + self.pause();
            }
        }
    }

    fn pause(&self) -> Duration {
        let mean = self.plan.blow_every_ms;
        Duration::from_millis(mean / 2 + self.entropy.below(mean))
    }

    fn later(&mut self, most_ms: u64, mend: Mend) {
        let at = Instant::now() + Duration::from_millis(self.entropy.below(most_ms));
        self.mends.push((at, mend));
    }

    fn blow(&mut self, slot: usize) {
        let odds = if self.plan.course == Course::Races { 3 } else { 1 };
        if self.entropy.below(4) < odds && self.race(slot) {
            return;
        }
        let blow = self.entropy.below(20);
        if let Some(address) = self.brokers[slot].as_ref().map(|b| b.address.clone()) {
            match blow {
                0 | 1 => {
                    self.count("blow: kill");
                    self.kill(slot);
                    return self.later(6_000, Mend::Start(slot));
                }
                2..5 => return self.freeze(slot),
                5 => return self.replace(slot),
                6 | 7 => {
                    let other = (slot + 1) % self.plan.brokers;
                    let Some(peer) = self.brokers[other].as_ref().filter(|_| other != slot) else { return };
                    let peer = peer.address.clone();
                    self.count("blow: cut between brokers");
                    self.peers.cut(&address, &peer);
                    return self.later(9_000, Mend::Peers(address, peer));
                }
                8 => return self.close(slot),
                15..20 => return self.shift(slot),
                9 => {
                    self.count("blow: one broker without its bucket");
                    let how = self.absence();
                    self.brokers[slot].iter().for_each(|b| b.store.away(how, None));
                    return self.later(12_000, Mend::BucketOf(slot));
                }
                _ => {}
            }
        }
        match blow {
            10 => {
                self.count("blow: cut from clients");
                for client in 1..7 {
                    self.net.set_cut(Place::Client(client), Place::Broker(slot), true);
                }
                self.later(6_000, Mend::Clients(slot));
            }
            11 => {
                self.count("blow: bucket away");
                self.store.away(self.absence(), None);
                self.later(8_000, Mend::Bucket);
            }
            12 if self.entropy.below(3) == 0 => {
                self.count("blow: all killed");
                (0..self.plan.brokers).for_each(|slot| self.kill(slot));
                (0..self.plan.brokers).for_each(|slot| self.later(3_000, Mend::Start(slot)));
            }
            _ if self.plan.sky != Sky::Clear => {
                self.count("blow: gust");
                let slow = match self.entropy.below(4) {
                    0 => vec![("wal/".to_owned(), Duration::from_millis(self.entropy.below(6_000)))],
                    1 => vec![("meta/".to_owned(), Duration::from_millis(self.entropy.below(3_000)))],
                    _ => Vec::new(),
                };
                self.store.set_weather(Weather { slow, ..rough() });
                self.later(9_000, Mend::Weather);
            }
            _ => {}
        }
    }

    fn absence(&self) -> Absence {
        [Absence::Refusing, Absence::Silent, Absence::Missing]
            [usize::try_from(self.entropy.below(3)).expect("an index")]
    }

    /// `SIGSTOP`, and `SIGCONT` later. Half the time with parcels on their way, which land while it stands still.
    fn freeze(&mut self, slot: usize) {
        let Some(broker) = self.brokers[slot].as_ref() else { return };
        let (tasks, store) = (broker.seams.tasks.clone(), broker.store.clone());
        self.count("blow: freeze");
        let ms = |most| Duration::from_millis(self.entropy.below(most));
        let mut at = Instant::now();
        if self.entropy.below(2) == 0 {
            let slow = vec![("wal/".to_owned(), Duration::from_secs(1) + ms(7_000))];
            store.set_weather(Weather { slow, ..Weather::default() });
            at += ms(400);
        }
        let most = if self.entropy.below(2) == 0 { 3_000 } else { 15_000 };
        let thaw = (at + ms(most), Mend::Thaw(tasks.clone(), store));
        self.mends.extend([(at, Mend::Freeze(tasks)), thaw]);
    }

    /// A second process with the same node id; the older one is still there and finds out by itself.
    fn replace(&mut self, slot: usize) {
        let Some(older) = self.brokers[slot].take() else { return };
        self.count("blow: replacement");
        self.start(slot);
        self.later(8_000, Mend::Kill(older.seams.tasks.clone()));
        self.older.push(older);
    }

    /// A clean shutdown and a start, which may come before the first has ended. Half the time the partitions are given
    /// away first.
    fn close(&mut self, slot: usize) {
        let running = self.brokers[slot].as_ref().and_then(|b| b.running.lock().take());
        let Some(running) = running else { return };
        let drained = self.entropy.below(2) == 0;
        self.count(if drained { "blow: drained restart" } else { "blow: clean restart" });
        self.outside.spawn(async move {
            if drained {
                running.drain(Duration::from_secs(3)).await;
            }
            running.close(Duration::from_secs(20)).await
        });
        self.later(if drained { 8_000 } else { 4_000 }, Mend::Restart(slot));
    }

    /// Some partitions are to be led by others, now that nobody has died; or those on their way stay after all.
    fn shift(&mut self, slot: usize) {
        let node = self.brokers[slot].as_ref().and_then(Broker::node);
        let Some(node) = node else { return };
        self.count("blow: partitions moved");
        let image = node.cluster.image();
        let live: Vec<BrokerId> = image.live().map(|b| b.node).collect();
        let pick = |from: &[BrokerId]| {
            from.get(usize::try_from(self.entropy.below(from.len().max(1) as u64)).expect("an index"))
                .copied()
        };
        let all = image.topics().flat_map(|topic| topic.partitions());
        let some = all.filter(|_| self.entropy.below(3) == 0);
        let moves: Vec<_> = some.filter_map(|(tp, _)| Some((tp, pick(&live)?))).collect();
        self.outside.spawn(async move { node.cluster.submit(Command::PlanMoves { moves }).await });
    }

    fn mend(&mut self, mend: Mend) {
        match mend {
            Mend::Start(slot) if self.brokers[slot].is_none() => self.start(slot),
            Mend::Start(_) => {}
            Mend::Restart(slot) => {
                self.kill(slot);
                self.start(slot);
            }
            Mend::Freeze(tasks) => tasks.freeze(),
            Mend::Thaw(tasks, store) => {
                tasks.thaw();
                store.set_weather(Weather::default());
            }
            Mend::Kill(tasks) => tasks.kill(),
            Mend::Quick(store) => store.set_weather(Weather::default()),
            Mend::Peers(a, b) => self.peers.mend(&a, &b),
            Mend::Clients(slot) => {
                for client in 1..7 {
                    self.net.set_cut(Place::Client(client), Place::Broker(slot), false);
                }
            }
            Mend::Bucket => self.store.back(),
            Mend::BucketOf(slot) => self.brokers[slot].iter().for_each(|b| b.store.back()),
            Mend::Weather => self.store.set_weather(self.plan.usual()),
        }
    }

    /// What an operator's supervisor does: a process that ended is started again.
    pub fn supervise(&mut self) {
        self.look();
        for slot in 0..self.plan.brokers {
            let ended = self.brokers[slot].as_ref().is_some_and(|b| {
                let mut running = b.running.lock();
                running.as_mut().is_some_and(|r| futures::FutureExt::now_or_never(r.exited()).is_some())
            });
            if ended {
                self.count("process ended by itself");
                self.kill(slot);
                self.start(slot);
            }
        }
    }

    /// Everything is healthy from now on.
    pub fn calm(&mut self) {
        for (_, mend) in std::mem::take(&mut self.mends) {
            self.mend(mend);
        }
        self.store.back();
        self.store.set_weather(fair());
        self.net.heal();
        self.peers.heal();
        self.older.drain(..).for_each(|b| b.seams.tasks.kill());
        for slot in 0..self.plan.brokers {
            if self.brokers[slot].is_none() {
                self.start(slot);
            }
        }
    }

    /// Every broker dies, and each starts again with an empty disk.
    pub async fn cold_start(&mut self) {
        (0..self.plan.brokers).for_each(|slot| self.kill(slot));
        sleep(Duration::from_secs(1)).await;
        (0..self.plan.brokers).for_each(|slot| self.start(slot));
    }

    /// A life begins in `slot`, with an empty disk and a peer address of its own.
    pub fn start(&mut self, slot: usize) {
        let broker = self.life(slot);
        self.brokers[slot] = Some(broker);
    }

    /// `kill -9`.
    pub fn kill(&mut self, slot: usize) {
        if let Some(broker) = self.brokers[slot].take() {
            broker.seams.tasks.kill();
            self.net.set_door(slot, None);
        }
    }
}

/// The port of each slot.
pub fn ports(brokers: usize) -> Vec<u16> {
    (0..brokers).map(Net::port).collect()
}
