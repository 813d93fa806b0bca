//! One connection and the versions its broker serves.

use std::time::Duration;

use tidemark_proto::client::{Client, Options, Versions};
use tidemark_proto::kafka::api::ApiKey;
use tidemark_proto::kafka::wire::Request;
use tidemark_tiering::seam::Tasks;

use super::Trouble;

const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// A broker that holds a request longer than this is taken for gone.
const CALL_PATIENCE: Duration = Duration::from_secs(60);

/// What a connection is for: brokers answer one connection in order, so that what may wait has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Questions and changes.
    Ask,
    /// Fetches, which may wait for records.
    Read,
    /// A group's member: joins wait for others.
    Group,
}

/// A connection.
#[derive(Clone, Debug)]
pub struct Link {
    client: Client,
    versions: Versions,
    /// Where it leads.
    pub address: String,
}

impl Link {
    /// Connects and asks what the broker serves.
    pub async fn open(address: &str, tasks: &Tasks) -> Result<Link, Trouble> {
        let opened = tokio::time::timeout(CONNECT_PATIENCE, connect(address, tasks)).await;
        opened.unwrap_or_else(|_| {
            Err(Trouble::Unreachable(format!("{address} did not answer within {CONNECT_PATIENCE:?}")))
        })
    }

    /// Calls in the newest version that both sides speak, up to `cap`.
    pub async fn call<R: Request>(&self, cap: i16, request: &R) -> Result<R::Response, Trouble> {
        let trouble = |error| Trouble::call(&self.address, error);
        let version = self.versions.newest_to::<R>(cap).map_err(trouble)?;
        match tokio::time::timeout(CALL_PATIENCE, self.client.call(version, request)).await {
            Ok(answer) => answer.map_err(trouble),
            Err(_) => Err(Trouble::Lost(format!(
                "{} did not answer {} within {CALL_PATIENCE:?}",
                self.address,
                R::KEY.name()
            ))),
        }
    }

    /// Sends what is never answered.
    pub async fn send<R: Request>(&self, cap: i16, request: &R) -> Result<(), Trouble> {
        let trouble = |error| Trouble::call(&self.address, error);
        let version = self.versions.newest_to::<R>(cap).map_err(trouble)?;
        self.client.send(version, request).await.map_err(trouble)
    }

    /// What the broker serves of an API.
    pub fn range(&self, key: ApiKey) -> Option<(i16, i16)> {
        self.versions.range(key)
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }
}

async fn connect(address: &str, tasks: &Tasks) -> Result<Link, Trouble> {
    let options = Options { client_id: "tidemark-cli".into(), ..Options::default() };
    let (client, driver) = Client::connect(address, options)
        .await
        .map_err(|error| Trouble::Unreachable(format!("{address}: {error}")))?;
    tasks.spawn(driver);
    let versions = client.api_versions().await.map_err(|error| {
        Trouble::Unreachable(format!("{address} does not speak Kafka's protocol in plain text ({error})"))
    })?;
    Ok(Link { client, versions, address: address.to_owned() })
}
