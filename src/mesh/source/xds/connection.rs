//! One connection to the control plane and one stream on it: a name that is resolved anew, roots
//! and a token that are read anew.

use std::{sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status, Streaming,
    transport::{Channel, Endpoint},
};

use super::config::XdsConfig;
use crate::rpc::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
    aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};

/// The longest response: 100,000 workloads have about 30 MiB.
const MAX_RESPONSE: usize = 200 << 20;
/// How much of a response may be on its way.
const WINDOW: u32 = 4 << 20;
/// How many requests may wait to be sent.
const QUEUE: usize = 64;

/// Both directions of a stream.
pub(super) struct Stream {
    pub(super) requests: mpsc::Sender<DeltaDiscoveryRequest>,
    pub(super) responses: Streaming<DeltaDiscoveryResponse>,
}

/// Connects.
///
/// # Errors
/// The name, the roots, the connection or the handshake.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub(super) async fn connect(config: &XdsConfig) -> Result<Channel, Status> {
    let endpoint = Endpoint::from_static("https://istiod")
        .origin(config.server.server.origin())
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(2 * WINDOW);
    let config = Arc::new(config.clone());
    let connector = tower::service_fn(move |_| {
        let config = Arc::clone(&config);
        async move { config.server.dial(None).await.map(TokioIo::new) }
    });
    let channel = endpoint.connect_with_connector(connector).await;
    channel.map_err(|error| Status::from_error(error.into()))
}

/// Opens the stream, whose first requests are `opening`.
///
/// # Errors
/// The token, or what the control plane says.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub(super) async fn open(
    config: &XdsConfig,
    channel: Channel,
    opening: Vec<DeltaDiscoveryRequest>,
) -> Result<Stream, Status> {
    let (requests, queue) = mpsc::channel(QUEUE.max(opening.len()));
    for request in opening {
        let sent = requests.try_send(request);
        sent.map_err(|_| Status::internal("the first requests do not fit"))?;
    }
    let mut request = Request::new(ReceiverStream::new(queue));
    let headers = request.metadata_mut();
    let bearer = config.server.bearer().map_err(Status::unauthenticated)?;
    bearer.map(|bearer| headers.insert("authorization", bearer));
    config.server.add_headers(headers).map_err(Status::invalid_argument)?;
    let mut client =
        AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE);
    let responses = client.delta_aggregated_resources(request).await?.into_inner();
    Ok(Stream { requests, responses })
}
