//! What admitting a batch costs its partition: dedupe, offset, producer state, and the commit that releases it.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tidemark_broker::partition::base::Base;
use tidemark_broker::partition::producer::Origin;
use tidemark_broker::partition::state::{Admission, Appended, Arrival, State};
use tidemark_proto::id::{LeaderEpoch, Millis, Offset, ProducerEpoch, ProducerId, Seq};

/// Records of a batch.
const SPAN: i32 = 100;
/// Batches of one parcel.
const PER_PARCEL: u64 = 32;

/// A partition, and how many batches each of its producers has sent.
struct Partition {
    state: State,
    producers: usize,
    sent: u64,
}

impl Partition {
    fn new(producers: usize) -> Partition {
        Partition { state: State::open(Base::default(), LeaderEpoch(0)), producers, sent: 0 }
    }

    /// The next batch of the producer whose turn it is.
    fn next(&self) -> Option<Origin> {
        let turn = self.sent.checked_rem(self.producers as u64)?;
        let round = i32::try_from(self.sent / self.producers as u64 % 1_000_000).expect("below a million");
        let first = round * SPAN;
        let (id, epoch) = (ProducerId(i64::try_from(turn).expect("small")), ProducerEpoch(0));
        Some(Origin { id, epoch, first, last: first + SPAN - 1 })
    }

    fn admit(&mut self) {
        let origin = self.next();
        let arrival = Arrival { origin, span: i64::from(SPAN), settling: false, transactional: false };
        let Ok(Admission::Append { base, leader_epoch }) = self.state.admit(black_box(&arrival)) else {
            panic!("the next batch in order is appended");
        };
        let last = Offset(base.0 + i64::from(SPAN) - 1);
        let max_timestamp = Millis(1_700_000_000_000);
        let batch = Appended {
            base,
            last,
            leader_epoch,
            origin,
            max_timestamp,
            at: max_timestamp,
            transactional: false,
            marker: None,
        };
        self.state.apply(&batch, Seq(self.sent / PER_PARCEL));
        self.sent += 1;
        if self.sent.is_multiple_of(PER_PARCEL) {
            self.state.on_durable(Seq(self.sent / PER_PARCEL));
        }
    }
}

fn admit(c: &mut Criterion) {
    let mut group = c.benchmark_group("admit");
    group.throughput(Throughput::Elements(1));
    for producers in [0, 1, 100, 10_000] {
        let mut partition = Partition::new(producers);
        group.bench_function(BenchmarkId::new("producers", producers), |bench| {
            bench.iter(|| partition.admit());
        });
    }
    group.finish();
}

/// A batch that was sent again: found among the last five of its producer.
fn duplicate(c: &mut Criterion) {
    let mut partition = Partition::new(1);
    (0..5).for_each(|_| partition.admit());
    let origin = Origin { id: ProducerId(0), epoch: ProducerEpoch(0), first: 0, last: SPAN - 1 };
    let again =
        Arrival { origin: Some(origin), span: i64::from(SPAN), settling: false, transactional: false };
    c.bench_function("admit/duplicate", |bench| {
        bench.iter(|| partition.state.admit(black_box(&again)).expect("a duplicate"));
    });
}

criterion_group!(benches, admit, duplicate);
criterion_main!(benches);
