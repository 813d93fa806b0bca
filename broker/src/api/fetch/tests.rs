//! Fetches over a connection: where their bytes come from, what they may take, and what a lost cache disk costs.

use std::path::Path;

use tidemark_proto::kafka::messages::fetch_request::ForgottenTopic;
use tidemark_proto::kafka::messages::{FetchRequest, FetchResponse};
use tokio::time::Instant;

use super::budget::PATIENCE;
use crate::api::log_house::{House, batch, fetch_of, spans};
use crate::cluster::Command;
use crate::cluster::command::TopicRef;

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

impl House {
    /// The next fetch of a session, which names `topics` (from the offset) and forgets `gone`.
    async fn goes_on(&self, session: (i32, i32), topics: &[(&str, i64)], gone: &[&str]) -> FetchResponse {
        let names: Vec<&str> = topics.iter().map(|(name, _)| *name).collect();
        let mut request = FetchRequest {
            session_id: session.0,
            session_epoch: session.1,
            ..fetch_of(&names, 1 << 20, 1, 0)
        };
        for (topic, (_, offset)) in request.topics.iter_mut().zip(topics) {
            topic.partitions[0].fetch_offset = *offset;
        }
        let forget =
            |name: &&str| ForgottenTopic { topic: (*name).into(), partitions: vec![0], ..Default::default() };
        request.forgotten_topics_data = gone.iter().map(forget).collect();
        self.client.call(12, &request).await.unwrap()
    }
}

/// Each topic of an answer, with its batches.
fn told(answer: &FetchResponse) -> Vec<(&str, usize)> {
    assert_eq!(answer.error_code, 0);
    answer.responses.iter().map(|t| (t.topic.as_str(), spans(&t.partitions[0]).len())).collect()
}

#[tokio::test(start_paused = true)]
async fn a_session_is_told_only_what_changed_and_forgets_what_it_is_told_to() {
    let mut house = house(&[]).await;
    house.topic("u", &[]).await;
    let opened = house.goes_on((0, 0), &[("t", 0), ("u", 0)], &[]).await;
    let id = opened.session_id;
    assert!(id > 0 && told(&opened) == [("t", 0), ("u", 0)], "a first answer is whole");
    assert_eq!(told(&house.goes_on((id, 1), &[], &[]).await), [], "nothing has changed");
    house.produce(9, "u", &batch(&[1])).await;
    assert_eq!(told(&house.goes_on((id, 2), &[], &[]).await), [("u", 1)]);
    assert_eq!(told(&house.goes_on((id, 3), &[("u", 1)], &[]).await), [], "the position is remembered");
    house.produce(9, "t", &batch(&[1])).await;
    house.produce(9, "u", &batch(&[2])).await;
    assert_eq!(told(&house.goes_on((id, 4), &[], &["u"]).await), [("t", 1)]);
    assert_eq!(told(&house.goes_on((id, 5), &[("t", 1)], &[]).await), [], "and stays forgotten");
    assert_eq!(house.goes_on((id, -1), &[("u", 0)], &[]).await.session_id, 0, "the session ends");
    assert_eq!(house.goes_on((id, 6), &[], &[]).await.error_code, 70);
}

#[tokio::test(start_paused = true)]
async fn bounds_are_minus_one_where_there_is_an_error_and_nowhere_else() {
    let house = house(&[]).await;
    let bounds = async |topic, offset| {
        let row = house.fetch(topic, offset, 1).await;
        (row.error_code, [row.high_watermark, row.last_stable_offset, row.log_start_offset])
    };
    assert_eq!(bounds("t", 0).await, (0, [0, 0, 0]), "an empty partition has its bounds");
    assert_eq!(bounds("t", 5).await, (1, [-1, -1, -1]));
    assert_eq!(bounds("nope", 0).await, (3, [-1, -1, -1]));
}

#[tokio::test(start_paused = true)]
async fn a_session_by_id_is_told_when_its_topics_name_is_another_topics() {
    let mut house = House::open().await;
    let old = house.topic("t", &[]).await;
    let ask = |session: (i32, i32), named: &[&str]| {
        let mut request = FetchRequest {
            session_id: session.0,
            session_epoch: session.1,
            ..fetch_of(named, 1 << 20, 1, 0)
        };
        request.topics.iter_mut().for_each(|topic| topic.topic_id = old.0);
        let client = house.client.clone();
        async move {
            let answer = client.call(13, &request).await.unwrap();
            let rows = answer.responses.iter().map(|t| (t.topic_id, t.partitions[0].error_code));
            (answer.session_id, rows.collect::<Vec<_>>())
        }
    };
    let (id, rows) = ask((0, 0), &["t"]).await;
    assert_eq!(rows, [(old.0, 0)]);
    let (again, first) = (ask((id, 1), &[]), ask((0, -1), &["t"]));
    let delete = Command::DeleteTopics { topics: vec![TopicRef::Id(old)] };
    house.running.node.cluster.submit(delete).await.unwrap();
    house.topic("t", &[]).await;
    assert_eq!(again.await, (id, vec![(old.0, 103)]), "look the name up again");
    assert_eq!(first.await, (0, vec![(old.0, 100)]), "outside of a session the id is just unknown");
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_waits_is_told_at_once_when_its_partition_goes() {
    let mut house = House::open().await;
    let id = house.topic("t", &[]).await;
    let (request, begun) = (fetch_of(&["t"], 1 << 20, 1, 30_000), Instant::now());
    let (answer, deleted) = tokio::join!(house.client.call(11, &request), async {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        house.running.node.cluster.submit(Command::DeleteTopics { topics: vec![TopicRef::Id(id)] }).await
    });
    deleted.expect("it is deleted");
    assert_ne!(answer.unwrap().responses[0].partitions[0].error_code, 0);
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
}
