//! The words a group is spoken to in: commands, replies, changes, timers.
//!
//! All of it is data. A reply names the request it answers by a [`Token`] of the driver's; a timer is a
//! duration from the moment the outcome is carried out. Nothing here knows the wire.

use std::time::Duration;

use bytes::Bytes;
use tidemark_proto::id::Millis;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::text::Text;

use super::members::{Member, Phase};

/// Names one waiting request; the driver knows who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// One entry of a member's list of protocols, in its order of preference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// Name, such as `range`.
    pub name: Text,
    /// What the leader is told about the member under it; opaque.
    pub metadata: Bytes,
}

/// Who speaks: checked by every request of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Member id; empty when the caller has none.
    pub member: Text,
    /// `group.instance.id` of a static member (KIP-345).
    pub instance: Option<Text>,
    /// The generation it believes to be in; -1 for none.
    pub generation: i32,
}

/// JoinGroup.
#[derive(Clone, Debug, PartialEq)]
pub struct Join {
    /// Member id; empty asks for one.
    pub member: Text,
    /// `group.instance.id` of a static member.
    pub instance: Option<Text>,
    /// Client id of the request.
    pub client_id: Text,
    /// Peer address, as Kafka prints it (`/127.0.0.1`).
    pub client_host: Text,
    /// Protocol type, such as `consumer`.
    pub protocol_type: Text,
    /// Protocols in order of preference.
    pub protocols: Vec<Protocol>,
    /// Silence after which the member is gone.
    pub session_timeout_ms: i32,
    /// How long a rebalance waits for the member to rejoin.
    pub rebalance_timeout_ms: i32,
    /// v4+: a first join gets a member id and has to come back with it (KIP-394).
    pub require_known: bool,
    /// v9+: a returning static leader may be told not to assign anew (KIP-814).
    pub can_skip_assignment: bool,
    /// The member id to give out, should one be needed; made by the driver, used once.
    pub fresh: Text,
}

/// SyncGroup.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sync {
    /// Who speaks.
    pub caller: Caller,
    /// v5+: protocol type the member believes in.
    pub protocol_type: Option<Text>,
    /// v5+: protocol the member believes in.
    pub protocol: Option<Text>,
    /// From the leader: member id and assignment.
    pub assignments: Vec<(Text, Bytes)>,
}

/// One member of a LeaveGroup request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leaver {
    /// Member id; empty when only the instance id is known.
    pub member: Text,
    /// `group.instance.id`.
    pub instance: Option<Text>,
}

/// One committed position as a request gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitOne {
    /// Topic name.
    pub topic: Text,
    /// Partition.
    pub partition: i32,
    /// The position.
    pub offset: i64,
    /// Leader epoch of the last record consumed; -1 for none.
    pub leader_epoch: i32,
    /// The client's own words.
    pub metadata: Text,
}

/// OffsetCommit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// Who speaks.
    pub caller: Caller,
    /// v2–v4: keep the offsets this long after the commit, whatever the group does.
    pub retention_ms: Option<i64>,
    /// The positions.
    pub offsets: Vec<CommitOne>,
}

/// What a group can be asked or told.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// JoinGroup.
    Join(Join),
    /// SyncGroup.
    Sync(Sync),
    /// Heartbeat.
    Heartbeat(Caller),
    /// LeaveGroup.
    Leave(Vec<Leaver>),
    /// OffsetCommit.
    Commit(Commit),
    /// OffsetFetch: these partitions, or all that are known.
    FetchOffsets(Option<Vec<(Text, Vec<i32>)>>),
    /// DescribeGroups.
    Describe,
    /// DeleteGroups.
    Delete,
    /// OffsetDelete.
    DeleteOffsets(Vec<(Text, i32)>),
    /// A timer of this group fired.
    Fire(Timer),
    /// Retention: drop what has expired, and the group with its last offset.
    Retire,
    /// A topic was deleted: drop its offsets.
    TopicGone(Text),
}

/// The answer to a [`Join`] that came through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Joined {
    /// The generation joined.
    pub generation: i32,
    /// Protocol type of the group.
    pub protocol_type: Option<Text>,
    /// The protocol chosen by vote.
    pub protocol: Option<Text>,
    /// Member id of the leader.
    pub leader: Text,
    /// The caller's member id.
    pub member: Text,
    /// For the leader: every member and its metadata under the chosen protocol.
    pub members: Vec<JoinedMember>,
    /// The leader must not assign: the last assignment stands.
    pub skip_assignment: bool,
}

/// One member as the leader is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedMember {
    /// Member id.
    pub member: Text,
    /// `group.instance.id`.
    pub instance: Option<Text>,
    /// Metadata under the chosen protocol.
    pub metadata: Bytes,
}

/// The answer to a [`Sync`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// Protocol type of the group.
    pub protocol_type: Option<Text>,
    /// The protocol chosen by vote.
    pub protocol: Option<Text>,
    /// The member's assignment.
    pub assignment: Bytes,
}

/// One committed position as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The position.
    pub offset: i64,
    /// Leader epoch of the last record consumed; -1 for none.
    pub leader_epoch: i32,
    /// The client's own words.
    pub metadata: Text,
    /// When it was committed.
    pub at: Millis,
    /// When it expires, if the commit said so (OffsetCommit v2–v4).
    pub expires: Option<Millis>,
}

