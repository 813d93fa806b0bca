//! ApiVersions (key 18, v0-4): which APIs and feature levels there are.
//!
//! Made from the table: what is not served is not listed, nor is telemetry, which nobody receives. A version above ours is answered in version 0 with the list
//! and UNSUPPORTED_VERSION (KIP-511). Produce is listed from 0, which old librdkafka insists on (KAFKA-18659).
//! Feature levels are those of `features`; old clients are not shown one whose lowest level is 0.

use std::sync::Arc;

use tidemark_proto::kafka::api::ApiKey;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::api_versions_response::{
    ApiVersion, FinalizedFeatureKey, SupportedFeatureKey,
};
use tidemark_proto::kafka::messages::{ApiVersionsRequest, ApiVersionsResponse};
use tidemark_proto::kafka::text::Text;

use super::features::{self, FEATURES};
use super::{Ctx, ROWS};
use crate::cluster::Image;
use crate::node::Node;

/// Served but not listed, as in Kafka where nothing receives clients' metrics: so they do not push any.
const UNLISTED: [ApiKey; 2] = [ApiKey::GetTelemetrySubscriptions, ApiKey::PushTelemetry];

/// Answers.
pub async fn handle(node: Arc<Node>, ctx: Arc<Ctx>, request: ApiVersionsRequest) -> ApiVersionsResponse {
    if ctx.version >= 3 {
        let (name, version) = (request.client_software_name, request.client_software_version);
        if !is_software(&name) || !is_software(&version) {
            return ApiVersionsResponse {
                error_code: ErrorCode::InvalidRequest.code(),
                ..Default::default()
            };
        }
        *ctx.peer.software.lock() = Some((name.as_str().to_owned(), version.as_str().to_owned()));
    }
    respond(&node.cluster.image(), ctx.version)
}

fn respond(image: &Image, version: i16) -> ApiVersionsResponse {
    let supported = FEATURES.iter().map(|feature| SupportedFeatureKey {
        name: Text::from_static(feature.name),
        min_version: feature.min,
        max_version: feature.max,
        ..Default::default()
    });
    let finalized = FEATURES.iter().map(|feature| {
        let level = feature.finalized(image);
        FinalizedFeatureKey {
            name: Text::from_static(feature.name),
            max_version_level: level,
            min_version_level: level,
            ..Default::default()
        }
    });
    ApiVersionsResponse {
        api_keys: keys(),
        // Clients before v4 take a lowest level of 0 for an error.
        supported_features: supported.filter(|feature| version >= 4 || feature.min_version > 0).collect(),
        finalized_features_epoch: features::epoch(image),
        finalized_features: finalized.collect(),
        ..Default::default()
    }
}

/// The body, in version 0, for a request in a version we do not know.
pub(super) fn unsupported() -> ApiVersionsResponse {
    ApiVersionsResponse {
        error_code: ErrorCode::UnsupportedVersion.code(),
        api_keys: keys(),
        ..Default::default()
    }
}

fn keys() -> Vec<ApiVersion> {
    let row = |row: &super::Row| ApiVersion {
        api_key: row.key.as_i16(),
        min_version: row.min,
        max_version: row.max,
        ..Default::default()
    };
    ROWS.iter().filter(|row| !UNLISTED.contains(&row.key)).map(row).collect()
}

/// `[a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?`
fn is_software(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    edge(text.chars().next()) && edge(text.chars().last()) && text.chars().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_names_are_checked_as_kafka_does() {
        assert!(["a", "apache-kafka-java", "4.3.1", "librdkafka"].into_iter().all(is_software));
        assert!(["", "-a", "a.", "a b", "é", "a\n"].into_iter().all(|text| !is_software(text)));
    }

    #[test]
    fn features_whose_lowest_level_is_0_are_hidden_from_old_clients() {
        let image = Image::default();
        let names = |version| {
            respond(&image, version).supported_features.into_iter().map(|f| f.name).collect::<Vec<_>>()
        };
        assert_eq!(names(3), ["metadata.version", "tidemark.version"]);
        assert_eq!(names(4), ["metadata.version", "kraft.version", "tidemark.version"]);
        let finalized: Vec<_> = respond(&image, 4).finalized_features.into_iter().map(|f| f.name).collect();
        assert!(finalized.iter().all(|name| name != "group.version" && name != "transaction.version"));
    }
}
