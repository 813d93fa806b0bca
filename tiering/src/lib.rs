//! Tidemark's log on a bucket: objects, offsets and bytes.
//!
//! Knows no request, no group and no ACL.

pub mod bucket;
pub mod error;
pub mod keys;
pub mod seam;
