//! What comes back of committed offsets, over a connection.

use tidemark_proto::kafka::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use tidemark_proto::kafka::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use tidemark_proto::kafka::messages::{OffsetCommitRequest, OffsetFetchRequest};
use tidemark_proto::kafka::text::Text;

use super::group_tests::House;

/// Partition, offset, leader epoch, note and code of each row.
type Told = Vec<(i32, i64, i32, Option<String>, i16)>;

impl House {
    /// Commits from outside of the group.
    async fn commits(&self, version: i16, group: &str, partition: OffsetCommitRequestPartition) -> i16 {
        let topic = OffsetCommitRequestTopic {
            name: Text::from("t"),
            partitions: vec![partition],
            ..Default::default()
        };
        let request = OffsetCommitRequest {
            group_id: Text::from(group),
            generation_id_or_member_epoch: -1,
            topics: vec![topic],
            ..Default::default()
        };
        self.client.call(version, &request).await.unwrap().topics[0].partitions[0].error_code
    }

    /// Asks for partitions 0 and 1 in each of the groups.
    async fn fetches(&self, groups: &[&str]) -> Vec<(String, Told)> {
        let group = |name: &&str| {
            let topic = OffsetFetchRequestTopics {
                name: Text::from("t"),
                partition_indexes: vec![0, 1],
                ..Default::default()
            };
            OffsetFetchRequestGroup {
                group_id: Text::from(*name),
                topics: Some(vec![topic]),
                ..Default::default()
            }
        };
        let request = OffsetFetchRequest { groups: groups.iter().map(group).collect(), ..Default::default() };
        let answer = self.client.call(8, &request).await.unwrap();
        let told = answer.groups.iter().map(|group| {
            assert_eq!(group.error_code, 0);
            let rows = group.topics.iter().flat_map(|t| &t.partitions).map(|p| {
                let note = p.metadata.as_deref().map(str::to_owned);
                (p.partition_index, p.committed_offset, p.committed_leader_epoch, note, p.error_code)
            });
            (group.group_id.as_str().to_owned(), rows.collect())
        });
        told.collect()
    }
}

fn row(offset: i64, epoch: i32, note: Option<&str>) -> OffsetCommitRequestPartition {
    OffsetCommitRequestPartition {
        partition_index: 0,
        committed_offset: offset,
        committed_leader_epoch: epoch,
        committed_metadata: note.map(Text::from),
        ..Default::default()
    }
}

fn nothing(partition: i32) -> (i32, i64, i32, Option<String>, i16) {
    (partition, -1, -1, Some(String::new()), 0)
}

#[tokio::test(start_paused = true)]
async fn offsets_come_back_with_their_leader_epochs_and_notes() {
    let house = House::open().await;
    let longest = "m".repeat(4096);
    for (version, sent, epoch, note) in [
        (7, row(5, 3, Some("a note")), 3, "a note"),
        (9, row(6, 4, None), 4, ""),
        (5, row(7, 9, Some("")), -1, ""),
        (8, row(8, -1, Some(&longest)), -1, longest.as_str()),
    ] {
        let offset = sent.committed_offset;
        assert_eq!(house.commits(version, "g", sent).await, 0);
        let told = house.fetches(&["g"]).await.remove(0).1;
        assert_eq!(told, [(0, offset, epoch, Some(note.to_owned()), 0), nothing(1)], "v{version}");
    }
    assert_eq!(house.commits(8, "g", row(9, -1, Some(&format!("{longest}m")))).await, 12);
    assert_eq!(house.fetches(&["g"]).await[0].1[0].1, 8, "what is refused changes nothing");
}

#[tokio::test(start_paused = true)]
async fn every_group_asked_for_has_its_row_and_one_that_nobody_knows_no_offsets_and_no_error() {
    let house = House::open().await;
    assert_eq!(house.commits(7, "g", row(5, -1, None)).await, 0);
    let told = house.fetches(&["nobody", "g"]).await;
    assert_eq!(told[0], ("nobody".to_owned(), vec![nothing(0), nothing(1)]));
    assert_eq!(told[1], ("g".to_owned(), vec![(0, 5, -1, Some(String::new()), 0), nothing(1)]));
}
