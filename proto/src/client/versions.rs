//! What a broker serves, and the newest version both sides speak.

use std::collections::BTreeMap;

use super::{Client, ClientError, decode};
use crate::kafka::api::ApiKey;
use crate::kafka::error::ErrorCode;
use crate::kafka::messages::{ApiVersionsRequest, ApiVersionsResponse};
use crate::kafka::wire::{Message, Request};

/// The version ranges of a broker, by API key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions(BTreeMap<i16, (i16, i16)>);

impl Versions {
    /// The newest version of `R` that both sides speak.
    pub fn newest<R: Request>(&self) -> Result<i16, ClientError> {
        self.newest_to::<R>(R::MAX)
    }

    /// The newest that both sides speak and that is not above `cap`.
    pub fn newest_to<R: Request>(&self, cap: i16) -> Result<i16, ClientError> {
        let none = ClientError::Version(R::KEY.name());
        let (min, max) = self.range(R::KEY).ok_or(none.clone())?;
        let version = max.min(R::MAX).min(cap);
        if version < min.max(R::MIN) { Err(none) } else { Ok(version) }
    }

    /// What the broker serves of an API.
    pub fn range(&self, key: ApiKey) -> Option<(i16, i16)> {
        self.0.get(&key.as_i16()).copied()
    }
}

impl From<&ApiVersionsResponse> for Versions {
    fn from(response: &ApiVersionsResponse) -> Self {
        let range = |row: &_| {
            let crate::kafka::messages::api_versions_response::ApiVersion {
                api_key,
                min_version,
                max_version,
                ..
            } = row;
            (*api_key, (*min_version, *max_version))
        };
        Versions(response.api_keys.iter().map(range).collect())
    }
}

impl Client {
    /// Asks the broker what it serves. A broker that does not know our newest version of the question
    /// says so in version 0 and names its own (KIP-511).
    pub async fn api_versions(&self) -> Result<Versions, ClientError> {
        let mut version = ApiVersionsRequest::MAX;
        loop {
            let request = ApiVersionsRequest {
                client_software_name: "tidemark".into(),
                client_software_version: env!("CARGO_PKG_VERSION").into(),
            };
            let correlation = self.next_correlation();
            let frame = self.encode(correlation, version, &request)?;
            let response = self.exchange(correlation, frame).await?;
            let unsupported = ErrorCode::UnsupportedVersion.code().to_be_bytes();
            if response.get(4..6) != Some(&unsupported[..]) {
                let response = decode::<ApiVersionsRequest>(response, version)?;
                return match ErrorCode::from_code(response.error_code) {
                    ErrorCode::None => Ok(Versions::from(&response)),
                    code => Err(ClientError::Protocol(format!("ApiVersions answers {code}").into())),
                };
            }
            let served = Versions::from(&decode::<ApiVersionsRequest>(response, 0)?);
            let lower = served.newest_to::<ApiVersionsRequest>(version - 1).unwrap_or(0);
            if version == 0 {
                return Err(ClientError::Version(ApiKey::ApiVersions.name()));
            }
            version = lower;
        }
    }
}
