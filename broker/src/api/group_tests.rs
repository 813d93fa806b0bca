//! The group APIs over a connection, on a broker whose bucket is in memory.

use std::time::Duration;

use bytes::Bytes;
use tidemark_proto::client::{Client, Options};
use tidemark_proto::id::TopicId;
use tidemark_proto::kafka::api::ApiKey;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::join_group_request::JoinGroupRequestProtocol;
use tidemark_proto::kafka::messages::leave_group_request::MemberIdentity;
use tidemark_proto::kafka::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use tidemark_proto::kafka::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use tidemark_proto::kafka::messages::sync_group_request::SyncGroupRequestAssignment;
use tidemark_proto::kafka::messages::{
    DeleteGroupsRequest, DescribeGroupsRequest, FindCoordinatorRequest, HeartbeatRequest, JoinGroupRequest,
    JoinGroupResponse, LeaveGroupRequest, ListGroupsRequest, OffsetCommitRequest, OffsetDeleteRequest,
    OffsetFetchRequest, SyncGroupRequest, offset_delete_request,
};
use tidemark_proto::kafka::text::Text;
use tokio::io::duplex;

use super::testing::running;
use super::*;
use crate::cluster::command::NewTopic;
use crate::cluster::{Command, Reply};
use crate::node::{OFFSETS_TOPIC, Running};
use crate::server::{Limits, Server, Transport};

/// A broker that coordinates every group, a topic `t` of two partitions, a client.
pub(super) struct House {
    running: Running,
    pub(super) client: Client,
    topic: TopicId,
    _server: Server,
}

impl House {
    pub(super) async fn open() -> House {
        let running = running().await;
        let node = running.node.clone();
        let topic = TopicId(uuid::Uuid::from_u128(99));
        let new =
            NewTopic { name: "t".into(), id: topic, partitions: 2, replication: 1, ..NewTopic::default() };
        let create = Command::CreateTopics { topics: vec![new], validate_only: false };
        assert!(matches!(node.cluster.submit(create).await, Ok(Reply::Created(_))));
        let server = Server::new(Arc::new(Dispatch::new(node.clone())), Limits::default(), &node.seams);
        let (ours, theirs) = duplex(1 << 20);
        server.attach(Transport::stream(theirs), "PLAINTEXT", "10.0.0.1:999".parse().unwrap());
        let (client, driver) = Client::over(ours, Options::default());
        node.seams.tasks.spawn(driver);
        let house = House { running, client, topic, _server: server };
        house.coordinate().await;
        house
    }

