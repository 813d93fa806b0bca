//! The gRPC door over HTTP/2: produce, health and reflection, so that `grpcurl` needs no files.

use std::future::Future;
use std::io;
use std::time::Duration;

use futures::Stream;
use tidemark_proto::rpc::DESCRIPTORS;
use tidemark_proto::rpc::gateway::v1::gateway_server::{Gateway as Service, GatewayServer};
use tidemark_proto::rpc::gateway::v1::{ProduceRequest, ProduceResponse};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};
use tower::limit::GlobalConcurrencyLimitLayer;

use crate::incoming::bounded;
use crate::produce::Gateway;

/// The service's full name, for health checks.
pub const SERVICE: &str = "tidemark.gateway.v1.Gateway";
/// Largest request message taken.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Calls at once, all connections together; more wait unread, so that messages take a bounded memory.
const CALLS_MAX: usize = 128;
/// Calls at once on one connection.
const CALLS_OF_CONNECTION_MAX: u32 = 64;
/// Headers of one call.
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// A call without a deadline gets this one.
const CALL_MAX: Duration = Duration::from_secs(60);

#[tonic::async_trait]
impl Service for Gateway {
    async fn produce(&self, request: Request<ProduceRequest>) -> Result<Response<ProduceResponse>, Status> {
        Gateway::produce(self, request.into_inner()).await.map(Response::new)
    }
}

/// Why the door could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The descriptors compiled into the binary do not make a reflection service.
    #[error("server reflection cannot start: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The transport failed.
    #[error("the gRPC listener failed: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Serves every connection of `incoming` until `shutdown`; calls that run are answered first. Health says
/// NOT_SERVING from then on.
pub async fn serve<IO>(
    incoming: impl Stream<Item = io::Result<IO>> + Send,
    gateway: Gateway,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError>
where
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<GatewayServer<Gateway>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name(SERVICE)
        .with_service_name("grpc.health.v1.Health")
        .build_v1()?;
    let ends = async move {
        shutdown.await;
        reporter.set_not_serving::<GatewayServer<Gateway>>().await;
        reporter.set_service_status("", tonic_health::ServingStatus::NotServing).await;
    };
    Server::builder()
        .layer(GlobalConcurrencyLimitLayer::new(CALLS_MAX))
        .timeout(CALL_MAX)
        .concurrency_limit_per_connection(CALLS_OF_CONNECTION_MAX as usize)
        .max_concurrent_streams(CALLS_OF_CONNECTION_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_keepalive_interval(Some(Duration::from_secs(60)))
        .add_service(health)
        .add_service(reflection)
        .add_service(GatewayServer::new(gateway).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .serve_with_incoming_shutdown(bounded(incoming), ends)
        .await?;
    Ok(())
}
