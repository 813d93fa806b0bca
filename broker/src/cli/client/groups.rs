//! Groups, asked of their coordinators: which there are, who is in them, what they have committed.

use std::collections::BTreeMap;

use tidemark_proto::kafka::api::ApiKey;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::internal::{ConsumerProtocolAssignment, decode_consumer_protocol};
use tidemark_proto::kafka::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use tidemark_proto::kafka::messages::{
    ConsumerGroupDescribeRequest, DeleteGroupsRequest, DescribeGroupsRequest, FindCoordinatorRequest,
    ListGroupsRequest, OffsetCommitRequest, OffsetFetchRequest,
};

use super::{Cluster, Link, Place, Purpose, Trouble, address, refused};

/// The last version that asks for one group.
const FIND_COORDINATOR_MAX: i16 = 3;
/// The last version that asks for one group.
const OFFSET_FETCH_MAX: i16 = 7;
/// The last version that names topics by name.
const OFFSET_COMMIT_MAX: i16 = 9;

/// A group as lists show it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its name.
    pub id: String,
    /// Its protocol type: "consumer", "connect", or empty.
    pub protocol: String,
    /// Its state; empty where the broker is too old to say.
    pub state: String,
    /// classic, consumer, share or streams; empty where the broker is too old to say.
    pub kind: String,
    /// The broker that coordinates it.
    pub coordinator: i32,
}

/// A group as it is now.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Its state.
    pub state: String,
    /// How partitions are assigned.
    pub assignor: String,
    /// Its members.
    pub members: Vec<Member>,
}

/// A member.
#[derive(Clone, Debug, Default)]
pub struct Member {
    /// Its id.
    pub id: String,
    /// Its static name.
    pub instance: Option<String>,
    /// Its client id.
    pub client: String,
    /// Where it connects from.
    pub host: String,
    /// What it reads.
    pub partitions: Vec<Place>,
}

/// Whether a state says that there is no such group.
pub fn is_dead(state: &str) -> bool {
    state.eq_ignore_ascii_case("dead")
}

impl Cluster {
    /// A connection to the coordinator of a group.
    pub async fn coordinator(&self, group: &str, purpose: Purpose) -> Result<Link, Trouble> {
        let request = FindCoordinatorRequest { key: group.into(), key_type: 0, ..Default::default() };
        let found = self.any().await?.call(FIND_COORDINATOR_MAX, &request).await?;
        refused(&format!("coordinator of group {group}"), found.error_code, found.error_message.as_ref())?;
        self.link(&address(&found.host, found.port), purpose).await
    }

    /// The groups of every broker.
    pub async fn groups(&self) -> Result<Vec<Listed>, Trouble> {
        self.retry(async || {
            let metadata = self.metadata(Some(&[])).await?;
            let mut groups = Vec::new();
            for broker in &metadata.brokers {
                let link = self.node(broker.node_id, Purpose::Ask).await?;
                let answer = link.call(i16::MAX, &ListGroupsRequest::default()).await?;
                refused(&format!("groups of broker {}", broker.node_id), answer.error_code, None)?;
                groups.extend(answer.groups.into_iter().map(|group| Listed {
                    id: group.group_id.to_string(),
                    protocol: group.protocol_type.to_string(),
                    state: group.group_state.to_string(),
                    kind: group.group_type.to_string(),
                    coordinator: broker.node_id,
                }));
            }
            groups.sort_by(|a, b| a.id.cmp(&b.id));
            Ok(groups)
        })
        .await
    }

    /// One group, whichever protocol its members speak.
    pub async fn group(&self, id: &str) -> Result<Group, Trouble> {
        self.retry(async || {
            let link = self.coordinator(id, Purpose::Ask).await?;
            let group = classic(&link, id).await?;
            if is_dead(&group.state) && link.range(ApiKey::ConsumerGroupDescribe).is_some() {
                return Ok(modern(&link, id).await?.unwrap_or(group));
            }
            Ok(group)
        })
        .await
    }

    /// What a group has committed.
    pub async fn committed(&self, id: &str) -> Result<BTreeMap<Place, i64>, Trouble> {
        self.retry(async || {
            let link = self.coordinator(id, Purpose::Ask).await?;
            committed(&link, id).await
        })
        .await
    }

    /// The same of a group whose coordinator is known, asked once.
    pub async fn committed_now(&self, group: &Listed) -> Result<BTreeMap<Place, i64>, Trouble> {
        committed(&self.node(group.coordinator, Purpose::Ask).await?, &group.id).await
    }

