use tidemark_proto::id::Life;
use uuid::Uuid;

use super::*;

const HOUR: i64 = 3_600_000;

fn row(n: u128, level: u32, bytes: u64, hours: Range<i64>) -> Arc<RunRow> {
    let lane = LaneId { epoch: BrokerEpoch(1), lane: 0, life: Life(1) };
    Arc::new(RunRow {
        id: Uuid::from_u128(n),
        level,
        bytes,
        oldest: Millis(hours.start * HOUR),
        max_timestamp: Millis(hours.end * HOUR),
        lanes: vec![(lane, Seq(n as u64), Seq(n as u64 + 1))],
        committed: n as u64,
        class: u32::from(level > 0) * 7,
        shares: 1_000,
        ..RunRow::default()
    })
}

/// Ids of what is merged, and the level it becomes.
fn planned(rows: &[Arc<RunRow>], span: Option<i64>) -> Option<(Vec<u128>, u32)> {
    let job = plan(rows.iter(), &|_| span, &|_, _| true)?;
    Some((job.inputs.iter().map(|row| row.id.as_u128()).collect(), job.level))
}

#[test]
fn eight_cuts_become_one_run_and_seven_wait() {
    let rows: Vec<_> = (1..=9).map(|n| row(n, 0, 1 << 20, 0..100)).collect();
    assert_eq!(planned(&rows[..7], Some(HOUR)), None);
    assert_eq!(planned(&rows, Some(HOUR)), Some(((1..=8).collect(), 1)), "cuts mix classes: no span yet");
}

#[test]
fn objects_of_one_merge_count_as_one_run() {
    let siblings = |n: u128| {
        let first = row(n, 1, 1 << 20, 0..1);
        let second = RunRow { id: Uuid::from_u128(n + 100), ..RunRow::clone(&first) };
        [first, Arc::new(second)]
    };
    let rows: Vec<_> = (1..=8).flat_map(siblings).collect();
    assert_eq!(planned(&rows[..14], None), None);
    let (ids, level) = planned(&rows, None).expect("eight runs");
    assert_eq!((ids.len(), level), (16, 2));
}

#[test]
fn a_run_spans_no_more_time_than_is_let_go_at_once() {
    let rows: Vec<_> = (0..5).map(|n| row(n as u128, 1, 1 << 20, n..n + 1)).collect();
    assert_eq!(planned(&rows, Some(3 * HOUR)), Some((vec![0, 1, 2], 2)), "as many as fit");
    assert_eq!(planned(&rows[..3], Some(3 * HOUR)), None, "another may fit");
    assert_eq!(planned(&rows, Some(HOUR)), None, "none fits to another");
    assert_eq!(planned(&rows, None), None);
}

#[test]
fn long_shares_and_large_runs_stay_as_they_are() {
    let long: Vec<_> = (1..=8).map(|n| row(n, 1, 1_000 * LONG_SHARE, 0..1)).collect();
    assert_eq!(planned(&long, None), None);
    let large: Vec<_> = (1..=8).map(|n| row(n, 1, READ_BYTES / 3, 0..1)).collect();
    assert_eq!(planned(&large, None), None, "three at a time are too few to be worth it");
    let fewer: Vec<_> = (1..=8).map(|n| row(n, 1, READ_BYTES / 5, 0..1)).collect();
    assert_eq!(planned(&fewer, None), Some(((1..=5).collect(), 2)));
}

#[test]
fn only_what_is_mine_is_merged_and_low_levels_come_first() {
    let mut rows: Vec<_> = (1..=8).map(|n| row(n, 1, 1 << 20, 0..1)).collect();
    rows.extend((11..=18).map(|n| row(n, 0, 1 << 20, 0..1)));
    assert_eq!(planned(&rows, None), Some(((11..=18).collect(), 1)));
    let job = plan(rows.iter(), &|_| None, &|class, level| (class, level) == (7, 1)).expect("eight");
    assert_eq!(job.level, 2);
    assert_eq!(plan(rows.iter(), &|_| None, &|_, _| false), None);
}

#[test]
fn ranges_of_lanes_that_touch_become_one() {
    let lane = |n| LaneId { epoch: BrokerEpoch(n), lane: 0, life: Life(1) };
    let of = |ranges: &[(u64, u64, u64)]| -> Vec<_> {
        ranges.iter().map(|(n, from, to)| (lane(*n), Seq(*from), Seq(*to))).collect()
    };
    assert_eq!(
        joined(of(&[(1, 4, 6), (1, 0, 4), (2, 6, 8), (1, 9, 10)])),
        of(&[(1, 0, 6), (1, 9, 10), (2, 6, 8)])
    );
}
