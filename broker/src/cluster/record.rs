//! The records of the metadata log, as typed values.
//!
//! Each says what happened, not what to do; [`super::image::Image::apply`] gives it its meaning and
//! `wire` its bytes. Deletions are records too.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidemark_proto::id::{
    BrokerEpoch, BrokerId, Generation, LaneId, Life, Offset, PartitionIndex, Position, ProducerId, Seq,
    TopicId, TopicPartition,
};
use tidemark_tiering::segment;
use uuid::Uuid;

use super::image::{Broker, CheckpointRow, RunRow};
use super::quota::{Entity, Rate};

/// Where a partition is led from: the new chain entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    /// The leader.
    pub node: BrokerId,
    /// Its lane.
    pub lane: LaneId,
    /// The lane's low mark at the commit.
    pub from: Seq,
}

/// Where a chain entry ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closed {
    /// The lane.
    pub lane: LaneId,
    /// Its seal, or a release bound.
    pub to: Seq,
}

/// What a config is set on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// One topic.
    Topic(TopicId),
    /// One broker, or with `None` all of them.
    Broker(Option<BrokerId>),
    /// One group, whether or not anybody has joined it.
    Group(String),
    /// One subscription to the metrics of clients (KIP-714).
    ClientMetrics(String),
}

/// States that would go with the runs that hold them, written down once more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// The checkpoint; it covers the runs named up to the version it says.
    pub row: CheckpointRow,
    /// Whose states it has: it is their home unless they have a newer one.
    pub of: Vec<(TopicId, Vec<PartitionIndex>)>,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The first record of every generation (E8).
    ControllerAnnounced {
        /// The generation owned.
        generation: Generation,
        /// The owner's life.
        life: Life,
        /// The owner's node id, where it has one.
        node: Option<BrokerId>,
        /// Where peers reach it.
        address: String,
    },
    /// A broker epoch was allocated (R1) and its lanes opened.
    BrokerRegistered {
        /// The row.
        broker: Broker,
        /// How many lanes were opened.
        lanes: u32,
    },
    /// A broker epoch ended: taken over, or left.
    BrokerFenced {
        /// Its node.
        node: BrokerId,
        /// The epoch that ended.
        epoch: BrokerEpoch,
    },
    /// A dead broker's row was dropped.
    BrokerRemoved {
        /// Its node.
        node: BrokerId,
    },
    /// A lane was sealed: nothing at or above `at` counts (R11, R13).
    LaneSealed {
        /// The lane.
        lane: LaneId,
        /// Its end.
        at: Seq,
        /// Who cuts what it still holds.
        recoverer: Option<BrokerId>,
    },
    /// A dead lane got another recoverer.
    LaneRecoverer {
        /// The lane.
        lane: LaneId,
        /// Its recoverer.
        recoverer: BrokerId,
    },
    /// A dead lane of which nothing is left but its seal was dropped.
    LaneForgotten {
        /// The lane.
        lane: LaneId,
    },
    /// The metadata log's own data below this position was deleted (E10).
    LogSwept {
        /// The position.
        below: Position,
    },
    /// A topic was created, with leader epoch 0 everywhere.
    TopicCreated {
        /// Its id.
        id: TopicId,
        /// Its name.
        name: String,
        /// The replication factor asked for.
        replication: i16,
        /// Its configs.
        configs: BTreeMap<String, String>,
        /// One leader per partition.
        placed: Vec<Option<Placed>>,
    },
    /// A topic got more partitions.
    PartitionsAdded {
        /// The topic.
        topic: TopicId,
        /// One leader per new partition.
        placed: Vec<Option<Placed>>,
    },
    /// Partitions changed hands; the leader epoch of each rose by one if `to` names a leader.
    PartitionsMoved {
        /// What ended in each one's chain.
        from: Option<Closed>,
        /// What was opened.
        to: Option<Placed>,
        /// Which.
        partitions: Vec<(TopicId, Vec<PartitionIndex>)>,
    },
    /// Partitions are to go to another living broker, or with `None` stay where they are after all.
    MovesPlanned {
        /// To whom.
        to: Option<BrokerId>,
        /// Which.
        partitions: Vec<(TopicId, Vec<PartitionIndex>)>,
    },
    /// The successor of partitions has read what there is of them.
    SuccessorReady {
        /// The successor.
        node: BrokerId,
        /// How far its lane is committed.
        from: Seq,
        /// Which.
        partitions: Vec<(TopicId, Vec<PartitionIndex>)>,
    },
    /// Partitions got replicas by somebody's word; empty: no more.
    ReplicasAssigned {
        /// The replicas, the preferred leader first.
        replicas: Vec<BrokerId>,
        /// Which.
        partitions: Vec<(TopicId, Vec<PartitionIndex>)>,
    },
    /// A broker gives its partitions away, and gets none.
    BrokerDraining {
        /// Its node.
        node: BrokerId,
        /// Its epoch.
        epoch: BrokerEpoch,
    },
    /// Segments of a partition are in the bucket, whole (R18).
    SegmentsCommitted {
        /// Whose.
        of: TopicPartition,
        /// Which, by offset.
        rows: Vec<segment::Row>,
    },
    /// The deletion of segments has begun: nobody reads them any more.
    SegmentsRetired {
        /// Whose.
        of: TopicPartition,
        /// Which.
        ids: Vec<Uuid>,
    },
    /// Nothing is left of segments.
    SegmentsForgotten {
        /// Whose.
        of: TopicPartition,
        /// Which.
        ids: Vec<Uuid>,
    },
    /// A topic was deleted; its objects remain to be reclaimed.
    TopicDeleted {
        /// Its id.
        id: TopicId,
    },
    /// The last object of a deleted topic is gone.
    TopicForgotten {
        /// Its id.
        id: TopicId,
    },
    /// A lane's parcels below `low` are in runs (R18, R19).
    CutCommitted {
        /// The lane.
        lane: LaneId,
        /// Its new low mark.
        low: Seq,
        /// The objects written.
        runs: Vec<RunRow>,
        /// The state of the lane's partitions at `low`.
        checkpoint: Option<CheckpointRow>,
        /// The checkpoint describes partitions assigned up to this version of the image.
        version: u64,
    },
    /// Runs are named no more: others stand for them, or nothing in them is needed (R18, R20).
    RunsReplaced {
        /// Named no more.
        drop: Vec<Uuid>,
        /// Named now.
        add: Vec<RunRow>,
        /// Log starts that rise with it.
        starts: Vec<(TopicPartition, Offset)>,
        /// What takeovers would have read of the dropped ones.
        carried: Option<Carried>,
        /// Where compaction has come to.
        cleaned: Vec<(TopicPartition, Offset)>,
    },
    /// Producer ids below `next` are handed out.
    ProducerIdsAllocated {
        /// The first free one.
        next: ProducerId,
    },
    /// Configs were set (`Some`) or reset (`None`).
    ConfigSet {
        /// On what.
        scope: Scope,
        /// Key and value.
        set: Vec<(String, Option<String>)>,
    },
    /// Log starts rose: what lies below is deleted.
    LogStartsMoved {
        /// Which, and to where.
        starts: Vec<(TopicPartition, Offset)>,
    },
    /// Client quotas were set (`Some`) or removed (`None`).
    QuotasSet {
        /// Whose.
        entity: Entity,
        /// Key and value.
        set: Vec<(String, Option<Rate>)>,
    },
    /// A feature was finalized; level 0 drops it.
    FeatureLevel {
        /// Its name.
        name: String,
        /// Its level.
        level: i16,
    },
}