    /// The first call makes the topic; this broker leads all of it.
    async fn coordinate(&self) {
        let request = FindCoordinatorRequest { key: Text::from("g"), ..Default::default() };
        let found = self.client.call(0, &request).await.unwrap();
        assert_eq!((found.error_code, found.node_id, found.port), (0, 1, 9092));
        let image = self.running.node.cluster.image();
        let topic = image.topic_named(OFFSETS_TOPIC).unwrap();
        assert_eq!(topic.configs["cleanup.policy"], "compact");
        while self.running.node.groups.counts().active < topic.partitions.len() as u64 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn join(&self, version: i16, group: &str, member: &Text) -> JoinGroupResponse {
        let protocol = JoinGroupRequestProtocol {
            name: Text::from("range"),
            metadata: Bytes::from_static(b"\0\0\0\0\0\0"),
        };
        let request = JoinGroupRequest {
            group_id: Text::from(group),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: if version == 0 { -1 } else { 60_000 },
            member_id: member.clone(),
            protocol_type: Text::from("consumer"),
            protocols: vec![protocol],
            ..Default::default()
        };
        self.client.call(version, &request).await.unwrap()
    }

    fn commit(&self, version: i16, group: &str, member: (&Text, i32), offset: i64) -> OffsetCommitRequest {
        let partition = |partition_index| OffsetCommitRequestPartition {
            partition_index,
            committed_offset: offset,
            committed_metadata: Some(Text::from("note")),
            ..Default::default()
        };
        let named = |name: &str, topic_id| OffsetCommitRequestTopic {
            name: Text::from(if version < 10 { name } else { "" }),
            topic_id: if version < 10 { uuid::Uuid::nil() } else { topic_id },
            partitions: vec![partition(1), partition(2)],
        };
        OffsetCommitRequest {
            group_id: Text::from(group),
            generation_id_or_member_epoch: member.1,
            member_id: member.0.clone(),
            topics: vec![named("t", self.topic.0), named("gone", uuid::Uuid::from_u128(5))],
            ..Default::default()
        }
    }

    /// Position and error of partitions 0 and 1 of the topic; `None` for all that there is.
    async fn fetch(&self, version: i16, group: &str, all: bool) -> Vec<(i32, i64, i16)> {
        let asked = vec![0, 1];
        let request = if version < 8 {
            let topic = OffsetFetchRequestTopic { name: Text::from("t"), partition_indexes: asked };
            let topics = (!all).then(|| vec![topic]);
            OffsetFetchRequest { group_id: Text::from(group), topics, ..Default::default() }
        } else {
            let topic = OffsetFetchRequestTopics {
                name: Text::from(if version < 10 { "t" } else { "" }),
                topic_id: if version < 10 { uuid::Uuid::nil() } else { self.topic.0 },
                partition_indexes: asked,
            };
            let topics = (!all).then(|| vec![topic]);
            let group = OffsetFetchRequestGroup { group_id: Text::from(group), topics, ..Default::default() };
            OffsetFetchRequest { groups: vec![group], ..Default::default() }
        };
        let response = self.client.call(version, &request).await.unwrap();
        if version < 8 {
            assert_eq!(response.error_code, 0);
            let rows = response.topics.iter().flat_map(|t| &t.partitions);
            rows.map(|p| (p.partition_index, p.committed_offset, p.error_code)).collect()
        } else {
            assert_eq!(response.groups[0].error_code, 0);
            let rows = response.groups[0].topics.iter().flat_map(|t| &t.partitions);
            rows.map(|p| (p.partition_index, p.committed_offset, p.error_code)).collect()
        }
    }
}

/// A version of `key` for round `n`: each round a newer one, until the newest.
fn version(key: ApiKey, n: i16) -> i16 {
    let row = find(key.as_i16()).unwrap();
    (row.min + n).min(row.max)
}

#[tokio::test(start_paused = true)]
async fn a_member_joins_commits_and_leaves_in_every_version() {
    let house = House::open().await;
    for n in 0..11 {
        let v = |key| version(key, n);
        let group = format!("g{n}");
        let mut joined = house.join(v(ApiKey::JoinGroup), &group, &Text::new()).await;
        if v(ApiKey::JoinGroup) >= 4 {
            assert_eq!(joined.error_code, ErrorCode::MemberIdRequired.code());
            joined = house.join(v(ApiKey::JoinGroup), &group, &joined.member_id).await;
        }
        assert_eq!((joined.error_code, joined.generation_id, joined.members.len()), (0, 1, 1));
        let member = &joined.member_id;
        assert!(joined.leader == *member && joined.protocol_name == Some(Text::from("range")));
        let given = Bytes::from_static(b"all");
        let sync = SyncGroupRequest {
            group_id: Text::from(group.as_str()),
            generation_id: 1,
            member_id: member.clone(),
            protocol_type: Some(Text::from("consumer")),
            protocol_name: Some(Text::from("range")),
            assignments: vec![SyncGroupRequestAssignment {
                member_id: member.clone(),
                assignment: given.clone(),
            }],
            ..Default::default()
        };
        let synced = house.client.call(v(ApiKey::SyncGroup), &sync).await.unwrap();
        assert_eq!((synced.error_code, synced.assignment), (0, given));
        let beat = |generation_id| HeartbeatRequest {
            group_id: Text::from(group.as_str()),
            generation_id,
            member_id: member.clone(),
            ..Default::default()
        };
        let (living, dead) = (beat(1), beat(7));
        let alive = house.client.call(v(ApiKey::Heartbeat), &living);
        let stale = house.client.call(v(ApiKey::Heartbeat), &dead);
        assert_eq!(alive.await.unwrap().error_code, 0);
        assert_eq!(stale.await.unwrap().error_code, ErrorCode::IllegalGeneration.code());
        house.commits_and_fetches(n, &group, member).await;
        let leave = LeaveGroupRequest {
            group_id: Text::from(group.as_str()),
            member_id: if v(ApiKey::LeaveGroup) < 3 { member.clone() } else { Text::new() },
            members: match v(ApiKey::LeaveGroup) {
                ..3 => Vec::new(),
                _ => vec![MemberIdentity { member_id: member.clone(), ..Default::default() }],
            },
            ..Default::default()
        };
        let left = house.client.call(v(ApiKey::LeaveGroup), &leave).await.unwrap();
        assert!(left.error_code == 0 && left.members.iter().all(|m| m.error_code == 0));
    }
}

impl House {
    async fn commits_and_fetches(&self, n: i16, group: &str, member: &Text) {
        let commit_version = version(ApiKey::OffsetCommit, n);
        // Version 0 cannot say who commits: it does so for a group without members.
        let outsider = format!("{group} from outside");
        let (group, who) = match commit_version {
            0 => (outsider.as_str(), (&Text::new(), -1)),
            _ => (group, (member, 1)),
        };
        let commit = self.commit(commit_version, group, who, 5);
        let committed = self.client.call(commit_version, &commit).await.unwrap();
        let codes = committed.topics.iter().flat_map(|t| &t.partitions).map(|p| p.error_code);
        let gone = if commit_version < 10 { 3 } else { 100 };
        assert_eq!(codes.collect::<Vec<_>>(), [0, 3, gone, gone]);
        let fetch_version = version(ApiKey::OffsetFetch, n);
        assert_eq!(self.fetch(fetch_version, group, false).await, [(0, -1, 0), (1, 5, 0)]);
        if fetch_version >= 2 {
            assert_eq!(self.fetch(fetch_version, group, true).await, [(1, 5, 0)]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn groups_are_listed_described_and_deleted_in_every_version() {
    let house = House::open().await;
    for n in 0..7 {
        let v = |key| version(key, n);
        let group = Text::from(format!("g{n}"));
        let commit = house.commit(2, &group, (&Text::new(), -1), 3);
        house.client.call(2, &commit).await.unwrap();
        let listed = house.client.call(v(ApiKey::ListGroups), &ListGroupsRequest::default()).await.unwrap();
        assert_eq!(listed.groups.iter().map(|g| &g.group_id).collect::<Vec<_>>(), [&group]);
        let describe = DescribeGroupsRequest {
            groups: vec![group.clone(), Text::from("none")],
            include_authorized_operations: v(ApiKey::DescribeGroups) >= 3,
        };
        let described = house.client.call(v(ApiKey::DescribeGroups), &describe).await.unwrap().groups;
        assert_eq!((described[0].error_code, &*described[0].group_state), (0, "Empty"));
        let missing = if n >= 6 { ErrorCode::GroupIdNotFound.code() } else { 0 };
        assert_eq!((described[1].error_code, &*described[1].group_state), (missing, "Dead"));
        if describe.include_authorized_operations {
            assert_eq!(described[0].authorized_operations, 1 << 3 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 11);
        }
        let delete = DeleteGroupsRequest { groups_names: vec![group.clone(), Text::from("none")] };
        let deleted = house.client.call(v(ApiKey::DeleteGroups), &delete).await.unwrap().results;
        assert_eq!(deleted.iter().map(|r| r.error_code).collect::<Vec<_>>(), [0, 69]);
    }
}

#[tokio::test(start_paused = true)]
async fn offsets_of_a_group_without_members_are_deleted() {
    let house = House::open().await;
    let commit = house.commit(2, "g", (&Text::new(), -1), 3);
    house.client.call(2, &commit).await.unwrap();
    let partitions =
        [0, 1].map(|partition_index| offset_delete_request::OffsetDeleteRequestPartition { partition_index });
    let topic = |name: &str| offset_delete_request::OffsetDeleteRequestTopic {
        name: Text::from(name),
        partitions: partitions.to_vec(),
    };
    let request = OffsetDeleteRequest { group_id: Text::from("g"), topics: vec![topic("t"), topic("gone")] };
    let deleted = house.client.call(0, &request).await.unwrap();
    let rows = deleted.topics.iter().flat_map(|t| &t.partitions).map(|p| p.error_code);
    assert_eq!((deleted.error_code, rows.collect::<Vec<_>>()), (0, vec![0, 0, 3, 3]));
    assert_eq!(house.fetch(9, "g", true).await, []);
    let nobody = OffsetDeleteRequest { group_id: Text::from("none"), topics: vec![topic("t")] };
    assert_eq!(house.client.call(0, &nobody).await.unwrap().error_code, 69);
}

#[tokio::test(start_paused = true)]
async fn pipelined_commits_do_not_overtake_each_other() {
    let house = House::open().await;
    let commits: Vec<_> = (0..50).map(|n| house.commit(2, "g", (&Text::new(), -1), n)).collect();
    let answers = futures::future::join_all(commits.iter().map(|c| house.client.call(2, c))).await;
    assert!(answers.iter().all(|a| a.as_ref().unwrap().topics[0].partitions[0].error_code == 0));
    assert_eq!(house.fetch(9, "g", true).await, [(1, 49, 0)]);
}

#[tokio::test(start_paused = true)]
async fn row_43_joins_out_of_bounds_are_refused() {
    let house = House::open().await;
    let good = JoinGroupRequest {
        group_id: Text::from("g"),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        protocol_type: Text::from("consumer"),
        protocols: vec![JoinGroupRequestProtocol { name: Text::from("range"), ..Default::default() }],
        ..Default::default()
    };
    let metadata = Bytes::from(vec![0; 10 << 20]);
    let large = JoinGroupRequestProtocol { name: Text::from("range"), metadata };
    let bad = [
        (JoinGroupRequest { session_timeout_ms: 1, ..good.clone() }, ErrorCode::InvalidSessionTimeout),
        (JoinGroupRequest { protocols: vec![large], ..good.clone() }, ErrorCode::InvalidRequest),
        (JoinGroupRequest { protocols: Vec::new(), ..good.clone() }, ErrorCode::InconsistentGroupProtocol),
        (JoinGroupRequest { group_id: Text::new(), ..good.clone() }, ErrorCode::InvalidGroupId),
        (JoinGroupRequest { member_id: Text::from("me"), ..good.clone() }, ErrorCode::UnknownMemberId),
    ];
    for (request, code) in bad {
        let answer = house.client.call(9, &request).await.unwrap();
        assert_eq!(ErrorCode::from_code(answer.error_code), code);
    }
}

#[tokio::test(start_paused = true)]
async fn row_44_commits_that_are_not_a_members_are_refused() {
    let house = House::open().await;
    let refused = |answer: tidemark_proto::kafka::messages::OffsetCommitResponse| {
        answer.topics[0].partitions[0].error_code
    };
    let stranger = house.commit(2, "g", (&Text::from("stranger"), 1), 3);
    assert_eq!(refused(house.client.call(2, &stranger).await.unwrap()), ErrorCode::IllegalGeneration.code());
    let mut long = house.commit(2, "g", (&Text::new(), -1), 3);
    long.topics[0].partitions[0].committed_metadata = Some(Text::from("m".repeat(4097)));
    assert_eq!(refused(house.client.call(2, &long).await.unwrap()), ErrorCode::OffsetMetadataTooLarge.code());
    let joined = house.join(3, "g", &Text::new()).await;
    assert_eq!(joined.error_code, 0);
    let stranger = house.commit(2, "g", (&Text::from("stranger"), 1), 3);
    assert_eq!(refused(house.client.call(2, &stranger).await.unwrap()), ErrorCode::UnknownMemberId.code());
}

#[tokio::test(start_paused = true)]
async fn coordinators_that_do_not_exist_are_refused_in_every_version() {
    let house = House::open().await;
    for v in 0..=6 {
        let keys = || vec![Text::from("x"), Text::from("y")];
        let request = |key_type| FindCoordinatorRequest {
            key: if v < 4 { Text::from("x") } else { Text::new() },
            key_type,
            coordinator_keys: if v < 4 { Vec::new() } else { keys() },
        };
        let codes = |response: tidemark_proto::kafka::messages::FindCoordinatorResponse| match v {
            ..4 => vec![response.error_code],
            _ => response.coordinators.iter().map(|c| c.error_code).collect(),
        };
        let groups = codes(house.client.call(v, &request(0)).await.unwrap());
        assert!(groups.iter().all(|c| *c == 0), "{groups:?}");
        if v > 0 {
            for kind in [1, 2, 3] {
                let others = codes(house.client.call(v, &request(kind)).await.unwrap());
                assert!(others.iter().all(|c| *c == ErrorCode::InvalidRequest.code()), "{others:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn offsets_go_with_their_topic() {
    let house = House::open().await;
    let commit = house.commit(2, "g", (&Text::new(), -1), 3);
    house.client.call(2, &commit).await.unwrap();
    assert_eq!(house.fetch(9, "g", true).await, [(1, 3, 0)]);
    let delete = Command::DeleteTopics { topics: vec![crate::cluster::command::TopicRef::Id(house.topic)] };
    assert!(matches!(house.running.node.cluster.submit(delete).await, Ok(Reply::Deleted(_))));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(house.fetch(9, "g", true).await, []);
}
