//! A member of a classic consumer group that reads one topic: joins, assigns where it leads, beats, leaves.
//!
//! It offers the `range` assignor, which every client knows, and assigns for whatever the others subscribe to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::internal::{
    ConsumerProtocolAssignment, ConsumerProtocolSubscription, consumer_protocol_assignment,
    decode_consumer_protocol, encode_versioned,
};
use tidemark_proto::kafka::messages::join_group_request::JoinGroupRequestProtocol;
use tidemark_proto::kafka::messages::join_group_response::JoinGroupResponseMember;
use tidemark_proto::kafka::messages::leave_group_request::MemberIdentity;
use tidemark_proto::kafka::messages::sync_group_request::SyncGroupRequestAssignment;
use tidemark_proto::kafka::messages::{
    HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, SyncGroupRequest,
};
use tokio::time::Instant;

use super::groups::places;
use super::{Cluster, Place, Purpose, Trouble, refused};

const SESSION_MS: i32 = 30_000;
const BEAT: Duration = Duration::from_secs(3);
const ASSIGNOR: &str = "range";
const PROTOCOL: &str = "consumer";

/// What a heartbeat says about the assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// It holds.
    Still,
    /// It must be given back: join again.
    Lost,
}

/// A place in a group.
pub struct Membership {
    cluster: Arc<Cluster>,
    group: String,
    topic: String,
    member: String,
    generation: i32,
    beat_at: Instant,
}

impl Membership {
    /// Not a member yet.
    pub fn new(cluster: Arc<Cluster>, group: &str, topic: &str) -> Membership {
        Membership {
            cluster,
            group: group.to_owned(),
            topic: topic.to_owned(),
            member: String::new(),
            generation: -1,
            beat_at: Instant::now(),
        }
    }

    /// Joins, and waits for what the group's leader gives: partitions of the topic.
    pub async fn join(&mut self) -> Result<Vec<i32>, Trouble> {
        let mut patience = self.cluster.patience();
        loop {
            match self.join_once().await {
                Ok(partitions) => return Ok(partitions),
                Err(Trouble::Refused { code: ErrorCode::MemberIdRequired, .. }) => {}
                Err(Trouble::Refused { code: ErrorCode::RebalanceInProgress, .. }) => {}
                Err(Trouble::Refused { code: ErrorCode::UnknownMemberId, .. }) if !self.member.is_empty() => {
                    self.member.clear();
                }
                Err(Trouble::Refused { code: ErrorCode::IllegalGeneration, .. }) => {}
                Err(trouble) if trouble.passes() && patience.pause().await => {}
                Err(trouble) => return Err(trouble),
            }
        }
    }

    async fn join_once(&mut self) -> Result<Vec<i32>, Trouble> {
        let link = self.cluster.coordinator(&self.group, Purpose::Group).await?;
        let subscription =
            ConsumerProtocolSubscription { topics: vec![self.topic.as_str().into()], ..Default::default() };
        let metadata = encode_versioned(&subscription, 1).map_err(|e| Trouble::Unable(e.to_string()))?;
        let request = JoinGroupRequest {
            group_id: self.group.as_str().into(),
            session_timeout_ms: SESSION_MS,
            rebalance_timeout_ms: SESSION_MS,
            member_id: self.member.as_str().into(),
            protocol_type: PROTOCOL.into(),
            protocols: vec![JoinGroupRequestProtocol { name: ASSIGNOR.into(), metadata }],
            ..Default::default()
        };
        let joined = link.call(i16::MAX, &request).await?;
        if !joined.member_id.is_empty() {
            self.member = joined.member_id.to_string();
        }
        refused(&format!("joining group {}", self.group), joined.error_code, None)?;
        self.generation = joined.generation_id;
        let assignments = match joined.leader == joined.member_id {
            true => self.assign(&joined).await?,
            false => Vec::new(),
        };
        let request = SyncGroupRequest {
            group_id: self.group.as_str().into(),
            generation_id: self.generation,
            member_id: self.member.as_str().into(),
            protocol_type: Some(PROTOCOL.into()),
            protocol_name: joined.protocol_name.clone(),
            assignments,
            ..Default::default()
        };
        let synced = link.call(i16::MAX, &request).await?;
        refused(&format!("syncing group {}", self.group), synced.error_code, None)?;
        self.beat_at = Instant::now() + BEAT;
        if synced.assignment.is_empty() {
            return Ok(Vec::new());
        }
        let (_, assignment) = decode_consumer_protocol::<ConsumerProtocolAssignment>(synced.assignment)
            .map_err(|error| Trouble::Unable(format!("assignment of group {}: {error}", self.group)))?;
        let mine = places(&assignment).into_iter().filter(|place| place.0 == self.topic);
        Ok(mine.map(|place| place.1).collect())
    }

