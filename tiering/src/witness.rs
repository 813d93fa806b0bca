//! What befell a run: a counter for each rare thing that a rule of the commit protocol is there for.
//!
//! Evidence for the simulation: a run that met none of them proves nothing. Counted per thread, as one simulation
//! is one thread, and in builds with debug assertions only: elsewhere [`saw`] does nothing and costs nothing.
//! No decision may rest on it.

use std::cell::Cell;
use std::collections::BTreeMap;

macro_rules! sights {
    ($($(#[doc = $doc:literal])* $name:ident: $text:literal,)*) => {
        /// Something rare, named by its rule.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Sight {
            $($(#[doc = $doc])* $name,)*
        }

        impl Sight {
            /// All of them, in the order of the rules.
            pub const ALL: &[Sight] = &[$(Sight::$name,)*];

            /// Its rule and what happened.
            pub fn name(self) -> &'static str {
                match self {
                    $(Sight::$name => $text,)*
                }
            }
        }
    };
}

sights! {
    /// A broker epoch was allocated.
    Registered: "R1 epoch allocated",
    /// "Already exists" met one's own earlier send.
    Own412: "R4 412, own",
    /// "Already exists" met another's object.
    Other412: "R4 412, another's",
    /// "Already exists" where nothing was found: a 409, or a key collected meanwhile; sent again.
    Absent412: "R4 409 or 404 race, resent",
    /// A create without an answer to rely on was sent again and became one's own.
    Unknown: "R4 unknown, settled as own",
    /// A duplicate was answered from the window, its original durable.
    Duplicate: "R6 duplicate answered",
    /// A duplicate waited for its original.
    DuplicateParked: "R6 duplicate waits for its original",
    /// A sequence with a gap was refused.
    OutOfOrder: "R6 out of order refused",
    /// A lane's parcel was in doubt for T_stuck.
    Stuck: "R7 stuck lane given up",
    /// A seal was created at the first absent key.
    SealPlaced: "R10 seal placed",
    /// A sealer's key was taken by the writer's parcel first.
    SealLost: "R10 seal lost a race",
    /// A sealer met a seal that stood already.
    SealMet: "R10 seal found",
    /// A sealer walled in a writer it could not catch.
    Walled: "R10 writer walled in",
    /// The metadata ended a lane at its seal.
    LaneEnded: "R11 lane ended",
    /// A takeover whose seal the low mark had passed began again.
    SealBelowLow: "R11 seal below the low mark, again",
    /// A broker that died or fell silent was taken over.
    TakenOver: "R11 takeover",
    /// An owner sealed its own lane.
    OwnSeal: "R12 sealed by its owner",
    /// A partition got another chain entry.
    ChainEntry: "R13 chain entry",
    /// A partition was opened from parcels.
    Recovered: "R13 partition recovered from parcels",
    /// A batch beyond a release bound, or of another ownership, was passed over.
    VoidBatch: "R13 void batch passed over",
    /// A writer's PUT met a seal.
    ZombiePut: "R14 zombie's put refused",
    /// A lane's owner stopped serving.
    SelfFenced: "R14 owner fenced itself",
    /// A process found its node id with another life and ended.
    Replaced: "R14 older life ended",
    /// A parcel below a recorded bound was gone: metadata was read again.
    Collected: "R15 404 below a bound, read again",
    /// A partition was handed to its successor.
    Released: "R17 partition released",
    /// A release came too late for its plan: the partition stayed.
    ReleaseRefused: "R17 release refused, kept",
    /// A move took too long and was called off.
    CalledOff: "R17 move called off",
    /// A cut by a broker that may not was refused.
    ZombieCut: "R18 zombie's cut refused",
    /// A cut was committed.
    Cut: "R18 cut committed",
    /// Runs were un-named: others stand for them, or nothing in them was needed.
    RunsReplaced: "R18 runs replaced",
    /// Runs became one.
    Merged: "R18 runs merged",
    /// A replacement met runs that another had replaced.
    ReplaceLost: "R18 replacement lost a race",
    /// States that would have gone with their runs were written down once more.
    Carried: "R16 states carried",
    /// Shares of partitions outlived retention: log starts rose.
    Expired: "log start raised by retention",
    /// Runs were rewritten without records that newer ones of their keys supersede.
    Compacted: "compaction committed",
    /// A reader's run was gone: it looked again by newer metadata.
    RunGone: "run gone under a reader",
    /// A segment's three objects were written.
    SegmentWritten: "R18 segment written",
    /// A segment was named.
    SegmentCommitted: "R18 segment committed",
    /// A reader was served from a segment.
    SegmentRead: "R27 segment read",
    /// A lane's low mark rose.
    LowRaised: "R19 low mark raised",
    /// An object that metadata names no more was deleted.
    Deleted: "R20 objects deleted",
    /// An answer came after T_ack, and the lane was proven unsealed.
    SlowProven: "R23 slow answer, proven",
    /// An answer came after T_ack, and nothing proved the lane unsealed.
    SlowRefused: "R23 slow answer, not proven",
    /// A controller's commit came after T_ack.
    SlowCommit: "R23 slow metadata commit",
    /// A read was refused for want of a fresh session.
    Stale: "R24 read refused, session not fresh",
    /// A client was sent to a replica near it.
    SentNear: "R25 client sent to a replica",
    /// A replica served what another broker leads.
    ReadNear: "R25 read served by a replica",
    /// A broker's session lapsed at the controller.
    Lapsed: "R24 session expired",
    /// A reader met a snapshot and restarted from it.
    Restarted: "E5 reader restarted from a snapshot",
    /// A seal of the metadata was void: a snapshot stood above it.
    VoidSeal: "E6 void seal passed over",
    /// A candidate's own seal counted.
    Elected: "E7 election won",
    /// A candidate's seal met another object, or another's counted.
    NotElected: "E7 election lost",
    /// A controller's PUT met another object.
    Deposed: "E4 controller deposed",
    /// A snapshot of the metadata became durable.
    Snapshot: "E9 snapshot written",
    /// Metadata below a snapshot was deleted.
    MetaDeleted: "E10 metadata deleted",
    /// A heartbeat that wanted a grant got none for want of a proof.
    NoProof: "E15 grant withheld",
    /// A proof of ownership by GET.
    ProofByGet: "E15 proof by GET",
}

/// How many sights there are.
const COUNT: usize = Sight::ALL.len();

thread_local! {
    static SEEN: [Cell<u64>; COUNT] = const { [const { Cell::new(0) }; COUNT] };
}

/// Counts `sight`.
#[inline]
pub fn saw(sight: Sight) {
    saw_many(sight, 1);
}

/// Counts `sight` so many times.
#[inline]
pub fn saw_many(sight: Sight, times: usize) {
    if cfg!(debug_assertions) {
        // The thread may be ending.
        let _ = SEEN.try_with(|seen| {
            let count = &seen[sight as usize];
            count.set(count.get() + times as u64);
        });
    }
}

/// What this thread saw since it was last asked, the sights it did not see included.
pub fn take() -> BTreeMap<&'static str, u64> {
    let take = |sight: &Sight| (sight.name(), SEEN.with(|seen| seen[*sight as usize].replace(0)));
    Sight::ALL.iter().map(take).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_told_once_and_every_sight_has_a_name_of_its_own() {
        take();
        saw(Sight::SealPlaced);
        saw_many(Sight::SealPlaced, 2);
        let told = take();
        assert_eq!((told.len(), told[Sight::SealPlaced.name()], told[Sight::Stuck.name()]), (COUNT, 3, 0));
        assert!(take().values().all(|count| *count == 0));
    }
}
