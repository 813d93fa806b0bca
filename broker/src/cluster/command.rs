//! What a broker may ask the controller for, and what it answers.
//!
//! Commands and replies travel between brokers as JSON in the peer API's `submit`; unknown fields are
//! ignored and missing ones default, so that neighbouring versions understand each other.

use serde::{Deserialize, Serialize};
use tidemark_proto::id::{
    BrokerEpoch, BrokerId, LaneId, LeaderEpoch, Life, Offset, PartitionIndex, Position, ProducerId, Seq,
    TopicId, TopicPartition,
};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_tiering::segment;
use uuid::Uuid;

use super::image::{CheckpointRow, Endpoint, RunRow};
use super::quota::{Entity, Rate};
use super::record::{Carried, Record, Scope};

/// A lane known to be sealed at `at` (R11: the seal is durable before the command is sent).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// The lane.
    pub lane: LaneId,
    /// Its end.
    pub at: Seq,
}

/// A topic to be created.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// The id it gets; drawn by the caller, since state draws nothing.
    pub id: TopicId,
    /// Partitions; -1 for the default.
    pub partitions: i32,
    /// Replication factor; -1 for the default.
    pub replication: i16,
    /// Explicit replicas per partition; with these the two counts must be -1.
    pub assignments: Vec<(PartitionIndex, Vec<BrokerId>)>,
    /// Configs.
    pub configs: Vec<(String, Option<String>)>,
}

/// Names a topic, by name or by id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TopicRef {
    /// By name.
    Name(String),
    /// By id.
    Id(TopicId),
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Starts a broker epoch for a life (R1). A node id's older epoch ends in the same commit: its open
    /// lanes must be in `sealed`, its partitions and those without a leader go to the new epoch.
    RegisterBroker {
        /// The node id, or `None` for the next free one.
        node: Option<BrokerId>,
        /// The life.
        life: Life,
        /// Client endpoints.
        endpoints: Vec<Endpoint>,
        /// Rack.
        rack: Option<String>,
        /// Peer address.
        peer: String,
        /// The older epoch's lanes.
        sealed: Vec<Sealed>,
    },
    /// Ends a broker epoch, dead or leaving: its lanes' ends become known and its partitions get new leaders.
    TakeOver {
        /// The node.
        node: BrokerId,
        /// The epoch that ends.
        epoch: BrokerEpoch,
        /// All its open lanes.
        sealed: Vec<Sealed>,
    },
    /// Drops a dead broker's row.
    UnregisterBroker {
        /// The node.
        node: BrokerId,
    },
    /// Creates topics; one answer each.
    CreateTopics {
        /// The topics.
        topics: Vec<NewTopic>,
        /// Only says what would happen.
        validate_only: bool,
    },
    /// Raises a topic's partition count.
    CreatePartitions {
        /// The topic.
        topic: String,
        /// The new total.
        count: i32,
        /// Explicit replicas of each new partition; none: they are placed.
        #[serde(default)]
        assignments: Vec<Vec<BrokerId>>,
        /// Only says what would happen.
        validate_only: bool,
    },
    /// Deletes topics; one answer each.
    DeleteTopics {
        /// The topics.
        topics: Vec<TopicRef>,
    },
    /// Notes that a deleted topic's last object is gone.
    ForgetTopic {
        /// The topic.
        id: TopicId,
    },
    /// Raises a lane's low mark: what lies below is in `runs` (R18, R19).
    CommitCut {
        /// The broker epoch of the sender: the lane's owner, or its recoverer.
        by: BrokerEpoch,
        /// The lane.
        lane: LaneId,
        /// The new low mark.
        low: Seq,
        /// The objects written.
        runs: Vec<RunRow>,
        /// The state of the lane's partitions at `low`.
        checkpoint: Option<CheckpointRow>,
        /// The version of the image the cut was planned on.
        version: u64,
    },
    /// Un-names runs that others stand for, or that nobody needs. All of `drop` are named, or nothing happens.
    ReplaceRuns {
        /// The broker epoch of the sender.
        by: BrokerEpoch,
        /// Named no more.
        drop: Vec<Uuid>,
        /// Named in their place.
        add: Vec<RunRow>,
        /// Log starts that rise with it.
        starts: Vec<(TopicPartition, Offset)>,
        /// What takeovers would have read of the dropped ones, as of the version it says.
        carried: Option<Box<Carried>>,
        /// Where compaction has come to.
        cleaned: Vec<(TopicPartition, Offset)>,
    },
    /// Drops a dead lane's row: all it held is in runs, and nothing but its seal is left in the bucket (R21).
    ForgetLane {
        /// The lane.
        lane: LaneId,
    },
    /// Notes that the metadata log's own data below this position is gone, so that nobody looks for it again.
    NoteSwept {
        /// The position.
        below: Position,
    },
    /// Takes the next block of 1,000 producer ids.
    AllocateProducerIds {
        /// The broker epoch of the sender.
        by: BrokerEpoch,
    },
    /// Sets (`Some`) or resets (`None`) configs.
    SetConfig {
        /// On what.
        scope: Scope,
        /// Key and value.
        set: Vec<(String, Option<String>)>,
        /// Only says whether it would be accepted.
        validate_only: bool,
    },
    /// Raises log starts, of partitions that the sender leads; what lies below may be dropped.
    MoveLogStarts {
        /// The broker epoch of the sender.
        by: BrokerEpoch,
        /// Which, under which leader epoch, to where; at most the high watermark.
        starts: Vec<(TopicPartition, LeaderEpoch, Offset)>,
    },
    /// Names segments of a partition that the sender leads, which go on where its last one ends (R18).
    CommitSegments {
        /// The broker epoch of the sender.
        by: BrokerEpoch,
        /// Whose.
        of: TopicPartition,
        /// Its leader epoch.
        leader_epoch: LeaderEpoch,
        /// Which, by offset; all of it at most the last stable offset.
        rows: Vec<segment::Row>,
    },
    /// Begins the deletion of segments of a partition that the sender leads, all of them below its log start.
    RetireSegments {
        /// The broker epoch of the sender.
        by: BrokerEpoch,
        /// Whose.
        of: TopicPartition,
        /// Its leader epoch.
        leader_epoch: LeaderEpoch,
        /// Which.
        ids: Vec<Uuid>,
    },
    /// Says that nothing is left of segments whose deletion had begun.
    ForgetSegments {
        /// Whose.
        of: TopicPartition,
        /// Which.
        ids: Vec<Uuid>,
    },
    /// Plans that partitions go to other living brokers; one that is where it shall be stays.
    PlanMoves {
        /// Which, and to whom.
        moves: Vec<(TopicPartition, BrokerId)>,
    },
    /// Calls moves off that take too long: the partitions stay where they are.
    CallOff {
        /// Which, and the versions of their plans; one whose plan is another by now goes on.
        moves: Vec<(TopicPartition, u64)>,
    },
    /// Says that the sender, as their successor, has read what there is of partitions.
    ReadyToLead {
        /// The broker epoch of the sender.
        by: BrokerEpoch,
        /// How far its lane is committed.
        from: Seq,
        /// Which, each with its leader's epoch.
        partitions: Vec<(TopicPartition, LeaderEpoch)>,
    },
    /// Hands partitions that the sender leads to their successors (R17). Nothing of theirs was or will be written to
    /// the sender's lane at or above `bound`, and all below it is durable.
    Release {
        /// The broker epoch of the sender.
        by: BrokerEpoch,
        /// The bound.
        bound: Seq,
        /// Which, under which leader epoch, and by the plan of which version.
        partitions: Vec<(TopicPartition, LeaderEpoch, u64)>,
    },
    /// Plans that all the sender leads goes to others, as evenly as may be.
    Drain {
        /// The broker epoch of the sender.
        by: BrokerEpoch,
    },
    /// Assigns replicas, the preferred leader first, and moves ownership to the first that lives; an empty list takes
    /// back what was assigned.
    AssignReplicas {
        /// Which, and whom.
        assigned: Vec<(TopicPartition, Vec<BrokerId>)>,
    },
    /// Calls off moves that are under way, and gives back the replicas that were assigned before them.
    CancelReassignments {
        /// Which.
        partitions: Vec<TopicPartition>,
    },
    /// Sets (`Some`) or removes (`None`) client quotas.
    SetQuotas {
        /// Whose.
        entity: Entity,
        /// Key and value.
        set: Vec<(String, Option<Rate>)>,
        /// Only says whether it would be accepted.
        validate_only: bool,
    },
    /// Finalizes `tidemark.version`. A controller that knows of no levels refuses the whole command.
    FinalizeVersion {
        /// The level.
        level: i16,
        /// The newest level each broker epoch knows; the controller fills it in from heartbeats.
        #[serde(default)]
        known: Vec<(BrokerEpoch, i16)>,
    },
    /// Finalizes a feature; level 0 drops it.
    SetFeature {
        /// Its name.
        name: String,
        /// Its level.
        level: i16,
    },
}

