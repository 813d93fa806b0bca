//! What a produced batch costs on its way in: validation, stamping; and what building one costs.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tidemark_proto::id::{LeaderEpoch, Millis, Offset};
use tidemark_proto::record::build::Builder;
use tidemark_proto::record::stamp::Stamped;
use tidemark_proto::record::validate::{Rules, validate_entry};
use tidemark_proto::record::view::Batch;
use tidemark_proto::record::{Compression, find_by_timestamp};

const NOW: Millis = Millis(1_700_000_000_000);
const RECORD: usize = 1024;
const SIZES: [(&str, usize); 2] = [("16KiB", 16 << 10), ("1MiB", 1 << 20)];

/// A value that compresses about threefold, like JSON does.
fn value(index: usize) -> Vec<u8> {
    let mut seed = index as u64 + 1;
    let mut out = Vec::with_capacity(RECORD);
    while out.len() < RECORD {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.extend_from_slice(format!("\"field\": {}, ", seed >> 40).as_bytes());
    }
    out.truncate(RECORD);
    out
}

fn builder(codec: Compression, size: usize) -> Builder {
    let mut builder = Builder::new().compression(codec);
    for index in 0..size / RECORD {
        builder.append(NOW, None, Some(&value(index)));
    }
    builder
}

fn validation(c: &mut Criterion) {
    let mut group = c.benchmark_group("validate");
    let rules = Rules { max_message_bytes: 4 << 20, ..Rules::defaults(NOW) };
    for codec in Compression::ALL {
        for (name, size) in SIZES {
            let batch: Bytes = builder(codec, size).build().bytes().clone();
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_function(BenchmarkId::new(codec.name(), name), |bench| {
                bench.iter(|| validate_entry(black_box(batch.clone()), &rules).expect("a sound batch"));
            });
        }
    }
    group.finish();
}

/// The part of validation that cannot be less: reading every byte once.
fn checksum(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum");
    for (name, size) in SIZES {
        let batch = builder(Compression::None, size).build();
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(name, |bench| bench.iter(|| black_box(&batch).verify_crc()));
    }
    group.finish();
}

fn small_records(c: &mut Criterion) {
    let mut builder = Builder::new();
    (0..1000).for_each(|_| {
        builder.append(NOW, None, Some(b"ten bytes."));
    });
    let batch: Bytes = builder.build().bytes().clone();
    let rules = Rules::defaults(NOW);
    let mut group = c.benchmark_group("small_records");
    group.throughput(Throughput::Elements(1000));
    group.bench_function("validate", |bench| {
        bench.iter(|| validate_entry(black_box(batch.clone()), &rules).expect("a sound batch"));
    });
    group.finish();
}

fn stamping(c: &mut Criterion) {
    let batch = builder(Compression::None, 1 << 20).build();
    c.bench_function("stamp", |bench| {
        bench.iter(|| Stamped::new(black_box(&batch), Offset(12_345), LeaderEpoch(7)));
    });
    let batch: Batch = builder(Compression::None, 1 << 20).build();
    c.bench_function("find_by_timestamp", |bench| {
        bench.iter(|| find_by_timestamp(black_box(&batch), NOW, Offset(0)).expect("a sound batch"));
    });
}

fn building(c: &mut Criterion) {
    let mut group = c.benchmark_group("build");
    for codec in [Compression::None, Compression::Lz4, Compression::Zstd] {
        for (name, size) in SIZES {
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_function(BenchmarkId::new(codec.name(), name), |bench| {
                bench.iter(|| builder(codec, size).build());
            });
        }
    }
    group.finish();
}

criterion_group!(benches, validation, checksum, small_records, stamping, building);
criterion_main!(benches);
