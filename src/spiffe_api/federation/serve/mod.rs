//! Our own bundle for other trust domains, and our JWT keys for OpenID Connect: two read-only
//! HTTP/1.1 servers. Nobody is asked who they are (SPIFFE Federation §5.2); everything that is
//! served is public.

mod config;
mod oidc;
mod proof;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use ::http::{Request, StatusCode};
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

pub use config::{BundleEndpoint, KeyPairFiles, Oidc, Proof, ServeConfig};
pub use oidc::{InvalidIssuer, Issuer};
use proof::{EndpointCredentials, WITHIN};

use super::error::FetchError;
use crate::{
    credentials::Svids,
    http::{Answer, Deadlines, Handler, Limits, Methods, Readers, Server, json, text},
    identity::TrustDomain,
    lifecycle::{Listeners, Tasks},
    net::cannot_listen,
};

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address.
    #[error("{what}: {}", cannot_listen(listen, "`federation.serve`", source))]
    Listen {
        /// Which server.
        what: &'static str,
        /// Where.
        listen: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The certificate or its key.
    #[error("{what}: {source}")]
    Certificate {
        /// Which server.
        what: &'static str,
        /// Which file, and why.
        source: FetchError,
    },
}

/// A connection lasts no longer than an SVID is waited for.
const LIMITS: Limits =
    Limits { deadlines: Deadlines { lifetime: WITHIN, ..Deadlines::SHORT }, ..Limits::PUBLIC };

/// What there is to be read.
struct Site {
    shown: EndpointCredentials,
    svids: Arc<Svids>,
    own: TrustDomain,
    pages: BundlePages,
}

enum BundlePages {
    Bundle { path: String },
    Oidc { issuer: Issuer },
}

/// Binds what the configuration names and serves it: `accepting` accepts, what is accepted goes on
/// in `tasks`.
///
/// # Errors
/// An address that cannot be bound, a certificate that cannot be used.
pub async fn serve(
    config: &ServeConfig,
    own: &TrustDomain,
    svids: &Arc<Svids>,
    listeners: &Arc<Listeners>,
    [accepting, tasks]: [&Tasks; 2],
) -> Result<(), ServeError> {
    let site =
        |shown, pages| Arc::new(Site { shown, svids: Arc::clone(svids), own: own.clone(), pages });
    if let Some(endpoint) = &config.bundle {
        let what = "the bundle endpoint";
        let shown = match &endpoint.proof {
            Proof::Web(files) => EndpointCredentials::files(files),
            Proof::Spiffe(id) => Ok(EndpointCredentials::svid(svids, id)),
        };
        let shown = shown.map_err(|source| ServeError::Certificate { what, source })?;
        let site = site(shown, BundlePages::Bundle { path: endpoint.path.clone() });
        let listener = listen(what, endpoint.listen, listeners).await?;
        start(what, listener, site, [accepting, tasks]);
    }
    if let Some(oidc) = &config.oidc {
        let what = "the OIDC endpoint";
        let shown = oidc
            .certificate
            .as_ref()
            .map_or(Ok(EndpointCredentials::Nothing), EndpointCredentials::files);
        let shown = shown.map_err(|source| ServeError::Certificate { what, source })?;
        let site = site(shown, BundlePages::Oidc { issuer: oidc.issuer.clone() });
        let listener = listen(what, oidc.listen, listeners).await?;
        start(what, listener, site, [accepting, tasks]);
    }
    Ok(())
}

/// A listener, which accepts once its process does.
type PausedListener = (Arc<TcpListener>, Arc<Listeners>);

async fn listen(
    what: &'static str,
    listen: SocketAddr,
    listeners: &Arc<Listeners>,
) -> Result<PausedListener, ServeError> {
    let listener = listeners.tcp(listen, TcpListener::bind(listen)).await;
    let listener = listener.map_err(|source| ServeError::Listen { what, listen, source })?;
    tracing::info!(target: "federation", %listen, "serving {what}");
    Ok((listener, Arc::clone(listeners)))
}

fn start(
    what: &'static str,
    (listener, listeners): PausedListener,
    site: Arc<Site>,
    [accepting, tasks]: [&Tasks; 2],
) {
    let (limits, readers) = (LIMITS, Readers::Anyone);
    let server = Server { name: what, limits, readers, names: Vec::new() };
    let conns = tasks.child();
    accepting.spawn(async move {
        listeners.accepting().await;
        server.run(listener, site, conns).await;
    });
}

impl Handler for Site {
    async fn tls(&self) -> Result<Option<TlsAcceptor>, String> {
        self.shown.acceptor(&self.svids).await
    }

    fn methods(&self, _path: &str) -> Methods {
        Methods::Read
    }

    async fn handle(&self, request: &Request<Bytes>) -> Answer {
        match self.document(request.uri().path()) {
            None => text(StatusCode::NOT_FOUND, "no such document\n"),
            Some(None) => text(StatusCode::SERVICE_UNAVAILABLE, "there is no bundle yet\n"),
            Some(Some(document)) => json(StatusCode::OK, &document),
        }
    }
}

impl Site {
    /// `None` for a path that means nothing, `Some(None)` while there is nothing to give.
    fn document(&self, path: &str) -> Option<Option<serde_json::Value>> {
        let bundles = self.svids.bundles();
        let bundle = bundles.get(&self.own);
        match &self.pages {
            BundlePages::Bundle { path: own } if path == own => Some(bundle.map(|bundle| {
                let mut bundle = bundle.clone();
                bundle.refresh_hint.get_or_insert(HINT);
                bundle.to_document()
            })),
            BundlePages::Bundle { .. } => None,
            BundlePages::Oidc { issuer } => issuer.document(path, bundle),
        }
    }
}

/// How often others are to look for a new bundle when the source does not say.
const HINT: Duration = Duration::from_secs(300);
