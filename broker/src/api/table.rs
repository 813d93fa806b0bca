//! The rows: what this broker serves.

use tidemark_proto::kafka::api::ApiKey;
use tidemark_proto::kafka::frame::encode_response;
use tidemark_proto::kafka::messages::ApiVersionsRequest;

use super::{Answer, Ctx, Need, Row, api_versions, free};
use std::time::Duration;

/// Every API served, in rising order of keys.
pub const ROWS: &[Row] = &[Row {
    key: ApiKey::ApiVersions,
    min: 0,
    max: 4,
    needs: &[Need::Nothing],
    start: free!(api_versions::handle, ApiVersionsRequest),
}];

/// The row of an API's number.
pub fn find(key: i16) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.key.as_i16() == key)
}

/// The answer to an ApiVersions version we do not know: the lowest version's body, which every client reads, with the
/// versions we have (KIP-511).
pub(super) fn api_versions_unsupported(ctx: &Ctx) -> Answer {
    let response = api_versions::unsupported();
    match encode_response(ctx.correlation, 0, &response, 0) {
        Ok(frame) => Answer::Reply { frame, mute: Duration::ZERO },
        Err(error) => Answer::Close(format!("an answer could not be encoded: {error}")),
    }
}
