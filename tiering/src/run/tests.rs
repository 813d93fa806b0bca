use bytes::Bytes;
use proptest::prelude::*;
use tidemark_proto::id::{
    ClusterId, LaneId, LeaderEpoch, Millis, Nonce, Offset, PartitionIndex, Seq, TopicId, TopicPartition,
};
use uuid::Uuid;

use super::checkpoint;
use super::entry::{Partition, Slice, State, encode_page, parse_page};
use crate::format::{Header, Kind};

fn of(topic: u128, partition: i32) -> TopicPartition {
    TopicPartition { topic: TopicId(Uuid::from_u128(topic)), partition: PartitionIndex(partition) }
}

fn state(end: i64) -> State {
    State {
        log_start: Offset(0),
        end: Offset(end),
        epochs: vec![(LeaderEpoch(0), Offset(0)), (LeaderEpoch(4), Offset(end))],
        snapshot: Bytes::from_static(b"opaque"),
    }
}

fn partition(topic: u128, position: u64) -> Partition {
    Partition {
        of: of(topic, 0),
        internal: false,
        base_offset: Offset(10),
        last_offset: Offset(30),
        max_timestamp: Millis(5),
        position,
        length: 1000,
        crc: 1,
        batches: 3,
        state: Some(state(31)),
        slices: vec![
            Slice { base_offset: Offset(10), at: 0, max_timestamp: Millis(5) },
            Slice { base_offset: Offset(20), at: 500, max_timestamp: Millis(4) },
        ],
    }
}

#[test]
fn a_page_comes_back_and_its_order_is_checked() {
    let page = vec![partition(1, 96), partition(2, 1096)];
    assert_eq!(parse_page(&encode_page(&page)).unwrap(), page);
    assert!(parse_page(&encode_page(&[partition(2, 96), partition(1, 1096)])).is_err());
    assert!(parse_page(&encode_page(&[partition(1, 96), partition(2, 1097)])).is_err());
    let mut bad = partition(1, 96);
    bad.slices[1].at = 1000;
    assert!(parse_page(&encode_page(&[bad])).is_err());
}

#[test]
fn every_bit_flip_and_truncation_of_a_checkpoint_is_refused() {
    let header = Header::of_lane(Kind::Checkpoint, ClusterId::default(), LaneId::default(), Seq(7), Nonce(1));
    let states = [(of(1, 0), state(5)), (of(1, 1), state(0)), (of(2, 0), state(9))].into();
    let states: std::collections::BTreeMap<_, _> = states;
    let bytes = checkpoint::encode(header, &states).to_bytes();
    let (_, found) = checkpoint::parse(&bytes).unwrap();
    assert_eq!((found.upto, found.states), (Seq(7), states));
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(checkpoint::parse(&Bytes::from(bad)).is_err(), "bit {bit}");
    }
    (0..bytes.len()).for_each(|len| assert!(checkpoint::parse(&bytes.slice(..len)).is_err()));
}

proptest! {
    #[test]
    fn a_damaged_page_never_panics(at in 0usize..300, with in any::<[u8; 8]>()) {
        let mut bytes = encode_page(&[partition(1, 96), partition(2, 1096)]);
        let at = at % (bytes.len() - 8);
        bytes[at..at + 8].copy_from_slice(&with);
        let _ = parse_page(&bytes);
    }
}
