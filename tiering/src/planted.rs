//! Bugs planted on purpose, to prove that the simulation finds them.
//!
//! Without the feature `planted-bugs` [`is`] is constant and false. With it, a thread switches one bug on for the
//! simulation that runs on it.

/// A planted bug, named by what goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A produce is answered when it is admitted, not when it is durable (R5).
    AckBeforeDurable,
    /// A duplicate is answered before its original is durable (R6).
    DuplicateAckedEarly,
    /// Reads are served without a fresh session (R24).
    StaleReads,
    /// An object that stands where one's own should is taken for one's own (R4).
    AnyConflictIsMine,
    /// Recovery leaves out the last parcel below the bound (R13).
    RecoveryStopsShort,
    /// Recovery forgets the dedupe window (R16).
    ProducersForgotten,
    /// The high watermark follows what was appended, not what is durable (R5).
    WatermarkAhead,
    /// A takeover deletes the seal it made (R21).
    SealDeleted,
    /// Parcels are deleted before the cut that replaces them is committed (R20).
    LowMarkBeforeCommit,
    /// A controller answers before its record is durable (E3).
    MetadataAckedEarly,
    /// A takeover does not seal (R10).
    NoSeal,
    /// A partition is released while batches of it are in flight (R17).
    ReleaseWithoutDrain,
    /// A replica goes on telling the bounds that the leader told it first (R25).
    BoundsKept,
    /// Runs are deleted before the commit that un-names them (R18, R20).
    RunsDroppedBeforeCommit,
    /// Runs are deleted before the segment that holds their bytes is committed (R18, R20).
    RunsGoneBeforeSegment,
    /// Runs go with the newest state of a partition in them (R16).
    StatesNotCarried,
    /// Compaction drops the newest record of a key with the older ones.
    NewestDropped,
}

/// All of them.
pub const ALL: [Bug; 17] = [
    Bug::AckBeforeDurable,
    Bug::DuplicateAckedEarly,
    Bug::StaleReads,
    Bug::AnyConflictIsMine,
    Bug::RecoveryStopsShort,
    Bug::ProducersForgotten,
    Bug::WatermarkAhead,
    Bug::SealDeleted,
    Bug::LowMarkBeforeCommit,
    Bug::MetadataAckedEarly,
    Bug::NoSeal,
    Bug::ReleaseWithoutDrain,
    Bug::BoundsKept,
    Bug::RunsDroppedBeforeCommit,
    Bug::StatesNotCarried,
    Bug::RunsGoneBeforeSegment,
    Bug::NewestDropped,
];

#[cfg(feature = "planted-bugs")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Switches `bug` on for this thread, or all off.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.with(|planted| planted.set(bug));
}

/// Whether `bug` is switched on.
#[cfg(feature = "planted-bugs")]
pub fn is(bug: Bug) -> bool {
    PLANTED.with(|planted| planted.get() == Some(bug))
}

/// Whether `bug` is switched on.
#[cfg(not(feature = "planted-bugs"))]
pub const fn is(_bug: Bug) -> bool {
    false
}
