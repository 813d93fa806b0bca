//! Fetches over a connection: where their bytes come from, what they may take, and what a lost cache disk costs.

use std::path::Path;

use tokio::time::Instant;

use super::budget::PATIENCE;
use crate::api::log_house::{House, batch, spans};

async fn house(sets: &[&str]) -> House {
    let mut house = House::with(sets).await;
    house.topic("t", &[]).await;
    house
}

#[tokio::test(start_paused = true)]
async fn a_fetch_without_room_in_memory_waits_and_then_goes_on_with_one_batch() {
    let house = house(&[]).await;
    for at in 1..4 {
        house.produce(9, "t", &batch(&[at])).await;
    }
    let node = &house.running.node;
    let all = node.fetch_memory.try_take(usize::MAX).unwrap();
    let start = Instant::now();
    assert_eq!(spans(&house.fetch("t", 1, 0).await), [(1, 1)]);
    assert!(start.elapsed() >= PATIENCE && start.elapsed() < PATIENCE * 2, "{:?}", start.elapsed());
    let (found, ()) = tokio::join!(house.fetch("t", 1, 0), async {
        tokio::time::sleep(PATIENCE / 4).await;
        drop(all);
    });
    assert_eq!(spans(&found), [(1, 1), (2, 2)]);
    drop(found);
    assert_eq!((node.fetch_memory.used(), node.fetch_memory.waits()), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn row_55_a_cache_disk_lost_under_load_costs_no_ack_and_no_read() {
    let dir = tempfile::tempdir().unwrap();
    let log_dirs = format!("log.dirs={}", dir.path().display());
    let mut house = house(&[&log_dirs, "tidemark.hot.memory.bytes=0"]).await;
    let hot = dir.path().join("hot");
    let stats = |house: &House| house.running.node.fetching.hot().stats();
    house.produce(9, "t", &batch(&[1, 2])).await;
    house.produce(9, "t", &batch(&[3])).await;
    settle().await;
    assert!(hot.join("t-0/00000000000000000000.log").exists());
    assert_eq!(spans(&house.fetch("t", 0, 0).await), [(0, 1), (2, 2)]);
    assert_eq!((stats(&house).hits > 0, stats(&house).misses), (true, 0));

    std::fs::remove_dir_all(&hot).unwrap();
    std::fs::write(&hot, b"in its place").unwrap();
    house.topic("u", &[]).await;
    assert_eq!(house.produce(9, "u", &batch(&[1])).await.error_code, 0);
    settle().await;
    assert_eq!(house.produce(9, "t", &batch(&[4])).await.error_code, 0);
    assert_eq!(spans(&house.fetch("u", 0, 0).await), [(0, 0)]);
    assert_eq!(spans(&house.fetch("t", 0, 0).await), [(0, 1), (2, 2), (3, 3)]);
    let text = house.running.node.metrics.text().await;
    assert!(text.contains("tidemark_hot_alarm 1.0"), "{text}");

    tokio::time::sleep(std::time::Duration::from_secs(11)).await;
    assert_eq!(house.produce(9, "t", &batch(&[5])).await.error_code, 0);
    settle().await;
    assert!(house.running.node.fetching.hot().alarm().is_some(), "the disk is not there yet");
    std::fs::remove_file(&hot).unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(11)).await;
    assert_eq!(house.produce(9, "t", &batch(&[6])).await.error_code, 0);
    settle().await;
    assert_eq!(house.running.node.fetching.hot().alarm(), None);
    let before = stats(&house).hits;
    assert_eq!(spans(&house.fetch("t", 5, 0).await), [(5, 5)]);
    assert_eq!(stats(&house).hits, before + 1);
}

/// Lets what runs behind the commit come to its end.
async fn settle() {
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
}

#[tokio::test(start_paused = true)]
async fn row_50_a_damaged_parcel_of_a_directory_bucket_is_not_served() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = format!("tidemark.bucket=file://{}", dir.path().display());
    let house = house(&[&bucket, "tidemark.hot.memory.bytes=0"]).await;
    house.produce(9, "t", &batch(&[1])).await;
    house.produce(9, "t", &batch(&[2, 3])).await;
    assert_eq!(spans(&house.fetch("t", 0, 0).await), [(0, 0), (1, 2)]);
    assert_eq!(house.running.node.fetch_memory.waits(), 0);
    let mut parcels = Vec::new();
    files(&dir.path().join("wal"), &mut parcels);
    for path in parcels {
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(5).position(|w| w == b"\x02k\x02v\x00");
        at.into_iter().for_each(|at| bytes[at + 1] ^= 1);
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::write(&path, bytes).unwrap();
    }
    assert_eq!(house.fetch("t", 0, 0).await.error_code, 56);
}

fn files(folder: &Path, into: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, into),
            false => into.push(path),
        }
    }
}
