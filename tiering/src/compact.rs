//! Compaction: of each key the newest record is kept, as Kafka's log cleaner does it.
//!
//! Pure. A [`Pass`] surveys what is dirty of one partition, in order, until its memory is full: the newest offset of
//! each key ([`Newest`]). Then it judges every batch below where the survey ended, from the front of the log on; what
//! lies beyond is left as it is. Offsets, sequences and the ends of a share never change. Knows no run and no topic.

mod newest;
mod pass;
mod share;

pub use newest::Newest;
pub use pass::{Aborted, Kept, Pass, Terms};
pub use share::Rewrite;

#[cfg(test)]
mod tests;
