//! Blows that make two do the same thing at a time, one of them late: what the rules of fencing are for.
//!
//! Each only arranges who is slow, cut off or frozen; what comes of it is the brokers' doing.

use std::time::Duration;

use tidemark_broker::cluster::command::Command;
use tidemark_tiering::bucket::faults::Weather;
use tidemark_tiering::keys;
use tokio::time::Instant;

use crate::blows::Mend;
use crate::world::World;

impl World {
    /// One race that starts at `slot`; `false` if the cluster has nobody for it now.
    pub fn race(&mut self, slot: usize) -> bool {
        match self.entropy.below(12) {
            0..3 => self.takeover_of_the_living(),
            3..5 => self.frozen_controller(),
            5..8 => self.frozen_cutter(slot),
            8 => self.late_candidate(slot),
            9 => self.slow_heirs(slot),
            10 => self.blind_successor(slot),
            _ => self.doubtful_lane(slot),
        }
        .is_some()
    }

    /// The slot of the controller, as whoever knows the newest generation says.
    fn controller(&self) -> Option<usize> {
        let images = self
            .brokers
            .iter()
            .flatten()
            .filter_map(|b| b.running.lock().as_ref().map(|running| running.node.cluster.image()));
        let newest = images.max_by_key(|image| image.position())?;
        let address = newest.controller()?.address.clone();
        self.brokers.iter().position(|b| b.as_ref().is_some_and(|b| b.address == address))
    }

    /// Any slot but `not`, with somebody in it.
    fn other(&self, not: usize) -> Option<usize> {
        let first = usize::try_from(self.entropy.below(self.plan.brokers as u64)).expect("an index");
        let slots = (0..self.plan.brokers).map(|i| (first + i) % self.plan.brokers);
        slots.filter(|slot| *slot != not).find(|slot| self.brokers[*slot].is_some())
    }

