//! What a parcel costs beside the bytes themselves: building it, scanning its footer, checking its batches.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tidemark_proto::id::{
    BrokerEpoch, ClusterId, LaneId, LeaderEpoch, Life, Millis, Nonce, Offset, PartitionIndex, Seq, TopicId,
};
use tidemark_proto::record::build::Builder;
use tidemark_proto::record::stamp::Stamped;
use tidemark_proto::record::view::Batch;
use tidemark_tiering::parcel::read::{open, parse_tail};
use tidemark_tiering::parcel::{BatchEntry, Entry, build};
use uuid::Uuid;

const LANE: LaneId = LaneId { epoch: BrokerEpoch(1), lane: 0, life: Life(1) };

fn batch(bytes: usize) -> Batch {
    Builder::new().append(Millis(1), None, Some(&vec![7; bytes])).build()
}

/// `count` batches of `bytes` each, dealt out to `partitions`.
fn entries(batch: &Batch, count: usize, partitions: usize) -> Vec<Entry> {
    let entry = |at: usize| {
        let (base, epoch) = (Offset((at / partitions) as i64), LeaderEpoch(1));
        Entry {
            topic: TopicId(Uuid::from_u128(1 + (at % partitions / 16) as u128)),
            partition: PartitionIndex((at % partitions % 16) as i32),
            internal: false,
            meta: BatchEntry::of(batch, base, epoch).expect("a batch"),
            batch: Stamped::new(batch, base, epoch),
        }
    };
    (0..count).map(entry).collect()
}

fn parcel(c: &mut Criterion) {
    for (name, count, bytes, partitions) in
        [("busy: 256 x 16 KiB, 64 partitions", 256, 16_000, 64), ("trickle: 1000 x 1 KiB", 1000, 1_000, 1000)]
    {
        let batch = batch(bytes);
        let cluster = ClusterId::default();
        let whole = build(cluster, LANE, Seq(1), Nonce(1), entries(&batch, count, partitions), vec![]);
        let object = whole.body.to_bytes();
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Bytes(object.len() as u64));
        group.bench_function("build", |b| {
            b.iter_batched(
                || entries(&batch, count, partitions),
                |entries| black_box(build(cluster, LANE, Seq(1), Nonce(1), entries, vec![])),
                BatchSize::SmallInput,
            );
        });
        let tail = &object[object.len().saturating_sub(128 << 10)..];
        group.bench_function("scan footer", |b| {
            b.iter(|| parse_tail(black_box(tail), object.len() as u64).expect("whole"));
        });
        group.bench_function("verify every byte", |b| b.iter(|| open(black_box(&object)).expect("whole")));
        group.finish();
    }
}

criterion_group!(benches, parcel);
criterion_main!(benches);
