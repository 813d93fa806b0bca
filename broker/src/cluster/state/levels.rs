//! Decides whether `tidemark.version` may rise.

use tidemark_proto::id::BrokerEpoch;
use tidemark_proto::kafka::error::ErrorCode;

use super::super::command::{Outcome, Refusal, Reply};
use super::super::image::Image;
use super::super::level::{FEATURE, FIRST};
use super::super::record::Record;

impl Image {
    /// Only up, and only to what every living broker knows; one that was not heard yet knows the first level.
    pub(super) fn finalize_version(&self, level: i16, known: &[(BrokerEpoch, i16)]) -> Outcome {
        let refuse =
            |why| Outcome::reply(Reply::Row(Err(Refusal::new(ErrorCode::InvalidUpdateVersion, why))));
        if level < self.level() {
            return refuse(format!("{FEATURE} does not go down: what was written at it is in the log"));
        }
        let knows = |epoch| known.iter().find(|(of, _)| *of == epoch).map_or(FIRST, |(_, level)| *level);
        if let Some(old) = self.live().find(|broker| knows(broker.epoch) < level) {
            let (node, knows) = (old.node, knows(old.epoch));
            return refuse(format!(
                "broker {node} knows {FEATURE} up to {knows}: start a newer version there"
            ));
        }
        let records = match level == self.level() {
            true => Vec::new(),
            false => vec![Record::FeatureLevel { name: FEATURE.to_owned(), level }],
        };
        Outcome { records, reply: Reply::Row(Ok(())) }
    }
}

#[cfg(test)]
mod tests {
    use tidemark_proto::id::BrokerId;

    use super::super::super::image::Broker;
    use super::*;

    fn image() -> Image {
        let mut image = Image::default();
        for node in [1_u16, 2] {
            let (node, epoch) = (BrokerId(i32::from(node)), BrokerEpoch(u64::from(node)));
            let broker = Broker { node, epoch, alive: true, ..Broker::default() };
            image.apply(&Record::BrokerRegistered { broker, lanes: 1 });
        }
        image
    }

    fn finalize(image: &mut Image, level: i16, known: &[(u64, i16)]) -> bool {
        let known: Vec<_> = known.iter().map(|(epoch, level)| (BrokerEpoch(*epoch), *level)).collect();
        let outcome = image.finalize_version(level, &known);
        outcome.records.iter().for_each(|record| image.apply(record));
        outcome.reply == Reply::Row(Ok(()))
    }

    #[test]
    fn a_level_is_finalized_once_every_living_broker_knows_it_and_never_goes_down() {
        let mut image = image();
        assert!(!finalize(&mut image, 2, &[(1, 2)]), "broker 2 was not heard");
        assert!(!finalize(&mut image, 2, &[(1, 2), (2, 1)]));
        assert_eq!(image.level(), 1);
        image.apply(&Record::BrokerFenced { node: BrokerId(2), epoch: BrokerEpoch(2) });
        assert!(finalize(&mut image, 2, &[(1, 3)]), "the dead have no say");
        assert_eq!(image.level(), 2);
        assert!(!finalize(&mut image, 1, &[(1, 3)]));
        assert!(finalize(&mut image, 2, &[(1, 3)]));
    }
}
