//! The formats are frozen: objects of every version are kept and must stay readable, as the same text; damaged
//! ones must stay refused, for the same reason. `UPDATE_EXPECT=1` writes the present version's files anew.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tidemark_proto::id::{
    BrokerEpoch, ClusterId, LaneId, LeaderEpoch, Life, Millis, Nonce, Offset, PartitionIndex, ProducerEpoch,
    ProducerId, Seq, TopicId, TopicPartition,
};
use tidemark_proto::record::build::Builder;
use tidemark_proto::record::control::{EndMarker, Outcome};
use tidemark_proto::record::stamp::Stamped;
use tidemark_proto::record::view::Batch;
use tidemark_tiering::dump::dump;
use tidemark_tiering::format::{self, Header, Kind, seal};
use tidemark_tiering::parcel::{BatchEntry, Entry, Fact, build};
use tidemark_tiering::run::{self, Piece, State, checkpoint};
use uuid::Uuid;

const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(0x7c1d_e5f0_0000_4000_8000_0000_0000_0001));
const LANE: LaneId = LaneId { epoch: BrokerEpoch(12), lane: 0, life: Life(0x1f_0000_0001) };

fn of(topic: u128, partition: i32) -> TopicPartition {
    let topic = TopicId(Uuid::from_u128(0x70_0000_0000_0000_4000_8000_0000_0000 + topic));
    TopicPartition { topic, partition: PartitionIndex(partition) }
}

fn entry(of: TopicPartition, internal: bool, base: i64, batch: &Batch) -> Entry {
    let (base, epoch) = (Offset(base), LeaderEpoch(3));
    let meta = BatchEntry::of(batch, base, epoch).expect("a batch");
    let batch = Stamped::new(batch, base, epoch);
    Entry { topic: of.topic, partition: of.partition, internal, batch, meta }
}

fn parcel() -> Vec<u8> {
    let at = Millis(1_767_225_600_000);
    let plain = Builder::new().append(at, Some(b"key"), Some(b"value")).append(at, None, Some(b"v2")).build();
    let txn = Builder::new()
        .producer(ProducerId(1000), ProducerEpoch(1), 7)
        .transactional()
        .append(at, None, Some(b"in a transaction"))
        .build();
    let (producer, epoch) = (ProducerId(1000), ProducerEpoch(1));
    let end = EndMarker { outcome: Outcome::Commit, producer, epoch, coordinator_epoch: 4 }.to_batch(at);
    let entries = vec![
        entry(of(9, 17), true, 5, &plain),
        entry(of(1, 0), false, 100, &plain),
        entry(of(2, 3), false, 7, &txn),
        entry(of(1, 0), false, 102, &plain),
        entry(of(2, 3), false, 8, &end),
    ];
    let facts = vec![
        Fact::LogStart { of: of(1, 0), leader_epoch: LeaderEpoch(3), offset: Offset(50) },
        Fact::SnapshotRef {
            of: of(1, 0),
            leader_epoch: LeaderEpoch(3),
            offset: Offset(100),
            key: "run/0000/check-00000000-0000-8000-8000-000000000000".into(),
        },
    ];
    build(CLUSTER, LANE, Seq(41), Nonce(0xA11CE), entries, facts).body.to_bytes().to_vec()
}

fn sealed() -> Vec<u8> {
    let header = Header::of_lane(Kind::Seal, CLUSTER, LANE, Seq(42), Nonce(0x5EA1));
    let by = seal::Sealer { life: Life(2), nonce: Nonce(3), next: 13, address: "10.0.0.7:19092".into() };
    seal::encode(header, &by).concat()
}

fn meta() -> Vec<u8> {
    let header = Header::new(Kind::Meta, CLUSTER, 2, 0, Seq(8), Life(2), Nonce(4));
    format::object(header, &b"records of another crate"[..]).concat()
}

fn state() -> State {
    State {
        log_start: Offset(50),
        end: Offset(104),
        epochs: vec![(LeaderEpoch(0), Offset(0)), (LeaderEpoch(3), Offset(80))],
        snapshot: Bytes::from_static(b"producers, the broker's own form"),
    }
}

/// Batches of a partition: what a footer says of them, and their bytes.
fn batches(of: TopicPartition, internal: bool, offsets: &[i64]) -> (Vec<BatchEntry>, Vec<Bytes>) {
    let at = Millis(1_767_225_600_000);
    let plain = Builder::new().append(at, Some(b"key"), Some(&[7; 40_000])).build();
    let batch = |base: &i64| {
        let entry = entry(of, internal, *base, &plain);
        (entry.meta, entry.batch.to_bytes())
    };
    offsets.iter().map(batch).unzip()
}