/// A topic that was created, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// Its id.
    pub id: TopicId,
    /// Its partition count.
    pub partitions: i32,
    /// Its replication factor, as asked for.
    pub replication: i16,
}

/// Why a row of a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Kafka's code.
    #[serde(with = "code")]
    pub code: ErrorCode,
    /// A sentence for the user.
    pub why: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(code: ErrorCode, why: impl Into<String>) -> Refusal {
        Refusal { code, why: why.into() }
    }
}

/// What a command led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// It is done, or was before.
    Done,
    /// R11: the named lane is open, or its seal lies below its low mark: seal it (again) and come back.
    SealFirst {
        /// The lane.
        lane: LaneId,
        /// Its low mark.
        low: Seq,
    },
    /// A broker epoch was allocated.
    Registered {
        /// The node id.
        node: BrokerId,
        /// The epoch.
        epoch: BrokerEpoch,
    },
    /// One row per topic to be created, in order.
    Created(Vec<(String, Result<Created, Refusal>)>),
    /// One row per topic to be deleted, in order, with the name and id where they exist.
    Deleted(Vec<Result<(String, TopicId), Refusal>>),
    /// The row of a single request.
    Row(Result<(), Refusal>),
    /// One row per log start, in order: whether the sender leads the partition.
    Moved(Vec<bool>),
    /// One row per partition to be released, in order: whether it is another's now, or nobody's.
    Released(Vec<bool>),
    /// Producer ids `first .. first + count`.
    Producers {
        /// The first.
        first: ProducerId,
        /// How many.
        count: i64,
    },
}

/// What [`super::image::Image::decide`] answers: what to persist, and what to say once it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Records to append, in order; none where nothing changes.
    pub records: Vec<Record>,
    /// The reply.
    pub reply: Reply,
}

impl Outcome {
    /// Nothing to persist.
    pub fn reply(reply: Reply) -> Outcome {
        Outcome { records: Vec::new(), reply }
    }
}

/// [`ErrorCode`] as its number.
pub(super) mod code {
    use serde::{Deserialize, Deserializer, Serializer};
    use tidemark_proto::kafka::error::ErrorCode;

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub fn serialize<S: Serializer>(code: &ErrorCode, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_i16(code.code())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ErrorCode, D::Error> {
        Ok(ErrorCode::from_code(i16::deserialize(from)?))
    }
}
