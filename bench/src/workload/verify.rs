//! Reads back what a run produced: every acked batch is there once, in order, at its offset, byte for byte;
//! nothing is there that was not sent.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use tidemark_proto::record::view::Batch;
use tokio::time::Instant;

use super::batches::Batches;
use super::cluster::Cluster;
use super::fetch::{self, Sizes, Want};
use super::produce::Produced;

const PATIENCE: Duration = Duration::from_secs(600);

/// Checks one partition from the offset at which the run began to the end offset now; gives the records read.
pub async fn partition(
    cluster: Arc<Cluster>,
    batches: &Batches,
    range: Want,
    produced: &Produced,
) -> Result<u64> {
    let mut found: Vec<(u64, i64)> = Vec::new();
    let mut at = range.next;
    let check = |partition: usize, batch: Batch| stored(batches, partition, &batch, &mut at, &mut found);
    let until = Instant::now() + PATIENCE;
    let read = fetch::read(cluster, vec![range], 0, Sizes::default(), until, check).await?;
    ensure!(at >= range.end, "partition {}: read to offset {at} of {}", range.partition, range.end);
    compare(range.partition, produced, &found)?;
    Ok(read.records)
}

fn stored(
    batches: &Batches,
    partition: usize,
    batch: &Batch,
    at: &mut i64,
    found: &mut Vec<(u64, i64)>,
) -> Result<()> {
    let base = batch.base_offset().0;
    ensure!(base == *at, "partition {partition}: offset {base} follows {}", *at - 1);
    *at = batch.next_offset().0;
    found.push((batches.check(batch)?, base));
    Ok(())
}

/// `found` in the order of the log.
fn compare(partition: usize, produced: &Produced, found: &[(u64, i64)]) -> Result<()> {
    for pair in found.windows(2) {
        if pair[1].0 <= pair[0].0 {
            bail!("partition {partition}: batch {} is stored after batch {}", pair[1].0, pair[0].0);
        }
    }
    if let Some((number, offset)) = found.last() {
        ensure!(*number < produced.sent, "partition {partition}: batch {number} at {offset} was never sent");
    }
    for &(number, offset) in &produced.acked {
        let Ok(place) = found.binary_search_by_key(&number, |(n, _)| *n) else {
            bail!("partition {partition}: batch {number}, acked at offset {offset}, is lost");
        };
        let stored = found[place].1;
        ensure!(
            offset < 0 || offset == stored,
            "partition {partition}: batch {number} was acked at {offset} and is stored at {stored}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(acked: &[(u64, i64)], found: &[(u64, i64)]) -> Result<(), String> {
        let produced = Produced { sent: 4, acked: acked.to_vec(), ..Produced::default() };
        compare(0, &produced, found).map_err(|e| e.to_string())
    }

    #[test]
    fn a_complete_log_passes_and_an_unacked_batch_may_be_there() {
        verdict(&[(0, 0), (1, 5), (3, -1)], &[(0, 0), (1, 5), (2, 10), (3, 15)]).unwrap();
    }

    #[test]
    fn loss_duplicates_disorder_and_wrong_offsets_are_found() {
        assert!(verdict(&[(0, 0), (1, 5)], &[(0, 0)]).unwrap_err().contains("lost"));
        assert!(verdict(&[], &[(0, 0), (0, 5)]).unwrap_err().contains("stored after"));
        assert!(verdict(&[], &[(1, 0), (0, 5)]).unwrap_err().contains("stored after"));
        assert!(verdict(&[(1, 5)], &[(1, 6)]).unwrap_err().contains("stored at 6"));
        assert!(verdict(&[], &[(4, 0)]).unwrap_err().contains("never sent"));
    }
}
