//! A directory as a store: what is its own beyond the checks that every store passes.

// Helpers of tests are tests too, and measurements are printed.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs;
use std::path::Path;

use bytes::Bytes;
use tidemark_tiering::bucket::{
    Body, Bucket, Config, DirLock, Health, Kind, LockState, Patience, Placed, Span,
};
use tidemark_tiering::seam::Seams;

fn open(dir: &Path) -> Bucket {
    Bucket::open(&Config::new(format!("file://{}", dir.display())), &Seams::system()).unwrap()
}

fn pattern(len: usize, salt: u8) -> Bytes {
    (0..len).map(|i| (i % 253) as u8 ^ salt).collect::<Vec<u8>>().into()
}

async fn sizes_survive(dir: &Path) {
    let bucket = open(dir);
    for len in [0, 1, 4095, 65_536, 65_537, 100_000, 4 << 20, (4 << 20) + 1, (9 << 20) + 777] {
        let whole = pattern(len, 7);
        // Parts that end anywhere, as batches do.
        let parts = whole.chunks(10_007.min(len.max(1))).map(Bytes::copy_from_slice).collect::<Vec<_>>();
        let key = format!("wal/lane/{len:020}");
        assert_eq!(bucket.place(Kind::Parcel, &key, &Body::from(parts), 0).await, Placed::Ours);
        let read = bucket.get(Kind::Parcel, &key, Span::All, Patience::Tries(1)).await.unwrap().unwrap();
        assert!(read.bytes == whole, "{len}");
        assert_eq!(fs::metadata(bucket.local_path(&key).unwrap()).unwrap().len(), len as u64);
    }
    assert_eq!(bucket.list(Kind::Parcel, "wal/", None, Patience::Tries(1)).await.unwrap().len(), 9);
}

#[tokio::test]
async fn objects_of_every_size_come_back_as_written() {
    let dir = tempfile::tempdir().unwrap();
    sizes_survive(dir.path()).await;
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["wal"], "nothing but objects is left behind");
}

#[tokio::test]
async fn objects_come_back_from_a_file_system_in_memory() {
    if let Ok(dir) = tempfile::tempdir_in("/dev/shm") {
        sizes_survive(dir.path()).await;
    }
}

#[tokio::test]
async fn a_reopened_directory_holds_what_it_held() {
    let dir = tempfile::tempdir().unwrap();
    let body = Body::from(pattern(200_000, 1));
    assert_eq!(open(dir.path()).place(Kind::Run, "run/a/b", &body, 0).await, Placed::Ours);
    let again = open(dir.path());
    assert_eq!(again.place(Kind::Run, "run/a/b", &body, 0).await, Placed::Ours);
    let other = again.place(Kind::Run, "run/a/b", &Body::from(pattern(200_000, 2)), 16).await;
    assert_eq!(other, Placed::Other(pattern(200_000, 1).slice(..4096)));
}

#[tokio::test]
async fn listings_begin_after_a_key_in_the_order_of_whole_keys() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = open(dir.path());
    let mut keys =
        ["a/b", "a-b/c", "a.b", "a/b0", "a/c/d", "a0", "b/a/a/a", "b/a-1"].map(String::from).to_vec();
    for key in &keys {
        bucket.place(Kind::Meta, key, &Body::from(pattern(3, 0)), 0).await;
    }
    fs::write(dir.path().join(".hidden"), "x").unwrap();
    fs::write(dir.path().join("a/.hidden"), "x").unwrap();
    keys.sort();
    for from in 0..keys.len() {
        let after = Some(keys[from].as_str());
        let listed = bucket.list(Kind::Meta, "", after, Patience::Tries(1)).await.unwrap();
        assert_eq!(listed.into_iter().map(|l| l.key).collect::<Vec<_>>(), keys[from + 1..]);
    }
    let listed = bucket.list(Kind::Meta, "a/", None, Patience::Tries(1)).await.unwrap();
    assert_eq!(listed.into_iter().map(|l| l.key).collect::<Vec<_>>(), ["a/b", "a/b0", "a/c/d"]);
}

