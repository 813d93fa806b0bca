//! Tidemark's log on a bucket: objects, offsets and bytes.
//!
//! Knows no request, no group and no ACL.

pub mod bucket;
pub mod compact;
pub mod dump;
pub mod error;
pub mod format;
pub mod hot;
pub mod keys;
pub mod lane;
pub mod log;
pub mod lru;
pub mod parcel;
pub mod planted;
pub mod read;
pub mod run;
pub mod seam;
pub mod segment;
pub mod upkeep;
pub mod watch;
pub mod witness;
