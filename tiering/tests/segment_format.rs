//! A segment's objects are Kafka's formats: the kept ones must stay readable, as the same text, and be written
//! the same. `UPDATE_EXPECT=1` writes them anew. That Kafka reads them is tried by `broker/tests/compat/segments.py`.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tidemark_proto::id::{
    BrokerId, LeaderEpoch, Millis, Offset, PartitionIndex, ProducerEpoch, ProducerId, TopicId,
};
use tidemark_proto::record::build::Builder;
use tidemark_proto::record::control::{EndMarker, Outcome};
use tidemark_proto::record::stamp::Stamped;
use tidemark_proto::record::view::Batch;
use tidemark_tiering::dump;
use tidemark_tiering::keys::SegmentName;
use tidemark_tiering::segment::{self, Epochs, Start};
use uuid::Uuid;

const AT: Millis = Millis(1_767_225_600_000);

fn stamped(batch: &Batch, base: i64, epoch: i32) -> Batch {
    Stamped::new(batch, Offset(base), LeaderEpoch(epoch)).to_batch()
}

fn batches() -> Vec<Batch> {
    let big =
        |time: i64| Builder::new().append(Millis(AT.0 + time), Some(b"key"), Some(&[7; 50_000])).build();
    let txn = |sequence| {
        let builder = Builder::new().producer(ProducerId(1000), ProducerEpoch(1), sequence).transactional();
        { builder }.append(AT, None, Some(b"in a transaction")).build()
    };
    let (producer, epoch) = (ProducerId(1000), ProducerEpoch(1));
    let end = EndMarker { outcome: Outcome::Abort, producer, epoch, coordinator_epoch: 4 }.to_batch(AT);
    let open = Builder::new()
        .producer(ProducerId(2000), ProducerEpoch(0), 0)
        .transactional()
        .append(AT, None, Some(b"open"))
        .build();
    let all = [big(5), txn(0), big(900), big(3), txn(1), end, open, big(1000), big(1001)];
    let epochs = [3, 3, 3, 3, 4, 4, 4, 4, 4];
    (100..).zip(all.iter().zip(epochs)).map(|(base, (batch, epoch))| stamped(batch, base, epoch)).collect()
}

fn present() -> [(&'static str, Vec<u8>); 3] {
    let name = SegmentName {
        topic: "orders".into(),
        topic_id: TopicId(Uuid::from_u128(0x70_0000_0000_0000_4000_8000_0000_0001)),
        partition: PartitionIndex(7),
        base: Offset(100),
        id: Uuid::from_u128(0x8000_8000_0000_0000_0001),
    };
    let epochs = Epochs::new(vec![(LeaderEpoch(0), Offset(0)), (LeaderEpoch(3), Offset(80))]);
    let mut builder = segment::Builder::new(name.base, Start { epochs, ..Start::default() });
    let mut log = Vec::new();
    for batch in batches() {
        builder.add(&batch).expect("it follows");
        log.extend_from_slice(batch.bytes());
    }
    let built = builder.finish(&name, BrokerId(2), AT);
    [("log", log), ("indexes", built.indexes.to_vec()), ("rsm-manifest", built.manifest.encode())]
}

fn kept(extension: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/v1/segment");
    folder.join("00000000000000000100").with_extension(extension)
}

#[test]
fn every_kept_object_is_still_read_as_the_same_text_and_written_the_same() {
    let text = |extension: &str, bytes: &Bytes| match extension {
        "log" => dump::segment::log(bytes),
        "rsm-manifest" => dump::segment::manifest(bytes),
        _ => dump::segment::indexes(bytes, &Bytes::from(fs::read(kept("rsm-manifest")).expect("kept"))),
    };
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    if update {
        fs::create_dir_all(kept("log").parent().expect("a folder")).expect("writable");
        for (extension, bytes) in present() {
            fs::write(kept(extension), bytes).expect("writable");
        }
    }
    for (extension, written) in present() {
        let bytes = Bytes::from(fs::read(kept(extension)).expect("kept"));
        let found = text(extension, &bytes).expect("readable for ever");
        let expected = kept(&format!("{extension}.txt"));
        if update {
            fs::write(&expected, &found).expect("writable");
        }
        assert_eq!(found, fs::read_to_string(expected).expect("text beside it"), "{extension}");
        assert_eq!(bytes, written, "{extension}: a new format needs a new version");
    }
}
