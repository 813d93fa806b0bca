//! Newtypes for every number and name that crosses a module border.
//!
//! A raw `i64` says nothing about what it counts; these do. Conversions to and from the raw
//! value are explicit (`Offset(5)`, `offset.0`).

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($raw:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub $raw);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$raw> for $name {
            fn from(raw: $raw) -> Self {
                Self(raw)
            }
        }
    };
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u128);

        impl $name {
            /// Big-endian bytes, as they stand in object headers.
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }

            /// The inverse of [`Self::to_bytes`].
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(u128::from_be_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:032x})"), self.0)
            }
        }
    };
}

number!(
    /// Position of a record in a partition's log; also used for exclusive ends.
    Offset(i64)
);
number!(
    /// Kafka's leader epoch: +1 with every change of a partition's owner (KIP-101, KIP-320).
    LeaderEpoch(i32)
);
number!(
    /// Index of a partition within its topic, from 0.
    PartitionIndex(i32)
);
number!(
    /// Kafka's `node.id`.
    BrokerId(i32)
);
number!(
    /// Producer id (KIP-98); -1 means none.
    ProducerId(i64)
);
number!(
    /// Epoch of a producer id; -1 means none.
    ProducerEpoch(i16)
);
number!(
    /// Wall-clock milliseconds since 1970-01-01T00:00:00Z. Never decides safety.
    Millis(i64)
);
number!(
    /// Broker epoch (R1): allocated by the metadata log, unique for ever, never resumed.
    BrokerEpoch(u64)
);
number!(
    /// Sequence number of an object in a fenced log; also used for exclusive bounds.
    Seq(u64)
);
number!(
    /// Generation of the metadata log: one ownership by one controller (E1).
    Generation(u64)
);
random_id!(
    /// One run of a process (glossary: life).
    Life
);
random_id!(
    /// Random value that makes one object's bytes, or one ownership, unlike any other.
    Nonce
);

impl Offset {
    /// The offset `records` later.
    pub fn plus(self, records: i64) -> Offset {
        Offset(self.0 + records)
    }
}

impl Seq {
    /// The next sequence number.
    pub fn next(self) -> Seq {
        Seq(self.0 + 1)
    }
}

/// A topic's id (KIP-516): random, stable, never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicId(pub Uuid);

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The cluster's id: fixed by the counted seal at (0, 0), in the header of every object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub Uuid);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One partition of one topic, by topic id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicPartition {
    /// The topic.
    pub topic: TopicId,
    /// The partition within it.
    pub partition: PartitionIndex,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// A lane's full name: the fenced write-ahead log `lane` of one broker epoch, which belongs to one life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LaneId {
    /// The broker epoch it was opened under.
    pub epoch: BrokerEpoch,
    /// Number within the broker epoch, from 0.
    pub lane: u32,
    /// The life that writes it; nobody else ever does.
    pub life: Life,
}

impl fmt::Display for LaneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.lane)
    }
}

/// A position in the metadata log, ordered by generation, then sequence (E6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Generation.
    pub generation: Generation,
    /// Sequence within it.
    pub seq: Seq,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}, {})", self.generation, self.seq)
    }
}