fn run_object() -> Vec<u8> {
    let header = Header::of_lane(Kind::Run, CLUSTER, LANE, Seq(41), Nonce(5));
    let shares = [
        (of(1, 0), false, batches(of(1, 0), false, &[100, 101, 102]), Some(state())),
        (of(2, 3), false, batches(of(2, 3), false, &[7]), None),
        (of(9, 17), true, batches(of(9, 17), true, &[5]), Some(state())),
    ];
    let pieces = shares.iter().map(|(of, internal, (entries, bytes), state)| Piece {
        of: *of,
        internal: *internal,
        batches: entries.iter().collect(),
        bytes: bytes.clone(),
        state: state.clone(),
    });
    let id = Uuid::from_u128(0x8000_8000_0000_0000_0000);
    run::build(header, id, vec![(LANE, Seq(3), Seq(41))], pieces.collect()).0.to_bytes().to_vec()
}

fn checkpoint_object() -> Vec<u8> {
    let header = Header::of_lane(Kind::Checkpoint, CLUSTER, LANE, Seq(41), Nonce(6));
    let states = [(of(1, 0), state()), (of(2, 3), State::default())];
    checkpoint::encode(header, states.iter().map(|(of, state)| (of, state))).to_bytes().to_vec()
}

fn present() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("parcel", parcel()),
        ("seal", sealed()),
        ("meta", meta()),
        ("run", run_object()),
        ("checkpoint", checkpoint_object()),
    ]
}

fn damaged() -> Vec<(&'static str, Vec<u8>)> {
    let parcel = parcel();
    let flip = |at: usize| {
        let mut bytes = parcel.clone();
        bytes[at] ^= 0x40;
        bytes
    };
    let mut footer_length = parcel.clone();
    let at = parcel.len() - 6;
    footer_length[at] = 0xff;
    vec![
        ("parcel-header-flip", flip(30)),
        ("parcel-batch-flip", flip(200)),
        ("parcel-footer-flip", flip(parcel.len() - 200)),
        ("parcel-truncated", parcel[..parcel.len() - 1].to_vec()),
        ("parcel-headless", parcel[96..].to_vec()),
        ("parcel-footer-length", footer_length),
        ("seal-truncated", sealed()[..100].to_vec()),
        ("meta-longer", [meta(), vec![0]].concat()),
        ("run-data-flip", {
            let mut bytes = run_object();
            bytes[50_000] ^= 1;
            bytes
        }),
        ("checkpoint-truncated", checkpoint_object()[..200].to_vec()),
        ("empty", vec![]),
    ]
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

fn update() -> bool {
    std::env::var_os("UPDATE_EXPECT").is_some()
}

fn kept(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .expect("the folder is committed")
        .map(|file| file.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "bin"))
        .collect();
    files.sort();
    files
}

#[test]
fn every_kept_object_is_still_read_as_the_same_text() {
    let folder = folder("v1");
    if update() {
        for (name, bytes) in present() {
            let text = dump(&Bytes::from(bytes.clone())).expect("just written");
            fs::write(folder.join(name).with_extension("bin"), bytes).expect("writable");
            fs::write(folder.join(name).with_extension("txt"), text).expect("writable");
        }
    }
    let files = kept(&folder);
    assert!(files.len() >= present().len());
    for path in files {
        let bytes = Bytes::from(fs::read(&path).expect("readable"));
        let expected = fs::read_to_string(path.with_extension("txt")).expect("text beside it");
        assert_eq!(dump(&bytes).expect("readable for ever"), expected, "{}", path.display());
    }
}

#[test]
fn this_version_still_writes_the_same_bytes() {
    for (name, bytes) in present() {
        let kept = fs::read(folder("v1").join(name).with_extension("bin")).expect("kept");
        assert_eq!(kept, bytes, "{name}: a new format needs a new version and a new folder");
    }
}

#[test]
fn every_damaged_object_is_refused_for_the_same_reason() {
    let folder = folder("damaged");
    if update() {
        for (name, bytes) in damaged() {
            let why = dump(&Bytes::from(bytes.clone())).expect_err(name);
            fs::write(folder.join(name).with_extension("bin"), bytes).expect("writable");
            fs::write(folder.join(name).with_extension("txt"), format!("{why}\n")).expect("writable");
        }
    }
    let files = kept(&folder);
    assert!(files.len() >= damaged().len());
    for path in files {
        let bytes = Bytes::from(fs::read(&path).expect("readable"));
        let expected = fs::read_to_string(path.with_extension("txt")).expect("text beside it");
        let why = dump(&bytes).expect_err("damaged").to_string();
        assert_eq!(why, expected.trim_end(), "{}", path.display());
    }
}
