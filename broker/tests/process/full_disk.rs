//! Row 55 for a directory bucket: its disk is full, then read-only, then itself again.
//!
//! The disk is a small tmpfs of the test's own. To mount one takes root; without it nothing is tried, and said so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tidemark_proto::client::Client;
use tidemark_proto::kafka::messages::fetch_request::{FetchPartition, FetchTopic};
use tidemark_proto::kafka::messages::{FetchRequest, ProduceRequest};
use tidemark_proto::record::build::Builder;
use tidemark_proto::record::records::Records;
use tidemark_proto::record::view::Batches;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Broker, connect, create_topic, eventually, now, produce_request};

const TOPIC: &str = "ledger";
/// Bytes of one record.
const RECORD: usize = 256 << 10;
/// Records sent at a disk that takes none.
const OFFERED: u32 = 400;

/// Mounts, unmounted when dropped.
struct Mounts(tempfile::TempDir, Vec<PathBuf>);

impl Mounts {
    fn mount(&mut self, args: &[&str], at: &Path) -> bool {
        let done = Command::new("mount").args(args).arg(at).output().is_ok_and(|o| o.status.success());
        if done {
            self.1.push(at.to_owned());
        }
        done
    }

    fn unmount(&mut self) {
        if let Some(at) = self.1.pop() {
            Command::new("umount").arg("-l").arg(at).status().unwrap();
        }
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        while !self.1.is_empty() {
            self.unmount();
        }
    }
}

fn numbered(number: u32) -> ProduceRequest {
    let mut builder = Builder::new();
    builder.append(now(), Some(&number.to_be_bytes()), None);
    produce_request(TOPIC, builder, RECORD)
}

/// Sends record `number`: its offset, or `None` where it was not acknowledged.
async fn offer(client: &Client, number: u32) -> Option<i64> {
    let answer = client.call(9, &numbered(number)).await.ok()?;
    let row = &answer.responses[0].partition_responses[0];
    (row.error_code == 0).then_some(row.base_offset)
}

/// Sends until one is acknowledged, for half a minute.
async fn goes_on(client: &Client, number: u32) -> i64 {
    for _ in 0..60 {
        match timeout(Duration::from_secs(12), offer(client, number)).await {
            Ok(Some(base)) => return base,
            _ => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
    panic!("it never takes a record again");
}

/// Offset and number of every record that carries one.
async fn read_all(client: &Client) -> BTreeMap<i64, u32> {
    let (mut all, mut next, mut told) = (BTreeMap::new(), 0, None);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        assert!(Instant::now() < deadline, "it cannot be read from {next} on: {told:?}");
        let partition =
            FetchPartition { fetch_offset: next, partition_max_bytes: 4 << 20, ..Default::default() };
        let topic = FetchTopic { topic: TOPIC.into(), partitions: vec![partition], ..Default::default() };
        let (max_wait_ms, max_bytes) = (500, 4 << 20);
        let topics = vec![topic];
        let request = FetchRequest {
            replica_id: -1,
            max_wait_ms,
            min_bytes: 1,
            max_bytes,
            topics,
            ..Default::default()
        };
        let answer = client.call(12, &request).await.unwrap();
        let row = answer.responses.first().and_then(|topic| topic.partitions.first());
        told = row.map(|row| (row.error_code, row.high_watermark));
        let Some((row, 0)) = row.map(|row| (row, row.error_code)) else {
            tokio::time::sleep(Duration::from_millis(50)).await; // it is opening
            continue;
        };
        if next >= row.high_watermark {
            return all;
        }
        let Some(records) = row.records.clone() else { continue };
        for batch in Batches::new(records.into_bytes().unwrap()) {
            for record in Records::new(&batch.unwrap()).unwrap() {
                let record = record.unwrap();
                next = record.offset.0 + 1;
                if let Some(key) = record.key {
                    all.insert(record.offset.0, u32::from_be_bytes(key[..].try_into().unwrap()));
                }
            }
        }
    }
}

fn resident(broker: &Broker) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", broker.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[tokio::test]
async fn row_55_a_bucket_on_a_full_or_read_only_disk_stops_acks_says_why_and_loses_nothing() {
    let mut mounts = Mounts(tempfile::tempdir().unwrap(), Vec::new());
    let disk = mounts.0.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    if !mounts.mount(&["-t", "tmpfs", "-o", "size=400m", "tmpfs"], &disk) {
        #[allow(clippy::print_stderr, reason = "a test that tries nothing has to say so")]
        {
            eprintln!("skipped: a disk that can be filled has to be mounted, which takes root");
        }
        return;
    }
    let (bucket, ballast) = (disk.join("bucket"), disk.join("ballast"));
    std::fs::create_dir(&bucket).unwrap();
    std::fs::write(&ballast, vec![1; 380 << 20]).unwrap();
    let sets = ["queued.max.request.bytes=8388608", "tidemark.wal.unacked.bytes=8388608"];
    let broker = Broker::dev_with(&bucket, &sets);
    let client = connect(&broker).await;
    create_topic(&client, TOPIC, 1).await;

    let mut acked = BTreeMap::new();
    let mut number = 0;
    while let Ok(answer) = timeout(Duration::from_secs(3), offer(&client, number)).await {
        acked.extend(answer.map(|base| (base, number)));
        number += 1;
        assert!(number < 1_000, "the disk never fills");
    }
    assert!(!acked.is_empty());
    eventually("it says why it is not ready", || {
        let ready = broker.http("/ready");
        ready.starts_with("HTTP/1.0 503") && ready.contains("No space left on device")
    });
    // Far more than it may hold is offered, on connections of their own.
    let before = resident(&broker);
    let mut offers = JoinSet::new();
    for at in 0..OFFERED {
        if at % 50 == 0 {
            let client = connect(&broker).await;
            for number in number + at..number + at + 50 {
                let client = client.clone();
                offers.spawn(async move { (offer(&client, number).await, number) });
            }
        }
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let grown = resident(&broker).saturating_sub(before);
    assert!(grown < 60 << 20, "{} MiB for {} MiB offered", grown >> 20, (OFFERED as usize * RECORD) >> 20);
    while let Some(done) = offers.try_join_next() {
        assert_eq!(done.unwrap().0, None, "a full disk acknowledges nothing");
    }
    number += OFFERED;
    // Their connections go too. What the broker took of them it may yet write, and cut: there is room for twice all.
    offers.shutdown().await;

    std::fs::remove_file(&ballast).unwrap();
    acked.insert(goes_on(&connect(&broker).await, number).await, number);
    eventually("it is ready again", || broker.http("/ready").starts_with("HTTP/1.0 200"));

    let path = bucket.to_str().unwrap();
    assert!(mounts.mount(&["--bind", path], &bucket));
    // Busy while a file is being written.
    eventually("it is read-only", || {
        let remounted = Command::new("mount").args(["-o", "remount,bind,ro", path]).output().unwrap();
        remounted.status.success()
    });
    let client = connect(&broker).await;
    assert!(timeout(Duration::from_secs(4), offer(&client, number + 1)).await.is_err());
    eventually("it says why it is not ready", || broker.http("/ready").contains("Read-only file system"));
    mounts.unmount();
    acked.insert(goes_on(&connect(&broker).await, number + 2).await, number + 2);
    eventually("it is ready again", || broker.http("/ready").starts_with("HTTP/1.0 200"));

    drop(broker); // kill -9
    let broker = Broker::dev_with(&bucket, &sets);
    let held = read_all(&connect(&broker).await).await;
    for (offset, number) in &acked {
        assert_eq!(held.get(offset), Some(number), "acknowledged at {offset}");
    }
}