/// A group as DescribeGroups and ListGroups show it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// Where it stands.
    pub phase: Phase,
    /// Protocol type; empty for a group of offsets only.
    pub protocol_type: Text,
    /// Chosen protocol; empty unless Stable.
    pub protocol: Text,
    /// Its members.
    pub members: Vec<DescribedMember>,
}

/// A member as DescribeGroups shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedMember {
    /// Member id.
    pub member: Text,
    /// `group.instance.id`.
    pub instance: Option<Text>,
    /// Client id of its last JoinGroup.
    pub client_id: Text,
    /// Address it joined from.
    pub client_host: Text,
    /// Metadata under the chosen protocol; empty unless Stable.
    pub metadata: Bytes,
    /// Assignment; empty unless Stable.
    pub assignment: Bytes,
}

/// What a request is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To a join.
    Joined(Joined),
    /// To a first join of v4+: come back with this member id (79).
    MemberIdRequired(Text),
    /// To a sync.
    Synced(Synced),
    /// To a heartbeat.
    Alive,
    /// To a leave: one code per leaver, in order.
    Left(Vec<ErrorCode>),
    /// To a commit: one code per position, in order.
    Committed(Vec<ErrorCode>),
    /// To a fetch of offsets.
    Offsets(Vec<(Text, i32, Option<Committed>)>),
    /// To a describe.
    Described(Description),
    /// To a delete, a timer, a retirement.
    Done,
    /// To a deletion of offsets: one code per partition, in order.
    OffsetsDeleted(Vec<ErrorCode>),
}

/// A timer of one group; setting it again replaces it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// A member, or an id given out but not used yet, has been silent for its session timeout.
    Session(Text),
    /// The rebalance has waited long enough for members to join.
    Rebalance,
    /// The members have had long enough to ask for their assignments.
    Sync,
}

/// What the driver does with a timer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimerOp {
    /// Fires after this long, unless set again or cancelled.
    Set(Timer, Duration),
    /// Does not fire any more.
    Cancel(Timer),
}

/// What a group's log holds. Everything else about a group is lost with its coordinator, as in Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The group as its last completed generation left it.
    Group(GroupRecord),
    /// The group was deleted.
    GroupGone,
    /// A committed position.
    Offset(Text, i32, Committed),
    /// A position was deleted or has expired.
    OffsetGone(Text, i32),
}

/// A completed generation: who is in it and what they were assigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRecord {
    /// Protocol type.
    pub protocol_type: Text,
    /// Generation.
    pub generation: i32,
    /// Chosen protocol; none when nobody is left.
    pub protocol: Option<Text>,
    /// Member id of the leader; none when nobody is left.
    pub leader: Option<Text>,
    /// Since when the group stands so.
    pub since: Millis,
    /// The members.
    pub members: Vec<RecordedMember>,
}

/// A member as the log keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedMember {
    /// Member id.
    pub member: Text,
    /// `group.instance.id`.
    pub instance: Option<Text>,
    /// Client id of its last JoinGroup.
    pub client_id: Text,
    /// Address it joined from.
    pub client_host: Text,
    /// How long a rebalance waits for it.
    pub rebalance_timeout_ms: i32,
    /// Silence after which it is gone.
    pub session_timeout_ms: i32,
    /// Metadata under the chosen protocol.
    pub subscription: Bytes,
    /// Its assignment.
    pub assignment: Bytes,
}

/// A step of a rebalance that no log keeps.
#[derive(Clone, Debug, PartialEq)]
pub enum Soft {
    /// A member id was given out (79).
    Pend(Text),
    /// It was used, or never will be.
    Unpend(Text),
    /// A member came, changed, or waits.
    Put(Box<Put>),
    /// A member is gone.
    Remove(Text),
    /// A static member returned under a new member id.
    Rename {
        /// The id it had.
        old: Text,
        /// The id it has now.
        new: Text,
    },
    /// The join barrier is up. A group that was empty waits in short steps, at most `Some(rest)` more.
    Prepare(Option<Duration>),
    /// One short step is over, the next one leaves this rest.
    Extend(Duration),
    /// The barrier fell: everybody who joined is in this generation.
    Generation {
        /// Its number.
        number: i32,
        /// The protocol chosen by vote.
        protocol: Text,
        /// The leader's member id.
        leader: Text,
        /// When.
        since: Millis,
    },
    /// A member asked for its assignment; it waits under the token unless there is one already.
    Sync(Text, Option<Token>),
}

/// A member as it is from now on.
#[derive(Clone, Debug, PartialEq)]
pub struct Put {
    /// Its protocol type; the first member decides the group's.
    pub protocol_type: Text,
    /// Member id.
    pub id: Text,
    /// The member.
    pub member: Member,
}

/// The only way a group changes: what the log keeps, and what it does not.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Appended to the log, applied now and at every replay.
    Stored(Record),
    /// Applied now only.
    Soft(Soft),
}

/// What follows from a command. Changes are applied in order; then replies and timers are carried out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// What changes.
    pub changes: Vec<Change>,
    /// Who is answered what. The caller's own token is missing when it waits.
    pub replies: Vec<(Token, Result<Reply, ErrorCode>)>,
    /// Timers to set and cancel.
    pub timers: Vec<TimerOp>,
}

impl Outcome {
    /// Answers one request and changes nothing.
    pub fn reply(to: Token, reply: Reply) -> Outcome {
        Outcome { replies: vec![(to, Ok(reply))], ..Outcome::default() }
    }

    /// The records among the changes.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.changes.iter().filter_map(|change| match change {
            Change::Stored(record) => Some(record),
            Change::Soft(_) => None,
        })
    }
}