#[tokio::test]
async fn keys_never_reach_hidden_files_or_leave_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = open(&dir.path().join("."));
    for key in [".lock/x", "a/.b", "../x", "a/../../x", "/etc/passwd", ""] {
        let read = bucket.get(Kind::Probe, key, Span::All, Patience::Tries(1)).await;
        assert!(!matches!(read, Ok(Some(_))), "{key}: {read:?}");
        let listed = bucket.list(Kind::Probe, key, None, Patience::Tries(1)).await;
        assert!(listed.is_err() || listed == Ok(vec![]), "{key}: {listed:?}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn what_cannot_be_a_bucket_is_refused_with_the_fix() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    for (path, words) in [
        (dir.path().join("missing"), "does not exist; make it first"),
        (file, "is a file; name a directory"),
        (Path::new("/proc/self").to_owned(), "cannot be written"),
    ] {
        let config = Config::new(format!("file://{}", path.display()));
        let error = Bucket::open(&config, &Seams::system()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let made = Config {
        create_directory: true,
        ..Config::new(format!("file://{}/made/for/dev", dir.path().display()))
    };
    assert!(Bucket::open(&made, &Seams::system()).is_ok());
}

#[tokio::test]
async fn a_directory_that_goes_away_is_an_alarm_and_not_an_absent_object() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = open(dir.path());
    let body = Body::from(pattern(10, 0));
    bucket.place(Kind::Meta, "meta/a", &body, 0).await;
    fs::remove_dir_all(dir.path()).unwrap();
    let read = bucket.get(Kind::Meta, "meta/b", Span::All, Patience::Tries(2)).await;
    assert!(read.is_err(), "{read:?}");
    let listed = bucket.list(Kind::Meta, "meta/", None, Patience::Tries(2)).await;
    assert!(listed.is_err(), "{listed:?}");
    assert!(matches!(bucket.health(), Health::Ailing { needs_operator: true, .. }));
}

#[test]
fn a_lock_is_held_by_one_and_free_after_its_death() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(DirLock::state(dir.path(), "life-1").unwrap(), LockState::Absent);
    let lock = DirLock::acquire(dir.path(), "life-1").unwrap().unwrap();
    assert_eq!(DirLock::state(dir.path(), "life-1").unwrap(), LockState::Held);
    assert!(DirLock::acquire(dir.path(), "life-1").unwrap().is_none());
    assert!(DirLock::acquire(dir.path(), "life-2").unwrap().is_some());
    drop(lock);
    assert_eq!(DirLock::state(dir.path(), "life-1").unwrap(), LockState::Absent);
    // A process that was killed leaves the file, and no lock on it.
    fs::write(dir.path().join(".lock/life-3"), "").unwrap();
    assert_eq!(DirLock::state(dir.path(), "life-3").unwrap(), LockState::Free);
    assert!(DirLock::acquire(dir.path(), "life-3").unwrap().is_some());
    assert!(DirLock::acquire(dir.path(), "../x").is_err());
}

/// Creates of 4 MiB per second and their CPU: `cargo test --release -p tidemark-tiering --test store_directory -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn four_mib_creates_per_second() {
    let root = std::env::var("TIDEMARK_BENCH_DIR").unwrap_or_else(|_| "/var/tmp".into());
    let dir = tempfile::tempdir_in(root).unwrap();
    let bucket = open(dir.path());
    let body = Body::from(vec![pattern(1 << 20, 1), pattern(3 << 20, 2)]);
    for window in [1, 4, 16] {
        let (start, before) = (tokio::time::Instant::now(), cpu_seconds());
        let writers = (0..window).map(|w| {
            let (bucket, body) = (bucket.clone(), body.clone());
            async move {
                for i in 0..128 / window {
                    let key = format!("wal/lane-{window}/{w}-{i}");
                    bucket.place(Kind::Parcel, &key, &body, 16).await;
                }
            }
        });
        futures::future::join_all(writers).await;
        let (took, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - before);
        println!(
            "window {window:>2}: {:>6.1} creates/s, {:>6.1} MiB/s, {:.2} CPU-s/GiB",
            128.0 / took,
            512.0 / took,
            cpu * 2.0
        );
    }
}

fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}
