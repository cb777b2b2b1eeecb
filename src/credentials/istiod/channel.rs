//! The gRPC channel to istiod, and who it says that it calls.

use std::{sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::sign::CertifiedKey;
use tonic::transport::{Channel, Endpoint};

use super::{
    config::IstiodConfig,
    refused::{CertificateRefused, Heard},
};

/// A channel to istiod that connects at the first call and shows `own`, and whether
/// the CA refuses `own` on it.
pub(super) fn connect(
    config: &IstiodConfig,
    own: Option<Arc<CertifiedKey>>,
) -> (Channel, CertificateRefused) {
    let refused = CertificateRefused::default();
    let hears = refused.clone();
    let server = Arc::new(config.server.clone());
    let endpoint = Endpoint::from_static("https://istiod")
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10))
        .origin(config.server.server.origin());
    let channel = endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
        let (server, own) = (Arc::clone(&server), own.clone());
        let refused = hears.clone();
        async move {
            let stream = server.dial(own).await?;
            Ok::<_, std::io::Error>(TokioIo::new(Heard { stream, refused }))
        }
    }));
    (channel, refused)
}