    fn ms(&self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.entropy.below(most - least))
    }

    /// Requests of `slot` by this weather for so long.
    fn slowed(&mut self, slot: usize, weather: Weather, time: Duration) {
        let Some(broker) = self.brokers[slot].as_ref() else { return };
        broker.store.set_weather(weather);
        self.mends.push((Instant::now() + time, Mend::Quick(broker.store.clone())));
    }

    /// Nothing passes between these two for so long.
    fn parted(&mut self, slot: usize, other: usize, time: Duration) {
        let address = |slot: usize| self.brokers[slot].as_ref().map(|b| b.address.clone());
        let (Some(a), Some(b)) = (address(slot), address(other)) else { return };
        self.peers.cut(&a, &b);
        self.mends.push((Instant::now() + time, Mend::Peers(a, b)));
    }

    /// A broker is silent for just longer than its session, and the controller's seal of its lane is long on its way:
    /// meanwhile the broker writes, cuts and collects on (R10, R11).
    fn takeover_of_the_living(&mut self) -> Option<()> {
        let controller = self.controller()?;
        let victim = self.other(controller)?;
        let lane = self.brokers[victim].as_ref()?.running.lock().as_ref()?.node.owned()?.lane;
        self.count("race: takeover of the living");
        let slow_puts = vec![(keys::lane(&lane), self.ms(2_500, 4_900))];
        let (slow, cut) = (self.ms(8_000, 14_000), self.ms(2_400, 3_100));
        self.slowed(controller, Weather { slow_puts, ..Weather::default() }, slow);
        self.parted(victim, controller, cut);
        Some(())
    }

    /// A broker hears nobody, takes the controller for dead, and its seal is long on its way (E4, E6, E7).
    fn late_candidate(&mut self, slot: usize) -> Option<()> {
        self.other(slot)?;
        if self.controller() == Some(slot) {
            return None;
        }
        self.count("race: late candidate");
        let time = self.ms(4_000, 9_000);
        let slow_puts = vec![("meta/".to_owned(), self.ms(300, 4_800))];
        self.slowed(slot, Weather { slow_puts, ..Weather::default() }, time);
        for other in (0..self.plan.brokers).filter(|other| *other != slot) {
            self.parted(slot, other, time);
        }
        Some(())
    }

    /// The controller stands still while others elect one, with commits on their way, of which later ones may land before
    /// earlier ones: what lands above the seal is void (E3, E4, E15).
    fn frozen_controller(&mut self) -> Option<()> {
        let controller = self.controller()?;
        self.other(controller)?;
        self.count("race: frozen controller");
        let (slow, more, time) = (self.ms(200, 1_200), self.ms(0, 600), self.ms(2_500, 7_000));
        self.frozen(controller, "meta/", self.ms(500, 9_000), (slow + more, time))?;
        let store = self.brokers[controller].as_ref()?.store.clone();
        self.mends.push((Instant::now() + slow, Mend::Quick(store)));
        Some(())
    }

    /// A broker stands still over its own takeover, with an object of a cut on its way (R14, R18).
    fn frozen_cutter(&mut self, slot: usize) -> Option<()> {
        self.other(slot)?;
        self.count("race: frozen cutter");
        let (after, time) = (self.ms(300, 2_500), self.ms(3_500, 8_000));
        self.frozen(slot, "run/", self.ms(500, 4_800), (after, time))
    }

    /// `slot` stands still after and for so long, and what it puts into `folder` is so long on its way.
    fn frozen(
        &mut self,
        slot: usize,
        folder: &str,
        way: Duration,
        (after, time): (Duration, Duration),
    ) -> Option<()> {
        let broker = self.brokers[slot].as_ref()?;
        let (tasks, store) = (broker.seams.tasks.clone(), broker.store.clone());
        let slow_puts = vec![(folder.to_owned(), way)];
        store.set_weather(Weather { slow_puts, ..Weather::default() });
        let at = Instant::now() + after;
        self.mends.extend([(at, Mend::Freeze(tasks.clone())), (at + time, Mend::Thaw(tasks, store))]);
        Some(())
    }

    /// A broker dies, and some of those who follow read what it left more slowly than others collect it (R15).
    fn slow_heirs(&mut self, slot: usize) -> Option<()> {
        self.other(slot)?;
        self.brokers[slot].as_ref()?;
        self.count("race: slow heirs");
        let slow = vec![("wal/".to_owned(), self.ms(500, 4_000))];
        let weather = Weather { slow, ..Weather::default() };
        let first = self.other(slot)?;
        let time = self.ms(6_000, 12_000);
        self.slowed(first, weather, time);
        self.kill(slot);
        let at = Instant::now() + self.ms(0, 6_000);
        self.mends.push((at, Mend::Start(slot)));
        Some(())
    }

    /// All that others lead is to go to `slot`, which cannot read their lanes for longer than a move may take (R17).
    fn blind_successor(&mut self, slot: usize) -> Option<()> {
        self.other(slot)?;
        let node = self.brokers[slot].as_ref()?.running.lock().as_ref()?.node.clone();
        self.count("race: blind successor");
        let image = node.cluster.image();
        let lanes = image.lanes().filter(|(_, row)| row.node != node.id());
        let mut slow: Vec<_> = lanes.map(|(lane, _)| (keys::lane(&lane), self.ms(5_000, 20_000))).collect();
        slow.push(("run/".to_owned(), self.ms(5_000, 20_000)));
        let time = self.ms(5_000, 12_000);
        self.slowed(slot, Weather { slow, ..Weather::default() }, time);
        let moves = image.partitions().map(|(tp, _)| (tp, node.id())).collect();
        self.outside.spawn(async move { node.cluster.submit(Command::PlanMoves { moves }).await });
        Some(())
    }

    /// A lane's parcels get no answer for long enough that its owner gives it up (R7, R12).
    fn doubtful_lane(&mut self, slot: usize) -> Option<()> {
        let lane = self.brokers[slot].as_ref()?.running.lock().as_ref()?.node.owned()?.lane;
        self.count("race: doubtful lane");
        let slow_puts = vec![(keys::lane(&lane), self.ms(3_000, 30_000))];
        let time = self.ms(3_000, 20_000);
        self.slowed(slot, Weather { slow_puts, ..Weather::default() }, time);
        Some(())
    }
}
