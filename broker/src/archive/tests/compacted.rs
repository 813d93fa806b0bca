use std::collections::BTreeSet;

use tidemark_proto::record::BatchError;
use tidemark_tiering::compact::Kept;

use super::*;

/// A judge that keeps these offsets, and the front without its record.
struct Sieve<'a>(&'a Image, BTreeSet<i64>);

impl Judge for Sieve<'_> {
    fn is_needed(&self, of: TopicPartition, last: Offset) -> bool {
        ByStarts(self.0).is_needed(of, last)
    }

    fn class(&self, of: TopicPartition) -> u32 {
        ByStarts(self.0).class(of)
    }

    fn rewrites(&self, _of: TopicPartition) -> bool {
        true
    }

    fn judge(&self, _of: TopicPartition, batch: &Batch, edge: bool) -> Result<Kept, BatchError> {
        let (base, keep) = (batch.base_offset(), self.1.contains(&batch.base_offset().0));
        let empty = || Kept::Rewritten(passed_over(base, batch.next_offset()));
        Ok(if keep {
            Kept::Whole
        } else if edge {
            empty()
        } else {
            Kept::Gone
        })
    }
}

/// A log of one batch an offset, compacted to these; small slices hold one or two of them.
async fn compacted(kept: &[i64], end: usize, value: usize) -> History {
    let mut history = History::new(1);
    history.value = vec![7; value];
    for _ in 0..end {
        history.cut(&[tp(1, 0)], false).await;
    }
    let (image, runs) = (history.image.clone(), history.runs());
    history.replace_by(&runs, 1, &Sieve(&image, kept.iter().copied().collect())).await;
    history
}

#[tokio::test]
async fn a_reader_gets_on_through_what_compaction_left_wherever_it_begins_and_has_to_stop() {
    for (kept, value) in [(&[1, 2, 6, 10][..], 40_000), (&[5], 40_000), (&[], 9), (&[0, 3, 4, 11], 9)] {
        let history = compacted(kept, 12, value).await;
        let archive = history.archive();
        let chunks = Arc::new(MemoryChunks::new(8 << 20));
        let reader = reads::Reader::new(&history.bucket, chunks, ReadConfig::default(), &history.seams);
        for (from, until) in (0..12).flat_map(|from| (from + 1..13).map(move |until| (from, until))) {
            for bytes_max in [1, 70, 100_000] {
                let appetite = Appetite { bytes_max, at_least_one: true };
                let bounds = (Offset(from), Offset(until));
                let read = archive.read(&reader.handle(), &history.image, tp(1, 0), bounds, appetite).await;
                let pieces = read.expect("readable").into_bytes().unwrap();
                let found: Vec<Batch> = Batches::new(pieces).map(|batch| batch.expect("whole")).collect();
                let next = found.last().expect("something").next_offset().0;
                assert!(next > from && next <= until, "{from}..{until}: {found:?}");
                found.iter().for_each(|batch| batch.verify_crc().expect("true"));
                let records: Vec<i64> =
                    found.iter().filter(|b| b.count() > 0).map(|b| b.base_offset().0).collect();
                let due: Vec<i64> = kept.iter().copied().filter(|at| (from..next).contains(at)).collect();
                assert_eq!(records, due, "{from}..{until} of {kept:?}");
            }
        }
    }
}

#[tokio::test]
async fn compacted_runs_are_recovered_from_like_those_they_stand_for() {
    let mut history = compacted(&[3], 12, 9).await;
    assert_eq!(history.read(&history.archive(), tp(1, 0)).await, [0, 3], "the front stays");
    history.cut(&[tp(1, 0)], false).await;
    history.restart();
    history.recovers().await;
    let runs = history.runs();
    history.replace(&runs, 2).await;
    assert_eq!(history.read(&history.archive(), tp(1, 0)).await, [0, 3, 12]);
    assert_eq!(history.archive().shares(&history.image, tp(1, 0)).await.unwrap().len(), 1);
    let (image, runs) = (history.image.clone(), history.runs());
    history.replace_by(&runs, 2, &Sieve(&image, BTreeSet::from([12]))).await;
    assert_eq!(history.read(&history.archive(), tp(1, 0)).await, [0, 12]);
    history.recovers().await;
}
