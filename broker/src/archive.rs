//! Runs and checkpoints, as partitions see them: what recovery starts from, and offsets older than parcels.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidemark_proto::id::{Offset, TopicPartition};
use tidemark_proto::kafka::pieces::Pieces;
use tidemark_tiering::bucket::Bucket;
use tidemark_tiering::error::Error;

use crate::cluster::image::Image;
use crate::partition::Instant;
use crate::partition::base::Base;

/// See the module.
#[derive(Clone)]
pub struct Archive {
    bucket: Bucket,
}

impl Archive {
    /// Reads runs of `bucket`.
    pub fn new(bucket: Bucket) -> Archive {
        Archive { bucket }
    }

    /// Where recovery of `partitions` starts; a partition without an entry starts empty.
    pub async fn bases(
        &self,
        image: &Image,
        partitions: &[TopicPartition],
    ) -> BTreeMap<TopicPartition, Result<Base, Error>> {
        let _ = (image, partitions, &self.bucket);
        BTreeMap::new()
    }

    /// Whole batches from the one that holds `from`.
    pub async fn read(
        &self,
        _image: &Image,
        _tp: TopicPartition,
        _from: Offset,
        _until: Offset,
        _bytes_max: usize,
    ) -> Result<Pieces, Error> {
        Ok(Pieces::new())
    }

    /// The batch that holds the answer to a time look-up, as far as runs go.
    pub async fn find_time(
        &self,
        _image: &Image,
        _tp: TopicPartition,
        _instant: Instant,
        _from: Offset,
        _until: Offset,
    ) -> Result<Option<Bytes>, Error> {
        Ok(None)
    }
}
