use bytes::Bytes;
use proptest::prelude::*;
use tidemark_proto::id::{
    BrokerEpoch, ClusterId, LaneId, LeaderEpoch, Life, Millis, Nonce, Offset, PartitionIndex, ProducerEpoch,
    ProducerId, Seq, TopicId, TopicPartition,
};
use tidemark_proto::record::build::Builder;
use tidemark_proto::record::control::{EndMarker, Outcome};
use tidemark_proto::record::stamp::Stamped;
use tidemark_proto::record::view::Batch;
use uuid::Uuid;

use super::read::{open, parse_tail};
use super::*;

const LANE: LaneId = LaneId { epoch: BrokerEpoch(2), lane: 1, life: Life(3) };

fn of(topic: u128, partition: i32) -> TopicPartition {
    TopicPartition { topic: TopicId(Uuid::from_u128(topic)), partition: PartitionIndex(partition) }
}

fn entry(of: TopicPartition, internal: bool, base: i64, batch: &Batch) -> Entry {
    let (base, epoch) = (Offset(base), LeaderEpoch(9));
    let meta = BatchEntry::of(batch, base, epoch).unwrap();
    Entry {
        topic: of.topic,
        partition: of.partition,
        internal,
        batch: Stamped::new(batch, base, epoch),
        meta,
    }
}

fn plain(value: &[u8]) -> Batch {
    Builder::new().append(Millis(5), None, Some(value)).append(Millis(7), None, Some(value)).build()
}

fn marker() -> Batch {
    let end = EndMarker {
        outcome: Outcome::Commit,
        producer: ProducerId(77),
        epoch: ProducerEpoch(1),
        coordinator_epoch: 12,
    };
    end.to_batch(Millis(8))
}

fn sample() -> Built {
    let entries = vec![
        entry(of(9, 0), true, 40, &plain(b"offsets")),
        entry(of(2, 1), false, 10, &plain(b"x")),
        entry(of(1, 0), false, 0, &plain(b"yy")),
        entry(of(2, 1), false, 12, &marker()),
    ];
    let facts = vec![
        Fact::LogStart { of: of(1, 0), leader_epoch: LeaderEpoch(9), offset: Offset(0) },
        Fact::SnapshotRef {
            of: of(2, 1),
            leader_epoch: LeaderEpoch(9),
            offset: Offset(10),
            key: "run/ab12/check-x".into(),
        },
    ];
    build(ClusterId(Uuid::from_u128(1)), LANE, Seq(5), Nonce(6), entries, facts)
}

#[test]
fn parcel_groups_by_partition_and_comes_back() {
    let built = sample();
    let bytes = built.body.to_bytes();
    let (header, footer) = open(&bytes).unwrap();
    assert_eq!((header.lane_id(), header.seq, header.nonce), (LANE, Seq(5), Nonce(6)));
    assert_eq!(footer, built.footer);
    let order: Vec<_> = footer.parts.iter().map(|part| (part.of, part.internal)).collect();
    assert_eq!(order, [(of(1, 0), false), (of(2, 1), false), (of(9, 0), true)]);
    let second = footer.part(of(2, 1)).unwrap();
    assert_eq!((second.base_offset(), second.last_offset()), (Offset(10), Offset(12)));
    assert_eq!(second.batches[1].marker, Some(Marker { commit: true, coordinator_epoch: 12 }));
    assert!(second.batches[1].is_control() && second.batches[1].is_transactional());
    assert_eq!(footer.part(of(9, 0)).map(|part| part.batches.len()), Some(1));
    assert_eq!(footer.part(of(9, 1)), None);
}

#[test]
fn no_batch_is_copied() {
    let value = vec![1u8; 100_000];
    let batch = plain(&value);
    let built =
        build(ClusterId::default(), LANE, Seq(0), Nonce(0), vec![entry(of(1, 0), false, 0, &batch)], vec![]);
    let tail = batch.bytes()[16..].as_ptr();
    assert!(built.body.parts().iter().any(|part| part.as_ptr() == tail));
}

/// Every byte of a parcel is covered by its header's CRC, by a batch's CRC, or by a footer entry.
#[test]
fn every_bit_flip_and_every_truncation_is_refused() {
    let bytes = sample().body.to_bytes();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut bad = bytes.to_vec();
            bad[at] ^= 1 << bit;
            assert!(open(&Bytes::from(bad)).is_err(), "bit {bit} of byte {at}");
        }
        assert!(open(&bytes.slice(..at)).is_err(), "truncated to {at}");
        assert!(parse_tail(&bytes[..at], at as u64).is_err(), "tail of {at}");
    }
    assert!(open(&Bytes::from([&bytes[..], &[0]].concat())).is_err());
}

#[test]
fn any_tail_that_holds_the_footer_is_enough() {
    let bytes = sample().body.to_bytes();
    let size = bytes.len() as u64;
    let mut enough = false;
    for len in 0..=bytes.len() {
        match parse_tail(&bytes[bytes.len() - len..], size).unwrap() {
            Tail::Whole(_, footer) => {
                enough = true;
                assert_eq!(footer, sample().footer);
            }
            Tail::Needs(more) => assert!(!enough && more > len as u64),
        }
    }
    assert!(enough);
}

#[test]
fn an_empty_parcel_of_facts_is_a_parcel() {
    let fact = Fact::LogStart { of: of(1, 0), leader_epoch: LeaderEpoch(0), offset: Offset(3) };
    let built = build(ClusterId::default(), LANE, Seq(0), Nonce(0), vec![], vec![fact.clone()]);
    let (_, footer) = open(&built.body.to_bytes()).unwrap();
    assert_eq!(footer.facts, [fact]);
}

#[test]
fn absurd_counts_are_refused_without_allocating() {
    let huge = [u32::MAX.to_be_bytes(), [0; 4]].concat();
    assert!(Footer::parse(&huge).is_err());
}

proptest! {
    #[test]
    fn footer_parsing_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Footer::parse(&bytes);
        let _ = parse_tail(&bytes, bytes.len() as u64);
    }

    /// Damage anywhere in a footer is met by the parser alone, CRC or not: it may pass, but never panics.
    #[test]
    fn a_damaged_footer_never_panics(at in 0usize..400, with in any::<[u8; 8]>()) {
        let mut bytes = sample().footer.encode();
        let at = at % (bytes.len() - 8);
        bytes[at..at + 8].copy_from_slice(&with);
        let _ = Footer::parse(&bytes);
    }

    #[test]
    fn every_parcel_comes_back(
        adds in proptest::collection::vec((0u128..4, 0i32..3, 0usize..50), 1..40),
    ) {
        let mut next = std::collections::BTreeMap::new();
        let entries: Vec<Entry> = adds.iter().map(|&(topic, index, len)| {
            let of = of(topic, index);
            let base = next.entry(of).or_insert(0i64);
            let entry = entry(of, topic == 0, *base, &plain(&vec![7; len]));
            *base += 2;
            entry
        }).collect();
        let built = build(ClusterId::default(), LANE, Seq(1), Nonce(1), entries, vec![]);
        let bytes = built.body.to_bytes();
        let (_, footer) = open(&bytes).unwrap();
        prop_assert_eq!(&footer, &built.footer);
        for (of, end) in next {
            let mut at = 0;
            for (extent, batch) in footer.extents(of) {
                let range = extent.position as usize..(extent.position + extent.length) as usize;
                verify_batches(&bytes.slice(range), [batch]).unwrap();
                prop_assert_eq!(batch.base_offset.0, at);
                at = batch.last_offset.0 + 1;
            }
            prop_assert_eq!(at, end);
        }
    }
}
