//! What keeps the bucket small: each job a pure plan and a small driver.

pub mod cut;
pub mod merge;
pub mod reclaim;
