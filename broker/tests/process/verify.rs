//! The bucket looked at without a broker: `verify`, `scrub` and `tier report`, on what is whole and on what is not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::{Broker, TIDEMARK, connect, create_topic, eventually, fails, produce};

/// Every file below `dir` whose path has `part`, sorted.
fn files(dir: &Path, part: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path if path.to_str().is_some_and(|path| path.contains(part)) => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

fn ask(dir: &Path, words: &str) -> Output {
    let bucket = format!("tidemark.bucket=file://{}", dir.display());
    let sets = ["--set", &bucket, "--set", "tidemark.wal.window=1"];
    Command::new(TIDEMARK).args(words.split_whitespace()).args(sets).output().unwrap()
}

fn says(dir: &Path, words: &str) -> String {
    let output = ask(dir, words);
    assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// It ends with 1; what it prints.
fn finds(dir: &Path, words: &str) -> String {
    let output = ask(dir, words);
    assert_eq!(output.status.code(), Some(1), "{words}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn what_is_damaged_or_gone_is_told_by_object_and_offsets_and_what_is_whole_is_proven() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let broker = Broker::dev_with(dir, &["tidemark.cut.ms=300", "tidemark.wal.window=1"]);
    let client = connect(&broker).await;
    create_topic(&client, "t", 1).await;
    create_topic(&client, "u", 1).await;
    for _ in 0..20 {
        assert_eq!(produce(&client, "t", 10_000).await, 0);
    }
    eventually("it is cut", || !files(dir, "/run/").is_empty());
    assert!(says(dir, "verify").ends_with(": all there\n"), "beside a living broker");
    drop(broker);

    let whole = says(dir, "verify t");
    assert!(
        whole.contains("1 topics, 1 partitions, 20 offsets") && whole.ends_with(": all there\n"),
        "{whole}"
    );
    let scrubbed = says(dir, "scrub");
    assert!(scrubbed.contains("KiB of records read: all there"), "{scrubbed}");
    let report = says(dir, "tier report --price s3");
    assert!(report.contains("TOPIC") && report.contains("(all)"), "{report}");
    let json: serde_json::Value =
        serde_json::from_str(&says(dir, "tier report t --price s3 --json")).unwrap();
    assert!(json[0]["runs"].as_u64().unwrap() + json[0]["parcels"].as_u64().unwrap() > 200_000, "{json}");
    assert!(json[0]["dollars_per_month"].as_f64().unwrap() > 0.0);

    let run = files(dir, "/run/").into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let key = run.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
    let good = fs::read(&run).unwrap();
    let mut bad = good.clone();
    bad[5_000] ^= 1;
    fs::write(&run, &bad).unwrap();
    assert!(says(dir, "verify t").ends_with(": all there\n"), "verify reads no records");
    let found = finds(dir, "scrub t");
    assert!(found.contains("t-0, offsets ") && found.contains(&key) && found.contains("damaged"), "{found}");

    fs::write(&run, &good[..good.len() / 2]).unwrap();
    let found = finds(dir, "verify t");
    assert!(found.contains(&format!("{key}: damaged")) && found.contains("no object in sight"), "{found}");
    fs::remove_file(&run).unwrap();
    let found = finds(dir, "verify t");
    assert!(found.contains(&format!("{key}: the metadata names it, and it is not there")), "{found}");
    assert!(finds(dir, "verify t --json").contains("\"offsets\": ["));
    assert!(says(dir, "verify u").ends_with(": all there\n"), "another topic is not concerned");
    fs::write(&run, &good).unwrap();
    assert!(says(dir, "scrub").ends_with(": all there\n"));
}

#[tokio::test]
async fn row_52_a_parcel_that_was_deleted_by_hand_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let broker = Broker::dev_with(dir, &["tidemark.wal.window=1"]);
    let client = connect(&broker).await;
    create_topic(&client, "t", 1).await;
    for _ in 0..20 {
        assert_eq!(produce(&client, "t", 100).await, 0);
    }
    drop(broker);
    assert!(says(dir, "verify").ends_with(": all there\n"));
    let parcels = files(dir, "/wal/");
    let lost = &parcels[parcels.len() / 2];
    fs::remove_file(lost).unwrap();
    let found = finds(dir, "verify");
    let key = lost.strip_prefix(dir).unwrap().to_str().unwrap();
    assert!(found.contains(&format!("{key}: the metadata names it, and it is not there")), "{found}");
    assert!(found.contains("t-0, offsets "), "{found}");
}

#[test]
fn a_bucket_without_a_cluster_or_a_topic_is_said_so() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = format!("tidemark.bucket=file://{}", dir.path().display());
    fails(&["verify", "--set", &bucket], 1, &["no cluster in this bucket"]);
    fails(&["tier", "report", "--set", &bucket], 1, &["no cluster in this bucket"]);
}
