//! The gRPC channel to istiod, and who it says that it calls.

use std::{sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::sign::CertifiedKey;
use tonic::transport::{Channel, Endpoint};

use super::{
    config::IstiodConfig,
    refused::{Heard, Refused},
};
use crate::credentials::dial::{self, Roots};

/// A channel to istiod that connects at the first call and shows `own`, and whether
/// the CA refuses `own` on it.
pub(super) fn connect(config: &IstiodConfig, own: Option<Arc<CertifiedKey>>) -> (Channel, Refused) {
    let refused = Refused::default();
    let hears = refused.clone();
    let (server, roots) = (config.server.clone(), Roots::File(config.roots.clone()));
    let endpoint = Endpoint::from_static("https://istiod")
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10))
        .origin(config.server.origin());
    let channel = endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
        let (server, roots, own) = (server.clone(), roots.clone(), own.clone());
        let refused = hears.clone();
        async move {
            let stream = dial::dial(&server, &roots, b"h2", own).await?;
            Ok::<_, std::io::Error>(TokioIo::new(Heard { stream, refused }))
        }
    }));
    (channel, refused)
}
