use proptest::prelude::*;

use super::*;

fn names() -> impl Strategy<Value = Name> {
    let position =
        (any::<u64>(), any::<u64>()).prop_map(|(g, s)| Position { generation: Generation(g), seq: Seq(s) });
    let id = any::<u128>().prop_map(Uuid::from_u128);
    let segment = ("[a-zA-Z0-9._-]{3,40}", id.clone(), 0..i32::MAX, 0..i64::MAX, id.clone()).prop_map(
        |(topic, topic_id, p, base, id)| SegmentName {
            topic,
            topic_id: TopicId(topic_id),
            partition: PartitionIndex(p),
            base: Offset(base),
            id,
        },
    );
    let part = prop::sample::select(SegmentPart::ALL.to_vec());
    prop_oneof![
        (any::<u64>(), any::<u32>(), any::<u32>(), any::<u64>()).prop_map(|(epoch, lane, life8, seq)| {
            Name::Parcel { lane: LaneTag { epoch: BrokerEpoch(epoch), lane, life8 }, seq: Seq(seq) }
        }),
        position.clone().prop_map(Name::Meta),
        position.prop_map(Name::Snapshot),
        (any::<u32>(), id.clone()).prop_map(|(level, id)| Name::Run { level, id }),
        id.clone().prop_map(|id| Name::Checkpoint { id }),
        (segment, part).prop_map(|(segment, part)| Name::Segment { segment, part }),
        (id.clone(), 0..i32::MAX, any::<u64>(), id).prop_map(|(t, p, s, id)| Name::Manifest {
            topic_id: TopicId(t),
            partition: PartitionIndex(p),
            seq: Seq(s),
            id
        }),
        (any::<u128>(), "[a-z0-9-]{1,20}").prop_map(|(life, what)| Name::Probe { life: Life(life), what }),
    ]
}

proptest! {
    #[test]
    fn every_name_survives_its_text(name in names()) {
        let key = name.to_string();
        prop_assert_eq!(Name::parse(&key), Some(name));
        let path = object_store::path::Path::parse(&key).unwrap();
        prop_assert_eq!(path.as_ref(), key.as_str());
    }

    #[test]
    fn whatever_parses_is_written_back_the_same(
        key in "(wal|meta|run|segment|manifest|probe)/[0-9a-f/.-]{0,60}"
    ) {
        if let Some(name) = Name::parse(&key) {
            prop_assert_eq!(name.to_string(), key);
        }
    }

    #[test]
    fn one_changed_byte_never_parses_to_another_text(
        name in names(), at in any::<prop::sample::Index>(), byte in 0x20u8..0x7f
    ) {
        let mut key = name.to_string().into_bytes();
        let i = at.index(key.len());
        key[i] = byte;
        let key = String::from_utf8(key).unwrap();
        if let Some(name) = Name::parse(&key) {
            prop_assert_eq!(name.to_string(), key);
        }
    }

    #[test]
    fn an_id_tells_its_creator(epoch in 0..=EPOCH_MASK, seed in any::<u64>()) {
        let id = fresh_id(BrokerEpoch(epoch), &Entropy::seeded(seed));
        prop_assert_eq!(creator(id), Some(BrokerEpoch(epoch)));
        prop_assert_eq!(id.get_version_num(), 8);
    }

    #[test]
    fn kafka_ids_survive_their_text(id in any::<u128>()) {
        let id = Uuid::from_u128(id);
        prop_assert_eq!(parse_kafka_id(&kafka_id(id)), Some(id));
    }
}

#[test]
fn ids_that_are_not_ours_have_no_creator() {
    assert_eq!(creator(Uuid::from_u128(0x1234_5678_9abc_4def_8000_0000_0000_0001)), None);
    assert_ne!(fresh_id(BrokerEpoch(1), &Entropy::seeded(1)), fresh_id(BrokerEpoch(1), &Entropy::seeded(2)));
}

#[test]
fn names_look_as_the_design_says() {
    let lane = LaneId { epoch: BrokerEpoch(7), lane: 0, life: Life(0xdead_beef << 96) };
    let key = parcel(&lane, Seq(3));
    assert!(key.starts_with("wal/") && key.starts_with(&super::lane(&lane)));
    assert!(key.ends_with("-00000000000000000007-0-deadbeef/00000000000000000003"), "{key}");
    let at = Position { generation: Generation(2), seq: Seq(5) };
    assert_eq!(meta(at), "meta/00000000000000000002/00000000000000000005");
    assert_eq!(snapshot(at), "meta/snapshot/00000000000000000002-00000000000000000005");
    let name = SegmentName {
        topic: "orders".into(),
        topic_id: TopicId(Uuid::from_u128(0)),
        partition: PartitionIndex(7),
        base: Offset(1234),
        id: Uuid::from_u128(0),
    };
    assert_eq!(
        segment(&name, SegmentPart::Manifest),
        "segment/orders-AAAAAAAAAAAAAAAAAAAAAA/7/00000000000000001234-AAAAAAAAAAAAAAAAAAAAAA.rsm-manifest"
    );
}

#[test]
fn foreign_and_sloppy_keys_are_not_ours() {
    for key in [
        "",
        "wal",
        "wal/",
        "meta/1/2",
        "meta/snapshot/1-2",
        "meta/00000000000000000002/00000000000000000005/",
        "run/0000/check-xyz",
        "segment/a/b/c",
        "segment/é-AAAAAAAAAAAAAAAAAAAAAA/7/00000000000000001234-AAAAAAAAAAAAAAAAAAAAAA.log",
        "probe/00/x",
        "wal/zzzz-00000000000000000007-0-deadbeef/00000000000000000003",
        "meta/99999999999999999999/00000000000000000005",
    ] {
        assert_eq!(Name::parse(key), None, "{key}");
    }
}
