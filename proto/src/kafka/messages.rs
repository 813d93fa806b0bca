//! Every request and response, generated from the tables in `proto/schema`.
//!
//! A message's nested structs stand in the module named after it; the message itself is re-exported
//! here. Only what a version has is read and written, see [`wire::Message`](super::wire::Message).
#![allow(clippy::all, reason = "generated")]

use super::api::ApiKey;
use super::wire;

/// What the generated modules have in scope.
pub(super) mod prelude {
    pub use bytes::Bytes;
    pub use uuid::Uuid;

    pub use crate::kafka::pieces::Records;
    pub use crate::kafka::text::Text;
    pub use crate::kafka::wire::{self, DecodeError, Decoder, EncodeError, Encoder, Tags};
}

include!(concat!(env!("OUT_DIR"), "/messages.rs"));