    async fn assign(&self, joined: &JoinGroupResponse) -> Result<Vec<SyncGroupRequestAssignment>, Trouble> {
        let wants = joined.members.iter().map(subscription).collect::<Result<BTreeMap<_, _>, _>>()?;
        let topics: BTreeSet<String> = wants.values().flatten().cloned().collect();
        let topics: Vec<String> = topics.into_iter().collect();
        let metadata = self.cluster.metadata(Some(&topics)).await?;
        let counts = metadata.topics.iter().filter_map(|topic| {
            Some((topic.name.as_ref()?.to_string(), i32::try_from(topic.partitions.len()).ok()?))
        });
        let shares = range(&wants, &counts.collect());
        shares
            .into_iter()
            .map(|(member, places)| {
                let mut assignment = ConsumerProtocolAssignment::default();
                for (topic, partition) in places {
                    match assignment.assigned_partitions.last_mut() {
                        Some(last) if last.topic == topic.as_str() => last.partitions.push(partition),
                        _ => assignment.assigned_partitions.push(
                            consumer_protocol_assignment::TopicPartition {
                                topic: topic.into(),
                                partitions: vec![partition],
                            },
                        ),
                    }
                }
                let assignment =
                    encode_versioned(&assignment, 1).map_err(|e| Trouble::Unable(e.to_string()))?;
                Ok(SyncGroupRequestAssignment { member_id: member.into(), assignment })
            })
            .collect()
    }

    /// Beats when it is time.
    pub async fn beat(&mut self) -> Result<Held, Trouble> {
        if Instant::now() < self.beat_at {
            return Ok(Held::Still);
        }
        self.beat_at = Instant::now() + BEAT;
        let request = HeartbeatRequest {
            group_id: self.group.as_str().into(),
            generation_id: self.generation,
            member_id: self.member.as_str().into(),
            ..Default::default()
        };
        let answer = match self.cluster.coordinator(&self.group, Purpose::Group).await {
            Ok(link) => link.call(i16::MAX, &request).await,
            Err(trouble) => Err(trouble),
        };
        let code = match answer {
            Ok(answer) => ErrorCode::from_code(answer.error_code),
            // The session is longer than one beat: the next one may get through.
            Err(trouble) if trouble.passes() => return Ok(Held::Still),
            Err(trouble) => return Err(trouble),
        };
        match code {
            ErrorCode::None => Ok(Held::Still),
            ErrorCode::RebalanceInProgress | ErrorCode::IllegalGeneration | ErrorCode::UnknownMemberId => {
                Ok(Held::Lost)
            }
            code if code.is_retriable() => Ok(Held::Still),
            code => {
                refused(&format!("heartbeat to group {}", self.group), code.code(), None)?;
                Ok(Held::Still)
            }
        }
    }

    /// Commits offsets as this member.
    pub async fn commit(&self, offsets: &BTreeMap<Place, i64>) -> Result<(), Trouble> {
        if offsets.is_empty() {
            return Ok(());
        }
        self.cluster.commit(&self.group, Some((&self.member, self.generation)), offsets).await
    }

    /// Leaves, so that the others need not wait for the session to lapse.
    pub async fn leave(&self) -> Result<(), Trouble> {
        let link = self.cluster.coordinator(&self.group, Purpose::Group).await?;
        let member = MemberIdentity { member_id: self.member.as_str().into(), ..Default::default() };
        let request = LeaveGroupRequest {
            group_id: self.group.as_str().into(),
            member_id: self.member.as_str().into(),
            members: vec![member],
        };
        let answer = link.call(i16::MAX, &request).await?;
        refused(&format!("leaving group {}", self.group), answer.error_code, None)
    }
}

fn subscription(member: &JoinGroupResponseMember) -> Result<(String, Vec<String>), Trouble> {
    let (_, wanted) = decode_consumer_protocol::<ConsumerProtocolSubscription>(member.metadata.clone())
        .map_err(|error| Trouble::Unable(format!("subscription of {}: {error}", member.member_id)))?;
    Ok((member.member_id.to_string(), wanted.topics.iter().map(ToString::to_string).collect()))
}

/// Each topic in ranges as equal as can be, members in order of their ids, longer ranges first.
fn range(
    wants: &BTreeMap<String, Vec<String>>,
    counts: &BTreeMap<String, i32>,
) -> BTreeMap<String, Vec<Place>> {
    let mut shares: BTreeMap<String, Vec<Place>> =
        wants.keys().map(|member| (member.clone(), Vec::new())).collect();
    for (topic, count) in counts {
        let members: Vec<&String> =
            wants.iter().filter(|(_, topics)| topics.contains(topic)).map(|(member, _)| member).collect();
        let Ok(parts) = i32::try_from(members.len()) else { continue };
        let mut next = 0;
        for (at, member) in (0..).zip(members) {
            let share = count / parts + i32::from(at < count % parts);
            if let Some(places) = shares.get_mut(member) {
                places.extend((next..next + share).map(|partition| (topic.clone(), partition)));
            }
            next += share;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_goes_to_one_subscriber_in_ranges() {
        let wants = BTreeMap::from([
            ("a".to_owned(), vec!["t".to_owned()]),
            ("b".to_owned(), vec!["t".to_owned(), "u".to_owned()]),
            ("c".to_owned(), vec![]),
        ]);
        let counts = BTreeMap::from([("t".to_owned(), 3), ("u".to_owned(), 1)]);
        let shares = range(&wants, &counts);
        let t = |partition| ("t".to_owned(), partition);
        assert_eq!(shares["a"], [t(0), t(1)]);
        assert_eq!(shares["b"], [t(2), ("u".to_owned(), 0)]);
        assert!(shares["c"].is_empty());
    }
}