    /// Commits offsets for a group: as a member, or (with `None`) as an admin while it has none.
    pub async fn commit(
        &self,
        id: &str,
        member: Option<(&str, i32)>,
        offsets: &BTreeMap<Place, i64>,
    ) -> Result<(), Trouble> {
        let mut request = OffsetCommitRequest {
            group_id: id.into(),
            generation_id_or_member_epoch: member.map_or(-1, |member| member.1),
            member_id: member.map_or("", |member| member.0).into(),
            ..Default::default()
        };
        for ((topic, partition), offset) in offsets {
            let partition = OffsetCommitRequestPartition {
                partition_index: *partition,
                committed_offset: *offset,
                committed_metadata: Some("".into()),
                ..Default::default()
            };
            match request.topics.last_mut() {
                Some(last) if last.name == topic.as_str() => last.partitions.push(partition),
                _ => request.topics.push(OffsetCommitRequestTopic {
                    name: topic.as_str().into(),
                    partitions: vec![partition],
                    ..Default::default()
                }),
            }
        }
        self.retry(async || {
            let purpose = if member.is_some() { Purpose::Group } else { Purpose::Ask };
            let answer = self.coordinator(id, purpose).await?.call(OFFSET_COMMIT_MAX, &request).await?;
            for topic in &answer.topics {
                for partition in &topic.partitions {
                    let what =
                        format!("offset of group {id} in {}-{}", topic.name, partition.partition_index);
                    match ErrorCode::from_code(partition.error_code) {
                        // What a group with members answers to who is none of them.
                        ErrorCode::UnknownMemberId if member.is_none() => {
                            refused(&what, ErrorCode::NonEmptyGroup.code(), None)?;
                        }
                        code => refused(&what, code.code(), None)?,
                    }
                }
            }
            Ok(())
        })
        .await
    }

    /// Deletes a group.
    pub async fn delete_group(&self, id: &str) -> Result<(), Trouble> {
        self.retry(async || {
            let link = self.coordinator(id, Purpose::Ask).await?;
            let request = DeleteGroupsRequest { groups_names: vec![id.into()] };
            let answer = link.call(i16::MAX, &request).await?;
            let code = answer.results.first().map_or(0, |result| result.error_code);
            refused(&format!("group {id}"), code, None)
        })
        .await
    }
}

async fn committed(link: &Link, id: &str) -> Result<BTreeMap<Place, i64>, Trouble> {
    let request = OffsetFetchRequest { group_id: id.into(), topics: None, ..Default::default() };
    let answer = link.call(OFFSET_FETCH_MAX, &request).await?;
    refused(&format!("offsets of group {id}"), answer.error_code, None)?;
    let mut offsets = BTreeMap::new();
    for topic in answer.topics {
        for partition in topic.partitions {
            let what = format!("offset of group {id} in {}-{}", topic.name, partition.partition_index);
            refused(&what, partition.error_code, None)?;
            if partition.committed_offset >= 0 {
                offsets
                    .insert((topic.name.to_string(), partition.partition_index), partition.committed_offset);
            }
        }
    }
    Ok(offsets)
}

async fn classic(link: &Link, id: &str) -> Result<Group, Trouble> {
    let request = DescribeGroupsRequest { groups: vec![id.into()], ..Default::default() };
    let answer = link.call(i16::MAX, &request).await?;
    let Some(found) = answer.groups.into_iter().next() else { return Ok(Group::default()) };
    if ErrorCode::from_code(found.error_code) == ErrorCode::GroupIdNotFound {
        return Ok(Group { state: "Dead".into(), ..Group::default() });
    }
    refused(&format!("group {id}"), found.error_code, found.error_message.as_ref())?;
    let members = found.members.into_iter().map(|member| Member {
        id: member.member_id.to_string(),
        instance: member.group_instance_id.map(|id| id.to_string()),
        client: member.client_id.to_string(),
        host: member.client_host.trim_start_matches('/').to_owned(),
        partitions: decode_consumer_protocol::<ConsumerProtocolAssignment>(member.member_assignment)
            .map(|(_, assignment)| places(&assignment))
            .unwrap_or_default(),
    });
    Ok(Group {
        state: found.group_state.to_string(),
        assignor: found.protocol_data.to_string(),
        members: members.collect(),
    })
}

/// The partitions of an assignment.
pub fn places(assignment: &ConsumerProtocolAssignment) -> Vec<Place> {
    let topics = assignment.assigned_partitions.iter();
    topics.flat_map(|t| t.partitions.iter().map(|p| (t.topic.to_string(), *p))).collect()
}

async fn modern(link: &Link, id: &str) -> Result<Option<Group>, Trouble> {
    let request = ConsumerGroupDescribeRequest { group_ids: vec![id.into()], ..Default::default() };
    let answer = link.call(i16::MAX, &request).await?;
    let Some(found) = answer.groups.into_iter().next() else { return Ok(None) };
    match ErrorCode::from_code(found.error_code) {
        ErrorCode::GroupIdNotFound => return Ok(None),
        code => refused(&format!("group {id}"), code.code(), found.error_message.as_ref())?,
    }
    let members = found.members.into_iter().map(|member| Member {
        id: member.member_id.to_string(),
        instance: member.instance_id.map(|id| id.to_string()),
        client: member.client_id.to_string(),
        host: member.client_host.trim_start_matches('/').to_owned(),
        partitions: member
            .assignment
            .topic_partitions
            .iter()
            .flat_map(|t| t.partitions.iter().map(|p| (t.topic_name.to_string(), *p)))
            .collect(),
    });
    Ok(Some(Group {
        state: found.group_state.to_string(),
        assignor: found.assignor_name.to_string(),
        members: members.collect(),
    }))
}
