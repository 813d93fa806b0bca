//! Consumer groups: the classic protocol and committed offsets. Owns every rule about them.
//!
//! `state` is one group, pure; `members`, `join`, `rebalance` its membership; `offsets` its positions;
//! `command` the words; `record` the log's form of it, `__consumer_offsets` as Kafka writes it. Knows no
//! task, no log and no wire message: `ledger` drives it, `api` translates.

pub mod command;
mod join;
pub mod members;
pub mod offsets;
mod rebalance;
pub mod record;
pub mod state;
pub mod subscription;

#[cfg(test)]
mod tests;

pub use crate::ledger::Groups;

/// The partition of `__consumer_offsets` whose leader coordinates this group: Java's `String.hashCode`, as
/// tools compute it too; `Integer.MIN_VALUE` counts as 0.
pub fn partition_of(group_id: &str, partitions: i32) -> i32 {
    let hash =
        group_id.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    hash.checked_abs().unwrap_or(0) % partitions.max(1)
}
