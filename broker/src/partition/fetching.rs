//! From sources to bytes: memory as it is, parcels through the chunk cache or as file ranges, runs by look-up.
//!
//! What comes back from the bucket is verified before it is served (R27), whoever wrote it.

use std::sync::Arc;

use bytes::Bytes;
use tidemark_proto::id::TopicPartition;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::pieces::Pieces;
use tidemark_tiering::bucket::{Bucket, Kind, Patience, Span};
use tidemark_tiering::error::Error;
use tidemark_tiering::parcel::verify_batches;
use tidemark_tiering::seam::Seams;

use crate::archive::Archive;
use crate::cluster::Cluster;
use crate::partition::index::{Source, Stored};

/// Tries of one read before the client is told to ask again.
const READ_PATIENCE: Patience = Patience::Tries(5);

/// Reads for fetches and for the coordinators. Cheap to clone.
#[derive(Clone)]
pub struct Fetching {
    bucket: Bucket,
    archive: Arc<Archive>,
    cluster: Cluster,
    seams: Seams,
}

impl Fetching {
    /// Reads `bucket` and `archive`, by the runs that `cluster` names.
    pub fn new(bucket: Bucket, archive: Arc<Archive>, cluster: Cluster, seams: &Seams) -> Fetching {
        Fetching { bucket, archive, cluster, seams: seams.clone() }
    }

    /// The world it reads in.
    pub fn seams(&self) -> &Seams {
        &self.seams
    }

    /// Reads `sources` in order; `bytes_max` bounds what is taken out of runs.
    ///
    /// # Errors
    /// `KafkaStorageError` where the bucket's bytes are damaged or gone; a retriable code where it does not answer.
    pub async fn pieces(
        &self,
        tp: TopicPartition,
        sources: Vec<Source>,
        bytes_max: usize,
    ) -> Result<Pieces, ErrorCode> {
        let mut out = Pieces::new();
        for source in sources {
            match source {
                Source::Memory(batches) => {
                    let mut parts = Vec::with_capacity(batches.len() * 2);
                    batches.iter().for_each(|b| b.push_to(&mut parts));
                    parts.into_iter().for_each(|p: Bytes| out.push(p));
                }
                Source::Stored(stored) => out.extend(self.stored(&stored).await?),
                Source::Archived { from, until } => {
                    let image = self.cluster.image();
                    let found = self.archive.read(&image, tp, from, until, bytes_max).await;
                    out.extend(found.map_err(|e| code(&e))?);
                }
            }
        }
        Ok(out)
    }

    async fn stored(&self, stored: &Stored) -> Result<Pieces, ErrorCode> {
        let parcel = &stored.parcel;
        let span = Span::Range(stored.bytes.clone());
        let read =
            self.bucket.get(Kind::Parcel, &parcel.key, span, READ_PATIENCE).await.map_err(|e| code(&e))?;
        let bytes = read.ok_or_else(|| code(&Error::Gone { key: parcel.key.clone() }))?.bytes;
        verify_batches(&bytes, stored.entries()).map_err(|damage| {
            tracing::error!(key = %parcel.key, %damage, "a parcel is damaged: its batches are not served");
            ErrorCode::KafkaStorageError
        })?;
        Ok(Pieces::from(bytes))
    }
}

fn code(error: &Error) -> ErrorCode {
    tracing::warn!(%error, "a read failed");
    crate::api::error::code_of(error)
}
