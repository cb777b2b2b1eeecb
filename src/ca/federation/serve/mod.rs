//! Our own bundle for other trust domains, and our JWT keys for OpenID Connect: two read-only
//! HTTP/1.1 servers. Nobody is asked who they are (SPIFFE Federation §5.2); everything that is
//! served is public.

mod config;
mod oidc;
mod proof;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ::http::{Request, StatusCode};
use hyper::body::Incoming;
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};

pub use config::{BundleEndpoint, KeyPairFiles, Oidc, Proof, ServeConfig};
pub use oidc::{InvalidIssuer, Issuer};
use proof::{Shown, WITHIN};

use super::error::FetchError;
use crate::{
    ca::Svids,
    identity::TrustDomain,
    lifecycle::{Listeners, Place, Places, Tasks, source},
    rpc::http::{self, Answer},
    sys::descriptors::of_traffic,
};

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address.
    #[error("{what} cannot listen on {listen}: {source}")]
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

/// How long the TLS handshake of a connection may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How many are served at a time, a quarter of them from one address; beyond it the oldest is
/// closed.
const MOST_AT_ONCE: usize = 256;

/// What there is to be read.
struct Site {
    svids: Arc<Svids>,
    own: TrustDomain,
    pages: Pages,
}

enum Pages {
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
    let site = |pages| Arc::new(Site { svids: Arc::clone(svids), own: own.clone(), pages });
    if let Some(endpoint) = &config.bundle {
        let what = "the bundle endpoint";
        let shown = match &endpoint.proof {
            Proof::Web(files) => Shown::files(files),
            Proof::Spiffe(id) => Ok(Shown::svid(svids, id)),
        };
        let shown = shown.map_err(|source| ServeError::Certificate { what, source })?;
        let site = site(Pages::Bundle { path: endpoint.path.clone() });
        let listener = listen(what, endpoint.listen, listeners).await?;
        start(listener, shown, site, [accepting, tasks]);
    }
    if let Some(oidc) = &config.oidc {
        let what = "the OIDC endpoint";
        let shown = oidc.certificate.as_ref().map_or(Ok(Shown::Nothing), Shown::files);
        let shown = shown.map_err(|source| ServeError::Certificate { what, source })?;
        let site = site(Pages::Oidc { issuer: oidc.issuer.clone() });
        let listener = listen(what, oidc.listen, listeners).await?;
        start(listener, shown, site, [accepting, tasks]);
    }
    Ok(())
}

/// A listener, which accepts once its process does.
type Door = (Arc<TcpListener>, Arc<Listeners>);

async fn listen(
    what: &'static str,
    listen: SocketAddr,
    listeners: &Arc<Listeners>,
) -> Result<Door, ServeError> {
    let listener = listeners.tcp(listen, TcpListener::bind(listen)).await;
    let listener = listener.map_err(|source| ServeError::Listen { what, listen, source })?;
    tracing::info!(target: "federation", %listen, "{what} is served");
    Ok((listener, Arc::clone(listeners)))
}

fn start(
    (listener, listeners): Door,
    shown: Shown,
    site: Arc<Site>,
    [accepting, tasks]: [&Tasks; 2],
) {
    let conns = tasks.child();
    accepting.spawn(async move {
        listeners.accepting().await;
        accept(&listener, Arc::new(shown), site, conns).await;
    });
}

async fn accept(listener: &TcpListener, shown: Arc<Shown>, site: Arc<Site>, conns: Tasks) {
    let places = Places::new(MOST_AT_ONCE, MOST_AT_ONCE / 4);
    loop {
        let accepted = listener.accept().await;
        let Ok((tcp, peer)) = accepted.and_then(|(tcp, peer)| Ok((of_traffic(tcp)?, peer))) else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Some(place) = places.take(source(peer.ip())) else { continue };
        let (shown, site) = (Arc::clone(&shown), Arc::clone(&site));
        conns.spawn(async move {
            let one = timeout(WITHIN, one(tcp, &shown, &site, &place));
            let done = tokio::select! {
                done = one => done.unwrap_or_else(|_| Err(format!("not finished after {WITHIN:?}"))),
                () = place.given_up() => Err("it was closed for somebody newer".into()),
            };
            if let Err(error) = done {
                tracing::debug!(target: "federation", %peer, error, "a request failed");
            }
        });
    }
}

/// One connection.
async fn one(
    tcp: TcpStream,
    shown: &Shown,
    site: &Site,
    place: &Place<IpAddr>,
) -> Result<(), String> {
    let page = |request: Request<Incoming>| std::future::ready(site.page(&request));
    match shown.acceptor(&site.svids).await? {
        None => http::serve(tcp, WITHIN, place.given_up(), page).await,
        Some(tls) => {
            let stream = timeout(HANDSHAKE, tls.accept(tcp)).await;
            let stream = stream.map_err(|_| format!("no TLS handshake in {HANDSHAKE:?}"))?;
            http::serve(stream.map_err(|e| e.to_string())?, WITHIN, place.given_up(), page).await;
        }
    }
    Ok(())
}

impl Site {
    fn page(&self, request: &Request<Incoming>) -> Answer {
        if let Some(refused) = http::refuse_method(request.method(), false, true) {
            return refused;
        }
        let Some(document) = self.document(request.uri().path()) else {
            return http::text(StatusCode::NOT_FOUND, "no such document\n".into());
        };
        match document {
            Some(document) => {
                http::answer(StatusCode::OK, "application/json", format!("{document:#}\n"))
            }
            None => http::text(StatusCode::SERVICE_UNAVAILABLE, "there is no bundle yet\n".into()),
        }
    }

    /// `None` for a path that means nothing, `Some(None)` while there is nothing to give.
    fn document(&self, path: &str) -> Option<Option<serde_json::Value>> {
        let bundles = self.svids.bundles();
        let bundle = bundles.get(&self.own);
        match &self.pages {
            Pages::Bundle { path: own } if path == own => Some(bundle.map(|bundle| {
                let mut bundle = bundle.clone();
                bundle.refresh_hint.get_or_insert(HINT);
                bundle.to_document()
            })),
            Pages::Bundle { .. } => None,
            Pages::Oidc { issuer } => issuer.document(path, bundle),
        }
    }
}

/// How often others are to look for a new bundle when the source does not say.
const HINT: Duration = Duration::from_secs(300);
