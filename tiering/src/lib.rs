//! Tidemark's log on a bucket: objects, offsets and bytes.
//!
//! Knows no request, no group and no ACL.

pub mod seam;
